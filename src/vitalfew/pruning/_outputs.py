"""Outputs of a network before and after a change, and what they cost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vitalfew.neural import evaluating, same_random_state
from vitalfew.pruning._surgery import in_precision, is_conv1d

TOLERANCE = 1e-5
MOST_IN_DOUBLE = 2**29  # numbers of a model whose outputs are compared in float64


def has_macs(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a convolution, which `Outputs` counts."""
    return isinstance(module, nn.Linear | _ConvNd) or is_conv1d(module)


class Outputs:
    """The outputs of a model as they were, to compare with.

    Parameters
    ----------
    model : Module
        Run at once, in evaluation mode; in float64 where it can be.
    inputs : tensor, tuple or mapping
        What it is called with.

    Attributes
    ----------
    macs : dict of str to int
        Multiplications with the weight of each layer in the latest run.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._model, self._inputs = model, inputs
        self.macs: dict[str, int] = {}
        held = [*model.parameters(), *model.buffers()]
        types = {t.dtype for t in held if t.is_floating_point()}
        few = sum(t.numel() for t in held) <= MOST_IN_DOUBLE
        self._type: torch.dtype | None = torch.float64 if few else torch.float32
        self.tolerance = TOLERANCE
        try:
            self._outputs = self._run()
        except (RuntimeError, TypeError, ValueError):
            # an operation or a device without this type; a bad input raises once more
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
            if has_macs(module):
                self.macs[name] = 0

                def count(
                    m: Any, args: Any, named: Any, made: Any, name: str = name
                ) -> None:
                    given = args[0] if args else next(iter(named.values()))
                    self.macs[name] += _macs(m, given, made)

                handles.append(module.register_forward_hook(count, with_kwargs=True))
        inputs = _in_type(self._inputs, self._type)
        try:
            with quietly(self._model), in_precision(self._model, self._type):
                return [t.clone() for t in tensors(call(self._model, inputs))]
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
def quietly(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Run a model in evaluation mode, leaving the state of random numbers alone."""
    with (
        same_random_state(),
        torch.set_grad_enabled(gradients),
        evaluating(model),
    ):
        torch.manual_seed(0)
        yield


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with one tensor, with positional or with named arguments."""
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


def tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors that a model returns, less the caches of attention layers."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for name, value in output.items():
            if name != "past_key_values":
                yield from tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors(value)
