"""Sparse classification."""

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from vitalfew.contracts import Array
from vitalfew.estimators._base import AUTO_L2, SparseEstimator, distinct_rows
from vitalfew.objectives import Logistic, Multinomial


class SparseClassifier(ClassifierMixin, SparseEstimator):
    """Logistic or multinomial regression on at most `n_nonzero` columns.

    Parameters are those of `SparseRegressor`, without `loss` and `delta`. With
    more than two classes a column is used for all classes or for none.

    Parameters
    ----------
    n_nonzero : int or "auto", default="auto"
        How many columns, or groups if `groups` is given, to use. Automatically the
        best by `criterion` of 0 to 10, 12, 15, 20, 25, 30, 40, 50, 65, 80 and 100, as
        far as half of the rows go.
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
        Ridge on the scaled columns; automatically 1e-3, without which columns that
        separate the classes would get infinite coefficients.
    standardize : bool, default=True
        Bring columns to unit standard deviation before choosing.
    fit_intercept : bool, default=True
        Fit an intercept, which is neither counted nor penalised.
    random_state : int, Generator or None
        Shuffles the folds.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        The classes.
    coef_ : array of shape (1, n_features) or (n_classes, n_features)
        Coefficients in the units of X.
    intercept_ : array of shape (1,) or (n_classes,)
        Intercepts.
    support_ : integer array
        Numbers of the columns chosen, ascending.
    n_nonzero_ : int
        How many columns or groups were chosen.
    path_ : Path
        Solutions over the budget and their scores.
    solution_ : Solution
        The chosen one, in scaled units.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> SparseClassifier(4).fit(X, y).n_nonzero_
    4
    """

    def __init__(
        self,
        n_nonzero: Any = "auto",
        *,
        groups: Any = None,
        solver: Any = None,
        criterion: str = "cv",
        cv: Any = 5,
        l2: Any = "auto",
        standardize: bool = True,
        fit_intercept: bool = True,
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
            random_state=random_state,
        )
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the columns and fit their coefficients.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array of shape (n_samples,)
            Classes, of any type.
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
            ensure_min_samples=2,
        )
        check_classification_targets(y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        present = y if sample_weight is None else y[sample_weight > 0]
        self.classes_ = np.unique(present)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least two classes, got one class: {self.classes_}"
            )
        # rows without weight may hold classes that do not exist: any code will do
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        design, scale = self._design(X, sample_weight, self.fit_intercept)
        loss = Logistic if len(self.classes_) == 2 else Multinomial
        objective = loss(
            design,
            codes.astype(X.dtype),
            sample_weight=sample_weight,
            l2=self._ridge(AUTO_L2),
            fit_intercept=self.fit_intercept,
        )
        found = self._choose(objective, self._rng(), distinct_rows(X, sample_weight))
        x = self._finish(found, scale, objective.shape)
        self.coef_ = x.reshape(len(x), -1).T
        b = found.best.intercept
        self.intercept_ = np.zeros(len(self.coef_)) if b is None else np.atleast_1d(b)
        self._stop_if_interrupted()
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the linear predictors.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_classes)
            One for each class; with two classes, of the second against the first.
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
        return eta[:, 0] if len(self.classes_) == 2 else eta

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.

        Returns
        -------
        array of shape (n_samples, n_classes)
            Rows sum to one.
        """
        eta = self.decision_function(X)
        if eta.ndim == 1:
            eta = np.column_stack((np.zeros_like(eta), eta))
        e = np.exp(eta - eta.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """Return the most probable class.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.

        Returns
        -------
        array of shape (n_samples,)
            Classes.
        """
        eta = self.decision_function(X)
        codes = (eta > 0).astype(int) if eta.ndim == 1 else eta.argmax(axis=1)
        return self.classes_[codes]
