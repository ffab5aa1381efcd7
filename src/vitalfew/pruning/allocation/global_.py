"""One ranking of all atoms of the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vitalfew.pruning._contracts import Allocation, Part
from vitalfew.pruning.allocation._shares import by_saliency, sizes_of


@dataclass(frozen=True, kw_only=True)
class Global(Allocation):
    """The atoms of largest saliency in the whole network, at least one in each layer.

    As good as the saliencies of different layers compare: those in units of the loss
    ("fisher", "taylor") and "lamp" do, squared weights do in networks whose layers are
    of one scale.

    Notes
    -----
    One partial sort of all atoms.

    References
    ----------
    .. [1] J. Frankle, M. Carbin, "The lottery ticket hypothesis: finding sparse,
       trainable neural networks", ICLR, 2019 (global pruning of deeper networks).
    """

    name: ClassVar[str] = "global"

    def counts(self, parts: Sequence[Part], total: int) -> list[int]:
        """Count the largest saliencies in each layer."""
        sizes_of(parts, total)
        return by_saliency([part.saliency for part in parts], total)
