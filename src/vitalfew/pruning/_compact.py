"""Take dead channels and heads out of a network, which then computes the same."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from vitalfew.exceptions import MissingDependencyError
from vitalfew.neural import evaluating
from vitalfew.neural.batches import moved
from vitalfew.neural.modes import device_of
from vitalfew.pruning._constants import (
    CHANNELWISE,
    CONSTANT,
    VARIES,
    ZERO,
    Item,
    Mask,
    Values,
    ignores_input,
    inputs_of,
    is_unpadded,
    is_weight,
    kinds_in_group,
    only_dims,
    operation,
    row_is_empty,
)
from vitalfew.pruning._heads import attentions
from vitalfew.pruning._surgery import (
    Indices,
    Snapshot,
    in_precision,
    is_conv1d,
    is_depthwise,
    matrix,
    shared_parameters,
    size,
    standard,
    take,
)

TOLERANCE = 1e-5
MOST_IN_DOUBLE = 2**29  # numbers of a model whose outputs are compared in float64


@dataclass(frozen=True)
class CompactLayer:
    """A layer before and after.

    Attributes
    ----------
    name : str
        Full name of the module.
    before, after : tuple of ints
        Shapes of its weight.
    macs_before, macs_after : int
        Multiplications with its weight on the example inputs.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did to a model.

    Attributes
    ----------
    layers : tuple of CompactLayer
        Linear layers and convolutions, in the order of the model.
    parameters_before, parameters_after : int
        Number of all parameters; shared ones count once.
    heads : dict of str to tuple of two ints
        Heads of queries before and after, by attention layer that lost any.
    left : dict of str to str
        Layers with dead channels or heads that stay, each with the reason.
    attributes : dict of str to dict
        Attributes of modules that changed, with their new values.
    difference : float
        Largest change of an output on the example inputs, relative to its largest
        entry.
    """

    layers: tuple[CompactLayer, ...]
    parameters_before: int
    parameters_after: int
    heads: Mapping[str, tuple[int, int]]
    left: Mapping[str, str]
    attributes: Mapping[str, Mapping[str, Any]] = field(repr=False)
    difference: float

    @property
    def macs_before(self) -> int:
        """Multiplications of all layers before."""
        return sum(layer.macs_before for layer in self.layers)

    @property
    def macs_after(self) -> int:
        """Multiplications of all layers now."""
        return sum(layer.macs_after for layer in self.layers)

    def to_record(self) -> dict[str, Any]:
        """Return plain data, for JSON.

        Returns
        -------
        dict
            Fields as above.
        """
        return {
            "layers": [
                {
                    "name": layer.name,
                    "before": list(layer.before),
                    "after": list(layer.after),
                    "macs_before": layer.macs_before,
                    "macs_after": layer.macs_after,
                }
                for layer in self.layers
            ],
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "macs_before": self.macs_before,
            "macs_after": self.macs_after,
            "heads": {name: list(counts) for name, counts in self.heads.items()},
            "left": dict(self.left),
            "attributes": {
                name: {
                    a: list(v) if isinstance(v, tuple) else v for a, v in own.items()
                }
                for name, own in self.attributes.items()
            },
            "difference": self.difference,
        }

    def __str__(self) -> str:
        lines = [
            f"compacted: {self.parameters_after} of {self.parameters_before} "
            f"parameters, {self.macs_after} of {self.macs_before} multiplications; "
            f"outputs differ by {self.difference:.1e}"
        ]
        width = max((len(layer.name) for layer in self.layers), default=0)
        for layer in self.layers:
            shapes = [" x ".join(map(str, s)) for s in (layer.before, layer.after)]
            shown = shapes[0] if shapes[0] == shapes[1] else " -> ".join(shapes)
            lines.append(f"  {layer.name:<{width}}  {shown}")
        lines += [f"  {n}: {b} -> {a} heads" for n, (b, a) in self.heads.items()]
        lines += [f"  {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


def compact(
    model: nn.Module,
    example_inputs: Any,
    *,
    exclude: str | Sequence[str] | None = None,
) -> CompactReport:
    """Take dead channels and heads out of a model in place; its outputs stay.

    Parameters
    ----------
    model : Module
        Pruned. Parameters, the mode and hooks stay what they are; of gradients the same
        rows and columns go. What the example inputs do not reach stays as it is.
    example_inputs : tensor, tuple or mapping
        What the model is called with: one tensor, positional or named arguments. Best a
        batch of two or more real inputs.
    exclude : str or sequence of str, optional
        Patterns (`fnmatch`) on full names of layers whose outputs, or heads, stay.

    Returns
    -------
    CompactReport
        Shapes, parameters and multiplications before and after, and what stayed and
        why. ``model._vitalfew_attributes`` has the attributes of modules that changed,
        for `save`.

    Raises
    ------
    MissingDependencyError
        If Torch-Pruning is not installed.
    ValueError
        If the outputs would change by more than 1e-5 of their largest entry; the message
        names the layer, and the model is left as it was. If the model makes no tensor
        with a gradient, or a pattern matches no module.

    Notes
    -----
    A channel goes when each layer that takes it either has no weights on it or always
    gets the same number from it: zero, or a constant that the layer's bias can take
    over exactly (a linear layer, or a convolution that does not pad with zeros). That
    is read off the weights and the operations between, never off the data. A channel
    that a residual sum, a concatenation or a depthwise convolution ties to others goes
    with these. Channels stay under a layer norm, which mixes them, in grouped
    convolutions, and where part of a group of a group norm lives. One channel, and one
    head, of each layer stays.

    A head goes with its columns of the output projection all zero, or its rows of the
    values; where heads share keys and values, all of these together. Only layers that
    work with any number of heads lose any.

    Outputs are compared in float64 where the model has at most 2^29 numbers and can do
    it, in float32 otherwise. The cost is a few runs of the model, one with gradients,
    and the graph of its operations.

    References
    ----------
    G. Fang, X. Ma, M. Song, M. Bi Mi and X. Wang, "DepGraph: Towards any structural
    pruning", CVPR 2023: which channels go together.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingDependencyError(
            "compacting needs Torch-Pruning: pip install 'vitalfew[compact]'"
        ) from error
    patterns = [exclude] if isinstance(exclude, str) else list(exclude or ())
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"exclude matches no module, got {pattern!r}")
    kept = {n for n in names if any(fnmatchcase(n, p) for p in patterns)}
    inputs = moved(example_inputs, device_of(model))
    snapshot = Snapshot(model)
    before = _count(model)
    check = _Check(model, inputs)
    macs_before = check.macs
    try:
        heads, left = _remove_heads(model, check, kept)
        groups, values = _trace(model, inputs, kept, torch_pruning)
        plan = _Plan(model, groups, values)
        plan.make()
        _remove_channels(plan, check)
        difference = check.difference()
    except BaseException:
        snapshot.restore()
        raise
    changed = snapshot.changed()
    known = copy.deepcopy(getattr(model, "_vitalfew_attributes", {}))
    for name, own in changed.items():
        known.setdefault(name, {}).update(own)
    if known:
        model._vitalfew_attributes = known
    after = _count(model)
    return CompactReport(
        layers=tuple(
            CompactLayer(
                name, shape, after[0][name], macs_before[name], check.macs[name]
            )
            for name, shape in before[0].items()
        ),
        parameters_before=before[1],
        parameters_after=after[1],
        heads=heads,
        left={**left, **plan.left},
        attributes=changed,
        difference=difference,
    )


