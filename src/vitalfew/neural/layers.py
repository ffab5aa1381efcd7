"""Layers whose weights can be pruned, each seen as a matrix.

Every weight is a matrix of shape (n_out, n_in): a linear layer's own, a convolution's
kernel as (out) x (in * kh * kw). `as_matrix` and `as_weight` go from one to the other,
`tokens` gives the rows that the matrix multiplies.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

__all__ = ["Layer", "prunable_layers"]


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """A module with one weight that can be pruned.

    Parameters
    ----------
    name : str
        Full name of the module.
    module : Module
        The module itself.
    sharing : tuple of modules
        Other modules with the same weight, whose inputs count as well.
    """

    name: str
    module: Any
    sharing: tuple[Any, ...] = ()

    @abstractmethod
    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return a tensor of the shape of the weight as a matrix (n_out, n_in)."""

    @abstractmethod
    def as_weight(self, matrix: Tensor) -> Tensor:
        """Return a matrix (n_out, n_in) in the shape of the weight."""

    def tokens(self, x: Tensor) -> Tensor:
        """Return the inputs that the matrix multiplies, (n_tokens, columns).

        There are n_in columns, or n_groups * n_in for a grouped convolution.
        """
        raise NotImplementedError(f"{type(self.module).__name__} has no matrix form")

    @property
    def has_tokens(self) -> bool:
        """Whether `tokens` is known for this kind of layer."""
        return type(self).tokens is not Layer.tokens

    @property
    def n_groups(self) -> int:
        """How many groups of outputs there are, each with inputs of its own."""
        return int(getattr(self.module, "groups", 1))

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as the module holds it; the one trained if it is parametrized."""
        if parametrize.is_parametrized(self.module, "weight"):
            return self.module.parametrizations.weight.original
        weight: nn.Parameter = self.module.weight
        return weight

    @property
    def weight(self) -> Tensor:
        """The weight as a matrix (n_out, n_in), without a graph; maybe a view."""
        return self.as_matrix(self.parameter.detach())

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        n_out, n_in = self.weight.shape
        return int(n_out), int(n_in)

    def write(self, matrix: Tensor) -> None:
        """Put a matrix in place of the weight; the parameter stays the same object."""
        with torch.no_grad():
            weight = self.as_weight(matrix.to(self.parameter.device))
            self.parameter.copy_(weight.to(self.parameter.dtype))

    def per_weight(self, values: Tensor) -> Tensor:
        """Spread numbers of columns of `tokens` over the matrix, (n_out, n_in)."""
        n_out, n_in = self.shape
        if self.n_groups == 1:
            return values[None, :].expand(n_out, n_in)
        return values.reshape(self.n_groups, n_in).repeat_interleave(
            n_out // self.n_groups, dim=0
        )


class LinearLayer(Layer):
    """A linear layer."""

    def as_matrix(self, weight: Tensor) -> Tensor:
        return weight

    def as_weight(self, matrix: Tensor) -> Tensor:
        return matrix

    def tokens(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])


class TransposedLinearLayer(LinearLayer):
    """A linear layer that stores its weight as (n_in, n_out), as GPT-2's do."""

    def as_matrix(self, weight: Tensor) -> Tensor:
        return weight.T

    def as_weight(self, matrix: Tensor) -> Tensor:
        return matrix.T


