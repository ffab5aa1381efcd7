"""Softmax attention over the atoms of a layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training._tiles import Tiles


def attention(logits: Tensor) -> Tensor:
    """Return n times the softmax of n logits: numbers above zero of mean one."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return len(logits) * torch.softmax(wide, 0)


@dataclass(frozen=True, kw_only=True)
class SequentialAttention(Score):
    r"""Attention: every atom is multiplied by a number that trains along.

    The weight that the network sees is W * A with
    :math:`A = n \, \mathrm{softmax}(\ell)` over the n atoms of the layer, of mean one,
    so that the layer keeps its scale. Atoms of largest A stay: importance is learned
    apart from the scale of the weights.

    Parameters
    ----------
    rate : float, optional
        Learning rate of the logits; by default that of the weights.
    weight_decay : float, optional
        Of the logits; by default that of the weights.

    Notes
    -----
    One logit for each atom. A is clipped to [density, 1/density]; the paper prints
    [n density, n / density], which cannot be meant for numbers of mean one.

    References
    ----------
    .. [1] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024, algorithm 1 and appendix C.1.
    """

    rate: float | None = None
    weight_decay: float | None = None

    name: ClassVar[str] = "sequential-attention"
    cost: ClassVar[str] = "one number for each atom, trained along"
    use: ClassVar[str] = "large blocks, most of them removed"

    def __post_init__(self) -> None:
        for setting in ("rate", "weight_decay"):
            if getattr(self, setting) is not None:
                check_nonnegative(setting, getattr(self, setting))

    @property
    def options(self) -> dict[str, float]:
        """Rate and decay of the logits, where they are given."""
        given = {"lr": self.rate, "weight_decay": self.weight_decay}
        return {name: value for name, value in given.items() if value is not None}

    def parameters(self, tiles: Tiles) -> dict[str, Tensor]:
        """Return logits of zero: attention of one everywhere."""
        return {"logits": torch.zeros(tiles.n_atoms)}

    def factor(
        self,
        matrix: Tensor,
        tiles: Tiles,
        parameters: Mapping[str, Tensor],
        density: float,
    ) -> Tensor:
        """Return the attention on each atom."""
        logits = parameters["logits"]
        logits = logits.to(torch.promote_types(logits.dtype, matrix.dtype))
        return attention(logits).clamp(density, 1 / density)

    def saliency(self, site: Site) -> Tensor:
        """Return the attention on each atom, not clipped; of mean one in any layer."""
        return attention(site.parameters["logits"].double())
