"""Any smooth function of the user's own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vitalfew._arrays import as_array, is_array_api_obj, namespace, zeros
from vitalfew.contracts import Array, Shape
from vitalfew.exceptions import MissingDependencyError
from vitalfew.objectives._base import BaseObjective


class Smooth(BaseObjective):
    """A function of the user's, with its gradient or with torch finding it.

    Parameters
    ----------
    function : callable
        Takes a point of shape `shape`, returns a number. Without `gradient` it takes
        and returns torch tensors and is differentiated automatically.
    shape : int or tuple of int
        Shape of the point.
    gradient : callable, optional
        Takes the same point, returns an array of its shape.
    like : array, optional
        An array of the library, dtype and device that points shall have; double
        precision on the CPU by default, NumPy with `gradient` and torch without.

    Raises
    ------
    MissingDependencyError
        If there is no `gradient` and torch is not installed.

    Notes
    -----
    A refit is L-BFGS over the span; it costs a few tens of evaluations.

    Examples
    --------
    >>> import numpy as np
    >>> f = Smooth(lambda x: ((x - 1) ** 2).sum(), 3, gradient=lambda x: 2 * (x - 1))
    >>> f.value_and_gradient(np.zeros(3))[0]
    3.0
    """

    def __init__(
        self,
        function: Callable[[Array], Any],
        shape: int | Shape,
        *,
        gradient: Callable[[Array], Array] | None = None,
        like: Array | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        sizes = shape if isinstance(shape, tuple | list) else (shape,)
        self.shape = tuple(int(size) for size in sizes)
        self.function, self.gradient = function, gradient
        if like is None:
            like = np.zeros(0) if gradient is not None else _torch_zeros()
        self.like = like
        value, slope = self.value_and_gradient(zeros(self.shape, like))
        if not np.isfinite(value):
            raise ValueError(f"function must be finite at zero, got {value}")
        if tuple(slope.shape) != self.shape:
            raise ValueError(
                f"gradient must return an array of shape {self.shape}, "
                f"got {tuple(slope.shape)}"
            )

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`."""
        x = as_array(x, self.like)
        if self.gradient is None:
            return self._by_torch(x)
        g = self.gradient(x)
        return float(self.function(x)), as_array(g, self.like)

    def _by_torch(self, x: Array) -> tuple[float, Array]:
        import torch

        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self.function(x)
            if not is_array_api_obj(value) or namespace(value) is not namespace(x):
                raise TypeError(
                    "function must return a torch tensor to be differentiated, got "
                    f"{type(value).__name__}; give gradient= for a NumPy function"
                )
            (g,) = torch.autograd.grad(value, x)
        return float(value.detach()), g


def _torch_zeros() -> Array:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "Smooth without gradient= needs torch: pip install 'vitalfew[torch]'"
        ) from error
    return torch.zeros(0, dtype=torch.float64)
