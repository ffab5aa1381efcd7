"""Which channels of a network are constant, whatever its inputs are.

A channel *varies*, is *constant* (the same for every input of the model) or is *zero*.
The rows of a layer without weights start constants; operations carry them on. Nothing
here looks at values to conclude that a channel is constant, only at weights and at what
operations do; a constant's value is then what one run of the model shows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vitalfew.pruning._coupling import (
    KEEPS_BOTH,
    KEEPS_CONSTANT,
    KEEPS_ZERO,
    OF_SEVERAL,
    RANGES,
    Group,
    Item,
    inputs_of,
    operation,
    side_of,
)
from vitalfew.pruning._outputs import call, quietly
from vitalfew.pruning._surgery import Indices, is_conv1d, is_depthwise, matrix, size

VARIES, CONSTANT, ZERO = 0, 1, 2
Kinds = NDArray[np.int8]
Mask = NDArray[np.bool_]


class Values:
    """What each channel of a layer is in one run, if it is the same all over.

    Parameters
    ----------
    model : Module
        Run at once, in evaluation mode.
    inputs : tensor, tuple or mapping
        What it is called with.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._of: dict[tuple[Any, str], Tensor] = {}
        handles = [
            module.register_forward_hook(self._see, with_kwargs=True)
            for module in model.modules()
            if side_of(module) is not None
        ]
        try:
            with quietly(model):
                call(model, inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, module: Any, args: Any, named: Any, made: Any) -> None:
        taken = args[0] if args else next(iter(named.values()))
        for side, tensor in (("in", taken), ("out", made)):
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            dim = _channel_dim(module, tensor.ndim)
            by_channel = tensor.detach().movedim(dim, 0).flatten(1)
            first = by_channel[:, :1]
            uniform = (by_channel == first).all(dim=1)
            value = first[:, 0].cpu().to(torch.float64)
            value = value.where(uniform.cpu(), torch.nan)
            seen = self._of.get((module, side))
            if seen is not None:
                value = value.where(seen == value, torch.nan)
            self._of[module, side] = value

    def at(self, module: Any, side: str, index: Indices) -> NDArray[np.float64]:
        """Return the values of some channels on one side of a layer, else NaN."""
        seen = self._of.get((module, side))
        if seen is None:
            return np.full(len(index), np.nan)
        values: NDArray[np.float64] = seen.numpy()[index]
        return values


def _channel_dim(module: Any, n_dims: int) -> int:
    """Return the dimension of the channels in what a layer takes and makes."""
    if isinstance(module, nn.Linear | nn.Embedding) or is_conv1d(module):
        return n_dims - 1
    if isinstance(module, _ConvNd) and n_dims == len(module.kernel_size) + 1:
        return 0
    return min(1, n_dims - 1)


def row_is_empty(module: Any, alive: Mask) -> Mask:
    """Whether each output of a layer has no weights on the inputs that are left."""
    used = matrix(module).ne(0).any(dim=2)
    if used.shape[1] == len(alive):  # neither grouped nor an embedding
        used = used[:, torch.as_tensor(alive, device=used.device)]
    empty: Mask = ~used.any(dim=1).cpu().numpy()
    return empty


def ignores_input(module: Any) -> Mask:
    """Whether a norm or a depthwise convolution multiplies each channel by zero."""
    if is_depthwise(module):
        return ~matrix(module).ne(0).any(dim=2).any(dim=1).cpu().numpy()
    if module.weight is None:
        return np.zeros(size(module, "out"), dtype=bool)
    silent: Mask = module.weight.detach().eq(0).cpu().numpy()
    return silent


def kinds_in_group(
    group: Group,
    values: Values,
    alive: Callable[[Any, str], Mask],
) -> Callable[[Item], Kinds]:
    """Follow constants through a group of coupled channels.

    Parameters
    ----------
    group : Group
        The channels.
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
    n_channels = group.n_channels
    makers = [item for item in group.items if item.side != "in"]
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
        if operation(item.node) == "cat":
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
    if name in OF_SEVERAL:
        given = node.grad_fn.next_functions
        unseen = sum(f is None or hasattr(f, "variable") for f, _ in given)
        unseen += 2 - len(given)  # a number
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
    if name in RANGES:
        low, high = (getattr(node.grad_fn, f"_saved_{a}", 1) for a in RANGES[name])
        both = all(isinstance(v, int | float | None) for v in (low, high))
        if both and (low is None or low <= 0) and (high is None or high >= 0):
            return least
        return np.minimum(least, CONSTANT) if both else np.zeros_like(least)
    if name in KEEPS_BOTH:
        return least
    if name in KEEPS_CONSTANT:
        return np.minimum(least, CONSTANT)
    if name in KEEPS_ZERO:
        unpadded = not any(getattr(node.grad_fn, "_saved_padding", (1,)))
        if name.startswith("avgpool") and unpadded:
            return least
        return np.where(least == ZERO, ZERO, VARIES).astype(np.int8)
    return np.zeros_like(least)
