"""Which channels of a network are constant, read off Torch-Pruning's graph.

A channel *varies*, is *constant* (the same for every input of the model) or is *zero*.
The rows of a layer without weights start constants; operations carry them on. Nothing
here looks at values to conclude that a channel is constant, only at weights and at what
operations do; a constant's value is then what one run of the model shows.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from vitalfew.pruning._surgery import Indices, is_conv1d, is_depthwise, matrix, size

VARIES, CONSTANT, ZERO = 0, 1, 2
Kinds = NDArray[np.int8]
Mask = NDArray[np.bool_]

# operations on each channel by itself, by the names of their gradients: from zeros make
# zeros and from constants constants, or only one of them, or neither
_KEEPS_BOTH = {
    *("relu", "gelu", "silu", "mish", "tanh", "leakyrelu", "elu", "hardswish"),
    *("softshrink", "hardshrink", "neg", "abs", "sqrt", "sin", "erf", "softsign"),
    *("clone", "tocopy", "copy", "alias", "permute", "transpose", "t", "squeeze"),
    *("unsqueeze", "view", "unsafeview", "reshapealias", "slice", "mean", "amax"),
    *("maxpool1dwithindices", "maxpool2dwithindices", "maxpool3dwithindices"),
    *("adaptivemaxpool1d", "adaptivemaxpool2d", "adaptivemaxpool3d"),
    *("adaptiveavgpool2d", "adaptiveavgpool3d", "reflectionpad1d", "reflectionpad2d"),
    *("reflectionpad3d", "replicationpad1d", "replicationpad2d", "replicationpad3d"),
    *("upsamplenearest1d", "upsamplenearest2d", "upsamplenearest3d"),
    *("upsamplelinear1d", "upsamplebilinear2d", "upsampletrilinear3d"),
    *("addmm", "mm"),  # let through only on the way into their own layer
}
_KEEPS_ZERO = {"sum", "avgpool2d", "avgpool3d", "upsamplebicubic2d"}
_KEEPS_CONSTANT = {
    *("sigmoid", "hardsigmoid", "exp", "softplus", "logsigmoid", "log", "cos", "rsqrt"),
    *("reciprocal", "threshold"),
}
_RANGES = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}
_OF_SEVERAL = {"add", "sub", "rsub", "mul", "div"}
_KEEPS_NEITHER = {"constantpadnd", "pow", "maximum", "minimum", "where", "maskedfill"}
CHANNELWISE = {
    *_KEEPS_BOTH,
    *_KEEPS_ZERO,
    *_KEEPS_CONSTANT,
    *_RANGES,
    *_OF_SEVERAL,
    *_KEEPS_NEITHER,
}


def operation(node: Any) -> str:
    """Return the name of a node's operation, as in ``"relu"``."""
    name = node.grad_fn.name().rpartition("::")[2]
    return re.sub(r"Backward\d*$", "", name).lower()


def is_weight(node: Any) -> bool:
    """Whether a node is only a layer's weight on its way into a product."""
    return (
        not node.inputs
        and operation(node) in ("t", "transpose", "permute")
        and node.grad_fn.next_functions[0][0] is not None
        and hasattr(node.grad_fn.next_functions[0][0], "variable")
    )


def inputs_of(node: Any) -> list[Any]:
    """Return the nodes whose values a node works on."""
    return [n for n in node.inputs if not is_weight(n)]


def only_dims(dims: Any, n_dims: int) -> set[int]:
    """Return dimensions as they count from the left; gradients keep -1 as 2^64 - 1."""
    dims = dims if isinstance(dims, tuple) else (dims,)
    return {(d - 2**64 if d >= 2**63 else d) % n_dims for d in dims}


