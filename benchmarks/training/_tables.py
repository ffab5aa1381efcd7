"""Tables and figures of pages whose runs are data, pattern, sparsity, arm and seed."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Row
from benchmarks.training import _compare
from benchmarks.training._arms import DENSE, OURS, colour
from benchmarks.training._compare import (
    QUESTIONS,
    Answer,
    Question,
    Scores,
    answer,
    scores,
    spread,
    told,
)
from vitalfew.pruning.training import training_methods

PATTERNS = ("4x4", "5x5", "8x8", "10x10", "16x16", "20x20", "32x32", "16x1")
SQUARES = PATTERNS[:-1]  # from small to large


@dataclass(frozen=True)
class Measure:
    """What is measured, and how it is told.

    Attributes
    ----------
    key : str
        Of a run.
    sign : {1, -1}
        1 where more is better.
    places : int
        Digits after the point; differences have one more.
    label : str
        Of an axis.
    unit : str
        Of differences; plural.
    """

    key: str
    sign: int
    places: int
    label: str
    unit: str


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the runs whose cells have some values."""
    return [row for row in rows if all(row["cell"][k] == v for k, v in wanted.items())]


def values(rows: Sequence[Row], key: str, order: Sequence[str] = ()) -> list[Any]:
    """Return the values of one part of the cells of pruned networks, in order."""
    found = {row["cell"][key] for row in rows if row["cell"]["arm"] != DENSE}
    known = [value for value in order if value in found]
    return known + sorted(found - set(known))


def settings(part: Any) -> str:
    """Return the name of a score or a schedule, and what differs from its defaults."""
    own = [
        f"{field.name} = {getattr(part, field.name)}"
        for field in fields(part)
        if field.default not in (MISSING, getattr(part, field.name))
    ]
    return f"{part.name}, {', '.join(own)}" if own else part.name


