"""What all methods of attribution share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import to_host
from vitalfew.attribution._explained import (
    Explained,
    baseline_of,
    explained,
    like_given,
)
from vitalfew.attribution._paths import points_together, values
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False)
class Explanation:
    """Scores of inputs, and what they should add up to.

    Attributes
    ----------
    scores : array of shape (n, *shape)
        Of each entry of each input.
    values : float array of shape (n,)
        The target at the inputs.
    baseline_values : float array of shape (n,)
        The target where the paths start.
    gaps : float array of shape (n,), or None
        How far scores are from adding up to the difference of the two: small where
        there are steps enough. None for scores that are ranks.
    n_gradients : int
        Gradients evaluated for each input.
    method : str
        Name of the method.
    """

    scores: Array
    values: NDArray[Any]
    baseline_values: NDArray[Any]
    gaps: NDArray[Any] | None
    n_gradients: int
    method: str


@dataclass(frozen=True, eq=False)
class Attribution(ABC):
    """A way of scoring the entries of inputs by what they do to one output.

    Parameters
    ----------
    model : torch Module or callable
        A network that takes inputs (n, *shape) and returns logits (n, C), logits of
        several predictions (n, ..., C), or single outputs (n,) or (n, 1); or a
        function of NumPy arrays that returns one value for each row, (n,), and its
        gradient, (n, *shape). It is called as ``f(x)``, and as ``f(x, classes)``
        where classes are given.
    target : {"softmax", "logit", "loss"}, default="softmax"
        What of a network is explained: the probability of the class, its logit, or
        minus the loss (the cross-entropy for integer classes, the mean squared error
        for others). A single output counts as the logit of class 1 against class 0.
        Functions say themselves what they return.
    baseline : float or array, default=0.0
        What stands for "not there"; broadcasts to the inputs.
    forward : callable, optional
        Called in place of the network: for inputs that are embeddings of tokens, a
        mask over the edges of a graph, or anything else it is called with in a way of
        its own. It gets the points and, by name, what is `given` to `attribute`.
    amp : torch dtype, optional
        Run the network in this precision (``torch.autocast``); sums are in single
        precision. Small gradients vanish in float16: prefer bfloat16.
    memory : float, default=2**28
        Bytes that points, gradients and what the network keeps for them may take. At
        least one point is evaluated at once, whatever it takes.
    """

    model: Any
    target: str = "softmax"
    _: KW_ONLY
    baseline: Any = 0.0
    forward: Callable[..., Any] | None = None
    amp: Any = None
    memory: float = 2**28

    complete: ClassVar[bool] = True  # whether scores should add up

    def attribute(
        self,
        inputs: Any,
        classes: Any = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> Array:
        """Return the scores of inputs.

        Parameters
        ----------
        inputs : array of shape (n, *shape)
            NumPy or torch, on any device.
        classes : int or integer array of shape (n,), optional
            Whose output is explained; the predicted class by default. For several
            predictions (n, ...), whose mean is explained; those of -100 do not count.
        given : mapping of str to object, optional
            Further arguments of the network by name; tensors of n rows go with the
            inputs row by row.

        Returns
        -------
        array of shape (n, *shape)
            Of the library and on the device of the inputs.
        """
        with self._bound(inputs, classes, given) as function:
            together = points_together(function, self.memory)
            scores, _ = self._scores(function, together)
        return like_given(scores, inputs)

    def explain(
        self,
        inputs: Any,
        classes: Any = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Return scores with the values of the target and the completeness gap.

        Parameters
        ----------
        inputs : array of shape (n, *shape)
            As in `attribute`.
        classes : int or integer array of shape (n,), optional
            As in `attribute`.
        given : mapping of str to object, optional
            As in `attribute`.

        Returns
        -------
        Explanation
            Two evaluations of each input more than `attribute`.
        """
        with self._bound(inputs, classes, given) as function:
            together = points_together(function, self.memory)
            scores, n_gradients = self._scores(function, together)
            at_end = to_host(values(function, function.inputs, together))
            at_start = to_host(values(function, self._start(function), together))
        gaps = None
        if self.complete:
            flat = to_host(scores).reshape(len(at_end), -1)
            gaps = at_end - at_start - flat.sum(1, dtype=np.float64)
        return Explanation(
            scores=like_given(scores, inputs),
            values=at_end,
            baseline_values=at_start,
            gaps=gaps,
            n_gradients=n_gradients,
            method=type(self).__name__,
        )

    def _bound(self, inputs: Any, classes: Any, given: Any) -> Any:
        return explained(
            self.model,
            inputs,
            classes,
            self.target,
            forward=self.forward,
            given=given,
            amp=self.amp,
        )

    def _start(self, function: Explained) -> Array:
        """Return the points where the paths start."""
        return baseline_of(self.baseline, function.inputs)

    @abstractmethod
    def _scores(self, function: Explained, together: int) -> tuple[Array, int]:
        """Return scores (n, *shape) and the number of gradients for each input."""