@dataclass(eq=False)
class Values:
    """What each channel of a layer was in one run; NaN where it was not the same all over.

    Parameters
    ----------
    model : Module
        Watched while the object is used as a context.
    modules : collection of modules
        Those to watch.
    """

    model: nn.Module
    modules: Any

    def __enter__(self) -> "Values":
        self.of: dict[tuple[Any, str], Tensor] = {}
        self._handles = [m.register_forward_hook(self._see) for m in self.modules]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, module: Any, given: tuple[Any, ...], made: Any) -> None:
        for side, tensor in (("in", given[0] if given else None), ("out", made)):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue
            dim = channel_dim(module, tensor.ndim)
            by_channel = tensor.detach().movedim(dim, 0).flatten(1)
            if by_channel.shape[1] == 0:
                continue
            first = by_channel[:, :1]
            uniform = (by_channel == first).all(dim=1)
            value = first[:, 0].to(torch.float64).where(uniform, torch.nan).cpu()
            seen = self.of.get((module, side))
            if seen is not None:
                value = value.where(seen == value, torch.nan)
            self.of[module, side] = value

    def at(self, module: Any, side: str, index: Indices) -> NDArray[np.float64]:
        """Return the values of some channels on one side of a layer."""
        seen = self.of.get((module, side))
        if seen is None:
            return np.full(len(index), np.nan)
        values: NDArray[np.float64] = seen.numpy()[index]
        return values


def channel_dim(module: Any, n_dims: int) -> int:
    """Return the dimension of the channels in what a layer takes and makes."""
    if isinstance(module, nn.Linear | nn.Embedding) or is_conv1d(module):
        return n_dims - 1
    if isinstance(module, _ConvNd) and n_dims == len(module.kernel_size) + 1:
        return 0
    return min(1, n_dims - 1)


@dataclass(frozen=True, eq=False)
class Item:
    """A node of a group and the channels of the root that it carries.

    Parameters
    ----------
    node : object
        Torch-Pruning's.
    side : str
        ``"out"``, ``"in"``, ``"both"`` for a layer on each channel, ``"op"``.
    index, root : arrays of int64
        Channels of the node, and which channels of the root they are.
    """

    node: Any
    side: str
    index: Indices
    root: Indices


def row_is_empty(module: Any, alive: Mask) -> Mask:
    """Whether each output of a layer has no weights on the inputs that are left."""
    used = matrix(module).ne(0).any(dim=2)
    if isinstance(module, nn.Embedding):
        return ~used.any(dim=1).cpu().numpy()
    kept = torch.as_tensor(np.flatnonzero(alive), device=used.device)
    return ~used[:, kept].any(dim=1).cpu().numpy()


def ignores_input(module: Any) -> Mask:
    """Whether a norm or a depthwise convolution multiplies each channel by zero."""
    if is_depthwise(module):
        return ~matrix(module).ne(0).any(dim=2).any(dim=1).cpu().numpy()
    if isinstance(module, _BatchNorm | nn.GroupNorm):
        if module.weight is None:
            return np.zeros(size(module, "out"), dtype=bool)
    return module.weight.detach().eq(0).cpu().numpy()


def kinds_in_group(
    items: list[Item],
    n_channels: int,
    order: dict[int, int],
    values: Values,
    alive: Callable[[Any, str], Mask],
) -> Callable[[Item], Kinds]:
    """Follow constants through a group of coupled channels.

    Parameters
    ----------
    items : list of Item
        The group.
    n_channels : int
        Channels of its root.
    order : dict
        Place of each node, by its id, such that inputs mostly come before outputs.
    values : Values
        What channels were in one run.
    alive : callable
        From a layer and a side to a mask of what has not been taken out.

    Returns
    -------
    callable
        From a consumer's item to the kinds of the root's channels where they enter it.
    """
    carried: dict[int, Mask] = {}
    kinds: dict[int, Kinds] = {}
    makers = [item for item in items if item.side != "in"]
    makers.sort(key=lambda item: order[id(item.node)])
    for item in makers:
        mask = np.zeros(n_channels, dtype=bool)
        mask[item.root] = True
        carried[id(item.node)] = mask
        kinds[id(item.node)] = np.zeros(n_channels, dtype=np.int8)

    def entering(node: Any) -> list[Kinds]:
        """Kinds that each input of a node brings; channels it does not carry vary."""
        found = []
        for source in inputs_of(node):
            brought = kinds.get(id(source))
            if brought is None:
                found.append(np.zeros(n_channels, dtype=np.int8))
            else:
                found.append(np.where(carried[id(source)], brought, VARIES))
        return found

    def joined(node: Any) -> Kinds:
        """The least kind among the inputs that carry a channel."""
        least = np.full(n_channels, ZERO + 1, dtype=np.int8)
        for source in inputs_of(node):
            if id(source) in kinds:
                brought = kinds[id(source)]
                least = np.where(carried[id(source)], np.minimum(least, brought), least)
        return np.where(least > ZERO, VARIES, least).astype(np.int8)

    def of_layer(item: Item) -> Kinds:
        module, index, root = item.node.module, item.index, item.root
        if item.side == "out":
            constant = row_is_empty(module, alive(module, "in"))[index]
        else:
            into = _least(entering(item.node), n_channels)[root]
            constant = _stays_constant(module, into, index)
        seen = values.at(module, "out", index)
        local = np.where(constant, np.where(seen == 0, ZERO, CONSTANT), VARIES)
        local[constant & np.isnan(seen)] = VARIES
        result = np.full(n_channels, ZERO, dtype=np.int8)
        np.minimum.at(result, root, local.astype(np.int8))
        return result

    def step(item: Item) -> Kinds:
        if item.side != "op":
            return of_layer(item)
        if operation(item.node) in ("cat", "split", "splitwithsizes"):
            return joined(item.node)
        return _of_operation(item.node, entering(item.node), n_channels)

    changed = True
    while changed:
        changed = False
        for item in makers:
            new = step(item)
            if not np.array_equal(new, kinds[id(item.node)]):
                kinds[id(item.node)] = new
                changed = True
    return lambda item: joined(item.node)


