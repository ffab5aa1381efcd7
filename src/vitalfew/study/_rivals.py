"""What chosen columns are measured against: all columns, and none."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, PoissonRegressor, RidgeCV

from vitalfew.objectives import Ordinal
from vitalfew.study._model import Folds
from vitalfew.study._outcome import Outcome
from vitalfew.supports import Coordinates

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STRENGTHS = 10.0 ** np.arange(1.0, -5.5, -1.0)  # times the largest eigenvalue
MANY_ROWS = 20_000  # from here on one split is enough to choose a strength


def none_at_all(outcome: Outcome, n_test: int) -> Floats:
    """Linear predictors of the best constant.

    Parameters
    ----------
    outcome : Outcome
        Of the training rows.
    n_test : int
        Rows to predict.

    Returns
    -------
    array of shape (n_test,) or (n_test, n_classes)
        The same in each row.
    """
    y = outcome.y
    if outcome.task == "survival":
        return np.zeros(n_test)
    if outcome.task == "count":
        return np.full(n_test, np.log(y.mean()))
    if outcome.task == "binary":
        return np.full(n_test, np.log(y.mean() / (1 - y.mean())))
    if outcome.classes is not None:
        counts = np.bincount(y.astype(np.int64), minlength=len(outcome.classes))
        return np.tile(np.log(np.maximum(counts, 0.5) / len(y)), (n_test, 1))
    return np.full(n_test, y.mean())


def all_columns(
    X: Floats, outcome: Outcome, test: Floats, folds: Folds, stop: Callable[[], bool]
) -> Floats:
    """Linear predictors of the ridge-type model of all columns.

    The same loss as for the chosen columns, its strength chosen by held-out loss. With
    more columns than rows the model is fitted in the rows' span, which changes nothing
    but the time.

    Parameters
    ----------
    X : array of shape (n, p)
        Encoded training rows.
    outcome : Outcome
        Of these rows.
    test : array of shape (n_test, p)
        Rows to predict.
    folds : sequence of (train, test)
        Of the training rows, to choose the strength.
    stop : callable
        Says whether time is up; then the strengths tried so far must do.

    Returns
    -------
    array of shape (n_test,) or (n_test, n_classes)
        Linear predictors.
    """
    mean, scale = X.mean(axis=0), X.std(axis=0)
    scale = np.where(scale > 1e-12 * np.abs(mean) + 1e-300, scale, 1.0)
    Z, T = (X - mean) / scale, (test - mean) / scale
    if Z.shape[1] > Z.shape[0]:
        Z, T = _in_span(Z, T)
    top = float(np.linalg.norm(Z, 2) ** 2) / len(Z)
    strengths = STRENGTHS * max(top, 1e-12)
    if outcome.task == "regression":
        ridge = RidgeCV(alphas=len(Z) * strengths).fit(Z, outcome.y)
        return np.asarray(ridge.predict(T))
    if len(Z) > MANY_ROWS:
        folds = folds[:1]
    if outcome.task in ("survival", "ordered"):
        return _by_refits(Z, outcome, T, folds, strengths, stop)
    return _glm(Z, outcome, T, folds, strengths, stop)


def _in_span(Z: Floats, T: Floats) -> tuple[Floats, Floats]:
    """Coordinates of training and test rows in the span of the training rows."""
    values, vectors = np.linalg.eigh(Z @ Z.T)
    kept = values > 1e-10 * values[-1]
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, (T @ Z.T) @ (vectors[:, kept] / root)


def _best(losses: list[list[float]]) -> int:
    """The strength of least mean loss, of those that all folds tried."""
    tried = min((len(row) for row in losses), default=0)
    if not tried:
        return 0
    return int(np.argmin(np.mean([row[:tried] for row in losses], axis=0)))


def _glm(
    Z: Floats,
    outcome: Outcome,
    T: Floats,
    folds: Folds,
    strengths: Floats,
    stop: Callable[[], bool],
) -> Floats:
    losses = []
    for train, test in folds:
        row: list[float] = []
        model = None
        for strength in strengths:
            if stop():
                break
            model = _fitted(outcome.take(train), Z[train], strength, model)
            held = outcome.take(test)
            row.append(_loss(held, _predictors(model, outcome, Z[test])))
        losses.append(row)
    model = _fitted(outcome, Z, strengths[_best(losses)], None)
    return _predictors(model, outcome, T)


def _fitted(outcome: Outcome, Z: Floats, strength: float, last: Any) -> Any:
    """Fit scikit-learn's model, from the last one's coefficients."""
    newton = Z.shape[1] * (len(outcome.classes or ()) or 1) <= 300
    solver = "newton-cholesky" if newton else "lbfgs"
    if outcome.task == "count":
        model: Any = PoissonRegressor(
            alpha=strength, solver=solver, max_iter=300, warm_start=True
        )
    else:
        model = LogisticRegression(
            C=1 / (strength * len(Z)), solver=solver, max_iter=300, warm_start=True
        )
        if last is not None and hasattr(last, "classes_"):
            model.classes_ = last.classes_
    if last is not None:
        model.coef_, model.intercept_ = last.coef_, last.intercept_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rough fit of a rival's is good enough
        return model.fit(Z, outcome.y)


def _predictors(model: Any, outcome: Outcome, Z: Floats) -> Floats:
    if outcome.task == "count":
        return np.asarray(Z @ model.coef_ + model.intercept_)
    eta = np.asarray(model.decision_function(Z))
    n_classes = len(outcome.classes or ())
    if n_classes == 2:
        return eta
    if eta.ndim == 1:  # two of the classes are in these rows
        eta = np.column_stack((np.zeros_like(eta), eta))
    full = np.full((len(Z), n_classes), eta.min() - 5.0)
    full[:, model.classes_.astype(np.int64)] = eta
    return full


def _loss(outcome: Outcome, eta: Floats) -> float:
    y = outcome.y
    if outcome.task == "count":
        return float(np.mean(np.exp(np.minimum(eta, 700.0)) - y * eta))
    if outcome.task == "binary":
        return float(np.mean(np.logaddexp(0.0, eta) - y * eta))
    total = np.logaddexp.reduce(eta, axis=1)
    return float(np.mean(total - eta[np.arange(len(y)), y.astype(np.int64)]))


def _by_refits(
    Z: Floats,
    outcome: Outcome,
    T: Floats,
    folds: Folds,
    strengths: Floats,
    stop: Callable[[], bool],
) -> Floats:
    p = Z.shape[1]
    ones = np.ones(p, np.int64)
    plain = outcome.objective(Z, 0.0)
    span = Coordinates(np.arange(p), np.arange(p), ones, (p,))
    losses = []
    for train, test in folds:
        row: list[float] = []
        fit = None
        held = plain.rows(test)
        for strength in strengths:
            if stop():
                break
            fit = outcome.take(train).objective(Z[train], strength).refit(span, fit)
            row.append(held.loss_at(fit.x, fit.intercept))
        losses.append(row)
    best = strengths[_best(losses)]
    final = outcome.objective(Z, best).refit(span)
    eta = T @ final.x
    if isinstance(plain, Ordinal):
        eta = plain.log_probabilities(eta, final.intercept)
    return np.asarray(eta)
