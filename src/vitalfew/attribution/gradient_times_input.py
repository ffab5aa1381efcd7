"""Gradient times input."""

from dataclasses import dataclass

from vitalfew.attribution._explained import Explained
from vitalfew.attribution._method import Attribution
from vitalfew.attribution._paths import gradients
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class GradientTimesInput(Attribution):
    r"""Gradient times input: what the linear model that touches at x makes of it.

    The score of entry i is :math:`(x_i - x'_i) \, \partial_i g(x)`: the path of
    `IntegratedGradients` with its last point alone. Exact for linear models; noisy, and
    close to zero where the output is saturated.

    Parameters
    ----------
    model, target, baseline, forward, amp, memory : object
        As in `Attribution`.

    Notes
    -----
    One gradient of each input.

    References
    ----------
    .. [1] A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje, "Not just a black box:
       learning important features through propagating activation differences", arXiv,
       2016.

    Examples
    --------
    >>> import numpy as np
    >>> def linear(x):
    ...     return x @ [2.0, -1.0], np.broadcast_to([2.0, -1.0], x.shape)
    >>> GradientTimesInput(linear).attribute(np.array([[1.0, 3.0]]))
    array([[ 2., -3.]])
    """

    def _scores(self, function: Explained, together: int) -> tuple[Array, int]:
        x = function.inputs
        return gradients(function, x, together) * (x - self._start(function)), 1