def _least(entering: list[Kinds], n_channels: int) -> Kinds:
    if not entering:
        return np.zeros(n_channels, dtype=np.int8)
    least: Kinds = np.min(entering, axis=0)
    return least


def _stays_constant(module: Any, into: Kinds, index: Indices) -> Mask:
    """Whether a layer on each channel makes a constant of what enters it."""
    if isinstance(module, nn.GroupNorm):
        width = module.num_channels // module.num_groups
        still = np.bincount(index[into >= CONSTANT] // width, minlength=1)
        whole = np.flatnonzero(still == width)
        constant: Mask = np.isin(index // width, whole)
    elif is_depthwise(module):
        constant = (into == ZERO) | ((into == CONSTANT) & is_unpadded(module))
    else:
        constant = into >= CONSTANT
    if isinstance(module, nn.PReLU):
        return constant
    return constant | ignores_input(module)[index]


def is_unpadded(conv: Any) -> bool:
    """Whether a convolution makes a constant of a constant at its borders, too."""
    if conv.transposed:
        return False
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return True
    return not any(conv._reversed_padding_repeated_twice)


def _of_operation(node: Any, entering: list[Kinds], n_channels: int) -> Kinds:
    name = operation(node)
    least = _least(entering, n_channels)
    if name in _OF_SEVERAL:
        given = node.grad_fn.next_functions
        unseen = sum(f is None or hasattr(f, "variable") for f, _ in given)
        if name == "mul" and entering:
            nothing = np.max(entering, axis=0) == ZERO
            return np.where(nothing, ZERO, 0 if unseen else least).astype(np.int8)
        if name == "div" and given[0][0] is not None and unseen == 1:
            return np.where(least == ZERO, ZERO, VARIES).astype(np.int8)
        if name == "div":
            least = np.minimum(least, CONSTANT)
        return np.zeros_like(least) if unseen else least
    if name == "pow":
        exponent = getattr(node.grad_fn, "_saved_exponent", None)
        positive = isinstance(exponent, int | float) and exponent > 0
        return least if positive else np.minimum(least, CONSTANT)
    if name in _RANGES:
        low, high = (getattr(node.grad_fn, f"_saved_{a}", 1) for a in _RANGES[name])
        both = all(isinstance(v, int | float | None) for v in (low, high))
        if both and (low is None or low <= 0) and (high is None or high >= 0):
            return least
        return np.minimum(least, CONSTANT) if both else np.zeros_like(least)
    if name in _KEEPS_BOTH:
        return least
    if name in _KEEPS_CONSTANT:
        return np.minimum(least, CONSTANT)
    if name in _KEEPS_ZERO:
        unpadded = not any(getattr(node.grad_fn, "_saved_padding", (1,)))
        if name.startswith("avgpool") and unpadded:
            return least
        return np.where(least == ZERO, ZERO, VARIES).astype(np.int8)
    return np.zeros_like(least)
