"""Pruning while a network trains: what each part of a method is worth, and its cost.

The arms stand in `_arms`, and one loop, `_fit`, trains all of them with one recipe.
"""
