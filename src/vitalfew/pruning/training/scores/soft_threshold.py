"""Soft thresholding with a threshold that trains along."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training._tiles import Tiles
from vitalfew.pruning.training.scores._norms import norms


@dataclass(frozen=True, kw_only=True)
class SoftThreshold(Score):
    r"""Soft threshold reparameterization (STR): one trained threshold for each layer.

    An atom T of the weight that the network sees is
    :math:`w_T \max(0, 1 - \sigma(s) / \|w_T\|)` with a number s for the layer: shorter
    by :math:`\sigma(s)`, the sigmoid, and zero where it is no longer than that. When
    training begins the trained weights are made longer by as much, so that the network
    computes what it did.

    Parameters
    ----------
    initial : float, default=-5.0
        The s to begin with, a threshold of 0.0067.
    rate : float, optional
        Learning rate of s; by default that of the weights.
    weight_decay : float, optional
        Of s; by default that of the weights. It drives the threshold up, to a half.

    Notes
    -----
    The paper gets its sparsity from the decay, and cannot ask for a certain one. Here
    the schedule removes just as many atoms as it says, those that are least above the
    threshold of their layer, or farthest below. Where a layer may keep more atoms than
    are above its threshold, the rest are zero all the same, and the report has fewer.

    References
    ----------
    .. [1] A. Kusupati, V. Ramanujan, R. Somani, M. Wortsman, P. Jain, S. Kakade,
       A. Farhadi, "Soft threshold weight reparameterization for learnable sparsity",
       ICML, 2020, section 3 (for single weights).
    """

    initial: float = -5.0
    rate: float | None = None
    weight_decay: float | None = None

    name: ClassVar[str] = "soft-threshold"
    cost: ClassVar[str] = "a norm of each atom and its gradient in every step"
    use: ClassVar[str] = "layers that shall say by themselves how much they need"

    def __post_init__(self) -> None:
        if not abs(self.initial) < float("inf"):
            raise ValueError(f"initial must be finite, got {self.initial!r}")
        for setting in ("rate", "weight_decay"):
            if getattr(self, setting) is not None:
                check_nonnegative(setting, getattr(self, setting))

    @property
    def options(self) -> dict[str, float]:
        """Rate and decay of s, where they are given."""
        given = {"lr": self.rate, "weight_decay": self.weight_decay}
        return {name: value for name, value in given.items() if value is not None}

    def parameters(self, tiles: Tiles) -> dict[str, Tensor]:
        """Return s, a vector of length one."""
        return {"threshold": torch.full((1,), self.initial)}

    def begin(self, site: Site) -> None:
        """Lengthen atoms by the threshold, so that the network sees what they were."""
        lengths = norms(site.tiles, site.matrix)
        longer = 1 + torch.sigmoid(site.parameters["threshold"]) / lengths
        site.write(site.tiles.times(site.matrix, longer))

    def factor(
        self,
        matrix: Tensor,
        tiles: Tiles,
        parameters: Mapping[str, Tensor],
        density: float,
    ) -> Tensor:
        """Return what the threshold leaves of each atom."""
        return (
            1 - torch.sigmoid(parameters["threshold"]) / norms(tiles, matrix)
        ).clamp(min=0)

    def saliency(self, site: Site) -> Tensor:
        """Return by how much the norm of each atom is above the threshold."""
        return norms(site.tiles, site.matrix) - torch.sigmoid(
            site.parameters["threshold"]
        )
