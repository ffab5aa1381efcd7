"""Networks that are carried out in one call, compiled where that can be."""

from vitalfew._native import COMPILED
from vitalfew._native._program_twins import ACTIVATIONS, NONE, Kind, Op, Pool

if COMPILED:
    from vitalfew._native._core import ImageProgram, TokenProgram
else:
    from vitalfew._native._program_twins import ImageProgram, TokenProgram

__all__ = [
    "ACTIVATIONS",
    "NONE",
    "ImageProgram",
    "Kind",
    "Op",
    "Pool",
    "TokenProgram",
]
