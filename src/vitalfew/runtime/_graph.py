"""A network as a graph of functional operators, without what only training needs."""

import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
RANKS = {  # of what a batch norm behind them sees
    aten.linear.default: 2,
    aten.conv2d.default: 4,
    aten.conv2d.padding: 4,
}
# what conditions on lengths are made of, by the names that sympy and torch give
FORMULAS: dict[str, Callable[..., Any]] = {
    "Add": lambda *a: sum(a),
    "Mul": lambda *a: math.prod(a),
    "Max": max,
    "Min": min,
    "And": lambda *a: all(a),
    "Or": lambda *a: any(a),
    "Not": operator.not_,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "StrictGreaterThan": operator.gt,
    "GreaterThan": operator.ge,
    "StrictLessThan": operator.lt,
    "LessThan": operator.le,
}
# conditions that only say that something is not 0 or 1
TAKEN = {
    "Unequality": (0, 1),
    "StrictGreaterThan": (0, 1),
    "GreaterThan": (0, 1, 2),
}
SAME = 1e-3  # results that differ by more, over the largest, are others
ALL = 64  # more dimensions than a tensor has
MOST_PASSED = 64  # calls whose lengths are remembered


@dataclass(frozen=True)
class Shape:
    """What a tensor that is given must look like.

    Attributes
    ----------
    lengths : tuple of int or str
        Of its dimensions; a name is a length that may vary, the same length wherever
        it is named.
    dtype : dtype
        Of its numbers.
    """

    lengths: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Condition:
    """What lengths must satisfy for the network to take the same way.

    Attributes
    ----------
    text : str
        For people.
    formula : int, str or list
        A number, the name of a length, or one of `FORMULAS` and what it is of.
    """

    text: str
    formula: Any

    def holds(self, lengths: Mapping[str, int]) -> bool:
        """Say whether some lengths satisfy it.

        Parameters
        ----------
        lengths : dict of str to int
            By name.
        """

        def value(part: Any) -> Any:
            if isinstance(part, str):
                return lengths[part]
            if isinstance(part, int):
                return part
            return FORMULAS[part[0]](*map(value, part[1:]))

        try:
            return bool(value(self.formula))
        except (KeyError, ZeroDivisionError):
            return False


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
        its `Shape`.
    conditions : tuple of Condition
        On the lengths that may vary.
    """

    names: tuple[str, ...]
    inputs: Any
    outputs: Any
    leaves: tuple[Any, ...]
    conditions: tuple[Condition, ...] = ()

    _passed: set[tuple[int, ...]] = field(
        default_factory=set, repr=False, compare=False
    )

    def __deepcopy__(self, memo: Any) -> "Call":
        return self  # which nothing changes

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
        plain = not kwargs and self._plain and len(args) == len(self.leaves)
        if plain and all(type(a) is torch.Tensor for a in args):
            return self._checked(list(args))
        rest = dict(kwargs)
        args = (*args, *(rest.pop(n) for n in self.names[len(args) :] if n in rest))
        leaves, given = pytree.tree_flatten((tuple(args), rest))
        if given != self.inputs:
            pattern = pytree.tree_unflatten(range(len(self.leaves)), self.inputs)
            leaves, given = pytree.tree_flatten(_ordered((tuple(args), rest), pattern))
        if given != self.inputs:
            raise ValueError(
                "inputs must be structured as the example's were: compile again with "
                f"other ones, got {given} instead of {self.inputs}"
            )
        return self._checked(leaves)

    @cached_property
    def _plain(self) -> bool:
        """Whether all inputs are tensors that are given by position."""
        n = len(self.leaves)
        return self.inputs == pytree.tree_flatten(((0,) * n, {}))[1]

    def _checked(self, leaves: list[Any]) -> list[Any]:
        """Check leaves, and leave out those that are compiled in."""
        lengths: dict[str, int] = {}
        for i, (leaf, wanted) in enumerate(zip(leaves, self.leaves, strict=True)):
            if isinstance(wanted, Shape):
                _check_tensor(i, leaf, wanted, lengths)
            elif leaf is not wanted and (
                isinstance(leaf, torch.Tensor) or leaf != wanted
            ):
                raise ValueError(
                    f"input {i} must be {wanted!r}, which is compiled in, got {leaf!r}"
                )
            else:
                leaves[i] = None
        if self.conditions:
            self._check(lengths)
        return leaves

    def _check(self, lengths: Mapping[str, int]) -> None:
        """Refuse lengths for which the network would do something else."""
        key = tuple(lengths.values())
        if key in self._passed:
            return
        for condition in self.conditions:
            if not condition.holds(lengths):
                raise ValueError(
                    f"lengths of inputs must satisfy {condition.text}, as the "
                    f"example's do: compile again for others, got {dict(lengths)}"
                )
        if len(self._passed) < MOST_PASSED:
            self._passed.add(key)


def _ordered(tree: Any, pattern: Any) -> Any:
    """Return dictionaries in the order of those of a pattern."""
    if type(tree) is not type(pattern):
        return tree
    if type(tree) in (tuple, list) and len(tree) == len(pattern):
        return type(tree)(map(_ordered, tree, pattern))
    if type(tree) is dict and tree.keys() == pattern.keys():
        return {k: _ordered(tree[k], part) for k, part in pattern.items()}
    return tree


def _check_tensor(i: int, leaf: Any, wanted: Shape, lengths: dict[str, int]) -> None:
    if not isinstance(leaf, torch.Tensor):
        raise ValueError(f"input {i} must be a tensor, got {type(leaf).__name__}")
    fits = leaf.ndim == len(wanted.lengths)
    for length, name in zip(leaf.shape, wanted.lengths, strict=False):
        fits &= length == (
            name if isinstance(name, int) else lengths.setdefault(name, length)
        )
    if not fits:
        raise ValueError(
            f"input {i} must have shape ({', '.join(map(str, wanted.lengths))}), got "
            f"{tuple(leaf.shape)}"
        )
    if leaf.dtype != wanted.dtype:
        raise ValueError(f"input {i} must be of {wanted.dtype}, got {leaf.dtype}")
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
    wanted = results(model, args, kwargs)
    given, doubled = (args, dict(kwargs)), _doubled(args, kwargs)
    for example, free in ((doubled, ALL), (doubled, 1), (given, ALL), (given, 0)):
        try:
            positional, by_name = fresh(example)  # which a failure leaves marks on
            module, call = _export(model, positional, by_name, free)
            call = _fitting(module, call, args, kwargs, wanted)
            return module, _singled(model, module, call, args, kwargs)
        except Exception as error:  # whatever export raises, the next may do
            failure = failure or error
    raise IncompatibleError(
        f"torch.export cannot follow {type(model).__name__}: {failure}"
    ) from failure


def _fitting(
    module: GraphModule,
    call: Call,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wanted: list[Any],
) -> Call:
    """Check a trace on the example, and drop conditions that it shows not to matter."""
    args, kwargs = fresh((args, dict(kwargs)))
    leaves = replace(call, conditions=()).flatten(args, kwargs)
    if not difference(list(module(*leaves)), wanted) <= SAME:
        raise IncompatibleError("traced, it returns something else")
    lengths = {
        name: length
        for leaf, shape in zip(leaves, call.leaves, strict=True)
        if isinstance(shape, Shape)
        for name, length in zip(shape.lengths, leaf.shape, strict=True)
        if isinstance(name, str)
    }
    held = tuple(c for c in call.conditions if c.holds(lengths))
    return replace(call, conditions=held)


def _doubled(args: Any, kwargs: Any) -> Any:
    def double(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == 1:
            return torch.cat([leaf, leaf])
        return leaf

    return pytree.tree_map(double, (tuple(args), dict(kwargs)))


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: int
) -> tuple[GraphModule, Call]:
    """Trace with so many leading dimensions of each tensor that may vary."""
    given = signature(model.forward).bind(*args, **kwargs).arguments
    dim = torch.export.Dim
    shapes = pytree.tree_map(
        lambda leaf: (
            {
                i: dim.AUTO if n > 1 and i < free else dim.STATIC
                for i, n in enumerate(leaf.shape)
            }
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
        changed = program.graph_signature
        if changed.buffers_to_mutate or changed.user_inputs_to_mutate:
            raise IncompatibleError("the network changes its own buffers or its inputs")
        module = program.module(check_guards=False)
    inputs, outputs = module._in_spec, module._out_spec
    module.graph.set_codegen(CodeGen())
    leaves = _leaves(module.graph)
    conditions = _conditions(module.graph)
    parameters = tuple(signature(model.forward).parameters)[: len(args)]
    # a module of its own has no hooks that check inputs as export sees them
    call = Call(parameters, inputs, outputs, leaves, conditions)
    return GraphModule(module, module.graph), call


def _leaves(graph: Graph) -> tuple[Any, ...]:
    found: list[Any] = []
    for node in graph.nodes:
        if node.op != "placeholder":
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            names = map(str, value.shape)
            lengths = tuple(int(n) if n.isdigit() else n for n in names)
            value = Shape(lengths, value.dtype)
        found.append(value)
    return tuple(found)


def _named(leaves: Sequence[Any]) -> list[str]:
    """Return the names of lengths that may vary, in the order of their first use."""
    shapes = [leaf.lengths for leaf in leaves if isinstance(leaf, Shape)]
    return list(dict.fromkeys(n for s in shapes for n in s if isinstance(n, str)))


def _conditions(graph: Graph) -> tuple[Condition, ...]:
    """Return what torch took for granted of lengths while it traced.

    That a length is not 0 or 1 it always takes for granted, and mostly it does not
    matter: see `_singled`.
    """
    values = [n.meta.get("val") for n in graph.nodes if n.op == "placeholder"]
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    lengths = {
        str(n): n.node.expr
        for v in tensors
        for n in v.shape
        if isinstance(n, torch.SymInt) and not str(n).isdigit()
    }
    if not lengths:
        return ()
    some = next(n for v in tensors for n in v.shape if str(n) in lengths)
    shapes = some.node.shape_env
    found: dict[str, Condition] = {}
    for guard in shapes.guards:
        expression = shapes.replace(guard.expr)
        formula = _formula(expression)
        if isinstance(formula, list) and formula[-1] not in TAKEN.get(formula[0], ()):
            found.setdefault(str(expression), Condition(str(expression), formula))
    for name, length in lengths.items():
        if not length.is_Symbol:
            text = f"Eq({name}, given)"
            found[text] = Condition(text, ["Equality", name, _formula(length)])
    free = {str(s) for n in lengths.values() for s in n.free_symbols}
    if not free <= set(lengths):
        raise IncompatibleError(f"lengths depend on {free - set(lengths)}")
    return tuple(found.values())


def _formula(expression: Any) -> Any:
    """Return an expression of lengths as numbers, strings and lists."""
    if expression.is_Symbol:
        return str(expression)
    if expression.is_Integer:
        return int(expression)
    if expression.is_Boolean and not expression.args:
        return int(bool(expression))
    if expression.is_Pow and expression.exp.is_Integer and 0 < expression.exp < 9:
        return ["Mul", *[_formula(expression.base)] * int(expression.exp)]
    name = type(expression).__name__
    if name not in FORMULAS:
        raise IncompatibleError(f"lengths must satisfy {expression}")
    return [name, *map(_formula, expression.args)]


def _singled(
    model: torch.nn.Module,
    module: GraphModule,
    call: Call,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Call:
    """Refuse lengths of 1 where the network then does something else.

    Torch traces as if a length that may vary were never 1, which is mostly no matter
    and often wanted.
    """
    more = []
    for name in _named(call.leaves):
        leaves = [
            _cut(leaf, wanted.lengths, name) if isinstance(wanted, Shape) else leaf
            for leaf, wanted in zip(
                pytree.tree_leaves((args, kwargs)), call.leaves, strict=True
            )
        ]
        short, rest = pytree.tree_unflatten(leaves, call.inputs)
        try:
            wanted = results(model, short, rest)
        except Exception:  # there is nothing that could be computed wrongly
            continue
        try:
            found = list(module(*leaves))
            same = difference(found, wanted) <= SAME
        except Exception:
            same = False
        if not same:
            more.append(Condition(f"{name} > 1", ["StrictGreaterThan", name, 1]))
    return replace(call, conditions=(*call.conditions, *more))


def _cut(leaf: torch.Tensor, lengths: Sequence[int | str], name: str) -> torch.Tensor:
    """Return the first index only of the dimensions of some name."""
    for axis, length in enumerate(lengths):
        if length == name:
            leaf = leaf.narrow(axis, 0, 1)
    return leaf


def results(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """Return what a network returns, flat, and leave its inputs as they are."""
    args, kwargs = fresh((tuple(args), dict(kwargs)))
    return pytree.tree_leaves(model(*args, **kwargs))


def fresh(tree: Any) -> Any:
    """Return a structure with copies of its tensors.

    Parameters
    ----------
    tree : object
        What a network is called with.
    """
    return pytree.tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree
    )


def difference(found: list[Any], wanted: list[Any]) -> float:
    """Return how far results lie from wanted ones, over the largest wanted number.

    Parameters
    ----------
    found, wanted : list
        As many; what is no tensor is not compared.

    Returns
    -------
    float
        Infinite where a shape or type differs, or one is finite and the other is not.
    """
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if not isinstance(b, torch.Tensor) or not b.numel():
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        gap = float((a - b).abs().masked_fill(same, 0).max())
        if not math.isfinite(gap):
            return math.inf
        scale = float(b.abs().masked_fill(~b.isfinite(), 0).max())
        worst = max(worst, gap / (scale or 1))
    return worst


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
        if node.target is NORM and all(u.args[1] == 0 for u in node.users):
            if not _fold(module, node, names):
                _as_norm(module, node)
        elif node.target is aten.addmm.default:
            _as_linear(module, node, names)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    graph.lint()


def _as_norm(module: GraphModule, node: Node) -> None:
    """Write a batch norm as the operator that checks its arguments."""
    x, scale, shift, mean, variance, momentum, eps = node.args
    given = (x, scale, shift, mean, variance, False, momentum, eps, False)
    with module.graph.inserting_before(node):
        norm = module.graph.call_function(aten.batch_norm.default, given)
    norm.meta = dict(x.meta)  # of its shape and type
    for user in list(node.users):
        user.replace_all_uses_with(norm)
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _fold(module: GraphModule, node: Node, names: Iterator[int]) -> bool:
    """Fold a batch norm into the convolution or linear layer before it."""
    before = node.args[0]
    layer = len(before.users) == 1 and RANKS.get(before.target) == _rank(before)
    if not layer:
        return False
    read = [*before.args[1:3], *node.args[1:5]]
    if any(a is not None and constant(module, a) is None for a in read):
        return False
    weight = constant(module, before.args[1])
    bias = constant(module, before.args[2]) if len(before.args) > 2 else None
    scale, shift, mean, variance = (constant(module, a) for a in node.args[1:5])
    if weight is None or mean is None or variance is None:
        return False
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
    for user in list(node.users):
        user.replace_all_uses_with(before)
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    return True


def _rank(node: Node) -> int:
    return int(node.meta["val"].ndim)


def _as_linear(module: GraphModule, node: Node, names: Iterator[int]) -> None:
    """Write ``view(addmm(bias, view(x), W))`` as ``linear(x, W^T, bias)``."""
    bias, before, weight = node.args
    matrix, added = constant(module, weight), constant(module, bias)
    if matrix is None or added is None or added.ndim != 1 or node.kwargs:
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
