"""What the selectors that train a network share: from a table to a run, and back."""

import hashlib
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from vitalfew._validation import check_count, check_nonnegative, check_rng
from vitalfew.contracts import Array, Ints
from vitalfew.estimators.selector import TASKS, _numeric
from vitalfew.exceptions import ConvergenceWarning, MissingDependencyError

Floats = NDArray[np.float64]

SCHEDULES = ("train-then-pick", "one-pass")
LEAST_STEPS = 50  # of a round, so that its logits tell more than noise
LEAST_TOTAL, EPOCHS = 1_000, 20  # of all rounds together, the larger of the two
MOST_HELD_OUT = 1_024
CLIP = 5.0  # standard deviations
NOISE = 1e-5  # of logits in the published schedule

TOLD = {
    "finished": "all rounds were trained",
    "interrupted": "interrupted",
    "stopped": "the callback asked to stop",
    "not finite": "the loss stopped being finite; a lower learning_rate may help",
}


class NetworkSelector(SelectorMixin, BaseEstimator):
    """A selector whose picks come from a network that trains; see its subclasses."""

    # -- what subclasses say -----------------------------------------------------------

    @abstractmethod
    def _mask(self, engine: Any, network: Any, labels: Ints, n_atoms: int) -> Any:
        """Return the mask that trains along."""

    # -- the fit -----------------------------------------------------------------------

    def _checked(self, X: Any, y: Any) -> tuple[Any, Any, bool]:
        """Return the data, and whether y holds classes."""
        if self.task not in TASKS:
            raise ValueError(
                f"task must be one of {', '.join(TASKS)}, got {self.task!r}"
            )
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            multi_output=True,
            ensure_min_samples=2,
        )
        classes = self.task == "classification"
        classes = classes or (self.task == "auto" and not _numeric(y))
        if not classes:
            return X, np.asarray(y, np.float64), False
        if y.ndim > 1:
            raise ValueError(f"y must be one column of classes, got shape {y.shape}")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least two classes, got one class: {self.classes_}"
            )
        return X, codes.astype(np.int64), True

    def _atoms(self, p: int) -> tuple[Ints, Array]:
        """Return the number of each column's group, and what the groups are called."""
        if self.groups is None:
            return np.arange(p), np.arange(p)
        given = np.asarray(self.groups)
        if given.shape != (p,):
            raise ValueError(
                f"groups must have one label for each of the {p} columns, "
                f"got shape {given.shape}"
            )
        names, labels = np.unique(given, return_inverse=True)
        return labels.astype(np.int64), names

    def _count(self, n_atoms: int) -> int:
        what = "columns" if self.groups is None else "groups"
        return check_count(
            "n_features_to_select",
            self.n_features_to_select,
            1,
            n_atoms,
            f"the number of {what}",
        )

    def _fit_network(self, X: Any, y: Any) -> Self:
        engine = _engine()
        X, y, classes = self._checked(X, y)
        labels, names = self._atoms(X.shape[1])
        n_picks = self._count(len(names))
        path = None if self.checkpoint is None else Path(self.checkpoint)
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"checkpoint must lie in an existing folder, got {path}")
        seed = engine.stored_seed(path) if path and self.random_state is None else None
        if seed is None:
            seed = int(check_rng(self.random_state).integers(2**31))
        train, held = _split(y, classes, self._fraction(), seed)
        settings = self._settings(engine, n_picks, len(train), seed)
        n_outputs = len(self.classes_) if classes else max(1, y[:1].size)
        network = self._network(engine, X.shape[1], n_outputs, seed)
        problem = self._problem(
            engine, network, X, y, (train, held), labels, n_outputs, classes, settings
        )
        found = engine.select(problem, settings, self.callback, path)
        self.n_steps_ = found.n_steps
        self._keep(found.order, found.scores, labels, names)
        self._tell(found.ending, found.n_picked, n_picks)
        return self

    def _fraction(self) -> float:
        fraction = check_nonnegative("validation_fraction", self.validation_fraction)
        if fraction >= 1:
            raise ValueError(f"validation_fraction must be below 1, got {fraction:g}")
        return fraction

    def _settings(self, engine: Any, n_picks: int, n_train: int, seed: int) -> Any:
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}"
            )
        per_round = check_count("per_round", self.per_round, 1)
        batch_size = min(check_count("batch_size", self.batch_size, 1), n_train)
        n_rounds = -(-n_picks // per_round)
        steps = self.steps_per_round
        if isinstance(steps, str):
            if steps != "auto":
                raise ValueError(
                    f"steps_per_round must be 'auto' or an integer, got {steps!r}"
                )
            total = max(LEAST_TOTAL, EPOCHS * n_train // batch_size)
            steps = max(LEAST_STEPS, -(-total // n_rounds))
        steps = check_count("steps_per_round", steps, 1)
        warm_up = check_nonnegative("warm_up", self.warm_up)
        if warm_up >= 1:
            raise ValueError(f"warm_up must be a share below 1, got {warm_up:g}")
        dropout = None
        if self.dropout != "auto":
            dropout = check_nonnegative("dropout", self.dropout)
            if dropout >= 1:
                raise ValueError(f"dropout must be below 1, got {dropout:g}")
        return engine.Settings(
            n_picks=n_picks,
            per_round=per_round,
            steps_per_round=steps,
            warm_up_steps=round(warm_up / (1 - warm_up) * n_rounds * steps),
            pick_first=self.schedule == "one-pass",
            batch_size=batch_size,
            learning_rate=check_nonnegative("learning_rate", self.learning_rate),
            mask_rate=check_nonnegative("mask_rate", self._mask_rate()),
            weight_decay=check_nonnegative("weight_decay", self.weight_decay),
            dropout=dropout,
            early_stopping=bool(self.early_stopping),
            amp=bool(self.amp),
            seed=seed,
        )

    def _mask_rate(self) -> Any:
        return self.learning_rate

    def _network(self, engine: Any, p: int, n_outputs: int, seed: int) -> Any:
        if self.network is not None and not isinstance(self.network, str):
            return engine.own_network(self.network, p, n_outputs, seed)
        hidden = tuple(
            check_count("hidden_sizes", size, 1)
            for size in np.atleast_1d(np.asarray(self.hidden_sizes, object)).tolist()
        )
        return engine.perceptron(p, n_outputs, hidden, seed)

    def _problem(
        self,
        engine: Any,
        network: Any,
        X: Any,
        y: Any,
        parts: tuple[Ints, Ints],
        labels: Ints,
        n_outputs: int,
        classes: bool,
        settings: Any,
    ) -> Any:
        train, held = parts
        center, scale, constant = _moments(X[train])
        if not classes:
            middle, spread, _ = _moments(y[train].reshape(len(train), -1))
            y = ((y.reshape(len(y), -1) - middle) / spread).reshape(y.shape)
            y = y.astype(np.float32)
        plain = hasattr(network, "embed") or not self.standardize
        scaling = (None, None) if plain else (center, scale)
        device = engine.device_of_choice(self.device)
        rows = [
            engine.Rows(X[some], y[some], *scaling, CLIP, device)
            for some in (train, held)
        ]
        mask = self._mask(engine, network, labels, int(labels.max()) + 1)
        told = (labels, y, center, scale, network.state_dict(), mask.state_dict())
        return engine.Problem(
            network=network,
            loss=self.loss or engine.default_loss(n_outputs, classes),
            train=rows[0],
            held_out=rows[1],
            labels=labels,
            constant=np.bincount(labels, ~constant) == 0,
            mask=mask,
            mark=_mark((type(self).__name__, settings, repr(network)), told),
        )

    # -- the answer --------------------------------------------------------------------

    def _keep(self, order: Ints, scores: Floats, labels: Ints, names: Array) -> None:
        """Set the attributes that say what was chosen."""
        rest = np.setdiff1d(np.arange(len(names)), order)
        rest = rest[np.argsort(-scores[rest], kind="stable")]
        rank = np.empty(len(names), np.int64)
        rank[np.concatenate((order, rest))] = np.arange(1, len(names) + 1)
        self.ranking_ = rank[labels]
        by_pick = np.argsort(self.ranking_, kind="stable")
        self.order_ = by_pick[np.isin(labels[by_pick], order)]
        self.support_ = np.sort(self.order_)
        if self.groups is not None:
            self.groups_ = names[order]

    def _tell(self, ending: str, n_picked: int, n_picks: int) -> None:
        """Say how it ended; pass Ctrl-C on once the answer is in place."""
        self.n_picked_ = n_picked
        self.status_ = TOLD[ending]
        if n_picked < n_picks:
            self.status_ += (
                f" after {n_picked} of {n_picks} picks; the others scored highest then"
            )
        if ending == "interrupted":
            raise KeyboardInterrupt
        if ending == "not finite":
            warnings.warn(
                f"{type(self).__name__}: {self.status_}",
                ConvergenceWarning,
                stacklevel=4,
            )

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


def _engine() -> Any:
    """Return the module that trains; torch is imported with it."""
    try:
        from vitalfew.neural import feature_selection
    except ImportError as error:
        raise MissingDependencyError(
            "choosing the inputs of a network needs PyTorch: "
            "pip install 'vitalfew[torch]'"
        ) from error
    return feature_selection


def _split(y: Array, classes: bool, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows to train on and those held out: that share of each class."""
    rng = np.random.default_rng([seed, 1])
    rows = rng.permutation(len(y))
    sizes = np.bincount(y) if classes else np.array([len(y)])
    shares = np.floor(sizes * min(fraction, MOST_HELD_OUT / len(y))).astype(np.int64)
    codes = y[rows] if classes else np.zeros(len(y), np.int64)
    by_class = np.argsort(codes, kind="stable")
    place = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = np.zeros(len(y), bool)
    held[rows[by_class]] = place < np.repeat(shares, sizes)
    return np.flatnonzero(~held), np.flatnonzero(held)


def _moments(X: Any) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return means, standard deviations (1 for constant columns), and which are."""
    from vitalfew.neural.feature_selection import chunks

    def parts() -> Any:
        for rows in chunks(*X.shape):
            part = X[rows]
            yield (part.toarray() if hasattr(part, "toarray") else part).astype(float)

    n = X.shape[0]
    peak = np.max([np.abs(part).max(axis=0) for part in parts()], axis=0)
    peak = np.where(peak > 0, peak, 1.0)  # squares of huge and tiny numbers are none
    mean = sum((part / peak).sum(axis=0) for part in parts()) / n
    square = sum(((part / peak - mean) ** 2).sum(axis=0) for part in parts()) / n
    spread = np.sqrt(square)
    constant = spread <= 1e-12
    return mean * peak, np.where(constant, 1.0, spread * peak), constant


def _mark(facts: tuple[Any, ...], arrays: tuple[Any, ...]) -> str:
    """Return a hash of what is trained on what."""
    digest = hashlib.sha256(repr(facts).encode())
    for held in arrays:
        if isinstance(held, dict):
            for name, tensor in held.items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().numpy().tobytes())
        else:
            digest.update(repr(held.shape).encode())
            digest.update(np.ascontiguousarray(held).tobytes())
    return digest.hexdigest()
