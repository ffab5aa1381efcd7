"""The parametrization that hides removed weights."""

from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import Layer
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._distributed import moved
from vitalfew.pruning.training._inputs import Inputs
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
        wanted = "hessian" in score.needs and layer.has_tokens and layer.n_groups == 1
        self.inputs = Inputs(layer) if wanted else None
        initial = score.parameters(tiles)
        self.names = tuple(initial)
        for name, value in initial.items():
            wide = torch.promote_types(value.dtype, weight.dtype)
            own = nn.Parameter(value.to(weight.device, wide))
            self.register_parameter(name, own)

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


def remove_gate(model: nn.Module, module: nn.Module) -> None:
    """Let the trained weight of a module of a model be its weight again.

    `parametrize.remove_parametrizations` would take the weight from the class, which
    copies of the module share, and cannot undo what `fully_shard` was called on.
    """
    held = module.parametrizations["weight"]
    outer: Any = type(module)
    inner = next(cls for cls in outer.__mro__ if "weight" in vars(cls))
    del module.parametrizations["weight"]
    if len(module.parametrizations):  # of other tensors
        plain = _derived(inner, inner.__bases__, "weight")
    else:
        del module.parametrizations
        plain = inner.__bases__[0]
    if outer is not inner:
        bases = tuple(plain if base is inner else base for base in outer.__bases__)
        plain = _derived(outer, bases)
    module.__class__ = plain
    module.register_parameter("weight", held.original)
    own = module._parameters
    for name in [name for name in own if name != "weight"]:
        own[name] = own.pop(name)  # the weight is the first, as it was
    moved(model, held, module)


def _derived(cls: Any, bases: tuple[Any, ...], *without: str) -> Any:
    """Return a class like another, of other bases or without some attributes."""
    skipped = {"__dict__", "__weakref__", *without}
    own = {name: value for name, value in vars(cls).items() if name not in skipped}
    return type(cls.__name__, bases, own)
