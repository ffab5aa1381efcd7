"""Two arms over the same seeds: ranges, exact tests, and sentences made from them."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from benchmarks._pages import heading
from benchmarks._runs import Row
from benchmarks.training._arms import ARMS, DENSE, OURS

LEVEL = 0.05  # of a test
Scores = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Question:
    """Two arms whose difference says something.

    Attributes
    ----------
    arm, rival : str
        The two; an empty rival is the arm that scores best of those not ours.
    meaning : str
        What the difference is.
    """

    arm: str
    rival: str
    meaning: str

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.arm} against {self.rival or 'the best rival'}"


QUESTIONS = (
    Question(
        "sequential-attention++",
        "acdc-gradual",
        "what attention adds to its schedule, whose rival scores by magnitude",
    ),
    Question(
        "sequential-attention++",
        "gradual-magnitude",
        "the whole method against the simple strong one",
    ),
    Question(
        "sequential-attention++", "acdc", "the whole method against what it grew from"
    ),
    Question(
        "sequential-attention++",
        "sequential-attention",
        "what the gradual phases add to attention",
    ),
    Question(
        "acdc-gradual",
        "acdc",
        "what the gradual phases add to magnitude, and hiding weights instead of "
        "setting them to zero",
    ),
    *(Question(arm, "", "a method of ours") for arm in OURS),
)


@dataclass(frozen=True)
class Answer:
    """What the seeds say to a question in one cell.

    Attributes
    ----------
    rival : str
        Whom the arm was set against.
    difference : float
        Mean difference over the seeds of both; above zero where the arm is better.
    apart : int
        1 where its worst seed is better than the best of the rival, -1 where its best
        is worse than the rival's worst, else 0.
    p : float
        Of the exact paired permutation test, both sides.
    n_seeds : int
        Seeds that both have.
    """

    rival: str
    difference: float
    apart: int
    p: float
    n_seeds: int

    @property
    def verdict(self) -> int:
        """1 or -1 where the test says who is better, else 0."""
        if self.p > LEVEL:
            return 0
        return 1 if self.difference > 0 else -1


def p_value(differences: Sequence[float]) -> float:
    """Return the exact p-value of paired differences, both sides.

    Under the hypothesis that two arms do not differ, every difference may have either
    sign: the share of all 2^n choices of signs whose sum is at least as far from zero.

    Parameters
    ----------
    differences : sequence of float
        One for each seed, at most 20.

    Returns
    -------
    float
        At least 2^(1-n), unless all differences are zero.
    """
    values = np.abs(np.asarray(differences, dtype=float))
    signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    sums = np.abs(signs @ values)
    seen = abs(float(np.sum(differences)))
    return float(np.mean(sums >= seen - 1e-9 * (1 + values.sum())))


def compare(own: Scores, other: Scores, rival: str, sign: int) -> Answer:
    """Set two arms against each other over the seeds that both have.

    Parameters
    ----------
    own, other : mapping of int to float
        Scores by seed; at least one seed in both.
    rival : str
        Name of the other.
    sign : {1, -1}
        1 where larger scores are better.

    Returns
    -------
    Answer
        For the first against the second.
    """
    seeds = sorted(own.keys() & other.keys())
    a = [sign * own[seed] for seed in seeds]
    b = [sign * other[seed] for seed in seeds]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    apart = int(min(a) > max(b)) - int(max(a) < min(b))
    return Answer(rival, mean(differences), apart, p_value(differences), len(seeds))


def scores(rows: Iterable[Row], key: str) -> dict[str, dict[int, float]]:
    """Return the scores of one cell by arm and seed, the arms in their usual order."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if key in row:
            found.setdefault(row["cell"]["arm"], {})[row["cell"]["seed"]] = row[key]
    order = (DENSE, *ARMS)
    return {arm: found[arm] for arm in sorted(found, key=_place(order))}


def _place(order: Sequence[str]) -> Any:
    return lambda arm: (order.index(arm) if arm in order else len(order), arm)


def answer(question: Question, found: Mapping[str, Scores], sign: int) -> Answer | None:
    """Answer a question in one cell.

    Parameters
    ----------
    question : Question
        What is asked.
    found : mapping of str to scores
        As `scores` returns them.
    sign : {1, -1}
        1 where larger scores are better.

    Returns
    -------
    Answer or None
        None where fewer than two seeds have both arms.
    """
    own = found.get(question.arm, {})
    rivals = [question.rival]
    if not question.rival:
        rivals = [arm for arm in found if arm not in (*OURS, DENSE, question.arm)]
    shared = {
        arm: compare(own, found[arm], arm, sign)
        for arm in rivals
        if len(own.keys() & found.get(arm, {}).keys()) > 1
    }
    if not shared:
        return None
    return min(shared.values(), key=lambda each: each.difference)


