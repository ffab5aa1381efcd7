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
from vitalfew.objectives import Logistic, Multinomial, Ordinal
from vitalfew.objectives.ordinal import log_shares


class SparseClassifier(ClassifierMixin, SparseEstimator):
    """Logistic, multinomial or ordinal regression on at most `n_nonzero` columns.

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
        Fit an intercept, which is neither counted nor penalised; more than two ordered
        classes always have their thresholds.
    ordered : bool or sequence of classes, default=False
        Whether the classes are ordered: as they sort, or as they are given here, the
        lowest first. Then one coefficient for each column moves the odds of all higher
        classes alike (proportional odds).
    certify : bool, default=False
        Prove how far the solution can be from the best of as many columns, as
        `vitalfew.certify` does in some ten seconds, and take a better one that it
        comes upon. Needs `l2` above zero; the larger it is, the closer the bound.
    random_state : int, Generator or None
        Shuffles the folds.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        The classes, in their order.
    coef_ : array of shape (1, n_features) or (n_classes, n_features)
        Coefficients in the units of X; of two or of ordered classes one row.
    intercept_ : array of shape (1,) or (n_classes,)
        Intercepts. Of ordered classes the thresholds between them, (n_classes - 1,).
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
        ordered: Any = False,
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
        self.fit_intercept = fit_intercept
        self.ordered = ordered

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
        self.classes_, codes = self._codes(np.unique(present), y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least two classes, got one class: {self.classes_}"
            )
        in_order = len(self.classes_) > 2 and not self._unordered
        design, scale = self._design(X, sample_weight, self.fit_intercept or in_order)
        targets, l2 = codes.astype(X.dtype), self._ridge(AUTO_L2)
        objective: Any
        if in_order:
            objective = Ordinal(design, targets, sample_weight=sample_weight, l2=l2)
        else:
            loss = Logistic if len(self.classes_) == 2 else Multinomial
            objective = loss(
                design,
                targets,
                sample_weight=sample_weight,
                l2=l2,
                fit_intercept=self.fit_intercept,
            )
        found = self._choose(objective, self._rng(), distinct_rows(X, sample_weight))
        x = self._finish(found, scale, objective.shape)
        self.coef_ = x.reshape(len(x), -1).T
        b = found.best.intercept
        self.intercept_ = np.zeros(len(self.coef_)) if b is None else np.atleast_1d(b)
        self._stop_if_interrupted()
        return self

    @property
    def _unordered(self) -> bool:
        return isinstance(self.ordered, (bool, np.bool_)) and not self.ordered

    def _codes(self, found: Array, y: Array) -> tuple[Array, Array]:
        """Return the classes in their order, and the number of each row's class."""
        classes = found
        if not isinstance(self.ordered, (bool, np.bool_)):
            order = np.asarray(list(self.ordered))
            strange = found[~np.isin(found, order)]
            if len(strange) or len(np.unique(order)) < len(order):
                what = f"{strange[0]} is missing" if len(strange) else "one is twice"
                raise ValueError(
                    "ordered must be True, False or every class once, the lowest "
                    f"first; {what} in {self.ordered!r}"
                )
            classes = order[np.isin(order, found)]
        by_name = np.argsort(classes)
        # rows without weight may hold classes that do not exist: any code will do
        places = np.searchsorted(classes[by_name], y).clip(max=len(classes) - 1)
        return classes, by_name[places]

    def decision_function(self, X: Any) -> Array:
        """Return the linear predictors, or of ordered classes log-probabilities.

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
        if len(self.coef_) == 1 and len(self.classes_) > 2:
            return log_shares(self.intercept_ - X @ self.coef_.T)
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # classes that have no order cannot be told apart as if they had one
        tags.classifier_tags.poor_score = not self._unordered
        return tags
