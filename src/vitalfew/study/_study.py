"""The study behind ``vitalfew select``: columns, an honest error, stability."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vitalfew._solve import solve
from vitalfew.study._clock import Clock
from vitalfew.study._folds import folds_of, half_of
from vitalfew.study._hints import data_error
from vitalfew.study._model import Model, fit_path
from vitalfew.study._near_ties import near_ties
from vitalfew.study._prepare import Prepared
from vitalfew.study._proof import proved
from vitalfew.study._rivals import all_columns, none_at_all
from vitalfew.study._scores import score
from vitalfew.study.table_encoder import TableEncoder

Ints = NDArray[np.int64]
MANY_CELLS = 20_000_000
Progress = Callable[[str, int, int], Any]

CHOOSING = "choosing columns"
ANSWERED = "an answer is there"
PROVING = "proving how good the choice is"
TYING = "comparing near ties"
RESAMPLING = "choosing again on halves of the rows"
JUDGING = "repeating everything inside folds"
MODELS = ("chosen columns", "all columns", "no columns")
# how much of the time limit may have passed when a part ends
UNTIL = {CHOOSING: 0.30, PROVING: 0.34, TYING: 0.35, RESAMPLING: 0.50, JUDGING: 1.0}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a study is asked for.

    Attributes
    ----------
    n_nonzero : int or None
        Number of columns; chosen by `criterion` if None.
    solver : Solver or None
        A good one by default.
    criterion : str
        As for `vitalfew.path`.
    l2 : float or None
        Ridge on columns of unit standard deviation; the estimators' own by default.
    cv_folds, outer_folds : int
        Folds that choose the number of columns, and folds that judge the whole.
    resamples : int
        Halves of the rows on which the choice is repeated.
    seconds : float or None
        Limit of time.
    seed : int
        Of all randomness.
    certify : bool
        Prove how far the choice can be from the best of as many columns.
    """

    n_nonzero: int | None = None
    solver: Any = None
    criterion: str = "cv"
    l2: float | None = None
    cv_folds: int = 5
    outer_folds: int = 5
    resamples: int = 20
    seconds: float | None = None
    seed: int = 0
    certify: bool = False


