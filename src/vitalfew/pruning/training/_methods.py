"""Scores, schedules and the pairs of both that have a name."""

import difflib
from dataclasses import dataclass
from typing import Any

from vitalfew.pruning import criteria
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.training import schedules, scores
from vitalfew.pruning.training._contracts import Schedule, Score
from vitalfew.pruning.training.scores._criterion import COLLECTED, ByCriterion


@dataclass(frozen=True)
class Pair:
    """A score and a schedule that belong together.

    Attributes
    ----------
    score : Score
        How much atoms matter.
    schedule : Schedule
        When they go.
    """

    score: Score
    schedule: Schedule


def training_scores() -> dict[str, Score]:
    """Return all scores by name, with default settings: criteria of `prune` as well.

    Returns
    -------
    dict of str to Score
        Those of their own, then criteria that need gradients at most.
    """
    own = [getattr(scores, exported)() for exported in scores.__all__]
    found = {score.name: score for score in own}
    for exported in criteria.__all__:
        cls = getattr(criteria, exported)
        if cls.needs <= COLLECTED:
            found.setdefault(cls.name, ByCriterion(cls()))
    return found


def training_schedules() -> dict[str, Schedule]:
    """Return all schedules by name, with default settings.

    Returns
    -------
    dict of str to Schedule
        As `Pruner(schedule=...)` takes them.
    """
    every = [getattr(schedules, exported)() for exported in schedules.__all__]
    return {schedule.name: schedule for schedule in every}


FINAL = schedules.Gradual(selections=30, zero=True)  # what is removed stays so

PAIRS: dict[str, tuple[str | Score, str | Schedule]] = {
    "sequential-attention++": ("sequential-attention", "sequential-attention++"),
    "attention-refit": ("attention-refit", FINAL),
    "fisher-attention": ("fisher-attention", FINAL),
    "gradual-fisher": ("fisher", FINAL),
    "acdc": ("magnitude", "acdc"),
    "gradual-magnitude": ("magnitude", "gradual"),
    "magnitude": ("magnitude", "one-shot"),
    "iterative": ("magnitude", "iterative"),
    "swamp": ("magnitude", "swamp"),
    "rigl": ("magnitude", "rigl"),
    "set": ("magnitude", "set"),
    "ste": ("magnitude", "ste"),
    "sr-ste": ("magnitude", "sr-ste"),
    "decaying": ("magnitude", "decaying"),
    "movement": ("movement", "gradual"),
    "powerpropagation": ("power-propagation", "one-shot"),
    "soft-threshold": ("soft-threshold", "gradual"),
    "wgsef": ("wgsef", "one-shot"),
    "mask-sparsity": ("mask-sparsity", "one-shot"),
    "hypersparse": ("hypersparse", "one-shot"),
    # the parts of SequentialAttention++ one by one: its schedule, and its score
    "acdc-gradual": ("magnitude", "sequential-attention++"),
    "sequential-attention": ("sequential-attention", schedules.ACDC(zero=False)),
}


def training_methods() -> dict[str, Pair]:
    """Return all methods of training by name, each a score and a schedule.

    Returns
    -------
    dict of str to Pair
        With their settings.
    """
    known_scores, known_schedules = training_scores(), training_schedules()
    return {
        name: Pair(
            known_scores[score] if isinstance(score, str) else score,
            known_schedules[when] if isinstance(when, str) else when,
        )
        for name, (score, when) in PAIRS.items()
    }


def find_pair(method: Any, score: Any, schedule: Any) -> tuple[Score, Schedule]:
    """Return the score and the schedule that names or objects mean.

    Raises
    ------
    ValueError
        If a name is not known.
    TypeError
        If an object is of another kind.
    """
    pair = _named("method", method, training_methods())
    if not isinstance(pair, Pair):
        raise TypeError(f"method must be a name of training_methods(), got {method!r}")
    found = pair.score if score is None else _named("score", score, training_scores())
    if isinstance(found, Criterion):
        found = ByCriterion(found)
    when = pair.schedule
    if schedule is not None:
        when = _named("schedule", schedule, training_schedules())
    for name, given, kind in (("score", found, Score), ("schedule", when, Schedule)):
        if not isinstance(given, kind):
            raise TypeError(
                f"{name} must be a name or an object of vitalfew.pruning.training, got "
                f"{given!r}"
            )
    return found, when


def _named(what: str, asked: Any, known: dict[str, Any]) -> Any:
    if not isinstance(asked, str):
        return asked
    if asked not in known:
        near = difflib.get_close_matches(asked, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"{what} must be one of {', '.join(sorted(known))}, got {asked!r}{hint}"
        )
    return known[asked]
