"""Pruned matrices that run as fast as their zeros allow."""

from vitalfew.runtime._linear import SparseConv2d, SparseLinear

__all__ = ["SparseConv2d", "SparseLinear"]
