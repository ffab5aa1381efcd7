"""What is explained: a value at points, and its gradient there."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import (
    as_array,
    is_array_api_obj,
    is_numpy_array,
    namespace,
    to_host,
)
from vitalfew._validation import check_finite
from vitalfew.contracts import Array, Ints

TARGETS = ("softmax", "logit", "loss")
COPIES = 6  # of a point that are in memory at once, beside what the model keeps


class Explained(ABC):
    """A model and a target, bound to the inputs that are explained.

    Points belong to inputs: `owners` says to which row, so that each is judged by the
    class of its own input.
    """

    inputs: Array  # (n, *shape), in the library, on the device of the model

    @abstractmethod
    def value(self, points: Array, owners: Ints) -> Array:
        """Return the target at points (m, *shape), shape (m,)."""

    @abstractmethod
    def gradient(self, points: Array, owners: Ints) -> Array:
        """Return the gradient of the target at each of the points, (m, *shape)."""

    @abstractmethod
    def outcome(self, points: Array, owners: Ints) -> tuple[Array, Array | None]:
        """Return the target, and logarithms of all probabilities, (m, C), if known."""

    @abstractmethod
    def point_bytes(self) -> int:
        """Return the memory that a gradient takes, for each of the points."""


@contextmanager
def explained(
    model: Any,
    inputs: Any,
    classes: Any,
    target: str,
    *,
    forward: Callable[..., Any] | None = None,
    given: Mapping[str, Any] | None = None,
    amp: Any = None,
) -> Iterator[Explained]:
    """Bind a model to inputs; within the context it is in evaluation mode.

    Parameters
    ----------
    model : torch Module or callable
        As in `vitalfew.attribution.Attribution`, and so are the others.
    inputs : array of shape (n, *shape)
        What is explained.
    classes : int, array of shape (n,) or None
        Of each input.
    target : {"softmax", "logit", "loss"}
        What of the outputs is explained.
    forward : callable, optional
        In place of the model.
    given : mapping, optional
        Further arguments.
    amp : torch dtype, optional
        Of the model's arithmetic.

    Yields
    ------
    Explained
        Bound.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    shape = getattr(inputs, "shape", None)
    inputs = inputs if is_array_api_obj(inputs) else np.asarray(inputs)
    if inputs.ndim < 2 or 0 in inputs.shape:
        raise ValueError(
            "inputs must have one row for each thing to explain, shape (n, ...) "
            f"without a length of zero, got shape {tuple(shape or inputs.shape)}"
        )
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from vitalfew.attribution._network import bound

        with bound(model, inputs, classes, target, forward, given, amp) as network:
            check_finite("inputs", network.inputs)
            yield network
        return
    for name, value in {"forward": forward, "given": given, "amp": amp}.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None unless the model is a torch.nn.Module, got a "
                f"model of type {type(model).__name__}"
            )
    if not callable(model):
        raise ValueError(
            "model must be a torch.nn.Module or a function f(x) -> (value, gradient) "
            f"of NumPy arrays, got {type(model).__name__}"
        )
    function = _Function(model, inputs, classes)
    check_finite("inputs", function.inputs)
    yield function


class _Function(Explained):
    """A function of NumPy arrays that returns values and gradients."""

    def __init__(
        self, function: Callable[..., Any], inputs: Array, classes: Any
    ) -> None:
        x = to_host(inputs)
        self.function = function
        self.inputs = x if x.dtype.kind == "f" else x.astype(np.float64)
        self.classes: NDArray[Any] | None = None
        if classes is not None:
            given = np.asarray(
                to_host(classes) if is_array_api_obj(classes) else classes
            )
            if given.ndim and len(given) != len(x):
                raise ValueError(
                    f"classes must have one entry for each of the {len(x)} inputs, "
                    f"got shape {given.shape}"
                )
            self.classes = given if given.ndim else np.full(len(x), given)

    def value(self, points: Array, owners: Ints) -> Array:
        found = self._call(points, owners)
        return self._checked(found[0] if isinstance(found, tuple) else found, points)

    def gradient(self, points: Array, owners: Ints) -> Array:
        found = self._call(points, owners)
        if not isinstance(found, tuple) or len(found) != 2 or found[1] is None:
            raise ValueError(
                "the model must return a pair (value, gradient), got "
                f"{type(found).__name__}: it cannot be differentiated otherwise"
            )
        self._checked(found[0], points)
        gradient = np.asarray(found[1])
        if gradient.shape != points.shape:
            raise ValueError(
                "the model must return gradients of the shape of its argument, "
                f"{points.shape}, got {gradient.shape}"
            )
        return gradient.astype(self.inputs.dtype, copy=False)

    def outcome(self, points: Array, owners: Ints) -> tuple[Array, Array | None]:
        return self.value(points, owners), None

    def point_bytes(self) -> int:
        return COPIES * int(self.inputs[0].nbytes)

    def _call(self, points: Array, owners: Ints) -> Any:
        if self.classes is None:
            return self.function(points)
        return self.function(points, self.classes[owners])

    def _checked(self, value: Any, points: Array) -> NDArray[Any]:
        host = np.asarray(value)
        if host.shape != (len(points),):
            raise ValueError(
                "the model must return one value for each row of its argument, shape "
                f"({len(points)},), got {host.shape}"
            )
        return host.astype(self.inputs.dtype, copy=False)


def baseline_of(baseline: Any, inputs: Array) -> Array:
    """Return a baseline, a number or an array, in the shape of the inputs."""
    given = baseline if is_array_api_obj(baseline) else np.asarray(baseline)
    array = as_array(given, inputs)
    check_finite("baseline", array)
    try:
        return namespace(inputs).broadcast_to(array, inputs.shape)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "baseline must be a number or an array that broadcasts to the inputs, "
            f"shape {tuple(inputs.shape)}, got shape {tuple(array.shape)}"
        ) from error


def like_given(result: Array, given: Any) -> Array:
    """Return an array in the library, on the device of the one that was given."""
    if not is_array_api_obj(given) or is_numpy_array(given):
        return to_host(result)
    if namespace(result) is namespace(given):
        return result.to(given.device)
    return namespace(given).asarray(to_host(result), device=given.device)
