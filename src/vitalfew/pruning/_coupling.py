"""Channels that go together, read off Torch-Pruning's graph of a network.

The graph says which operations follow which and how channels of one become channels of
the next; it takes what it does not know for an operation on each channel. Here a group
is followed only through operations known to be that, and given up at any other.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitalfew.pruning._outputs import call, has_macs, quietly, tensors
from vitalfew.pruning._surgery import (
    Indices,
    is_conv1d,
    is_depthwise,
    shared_parameters,
    size,
    standard,
)

# operations on each channel by itself, by the names of their gradients: from zeros make
# zeros and from constants constants, or only one of them, or neither
KEEPS_BOTH = {
    *("relu", "gelu", "silu", "mish", "tanh", "leakyrelu", "elu", "hardswish"),
    *(
        "prelukernel",
        "softshrink",
        "hardshrink",
        "neg",
        "abs",
        "sqrt",
        "sin",
        "erf",
        "softsign",
    ),
    *("clone", "tocopy", "copy", "alias", "permute", "transpose", "t", "squeeze"),
    *("unsqueeze", "view", "unsafeview", "reshapealias", "slice", "mean", "amax"),
    "expand",
    *("maxpool1dwithindices", "maxpool2dwithindices", "maxpool3dwithindices"),
    *("adaptivemaxpool1d", "adaptivemaxpool2d", "adaptivemaxpool3d"),
    *("adaptiveavgpool2d", "adaptiveavgpool3d", "reflectionpad1d", "reflectionpad2d"),
    *("reflectionpad3d", "replicationpad1d", "replicationpad2d", "replicationpad3d"),
    *("upsamplenearest1d", "upsamplenearest2d", "upsamplenearest3d"),
    *("upsamplelinear1d", "upsamplebilinear2d", "upsampletrilinear3d"),
    *("addmm", "mm"),  # let through only on the way into their own layer
}
KEEPS_ZERO = {"sum", "avgpool2d", "avgpool3d", "upsamplebicubic2d"}
KEEPS_CONSTANT = {
    *("sigmoid", "hardsigmoid", "exp", "softplus", "logsigmoid", "log", "cos", "rsqrt"),
    *("reciprocal", "threshold"),
}
RANGES = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}
OF_SEVERAL = {"add", "sub", "rsub", "mul", "div"}
KEEPS_NEITHER = {"constantpadnd", "pow", "maximum", "minimum", "where", "maskedfill"}
CHANNELWISE = {
    *KEEPS_BOTH,
    *KEEPS_ZERO,
    *KEEPS_CONSTANT,
    *RANGES,
    *OF_SEVERAL,
    *KEEPS_NEITHER,
}


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


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that go together.

    Parameters
    ----------
    name : str
        Full name of the root, a layer that makes them.
    n_channels : int
        Outputs of the root.
    items : list of Item
        In the order of the operations, as far as they have one.
    objection : str
        Why none of them can go. Then the root is the only item.
    """

    name: str
    n_channels: int
    items: list[Item]
    objection: str = ""


def side_of(module: Any) -> str | None:
    """Whether a layer mixes channels, works on each by itself, or is not known."""
    if is_depthwise(module) or isinstance(module, _BatchNorm | nn.GroupNorm):
        return "both"
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return "both"
    if has_macs(module) or isinstance(module, nn.Embedding):
        return "mixes"
    return None


