"""Even residuals in all rows and columns, for the spectrum of the matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared


@dataclass(frozen=True, kw_only=True)
class Spectrum(Criterion):
    r"""What would be gone of a weight's row and column if it and all smaller went.

    The score is :math:`\sum_{k: |w_{ik}| \le |w_{ij}|} w_{ik}^2 +
    \sum_{k: |w_{kj}| \le |w_{ij}|} w_{kj}^2`. The operator norm of the residual, what
    pruning removes, is at most about the largest norm of its rows and of its columns;
    the score evens these out, where magnitude lets the small entries of a heavy row add
    up.

    Notes
    -----
    One sort of every row and of every column. On random matrices of one scale,
    heavy-tailed and low-rank ones the operator norm of the residual is only 0 to 5 %
    smaller than with magnitude on average, and for single matrices up to 2 % larger; it
    is smaller by a fifth and more where a few heavy rows consist of medium entries and
    the budget is small. The row-L1 sampling probabilities of [2]_ are not used: their
    guarantee is for random sketches with rescaled entries, and keeping the largest of
    them does worse than magnitude. Scores are in units of squared norm.

    References
    ----------
    .. [1] A. S. Bandeira, R. van Handel, "Sharp nonasymptotic bounds on the norm of
       random matrices with independent entries", Ann. Probab., 2016, Theorem 1.1 (the
       norm by the largest row and column).
    .. [2] D. Achlioptas, Z. Karnin, E. Liberty, "Near-optimal entrywise sampling for
       data matrices", NeurIPS, 2013.
    .. [3] S. Yao, D. Yu, I. Koutis, "Neural network pruning as spectrum preserving
       process", arXiv, 2023 (pruning as sparsification that keeps the spectrum).
    """

    name: ClassVar[str] = "spectrum"
    cost: ClassVar[str] = "a sort of every row and column"
    use: ClassVar[str] = "no data at hand, a few outputs much heavier than others"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the squared norms that go with each weight."""
        squares = squared(weight)
        by_column = _not_larger(squares.T.contiguous()).T
        return _not_larger(squares.contiguous()) + by_column


def _not_larger(squares: Tensor) -> Tensor:
    """For each entry the sum of the entries of its row that are not larger."""
    ordered = torch.sort(squares, dim=1).values
    totals = ordered.cumsum(dim=1)
    last = torch.searchsorted(ordered, squares, right=True) - 1  # of its equals
    return totals.gather(1, last)
