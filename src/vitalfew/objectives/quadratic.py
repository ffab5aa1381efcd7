"""A quadratic in a matrix: the reconstruction error of a linear layer."""

from typing import Any

import numpy as np

from vitalfew._arrays import (
    as_array,
    is_array_api_obj,
    namespace,
    put,
    rows,
    solve_posdef,
    take,
    to_host,
)
from vitalfew._arrays import columns as columns_of
from vitalfew._validation import check_finite
from vitalfew.contracts import Array, Exchanges, Fit
from vitalfew.linalg import QuadraticModel, group_exchanges, single_exchanges
from vitalfew.objectives._base import BaseObjective
from vitalfew.supports import Coordinates, Point

MOST_EXCHANGE_NUMBERS = 1 << 25  # of the Hessian's rows on a support


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
    A refit costs O(k^3) for each different set of k free entries in a row.

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
        gap = to_host(self.H - self.H.T)
        if np.abs(gap).max() > 1e-4 * np.abs(to_host(self.H)).max():
            raise ValueError("H must be symmetric")
        self.constant, self.shape = float(constant), tuple(B.shape)
        self.like = B[:0, :0]

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`."""
        xp = namespace(x)
        xH = x @ self.H
        value = 0.5 * float(xp.sum(x * xH)) - float(xp.sum(self.B * x))
        return value + self.constant, xH - self.B

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span; in closed form over coordinates."""
        if not isinstance(span, Coordinates):
            return super().refit(span, start, likely)
        n_in = self.shape[1]
        out, into = span.ids // n_in, span.ids % n_in
        order = np.lexsort((into, out))
        first = np.searchsorted(out[order], np.arange(self.shape[0] + 1))
        alike: dict[bytes, list[tuple[int, np.ndarray[Any, Any]]]] = {}
        for row in np.unique(out):
            part = order[first[row] : first[row + 1]]
            alike.setdefault(into[part].tobytes(), []).append((int(row), part))
        xp = namespace(self.B)
        places: list[Any] = []
        answers: list[Array] = []
        for same in alike.values():
            ids = into[same[0][1]]
            G = rows(columns_of(self.H, ids), ids)
            b = columns_of(rows(self.B, np.array([row for row, _ in same])), ids)
            answers.append(xp.reshape(solve_posdef(G, b.T).T, (-1,)))
            places.extend(part for _, part in same)
        z = xp.zeros(0, dtype=self.B.dtype, device=self.B.device)
        if answers:
            z = put(len(span.ids), np.concatenate(places), xp.concat(answers))
        return self.at(span, z)

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        value, gradient = self.value_and_gradient(span.embed(z))
        return Point(span, z, value, lambda _: gradient)

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Exact decrease by every exchange of two atoms, on matrices of modest size."""
        ids = fit.support.ids
        n_out, n_in = self.shape
        if len(ids) * n_out * n_in > MOST_EXCHANGE_NUMBERS or len(ids) == 0:
            return None
        C = self._hessian_rows(ids)
        xp = namespace(self.B)
        model = QuadraticModel(
            C,
            columns_of(C, ids),
            fit.z[:, None],
            xp.reshape(fit.gradient, (-1, 1)),
            take(xp.linalg.diagonal(self.H), np.tile(np.arange(n_in), n_out)),
        )
        allowed = structure.exchangeable(fit.support)
        everything = structure.support(np.arange(structure.n_atoms))
        # atom i must be entry i: groups of one may be numbered in any order
        if np.array_equal(everything.ids, np.arange(n_out * n_in)) and (
            structure.n_atoms == n_out * n_in
        ):
            return single_exchanges([model], ids, count, allowed)

        def blocks(table: np.ndarray[Any, Any]) -> Array:
            host = to_host(self.H)
            same = table[:, :, None] // n_in == table[:, None, :] // n_in
            into = table % n_in
            return host[into[:, :, None], into[:, None, :]] * same

        return group_exchanges(
            model,
            structure.table,
            fit.support.starts,
            fit.support.atoms,
            blocks,
            count,
            allowed,
        )

    def _hessian_rows(self, ids: np.ndarray[Any, Any]) -> Array:
        """Rows of ``I (x) H`` for some coordinates, (K, n_out n_in)."""
        n_out, n_in = self.shape
        host = np.zeros((len(ids), n_out, n_in), dtype=to_host(self.B).dtype)
        host[np.arange(len(ids)), ids // n_in] = to_host(self.H)[ids % n_in]
        return as_array(host.reshape(len(ids), -1), self.B)
