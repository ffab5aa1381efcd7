"""Pruning trained networks: images, text, and one layer of any size.

The networks are trained from the real data sets by `_train`, which keeps the weights
outside the repository; the scripts beside it prune them and write the pages.
"""
