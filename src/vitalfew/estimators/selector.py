"""Choosing columns as a step of a pipeline."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vitalfew.contracts import Array
from vitalfew.estimators.classifier import SparseClassifier
from vitalfew.estimators.regressor import SparseRegressor

MOST_CLASSES = 20  # different whole numbers that are still taken for classes
TASKS = ("auto", "regression", "classification")


class SparseSelector(SelectorMixin, BaseEstimator):
    """Keep the columns that a sparse linear model chooses.

    A transformer for pipelines: fits `SparseRegressor` or `SparseClassifier` and passes
    on the columns it uses.

    Parameters
    ----------
    n_nonzero : int or "auto", default="auto"
        How many columns, or groups if `groups` is given, to keep. Automatically the
        best by `criterion` of 0 to 10, 12, 15, 20, 25, 30, 40, 50, 65, 80 and 100, as
        far as half of the rows go.
    task : {"auto", "regression", "classification"}, default="auto"
        Whether y holds numbers or classes; automatically numbers if it has fractions,
        several columns or more than 20 different numbers.
    groups : array of shape (n_features,), optional
        Group of each column: names, or numbers from 0; a group is kept whole or not
        at all.
    solver : Solver, optional
        One of `vitalfew.solvers`; a good one by default.
    criterion : {"cv", "cv-1se", "bic", "ebic", "gic"}, default="cv"
        What chooses an automatic `n_nonzero`; see `vitalfew.path`.
    cv : int, splitter or iterable, default=5
        Folds.
    l2 : float or "auto", default="auto"
        Ridge on the scaled columns; automatically 0 for numbers and 1e-3 for classes.
    standardize : bool, default=True
        Bring columns to unit standard deviation before choosing.
    fit_intercept : bool, default=True
        Fit an intercept, which is neither counted nor penalised.
    random_state : int, Generator or None
        Shuffles the folds.

    Attributes
    ----------
    estimator_ : SparseRegressor or SparseClassifier
        The model that chose.
    support_ : integer array
        Numbers of the columns kept, ascending; at least one, even where the model
        does best without any.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> SparseSelector(3).fit_transform(X, y).shape
    (442, 3)
    """

    def __init__(
        self,
        n_nonzero: Any = "auto",
        *,
        task: str = "auto",
        groups: Any = None,
        solver: Any = None,
        criterion: str = "cv",
        cv: Any = 5,
        l2: Any = "auto",
        standardize: bool = True,
        fit_intercept: bool = True,
        random_state: Any = None,
    ) -> None:
        self.n_nonzero = n_nonzero
        self.task = task
        self.groups = groups
        self.solver = solver
        self.criterion = criterion
        self.cv = cv
        self.l2 = l2
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the columns.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array of shape (n_samples,)
            Numbers or classes.
        sample_weight : array of shape (n_samples,), optional
            Weights.

        Returns
        -------
        self
            The fitted selector.
        """
        if self.task not in TASKS:
            raise ValueError(
                f"task must be one of {', '.join(TASKS)}, got {self.task!r}"
            )
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            multi_output=True,
            ensure_min_samples=2,
        )
        numbers = self.task == "regression" or (self.task == "auto" and _numeric(y))
        chooser = SparseRegressor if numbers else SparseClassifier
        self.estimator_ = chooser(
            self.n_nonzero,
            groups=self.groups,
            solver=self.solver,
            criterion=self.criterion,
            cv=self.cv,
            l2=self.l2,
            standardize=self.standardize,
            fit_intercept=self.fit_intercept,
            random_state=self.random_state,
        ).fit(X, y, sample_weight)
        self.support_ = self.estimator_.support_
        if not len(self.support_):
            # the model does best without any column; a pipeline needs at least one
            solutions = self.estimator_.path_.solutions
            some = (
                s.x.reshape(len(s.x), -1).any(axis=1).nonzero()[0] for s in solutions
            )
            self.support_ = next((s for s in some if len(s)), np.arange(1))
        return self

    def _get_support_mask(self) -> Array:
        check_is_fitted(self, "support_")
        mask = np.zeros(self.n_features_in_, bool)
        mask[self.support_] = True
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags


def _numeric(y: Array) -> bool:
    """Whether a target holds numbers rather than classes."""
    y = np.asarray(y)
    if y.dtype.kind not in "iuf":
        return False
    values = np.unique(y)
    return y.ndim > 1 or len(values) > MOST_CLASSES or bool(np.any(values % 1))
