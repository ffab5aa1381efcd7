"""How good predictions are on rows that were held out."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    cohen_kappa_score,
    d2_tweedie_score,
    r2_score,
    roc_auc_score,
)

from vitalfew.estimators.cox import concordance
from vitalfew.study._outcome import Outcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAIN = {  # the metric that is shown first, and whether more of it is better
    "regression": ("R2", True),
    "binary": ("log loss", False),
    "multiclass": ("log loss", False),
    "ordered": ("log loss", False),
    "count": ("deviance explained", True),
    "survival": ("concordance", True),
}


def score(outcome: Outcome, eta: Floats) -> dict[str, float]:
    """Judge linear predictors.

    Parameters
    ----------
    outcome : Outcome
        What was to be predicted.
    eta : array of shape (n,) or (n, n_classes)
        Linear predictors.

    Returns
    -------
    dict of str to float
        The main metric first; NaN where one is not defined on these rows.
    """
    y = outcome.y
    if outcome.event is not None:
        return {"concordance": concordance(y, outcome.event, eta)}
    if outcome.task == "regression":
        return {"R2": _r2(y, eta), "RMSE": float(np.sqrt(np.mean((y - eta) ** 2)))}
    if outcome.task == "count":
        mean = np.exp(np.clip(eta, -700.0, 700.0))
        explained = d2_tweedie_score(y, mean, power=1) if y.std() else np.nan
        root = np.sqrt(np.mean((y - mean) ** 2))
        return {"deviance explained": float(explained), "RMSE": float(root)}
    codes = y.astype(np.int64)
    if outcome.task == "binary":
        loss = np.mean(np.logaddexp(0.0, eta) - y * eta)
        auc = roc_auc_score(codes, eta) if len(np.unique(codes)) == 2 else np.nan
        right = np.mean((eta > 0) == (codes == 1))
        return {"log loss": float(loss), "accuracy": float(right), "AUC": float(auc)}
    total = np.logaddexp.reduce(eta, axis=1)
    loss = np.mean(total - eta[np.arange(len(y)), codes])
    found = eta.argmax(axis=1)
    scores = {"log loss": float(loss), "accuracy": float(np.mean(found == codes))}
    if outcome.task == "ordered":
        scores["classes off"] = float(np.mean(np.abs(found - codes)))
        scores["weighted kappa"] = _kappa(codes, found)
    return scores


def _kappa(codes: Ints, found: Ints) -> float:
    """Agreement beyond chance, weighted by the square of how far classes are apart."""
    if len(np.unique(codes)) < 2:
        return float("nan")
    return float(cohen_kappa_score(codes, found, weights="quadratic"))


def _r2(y: Floats, prediction: Floats) -> float:
    if len(y) < 2 or y.std() == 0:
        return float("nan")
    return float(r2_score(y, prediction))


def summary(folds: list[dict[str, float]]) -> dict[str, dict[str, object]]:
    """Gather the scores of folds.

    Parameters
    ----------
    folds : list of dict
        What `score` returned for each fold.

    Returns
    -------
    dict of str to dict
        For each metric its mean, its standard deviation over folds, and the folds.
    """
    gathered: dict[str, dict[str, object]] = {}
    for name in folds[0]:
        values = np.array([fold[name] for fold in folds])
        known = values[np.isfinite(values)]
        with np.errstate(over="ignore"):  # of a fold that failed beyond all measure
            mean = known.mean() if len(known) else np.nan
            sd = known.std(ddof=1) if len(known) > 1 else np.nan
        gathered[name] = {
            "mean": float(mean) if np.isfinite(mean) else None,
            "sd": float(sd) if np.isfinite(sd) else None,
            "folds": [float(v) if np.isfinite(v) else None for v in values],
        }
    return gathered
