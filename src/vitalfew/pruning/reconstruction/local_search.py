"""Exchanges of weights within and between the outputs of a layer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vitalfew import _native, solvers
from vitalfew._arrays import precision
from vitalfew._solve import solve
from vitalfew._threads import n_threads
from vitalfew.neural import Statistics
from vitalfew.objectives import Quadratic
from vitalfew.pruning._contracts import Reconstruction
from vitalfew.pruning.reconstruction._layer import has_free_values, objective
from vitalfew.pruning.reconstruction.admm import ADMM
from vitalfew.structures import NM, Blocks, Cardinality, Channels

MOST_NUMBERS = 1 << 24  # of a temporary
CANDIDATES = 32  # atoms to leave and to come that are paired, other weights held fixed
ROUNDS = 10  # of exchanges in each part between two refits
MOST_STEPS = 100  # of the general search, where rows of the matrix are not independent


@dataclass(frozen=True, kw_only=True)
class LocalSearch(Reconstruction):
    r"""Local search over exchanges of two weights, row by row, from another method.

    Rows of the matrix are independent quadratics that share one Hessian. While that
    lowers the error, an atom of a row leaves and another comes, the other weights moved
    to their best values: what every exchange brings is known in closed form from the
    inverse of the Hessian on the row's support, which an exchange changes by rank two.
    Where the budget is the layer's, an atom of one row also makes room for one of
    another. Runs of n:m sparsity exchange within a run; rows of one block, and all rows
    where whole inputs are pruned, share their support and move together.

    Where that would take too long, and for blocks of several columns, the weakest atoms
    of each row are paired with the strongest outside, the other weights held fixed, and
    all rows are refitted in turns. Structures whose atoms are neither go through
    `vitalfew.solvers.LocalSearch`.

    Parameters
    ----------
    start : Reconstruction, default=ADMM()
        Where to begin.
    damping : float, default=0.01
        Added to the diagonal of the Hessian, as a fraction of its mean.
    max_sweeps : int, default=10
        How often a row is taken up again after it gave to or took from another.
    tol : float, default=1e-6
        Least decrease for an exchange to be made, as a fraction of the row's error.
    max_flops : float, default=2e11
        How many multiplications the closed form may take for all rows to be used.

    Notes
    -----
    The error never rises over that of the start. A row with k of p weights costs
    O(k^2 p), and O(k p) for each exchange; with the others held fixed it is O(p).

    References
    ----------
    .. [1] K. Axiotis, M. Sviridenko, "Sparse convex optimization via adaptively
       regularized hard thresholding", ICML, 2020 (Exhaustive Local Search).
    .. [2] H. Hazimeh, R. Mazumder, "Fast best subset selection: coordinate descent and
       local combinatorial optimization algorithms", Oper. Res., 2020 (exchanges with
       the other coordinates held fixed).
    """

    start: Reconstruction = ADMM()
    damping: float = 0.01
    max_sweeps: int = 10
    tol: float = 1e-6
    max_flops: float = 2e11

    name: ClassVar[str] = "local-search"
    cost: ClassVar[str] = "the start, O(k² p) a row of k weights, O(k p) an exchange"
    use: ClassVar[str] = "the last few percent of the error; small layers"

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", self.start.needs | {"hessian"})

    def supports(self, structure: Any) -> bool:
        """Say whether the start can keep to a structure made of atoms."""
        return has_free_values(structure) and self.start.supports(structure)

    def reconstruct(
        self, weight: Tensor, statistics: Statistics, structure: Any, rng: Generator
    ) -> Tensor:
        """Return the pruned and re-fitted matrix."""
        begun = self.start.reconstruct(weight, statistics, structure, rng)
        error = objective(weight, statistics, self.damping)
        support = structure.largest(begun)
        fit = structure.refit(error, support, error.at(support, support.restrict(begun)))
        layout = _layout(structure)
        if layout is None:
            search = solvers.LocalSearch(tol=self.tol)
            answer = solve(error, structure, search, start=fit, max_iter=MOST_STEPS)
            return answer.x if answer.value <= fit.value else fit.x
        parts = _Parts(error, weight, fit.x, layout, self.tol)
        spare = int(structure.budget) - int(parts.mask.sum())
        if layout.width == 1 and parts.flops() <= self.max_flops:
            parts.search_exactly(self.max_sweeps, spare)
            new = parts.refitted(structure, fit)
        else:
            new = fit
            for _ in range(self.max_sweeps):
                if not parts.search_fixed(spare):
                    break
                new = parts.refitted(structure, parts.point())
                parts.take(new.x)
        best: Tensor = new.x if new.value < fit.value else fit.x
        return best


class _Layout(NamedTuple):
    """How a structure falls into parts: rows of the matrix that share a support."""

    rows: int  # of a part
    width: int  # columns of an atom
    run: int  # atoms that an exchange stays within; zero for all of a part
    shared: bool  # whether the budget is that of all parts together


def _layout(structure: Any) -> _Layout | None:
    """Return how rows are independent, or None if they are not."""
    n_out, n_in = structure.shape
    if structure.keep:
        return None
    if isinstance(structure, Cardinality):
        return _Layout(1, 1, 0, True)
    if isinstance(structure, NM) and structure.axis in (-1, 1):
        return _Layout(1, 1, structure.m, False)
    if isinstance(structure, Blocks):
        rows, columns = structure.size
        return _Layout(min(rows, n_out), min(columns, n_in), 0, True)
    if isinstance(structure, Channels) and structure.axis == 1:
        return _Layout(n_out, structure.width, 0, True)
    return None


class _Moves(NamedTuple):
    """The cheapest drop and the best addition alone in each part."""

    loss: NDArray[Any]
    drop: NDArray[np.int64]
    gain: NDArray[Any]
    add: NDArray[np.int64]

    def between(
        self, least: NDArray[Any], spare: int
    ) -> tuple[list[int], list[int]]:
        """Return parts that add an atom and parts that drop one, in pairs.

        The first `spare` additions have no partner. A part moves at most once, as its
        next move costs something else.
        """
        takers = iter(np.argsort(-self.gain, kind="stable"))
        givers = iter(np.argsort(self.loss, kind="stable"))
        adding: list[int] = []
        dropping: list[int] = []
        for a in takers:
            if not self.gain[a] > least[a] or a in dropping:
                break
            if len(adding) >= spare:
                d = next((d for d in givers if d != a and d not in adding), None)
                if d is None or not self.gain[a] - self.loss[d] > least[a] + least[d]:
                    break
                dropping.append(int(d))
            adding.append(int(a))
        return adding, dropping


class _Parts:
    """The parts of a matrix: b parts of q rows over A atoms of c columns each."""

    def __init__(
        self, error: Quadratic, weight: Tensor, new: Tensor, layout: _Layout, tol: float
    ) -> None:
        self.error, self.layout, self.shape = error, layout, tuple(weight.shape)
        n_out, n_in = self.shape
        q, c = layout.rows, layout.width
        down, across = -n_out % q, -n_in % c  # rows and columns of zeros at the edges
        self.H: Tensor = functional.pad(error.H, (0, across, 0, across))
        self.H.diagonal()[n_in:] = 1

        def split(matrix: Tensor) -> Tensor:
            return functional.pad(matrix, (0, across, 0, down)).reshape(
                -1, q, n_in + across
            )

        self.split = split
        self.B = split(error.B)
        self.take(new)
        gap = self.W - split(weight)
        lost = torch.sum((gap @ self.H) * gap, dim=(1, 2)) / 2
        whole = torch.sum(split(weight) * self.B, dim=(1, 2)) / 2
        least = tol * lost + precision(new) * whole
        self.least = least.cpu().numpy()

    def take(self, new: Tensor) -> None:
        """Go on from a matrix."""
        self.W = self.split(new)
        self.gradient = self.W @ self.H - self.B
        n, q, p = self.W.shape
        blocks = self.W.reshape(n, q, -1, self.layout.width)
        self.mask = (blocks != 0).any(dim=3).any(dim=1)

    def flops(self) -> float:
        """Multiplications that the closed form takes for all parts once."""
        _, q, p = self.W.shape
        k = self.mask.sum(dim=1).double()
        return float(torch.sum(k * p * (2 * k + 10 * q)))

    def point(self) -> Any:
        """Return the matrix as it is, a fit of the error."""
        return self._matrix(self.W)

    def refitted(self, structure: Any, start: Any) -> Any:
        """Minimise the error on the atoms that are marked."""
