"""Experiments of the papers behind the core, one script for each group of figures."""
