"""Exchanges of weights within and between the outputs of a layer."""

from collections.abc import Iterator
from dataclasses import dataclass, field
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
from vitalfew._validation import check_count, check_nonnegative
from vitalfew.contracts import Ints
from vitalfew.linalg import GroupModel
from vitalfew.neural import Statistics
from vitalfew.objectives import Quadratic
from vitalfew.pruning._contracts import Reconstruction
from vitalfew.pruning.reconstruction._layer import has_free_values, objective
from vitalfew.pruning.reconstruction.admm import ADMM
from vitalfew.structures import NM, Blocks, Cardinality, Channels

MOST_NUMBERS = 1 << 24  # of a temporary
CANDIDATES = 32  # atoms to leave and to come that are paired, other weights held fixed
ROUNDS = 10  # of exchanges in each part between two refits
SWAPS = 10  # that a part may take, for an estimate of the work
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

    Where that would take too long, the weakest atoms of each row are paired with the
    strongest outside, the other weights held fixed, and all rows are refitted in turns;
    after a start as good as `ADMM` this rarely finds anything. Structures whose atoms
    are neither go through `vitalfew.solvers.LocalSearch`.

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
    max_flops : float, default=1e12
        The closed form is used if it takes no more multiplications for all rows once;
        the default is about a minute of one core.

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

    start: Reconstruction = field(default_factory=ADMM)
    damping: float = 0.01
    max_sweeps: int = 10
    tol: float = 1e-6
    max_flops: float = 1e12

    name: ClassVar[str] = "local-search"
    cost: ClassVar[str] = "the start, O(k² p) a row of k weights, O(k p) an exchange"
    use: ClassVar[str] = "the last few percent of the error; small layers"

    def __post_init__(self) -> None:
        if not isinstance(self.start, Reconstruction):
            raise ValueError(
                f"start must be a reconstruction such as ADMM(), got {self.start!r}"
            )
        check_nonnegative("damping", self.damping)
        check_count("max_sweeps", self.max_sweeps, 0)
        check_nonnegative("tol", self.tol)
        check_nonnegative("max_flops", self.max_flops)
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
        fit = structure.refit(
            error, support, error.at(support, support.restrict(begun))
        )
        layout = _layout(structure)
        if layout is None:
            search = solvers.LocalSearch(tol=self.tol)
            answer = solve(error, structure, search, start=fit, max_iter=MOST_STEPS)
            return answer.x if answer.value <= fit.value else fit.x
        parts = _Parts(error, weight, fit.x, layout, self.tol)
        spare = int(structure.budget) - int(parts.mask.sum())
        if parts.flops() <= self.max_flops:
            parts.search_exactly(self.max_sweeps, spare)
            new = parts.refitted(structure, fit.x)
        else:
            new = fit
            for _ in range(self.max_sweeps):
                moved, spare = parts.search_fixed(spare)
                if not moved:
                    break
                new = parts.refitted(structure, parts.joined(parts.W))
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

    def between(self, least: NDArray[Any], spare: int) -> tuple[Ints, Ints]:
        """Return parts that add an atom and parts that drop one, in pairs.

        The first `spare` additions have no partner. A part moves at most once, as its
        next move costs something else.
        """
        takers = iter(np.argsort(-self.gain, kind="stable"))
        givers = iter(np.argsort(self.loss, kind="stable"))
        adding: dict[int, None] = {}  # sets that keep their order
        dropping: dict[int, None] = {}
        for a in takers:
            if not self.gain[a] > least[a]:
                break
            if a in dropping:
                continue
            if len(adding) >= spare:
                d = next((d for d in givers if d != a and d not in adding), None)
                if d is None or not self.gain[a] - self.loss[d] > least[a] + least[d]:
                    break
                dropping[int(d)] = None
            adding[int(a)] = None
        return np.array([*adding], np.int64), np.array([*dropping], np.int64)


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
        n_atoms = len(self.H) // c
        self.blocks = self.H.reshape(n_atoms, c, n_atoms, c).transpose(1, 2)
        self.own = self.blocks.diagonal(dim1=0, dim2=1).permute(2, 0, 1).contiguous()
        self.inverse = _inverses(self.own)

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
        self.W = self.split(new).clone()
        self.gradient = self.W @ self.H - self.B
        self.mask = (self._atoms(self.W) != 0).any(dim=3).any(dim=1)

    def flops(self) -> float:
        """Multiplications that the closed form takes for all parts once."""
        (_, q, p), c = self.W.shape, self.layout.width
        k = c * self.mask.sum(dim=1).double()
        one_look = k * p * (2 * k + SWAPS * q)
        return float(torch.sum(one_look)) * (1 if c == 1 else SWAPS)

    def refitted(self, structure: Any, start: Tensor) -> Any:
        """Minimise the error on the atoms that are marked."""
        marks = self.mask[:, None, :, None].expand(
            -1, self.layout.rows, -1, self.layout.width
        )
        support = structure.largest(self.joined(marks).to(self.H.dtype))
        begun = self.error.at(support, support.restrict(start))
        return structure.refit(self.error, support, begun)

    def joined(self, values: Tensor) -> Tensor:
        """Return numbers of all parts as the matrix."""
        n_out, n_in = self.shape
        return values.reshape(-1, self.H.shape[0])[:n_out, :n_in]

    def move_between(self, moves: _Moves, spare: int) -> tuple[Ints, Ints]:
        """Mark what parts give to each other; return who adds and who drops."""
        if not self.layout.shared:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        adding, dropping = moves.between(self.least, spare)
        self.mask[adding, moves.add[adding]] = True
        self.mask[dropping, moves.drop[dropping]] = False
        return adding, dropping

    # -- all other weights moved to their best values ----------------------------------

    def search_exactly(self, max_sweeps: int, spare: int) -> None:
        """Make exchanges until none helps, and move atoms between parts."""
        n = len(self.mask)
        moves = _Moves(
            np.full(n, np.inf),
            np.zeros(n, np.int64),
            np.zeros(n),
            np.zeros(n, np.int64),
        )
        active = np.arange(n)
        for _ in range(max_sweeps):
            if self.layout.width == 1:
                for some in self._chunks(active):
                    self._exchange(some, moves)
            else:
                for part in active:
                    self._exchange_groups(int(part), moves)
            adding, dropping = self.move_between(moves, spare)
            spare -= len(adding) - len(dropping)
            active = np.concatenate((adding, dropping))
            if not len(active):
                break

    def _chunks(self, parts: Ints) -> Iterator[Ints]:
        """Yield parts of about as many atoms each, few enough for memory."""
        counts = self.mask.sum(dim=1).cpu().numpy()
        parts = parts[np.argsort(counts[parts], kind="stable")]
        p, first = self.H.shape[0], 0
        while first < len(parts):
            sizes = np.maximum(counts[parts[first:]], 1)
            numbers = np.arange(1, len(sizes) + 1) * sizes * (sizes + 3 * p)
            last = first + max(int(np.searchsorted(numbers, MOST_NUMBERS)), 1)
            yield parts[first:last]
            first = last

    def _exchange(self, parts: Ints, moves: _Moves) -> None:
        """Make all exchanges within some parts, and note what the next move costs."""
        p, device = self.H.shape[0], self.H.device
        marks, B = self.mask[parts], self.B[parts]
        counts = marks.sum(dim=1)
        K = max(int(counts.max()), 1)
        ids = torch.argsort((~marks).to(torch.int8), dim=1, stable=True)[:, :K]
        used = torch.arange(K, device=device) < counts[:, None]
        G = self.H[ids[:, :, None], ids[:, None, :]]
        G *= used[:, :, None] & used[:, None, :]
        G.diagonal(dim1=1, dim2=2)[~used] = 1
        P = _inverses(G) * used[:, :, None]
        W = P @ self.H[ids]
        z = P @ (B.gather(2, ids[:, None, :].expand(-1, B.shape[1], -1))).mT
        gradient = z.mT @ self.H[ids] - B
        chosen, _, loss, drop, gain, add = _native.exchange_parts(
            _on_host(self.H),
            _on_host(P),
            _on_host(W),
            _on_host(ids),
            _on_host(counts),
            _on_host(z),
            _on_host(gradient),
            self.least[parts],
            self.layout.run,
            4 * p,
            n_threads(),
        )
        new = torch.zeros_like(marks)
        at = torch.as_tensor(chosen, device=device)
        new[torch.nonzero(used)[:, 0], at[used]] = True
        self.mask[parts] = new
        for all_of_them, here in zip(moves, (loss, drop, gain, add), strict=True):
            all_of_them[parts] = here

    def _exchange_groups(self, part: int, moves: _Moves) -> None:
        """Do the same in one part for atoms of several columns."""
        c, H = self.layout.width, _on_host(self.H)
        B, marks = _on_host(self.B[part].T), _on_host(self.mask[part])
        table = np.arange(len(H)).reshape(-1, c)
        own = H[table[:, :, None], table[:, None, :]]
        for _ in range(4 * len(table)):
            inside = np.flatnonzero(marks)
            ids = table[inside].ravel()
            C = H[ids]
            z = np.linalg.solve(C[:, ids], B[ids])
            starts = np.arange(len(inside) + 1) * c
            model = GroupModel(C, C[:, ids], z, C.T @ z - B, table, starts, own)
            gain, out, alone, loss = model.gains(None)
            gain[inside] = alone[inside] = -np.inf
            best = int(np.argmax(gain))
            if not gain[best] > self.least[part]:
                break
            marks[inside[out[best]]], marks[best] = False, True
        self.mask[part] = torch.as_tensor(marks)
        moves.gain[part], moves.add[part] = alone.max(), np.argmax(alone)
        moves.loss[part], moves.drop[part] = np.inf, 0
        if len(inside):
            moves.loss[part], moves.drop[part] = loss.min(), inside[np.argmin(loss)]

    # -- other weights held fixed ------------------------------------------------------

    def search_fixed(self, spare: int) -> tuple[bool, int]:
        """Make exchanges, the other weights held fixed.

        Says whether there were any, and how many atoms are still to spare.
        """
        n, q, _ = self.W.shape
        room = n * q * CANDIDATES**2 * self.layout.width**2
        everybody = torch.arange(n, device=self.H.device)
        changed = False
        for _ in range(ROUNDS):
            moved = False
            for some in everybody.chunk(room // MOST_NUMBERS + 1):
                moved |= self._exchange_fixed(some)
            if self.layout.shared:
                loss, gain = self._alone(everybody)
                (least, drop), (most, add) = loss.min(dim=1), gain.max(dim=1)
                moves = _Moves(*(_on_host(a) for a in (least, drop, most, add)))
                adding, dropping = self.move_between(moves, spare)
                spare -= len(adding) - len(dropping)
                self._drop(dropping, moves.drop[dropping])
                self._add(adding, moves.add[adding])
                moved |= len(adding) > 0
            changed |= moved
            if not moved:
                break
        return changed, spare

    def _atoms(self, values: Tensor) -> Tensor:
        """Return numbers of parts atom by atom, (b, q, A, c)."""
        return values.reshape(*values.shape[:2], -1, self.layout.width)

    def _alone(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of every drop and gain of every addition, (b, A) each."""
        w, g = self._atoms(self.W[parts]), self._atoms(self.gradient[parts])
        inside = self.mask[parts]
        wH = torch.einsum("bqac,acd->bqad", w, self.own)
        gP = torch.einsum("bqac,acd->bqad", g, self.inverse)
        falls, rises = torch.sum(w * wH / 2 - w * g, 3), torch.sum(g * gP / 2, 3)
        loss = torch.where(inside, falls.sum(dim=1), torch.inf)
        gain = torch.where(inside, 0.0, rises.sum(dim=1))
        return loss, gain

    def _exchange_fixed(self, parts: Tensor) -> bool:
        """Make the best exchange of candidates in each of some parts."""
        loss, gain = self._alone(parts)
        n_atoms, run = loss.shape[1], self.layout.run
        count = min(CANDIDATES, n_atoms)
        loss, out = torch.topk(loss, count, dim=1, largest=False)
        if run:
            into = out[:, :, None] // run * run + torch.arange(run, device=out.device)
            may = into < n_atoms
            into = into.clamp(max=n_atoms - 1)
        else:
            into = torch.topk(gain, count, dim=1).indices
            into = into[:, None, :].expand(-1, count, -1)
            may = torch.ones_like(into, dtype=torch.bool)
        w, g = self._atoms(self.W[parts]), self._atoms(self.gradient[parts])
        b = torch.arange(len(parts), device=out.device)[:, None]
        may = may & ~self.mask[parts][b[:, :, None], into]
        leaving = w[b, :, out]  # (b, t, q, c)
        slope = g[b[:, :, None], :, into] - torch.einsum(
            "btqc,btucd->btuqd", leaving, self.blocks[out[:, :, None], into]
        )
        rise = torch.einsum("btuqc,btucd,btuqd->btu", slope, self.inverse[into], slope)
        total = torch.where(may, rise / 2 - loss[:, :, None], -torch.inf).flatten(1)
        best, at = total.max(dim=1)
        moves = best > torch.as_tensor(self.least, device=best.device)[parts]
        if not bool(moves.any()):
            return False
        b, at = torch.nonzero(moves)[:, 0], at[moves]
        t, u = at // into.shape[2], at % into.shape[2]
        self._drop(parts[b], out[b, t])
        self._add(parts[b], into[b, t, u])
        return True

    def _drop(self, parts: Any, atoms: Any) -> None:
        """Set one atom of each of some parts to zero."""
        w = self._atoms(self.W)
        self._shift(parts, atoms, -w[parts, :, atoms])
        w[parts, :, atoms] = 0
        self.mask[parts, atoms] = False

    def _add(self, parts: Any, atoms: Any) -> None:
        """Give one atom of each of some parts its best value, all others fixed."""
        g = self._atoms(self.gradient)[parts, :, atoms]
        self._shift(parts, atoms, -g @ self.inverse[atoms])
        self.mask[parts, atoms] = True

    def _shift(self, parts: Any, atoms: Any, by: Tensor) -> None:
        c, p = self.layout.width, self.H.shape[0]
        self._atoms(self.W)[parts, :, atoms] += by
        self.gradient[parts] += by @ self.H.reshape(p // c, c, p)[atoms]


def _inverses(G: Tensor) -> Tensor:
    """Inverses of positive definite matrices, in double precision where it takes it."""
    L, info = torch.linalg.cholesky_ex(G)
    if not bool(info.any()):
        return torch.cholesky_inverse(L)
    L = torch.linalg.cholesky(G.double())
    return torch.cholesky_inverse(L).to(G.dtype)


def _on_host(values: Tensor) -> NDArray[Any]:
    host: NDArray[Any] = values.cpu().contiguous().numpy()
    return host
