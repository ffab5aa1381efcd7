"""Exact quantile regression on a few columns, by interior points."""

from vitalfew._arrays import eye, namespace, precision, solve_posdef, zeros
from vitalfew.contracts import Array

MOST_STEPS = 100
NEARLY = 0.9995  # share of the way to the boundary that a step may go


def minimise_check_loss(
    A: Array, y: Array, w: Array, q: float, ridge: Array
) -> tuple[Array, Array]:
    """Minimise ``sum_i w_i rho(y_i - A_i z) + sum_j ridge_j z_j^2 / 2``.

    With ``rho(r) = max(q r, (q - 1) r)``. A predictor-corrector method: residuals are
    split into ``u - v``, both positive, and the products of u and v with the distances
    of the dual variables d to their bounds, ``q w - d`` and ``(1 - q) w + d``, go to
    zero together.

    Parameters
    ----------
    A : array of shape (n, m)
        Columns.
    y : array of shape (n,)
        Targets.
    w : array of shape (n,)
        Positive weights that sum to one.
    q : float
        Quantile, in (0, 1).
    ridge : array of shape (m,)
        Not negative.

    Returns
    -------
    z : array of shape (m,)
        The minimiser, to a duality gap of 1e-11 of the value as far as the precision
        goes.
    d : array of shape (n,)
        Dual variables: ``A^T d = ridge z``, each a slope of its row's loss.

    Notes
    -----
    O(n m^2) a step, 10 to 30 steps.

    References
    ----------
    .. [1] S. Portnoy and R. Koenker, "The Gaussian hare and the Laplacian tortoise",
       Statistical Science, 1997, section 4.
    .. [2] S. Mehrotra, "On the implementation of a primal-dual interior point method",
       SIAM Journal on Optimization, 1992.
    """
    xp, n = namespace(A), A.shape[0]
    z, d = zeros(A.shape[1], A), zeros(n, A)
    size = float(xp.sum(w * xp.abs(y)))
    if size == 0:
        return z, d
    # in units in which targets and weights are near one; z = 0, d = 0 is feasible
    y, w, ridge = y / size, w * n, ridge * (size * n)
    u = xp.clip(y, min=0.0) + 0.1
    v = u - y
    above, below = q * w, (1 - q) * w
    enough = max(1e-11, 10 * precision(A))
    least, best = float("inf"), (z, d)
    for _ in range(MOST_STEPS):
        gap = float(xp.sum(u * above + v * below)) / n
        if gap < least:
            least, best = gap, (z, d)
        value = float(xp.sum(w * (q * u + (1 - q) * v))) / n
        if gap <= enough * max(value, enough) or not gap < 10 * least:
            break
        Q = 1 / (u / above + v / below)
        H = A.T @ (A * Q[:, None]) + ridge[:, None] * eye(ridge.shape[0], A)
        primal, dual = y - A @ z - u + v, A.T @ d - ridge * z
        a, b = -u * above, -v * below
        for final in (False, True):
            # the step at which the products change by a and b, to first order
            k = primal - a / above + b / below
            dz = solve_posdef(H, A.T @ (Q * k) + dual)
            dd = Q * (k - A @ dz)
            du, dv = (a + u * dd) / above, (b - v * dd) / below
            pairs = ((u, du), (v, dv), (above, -dd), (below, dd))
            t = min(1.0, NEARLY * min(_room(x, dx) for x, dx in pairs))
            if not final:
                left = (u + t * du) * (above - t * dd) + (v + t * dv) * (below + t * dd)
                aim = gap / 2 * (float(xp.sum(left)) / n / gap) ** 3
                a, b = aim - u * above + du * dd, aim - v * below - dv * dd
        u, v, z, d = u + t * du, v + t * dv, z + t * dz, d + t * dd
        above, below = above - t * dd, below + t * dd
    z, d = best
    return z * size, d / n


def _room(x: Array, step: Array) -> float:
    """Multiple of a step at which positive numbers reach zero."""
    xp = namespace(x)
    fastest = float(xp.max(-step / x))
    return 1 / fastest if fastest > 0 else float("inf")
