"""Magnitude of the weights."""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared


@dataclass(frozen=True, kw_only=True)
class Magnitude(Criterion):
    r"""Squared weights, :math:`w^2`: what is nearest the trained weights stays.

    Needs no data. Blocks and channels are ranked by their Euclidean norm. Good up to a
    density of about a half; at a tenth and below a reconstruction is far better.

    Notes
    -----
    One pass over the weights.

    References
    ----------
    .. [1] S. Han, J. Pool, J. Tran, W. J. Dally, "Learning both weights and connections
       for efficient neural networks", NeurIPS, 2015.
    """

    name: ClassVar[str] = "magnitude"
    cost: ClassVar[str] = "one pass over the weights"
    use: ClassVar[str] = "no data at hand, or most weights stay"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the squared weights."""
        return squared(weight)