def coupled_channels(
    model: nn.Module, inputs: Any, kept: set[str], tp: Any
) -> list[Group]:
    """Run a model once and group the outputs of its layers.

    Parameters
    ----------
    model : Module
        Run in evaluation mode.
    inputs : tensor, tuple or mapping
        What it is called with.
    kept : set of str
        Names of layers whose outputs stay.
    tp : module
        Torch-Pruning.

    Returns
    -------
    list of Group
        Each output of each layer that ran is in one at least.

    Raises
    ------
    ValueError
        If the operations cannot be followed.
    """
    parameters = list(model.parameters())
    wanted = [p.requires_grad for p in parameters]
    hooks = {m: set(m._forward_hooks) for m in model.modules()}
    try:
        for p in parameters:
            if p.is_floating_point():
                p.requires_grad_(True)
        with quietly(model, gradients=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = _graph_class(tp)()
            try:
                graph.build_dependency(
                    model,
                    inputs,
                    forward_fn=lambda m, x: call(m, _leaves(x)),
                    output_transform=_traced,
                    customized_pruners=_pruners(model, tp),
                    verbose=False,
                )
            except (AttributeError, IndexError, RuntimeError, TypeError) as error:
                raise ValueError(
                    "Torch-Pruning cannot follow the operations of this model, so no "
                    f"channels can be taken out: {type(error).__name__}: {error}"
                ) from error
        return _groups(model, graph, _Objections(model, kept))
    finally:
        for module, own in hooks.items():
            for key in set(module._forward_hooks) - own:
                del module._forward_hooks[key]
        for p, needed in zip(parameters, wanted, strict=True):
            p.requires_grad_(needed)


def _leaves(thing: Any) -> Any:
    """Make inputs part of the graph, so that what is joined to them is seen."""
    if isinstance(thing, Tensor):
        if not thing.is_floating_point():
            return thing
        return thing.detach().requires_grad_(True) * 1
    if isinstance(thing, Mapping):
        return {name: _leaves(value) for name, value in thing.items()}
    if isinstance(thing, tuple | list):
        return type(thing)(_leaves(value) for value in thing)
    return thing


def _traced(output: Any) -> list[Tensor]:
    """Return outputs with an operation of their own, by which they are known."""
    found = [t * 1 for t in tensors(output) if t.requires_grad]
    if not found:
        raise ValueError(
            "the model makes no tensor with a gradient on example_inputs, so its "
            "operations cannot be followed; its forward must not run under no_grad"
        )
    return found


def _graph_class(tp: Any) -> Any:
    class Graph(tp.DependencyGraph):
        """Told what concatenations join, which it would guess from layers nearby."""

        def _build_dependency(self, module2node: Any) -> None:
            super()._build_dependency(module2node)
            for node in module2node.values():
                if type(node.module).__name__ == "_ConcatOp":
                    node.module.concat_sizes = _joined(node)

    return Graph


def _joined(node: Any) -> list[int]:
    """How many channels each input of a concatenation has; zeros if one is unseen."""
    given = node.grad_fn.next_functions
    if len(given) != len(node.inputs) or any(f is None for f, _ in given):
        return [0] * len(node.inputs)
    shapes = [function._input_metadata[place].shape for function, place in given]
    return [shape[1] if len(shape) > 1 else 0 for shape in shapes]


def _pruners(model: nn.Module, tp: Any) -> dict[Any, Any]:
    """Tell Torch-Pruning of the transposed linear layers of transformers."""

    class TransposedLinear(tp.BasePruningFunc):
        # the graph tells the two sides apart by these, and never calls them here

        def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            raise NotImplementedError

        def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            raise NotImplementedError

        def get_out_channels(self, layer: Any) -> int:
            return size(layer, "out")

        def get_in_channels(self, layer: Any) -> int:
            return size(layer, "in")

    return {type(m): TransposedLinear() for m in model.modules() if is_conv1d(m)}


def _groups(
    model: nn.Module, graph: Any, objection: Callable[[Any, str], str]
) -> list[Group]:
    nodes = list(graph.module2node.values())
    order = {id(node): place for place, node in enumerate(reversed(nodes))}
    done: set[Any] = set()
    groups = []
    for name, module in model.named_modules():
        node = graph.module2node.get(module)
        if node is None or module in done or side_of(module) != "mixes":
            continue
        items, why = _follow(graph, node, objection)
        if why:
            index = np.arange(size(module, "out"))
            items = [Item(node, "out", index, index)]
        items.sort(key=lambda item: order[id(item.node)])
        groups.append(Group(name, size(module, "out"), items, why))
        done |= {
            item.node.module
            for item in items
            if item.side == "out" and len(item.index) == size(item.node.module, "out")
        }
    return groups


class _Pair(NamedTuple):
    """A channel of a node and the channel of the root that it is."""

    idx: int
    root_idx: int


def _follow(
    graph: Any, root: Any, objection: Callable[[Any, str], str]
) -> tuple[list[Item], str]:
    """Follow the outputs of a layer to all that goes with them, or to an objection."""
    prune = graph.get_pruner_of_module(root.module).prune_out_channels
    pairs = [_Pair(i, i) for i in range(size(root.module, "out"))]
    found: dict[tuple[int, str], set[Any]] = {}
    nodes: dict[int, Any] = {}
    todo = [(root, prune, pairs)]
    while todo:
        node, function, pairs = todo.pop()
        side = _side(node, function)
        if side == "op" and _is_weight(node):
            continue
        key = id(node), side
        if key not in found:
            why = objection(node, side)
            if why:
                return [], why
            found[key], nodes[id(node)] = set(), node
        new = [pair for pair in pairs if pair not in found[key]]
        if not new:
            continue
        if any(not 0 <= p.idx < _most(node, side) or p.root_idx is None for p in new):
            return [], "a layer with another number of channels goes with them"
        found[key].update(new)
        for edge in node.dependencies:
            if edge.is_triggered_by(function):
                moved = new
                for mapping in edge.index_mapping:
                    if mapping is not None:
                        moved = mapping(moved)
                if moved:
                    todo.append((edge.target, edge.handler, moved))
    items = []
    for (number, side), own in found.items():
        array = np.array(sorted(own), dtype=np.int64).reshape(-1, 2)
        items.append(Item(nodes[number], side, array[:, 0], array[:, 1]))
        if side in ("out", "both") and len(np.unique(array[:, 0])) != len(array):
            return [], "a layer with another number of channels goes with them"
    return items, ""


def _side(node: Any, function: Any) -> str:
    kind = side_of(node.module)
    if kind != "mixes":
        return kind or "op"
    if isinstance(node.module, nn.Embedding):
        return "out"
    return "out" if function.__name__ == "prune_out_channels" else "in"


def _most(node: Any, side: str) -> int:
    """More channels than this a node cannot have."""
    return math.prod(_shape(node)) if side == "op" else size(node.module, side)


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.grad_fn._input_metadata[0].shape)  # of what the operation makes


