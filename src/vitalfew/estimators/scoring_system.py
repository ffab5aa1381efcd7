"""Scoring systems: few yes-or-no items with small whole points."""

import math
import time
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from vitalfew._validation import check_count, check_nonnegative
from vitalfew.contracts import Array, Ints
from vitalfew.estimators._scoring_search import Search

WIDTH = 60  # of a printed card
MOST_POINTS = 1000  # of an item; all of them are tried in rounding


class ScoringSystem(ClassifierMixin, BaseEstimator):
    """A classifier of two classes that is a card of points to add up.

    Columns are cut at quantiles into items such as "age >= 65"; a column of zeros and
    ones is an item already. Of all items at most `n_nonzero` get a whole number
    of points, and the risk is read off the total. The items are chosen by sparse
    logistic regression and by exchanges around its answer; for each choice a branch and
    bound proves which points are best, the multiplier left free.

    Parameters
    ----------
    n_nonzero : int, default=5
        Most items. One column may give several.
    max_points : int, default=5
        Largest number of points of an item, whatever its sign.
    n_thresholds : int, default=9
        How many quantiles a column is cut at; one of fewer values is cut at all, and a
        value that many rows share on both sides.
    l2 : float, default=1e-3
        Ridge on the items' coefficients, positive.
    solver : Solver, optional
        What makes the first choice of items; `vitalfew.solvers.LocalSearch` by default.
    max_seconds : float, default=60.0
        Time after which the best card so far is taken.
    random_state : int, Generator or None
        For solvers that use any.

    Attributes
    ----------
    classes_ : array of shape (2,)
        The classes; risks are those of the second.
    features_ : integer array of shape (n_items,)
        Column of each item on the card.
    thresholds_ : array of shape (n_items,)
        An item applies where its column is at least this.
    points_ : integer array of shape (n_items,)
        Points of each item, never zero.
    intercept_ : float
        The risk is ``1 / (1 + exp(-(total + intercept_) / multiplier_))``.
    multiplier_ : float
        How many points multiply the odds by e.
    loss_ : float
        Weighted mean log loss on the training rows, plus the ridge on
        ``points_ / multiplier_``.
    gap_ : float
        Share of the loss by which other points on the same items could at most be
        better: within 1e-6 unless time ran out.
    proved_ : bool
        Whether no other items can do better either, within 1e-6 of the loss. It is
        tried where there are at most 20,000 choices of items.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Notes
    -----
    The search for points sees the data through at most 2^k patterns of k items and
    takes some hundredths of a second for 10 items. Its bounds minimise the convex loss
    of coefficients that are any multiple of real points within a box.

    References
    ----------
    .. [1] B. Ustun, C. Rudin, "Learning optimized risk scores", JMLR, 2019.
    .. [2] J. Liu, C. Zhong, B. Li, M. Seltzer, C. Rudin, "FasterRisk: fast and accurate
       interpretable risk scores", NeurIPS, 2022 (a pool of choices, a free multiplier).

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = ScoringSystem(3, max_points=3).fit(X, y == 0)
    >>> len(model.points_) <= 3
    True
    """

    def __init__(
        self,
        n_nonzero: int = 5,
        *,
        max_points: int = 5,
        n_thresholds: int = 9,
        l2: float = 1e-3,
        solver: Any = None,
        max_seconds: float = 60.0,
        random_state: Any = None,
    ) -> None:
        self.n_nonzero = n_nonzero
        self.max_points = max_points
        self.n_thresholds = n_thresholds
        self.l2 = l2
        self.solver = solver
        self.max_seconds = max_seconds
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the items and their points.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
            Numbers.
        y : array of shape (n_samples,)
            Two classes, of any type.
        sample_weight : array of shape (n_samples,), optional
            Weights.

        Returns
        -------
        self
            The fitted estimator. Ctrl-C leaves the best card so far in place and is
            passed on.
        """
        check_count("n_nonzero", self.n_nonzero, 0, 50, "a card is no longer")
        check_count("max_points", self.max_points, 1, MOST_POINTS, "points are small")
        check_count("n_thresholds", self.n_thresholds, 1)
        if not check_nonnegative("l2", self.l2):
            raise ValueError(
                "l2 must be positive, got 0: without it points for items that separate "
                "the classes have no best multiplier"
            )
        if self.max_seconds != math.inf:
            check_nonnegative("max_seconds", self.max_seconds)
        deadline = time.perf_counter() + self.max_seconds
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        w = np.full(len(y), 1.0)
        if sample_weight is not None:
            w = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True
            )
        w = w / w.max()  # sums of huge weights are no numbers
        X, y, w = X[w > 0], y[w > 0], w[w > 0]
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            if type_of_target(y) == "multiclass":
                raise ValueError(
                    "Only binary classification is supported. y must hold two classes, "
                    f"got {len(self.classes_)}"
                )
            raise ValueError(f"y must hold two classes, got one class: {self.classes_}")
        codes = (y == self.classes_[1]).astype(np.float64)
        columns, cuts = self._cut(X, w)
        items = (X[:, columns] >= cuts).astype(np.float64)
        search = Search(items, codes, w / w.sum(), self.l2, self.max_points, deadline)
        interrupted = search.run(self.n_nonzero, self.solver, self.random_state)
        self._keep(search, columns, cuts)
        self._yes_or_no = [bool(np.isin(X[:, j], (0, 1)).all()) for j in self.features_]
        if interrupted:
            raise KeyboardInterrupt
        return self

    def _cut(self, X: Array, w: Array) -> tuple[Ints, NDArray[np.float64]]:
        """Return the column and the threshold of each item there may be."""
        levels = np.arange(1, self.n_thresholds + 1) / (self.n_thresholds + 1)
        columns: list[int] = []
        cuts: list[float] = []
        for j in range(X.shape[1]):
            found, which = np.unique(X[:, j], return_inverse=True)
            at = np.arange(len(found))
            if len(found) > self.n_thresholds + 1:
                mass = np.bincount(which, w) / w.sum()
                # a share that meets a level but for rounding meets it
                at = np.searchsorted(np.cumsum(mass), levels - 1e-9)
                # a value of many rows, zero often, is cut off on both sides
                heavy = at[mass[at] >= levels[0] - 1e-9] + 1
                at = np.union1d(at, heavy[heavy < len(found)])
            for i in at[at > 0]:
                columns.append(j)
                cuts.append(_short(float(found[i - 1]), float(found[i])))
        return np.array(columns, np.int64), np.array(cuts, np.float64)

    def _keep(self, search: Search, columns: Ints, cuts: NDArray[np.float64]) -> None:
        """Set the attributes, items by column and threshold, points in lowest terms."""
        card = search.card
        used = np.flatnonzero(card.points if card.scale else 0 * card.points)
        chosen = search.atoms[used]
        order = np.lexsort((cuts[chosen], columns[chosen]))
        points = card.points[used][order]
        factor = int(np.gcd.reduce(points)) if len(points) else 1
        self.features_, self.thresholds_ = columns[chosen][order], cuts[chosen][order]
        self.points_ = points // factor
        scale = card.scale * factor if len(points) else 1.0
        self.multiplier_, self.intercept_ = 1 / scale, card.shift / scale
        self.loss_, self.gap_, self.proved_ = card.value, search.gap, search.proved

    # -- use ---------------------------------------------------------------------------

    def total(self, X: Any) -> Ints:
        """Add up the points.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
            Numbers.

        Returns
        -------
        integer array of shape (n_samples,)
            Totals.
        """
        check_is_fitted(self, "points_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        total: Ints = (X[:, self.features_] >= self.thresholds_) @ self.points_
        return total

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of the odds of the second class.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
            Numbers.

        Returns
        -------
        array of shape (n_samples,)
            ``(total + intercept_) / multiplier_``.
        """
        return self._log_odds(self.total(X))

    def _log_odds(self, total: Any) -> NDArray[np.float64]:
        odds: NDArray[np.float64] = (total + self.intercept_) / self.multiplier_
        return odds

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
            Numbers.

        Returns
        -------
        array of shape (n_samples, 2)
            Rows sum to one.
        """
        odds = self.decision_function(X)
        return np.column_stack((expit(-odds), expit(odds)))

    def predict(self, X: Any) -> Array:
        """Return the more probable class.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
            Numbers.

        Returns
        -------
        array of shape (n_samples,)
            Classes.
        """
        likely = self.decision_function(X) > 0
        return self.classes_[likely.astype(np.int64)]

    def items(self) -> list[str]:
        """Return the items on the card in words.

        Returns
        -------
        list of str
            As in "age >= 65"; the name alone for a column of zeros and ones.
        """
        check_is_fitted(self, "points_")
        names = getattr(self, "feature_names_in_", None)
        pairs = zip(self.features_, self.thresholds_, strict=True)
        told = []
        for (j, t), plain in zip(pairs, self._yes_or_no, strict=True):
            name = f"x{j}" if names is None else str(names[j])
            told.append(name if plain else f"{name} >= {t:.12g}")
        return told

    def card(self) -> str:
        """Return the card as text: items and points, then the risk of each total.

        Returns
        -------
        str
            Lines of at most 60 characters where names allow.
        """
        items = self.items()
        wide = max([len(item) for item in items] + [20])
        lines = [f"Add the points of every line that applies ({len(items)} in all)", ""]
        for item, points in zip(items, self.points_, strict=True):
            lines.append(f"  {item:<{wide}}  {points:+3d}")
        lines += ["", f"Risk of {self.classes_[1]!s}", ""]
        totals = {0}
        for j in np.unique(self.features_):
            # who is past one threshold of a column is past the lower ones
            ladder = np.cumsum(self.points_[self.features_ == j]).tolist()
            totals |= {t + step for t in totals for step in ladder}
        shown = sorted(totals)
        risks = [_percent(r) for r in expit(self._log_odds(np.array(shown)))]
        cell = max(len(text) for text in (*risks, *map(str, shown))) + 1
        a_line = max(1, (WIDTH - 8) // cell)
        for start in range(0, len(shown), a_line):
            part = slice(start, start + a_line)
            lines.append("  total " + "".join(f"{t:>{cell}}" for t in shown[part]))
            lines.append("  risk  " + "".join(f"{r:>{cell}}" for r in risks[part]))
            lines.append("")
        return "\n".join(lines[:-1])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _short(low: float, high: float) -> float:
    """Return the roundest decimal above `low` and not above `high`."""
    size = math.floor(math.log10(max(abs(low), abs(high)))) + 1
    if abs(size) > 290:  # powers of ten are no numbers there
        return high
    for digits in range(-size, 17 - size):
        unit = 10 ** abs(digits)
        if digits > 0:
            short: float = math.floor(high * unit) / unit
        else:
            short = float(math.floor(high / unit) * unit)
        if low < short <= high:
            return short
    return high


def _percent(risk: float) -> str:
    """Return a probability as a percentage of at most five characters."""
    if risk < 0.001:
        return "<0.1%"
    return ">99.9%" if risk > 0.999 else f"{100 * risk:.1f}%"
