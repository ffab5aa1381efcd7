"""Which training rows made a prediction of an L1 or a nuclear-norm model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import is_array_api_obj, to_host
from vitalfew._validation import check_finite, check_rows

Floats = NDArray[np.float64]
Slope = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, eq=False)
class Representers:
    """Predictions as sums over training rows.

    Attributes
    ----------
    values : array of shape (m, n)
        What each training row (n) gives to each prediction (m).
    weights : array of shape (n,)
        Of the training rows, whatever is predicted: minus the derivative of the loss
        at the row, over n alpha.
    alpha : float
        The penalty's multiplier that the training rows imply.
    gaps : array of shape (m,)
        Predictions, without intercept, minus the sums of `values`: zero at a minimiser.
    """

    values: Floats
    weights: Floats
    alpha: float
    gaps: Floats


def high_dimensional_representers(
    X_train: Any,
    y: Any,
    coef: Any,
    X: Any,
    *,
    loss: str | Slope = "squared",
    intercept: float = 0.0,
) -> Representers:
    r"""Divide predictions of a model with a norm penalty among its training rows.

    At a minimiser of :math:`\frac1n \sum_i l(y_i, \langle x_i, \theta \rangle + b) +
    \alpha \|\theta\|` the norm has the subgradient

    .. math:: g = \sum_i w_i x_i, \quad w_i = - l'_i / (n \alpha),

    and :math:`\theta` is a linear function of it: :math:`\theta_j = |\theta_j| g_j` for
    the L1 norm, :math:`U S^{1/2} (U^T g V) S^{1/2} V^T` for the nuclear norm of
    :math:`\theta = U S V^T`. So a prediction is :math:`\sum_i w_i k(x_i, x)`, with

    .. math:: k(x_i, x) = \sum_j |\theta_j| x_{ij} x_j \quad \text{or} \quad
       \langle U^T X_i V, \; S^{1/2} U^T X V S^{1/2} \rangle.

    Parameters
    ----------
    X_train : array of shape (n, p) or (n, p, q), or pair of arrays of shape (n,)
        Training rows: vectors for the L1 norm, matrices for the nuclear norm, or the
        rows and columns of the entries seen, for the completion of a matrix.
    y : array of shape (n,)
        Targets; 0 or 1 for the logistic loss.
    coef : array of shape (p,) or (p, q)
        The minimiser: L1 if a vector, nuclear norm if a matrix.
    X : array of shape (m, p) or (m, p, q), or pair of arrays of shape (m,)
        What is predicted, in the form of `X_train`.
    loss : {"squared", "logistic"} or callable, default="squared"
        Half the squared error, the logistic loss, or the derivative of another by the
        prediction: ``loss(prediction, y)``, (n,) and (n,) to (n,).
    intercept : float, default=0.0
        Added to predictions; not penalised.

    Returns
    -------
    Representers
        The largest `values` of a row of it are the rows that spoke for the
        prediction, the smallest those that spoke against it.

    Raises
    ------
    ValueError
        If shapes do not fit, or the coefficients are zero or no minimiser: where the
        loss does not pull them away from zero.

    Notes
    -----
    O(m n s) for s coefficients that are not zero, or singular values squared. `alpha`
    need not be given: :math:`\langle g, \theta \rangle = \|\theta\|`. The norm must be
    the only penalty. The L1 form is that of [1]_; how the two sides of a matrix share
    its singular values is our choice, since any sharing adds up to the prediction.

    References
    ----------
    .. [1] C.-P. Tsai, J. Zhang, E. Chien, H.-F. Yu, C.-J. Hsieh, P. Ravikumar,
       "Representer point selection for explaining regularized high-dimensional
       models", ICML, 2023.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.eye(3)
    >>> y = np.array([3.0, -2.0, 0.1])
    >>> coef = np.array([1.5, -0.5, 0.0])  # alpha = 0.5: 3 x 0.5 off each
    >>> found = high_dimensional_representers(X, y, coef, np.ones((1, 3)))
    >>> found.values.round(12) + 0.0
    array([[ 1.5, -0.5,  0. ]])
    """
    theta = _floats("coef", coef)
    if theta.ndim not in (1, 2):
        raise ValueError(
            f"coef must have shape (p,) or (p, q), got shape {theta.shape}"
        )
    targets = _floats("y", y)
    features = _vectors(theta) if theta.ndim == 1 else _matrices(theta)
    train, kernel_train = features("X_train", X_train)
    test, kernel_test = features("X", X)
    n = len(train)
    check_rows("y", targets, n)
    slope = _slope(loss)(train.sum(1) + intercept, targets.reshape(n))
    # <sum of -l' x, theta> / n = alpha |theta|
    pull = -float(np.dot(slope, train.sum(1))) / n
    norm = float(np.linalg.norm(theta, "nuc") if theta.ndim == 2 else abs(theta).sum())
    if not norm > 0 or not pull > 0:
        raise ValueError(
            "coef must be a minimiser with a norm penalty that is not zero, but "
            + ("it is zero" if not norm > 0 else "the loss falls towards zero from it")
        )
    alpha = pull / norm
    weights = -slope / (n * alpha)
    values = (kernel_test @ kernel_train.T) * weights
    return Representers(
        values=values,
        weights=weights,
        alpha=alpha,
        gaps=test.sum(1) - values.sum(1),
    )


Reader = Callable[[str, Any], tuple[Floats, Floats]]


def _vectors(theta: Floats) -> Reader:
    """Return a reader: to terms of predictions, and to factors of the kernel."""
    support = np.flatnonzero(theta)
    some = theta[support]

    def read(name: str, X: Any) -> tuple[Floats, Floats]:
        rows = _floats(name, X)
        if rows.ndim != 2 or rows.shape[1] != len(theta):
            raise ValueError(
                f"{name} must have shape (n, {len(theta)}) as coef has, got shape "
                f"{rows.shape}"
            )
        return rows[:, support] * some, rows[:, support] * np.sqrt(abs(some))

    return read


def _matrices(theta: Floats) -> Reader:
    U, s, Vt = np.linalg.svd(theta, full_matrices=False)
    rank = int(np.sum(s > s[:1].max(initial=0) * max(theta.shape) * EPS))
    # half of the root of S on each side, of both matrices
    quarter = s[:rank] ** 0.25
    left, right = U[:, :rank] * quarter, Vt[:rank].T * quarter
    root = np.sqrt(s[:rank])

    def read(name: str, X: Any) -> tuple[Floats, Floats]:
        if isinstance(X, tuple):
            i, j = (np.asarray(ids) for ids in X)
            inner = left[i][:, :, None] * right[j][:, None, :]
        else:
            rows = _floats(name, X)
            if rows.ndim != 3 or rows.shape[1:] != theta.shape:
                raise ValueError(
                    f"{name} must have shape (n, {theta.shape[0]}, {theta.shape[1]}) "
                    "as coef has, or be a pair (rows, columns) of entries, got shape "
                    f"{rows.shape}"
                )
            inner = left.T @ rows @ right
        terms = np.diagonal(inner, axis1=1, axis2=2) * root
        return terms, inner.reshape(len(inner), -1)

    return read


EPS = float(np.finfo(np.float64).eps)


def _slope(loss: str | Slope) -> Slope:
    if callable(loss):
        return loss
    if loss == "squared":
        return lambda prediction, y: prediction - y
    if loss == "logistic":
        return lambda prediction, y: _sigmoid(prediction) - y
    raise ValueError(f"loss must be 'squared', 'logistic' or a function, got {loss!r}")


def _sigmoid(z: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(z))


def _floats(name: str, values: Any) -> Floats:
    host = to_host(values) if is_array_api_obj(values) else np.asarray(values)
    found = host.astype(np.float64)
    check_finite(name, found)
    return found
