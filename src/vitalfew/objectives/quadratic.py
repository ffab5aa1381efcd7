"""A quadratic in a matrix: the reconstruction error of a linear layer."""

import copy
import math
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from vitalfew._arrays import (
    as_array,
    eye,
    is_array_api_obj,
    least_eigenvalue,
    namespace,
    rows,
    take,
    to_host,
    zeros,
)
from vitalfew._arrays import columns as columns_of
from vitalfew._validation import check_finite
from vitalfew.contracts import Array, Exchanges, Fit
from vitalfew.linalg import GroupModel, best_of
from vitalfew.objectives._base import BaseObjective
from vitalfew.objectives._exchanges import MOST_BLOCK_NUMBERS
from vitalfew.objectives._rows_of_free_entries import RowSystems
from vitalfew.supports import Coordinates, Point, Whole

MOST_EXCHANGES = 1 << 25  # pairs of atoms that are looked at
MOST_WORK = 4e9  # multiplications of one look at all of them


class Quadratic(BaseObjective):
    """``<W, W H>/2 - <B, W> + constant`` for a matrix W.

    The error of replacing the weights W0 of a linear layer by W on inputs X with n rows
    is this, with ``H = X^T X / n``, ``B = W0 H`` and ``constant = <W0, B> / 2``. Rows
    of W (outputs) are independent; those with one set of free entries share a
    factorisation.

    Parameters
    ----------
    H : array of shape (n_in, n_in)
        Symmetric, positive semi-definite.
    B : array of shape (n_out, n_in)
        Linear term.
    constant : float, default=0.0
        Added to the value.

    Notes
    -----
    A refit costs k^3/3 for each different set of k free entries in a row, or a few
    dozen products of W and H, whichever is less: conjugate gradients for all rows at
    once, to a relative residual of eps^(3/4).

    Examples
    --------
    >>> import numpy as np
    >>> f = Quadratic(np.eye(2), np.array([[1.0, 2.0]]), 2.5)
    >>> f.value_and_gradient(np.array([[1.0, 2.0]]))[0]
    0.0
    """

    def __init__(self, H: Any, B: Any, constant: float = 0.0) -> None:
        B = B if is_array_api_obj(B) else np.asarray(B, np.float64)
        xp = namespace(B)
        if B.dtype not in (xp.float32, xp.float64):
            half = xp.isdtype(B.dtype, "real floating") and xp.finfo(B.dtype).bits < 32
            like = xp.zeros(1, dtype=xp.float32 if half else xp.float64)
            B = as_array(B, like)
        self.B, self.H = B, as_array(H, B)
        if B.ndim != 2 or self.H.shape != (B.shape[1], B.shape[1]):
            raise ValueError(
                "H must have shape (n_in, n_in) and B (n_out, n_in), got "
                f"{tuple(self.H.shape)} and {tuple(B.shape)}"
            )
        check_finite("H", self.H)
        check_finite("B", B)
        gap = float(xp.max(xp.abs(self.H - self.H.T)))
        if gap > 1e-4 * float(xp.max(xp.abs(self.H))):
            raise ValueError("H must be symmetric")
        if gap > 0:  # conjugate gradients need more than the value does
            self.H = (self.H + self.H.T) / 2
        self.constant, self.shape = float(constant), tuple(B.shape)
        self.like = B[:0, :0]
        self.extra: Array | None = None  # a ridge added by `with_ridge`
        self.size = math.prod(self.H.shape) + math.prod(B.shape)

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`."""
        xp = namespace(x)
        xH = x @ self.H
        if self.extra is not None:
            xH = xH + self.extra * x
        value = 0.5 * float(xp.sum(x * xH)) - float(xp.sum(self.B * x))
        return value + self.constant, xH - self.B

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span; over coordinates row by row."""
        if not isinstance(span, Coordinates):
            return super().refit(span, start, likely)
        free = np.zeros(math.prod(self.shape), bool)
        free[span.ids] = True
        systems = RowSystems(self.H, self.B, self.extra, free.reshape(self.shape))
        known = None if start is None else as_array(start.x, self.B)
        return self.at(span, span.restrict(systems.minimiser(known)))

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        x = span.embed(z)
        value, gradient = self.value_and_gradient(x)
        fit = Point(span, z, value, lambda _: gradient)
        fit.__dict__["x"] = x  # its cached property, not to embed twice
        return fit

    def curvature(self, fit: Fit) -> Array:
        """Diagonal of the Hessian, of the shape of `x`; the same everywhere."""
        xp = namespace(self.B)
        flat = zeros(self.shape, self.B) + xp.linalg.diagonal(self.H)[None, :]
        return flat if self.extra is None else flat + self.extra

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Hessian over the coordinates of a span, (m, m); the same everywhere."""
        if not isinstance(span, Coordinates | Whole):
            raise TypeError(
                f"span must be one of coordinates, got {type(span).__name__}"
            )
        ids = span.ids if isinstance(span, Coordinates) else np.arange(len(span))
        out, into = ids // self.shape[1], ids % self.shape[1]
        same = as_array(out[:, None] == out[None, :], self.B)
        G = columns_of(rows(self.H, into), into) * same
        if self.extra is None:
            return G
        return G + take(self.extra, ids)[:, None] * eye(len(ids), G)

    def convexity(self, span: Any) -> float:
        """Return a mu such that ``f - mu/2 |x|^2`` is convex: an eigenvalue of H."""
        del span
        return least_eigenvalue(self.H)

    def with_ridge(self, weights: Array) -> Self:
        """Return this objective plus ``sum_i weights_i x_i^2 / 2``.

        Parameters
        ----------
        weights : array of the shape of `x`
            Not negative.

        Returns
        -------
        Quadratic
            With the same H and B.
        """
        weights = as_array(weights, self.B)
        if tuple(weights.shape) != tuple(self.shape):
            raise ValueError(
                f"weights must have the shape of x, {tuple(self.shape)}, "
                f"got {tuple(weights.shape)}"
            )
        other = copy.copy(self)
        other.extra = weights if self.extra is None else self.extra + weights
        return other

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Exact decrease by every exchange of two atoms, on matrices of modest size.

        Rows of the matrix that no atom joins are independent, so the quadratic falls
        into parts, and an exchange between two parts is a drop plus an addition.
        """
        support, n_in = fit.support, self.shape[1]
        if self.extra is not None:
            return None
        if not len(support) or len(support) * structure.n_atoms > MOST_EXCHANGES:
            return None
        everything = structure.support(np.arange(structure.n_atoms))
        if structure.n_atoms * int(everything.sizes.max()) ** 2 > MOST_BLOCK_NUMBERS:
            return None
        part_of_atom, part_of_row = self._parts(everything)
        inside = part_of_atom[support.atoms]
        n_parts = int(max(part_of_row.max(), part_of_atom.max())) + 1
        sizes = np.bincount(np.repeat(inside, support.sizes), minlength=n_parts)
        widths = n_in * np.bincount(part_of_row, minlength=n_parts)
        if float(np.sum(sizes.astype(float) ** 2 * widths)) > MOST_WORK:
            return None
        k, N = len(support), structure.n_atoms
        gain, out = np.full(N, -np.inf), np.zeros(N, np.int64)
        alone, loss = np.full(N, -np.inf), np.zeros(k)
        allowed = structure.exchangeable(support)
        z, gradient = to_host(fit.z), to_host(fit.gradient)
        for part in np.unique(part_of_atom):
            atoms = np.flatnonzero(part_of_atom == part)
            at = np.flatnonzero(inside == part)
            local = self._part(
                structure,
                support,
                z,
                gradient,
                atoms,
                at,
                np.flatnonzero(part_of_row == part),
            )
            may = None if allowed is None else allowed[np.ix_(at, atoms)]
            within, leaving, alone[atoms], loss[at] = local.gains(may)
            if len(at):
                gain[atoms], out[atoms] = within, at[leaving]
        across = alone[None, :] - loss[:, None]
        across[inside[:, None] == part_of_atom[None, :]] = -np.inf
        if allowed is not None:
            across[~allowed] = -np.inf
        leaving = np.argmax(across, axis=0)
        best = across[leaving, np.arange(N)]
        out = np.where(best > gain, leaving, out)
        gain = np.maximum(best, gain)
        gain[support.atoms] = -np.inf
        return best_of(gain, out, count)

    def _parts(self, everything: Coordinates) -> tuple[Any, Any]:
        """Label atoms and rows of the matrix by the independent part they are in."""
        n_out, n_in = self.shape
        N = len(everything)
        atom, row = np.repeat(np.arange(N), everything.sizes), everything.ids // n_in
        graph = csr_array(
            (np.ones(len(atom)), (atom, N + row)), shape=(N + n_out, N + n_out)
        )
        labels = connected_components(graph, directed=False)[1]
        return labels[:N], labels[N:]

    def _part(
        self,
        structure: Any,
        support: Any,
        z: Any,
        gradient: Any,
        atoms: Any,
        at: Any,
        rows_here: Any,
    ) -> "GroupModel":
        """Return the quadratic of one part, in coordinates of its own."""
        n_in, H = self.shape[1], to_host(self.H)
        place = np.full(self.shape[0], -1)
        place[rows_here] = np.arange(len(rows_here))

        def local(ids: Any) -> Any:
            return np.where(ids >= 0, place[ids // n_in] * n_in + ids % n_in, -1)

        inner: list[Any] = [
            np.arange(support.starts[i], support.starts[i + 1]) for i in at
        ]
        chosen: Any = np.concatenate([np.empty(0, np.int64), *inner])
        ids = local(support.ids[chosen])
        C = np.zeros((len(ids), len(rows_here), n_in), H.dtype)
        C[np.arange(len(ids)), ids // n_in] = H[ids % n_in]
        C = C.reshape(len(ids), len(rows_here) * n_in)
        table = local(structure.table[atoms])
        into = table % n_in
        same = table[:, :, None] // n_in == table[:, None, :] // n_in
        return GroupModel(
            C=C,
            G=C[:, ids],
            z=z[chosen][:, None],
            gradient=gradient[rows_here].reshape(-1, 1),
            table=table,
            starts=np.concatenate(([0], np.cumsum(support.sizes[at]))),
            blocks=H[into[:, :, None], into[:, None, :]] * same,
        )
