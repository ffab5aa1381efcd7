"""Products with matrices that are stored by blocks, compiled where that can be."""

from vitalfew._native import COMPILED

if COMPILED:
    from vitalfew._native._core import BlockSparse, levels
else:
    from vitalfew._native._blocksparse_twins import BlockSparse, levels

__all__ = ["BlockSparse", "levels"]
