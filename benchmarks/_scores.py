"""Losses, refits and duality gaps in plain NumPy: the judge is no party's code."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DELTA = 1.345  # of the Huber loss


def loss_at(loss: str, prediction: Floats, y: Floats) -> float:
    """Mean loss of predictions.

    Parameters
    ----------
    loss : {"squares", "logistic", "huber", "cox"}
        Half the squared error; minus the log-likelihood of 0 and 1; Huber's with
        `DELTA`; minus the log partial likelihood, for `y` with columns time and event.
    prediction : array of shape (n,)
        Linear predictors.
    y : array of shape (n,) or (n, 2)
        Targets.

    Returns
    -------
    float
        The mean over the rows.
    """
    if loss == "squares":
        return float(0.5 * np.mean((y - prediction) ** 2))
    if loss == "logistic":
        return float(np.mean(np.logaddexp(0, prediction) - y * prediction))
    if loss == "huber":
        r = np.abs(y - prediction)
        return float(np.mean(np.where(r <= DELTA, r * r / 2, DELTA * (r - DELTA / 2))))
    order = np.argsort(-y[:, 0], kind="stable")  # times are distinct
    e, event = prediction[order], y[order, 1]
    return float(np.sum(event * (np.logaddexp.accumulate(e) - e)) / len(e))


def refit(loss: str, X: Floats, y: Floats) -> Floats:
    """Return the minimiser over all columns of `X`, by damped Newton steps from zero.

    The arguments are those of `loss_at`; `X` has shape (n, k) with k columns of a
    support. Returns coefficients of shape (k,).
    """
    if loss == "squares":
        solution: Floats = np.linalg.lstsq(X, y, rcond=None)[0]
        return solution
    b = np.zeros(X.shape[1])
    value = loss_at(loss, X @ b, y)
    for _ in range(100):
        gradient, hessian = _derivatives(loss, X, X @ b, y)
        step = np.linalg.solve(hessian + 1e-10 * np.eye(len(b)), -gradient)
        t, slope = 1.0, gradient @ step
        while (new := loss_at(loss, X @ (b + t * step), y)) > value + 1e-4 * t * slope:
            t /= 2
            if t < 1e-8:
                return b
        b, fell, value = b + t * step, value - new, new
        if fell < 1e-13 * max(1.0, abs(value)):
            break
    return b


def _derivatives(loss: str, X: Floats, e: Floats, y: Floats) -> tuple[Floats, Floats]:
    n = len(e)
    if loss == "logistic":
        share = 1 / (1 + np.exp(-e))
        return X.T @ (share - y) / n, (X.T * (share * (1 - share))) @ X / n
    if loss == "huber":
        r = e - y
        weight = np.minimum(1, DELTA / np.maximum(np.abs(r), 1e-12))
        return X.T @ (weight * r) / n, (X.T * weight) @ X / n  # a majorant's Hessian
    order = np.argsort(-y[:, 0], kind="stable")
    Z, risk, event = X[order], np.exp(e[order] - e.max()), y[order, 1]
    total = np.cumsum(risk)
    mean = np.cumsum(risk[:, None] * Z, axis=0) / total[:, None]
    share = risk * np.cumsum((event / total)[::-1])[::-1]
    hessian = (Z.T * share) @ Z / n - (mean.T * event) @ mean / n
    return (event[:, None] * (mean - Z)).sum(axis=0) / n, hessian


def largest(coef: Floats, k: int, group_size: int = 1) -> NDArray[np.int64]:
    """Return the k groups (columns) of largest norm that are not zero, ascending."""
    norm = np.linalg.norm(coef.reshape(-1, group_size), axis=1)
    best = np.argsort(-norm, kind="stable")[:k]
    return np.sort(best[norm[best] > 0])


def columns_of(groups: NDArray[np.int64], group_size: int) -> NDArray[np.int64]:
    """Return the columns of some groups of one size."""
    return (groups[:, None] * group_size + np.arange(group_size)).ravel()


def judge(data: dict[str, Any], coef: Floats) -> dict[str, Any]:
    """Refit on the k largest coefficients and tell what that is worth.

    Parameters
    ----------
    data : dict
        A problem, as `benchmarks._problems.load` returns it.
    coef : array of shape (p,)
        What a method returned.

    Returns
    -------
    dict
        Counts of nonzeros and of members of the true support, the training loss as
        returned, and training and test loss after the refit.
    """
    loss, k, size = data["loss"], data["k"], data["group_size"]
    kept = largest(coef, k, size)
    columns = columns_of(kept, size)
    X = _dense(data["X"][:, columns])
    b = refit(loss, X, data["y"])
    true = largest(data["coef"], k, size)
    return {
        "nonzeros": int(np.count_nonzero(coef)),
        "kept": len(kept),
        "hits": len(np.intersect1d(kept, true)),
        "raw": loss_at(loss, data["X"] @ coef, data["y"]),
        "train": loss_at(loss, X @ b, data["y"]),
        "test": loss_at(loss, _dense(data["X_test"][:, columns]) @ b, data["y_test"]),
    }


def judge_path(
    data: dict[str, Any], coefs: Floats, alphas: Floats, l1_ratio: float
) -> dict[str, Any]:
    """Return duality gaps along a path of lassos or elastic nets, over the loss at 0.

    Parameters
    ----------
    data : dict
        A problem with squared loss.
    coefs : array of shape (p, n_alphas)
        One column for each strength.
    alphas : array of shape (n_alphas,)
        ``mean squared error / 2 + alpha (l1_ratio |x|_1 + (1 - l1_ratio)/2 |x|^2)``.
    l1_ratio : float
        1 is the lasso.

    Returns
    -------
    dict
        The largest and the median gap, and the nonzeros at the last strength.
    """
    X, y = data["X"], data["y"]
    n, zero, gaps = len(y), 0.5 * np.mean(y * y), []
    for alpha, w in zip(alphas, coefs.T, strict=True):
        r = y - X @ w
        g = X.T @ r / n
        l1, l2 = alpha * l1_ratio, alpha * (1 - l1_ratio)
        primal = 0.5 * np.mean(r * r) + l1 * np.abs(w).sum() + 0.5 * l2 * (w @ w)
        if l2 == 0:
            scale = min(1.0, l1 / max(np.abs(g).max(), 1e-300))
            dual = zero - 0.5 * np.mean((y - scale * r) ** 2)
        else:
            over = np.maximum(np.abs(g) - l1, 0)
            dual = zero - 0.5 * np.mean((y - r) ** 2) - over @ over / (2 * l2)
        gaps.append((primal - dual) / zero)
    return {
        "largest_gap": float(np.max(gaps)),
        "median_gap": float(np.median(gaps)),
        "nonzeros": int(np.count_nonzero(coefs[:, -1])),
    }


def _dense(X: Any) -> Floats:
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X)
