"""How long a network takes as it is and compiled."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitalfew.neural import same_random_state
from vitalfew.neural.batches import moved, split


@dataclass(frozen=True)
class LayerTimes:
    """Microseconds of one layer, by itself.

    Attributes
    ----------
    before, after : float
        By torch, which multiplies by zeros, and by what was chosen.
    kernel : str
        What that is.
    """

    before: float
    after: float
    kernel: str


@dataclass(frozen=True)
class Times:
    """Microseconds of a network on one batch.

    Attributes
    ----------
    before, after : float
        By torch, and compiled.
    layers : mapping of str to LayerTimes
        By the name of the layer.
    threads : int
        As many as torch uses.
    notes : tuple of str
        What else is to be known.
    """

    before: float
    after: float
    layers: Mapping[str, LayerTimes]
    threads: int
    notes: tuple[str, ...]


def times_of(model: nn.Module, batch: Any) -> Times:
    """Measure a network with `vitalfew.runtime.compile`, in single precision.

    Parameters
    ----------
    model : Module
        Left as it is.
    batch : tensor, pair or mapping
        Whose inputs it is called with; targets of a pair are not used.

    Returns
    -------
    Times
        On the CPU.
    """
    from vitalfew import runtime

    inputs = _single(moved(split(batch)[0], torch.device("cpu")))
    held = [*model.parameters(), *model.buffers()]
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in held):
        model = copy.deepcopy(model).float()
    with same_random_state():
        found = runtime.compile(model, inputs).explain()
    layers: dict[str, LayerTimes] = {}
    for each in found.layers:
        one = LayerTimes(each.before, each.after, each.kernel)
        other = layers.get(each.name)  # called more than once
        if other is not None:
            kernels = dict.fromkeys([*other.kernel.split(", "), one.kernel])
            one = LayerTimes(
                other.before + one.before, other.after + one.after, ", ".join(kernels)
            )
        layers[each.name] = one
    notes = []
    if found.reason:
        notes.append(f"compiled by parts: {found.reason}".splitlines()[0])
    threads = torch.get_num_threads()
    return Times(found.before, found.after, layers, threads, tuple(notes))


def _single(thing: Any) -> Any:
    """Return tensors, or what holds them, in single precision."""
    if isinstance(thing, torch.Tensor):
        return thing.float() if thing.is_floating_point() else thing
    if isinstance(thing, Mapping):
        return {name: _single(value) for name, value in thing.items()}
    if isinstance(thing, tuple | list):
        return tuple(_single(value) for value in thing)
    return thing