def operation(node: Any) -> str:
    """Return the name of a node's operation, as in ``"relu"``."""
    name = node.grad_fn.name().rpartition("::")[2]
    return re.sub(r"Backward\d*$", "", name).lower()


def inputs_of(node: Any) -> list[Any]:
    """Return the nodes whose values a node works on."""
    return [n for n in node.inputs if not _is_weight(n)]


def _is_weight(node: Any) -> bool:
    """Whether a node is only a layer's weight on its way into the layer."""
    if node.inputs or operation(node) not in ("t", "transpose", "permute", "view"):
        return False
    into = {operation(n) for n in node.outputs}
    source = node.grad_fn.next_functions[0][0]
    return hasattr(source, "variable") and into <= {"addmm", "mm", "prelukernel"}


class _Objections:
    """Why the channels of a node cannot be taken out; empty if they can."""

    def __init__(self, model: nn.Module, kept: set[str]) -> None:
        self._kept = kept
        self._shared = shared_parameters(model)
        self._names = {module: name for name, module in model.named_modules()}

    def __call__(self, node: Any, side: str) -> str:
        module = node.module
        if side == "op":
            return _objection_to_operation(node)
        name = self._names[module]
        if side != "in" and name in self._kept:
            return f"{name!r} is excluded"
        if not standard(module):
            return f"{name!r} is not a plain {type(module).__name__}"
        if any(id(p) in self._shared for p in module._parameters.values()):
            return f"{name!r} shares its weights"
        if getattr(module, "groups", 1) != 1 and not is_depthwise(module):
            return f"{name!r} is a grouped convolution"
        return ""


_NAMED = {
    "_OutputOp": "they are outputs of the model",
    "Parameter": "a parameter outside the known layers goes with them",
    "LayerNorm": "a layer norm mixes them",
}


def _objection_to_operation(node: Any) -> str:
    kind = type(node.module).__name__
    if kind in _NAMED:
        return _NAMED[kind]
    if not kind.startswith("_") and kind != "PReLU":
        return f"{kind} is not known to treat each by itself"
    if not inputs_of(node):
        return "an input of the model goes with them"
    name = operation(node)
    known = name in CHANNELWISE
    made = _shape(node)
    taken = tuple(getattr(node.grad_fn, "_saved_self_sym_sizes", made))
    dims = _dims(getattr(node.grad_fn, "_saved_dim", ()), max(len(taken), 1))
    if name == "cat":
        edges = [d for d in node.dependencies if d.target in node.inputs]
        mapped = all(edge.index_mapping[1] is not None for edge in edges)
        known = mapped and dims == {1} and len(made) in (2, 4, 5)
    elif name in ("addmm", "mm"):
        known = _feeds_its_layer(node)
    elif name in ("mean", "sum", "amax", "slice"):  # over places
        known = len(taken) >= 4 and bool(dims) and min(dims) >= 2
    elif name == "expand":
        known = len(taken) == len(made) >= 4 and taken[1] == made[1]
    elif name in ("view", "unsafeview", "reshapealias"):
        known = _keeps_channels(node, taken, made)
        name = "a view, as of attention's heads,"
    return "" if known else f"{name} mixes them or is not known"


def _dims(dims: Any, n_dims: int) -> set[int]:
    """Return dimensions as they count from the left; gradients keep -1 as 2^64 - 1."""
    dims = dims if isinstance(dims, tuple) else (dims,)
    return {(d - 2**64 if d >= 2**63 else d) % n_dims for d in dims}


def _keeps_channels(node: Any, taken: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether a view leaves channels apart: last as they were, second, or flattened."""
    if not taken or not made:
        return False
    lengths = {len(taken), len(made)}
    if taken[-1] == made[-1] and (2 in lengths or not lengths & {4, 5}):
        return True
    if len(taken) in (2, 4, 5) and taken[:2] == made[:2]:
        return True
    n_places = math.prod(taken[2:])
    if len(taken) < 3 or made != (taken[0], taken[1] * n_places):
        return False
    edges = [d for n in node.inputs for d in n.dependencies if d.target is node]
    return n_places == 1 or all(
        getattr(edge.index_mapping[0], "_stride", None) == n_places for edge in edges
    )


def _feeds_its_layer(node: Any) -> bool:
    """Whether a product is that of the linear layer that comes next."""
    after = node
    while len(after.outputs) == 1 and not has_macs(after.module):
        after = after.outputs[0]
    if not has_macs(after.module):
        return False
    weight = after.module.weight
    for function, _ in node.grad_fn.next_functions:
        given = (function, *(f for f, _ in getattr(function, "next_functions", ())))
        if any(getattr(f, "variable", None) is weight for f in given):
            return True
    return False
