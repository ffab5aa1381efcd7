"""A network as a graph of functional operators, without what only training needs."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import count
from typing import Any

import torch
from torch.fx import CodeGen, Graph, GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils import _pytree as pytree

from vitalfew.exceptions import IncompatibleError

aten = torch.ops.aten
NORM = aten._native_batch_norm_legit_no_training.default
GONE = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
)


@dataclass(frozen=True)
class Call:
    """How a network is called.

    Attributes
    ----------
    names : tuple of str
        Parameters that the example gave by position.
    inputs, outputs : TreeSpec
        How leaves become ``(args, kwargs)``, and what the network returns.
    leaves : tuple
        For each leaf that is no tensor its value, which is compiled in; for a tensor
        its shape, a tuple of int or str: a name is a length that may vary, the same
        length wherever it is named.
    """

    names: tuple[str, ...]
    inputs: Any
    outputs: Any
    leaves: tuple[Any, ...]

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the leaves of a call, checked against what was compiled.

        Parameters
        ----------
        args, kwargs : sequence and mapping
            As the network was called.

        Returns
        -------
        list
            Tensors, and None where a constant is compiled in.
        """
        rest = dict(kwargs)
        args = (*args, *(rest.pop(n) for n in self.names[len(args) :] if n in rest))
        leaves, given = pytree.tree_flatten((tuple(args), rest))
        if given != self.inputs:
            raise ValueError(
                "inputs must be structured as the example's were: compile again with "
                f"other ones, got {given} instead of {self.inputs}"
            )
        lengths: dict[str, int] = {}
        for i, (leaf, wanted) in enumerate(zip(leaves, self.leaves, strict=True)):
            if isinstance(wanted, Shape):
                _check_shape(i, leaf, wanted, lengths)
            elif leaf is not wanted and leaf != wanted:
                raise ValueError(
                    f"input {i} must be {wanted!r}, which is compiled in, got {leaf!r}"
                )
            else:
                leaves[i] = None
        return leaves


class Shape(tuple[int | str, ...]):
    """Lengths of a tensor's dimensions: numbers, or names of those that may vary."""


def _check_shape(i: int, leaf: Any, wanted: Shape, lengths: dict[str, int]) -> None:
    if not isinstance(leaf, torch.Tensor):
        raise ValueError(f"input {i} must be a tensor, got {type(leaf).__name__}")
    fits = leaf.ndim == len(wanted)
    for length, name in zip(leaf.shape, wanted, strict=False):
        fits &= length == (
            name if isinstance(name, int) else lengths.setdefault(name, length)
        )
    if not fits:
        raise ValueError(
            f"input {i} must have shape ({', '.join(map(str, wanted))}), got "
            f"{tuple(leaf.shape)}"
        )
    if leaf.device.type != "cpu":
        raise ValueError(f"input {i} must be on the CPU, got {leaf.device}")


