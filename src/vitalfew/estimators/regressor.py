"""Sparse regression."""

from typing import Any, Self

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from vitalfew.contracts import Array
from vitalfew.estimators._base import AUTO_L2, SparseEstimator, distinct_rows
from vitalfew.objectives import Huber, LeastSquares, Poisson
from vitalfew.structures import Bounded

LOSSES = ("squared", "huber", "poisson")


class SparseRegressor(RegressorMixin, MultiOutputMixin, SparseEstimator):
    """Regression on at most `n_nonzero` columns, chosen under an exact budget.

    Columns are brought to one scale, the budget is solved by `vitalfew.solve`, and with
    ``n_nonzero="auto"`` it is chosen by cross-validation or a criterion. The
    coefficients are refitted on the chosen columns, so nothing is shrunk unless `l2`
    is positive.

    Parameters
    ----------
    n_nonzero : int or "auto", default="auto"
        How many columns, or groups if `groups` is given, to use. Automatically the
        best by `criterion` of 0 to 10, 12, 15, 20, 25, 30, 40, 50, 65, 80 and 100, as
        far as half of the rows go.
    loss : {"squared", "huber", "poisson"}, default="squared"
        Squared error; Huber's, which outliers cannot bend; counts with a logarithmic
        link.
    groups : array of shape (n_features,), optional
        Group of each column: names, or numbers from 0; a group is used whole or not
        at all.
    solver : Solver, optional
        One of `vitalfew.solvers`; a good one by default.
    criterion : {"cv", "cv-1se", "bic", "ebic", "gic"}, default="cv"
        What chooses an automatic `n_nonzero`; see `vitalfew.path`.
    cv : int, splitter or iterable, default=5
        Folds.
    l2 : float or "auto", default="auto"
        Ridge on the scaled columns; automatically 0, and 1e-3 for counts.
    standardize : bool, default=True
        Bring columns to unit standard deviation before choosing.
    fit_intercept : bool, default=True
        Fit an intercept, which is neither counted nor penalised.
    delta : float or "auto", default="auto"
        Where Huber's loss becomes a line, in units of y; automatically 1.345 times the
        robust standard deviation of y, which is on the safe side.
    positive : bool, default=False
        Let no coefficient be negative.
    certify : bool, default=False
        Prove how far the solution can be from the best of as many columns, as
        `vitalfew.certify` does in some ten seconds, and take a better one that it
        comes upon. Needs `l2` above zero, or squared loss and independent columns.
    random_state : int, Generator or None
        Shuffles the folds.

    Attributes
    ----------
    coef_ : array of shape (n_features,) or (n_outputs, n_features)
        Coefficients in the units of X.
    intercept_ : float or array of shape (n_outputs,)
        Intercept.
    support_ : integer array
        Numbers of the columns chosen, ascending.
    n_nonzero_ : int
        How many columns or groups were chosen.
    path_ : Path
        Solutions over the budget and their scores.
    solution_ : Solution
        The chosen one, in scaled units.
    lower_bound_ : float
        What no choice of as many columns can be below, of loss and ridge; only with
        ``certify=True``.
    gap_ : float
        By how much the value may be above the best, as a share of it; likewise.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 50))
    >>> y = X[:, 4] - 2 * X[:, 17] + 0.1 * rng.standard_normal(100)
    >>> SparseRegressor(2).fit(X, y).support_
    array([ 4, 17])
    """

    def __init__(
        self,
        n_nonzero: Any = "auto",
        *,
        loss: str = "squared",
        groups: Any = None,
        solver: Any = None,
        criterion: str = "cv",
        cv: Any = 5,
        l2: Any = "auto",
        standardize: bool = True,
        fit_intercept: bool = True,
        delta: Any = "auto",
        positive: bool = False,
        certify: bool = False,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            n_nonzero,
            groups=groups,
            solver=solver,
            criterion=criterion,
            cv=cv,
            l2=l2,
            standardize=standardize,
            certify=certify,
            random_state=random_state,
        )
        self.loss = loss
        self.fit_intercept = fit_intercept
        self.delta = delta
        self.positive = positive

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the columns and fit their coefficients.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            Targets; several outputs share their columns (squared loss only).
        sample_weight : array of shape (n_samples,), optional
            Weights.

        Returns
        -------
        self
            The fitted estimator.
        """
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        if self.loss != "squared":
            y = column_or_1d(y, warn=True)
        design, scale = self._design(X, sample_weight, self.fit_intercept)
        objective = self._objective(design, np.asarray(y, X.dtype), sample_weight)
        found = self._choose(objective, self._rng(), distinct_rows(X, sample_weight))
        x = self._finish(found, scale, objective.shape)
        self.coef_ = x.T
        b = found.best.intercept
        shape = np.shape(y)[1:]
        intercept = np.zeros(shape) if b is None else np.asarray(b)
        self.intercept_ = intercept if shape else float(intercept)
        self._stop_if_interrupted()
        return self

    def _structure(self, p: int) -> Any:
        structure = super()._structure(p)
        return Bounded(structure) if self.positive else structure

    def _objective(self, design: Any, y: Array, sample_weight: Any) -> Any:
        if self.loss not in LOSSES:
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}"
            )
        settings = {
            "sample_weight": sample_weight,
            "l2": self._ridge(AUTO_L2 if self.loss == "poisson" else 0.0),
            "fit_intercept": self.fit_intercept,
        }
        if self.loss == "squared":
            return LeastSquares(design, y, **settings)
        if self.loss == "poisson":
            return Poisson(design, y, **settings)
        delta = self.delta
        if isinstance(delta, str):
            spread = 1.4826 * float(np.median(np.abs(y - np.median(y))))
            delta = 1.345 * (spread or float(np.std(y)) or 1.0)
        return Huber(design, y, delta=delta, **settings)

    def predict(self, X: Any) -> Array:
        """Predict targets.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_outputs)
            Predictions; for counts their mean.
        """
        check_is_fitted(self, "coef_")
        X = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            reset=False,
        )
        eta = X @ self.coef_.T + self.intercept_
        return np.exp(np.minimum(eta, 700.0)) if self.loss == "poisson" else eta

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = self.loss == "squared"
        tags.target_tags.single_output = True
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags
