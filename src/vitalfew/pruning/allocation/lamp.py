"""Layer-adaptive saliencies, ranked over the whole network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vitalfew.pruning._contracts import Allocation, Part
from vitalfew.pruning.allocation._shares import by_saliency, sizes_of


@dataclass(frozen=True, kw_only=True)
class LAMP(Allocation):
    r"""Layer-adaptive: rank :math:`s_i / \sum_{s_j \ge s_i} s_j` over all layers.

    Each atom's saliency becomes a share of what would be left of its layer if all lower
    ones were gone, which does not depend on the layer's scale; those of the whole
    network are ranked together. With the criterion "magnitude" and single weights it is
    the method of the paper; here it serves any criterion and any atoms.

    Notes
    -----
    One sort of the atoms of each layer.

    References
    ----------
    .. [1] J. Lee, S. Park, S. Mo, S. Ahn, J. Shin, "Layer-adaptive sparsity for the
       magnitude-based pruning", ICLR, 2021, eq. (2).
    """

    name: ClassVar[str] = "lamp"

    def counts(self, parts: Sequence[Part], total: int) -> list[int]:
        """Count the largest shares in each layer."""
        sizes_of(parts, total)
        return by_saliency([_shares(part.saliency) for part in parts], total)


def _shares(saliency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each atom in those of its layer that are not lower, sorted."""
    ordered = np.sort(saliency)
    # numbers near the ends of floating point would lose their sums or their shares
    ordered = ordered / max(float(ordered[-1]), np.finfo(float).tiny)
    not_lower = np.cumsum(ordered[::-1])[::-1]
    first = np.searchsorted(ordered, ordered)  # the first of those equal to it
    total = not_lower[first]
    return np.divide(ordered, total, out=np.zeros_like(ordered), where=total != 0)
