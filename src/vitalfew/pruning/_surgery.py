"""Take outputs or inputs out of layers in place, and put everything back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

Indices = NDArray[np.int64]


def is_conv1d(module: Any) -> bool:
    """Whether a module is a linear layer with a transposed weight, as in GPT-2."""
    cls = type(module)
    return (cls.__module__, cls.__name__) == ("transformers.pytorch_utils", "Conv1D")


def is_depthwise(module: Any) -> bool:
    """Whether every output of a convolution comes from one input of its own."""
    if not isinstance(module, _ConvNd) or module.groups == 1:
        return False
    return bool(module.groups == module.in_channels == module.out_channels)


def matrix(module: Any) -> Tensor:
    """Return the weight as (outputs, inputs of a group, kernel), without a graph."""
    weight = module.weight.detach()
    if getattr(module, "transposed", False):
        n = module.groups
        weight = weight.unflatten(0, (n, -1)).transpose(1, 2).flatten(0, 1)
    elif isinstance(module, nn.Embedding) or is_conv1d(module):
        weight = weight.transpose(0, 1)
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


# what a cut does: (names of tensors and their dimension), (names of attributes)
_Cut = tuple[dict[str, int], tuple[str, ...]]
_NORM = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}


def _cut_of(module: Any, side: str) -> _Cut:
    if is_depthwise(module):
        return {"weight": 0, "bias": 0}, ("in_channels", "out_channels", "groups")
    if isinstance(module, _BatchNorm):
        return _NORM, ("num_features",)
    if isinstance(module, nn.GroupNorm):
        return _NORM, ("num_channels",)
    if isinstance(module, nn.PReLU):
        return {"weight": 0}, ("num_parameters",)
    if isinstance(module, nn.Embedding):
        return {"weight": 1}, ("embedding_dim",)
    out = side == "out"
    if is_conv1d(module):
        names = ("nf",) if out else ("nx",)
        first = 1
    elif isinstance(module, _ConvNd):
        names = ("out_channels",) if out else ("in_channels",)
        first = 1 if module.transposed else 0
    else:
        names = ("out_features",) if out else ("in_features",)
        first = 0
    return ({"weight": first, "bias": 0} if out else {"weight": 1 - first}), names


def size(module: Any, side: str) -> int:
    """Return how many outputs, or inputs, a layer has."""
    tensors, names = _cut_of(module, side)
    if hasattr(module, names[0]):
        return int(getattr(module, names[0]))
    return int(module.weight.shape[tensors["weight"]])


def take(module: Any, side: str, keep: Indices) -> None:
    """Keep some outputs (`side` ``"out"``) or inputs (``"in"``) of a layer.

    Parameters
    ----------
    module : Module
        A linear layer, a convolution, an embedding, or a layer that treats each channel
        by itself, whose sides are one.
    side : str
        ``"out"`` or ``"in"``.
    keep : array of int64
        What stays, ascending. Parameters and buffers stay the objects they are; no
        tensor is changed in place.
    """
    tensors, names = _cut_of(module, side)
    if isinstance(module, nn.GroupNorm):
        width = module.num_channels // module.num_groups
        module.num_groups = len(keep) // width
    for name, dim in tensors.items():
        tensor = getattr(module, name, None)
        if tensor is None:
            continue
        index = torch.as_tensor(keep, device=tensor.device)
        gradient, tensor.grad = tensor.grad, None
        tensor.data = tensor.data.index_select(dim, index)
        if gradient is not None:
            tensor.grad = gradient.index_select(dim, index)
    for name in names:
        if hasattr(module, name):
            setattr(module, name, len(keep))


def standard(module: Any) -> bool:
    """Whether a layer holds plain parameters and computes what torch's own does."""
    if module._parameters.get("weight") is None and getattr(module, "affine", True):
        return False
    if is_conv1d(module):
        return True
    base = next(b for b in type(module).__mro__ if b.__module__.startswith("torch.nn."))
    return not parametrize.is_parametrized(module) and all(
        getattr(type(module), name, None) is getattr(base, name, None)
        for name in ("forward", "_conv_forward")
    )


def shared_parameters(model: nn.Module) -> set[int]:
    """Return the ids of parameters that several modules hold."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


@dataclass(eq=False)
class Snapshot:
    """All that `take` changes, as it was; holds no copies.

    Parameters
    ----------
    model : Module
        Any.
    """

    model: nn.Module
    _tensors: list[tuple[Tensor, Tensor, Tensor | None]] = field(init=False)
    _numbers: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        tensors = {id(t): t for t in _tensors(self.model)}
        self._tensors = [(t, t.data, t.grad) for t in tensors.values()]
        self._numbers = numbers(self.model)

    def restore(self) -> None:
        """Put everything back."""
        for tensor, data, gradient in self._tensors:
            tensor.grad = None
            tensor.data = data
            tensor.grad = gradient
        for name, module in self.model.named_modules():
            for attribute, value in self._numbers[name].items():
                setattr(module, attribute, value)

    def changed(self) -> dict[str, dict[str, Any]]:
        """Return the attributes of modules that have changed, with their values."""
        found = {}
        for name, now in numbers(self.model).items():
            before = self._numbers[name]
            new = {a: v for a, v in now.items() if a in before and before[a] != v}
            if new:
                found[name] = new
        return found


def numbers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the attributes of all modules that are whole numbers or tuples of them."""
    return {
        name: {a: v for a, v in vars(module).items() if _is_number(v)}
        for name, module in model.named_modules()
    }


def _is_number(value: Any) -> bool:
    if type(value) is tuple:
        return bool(value) and all(type(v) is int for v in value)
    return type(value) is int


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


@contextmanager
def in_precision(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Run a model in another floating-point type, and give it its own back.

    Parameters
    ----------
    model : Module
        Any; its parameters stay the objects they are.
    dtype : dtype or None
        The type; None leaves the model as it is.
    """
    saved: list[tuple[Tensor, Tensor, Tensor | None]] = []
    try:
        if dtype is not None:
            for tensor in {id(t): t for t in _tensors(model)}.values():
                if tensor.is_floating_point() and tensor.dtype != dtype:
                    saved.append((tensor, tensor.data, tensor.grad))
                    tensor.grad = None
                    tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, data, gradient in saved:
            tensor.data = data
            tensor.grad = gradient
