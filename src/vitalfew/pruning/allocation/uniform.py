"""The same density everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vitalfew.pruning._contracts import Allocation, Part
from vitalfew.pruning.allocation._shares import apportion, sizes_of


@dataclass(frozen=True, kw_only=True)
class Uniform(Allocation):
    """The same density in every layer, as nearly as whole atoms allow.

    What rounding down leaves over goes to the largest remainders, so that the total is
    exact. The safe choice for transformers, and where scores of different layers do not
    compare.

    References
    ----------
    .. [1] M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of
       pruning for model compression", ICLR workshop, 2018.
    """

    name: ClassVar[str] = "uniform"

    def counts(self, parts: Sequence[Part], total: int) -> list[int]:
        """Share out atoms in proportion to their number."""
        sizes = sizes_of(parts, total)
        return apportion(sizes.astype(float), sizes, total)