def _remove_heads(
    model: nn.Module, check: "_Check", kept: set[str]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Take dead heads out; where the outputs would change, put them back."""
    found, left = attentions(model)
    heads: dict[str, tuple[int, int]] = {}
    todo = []
    for attention in found:
        dead, reason = attention.dead()
        if reason:
            left[attention.name] = reason
        if len(dead) and attention.name in kept:
            left[attention.name] = f"{len(dead)} dead heads stay: excluded"
        elif len(dead):
            todo.append((attention, dead))
            each = attention.n_queries // attention.n_keys
            now = attention.n_queries - each * len(dead)
            heads[attention.name] = attention.n_queries, now
    before = Snapshot(model)
    for attention, dead in todo:
        attention.remove(dead)
    if todo and not check.same():
        before.restore()
        for attention, dead in todo:
            before = Snapshot(model)
            attention.remove(dead)
            if not check.same():
                before.restore()
                del heads[attention.name]
                left[attention.name] = (
                    f"{len(dead)} dead heads stay: {type(attention.module).__name__} "
                    "does not work with another number of heads"
                )
    return heads, left


def _remove_channels(plan: "_Plan", check: "_Check") -> None:
    """Carry a plan out; if the outputs change, find the layer that changes them."""
    before = Snapshot(plan.model)
    plan.carry_out(len(plan.steps))
    if not plan.steps or check.same():
        return
    for n_steps in range(1, len(plan.steps) + 1):
        before.restore()
        plan.carry_out(n_steps)
        if not check.same():
            break
    step = plan.steps[n_steps - 1]
    raise ValueError(
        f"taking {step.n_channels} dead channels out of layer {step.name!r} would change "
        "the model's outputs on example_inputs, so nothing was changed; keep them with "
        f"exclude={step.name!r}"
    )


def _count(model: nn.Module) -> tuple[dict[str, tuple[int, ...]], int]:
    shapes = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if _has_macs(module)
    }
    return shapes, sum(p.numel() for p in model.parameters())


def _has_macs(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd) or is_conv1d(module)


class _Check:
    """The outputs of a model on the example inputs as they were, to compare with."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._model, self._inputs = model, inputs
        self.macs: dict[str, int] = {}
        tensors = [*model.parameters(), *model.buffers()]
        types = {t.dtype for t in tensors if t.is_floating_point()}
        few = sum(t.numel() for t in tensors) <= MOST_IN_DOUBLE
        self._type: torch.dtype | None = torch.float64 if few else torch.float32
        self.tolerance = TOLERANCE
        try:
            self._outputs = self._run()
        except (RuntimeError, TypeError, ValueError):
            # an operation or a device without this type, or a bad input: see again
            self._type = None
            eps = max((torch.finfo(t).eps for t in types), default=0.0)
            self.tolerance = max(TOLERANCE, 8 * eps)
            self._outputs = self._run()

    def same(self) -> bool:
        """Whether the outputs are still the same, up to rounding."""
        return self.difference() <= self.tolerance

    def difference(self) -> float:
        """Largest change of an output, relative to its largest entry."""
        try:
            now = self._run()
        except (RuntimeError, TypeError, ValueError, IndexError):
            return float("inf")
        if len(now) != len(self._outputs):
            return float("inf")
        return max(map(_difference, self._outputs, now), default=0.0)

    def _run(self) -> list[Tensor]:
        self.macs = {}
        handles = []
        for name, module in self._model.named_modules():
            if _has_macs(module):
                self.macs[name] = 0

                def count(m: Any, given: Any, made: Tensor, name: str = name) -> None:
                    self.macs[name] += _macs(m, given[0], made)

                handles.append(module.register_forward_hook(count))
        inputs = _in_type(self._inputs, self._type)
        try:
            with _quietly(self._model), in_precision(self._model, self._type):
                return [t.clone() for t in _tensors(_call(self._model, inputs))]
        finally:
            for handle in handles:
                handle.remove()


def _macs(module: Any, given: Tensor, made: Tensor) -> int:
    weights = int(module.weight.numel())
    if not isinstance(module, _ConvNd):
        return weights * (made.numel() // made.shape[-1])
    # each place of the output, or of the input of a transposed one, meets the kernel
    n_dims = len(module.kernel_size)
    places = given if module.transposed else made
    n = places.shape[0] if places.ndim == n_dims + 2 else 1
    return weights * int(n * np.prod(places.shape[places.ndim - n_dims :], dtype=int))


def _difference(old: Tensor, new: Tensor) -> float:
    if old.shape != new.shape:
        return float("inf")
    if old.numel() == 0 or torch.equal(old, new):
        return 0.0
    if not old.is_floating_point():
        return float("inf")
    old, new = old.to(torch.float64), new.to(torch.float64)
    finite = torch.isfinite(old)
    odd = old[~finite], new[~finite]
    if not torch.equal(finite, torch.isfinite(new)) or not bool(
        ((odd[0] == odd[1]) | (odd[0].isnan() & odd[1].isnan())).all()
    ):
        return float("inf")
    old, new = old[finite], new[finite]
    if old.numel() == 0:
        return 0.0
    largest = float(old.abs().max())
    return float((old - new).abs().max()) / largest if largest else float("inf")


@contextmanager
def _quietly(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Run a model in evaluation mode, leaving the state of random numbers alone."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with (
        torch.random.fork_rng(devices=sorted(devices, key=str)),
        torch.set_grad_enabled(gradients),
        evaluating(model),
    ):
        torch.manual_seed(0)
        yield


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _in_type(thing: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(thing, Tensor):
        return thing.to(dtype) if dtype and thing.is_floating_point() else thing
    if isinstance(thing, Mapping):
        return {name: _in_type(value, dtype) for name, value in thing.items()}
    if isinstance(thing, tuple | list):
        return type(thing)(_in_type(value, dtype) for value in thing)
    return thing


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors that a model returns, less the caches of attention layers."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for name, value in output.items():
            if name != "past_key_values":
                yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


@dataclass(frozen=True, eq=False)
class _Group:
    """Channels that go together, as the graph of operations couples them."""

    name: str
    n_channels: int
    items: list[Item]
    order: dict[int, int]
    objection: str = ""  # why none of them can go; then only the maker is an item


def _trace(
    model: nn.Module, inputs: Any, kept: set[str], tp: Any
) -> tuple[list[_Group], Values]:
    """Record the operations of a model, and group the channels that they couple."""
    parameters = list(model.parameters())
    wanted = [p.requires_grad for p in parameters]
    hooks = {m: dict(m._forward_hooks) for m in model.modules()}
    watched = [m for m in model.modules() if _side_of(m) is not None]
    try:
        for p in parameters:
            if p.is_floating_point():
                p.requires_grad_(True)
        with (
            _quietly(model, gradients=True),
            warnings.catch_warnings(),
            Values(model, watched) as values,
        ):
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph()
            graph.build_dependency(
                model,
                inputs,
                forward_fn=lambda m, x: _call(m, _leaves(x)),
                output_transform=_traced,
                customized_pruners=_pruners(model, tp),
                verbose=False,
            )
            return _groups(model, graph, _Objections(model, kept)), values
    finally:
        for module, own in hooks.items():
            for key in [k for k in module._forward_hooks if k not in own]:
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
    found = [t * 1 for t in _tensors(output) if t.requires_grad]
    if not found:
        raise ValueError(
            "the model makes no tensor with a gradient on example_inputs, so its "
            "operations cannot be followed; its forward must not run under no_grad"
        )
    return found


def _pruners(model: nn.Module, tp: Any) -> dict[Any, Any]:
    """Tell Torch-Pruning of the transposed linear layers of transformers."""

    class TransposedLinear(tp.BasePruningFunc):  # type: ignore[misc]
        # the graph tells the two sides apart by these; `take` does the cutting

        def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            raise NotImplementedError

        def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            raise NotImplementedError

        def get_out_channels(self, layer: Any) -> int:
            return size(layer, "out")

        def get_in_channels(self, layer: Any) -> int:
            return size(layer, "in")

    return {type(m): TransposedLinear() for m in model.modules() if is_conv1d(m)}


def _side_of(module: Any) -> str | None:
    """Whether a layer mixes channels, works on each by itself, or is not known."""
    if is_depthwise(module) or isinstance(module, _BatchNorm | nn.GroupNorm | nn.PReLU):
        return "both"
    if _has_macs(module) or isinstance(module, nn.Embedding):
        return "mixes"
    return None


def _groups(
    model: nn.Module, graph: Any, objection: Callable[[Item], str]
) -> list[_Group]:
    """Read off which channels go together, in full only where some may go."""
    nodes = list(graph.module2node.values())
    order = {id(node): place for place, node in enumerate(reversed(nodes))}
    names = {module: name for name, module in model.named_modules()}
    done: set[Any] = set()
    groups = []
    for module, name in names.items():
        if module in done or module not in graph.module2node:
            continue
        if _side_of(module) != "mixes":
            continue
        prune = graph.get_pruner_of_module(module).prune_out_channels
        items = _items(graph.get_pruning_group(module, prune, [0]))
        why = next(filter(None, map(objection, items)), "")
        if not why:
            every = list(range(size(module, "out")))
            items = _items(graph.get_pruning_group(module, prune, every))
            why = next(filter(None, map(objection, items)), "")
            if not why:
                groups.append(_Group(name, len(every), items, order))
        for item in items:
            maker = item.node.module
            n = size(maker, "out") if item.side == "out" else 0
            if why and n and maker not in done:
                index = np.arange(n)
                own = [Item(item.node, "out", index, index)]
                groups.append(_Group(names[maker], n, own, order, why))
            if n and (why or len(item.index) == n):
                done.add(maker)
    return groups


def _items(group: Any) -> list[Item]:
    items = []
    for entry in group:
        node = entry.dep.target
        side = "op"
        if isinstance(node.module, nn.Module):
            kind = _side_of(node.module)
            if kind == "both":
                side = "both"
            elif kind == "mixes":
                out = isinstance(node.module, nn.Embedding)
                out |= entry.dep.handler.__name__ == "prune_out_channels"
                side = "out" if out else "in"
        root = [-1 if r is None else r for r in entry.root_idxs]
        index = np.asarray(entry.idxs, dtype=np.int64)
        items.append(Item(node, side, index, np.asarray(root, dtype=np.int64)))
    return items


@dataclass(frozen=True, eq=False)
class _Step:
    """Channels of one group that go, and constants that biases take over."""

    name: str
    n_channels: int
    cuts: list[tuple[Any, str, Indices]]
    folds: list[tuple[Any, Indices, Any]]


class _Plan:
    """What to take out of a model, group by group."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[_Group],
        values: Values,
    ) -> None:
        self.model = model
        self.steps: list[_Step] = []
        self.left: dict[str, str] = {}
        self._values, self._groups = values, groups
        self._names = {module: name for name, module in model.named_modules()}
        self._alive: dict[tuple[Any, str], Mask] = {}

    def alive(self, module: Any, side: str) -> Mask:
        """Outputs, or inputs, of a layer that are not taken out yet."""
        side = "both" if _side_of(module) == "both" else side
        mask = self._alive.get((module, side))
        if mask is None:
            mask = np.ones(size(module, side), dtype=bool)
            self._alive[module, side] = mask
        return mask

    def make(self) -> None:
        """Go through the groups until no channel dies by the death of another."""
        changed = True
        while changed:
            self.left = {}
            changed = False
            for group in self._groups:
                changed |= self._look_at(group)

    def carry_out(self, n_steps: int) -> None:
        """Take out what the first steps say."""
        alive: dict[tuple[Any, str], Mask] = {}
        for step in self.steps[:n_steps]:
            for module, columns, constants in step.folds:
                weights = matrix(module).to(torch.float64).sum(dim=2)[:, columns]
                more = weights @ torch.as_tensor(constants, device=weights.device)
                bias = module.bias
                bias.data = (bias.data.to(torch.float64) + more).to(bias.dtype)
        for step in self.steps[:n_steps]:
            for module, side, index in step.cuts:
                key = module, side
                if key not in alive:
                    alive[key] = np.ones(size(module, side), dtype=bool)
                alive[key][index] = False
        for (module, side), mask in alive.items():
            take(module, side, np.flatnonzero(mask))

    def _look_at(self, group: _Group) -> bool:
        """Add what can go from a group; say what cannot and why."""
        here = self.alive(self.model.get_submodule(group.name), "out").copy()
        asleep, some = self._without_weights(group)
        asleep &= here
        if group.objection and asleep.any():
            self.left[group.name] = f"{_some(asleep)} {group.objection}"
        if group.objection or not (some & here).any():
            return False
        goes = here.copy()
        reason = ""
        folds: list[tuple[Item, Any]] = []
        kinds = kinds_in_group(
            group.items, group.n_channels, group.order, self._values, self.alive
        )
        for item in group.items:
            if item.side == "in":
                free, constants, why = self._at_consumer(item, kinds(item))
                lost = asleep & goes & ~free
                if lost.any() and why:
                    reason = why
                goes &= free
                folds.append((item, constants))
        if (goes == here).all():  # one stays
            goes[np.flatnonzero(here)[0]] = asleep[np.flatnonzero(here)[0]] = False
        goes, parted = _in_whole_norm_groups(group, goes)
        if parted and not reason:
            reason = "a group norm needs groups of equal size"
        stay = asleep & ~goes
        if stay.any() and reason:
            self.left[group.name] = f"{_some(stay)} {reason}"
        if not goes.any():
            return False
        self._add(group, goes, folds)
        return True

    def _add(self, group: _Group, goes: Mask, folds: list[tuple[Item, Any]]) -> None:
        step = _Step(group.name, int(goes.sum()), [], [])
        for item, constants in folds:
            module = item.node.module
            gone = goes[item.root] & self.alive(module, "in")[item.index]
            columns, numbers = item.index[gone], constants[gone]
            used = self._used_columns(module)[columns] & (numbers != 0)
            if used.any():
                step.folds.append((module, columns[used], numbers[used]))
        for item in group.items:
            if item.side == "op":
                continue
            module, index = item.node.module, item.index[goes[item.root]]
            if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                continue
            self.alive(module, item.side)[index] = False
            step.cuts.append((module, item.side, index))
        self.steps.append(step)

    def _without_weights(self, group: _Group) -> tuple[Mask, Mask]:
        """Channels that nothing makes or nothing takes, and all that may be constant."""
        made = np.zeros(group.n_channels, dtype=bool)
        used = np.zeros(group.n_channels, dtype=bool)
        some = np.zeros(group.n_channels, dtype=bool)
        for item in group.items:
            module, index, root = item.node.module, item.index, item.root
            if item.side == "out":
                empty = row_is_empty(module, self.alive(module, "in"))[index]
                made[root[~empty]] = True
                some[root[empty]] = True
            elif item.side == "in":
                used[root[self._used_columns(module)[index]]] = True
            elif item.side == "both" and not isinstance(module, nn.PReLU):
                some[root[ignores_input(module)[index]]] = True
        taken = any(item.side == "in" for item in group.items)
        asleep = ~made | (~used & taken)
        return asleep, asleep | some

    def _used_columns(self, module: Any) -> Mask:
        weights = matrix(module).ne(0).any(dim=2)
        rows = torch.as_tensor(
            np.flatnonzero(self.alive(module, "out")), device=weights.device
        )
        columns: Mask = weights[rows].any(dim=0).cpu().numpy()
        return columns

    def _at_consumer(self, item: Item, kinds: Any) -> tuple[Mask, Any, str]:
        """Which channels a layer can do without, given which constants for its bias."""
        module = item.node.module
        used = self._used_columns(module)[item.index]
        kind = kinds[item.root]
        constants = self._values.at(module, "in", item.index)
        constants = np.where((kind == ZERO) | ~used, 0.0, constants)
        constant = (kind >= CONSTANT) & ~np.isnan(constants)
        why = ""
        folds = used & constant & (constants != 0)
        if folds.any():
            name = self._names[module]
            if module.bias is None:
                why = f"they are constants, and {name!r} has no bias to take them"
            elif isinstance(module, _ConvNd) and not is_unpadded(module):
                why = f"they are constants, which {name!r} pads with zeros"
            elif module.bias.dtype not in (torch.float32, torch.float64):
                why = (
                    f"they are constants, which round in a bias of {module.bias.dtype}"
                )
            if why:
                constant &= ~folds
        elif (used & (kind == VARIES)).any():
            why = f"{self._names[module]!r} uses them"
        bad = np.zeros(len(kinds), dtype=bool)
        np.logical_or.at(bad, item.root, used & ~constant)
        return ~bad, np.where(constant, constants, 0.0), why


def _in_whole_norm_groups(group: _Group, goes: Mask) -> tuple[Mask, bool]:
    """Keep channels whose group in a group norm does not go as a whole."""
    goes, before = goes.copy(), goes
    while True:
        now = goes.copy()
        for item in group.items:
            norm = item.node.module
            if isinstance(norm, nn.GroupNorm):
                width = norm.num_channels // norm.num_groups
                gone = np.bincount(item.index[goes[item.root]] // width, minlength=1)
                whole = np.flatnonzero(gone == width)
                parted = ~np.isin(item.index // width, whole)
                goes[item.root[parted]] = False
        if (now == goes).all():
            return goes, bool((before & ~goes).any())


def _some(channels: Mask) -> str:
    n = int(channels.sum())
    return f"{n} dead channel{'s stay' if n > 1 else ' stays'}:"


class _Objections:
    """Why no channel of a group can be taken out; empty if nothing speaks against it."""

    def __init__(self, model: nn.Module, kept: set[str]) -> None:
        self._kept = kept
        self._shared = shared_parameters(model)
        self._names = {module: name for name, module in model.named_modules()}

    def __call__(self, item: Item) -> str:
        module = item.node.module
        if item.side == "op":
            return _objection_to_operation(item.node)
        name = self._names[module]
        if item.side != "in" and name in self._kept:
            return f"{name!r} is excluded"
        if not standard(module):
            return f"{name!r} is not a plain {type(module).__name__}"
        if any(id(p) in self._shared for p in module._parameters.values()):
            return f"{name!r} shares its weights"
        if getattr(module, "groups", 1) != 1 and not is_depthwise(module):
            return f"{name!r} is a grouped convolution"
        single = isinstance(module, nn.PReLU) and module.num_parameters == 1
        twice = item.side == "out" and len(np.unique(item.root)) != len(item.root)
        beyond = not single and (item.index >= size(module, item.side)).any()
        if twice or beyond or (item.root < 0).any():
            return f"{name!r} has another number of channels"
        return ""


_NAMED = {
    "_OutputOp": "they are outputs of the model",
    "LayerNorm": "a layer norm mixes them",
    "MultiheadAttention": "attention mixes them",
    "LSTM": "a recurrent layer mixes them",
    "Parameter": "a parameter outside the known layers goes with them",
}


def _objection_to_operation(node: Any) -> str:
    """Why channels cannot be followed through an operation; empty if they can."""
    kind = type(node.module).__name__
    if kind in _NAMED:
        return _NAMED[kind]
    if isinstance(node.module, nn.Parameter):
        return _NAMED["Parameter"]
    if not kind.startswith("_"):
        return f"{kind} is not known to treat each by itself"
    if is_weight(node):
        return ""
    name = operation(node)
    if not inputs_of(node):
        return "an input of the model goes with them"
    shape = tuple(node.grad_fn._input_metadata[0].shape)
    before = getattr(node.grad_fn, "_saved_self_sym_sizes", shape)
    dims = only_dims(getattr(node.grad_fn, "_saved_dim", 0), max(len(before), 1))
    if name in ("cat", "split", "splitwithsizes"):
        mapped = name == "cat" or len(before) in (2, 4, 5)
        others = node.inputs if name == "cat" else node.outputs
        part = 1 if name == "cat" else 0
        mapped &= len(shape) in (2, 4, 5) and dims == {1}
        for other in others:
            edges = [d for d in node.dependencies if d.target is other]
            mapped &= all(d.index_mapping[part] is not None for d in edges)
        return "" if mapped else f"{name!r} along another dimension joins them"
    known = name in CHANNELWISE
    if name in ("addmm", "mm"):
        known = _feeds_its_layer(node)
    elif name in ("mean", "sum", "amax", "slice"):
        known = len(before) >= 4 and min(dims) >= 2
    elif name in ("view", "unsafeview", "reshapealias"):
        flattened = len(shape) == 2 and shape[0] == before[0]
        known = before[-1] == shape[-1] or flattened or before[:2] == shape[:2]
    return "" if known else f"{name!r} mixes them or is not known"


def _feeds_its_layer(node: Any) -> bool:
    """Whether a product is that of the linear layer that comes next."""
    after = node
    while len(after.outputs) == 1 and not _has_macs(after.module):
        after = after.outputs[0]
    if not _has_macs(after.module):
        return False
    weight = after.module.weight
    for function, _ in node.grad_fn.next_functions:
        given = (function, *(f for f, _ in getattr(function, "next_functions", ())))
        if any(getattr(f, "variable", None) is weight for f in given):
            return True
    return False
