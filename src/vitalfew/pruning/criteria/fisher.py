"""Second-order change of the loss, by the diagonal of the Fisher matrix."""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared, wide


@dataclass(frozen=True, kw_only=True)
class Fisher(Criterion):
    r"""Optimal brain damage with the empirical Fisher: :math:`\frac12 F_{ii} w_i^2`.

    The increase of the loss when one weight is removed, to second order, with the mean
    squared gradient of single samples for the curvature. Scores are in units of the
    loss, so that they compare between layers. What weights do together is not seen;
    "mfac" and "chita" see it.

    Notes
    -----
    One gradient for every sample.

    References
    ----------
    .. [1] Y. LeCun, J. S. Denker, S. A. Solla, "Optimal brain damage", NeurIPS, 1990.
    .. [2] L. Theis, I. Korshunova, A. Tejani, F. Huszár, "Faster gaze prediction with
       dense networks and Fisher pruning", arXiv, 2018 (the empirical Fisher for the
       second derivatives).
    """

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})
    cost: ClassVar[str] = "1 gradient of each sample"
    use: ClassVar[str] = "targets at hand, one global budget, no refit wanted"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the second-order increase of the loss."""
        return wide(statistics.get("fisher")) * squared(weight) / 2