@dataclass(eq=False)
class Study:
    """One study: what it was given, and what it has found so far.

    Attributes
    ----------
    given : Prepared
        Features and outcome.
    settings : Settings
        What is asked for.
    progress : callable
        Called with the part at work, how much of it is done, and its total.
    """

    given: Prepared
    settings: Settings
    progress: Progress = lambda part, done, total: None
    notes: list[str] = field(default_factory=list)
    cut_short: list[str] = field(default_factory=list)
    ties: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    counts: Any = None
    n_resampled: int = 0
    scores: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    n_judging: int = 0
    walked: bool = False
    certificate: dict[str, Any] | None = None

    def run(self) -> None:
        """Do all of it, as far as time and the user allow.

        Raises
        ------
        KeyboardInterrupt
            If it is interrupted before there is an answer.
        """
        self.scores = {name: [] for name in MODELS}
        features = self.given.features
        small = features.n_rows * len(features.names) < MANY_CELLS
        # on small matrices threads cost more than they bring
        calm = threadpool_limits(limits=1 if small else None)
        # trial points that overflow are refused where they are made, without a word
        silent = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        with calm, silent, Clock(self.settings.seconds) as self.clock:
            try:
                parts = (self._choose, self._prove, self._tie, self._resample)
                for part in (*parts, self._judge):
                    if self.clock.interrupted:
                        break
                    part()
                self.clock.finished = True
            except KeyboardInterrupt:
                if not hasattr(self, "model"):
                    raise
                self.clock.interrupted = True
            self._say_what_is_missing()
            self.seconds = self.clock.passed

    def _say_what_is_missing(self) -> None:
        chosen, resamples = len(self.model.solution.support), self.settings.resamples
        if len(self.ties) < chosen:
            self.cut_short.append(f"near ties: {len(self.ties)} of {chosen} columns")
        if chosen and self.n_resampled < resamples:
            self.cut_short.append(
                f"stability: {self.n_resampled} of {resamples} resamples were made"
            )
        if not self.n_judging or self.n_judged < self.n_judging:
            total = self.n_judging or self.settings.outer_folds
            self.cut_short.append(
                f"errors: {self.n_judged} of {total} folds were finished"
            )

    @property
    def n_judged(self) -> int:
        """Folds on which every model was judged."""
        return min(len(folds) for folds in self.scores.values())

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, part])

    # -- the answer --------------------------------------------------------------------

    def _encoder(self) -> TableEncoder:
        return TableEncoder(groups=self.given.groups)

    def _choose(self) -> None:
        asked, outcome = self.settings.n_nonzero, self.given.outcome
        self.progress(CHOOSING, 0, 1)
        self.encoder = self._encoder().fit(self.given.features)
        self.notes.extend(self.encoder.notes())
        self.X = self.encoder.transform(self.given.features)
        n_groups = len(self.encoder.group_names_)
        if asked is not None and asked > n_groups:
            raise data_error(
                f"--n-nonzero {asked}: there are {n_groups} columns to choose from",
                f"use a number from 1 to {n_groups}, or auto",
            )
        self.folds = folds_of(
            outcome, self.given.blocks, self.settings.cv_folds, self._rng(1)
        )
        if not self.folds:
            raise data_error(
                "the rows cannot be split so that every part has all there is to learn "
                "from: too few of them hold a class, an event or a count",
                "give more rows, or leave --split-by out",
            )
        try:
            model = self._fit(self.folds, self.settings.criterion)
        except KeyboardInterrupt:
            if not self.walked:
                raise
            # the path over all rows was there: make it again, without the folds
            model = self._fit(None if asked else [], "bic")
            self.clock.interrupted = True
        if self.clock.interrupted and not len(model.solution.support):
            raise KeyboardInterrupt
        self.model, self.clock.answered = model, True
        if model.path.interrupted or self.clock.interrupted:
            self.cut_short.append(self._what_was_cut())
        self.progress(CHOOSING, 1, 1)

    def _fit(self, folds: Any, criterion: str) -> Model:
        return fit_path(
            self.X,
            self.encoder.groups_,
            self.given.outcome,
            n_nonzero=self.settings.n_nonzero,
            criterion=criterion,
            folds=folds,
            solver=self.settings.solver,
            l2=self.settings.l2,
            max_seconds=self.clock.left(UNTIL[CHOOSING]),
            callback=self._walking,
            rng=self._rng(2),
        )

    def _walking(self, done: int, total: int) -> None:
        if not self.walked and done * (1 + len(self.folds)) >= total:
            self.walked = True
            self.progress(ANSWERED, 1, 1)
        self.progress(CHOOSING, done, total)

    def _what_was_cut(self) -> str:
        found, folds = self.model.path, len(self.folds)
        most = len(found.solutions[-1].support)
        if found.fold_scores is None or not len(found.fold_scores):
            return (
                f"the number of columns was chosen among 0 to {most} by the Bayesian "
                "information criterion: there was no time for held-out losses"
            )
        return f"number of columns: {len(found.fold_scores)} of {folds} folds were used"

    def _prove(self) -> None:
        if not self.settings.certify or not len(self.model.solution.support):
            return
        self.progress(PROVING, 0, 1)
        left = self.clock.left(UNTIL[PROVING])
        self.certificate = proved(self.model, self.given.outcome, left)
        self.progress(PROVING, 1, 1)

    # -- what else could have been chosen ----------------------------------------------

    def _tie(self) -> None:
        chosen = [int(a) for a in self.model.solution.support]
        names = self.encoder.group_names_
        for i, atom in enumerate(chosen):
            if self.clock.over(UNTIL[TYING]):
                break
            self.progress(TYING, i, len(chosen))
            self.ties[atom] = near_ties(
                self.X, self.encoder.groups_, names, self.model, atom
            )

    def _resample(self) -> None:
        k, model = len(self.model.solution.support), self.model
        rng, total = self._rng(3), self.settings.resamples
        self.counts = np.zeros(len(self.encoder.group_names_))
        if not k:
            return
        structure = model.structure.with_budget(k)
        for i in range(total):
            if self.clock.over(UNTIL[RESAMPLING]):
                break
            self.progress(RESAMPLING, i, total)
            half = half_of(self.given.outcome, self.given.blocks, rng)
            found = solve(model.objective.rows(half), structure, self.settings.solver)
            if self.clock.interrupted:
                break
            self.counts[found.support] += 1
            self.n_resampled += 1

    # -- the honest error --------------------------------------------------------------

    def _judge(self) -> None:
        given = self.given
        folds = folds_of(
            given.outcome, given.blocks, self.settings.outer_folds, self._rng(4)
        )
        begun, self.n_judging = self.clock.passed, len(folds)
        for i, (train, test) in enumerate(folds):
            if self.clock.over(UNTIL[JUDGING]) or not self._time_for_another(i, begun):
                break
            self.progress(JUDGING, i, len(folds))
            self._judge_fold(i, len(folds), train, test)
            if self.clock.interrupted:
                break

    def _time_for_another(self, done: int, begun: float) -> bool:
        """Whether a further fold may end in time, as long as the mean one took."""
        left = self.clock.left(UNTIL[JUDGING])
        if left is None or not done:
            return True
        return (self.clock.passed - begun) / done < 1.2 * left

    def _judge_fold(self, i: int, n_folds: int, train: Ints, test: Ints) -> None:
        given, settings = self.given, self.settings
        outcome, held = given.outcome.take(train), given.outcome.take(test)
        blocks = None if given.blocks is None else given.blocks[train]
        encoder = self._encoder().fit(given.features, train)
        X = encoder.transform(given.features, train)
        T = encoder.transform(given.features, test)
        rng = np.random.default_rng([settings.seed, 5, i])
        inner = folds_of(outcome, blocks, settings.cv_folds, rng)
        if not inner:  # not judged then, and counted as missing
            return
        left = self.clock.left(UNTIL[JUDGING])
        model = fit_path(
            X,
            encoder.groups_,
            outcome,
            n_nonzero=settings.n_nonzero,
            criterion=settings.criterion,
            folds=inner if settings.n_nonzero is None else None,
            solver=settings.solver,
            l2=settings.l2,
            max_seconds=None if left is None else 0.7 * left / (n_folds - i),
            callback=lambda done, total: self.progress(
                JUDGING, i * total + done, n_folds * total
            ),
            rng=rng,
        )
        rival = all_columns(
            X, outcome, T, inner, lambda: self.clock.over(UNTIL[JUDGING])
        )
        if self.clock.interrupted:
            return
        etas = (model.predict(T), rival, none_at_all(outcome, len(test)))
        for name, eta in zip(MODELS, etas, strict=True):
            self.scores[name].append(score(held, eta))
