"""Powerpropagation over atoms: weights times a power of their own norm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training._tiles import Tiles
from vitalfew.pruning.training.scores._norms import norms, squares


@dataclass(frozen=True, kw_only=True)
class PowerPropagation(Score):
    r"""Powerpropagation: the large grow faster than the small.

    An atom T of the weight that the network sees is
    :math:`\|\beta_T\|^{\alpha - 1} \beta_T`, so that its gradient is scaled by a power
    of its norm. For single weights that is :math:`\beta |\beta|^{\alpha - 1}`. When
    training begins the trained weights are changed so that the network computes what it
    did. Atoms of largest norm, as the network sees them, stay.

    Parameters
    ----------
    alpha : float, default=2.0
        Exponent, at least 1, where nothing changes.

    Notes
    -----
    At `alpha` of 2, weight decay on the trained weights is a group lasso on those that
    the network sees [2]_. An atom that became zero has no slope and stays there: use a
    schedule that hides weights rather than one that sets them to zero, where atoms
    shall come back. The norm has a tiny number under its root, without which it had no
    slope at zero; training may diverge for single weights and large rates.

    References
    ----------
    .. [1] J. Schwarz, S. Jayakumar, R. Pascanu, P. E. Latham, Y. W. Teh,
       "Powerpropagation: a sparsity inducing weight reparameterisation", NeurIPS, 2021,
       section 2.
    .. [2] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024, section 3 (the form over groups).
    """

    alpha: float = 2.0

    name: ClassVar[str] = "power-propagation"
    cost: ClassVar[str] = "a norm of each atom and its gradient in every step"
    use: ClassVar[str] = "without parameters of its own; weight decay becomes a lasso"

    def __post_init__(self) -> None:
        if check_nonnegative("alpha", self.alpha) < 1:
            raise ValueError(f"alpha must be at least 1, got {self.alpha!r}")

    def begin(self, site: Site) -> None:
        """Change weights so that the network sees what they were."""
        lengths = norms(site.tiles, site.matrix)
        site.write(site.tiles.times(site.matrix, lengths ** (1 / self.alpha - 1)))

    def factor(
        self,
        matrix: Tensor,
        tiles: Tiles,
        parameters: Mapping[str, Tensor],
        density: float,
    ) -> Tensor:
        """Return the power of the norm of each atom."""
        return norms(tiles, matrix) ** (self.alpha - 1)

    def saliency(self, site: Site) -> Tensor:
        """Return the squared norm of each atom as the network sees it."""
        return squares(site.tiles, site.matrix).double() ** self.alpha
