"""Row norms times magnitudes, for the spectrum of the matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import wide


@dataclass(frozen=True, kw_only=True)
class Spectrum(Criterion):
    r"""Squared sampling probability of the row-L1 sketch of a matrix.

    With the probability :math:`p_{ij} = |w_{ij}| \, \|w_i\|_1 / \sum_k \|w_k\|_1^2` a
    random sketch of a matrix is near it in operator norm; here the entries of largest
    probability stay. Entries removed from a heavy row add up, those scattered over many
    rows do not, so that an entry of a heavy row counts for more than its size. Rows are
    taken along the shorter side of the matrix, as in the paper.

    Notes
    -----
    Two passes over the weights. The bound is for random sketches with rescaled entries;
    keeping the largest is a heuristic taken from it. It has a smaller error in operator
    norm than magnitude where a few rows are much heavier than the others, and a
    slightly larger one where all rows are alike.

    References
    ----------
    .. [1] D. Achlioptas, Z. Karnin, E. Liberty, "Near-optimal entrywise sampling for
       data matrices", NeurIPS, 2013 (the row-L1 distribution, to which the paper's own
       tends for large budgets).
    .. [2] S. Yao, D. Yu, I. Koutis, "Neural network pruning as spectrum preserving
       process", arXiv, 2023 (pruning as sparsification of matrices).
    """

    name: ClassVar[str] = "spectrum"
    cost: ClassVar[str] = "two passes over the weights"
    use: ClassVar[str] = "no data at hand, and a few outputs much heavier than others"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the squared probabilities."""
        sizes = wide(weight).abs()
        largest = sizes.max()
        if not bool(largest > 0):
            return sizes
        sizes = sizes / largest
        across = 1 if weight.shape[0] <= weight.shape[1] else 0
        rows = sizes.sum(dim=across, keepdim=True)
        probability = sizes * rows / torch.sum(rows * rows)
        return probability * probability
