"""What `solve` returns: one object with a reason for stopping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from vitalfew._arrays import to_host
from vitalfew.contracts import Array, Fit, Ints
from vitalfew.exceptions import MissingDependencyError

MOST_SHOWN = 20  # members of a support that are printed


class Status(StrEnum):
    """Why a run stopped; each member is the sentence shown to the user."""

    CONVERGED = "the solver's own criterion was met"
    FEWER = "fewer atoms than allowed: no further atom lowers the objective"
    SEPARATED = (
        "the chosen columns separate the classes or the events: the best coefficients "
        "are infinite and were stopped on the way; give the objective an l2 > 0"
    )
    MAX_ITER = "the limit of iterations was reached; the best point so far is returned"
    MAX_SECONDS = "the time limit was reached; the best point so far is returned"
    STOPPED = "the callback asked to stop; the best point so far is returned"
    INTERRUPTED = "interrupted; the best point so far is returned"
    NOT_FINITE = "the objective stopped being finite; the last finite point is returned"

    @property
    def ok(self) -> bool:
        """Whether the answer is what was asked for."""
        return self in (Status.CONVERGED, Status.FEWER)


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """A feasible point, refitted on its support, with how it was found.

    Attributes
    ----------
    x : array of the objective's shape
        The point, in the array library of the data. Never holds the intercept.
    value : float
        The objective at `x`.
    status : Status
        Why the run stopped.
    n_iter : int
        Steps taken, over all solvers that ran.
    seconds : float
        Wall time.
    history : list of float
        The objective before the first step and after each one.
    solver : str
        What ran, with its settings.
    fit : Fit
        The last fit; pass the whole solution as ``start=`` to go on from it.
    lower_bound : float or None
        A proven lower bound of the optimum, when one was computed.
    """

    x: Array
    value: float
    status: Status
    n_iter: int
    seconds: float
    solver: str
    fit: Fit
    history: Sequence[float] = ()
    lower_bound: float | None = None

    def __repr__(self) -> str:
        support, rest = self.support, ""
        if len(support) > MOST_SHOWN:
            support, rest = support[:MOST_SHOWN], ", ..."
        shown = ", ".join(str(i) for i in support.tolist()) + rest
        return (
            f"Solution({len(self.support)} chosen: [{shown}], value={self.value:.6g}, "
            f"{self.status.name}: {self.status}; {self.solver}, {self.n_iter} steps, "
            f"{self.seconds:.3g} s)"
        )

    @property
    def support(self) -> Ints:
        """Numbers of the chosen atoms (columns, groups, rows), ascending."""
        return np.sort(self.fit.support.atoms)

    @property
    def intercept(self) -> Array | None:
        """The intercept, or None where the objective has none."""
        return self.fit.intercept

    @property
    def gap(self) -> float | None:
        """How far the value may be above the optimum, as a share of the value.

        ``(value - lower_bound) / |value|``; None without a lower bound.
        """
        if self.lower_bound is None:
            return None
        above = self.value - self.lower_bound
        if above <= 0:
            return 0.0
        return above / abs(self.value) if self.value else math.inf

    def to_record(self) -> dict[str, Any]:
        """Return plain data that `json.dumps` takes."""
        x = to_host(self.x)
        where = np.argwhere(x != 0)
        intercept = None if self.intercept is None else to_host(self.intercept).tolist()
        return {
            "solver": self.solver,
            "status": self.status.name,
            "message": str(self.status),
            "value": self.value,
            "lower_bound": self.lower_bound,
            "n_iter": self.n_iter,
            "seconds": self.seconds,
            "history": list(self.history),
            "support": self.support.tolist(),
            "shape": list(x.shape),
            "nonzero": where.tolist(),
            "coefficients": x[x != 0].tolist(),
            "intercept": intercept,
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw the objective against the step.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib axes
            The axes drawn on.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        ax = new_axes() if ax is None else ax
        ax.plot(range(len(self.history)), self.history, marker=".")
        ax.set_xlabel("step")
        ax.set_ylabel("objective")
        ax.set_title(f"{self.solver.split('(')[0]}: {len(self.support)} atoms")
        return ax


def new_axes() -> Any:
    """Return the axes of a new matplotlib figure.

    Returns
    -------
    matplotlib axes
        The axes.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError(
            "plots need matplotlib: pip install 'vitalfew[plot]'"
        ) from error
    return plt.subplots()[1]
