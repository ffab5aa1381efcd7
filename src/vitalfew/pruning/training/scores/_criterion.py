"""Criteria of `prune` as scores of training."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria import Fisher
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site

COLLECTED = frozenset({"gradient", "fisher", "movement"})


@dataclass(frozen=True)
class ByCriterion(Score):
    """What a criterion says of the present weights and the gradients so far.

    Parameters
    ----------
    criterion : Criterion
        One that needs no more than gradients.

    Raises
    ------
    ValueError
        If it needs activations.
    """

    criterion: Criterion

    cost: ClassVar[str] = "a pass over the weights at each selection"
    use: ClassVar[str] = "as in `prune`"

    def __post_init__(self) -> None:
        if not self.criterion.needs <= COLLECTED:
            missing = ", ".join(sorted(self.criterion.needs - COLLECTED))
            raise ValueError(
                f"{self.criterion.name!r} needs the statistic {missing}, which is not "
                "collected while training; it is for `prune`"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the criterion."""
        return self.criterion.name

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Gradients that the criterion reads."""
        return self.criterion.needs

    def saliency(self, site: Site) -> Tensor:
        """Return the sum of the criterion over each atom."""
        rng = np.random.default_rng(site.n_steps)
        weight = site.matrix.float() if site.matrix.dtype.itemsize < 4 else site.matrix
        if self.needs and not site.n_steps:  # nothing is known before the first step
            return site.tiles.sums(weight.double().square())
        return site.tiles.sums(
            self.criterion.score(weight, site.statistics, rng).double()
        )


def fisher_saliency(site: Site) -> Tensor:
    """Return the second-order loss of removing each atom, from gradients so far."""
    return ByCriterion(Fisher()).saliency(site)