def trace(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[GraphModule, Call]:
    """Return a network as a graph of ATen operators over flat inputs and outputs.

    Parameters
    ----------
    model : Module
        In evaluation mode.
    args, kwargs : tuple and mapping
        Example of a call. A batch of one is doubled for tracing, so that others fit.

    Returns
    -------
    tuple of (GraphModule, Call)
        Sizes may vary where the network allows it.

    Raises
    ------
    IncompatibleError
        If `torch.export` cannot follow the network.
    """
    failure: Exception | None = None
    for arguments, free in (
        (_doubled(args, kwargs), True),
        ((args, dict(kwargs)), True),
        ((args, dict(kwargs)), False),
    ):
        try:
            return _export(model, arguments[0], arguments[1], free)
        except Exception as error:  # whatever export raises, the next may do
            failure = failure or error
    raise IncompatibleError(
        f"torch.export cannot follow {type(model).__name__}: {failure}"
    ) from failure


def _doubled(args: Any, kwargs: Any) -> Any:
    def double(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == 1:
            return torch.cat([leaf, leaf])
        return leaf

    return pytree.tree_map(double, (tuple(args), dict(kwargs)))


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: bool
) -> tuple[GraphModule, Call]:
    given = signature(model.forward).bind(*args, **kwargs).arguments
    auto = torch.export.Dim.AUTO
    shapes = pytree.tree_map(
        lambda leaf: (
            dict.fromkeys(range(leaf.ndim), auto)
            if isinstance(leaf, torch.Tensor)
            else None
        ),
        dict(given),
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own doing
        program = torch.export.export(
            model, args, kwargs, dynamic_shapes=shapes if free else None
        ).run_decompositions({})
        if program.graph_signature.buffers_to_mutate:
            raise IncompatibleError("the network changes its own buffers")
        module = program.module(check_guards=False)
    inputs, outputs = module._in_spec, module._out_spec
    module.graph.set_codegen(CodeGen())
    leaves = _leaves(module.graph)
    parameters = tuple(signature(model.forward).parameters)[: len(args)]
    # a module of its own has no hooks that check inputs as export sees them
    return GraphModule(module, module.graph), Call(parameters, inputs, outputs, leaves)


def _leaves(graph: Graph) -> tuple[Any, ...]:
    found: list[Any] = []
    for node in graph.nodes:
        if node.op != "placeholder":
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            names = map(str, value.shape)
            value = Shape(int(n) if n.isdigit() else n for n in names)
        found.append(value)
    return tuple(found)


def simplify(module: GraphModule) -> None:
    """Fold batch norms into the layers before them and drop what does nothing.

    Parameters
    ----------
    module : GraphModule
        From `trace`; changed in place.
    """
    graph, names = module.graph, count()
    for node in list(graph.nodes):
        if node.target in GONE:
            graph.erase_node(node)
        elif node.target is aten.clone.default and not node.kwargs:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target is NORM:
            _fold(module, node, names)
        elif node.target is aten.addmm.default:
            _as_linear(module, node, names)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    graph.lint()


def _fold(module: GraphModule, node: Node, names: Iterator[int]) -> None:
    """Fold a batch norm into the convolution or linear layer before it."""
    before = node.args[0]
    layer = (
        before.target in (aten.conv2d.default, aten.linear.default, aten.conv2d.padding)
        and len(before.users) == 1
        and constant(module, before.args[1]) is not None
    )
    users = list(node.users)
    if not layer or any(u.args[1] != 0 for u in users):
        return
    found = [constant(module, a) for a in node.args[1:5]]
    bias = constant(module, before.args[2]) if len(before.args) > 2 else None
    weight = constant(module, before.args[1])
    assert weight is not None
    scale, shift, mean, variance = found
    if mean is None or variance is None:
        return
    weight, bias = fuse_conv_bn_weights(
        weight, bias, mean, variance, node.args[6], scale, shift
    )
    with module.graph.inserting_before(before):
        new = [
            add_constant(module, f"_folded_{next(names)}", t.detach())
            for t in (weight, bias)
        ]
    new[0].meta["source"] = before.args[1].target
    before.args = (before.args[0], *new, *before.args[3:])
    for user in users:
        user.replace_all_uses_with(before)
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _as_linear(module: GraphModule, node: Node, names: Iterator[int]) -> None:
    """Write ``view(addmm(bias, view(x), W))`` as ``linear(x, W^T, bias)``."""
    bias, before, weight = node.args
    matrix = constant(module, weight)
    if matrix is None or constant(module, bias) is None or node.kwargs:
        return
    x, after = before, node
    if before.target is aten.view.default and len(node.users) == 1:
        (user,) = node.users
        outer = before.args[0].meta["val"].shape
        if user.target is aten.view.default:
            inner = user.meta["val"].shape
            if (*outer[:-1], matrix.shape[1]) == tuple(inner):
                x, after = before.args[0], user
    with module.graph.inserting_before(node):
        turned = add_constant(module, f"_turned_{next(names)}", matrix.detach().T)
        turned.meta["source"] = weight.target
        linear = module.graph.call_function(aten.linear.default, (x, turned, bias))
    linear.meta = dict(after.meta)
    after.replace_all_uses_with(linear)
    module.graph.erase_node(after)
    if after is not node:
        module.graph.erase_node(node)


def constant(module: GraphModule, node: Any) -> torch.Tensor | None:
    """Return the tensor that a node of the graph holds, if it holds one.

    Parameters
    ----------
    module : GraphModule
        Whose graph has the node.
    node : Node or None
        Any argument of a node.
    """
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    found: Any = module
    for name in str(node.target).split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, torch.Tensor) else None


def add_constant(module: GraphModule, name: str, tensor: torch.Tensor) -> Node:
    """Give a graph one more tensor, at its insertion point.

    Parameters
    ----------
    module : GraphModule
        Changed in place.
    name : str
        Of the buffer.
    tensor : Tensor
        Its value.

    Returns
    -------
    Node
        That reads it.
    """
    module.register_buffer(name, tensor)
    node = module.graph.get_attr(name)
    node.meta["val"] = tensor
    return node


def drop_unused(module: GraphModule) -> None:
    """Forget parameters and buffers that no node reads.

    Parameters
    ----------
    module : GraphModule
        Changed in place.
    """
    used = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    held = [
        *dict(module.named_parameters(remove_duplicate=False)),
        *dict(module.named_buffers(remove_duplicate=False)),
    ]
    for name in held:
        if name not in used:
            owner, _, last = name.rpartition(".")
            delattr(module.get_submodule(owner), last)


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an ATen operator by name, defaults among them.

    Parameters
    ----------
    node : Node
        Of an `OpOverload`.
    """
    schema = node.target._schema.arguments
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    names = [a.name for a in schema if not a.kwarg_only]
    found |= dict(zip(names, node.args, strict=False)) | node.kwargs
    return found
