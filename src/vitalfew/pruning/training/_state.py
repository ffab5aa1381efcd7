"""What a saved state must be like before a Pruner goes on from it."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitalfew.exceptions import DataError
from vitalfew.pruning.training._contracts import Phase
from vitalfew.pruning.training._site import Site


def check_state(
    state: Mapping[str, Any],
    sites: Sequence[Site],
    known: Mapping[str, Tensor],
    phases: Sequence[Phase],
) -> None:
    """Raise unless a state holds all there is to go on from, of the right shapes.

    Parameters
    ----------
    state : mapping
        As `Pruner.state_dict` returns it; from a file that nobody vouches for.
    sites : sequence of Site
        The layers that are pruned.
    known : mapping of str to tensor
        Parameters and buffers of the model, by name.
    phases : sequence of Phase
        Of the schedule.

    Raises
    ------
    DataError
        If something is missing, of another type or shape, or not finite.
    """
    names = {site.name for site in sites}
    check(_is_count(state.get("n_steps")), "n_steps is no number of steps")
    check(isinstance(state.get("finished"), bool), "finished is neither true nor false")
    for key in ("kept", "seen", "n_seen"):
        check(_has(state.get(key), names), f"{key} is not of the pruned layers")
    watched = {site.name for site in sites if site.gate.inputs is not None}
    check(_has(state.get("inputs"), watched), "inputs are not of the pruned layers")
    for site in sites:
        _check_layer(state, site)
    _check_snapshots(state.get("snapshots"), sites, known)
    rows, said = state.get("history"), {str(phase.name) for phase in phases}
    check(
        isinstance(rows, list) and all(_is_row(row, said) for row in rows),
        "history is no list of events",
    )


def _check_layer(state: Mapping[str, Any], site: Site) -> None:
    kept, n_seen = state["kept"][site.name], state["n_seen"][site.name]
    of = f"of layer {site.name!r}"
    marks = _is_tensor(kept, (site.n_atoms,)) and kept.dtype is torch.bool
    check(marks, f"kept {of} does not mark {site.n_atoms} atoms")
    check(_is_count(n_seen), f"n_seen {of} is no number of steps")
    collected = site.gate.score.needs - {"hessian"} if n_seen else set()
    seen = state["seen"][site.name]
    check(_has(seen, collected), f"seen {of} has not just {sorted(collected)}")
    for name, tensor in seen.items():
        right = _is_finite(tensor, site.tiles.shape) and tensor.dtype is torch.float32
        check(right, f"{name} {of} is not finite, or not of shape {site.tiles.shape}")
    if site.gate.inputs is not None:
        sums, own = state["inputs"][site.name], site.gate.inputs.sums()
        check(_has(sums, set(own)), f"inputs {of} have not just {sorted(own)}")
        right = all(_is_finite(sums[name], own[name].shape) for name in own)
        right = right and 0 <= float(sums["seen"]) <= 1.001  # a share, as rounded
        check(right, f"inputs {of} are no means, or of other shapes")


def _check_snapshots(
    found: Any, sites: Sequence[Site], known: Mapping[str, Tensor]
) -> None:
    parts = {"remembered", "means", "n_means"}
    check(_has(found, parts), f"snapshots have not just {sorted(parts)}")
    own = {id(site.layer.parameter) for site in sites}
    weights = {name for name, tensor in known.items() if id(tensor) in own}
    for part in ("remembered", "means"):
        tensors = found[part]
        check(isinstance(tensors, dict), f"{part} is no dictionary")
        check(not tensors or weights <= set(tensors), f"{part} has not all weights")
        for name, tensor in tensors.items():
            here = known.get(name)
            right = here is not None and _is_tensor(tensor, here.shape)
            if part == "means":
                right = right and tensor.is_floating_point()
            else:
                right = right and tensor.dtype is here.dtype  # type: ignore[union-attr]
            check(right, f"{part} has {name!r} unlike the model")
    counted = _is_count(found["n_means"])
    check(counted and bool(found["n_means"]) == bool(found["means"]), "n_means is off")


def check(right: bool, wrong: str) -> None:
    """Raise unless something of a state is right; otherwise say what is wrong."""
    if not right:
        raise DataError(
            f"this state of a Pruner is damaged, {wrong}: load an earlier one; nothing "
            "was changed"
        )


def _has(found: Any, names: Collection[str]) -> bool:
    """Whether something is a dictionary of just these names."""
    return isinstance(found, dict) and found.keys() == set(names)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_tensor(value: Any, shape: Sequence[int]) -> bool:
    """Whether something is a dense tensor of a shape, with values."""
    dense = isinstance(value, Tensor) and value.layout is torch.strided
    return dense and not value.is_meta and tuple(value.shape) == tuple(shape)


def _is_finite(value: Any, shape: Sequence[int]) -> bool:
    real = _is_tensor(value, shape) and value.is_floating_point()
    return real and bool(torch.isfinite(value).all())


def _is_row(row: Any, phases: set[str]) -> bool:
    """Whether something is an event as `History.to_rows` returns it."""
    if not isinstance(row, list) or len(row) != 6:
        return False
    step, phase, sparsity, kept, changed, loss = row
    numbers = [sparsity, *([] if loss is None else [loss])]
    return (
        all(map(_is_count, (step, kept, changed)))
        and isinstance(phase, str)
        and phase in phases
        and all(isinstance(x, float) and math.isfinite(x) for x in numbers)
    )