class ConvLayer(Layer):
    """A convolution of one, two or three dimensions."""

    def as_matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(weight.shape[0], -1)

    def as_weight(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(self.parameter.shape)

    def tokens(self, x: Tensor) -> Tensor:
        conv = self.module
        n_dims = len(conv.kernel_size)
        if x.ndim == n_dims + 1:
            x = x[None]
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
        for d in range(n_dims):
            size, dilation = conv.kernel_size[d], conv.dilation[d]
            reach = (size - 1) * dilation + 1
            x = x.unfold(2 + d, reach, conv.stride[d])[..., ::dilation]
        # (batch, channels, places..., kernel...) -> (batch, places..., channels, ...)
        places = list(range(2, 2 + n_dims))
        kernel = list(range(2 + n_dims, 2 + 2 * n_dims))
        x = x.permute(0, *places, 1, *kernel)
        return x.reshape(-1, math.prod(x.shape[1 + n_dims :]))


class TransposedConvLayer(Layer):
    """A transposed convolution, whose weight is (in, out / groups, kernel...)."""

    def as_matrix(self, weight: Tensor) -> Tensor:
        n_in = weight.shape[0] // self.n_groups
        by_group = weight.reshape(self.n_groups, n_in, *weight.shape[1:])
        moved = by_group.transpose(1, 2)  # (groups, out, in, kernel...)
        return moved.reshape(self.n_groups * weight.shape[1], -1)

    def as_weight(self, matrix: Tensor) -> Tensor:
        shape = self.parameter.shape
        by_group = matrix.reshape(
            self.n_groups, shape[1], shape[0] // self.n_groups, *shape[2:]
        )
        return by_group.transpose(1, 2).reshape(shape)


def _kind(module: nn.Module) -> type[Layer] | None:
    if isinstance(module, nn.Linear):
        return LinearLayer
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ConvLayer
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return TransposedConvLayer
    cls = type(module)
    if cls.__name__ == "Conv1D" and cls.__module__ == "transformers.pytorch_utils":
        return TransposedLinearLayer
    return None


def prunable_layers(
    model: nn.Module,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
) -> tuple[list[Layer], dict[str, str]]:
    """Find the layers of a model that can be pruned.

    Parameters
    ----------
    model : Module
        Any.
    include, exclude : str or sequence of str, optional
        Patterns (`fnmatch`) on full names of modules. By default every linear layer and
        every convolution is included. A weight that is also an embedding's is left
        dense unless a pattern of `include` other than ``"*"`` matches its layer.

    Returns
    -------
    list of Layer
        In the order of the model; a shared weight is one layer, and left dense if a
        module that has it is excluded.
    dict of str to str
        Modules with a weight matrix that are left dense, each with the reason.

    Raises
    ------
    ValueError
        If a pattern matches no module at all.
    """
    wanted, unwanted = _patterns(include), _patterns(exclude)
    names = [name for name, _ in model.named_modules()]
    for pattern in wanted + unwanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"no module matches {pattern!r}; names are like "
                f"{', '.join(repr(n) for n in names[1:4]) or 'none'}"
            )
    holders: dict[Any, list[nn.Module]] = {}
    embedded: set[Any] = set()
    refused: dict[Any, str] = {}  # by the weight, the excluded module that has it
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            held = _memory(weight)
            holders.setdefault(held, []).append(module)
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embedded.add(held)
            if any(fnmatchcase(name, p) for p in unwanted):
                refused.setdefault(held, name)
    layers: list[Layer] = []
    found: set[Any] = set()
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        reason = _reason_against(module)
        if reason == "":
            continue
        said = [p for p in wanted if p != "*" and fnmatchcase(name, p)]
        if (wanted and not any(fnmatchcase(name, p) for p in wanted)) or any(
            fnmatchcase(name, p) for p in unwanted
        ):
            left[name] = "excluded"
        elif reason is not None:
            left[name] = reason
        elif (held := _memory(module.weight)) in refused:
            left[name] = f"its weight is that of {refused[held]!r}, which is excluded"
        elif held in embedded and not said:
            left[name] = (
                "its weight is an embedding's too; name it in include= to prune"
            )
        elif held in found:
            continue  # an alias of a layer found before
        else:
            kind = _kind(module)
            assert kind is not None
            sharing = tuple(
                other
                for other in holders[held]
                if other is not module and _kind(other) is kind
            )
            found.add(held)
            layers.append(kind(name, module, sharing))
    return layers, left


def _reason_against(module: nn.Module) -> str | None:
    """Why a module cannot be pruned; None when it can, empty when nobody would ask."""
    kind = _kind(module)
    if kind is None:
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return "an embedding"
        big = [p for p in own if p is not None and _is_matrix(p)]
        return f"{type(module).__name__} is not supported" if big else ""
    if parametrize.is_parametrized(module, "weight"):
        return "its weight is parametrized; remove the parametrization first"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed by a hook; make it permanent first"
    if isinstance(weight, nn.UninitializedParameter):
        return "its weight is not initialised yet; run the model once"
    if weight.numel() == 0:
        return "its weight is empty"
    if not weight.is_floating_point():
        return f"its weight is of type {weight.dtype}"
    return None


def _memory(weight: Tensor) -> Any:
    """What two weights have in common if a change of one changes the other."""
    plain = type(weight) in (Tensor, nn.Parameter)  # others may have no memory
    if not plain or weight.is_meta or not weight.numel():
        return id(weight)
    return weight.device, weight.data_ptr(), weight.shape, weight.stride()


def _is_matrix(parameter: nn.Parameter) -> bool:
    if isinstance(parameter, nn.UninitializedParameter):
        return False
    return parameter.ndim >= 2 and min(parameter.shape) > 1


def _patterns(given: str | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)
