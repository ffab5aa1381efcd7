"""Integrated gradients."""

from dataclasses import dataclass

from vitalfew._arrays import namespace
from vitalfew.attribution._explained import Explained
from vitalfew.attribution._method import Attribution
from vitalfew.attribution._paths import integrals, quadrature, straight
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegratedGradients(Attribution):
    r"""Integrated gradients: the change of the output, divided among the inputs.

    The score of entry i of an input x with baseline x' is

    .. math:: (x_i - x'_i) \int_0^1 \partial_i g(x' + t (x - x')) \, dt,

    and scores add up to g(x) - g(x'). The logit is less prone to saturation than the
    softmax.

    Parameters
    ----------
    model, target, baseline, forward, amp, memory : object
        As in `Attribution`.
    steps : int, default=50
        Nodes of the integral.
    nodes : {"midpoint", "gauss-legendre"}, default="midpoint"
        Where they lie. Gauss-Legendre is exact for polynomials of degree
        2 steps - 1 and converges faster on smooth models; on those with kinks, such as
        ReLU networks, the two are alike.

    Notes
    -----
    `steps` gradients of each input.

    References
    ----------
    .. [1] M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks",
       ICML, 2017, equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> def square(x):
    ...     return (x**2).sum(1), 2 * x
    >>> IntegratedGradients(square).attribute(np.array([[1.0, -3.0]]))
    array([[1., 9.]])
    """

    steps: int = 50
    nodes: str = "midpoint"

    def __post_init__(self) -> None:
        quadrature(self.steps, self.nodes)

    def _scores(self, function: Explained, together: int) -> tuple[Array, int]:
        x, start = function.inputs, self._start(function)
        path, rule = straight(start, x), quadrature(self.steps, self.nodes)
        parts = [
            mean * (x[rows] - start[rows])
            for rows, mean in integrals(function, path, rule, together)
        ]
        return namespace(x).concat(parts, axis=0), self.steps
