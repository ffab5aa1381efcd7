"""Take dead channels and heads out of a network, which then computes the same."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from vitalfew.exceptions import MissingDependencyError
from vitalfew.neural.batches import moved
from vitalfew.neural.modes import device_of
from vitalfew.pruning._constants import (
    CONSTANT,
    VARIES,
    ZERO,
    Mask,
    Values,
    ignores_input,
    is_unpadded,
    kinds_in_group,
    row_is_empty,
)
from vitalfew.pruning._coupling import (
    Group,
    Item,
    coupled_channels,
    side_of,
)
from vitalfew.pruning._heads import attentions
from vitalfew.pruning._outputs import Outputs, has_macs
from vitalfew.pruning._surgery import Indices, Snapshot, matrix, size, take


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
        If the outputs would change by more than 1e-5 of their largest entry; the
        message names the layer, and the model is left as it was. If the operations of
        the model cannot be followed, or a pattern matches no module.

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
    check = Outputs(model, inputs)
    macs_before = check.macs
    try:
        heads, left = _remove_heads(model, check, kept)
        groups = coupled_channels(model, inputs, kept, torch_pruning)
        plan = _Plan(model, groups, Values(model, inputs))
        plan.make()
        difference = _remove_channels(plan, check)
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
    model: nn.Module, check: Outputs, kept: set[str]
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


def _remove_channels(plan: "_Plan", check: Outputs) -> float:
    """Carry a plan out; if the outputs change, find the layer that changes them."""
    before = Snapshot(plan.model)
    plan.carry_out(len(plan.steps))
    difference = check.difference()
    if difference <= check.tolerance:
        return difference
    before.restore()
    if not check.same():
        raise ValueError("the model's outputs on example_inputs differ from run to run")
    for n_steps in range(1, len(plan.steps) + 1):
        before.restore()
        plan.carry_out(n_steps)
        if not check.same():
            break
    step = plan.steps[n_steps - 1]
    raise ValueError(
        f"taking {step.n_channels} dead channels out of layer {step.name!r} would "
        "change the model's outputs on example_inputs, so nothing was changed; keep "
        f"them with exclude={step.name!r}"
    )


def _count(model: nn.Module) -> tuple[dict[str, tuple[int, ...]], int]:
    shapes = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if has_macs(module)
    }
    return shapes, sum(p.numel() for p in model.parameters())


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
        groups: list[Group],
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
        side = "both" if side_of(module) == "both" else side
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
                weights = matrix(module)[:, columns].cpu().to(torch.float64)
                more = weights.sum(dim=2) @ torch.as_tensor(constants)
                bias = module.bias
                total = bias.detach().cpu().to(torch.float64) + more
                bias.data = total.to(bias.dtype).to(bias.device)
        for step in self.steps[:n_steps]:
            for module, side, index in step.cuts:
                key = module, side
                if key not in alive:
                    alive[key] = np.ones(size(module, side), dtype=bool)
                alive[key][index] = False
        for (module, side), mask in alive.items():
            take(module, side, np.flatnonzero(mask))

    def _look_at(self, group: Group) -> bool:
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
        kinds = kinds_in_group(group, self._values, self.alive)
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

    def _add(self, group: Group, goes: Mask, folds: list[tuple[Item, Any]]) -> None:
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
            self.alive(module, item.side)[index] = False
            step.cuts.append((module, item.side, index))
        self.steps.append(step)

    def _without_weights(self, group: Group) -> tuple[Mask, Mask]:
        """Channels that nothing makes or nothing takes; and all that may be dead."""
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
        rows = torch.as_tensor(self.alive(module, "out"), device=weights.device)
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


def _in_whole_norm_groups(group: Group, goes: Mask) -> tuple[Mask, bool]:
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
