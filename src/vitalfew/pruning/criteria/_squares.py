"""Squares that neither overflow nor vanish."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float64, where products of squares of float32 have room.

    On devices without float64 it is float32.
    """
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def squared(x: Tensor) -> Tensor:
    """Return the squares of a tensor in float64."""
    x = wide(x)
    return x * x
