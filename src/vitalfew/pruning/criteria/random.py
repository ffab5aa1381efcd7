"""Chance."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import wide


@dataclass(frozen=True, kw_only=True)
class Random(Criterion):
    """Uniform random numbers in (0, 1]: the floor that a method has to beat.

    Single weights, and blocks and channels of one size, are all equally likely to stay.

    Notes
    -----
    One pass over the weights. The numbers are drawn on the host, so that a seed gives
    the same mask on every device.

    References
    ----------
    .. [1] D. Blalock, J. J. Gonzalez Ortiz, J. Frankle, J. Guttag, "What is the state
       of neural network pruning?", MLSys, 2020 (as a baseline).
    """

    name: ClassVar[str] = "random"
    cost: ClassVar[str] = "one pass over the weights"
    use: ClassVar[str] = "only to compare with"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return random numbers."""
        drawn = 1 - rng.random(tuple(weight.shape))  # none is zero
        return wide(torch.from_numpy(drawn)).to(weight.device)