def spread(values: Sequence[float], places: int) -> str:
    """Return the mean, with the least and the greatest in brackets."""
    if len(values) == 1:
        return f"{values[0]:.{places}f}"
    ends = f"{min(values):.{places}f}-{max(values):.{places}f}"
    return f"{mean(values):.{places}f} ({ends})"


def told(found: Answer | None, places: int) -> str:
    """Return an answer as an entry of a table."""
    if found is None:
        return ""
    ranges = {1: ", apart", -1: ", apart the other way", 0: ""}[found.apart]
    return f"{found.difference:+.{places}f}{ranges}, p {found.p:.2g} ({found.n_seeds})"


def summaries(
    cells: Sequence[Mapping[str, Scores]], sign: int, unit: str, places: int
) -> Iterator[str]:
    """Yield a sentence for each question, over all cells that can answer it.

    Parameters
    ----------
    cells : sequence of mappings
        Of each cell, as `scores` returns them.
    sign : {1, -1}
        1 where larger scores are better.
    unit : str
        Of differences.
    places : int
        Digits after the point.

    Yields
    ------
    str
        Without a bullet.
    """
    for question in QUESTIONS:
        asked = [answer(question, found, sign) for found in cells]
        found = [each for each in asked if each is not None]
        if not found:
            continue
        n = len(found)
        better = sum(each.difference > 0 for each in found)
        apart = [sum(each.apart == side for each in found) for side in (1, -1)]
        able = [each for each in found if 2 ** (1 - each.n_seeds) <= LEVEL]
        verdicts = [sum(each.verdict == side for each in able) for side in (1, -1)]
        test = (
            f"of the {len(able)} with enough seeds for a test to say so, p is at most "
            f"{LEVEL:g} for it in {verdicts[0]} and against it in {verdicts[1]}"
            if able
            else f"no cell has the six seeds that p <= {LEVEL:g} takes"
        )
        average = mean(each.difference for each in found)
        yield (
            f"{question.title}: {question.meaning}. Better in the mean in {better} of "
            f"{n} cells, by {average:+.{places}f} {unit} on average; ranges are apart "
            f"for it in {apart[0]} and against it in {apart[1]}; {test}."
        )


def winners(cells: Sequence[Mapping[str, Scores]], sign: int) -> str:
    """Return a sentence on which arm is best in the mean in how many cells."""
    counts: dict[str, int] = {}
    for found in cells:
        means = {arm: sign * mean(s.values()) for arm, s in found.items()}
        means.pop(DENSE, None)
        if len(means) > 1:
            best = max(means, key=lambda arm: means[arm])
            counts[best] = counts.get(best, 0) + 1
    if not counts:
        return ""
    parts = [
        f"{arm} in {count}"
        for arm, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    n = sum(counts.values())
    return f"Of {n} cells with several arms, the best in the mean is " + (
        ", ".join(parts) + "."
    )


def exactness(rows: Sequence[Row]) -> str:
    """Return a sentence on whether budgets were met, by report and by model."""
    pruned = [row for row in rows if "asked" in row]
    exact = sum(row["kept"] == row["asked"] for row in pruned)
    return (
        f"Of {len(pruned)} pruned networks, {exact} keep exactly as many blocks as "
        "asked."
    )


def removed(rows: Sequence[Row], whole: str) -> str:
    """Return the share of weights that are zero, in per cent, as counted in models.

    Parameters
    ----------
    rows : sequence of dict
        Of runs with the same budget.
    whole : {"weights", "all_weights"}
        Those of pruned layers, or of all.

    Returns
    -------
    str
        One number; a range where runs differ.
    """
    hidden = [
        100 * (row["weights"] - row["nonzero"]) / row[whole]
        for row in rows
        if "asked" in row
    ]
    if not hidden:
        return ""
    ends = [f"{min(hidden):.1f}", f"{max(hidden):.1f}"]
    return ends[0] if ends[0] == ends[1] else "-".join(ends)


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a section on runs that came to nothing, if there are any."""
    lost = [row for row in rows if "error" in row]
    if lost:
        yield heading("What diverged", "-")
        lines = {
            f"- {' '.join(str(v) for v in row['cell'].values())}: {row['error']}"
            for row in lost
        }
        yield "\n".join(sorted(lines)) + "\n"
