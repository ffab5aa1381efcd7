"""Layer-adaptive magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared


@dataclass(frozen=True, kw_only=True)
class LAMP(Criterion):
    r"""Layer-adaptive magnitude: :math:`w_i^2 / \sum_{|w_j| \ge |w_i|} w_j^2`.

    The squared weight as a share of what would be left of the layer's squared norm if
    all smaller weights were gone. Within a layer the order is that of the magnitude;
    between layers the scores are comparable, and the largest weight of every layer has
    the score one (over the number of its equals), so that a global budget never wipes
    out a layer.

    Notes
    -----
    One sort of the layer's weights. Equal weights have equal scores, where the paper
    breaks ties by position. A block's score is the sum of its weights'; the allocation
    "lamp" applies the same formula to whole blocks instead.

    References
    ----------
    .. [1] J. Lee, S. Park, S. Mo, S. Ahn, J. Shin, "Layer-adaptive sparsity for the
       magnitude-based pruning", ICLR, 2021, eq. (2).
    """

    name: ClassVar[str] = "lamp"
    cost: ClassVar[str] = "one sort of the weights"
    use: ClassVar[str] = "magnitude under one budget for all layers"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return each weight's share of those not smaller."""
        squares = squared(weight)
        ordered, order = torch.sort(squares.reshape(-1))
        not_smaller = ordered.flip(0).cumsum(0).flip(0)
        total = not_smaller[torch.searchsorted(ordered, ordered)]  # first of its equals
        share = torch.where(total > 0, ordered / total, torch.zeros_like(total))
        return torch.empty_like(share).scatter_(0, order, share).reshape(squares.shape)
