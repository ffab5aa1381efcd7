"""Which operators of a graph become segments, and what the segments do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.tools_common import legalize_graph

from vitalfew.runtime._choices import Choice, Layer
from vitalfew.runtime._graph import arguments, constant
from vitalfew.runtime._linear import Activation
from vitalfew.runtime._operator import SegmentModule
from vitalfew.runtime._segments import Segment
from vitalfew.runtime._steps import Add, Kind, Mean, Pool, Product, Step

aten = torch.ops.aten
ACTIVATIONS: dict[Any, Activation] = {
    aten.relu.default: "relu",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
}
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)


def layers_of(module: GraphModule) -> dict[Node, Layer]:
    """Return the linear layers and convolutions of a graph that have fixed weights.

    Parameters
    ----------
    module : GraphModule
        Simplified; its nodes carry the shapes of the example as ``meta["example"]``.

    Returns
    -------
    dict of Node to Layer
        In the order of the graph; those of single precision without groups.
    """
    found = {}
    for node in module.graph.nodes:
        if node.target is not aten.linear.default and node.target not in CONVOLUTIONS:
            continue
        given = arguments(node)
        weight, bias = (constant(module, given[n]) for n in ("weight", "bias"))
        if weight is None or (bias is None) != (given["bias"] is None):
            continue
        if bias is not None and bias.shape != weight.shape[:1]:
            continue
        if weight.dtype != torch.float32 or given.get("groups", 1) != 1:
            continue
        if given["input"].op == "get_attr":  # the same at each call
            continue
        geometry = None
        if node.target not in CONVOLUTIONS:
            if weight.ndim != 2:
                continue
        else:
            if len(given["input"].meta["example"]) != 4:
                continue
            geometry = _geometry(given, tuple(weight.shape[2:]))
            if geometry is None:
                continue
        source = given["weight"].meta.get("source", given["weight"].target)
        found[node] = Layer(
            str(source).removesuffix("weight").removesuffix("."),
            weight,
            bias,
            geometry,
            given["input"].meta["example"],
        )
    return found


def _pair(value: Any) -> tuple[int, int]:
    first, last = _ends(value)
    return int(first), int(last)


def _ends(value: Any) -> tuple[Any, Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values[0], values[-1]


def _geometry(given: Mapping[str, Any], kernel: tuple[int, ...]) -> Any:
    stride, dilation = _pair(given["stride"]), _pair(given["dilation"])
    padding = given["padding"]
    if padding == "valid":
        padding = 0
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(r % 2 for r in reach):
            return None
        padding = [r // 2 for r in reach]
    return {
        "kernel": _pair(kernel),
        "stride": stride,
        "padding": _pair(padding),
        "dilation": dilation,
    }


@dataclass
class _Draft:
    """A segment that is growing."""

    number: int
    kind: Kind
    nodes: list[Node] = field(default_factory=list)


def _tensors(node: Node) -> list[Node]:
    """Return the values that a node reads, constants and lengths left out."""
    return [
        n
        for n in node.all_input_nodes
        if n.op != "get_attr" and isinstance(n.meta.get("val"), torch.Tensor)
    ]


def _shape(node: Node) -> tuple[str, ...] | None:
    value = node.meta.get("val")
    return tuple(map(str, value.shape)) if isinstance(value, torch.Tensor) else None


def _is_pool(node: Node) -> bool:
    if node.target not in (aten.max_pool2d.default, aten.avg_pool2d.default):
        return False
    if set(node.all_input_nodes) != {node.args[0]} or len(_shape(node) or ()) != 4:
        return False  # windows of a size that varies
    given = arguments(node)
    plain = _ends(given.get("dilation", 1)) == (1, 1) and not given["ceil_mode"]
    return plain and given.get("divisor_override") is None


def _is_mean(node: Node) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return _ends(node.args[1]) == (1, 1) and len(_shape(node) or ()) == 4
    if node.target is not aten.mean.dim or node.kwargs.get("dtype") is not None:
        return False
    dims = node.args[1] or ()
    shape = _shape(node.args[0])
    return shape is not None and len(shape) == 4 and {d % 4 for d in dims} == {2, 3}


def _is_flat(node: Node) -> bool:
    """Say whether a node takes (n, c, 1, 1) for (n, c)."""
    if node.target not in (aten.view.default, aten.reshape.default):
        return False
    before, after = _shape(node.args[0]), _shape(node)
    return before is not None and before[2:] == ("1", "1") and after == before[:2]


def _is_add(node: Node) -> bool:
    return (
        node.target is aten.add.Tensor
        and not node.kwargs
        and len(_tensors(node)) == 2
        and len({_shape(n) for n in node.args}) == 1
        and all(n.meta["val"].dtype == torch.float32 for n in _tensors(node))
    )


def _is_activation(node: Node) -> bool:
    return node.target in ACTIVATIONS and (
        node.kwargs.get("approximate", "none") == "none"
    )


def _draft(graph: Graph, choices: Mapping[Node, Choice]) -> list[_Draft]:
    """Grow segments in the order of the graph, never around an operator outside."""
    drafts: list[_Draft] = []
    of: dict[Node, _Draft] = {}
    reach: dict[Node, frozenset[int]] = {}  # drafts that a value waits for
    waits: list[frozenset[int]] = []  # the same of drafts, each with itself
    readers: dict[Node, _Draft] = {}  # drafts of tokens that read a value from outside
    for node in graph.nodes:
        inputs = _tensors(node)
        before = frozenset[int]().union(
            *(waits[i] for n in node.all_input_nodes for i in reach[n])
        )

        def joins(
            draft: _Draft,
            inputs: list[Node] = inputs,
            waits: list[frozenset[int]] = waits,
        ) -> bool:
            outside = [n for n in inputs if of.get(n) is not draft]
            return not any(draft.number in waits[i] for n in outside for i in reach[n])

        held = [of[n] for n in inputs if n in of]
        draft = None
        if node in choices and choices[node].matrix is not None:
            convolves = choices[node].layer.geometry is not None
            kind: Kind = "images" if convolves else "tokens"
            flat = (
                held and held[0].kind == "images" and len(_shape(inputs[0]) or ()) == 2
            )
            if held and (held[0].kind == kind or flat) and joins(held[0]):
                draft = held[0]
            elif (
                kind == "tokens" and inputs[0] in readers and joins(readers[inputs[0]])
            ):
                draft = readers[inputs[0]]
            else:
                draft = _Draft(len(drafts), kind)
                drafts.append(draft)
                waits.append(frozenset({draft.number}))
        elif held and _is_mean(node) | _is_pool(node) | _is_flat(node):
            draft = held[0] if held[0].kind == "images" and joins(held[0]) else None
        elif held and (_is_add(node) or _is_activation(node)):
            latest = max(held, key=lambda d: d.number)
            rank = len(_shape(node) or ())
            fits = latest.kind == "tokens" or rank == 4
            draft = latest if fits and joins(latest) else None
        reach[node] = before
        if draft is not None:
            draft.nodes.append(node)
            of[node] = draft
            reach[node] = frozenset({draft.number})
            waits[draft.number] |= before
            # whoever waits for this draft now waits for more
            waits = [w | before if draft.number in w else w for w in waits]
            if draft.kind == "tokens":
                readers |= {n: draft for n in inputs if n not in of}
    return drafts


def segment(
    module: GraphModule,
    choices: Mapping[Node, Choice],
    threads: Callable[[], int],
) -> list[Node]:
    """Put segments where chosen layers and what is around them stood.

    Parameters
    ----------
    module : GraphModule
        Changed in place.
    choices : dict of Node to Choice
        For each layer what computes it.
    threads : callable
        Number of threads for a call.

    Returns
    -------
    list of Node
        Calls of the segments.
    """
    calls = []
    for number, draft in enumerate(_draft(module.graph, choices)):
        inside = set(draft.nodes)
        inputs: list[Node] = []
        for node in draft.nodes:
            inputs += [n for n in _tensors(node) if n not in inside and n not in inputs]
        outputs = [n for n in draft.nodes if set(n.users) - inside]
        lowered = _lower(draft, inputs, outputs, choices)
        name = f"segment_{number}"
        module.add_submodule(name, SegmentModule(lowered, threads))
        with module.graph.inserting_after(inputs[-1]):
            call = module.graph.call_module(name, tuple(inputs))
        calls.append(call)
        for i, node in enumerate(outputs):
            with module.graph.inserting_after(call):
                item = module.graph.call_function(getitem, (call, i))
            item.meta = dict(node.meta)
            outside = [u for u in node.users if u not in inside]
            node.replace_all_uses_with(item, outside.__contains__)
        for node in reversed(draft.nodes):
            module.graph.erase_node(node)
    legalize_graph(module)
    module.graph.eliminate_dead_code()
    return calls


def _lower(
    draft: _Draft,
    inputs: list[Node],
    outputs: list[Node],
    choices: Mapping[Node, Choice],
) -> Segment:
    """Write the operators of a segment as steps, products with what can be fused."""
    value = {node: i for i, node in enumerate(inputs)}
    steps: list[Step] = []
    matrices = []
    done: set[Node] = set()

    def follower(node: Node) -> Node | None:
        """Return the only user of a value, if nothing else sees the value."""
        users = list(node.users)
        inner = len(users) == 1 and users[0] in draft.nodes and node not in outputs
        return users[0] if inner else None

    for node in draft.nodes:
        if node in done:
            continue
        last, to = node, len(inputs) + len(steps)
        activation: Activation = "none"
        after = follower(node)
        if node in choices:
            residual = None
            if after is not None and _is_add(after):
                a, b = after.args
                other = b if a is node else a
                if other is not node and other in value:
                    residual, last = value[other], after
                    after = follower(last)
            if after is not None and _is_activation(after):
                activation, last = ACTIVATIONS[after.target], after
            choice = choices[node]
            matrices.append(choice.build(activation))
            source = value[_tensors(node)[0]]
            geometry = choice.layer.geometry or {}
            steps.append(Product(len(matrices) - 1, source, to, residual, **geometry))
        elif _is_add(node):
            if after is not None and _is_activation(after):
                activation, last = ACTIVATIONS[after.target], after
            a, b = (value[n] for n in node.args)
            steps.append(Add(a, b, to, activation))
        elif _is_activation(node):
            steps.append(Add(value[node.args[0]], None, to, ACTIVATIONS[node.target]))
        elif _is_pool(node):
            given = arguments(node)
            kernel = _pair(given["kernel_size"])
            steps.append(
                Pool(
                    "max" if node.target is aten.max_pool2d.default else "mean",
                    value[node.args[0]],
                    to,
                    kernel,
                    _pair(given["stride"]) if given["stride"] else kernel,
                    _pair(given["padding"]),
                    bool(given.get("count_include_pad", False)),
                )
            )
        elif _is_mean(node):
            steps.append(Mean(value[node.args[0]], to))
        else:  # (n, c, 1, 1) as (n, c): the same numbers
            value[node] = value[node.args[0]]
            continue
        chain = node
        while chain is not last:
            done.add(chain := next(iter(chain.users)))
        value[last] = to
    flat = tuple(len(_shape(n) or ()) == 2 for n in outputs)
    return Segment(
        draft.kind,
        tuple(_channels(n, draft.kind) for n in inputs),
        tuple(matrices),
        tuple(steps),
        tuple(value[n] for n in outputs),
        flat if draft.kind == "images" else (False,) * len(outputs),
    )


def _channels(node: Node, kind: Kind) -> int:
    return int(node.meta["val"].shape[1 if kind == "images" else -1])
