"""NumPy twin of the compiled coordinate descent, and its oracle."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.contracts import Ints

Real = NDArray[Any]
Prox = Callable[[int, Real, float], Real]  # block, point, step size: the minimiser
Cost = Callable[[int, Real], float]  # block, point: the penalty
MEMORY = 5  # iterates an extrapolation is made of
BLOCK_STEPS = 20  # most proximal steps within one block


def descend(
    H: Real,
    g: Real,
    z: Real,
    starts: Ints,
    kind: str,
    parameters: Real,
    tol: float,
    most: int,
) -> tuple[Real, int]:
    """Minimise a quadratic and a penalty of each block, by block coordinate descent.

    That is ``(u - z)'H(u - z)/2 + g'(u - z) + sum_b penalty_b(u_b)``, from u = z.
    Blocks of one coordinate are minimised over exactly, larger ones by proximal steps.
    Passes over all blocks alternate with passes over those that are not zero, and every
    few passes the iterates are extrapolated where that lowers the sum.

    Parameters
    ----------
    H : array of shape (m, m)
        Symmetric, positive semi-definite.
    g, z : arrays of shape (m,)
        Where to start, and the gradient of the quadratic there.
    starts : integer array of shape (k + 1,)
        Where each block begins, and m.
    kind : {"shrink", "mcp", "scad", "lq", "log_sum"}
        Form of the penalty; only "shrink" has blocks of several coordinates.
    parameters : array of shape (k, 3)
        Of "shrink": strengths of the absolute values, of the block's norm and of half
        the squares. Of the others: strength, then gamma, a, q or epsilon, then nothing.
    tol : float
        Longest step of a block, times its curvature, that counts as none.
    most : int
        Most passes.

    Returns
    -------
    u : array of shape (m,)
        The minimiser; a stationary point if the penalty is not convex.
    passes : int
        How many were made.

    References
    ----------
    .. [1] J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for generalized
       linear models via coordinate descent", J. Stat. Softw., 2010, sections 2.2 and
       2.4 (covariance updates, active sets).
    .. [2] Q. Bertrand, M. Massias, "Anderson acceleration of coordinate descent",
       AISTATS, 2021, Algorithm 2.
    """
    if len(H) != len(g) or len(g) != len(z) or starts[-1] != len(g):
        raise ValueError("H, g, z and starts must fit together")
    if len(parameters) != len(starts) - 1:
        raise ValueError("parameters must have a row for each block")
    if kind != "shrink" and len(parameters) != len(g):
        raise ValueError("only blocks of one coordinate have this kind of penalty")
    value, prox = FORMS[kind]

    def cost(block: int, u: Real) -> float:
        total: float = value(u, *map(float, parameters[block]))
        return total

    def closest(block: int, v: Real, step: float) -> Real:
        u: Real = prox(v, step, *map(float, parameters[block]))
        return u

    return descend_with(H, g, z, starts, closest, cost, tol, most)


def descend_columns(
    A: Real,
    slots: Ints,
    ridge: Real,
    g: Real,
    z: Real,
    starts: Ints,
    kind: str,
    parameters: Real,
    tol: float,
    most: int,
) -> tuple[Real, int]:
    """Do what `descend` does for ``H = A[slots] A[slots]' + diag(ridge)``.

    Cheaper than with H where the rows of A are shorter than those of H.

    Parameters
    ----------
    A : array of shape (K, n)
        Rows, of which some are used.
    slots : integer array of shape (m,)
        Which.
    ridge : array of shape (m,)
        Added to the diagonal.
    g, z : arrays of shape (m,)
        As in `descend`.
    starts : integer array of shape (k + 1,)
        As in `descend`.
    kind : str
        As in `descend`.
    parameters : array of shape (k, 3)
        As in `descend`.
    tol : float
        As in `descend`.
    most : int
        Most passes.

    Returns
    -------
    u : array of shape (m,)
        The minimiser.
    passes : int
        How many were made.
    """
    H = A[slots] @ A[slots].T + np.diag(ridge)
    return descend(H, g, z, starts, kind, parameters, tol, most)


def descend_with(
    H: Real,
    g: Real,
    z: Real,
    starts: Ints,
    prox: Prox,
    cost: Cost,
    tol: float,
    most: int,
) -> tuple[Real, int]:
    """Do what `descend` does, for any penalty, given by the prox of its blocks."""
    work = _Descent(H, g, z, starts, prox, cost, tol)
    return work.run(most)


class _Descent:
    def __init__(
        self,
        H: Real,
        g: Real,
        z: Real,
        starts: Ints,
        prox: Prox,
        cost: Cost,
        tol: float,
    ) -> None:
        self.H, self.g, self.z, self.u = H, g, z, np.array(z)
        self.prox, self.cost, self.tol = prox, cost, tol
        self.blocks = [slice(a, b) for a, b in pairwise(starts)]
        self.curvature = []
        for at in self.blocks:
            block = np.abs(H[at, at])
            most = float(block.sum(axis=1).max())
            norm = float(np.linalg.norm(block / most)) if most > 0 else 0.0
            self.curvature.append(most * min(norm, 1.0))
        self.refresh()

    def refresh(self) -> None:
        self.r = self.H @ (self.u - self.z) + self.g

    def run(self, most: int) -> tuple[Real, int]:
        everything, passes = list(range(len(self.blocks))), 0
        while passes < most:
            passes += 1
            if self.one_pass(everything) <= self.tol:
                self.refresh()  # sums that were updated many times have lost digits
                if self.residual() <= self.tol:
                    break
            active = [b for b in everything if self.u[self.blocks[b]].any()]
            kept = [(self.u.copy(), self.r.copy())]
            while passes < most and active:
                passes += 1
                if self.one_pass(active) <= self.tol / 2:
                    break
                kept.append((self.u.copy(), self.r.copy()))
                if len(kept) > MEMORY:
                    self.extrapolate(kept)
                    kept = [(self.u.copy(), self.r.copy())]
        return self.u, passes

    def step(self, block: int, v: Real, g: Real) -> Real:
        L = self.curvature[block]
        if L > 0:
            return self.prox(block, v - g / L, 1 / L)
        return v if self.cost(block, np.ones_like(v)) == 0 else np.zeros_like(v)

    def one_pass(self, blocks: list[int]) -> float:
        """Minimise over some blocks in turn; the largest step times its curvature."""
        worst = 0.0
        for block in blocks:
            at, L = self.blocks[block], self.curvature[block]
            v, g, first = self.u[at], self.r[at], 0.0
            for count in range(BLOCK_STEPS):
                new = self.step(block, v, g)
                move = new - v
                length = float(np.sqrt(move @ move)) * L
                v, g = new, g + self.H[at, at] @ move
                first = length if count == 0 else first
                if len(v) == 1 or not length > max(self.tol / 4, first / 100):
                    break
            move = v - self.u[at]
            if move.any():
                worst = max(worst, first, float(np.sqrt(move @ move)) * L)
                self.u[at] = v
                self.r += self.H[:, at] @ move
        return worst

    def residual(self) -> float:
        """How far one step of each block from this very point would go."""
        worst = 0.0
        for block, at in enumerate(self.blocks):
            move = self.step(block, self.u[at], self.r[at]) - self.u[at]
            worst = max(worst, float(np.sqrt(move @ move)) * self.curvature[block])
        return worst

    def total(self, u: Real, r: Real) -> float:
        costs = (self.cost(block, u[at]) for block, at in enumerate(self.blocks))
        return float((u - self.z) @ (r + self.g)) / 2 + sum(costs)

    def extrapolate(self, kept: list[tuple[Real, Real]]) -> None:
        """Take the combination of iterates whose moves cancel best, if it is lower."""
        U, R = (np.stack(part).astype(np.float64) for part in zip(*kept, strict=True))
        moves = np.diff(U, axis=0)
        A = moves @ moves.T
        A += 1e-10 * np.trace(A) * np.eye(MEMORY)
        try:
            share = np.linalg.solve(A, np.ones(MEMORY))
        except np.linalg.LinAlgError:
            return
        if not np.isfinite(share).all() or share.sum() == 0:
            return
        share /= share.sum()
        u, r = share @ U[1:], share @ R[1:]
        if self.total(u, r) < self.total(self.u, self.r):
            self.u, self.r = u.astype(self.u.dtype), r.astype(self.r.dtype)


# -- forms of penalties: the value, and a global minimiser of it + |u - v|^2 / (2 t) ---


def _shrink_value(u: Real, l1: float, norm: float, ridge: float) -> float:
    square = float(u @ u)
    return l1 * float(np.abs(u).sum()) + norm * math.sqrt(square) + ridge / 2 * square


def _shrink(v: Real, t: float, l1: float, norm: float, ridge: float) -> Real:
    left = np.sign(v) * np.maximum(np.abs(v) - t * l1, 0.0)
    length = math.sqrt(float(left @ left))
    if not length > t * norm:
        return np.zeros_like(v)
    return left * ((1 - t * norm / length) / (1 + t * ridge))


def _best(v: Real, t: float, value: Any, candidates: list[float]) -> Real:
    """The best of zero and some sizes, with the sign of `v`."""
    size = abs(float(v[0]))

    def total(u: float) -> float:
        return (u - size) ** 2 / (2 * t) + float(value(np.array([u])))

    best = min([0.0, *candidates], key=total)
    return np.array([math.copysign(best, float(v[0]))], v.dtype) + 0


def _mcp_value(u: Real, s: float, gamma: float, _: float) -> float:
    size = min(abs(float(u[0])), gamma * s)
    return s * size - size * size / (2 * gamma)


def _mcp(v: Real, t: float, s: float, gamma: float, _: float) -> Real:
    size = abs(float(v[0]))
    candidates = [size] if size >= gamma * s else []
    if t < gamma:
        candidates.append(min(max((size - t * s) / (1 - t / gamma), 0.0), gamma * s))
    return _best(v, t, lambda u: _mcp_value(u, s, gamma, 0.0), candidates)


def _scad_value(u: Real, s: float, a: float, _: float) -> float:
    size = abs(float(u[0]))
    rest = max(min(size, a * s) - s, 0.0)
    return s * (min(size, s) + rest) - rest * rest / (2 * (a - 1))


def _scad(v: Real, t: float, s: float, a: float, _: float) -> Real:
    size = abs(float(v[0]))
    candidates = [min(max(size - t * s, 0.0), s)]
    if t < a - 1:
        middle = ((a - 1) * size - t * a * s) / (a - 1 - t)
        candidates.append(min(max(middle, s), a * s))
    if size >= a * s:
        candidates.append(size)
    return _best(v, t, lambda u: _scad_value(u, s, a, 0.0), candidates)


def _power_value(u: Real, s: float, q: float, _: float) -> float:
    return s * math.pow(abs(float(u[0])), q)


def _power(v: Real, t: float, s: float, q: float, _: float) -> Real:
    size, pull = abs(float(v[0])), t * s * q
    if pull == 0:
        return v
    # where u + pull u^(q-1) is least; a stationary point lies to its right
    low, high = (pull * (1 - q)) ** (1 / (2 - q)), size
    if size <= low + pull * low ** (q - 1):
        return np.zeros_like(v)
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return _best(v, t, lambda u: _power_value(u, s, q, 0.0), [high])
        if middle + pull * middle ** (q - 1) > size:
            high = middle
        else:
            low = middle


def _logarithm_value(u: Real, s: float, epsilon: float, _: float) -> float:
    return s * math.log1p(abs(float(u[0])) / epsilon)


def _logarithm(v: Real, t: float, s: float, epsilon: float, _: float) -> Real:
    size = abs(float(v[0]))
    both, twice, gap = size + epsilon, 2 * math.sqrt(t) * math.sqrt(s), size - epsilon
    candidates = []
    if both >= twice:
        # where the two terms nearly cancel, by the product of the two roots
        root = math.sqrt(both - twice) * math.sqrt(both + twice)
        other = 2 * (size * epsilon - t * s)
        u = (gap + root) / 2 if gap > 0 else other / (root - gap)
        candidates = [u] if u > 0 else []
    return _best(v, t, lambda u: _logarithm_value(u, s, epsilon, 0.0), candidates)


FORMS: dict[str, tuple[Any, Any]] = {
    "shrink": (_shrink_value, _shrink),
    "mcp": (_mcp_value, _mcp),
    "scad": (_scad_value, _scad),
    "lq": (_power_value, _power),
    "log_sum": (_logarithm_value, _logarithm),
}
