"""Sparse survival regression."""

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from vitalfew.contracts import Array
from vitalfew.estimators._base import AUTO_L2, SparseEstimator, distinct_rows
from vitalfew.objectives import Cox


class SparseCox(SparseEstimator):
    """Cox's proportional hazards on at most `n_nonzero` columns.

    Parameters
    ----------
    n_nonzero : int or "auto", default="auto"
        How many columns, or groups if `groups` is given, to use. Automatically the
        best by `criterion` of 0 to 10, 12, 15, 20, 25, 30, 40, 50, 65, 80 and 100, as
        far as half of the rows go.
    ties : {"breslow", "efron"}, default="breslow"
        How events at one time are counted; "efron" is more exact where many share a
        time, with "breslow" a weight of two is the same as a row given twice.
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
        Ridge on the scaled columns; automatically 1e-3.
    standardize : bool, default=True
        Bring columns to unit standard deviation before choosing.
    random_state : int, Generator or None
        Shuffles the folds.

    Attributes
    ----------
    coef_ : array of shape (n_features,)
        Log hazard ratios in the units of X.
    support_ : integer array
        Numbers of the columns chosen, ascending.
    n_nonzero_ : int
        How many columns or groups were chosen.
    path_ : Path
        Solutions over the budget and their scores.
    solution_ : Solution
        The chosen one, in scaled units.
    event_times_, baseline_hazard_ : arrays
        Different event times and Breslow's cumulative hazard there, for a row of zeros:
        0 or infinite where that row lies too far from the data.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 10))
    >>> time = rng.exponential(np.exp(-2 * X[:, 4]))
    >>> SparseCox(1).fit(X, time).support_
    array([4])
    """

    def __init__(
        self,
        n_nonzero: Any = "auto",
        *,
        ties: str = "breslow",
        groups: Any = None,
        solver: Any = None,
        criterion: str = "cv",
        cv: Any = 5,
        l2: Any = "auto",
        standardize: bool = True,
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
        self.ties = ties

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the columns and fit their coefficients.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        y : structured array (event, time), array (n_samples, 2) or (n_samples,)
            A structured array holds a boolean and a number in either order; two columns
            are event (0 or 1) and time; one column is times, all of them events.
        sample_weight : array of shape (n_samples,), optional
            Weights.

        Returns
        -------
        self
            The fitted estimator.
        """
        X = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            ensure_min_samples=2,
        )
        event, time = _survival(y)
        check_consistent_length(X, time)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        design, scale = self._design(X, sample_weight, center=True)
        objective = Cox(
            design,
            time,
            event,
            ties=self.ties,
            sample_weight=sample_weight,
            l2=self._ridge(AUTO_L2),
        )
        found = self._choose(objective, self._rng(), distinct_rows(X, sample_weight))
        self.coef_ = self._finish(found, scale, objective.shape)
        # a row of zeros can lie so far off that its hazard leaves the range of floats
        self._middle = float(np.mean(design.matvec(found.best.x)))
        self.event_times_, self._hazard = objective.baseline_hazard(
            found.best.x, self._middle
        )
        with np.errstate(over="ignore"):
            self.baseline_hazard_ = self._hazard * np.exp(-self._middle)
        self._stop_if_interrupted()
        return self

    def predict(self, X: Any) -> Array:
        """Return the log relative hazard.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.

        Returns
        -------
        array of shape (n_samples,)
            Higher means earlier events.
        """
        check_is_fitted(self, "coef_")
        X = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            reset=False,
        )
        return X @ self.coef_

    def predict_survival(self, X: Any, times: Any) -> Array:
        """Return the probability of no event up to given times.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        times : array of shape (n_times,)
            Times.

        Returns
        -------
        array of shape (n_samples, n_times)
            Probabilities, falling along each row.
        """
        risk = np.exp(np.minimum(self.predict(X) - self._middle, 700.0))
        steps = np.concatenate(([0.0], self._hazard))
        at = np.searchsorted(self.event_times_, np.asarray(times), side="right")
        return np.exp(-risk[:, None] * steps[at][None, :])

    def score(self, X: Any, y: Any) -> float:
        """Return the concordance: how often the higher risk has the earlier event.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        y : structured array, array of shape (n_samples, 2) or (n_samples,)
            Survival, as in `fit`.

        Returns
        -------
        float
            From 0 to 1; 0.5 is chance. Ties in risk count one half.
        """
        event, time = _survival(y)
        return concordance(time, event, self.predict(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        tags.target_tags.two_d_labels = False
        return tags


def _survival(y: Any) -> tuple[Array, Array]:
    """Return event and time from the three forms that `fit` takes."""
    if y is None:
        raise ValueError("SparseCox requires y to be passed, but the target y is None")
    y = y if hasattr(y, "dtype") and getattr(y.dtype, "names", None) else np.asarray(y)
    names = y.dtype.names
    if names is not None:
        if len(names) != 2:
            raise ValueError(f"a structured y must have two fields, got {names}")
        first, second = (y[name] for name in names)
        event, time = (first, second) if first.dtype == bool else (second, first)
        if event.dtype != bool:
            raise ValueError("one field of a structured y must be boolean: the event")
    else:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim == 1:
            event, time = np.ones(len(y), bool), y
        elif y.shape[1] == 2:
            event, time = y[:, 0], y[:, 1]
        else:
            raise ValueError(
                f"y must hold times, or events and times in two columns, got shape "
                f"{y.shape}"
            )
    return np.asarray(event, np.float64), np.asarray(time, np.float64)


def concordance(time: Array, event: Array, risk: Array) -> float:
    """Harrell's concordance index.

    Parameters
    ----------
    time : array of shape (n,)
        Times.
    event : array of shape (n,)
        Whether the event happened.
    risk : array of shape (n,)
        Higher means earlier.

    Returns
    -------
    float
        Share of comparable pairs in order; ties in risk count one half; NaN without a
        comparable pair. Cost O(n^2) time, O(n) memory.

    References
    ----------
    .. [1] F. E. Harrell et al., "Evaluating the yield of medical tests", JAMA, 1982.
    """
    good = pairs = 0.0
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & (event == 0))
        pairs += np.count_nonzero(later)
        good += np.count_nonzero(risk[later] < risk[i])
        good += 0.5 * np.count_nonzero(risk[later] == risk[i])
    return float(good / pairs) if pairs else float("nan")