class Runs:
    """Finished runs, and what a page says of them.

    Parameters
    ----------
    rows : sequence of dict
        Those that did not fail.
    titles : mapping of str to str
        Of the data, in the order of the page.
    measure : Measure
        What is told.
    """

    def __init__(
        self, rows: Sequence[Row], titles: Mapping[str, str], measure: Measure
    ) -> None:
        self.rows = rows
        self.titles = titles
        self.measure = measure
        self.settings: list[tuple[Row, dict[str, dict[int, float]]]] = []
        for name in values(rows, "data", tuple(titles)):
            own = pick(rows, data=name)
            for pattern in self.patterns(own):
                for sparsity in values(pick(own, pattern=pattern), "sparsity"):
                    where = {"data": name, "pattern": pattern, "sparsity": sparsity}
                    found = scores(pick(own, **where), measure.key)
                    self.settings.append((where, found))
        self.asked = [
            question
            for question in QUESTIONS
            if any(self.answer(question, found) for _, found in self.settings)
        ]

    @staticmethod
    def patterns(rows: Sequence[Row]) -> list[str]:
        """Return the patterns of some runs, small blocks first."""
        return values(rows, "pattern", PATTERNS)

    def answer(self, question: Question, found: Mapping[str, Scores]) -> Answer | None:
        """Answer a question in one cell."""
        return answer(question, found, self.measure.sign)

    # -- sections ----------------------------------------------------------------------

    def arms(self) -> str:
        """Return a table of the arms: what scores blocks, and when they go."""
        known = training_methods()
        lines = []
        for arm in scores(self.rows, self.measure.key):
            if arm in known:
                pair = known[arm]
                ours = "this library" if arm in OURS else "published"
                lines.append([arm, settings(pair.score), settings(pair.schedule), ours])
        return _pages.table(["arm", "score", "schedule", "by"], lines)

    def claims(self) -> Iterator[str]:
        """Yield what the numbers say, for and against."""
        yield _pages.heading("What comes out", "-")
        cells = [found for _, found in self.settings]
        measure = self.measure
        lines = [
            _compare.winners(cells, measure.sign),
            *_compare.summaries(cells, measure.sign, measure.unit, measure.places + 1),
            *self.growth(),
            _compare.exactness(self.rows),
        ]
        yield "\n".join(f"- {line}" for line in lines if line) + "\n"

    def growth(self) -> Iterator[str]:
        """Yield whether differences grow with the size of square blocks."""
        for question in self.asked:
            grown, lines = 0, []
            for name in values(self.rows, "data", tuple(self.titles)):
                for sparsity in values(self.rows, "sparsity"):
                    found = self._by_size(question, name, sparsity)
                    if len(found) > 1:
                        lines.append(found)
                        pairs = itertools.pairwise(found)
                        grown += all(a < b for a, b in pairs)
            if lines:
                yield (
                    f"{question.title}: the mean difference grows from every size of "
                    f"square blocks to the next in {grown} of {len(lines)} pairs of "
                    "data and sparsity, and is larger with the largest blocks than "
                    f"with the smallest in {sum(f[-1] > f[0] for f in lines)}."
                )

    def _by_size(self, question: Question, name: str, sparsity: float) -> list[float]:
        by_pattern = {
            where["pattern"]: self.answer(question, found)
            for where, found in self.settings
            if where["data"] == name and where["sparsity"] == sparsity
        }
        found = [by_pattern.get(pattern) for pattern in SQUARES]
        return [each.difference for each in found if each is not None]

    def answers(self) -> Iterator[str]:
        """Yield tables of differences: their means by pattern, and all of them."""
        if not self.asked:
            return
        yield _pages.heading("Differences by block", "-")
        yield (
            f"Mean over sparsities, in {self.measure.unit}; above zero where the first "
            "is better.\n"
        )
        patterns = self.patterns(self.rows)
        lines = []
        for question in self.asked:
            for name in values(self.rows, "data", tuple(self.titles)):
                entries = [self._mean(question, name, p) for p in patterns]
                if any(entries):
                    lines.append([question.title, name, *entries])
        yield _pages.table(["", "data", *patterns], lines)
        yield _pages.heading("Differences in every cell", "-")
        yield (
            f"In {self.measure.unit}; then whether the ranges of the two arms are "
            "apart, p, and the number of seeds in brackets.\n"
        )
        lines = []
        for where, found in self.settings:
            answers = [(q, self.answer(q, found)) for q in self.asked]
            if any(each is not None for _, each in answers):
                name = ", ".join((where["data"], where["pattern"]))
                name += f", {100 * where['sparsity']:g} %"
                lines.append([name, *(self._entry(q, each) for q, each in answers)])
        yield _pages.table(["", *(question.title for question in self.asked)], lines)

    def _mean(self, question: Question, name: str, pattern: str) -> str:
        found = [
            each.difference
            for where, arms in self.settings
            if where["data"] == name and where["pattern"] == pattern
            if (each := self.answer(question, arms)) is not None
        ]
        return f"{mean(found):+.{self.measure.places + 1}f}" if found else ""

    def _entry(self, question: Question, found: Answer | None) -> str:
        text = told(found, self.measure.places + 1)
        return text if found is None or question.rival else f"{text}, {found.rival}"

    def networks(self) -> Iterator[str]:
        """Yield a section for each data, with a table for each pattern."""
        for name in values(self.rows, "data", tuple(self.titles)):
            own = pick(self.rows, data=name)
            yield _pages.heading(self.titles[name], "-")
            dense = [row[self.measure.key] for row in pick(own, arm=DENSE)]
            if dense:
                yield f"Dense: {spread(dense, self.measure.places)}.\n"
            for pattern in self.patterns(own):
                mine = pick(own, pattern=pattern)
                layers = sorted({layer for row in mine for layer in row["layers"]})
                n_blocks = max(row["atoms"] for row in mine)
                yield _pages.heading(pattern, "~")
                yield f"Pruned: {', '.join(layers)}; {n_blocks:,} blocks.\n"
                yield self.table(mine)

    def table(self, rows: Sequence[Row]) -> str:
        """Return scores of arms against sparsity, and the weights that are zero."""
        sparsities = values(rows, "sparsity")
        columns = [pick(rows, sparsity=sparsity) for sparsity in sparsities]
        found = [scores(column, self.measure.key) for column in columns]
        lines = []
        for arm in scores(rows, self.measure.key):
            entries = [
                spread(list(each[arm].values()), self.measure.places)
                if arm in each
                else ""
                for each in found
            ]
            seconds = mean(row["cpu"] for row in pick(rows, arm=arm))
            lines.append([arm, *entries, number(seconds, 2)])
        for title, whole in (("these layers", "weights"), ("all", "all_weights")):
            zero = [_compare.removed(column, whole) for column in columns]
            lines.append([f"zero weights of {title}, %", *zero, ""])
        seeds = []
        for each in found:
            counts = {len(own) for own in each.values()}
            ends = [str(min(counts)), str(max(counts))]
            seeds.append("-".join(dict.fromkeys(ends)))
        lines.append(["seeds", *seeds, ""])
        asked = (f"{100 * s:g} % of blocks removed" for s in sparsities)
        return _pages.table(["arm", *asked, "CPU s"], lines)

    # -- figure ------------------------------------------------------------------------

    def draw(self, file: Path) -> None:
        """Write a figure: what is measured against sparsity, a panel for each pattern.

        Parameters
        ----------
        file : Path
            An SVG.
        """
        panels = [
            (name, pattern)
            for name in values(self.rows, "data", tuple(self.titles))
            for pattern in self.patterns(pick(self.rows, data=name))
        ]
        columns = min(len(panels), 3)
        figure, axes = _pages.new_figure(-(-len(panels) // columns), columns, width=3.4)
        handles: dict[str, Any] = {}
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        for ax, (name, pattern) in zip(axes.flat, panels, strict=False):
            own = pick(self.rows, data=name, pattern=pattern)
            for arm in scores(own, self.measure.key):
                handles.setdefault(arm, self._line(ax, arm, pick(own, arm=arm)))
            dense = [
                row[self.measure.key] for row in pick(self.rows, data=name, arm=DENSE)
            ]
            if dense:
                ax.axhline(mean(dense), color=colour(DENSE), lw=0.8, ls=":")
            ax.set_title(f"{name}, {pattern}", loc="left", fontsize=9)
            ax.set_xlabel("blocks removed (%)")
            ax.set_ylabel(self.measure.label)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=8,
        )
        _pages.save(figure, file)

    def _line(self, ax: Any, arm: str, rows: Sequence[Row]) -> Any:
        x = values(rows, "sparsity")
        found = [[r[self.measure.key] for r in pick(rows, sparsity=s)] for s in x]
        percent = [100 * s for s in x]
        low, high = [min(v) for v in found], [max(v) for v in found]
        ax.fill_between(percent, low, high, color=colour(arm), alpha=0.12, lw=0)
        (line,) = ax.plot(
            percent, [mean(v) for v in found], "o-", ms=3, color=colour(arm)
        )
        return line


def page(
    title: str,
    introduction: str,
    machines: str,
    every: Sequence[Row],
    runs: Runs,
    picture: tuple[str, str, str],
) -> Iterator[str]:
    """Yield the parts of a page.

    Parameters
    ----------
    title, introduction, machines : str
        What stands at its top.
    every : sequence of dict
        All runs, those that failed among them.
    runs : Runs
        Those that did not.
    picture : tuple of three str
        Name of the page and of its figure, and the alternative text.

    Yields
    ------
    str
        Parts, to be joined by line breaks.
    """
    yield _pages.heading(title)
    yield introduction
    yield machines
    if runs.settings:
        yield runs.arms()
        yield from runs.claims()
        yield _pages.figure(*picture)
        yield from runs.answers()
        yield from runs.networks()
    yield from _compare.failures(every)
