"""What the sparse estimators share: from checked arrays to a chosen solution."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vitalfew._certify import certify, check_certifiable
from vitalfew._path import CRITERIA, Path, path
from vitalfew._validation import check_count, check_labels, check_nonnegative, check_rng
from vitalfew.contracts import Array, Ints
from vitalfew.designs import Design, Scaled, as_design
from vitalfew.exceptions import ConvergenceWarning
from vitalfew.solution import Solution
from vitalfew.structures import Groups, Rows

GRID = (*range(11), 12, 15, 20, 25, 30, 40, 50, 65, 80, 100)
AUTO_L2 = 1e-3  # for losses whose best coefficients may be infinite


class SparseEstimator(BaseEstimator):
    """Common parameters and the fit behind all sparse estimators."""

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
        certify: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_nonzero = n_nonzero
        self.groups = groups
        self.solver = solver
        self.criterion = criterion
        self.cv = cv
        self.l2 = l2
        self.standardize = standardize
        self.certify = certify
        self.random_state = random_state

    # -- used by fit -------------------------------------------------------------------

    def _design(self, X: Any, sample_weight: Any, center: bool) -> tuple[Design, Any]:
        """Return the design to work on, and what its columns were divided by."""
        design = as_design(X)
        if not self.standardize:
            return design, 1.0
        n = design.shape[0]
        w = np.full(n, 1.0 / n) if sample_weight is None else sample_weight
        w = np.asarray(w / np.sum(w), dtype=X.dtype)
        scaled = Scaled.standard(design, w, design.rmatvec(w) if center else None)
        return scaled, scaled.scale

    def _ridge(self, automatic: float) -> float:
        if isinstance(self.l2, str):
            if self.l2 != "auto":
                raise ValueError(f"l2 must be 'auto' or a number, got {self.l2!r}")
            return automatic
        return check_nonnegative("l2", self.l2)

    def _structure(self, p: int) -> Any:
        """Return the structure, its budget still to be set."""
        if self.groups is None:
            return Rows(0)
        labels = np.asarray(self.groups)
        if labels.dtype.kind in "OUS":
            labels = np.unique(labels, return_inverse=True)[1]
        labels = check_labels(labels, "groups")
        if labels.shape != (p,):
            raise ValueError(
                f"groups must have one label for each of the {p} columns, "
                f"got shape {labels.shape}"
            )
        return Groups(labels, 0)

    def _choose(self, objective: Any, rng: Any, n_distinct: int) -> Path:
        """Solve for the budget asked for, or for several and choose."""
        structure = self._structure(objective.shape[0])
        n_atoms = structure.on(objective.shape).n_atoms
        if self.certify:
            check_certifiable(objective, structure)
        choose = None
        if isinstance(self.n_nonzero, str):
            if self.n_nonzero != "auto":
                raise ValueError(
                    f"n_nonzero must be 'auto' or an integer, got {self.n_nonzero!r}"
                )
            if self.criterion not in CRITERIA:
                raise ValueError(
                    f"criterion must be one of {', '.join(CRITERIA)}, "
                    f"got {self.criterion!r}"
                )
            most = max(1, min(n_atoms, n_distinct // 2, GRID[-1]))
            budgets = [k for k in GRID if k < most] + [most]
            choose = self.criterion
        else:
            what = (
                "the number of groups"
                if self.groups is not None
                else ("the number of columns")
            )
            budgets = [check_count("n_nonzero", self.n_nonzero, 0, n_atoms, what)]
        found = path(
            objective,
            structure,
            budgets,
            self.solver,
            choose=choose,
            cv=self._n_folds(objective),
            rng=rng,
        )
        if not self.certify or found.interrupted:
            return found
        allowed = structure.with_budget(found.best_budget)
        judged = certify(objective, allowed, found.best)
        self.lower_bound_, self.gap_ = judged.lower_bound, judged.gap
        solutions = list(found.solutions)
        solutions[found.best_index] = judged
        return replace(found, solutions=solutions)

    def _n_folds(self, objective: Any) -> Any:
        """Return `cv`, an integer lowered where rows or members of a class are few."""
        if not isinstance(self.cv, (int, np.integer)) or self.cv < 2:
            return self.cv
        fewest = objective.n_samples
        if objective.strata is not None:
            counts = np.unique(objective.strata, return_counts=True)[1]
            fewest = int(counts.min())
        return int(max(2, min(self.cv, fewest)))

    def _rng(self) -> np.random.Generator:
        return check_rng(self.random_state)

    def _finish(self, found: Path, scale: Any, x_shape: tuple[int, ...]) -> Array:
        """Set the attributes all estimators share; return x in the user's units."""
        kept = [replace(s, fit=s.fit.detached()) for s in found.solutions]
        found = replace(found, solutions=kept)
        solution: Solution = found.best
        x = np.asarray(solution.x) / np.reshape(scale, (-1, *[1] * (len(x_shape) - 1)))
        self.path_ = found
        self.solution_ = solution
        self.support_ = np.flatnonzero(np.any(x.reshape(len(x), -1) != 0, axis=1))
        self.n_nonzero_ = len(solution.support)
        if not solution.status.ok and not found.interrupted:
            warnings.warn(
                f"{type(self).__name__}: {solution.status}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return x

    def _stop_if_interrupted(self) -> None:
        """Pass Ctrl-C on once the best so far is in place."""
        if self.path_.interrupted:
            raise KeyboardInterrupt

    # -- used by users -----------------------------------------------------------------

    def get_support(self, indices: bool = False) -> Ints:
        """Return which columns were chosen.

        Parameters
        ----------
        indices : bool, default=False
            Return their numbers instead of a mask.

        Returns
        -------
        array of shape (n_features,) or (n_chosen,)
            A boolean mask, or numbers.
        """
        check_is_fitted(self, "support_")
        if indices:
            return np.asarray(self.support_)
        mask = np.zeros(self.n_features_in_, bool)
        mask[self.support_] = True
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags


def distinct_rows(X: Any, sample_weight: Any) -> int:
    """Return how many different rows with weight there are, as far as it matters.

    Parameters
    ----------
    X : array or sparse matrix of shape (n, p)
        The data.
    sample_weight : array of shape (n,) or None
        Weights.

    Returns
    -------
    int
        Their number; just the number of rows where that is large.
    """
    X = X if sample_weight is None else X[np.asarray(sample_weight) > 0]
    if X.shape[0] > 1000:
        return int(X.shape[0])
    # equal rows have equal products with a random vector, others almost surely not
    mix = np.random.default_rng(0).standard_normal(X.shape[1])
    return len(np.unique(np.round(X @ mix, 9)))
