"""The parametrization that hides removed weights."""

from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import Layer
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._tiles import Tiles


class Gate(nn.Module):
    """From the trained weight to the one the network sees.

    Every atom is multiplied by its entry of the buffer `mask`, which is 1 where it is
    kept and the leak, mostly 0, where it is not, and by the factor of the score. What
    changes during training is in tensors, so that compiled models stay compiled.

    Parameters
    ----------
    layer : Layer
        Whose weight it is.
    tiles : Tiles
        Its atoms.
    score : Score
        Whose parameters become parameters of this module.
    density : float
        Fraction of the atoms that shall be kept.
    """

    mask: Tensor

    def __init__(
        self, layer: Layer, tiles: Tiles, score: Score, density: float
    ) -> None:
        super().__init__()
        weight = layer.parameter
        self.layer, self.tiles, self.score, self.density = layer, tiles, score, density
        self.straight_through = False
        self.register_buffer("mask", torch.ones(tiles.n_atoms, device=weight.device))
        self.names = tuple(score.parameters(tiles))
        for name, value in score.parameters(tiles).items():
            self.register_parameter(name, nn.Parameter(value.to(weight.device)))

    def own(self) -> dict[str, Any]:
        """Return the parameters of the score."""
        return {name: getattr(self, name) for name in self.names}

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the network sees."""
        matrix = self.layer.as_matrix(weight)
        factor = self.score.factor(matrix, self.tiles, self.own(), self.density)
        scale = self.mask if factor is None else self.mask * factor
        scale = scale.to(matrix.dtype)
        seen = self.tiles.times(matrix, scale)
        if self.straight_through:  # of value zero, with what is missing of the slope
            rest = 1 - scale.detach()
            seen = seen + self.tiles.times(matrix - matrix.detach(), rest)
        return self.layer.as_weight(seen)
