"""Erdős-Rényi kernel densities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vitalfew.pruning._contracts import Allocation, Part
from vitalfew.pruning.allocation._shares import apportion, sizes_of


@dataclass(frozen=True, kw_only=True)
class ERK(Allocation):
    r"""Erdős-Rényi kernel: the density of a layer falls with its size.

    The density is in proportion to
    :math:`(n_{out} + n_{in} + k_h + k_w) / (n_{out} n_{in} k_h k_w)`, the sum of the
    dimensions of the weight over their product, at most one. Needs no scores; keeps
    small layers nearly dense.

    References
    ----------
    .. [1] U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen, "Rigging the lottery:
       making all tickets winners", ICML, 2020, section 3 (1).
    .. [2] D. C. Mocanu et al., "Scalable training of artificial neural networks with
       adaptive sparse connectivity inspired by network science", Nat. Commun., 2018
       (the form for linear layers).
    """

    name: ClassVar[str] = "erk"

    def counts(self, parts: Sequence[Part], total: int) -> list[int]:
        """Share out atoms in proportion to their number times the layer's density."""
        sizes = sizes_of(parts, total)
        shapes = [part.layer.parameter.shape for part in parts]
        densities = np.array([sum(shape) / math.prod(shape) for shape in shapes])
        return apportion(sizes * densities, sizes, total)
