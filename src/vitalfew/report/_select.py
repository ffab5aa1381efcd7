"""The page of a `select` run: what the template is filled with, in reading order."""

from dataclasses import dataclass
from typing import Any

from vitalfew.records import RunRecord
from vitalfew.report import _reading as read
from vitalfew.report._effects import (
    ChosenRow,
    PartsTable,
    chosen_columns,
    chosen_rows,
    direction,
    parts_table,
)
from vitalfew.report._errors import ErrorTable, error_table
from vitalfew.report._facts import (
    Fact,
    InputColumn,
    data_facts,
    input_columns,
    moment,
    run_facts,
    sentences,
    versions,
)
from vitalfew.report._numbers import clipped, count, counted, number, spreads
from vitalfew.report._path_chart import PathChart, PathPoint, drawable, path_chart
from vitalfew.report._stability_chart import (
    ROWS,
    Often,
    StabilityChart,
    stability_chart,
)

_RIVALS = 10  # runners-up that the plot of the stability always has room for
_NAMED = 6  # columns named for one step of the path


@dataclass(frozen=True)
class PathStep:
    """A line of the table behind the plot of the path."""

    n: str
    error: str
    train: str
    came: str
    went: str
    chosen: bool


@dataclass(frozen=True)
class SelectPage:
    """What the template is filled with."""

    title: str
    target: str
    n_chosen: int
    headline: str
    interrupted: bool
    stopped: str
    proof: str
    created: str
    created_iso: str
    source: str
    version: str
    direction: str
    chosen: list[ChosenRow]
    parts: PartsTable | None
    resamples: str
    errors: ErrorTable | None
    measure: str
    has_spread: bool
    path_charts: list[PathChart]
    path_steps: list[PathStep]
    stability_charts: list[StabilityChart]
    stability_left_out: str
    facts: list[Fact]
    notes: list[str]
    columns: list[InputColumn]
    run: list[Fact]
    versions: list[Fact]
    cut_short: list[str]


def page(record: RunRecord) -> SelectPage:
    """Read a record into the page's parts."""
    data, results = read.mapping(record.data), read.mapping(record.results)
    chosen = chosen_columns(results)
    n_chosen = len(chosen) or read.whole(results.get("n_chosen")) or 0
    n_columns = read.whole(data.get("n_features", data.get("n_columns")))
    target = clipped(read.name(data.get("target")), 80)
    classes = [clipped(str(k), 40) for k in read.items(data.get("classes"))]
    settings = read.mapping(record.settings)
    resamples = read.whole(results.get("n_resampled", settings.get("resamples")))
    interrupted = results.get("interrupted") is True
    points = _points(results)
    measure = _measure(results.get("chosen_by", settings.get("criterion")))
    often = _often(results)
    shown = _shown(often)
    return SelectPage(
        title=f"{counted(n_chosen, 'column')} to predict {target}",
        target=target,
        n_chosen=n_chosen,
        headline=_headline(n_chosen, n_columns),
        interrupted=interrupted,
        stopped=_stopped(results),
        proof=_proof(results),
        created=moment(record.created),
        created_iso=str(record.created),
        source=clipped(read.words(data.get("source")), 80),
        version=str(read.mapping(record.versions).get("vitalfew", "")),
        direction=direction(str(data.get("task")), target, classes),
        chosen=chosen_rows(chosen),
        parts=parts_table(chosen, classes),
        resamples=count(resamples) if resamples else "",
        errors=error_table(results, n_chosen, n_columns),
        measure=measure,
        has_spread=any(p.se for p in points),
        path_charts=_path_charts(points, n_chosen, measure),
        path_steps=_steps(results, n_chosen),
        stability_charts=_stability_charts(shown),
        stability_left_out=_left_out(often, shown),
        facts=data_facts(data),
        notes=sentences(read.items(data.get("notes"))),
        columns=input_columns(data),
        run=run_facts(record),
        versions=versions(record),
        cut_short=sentences(read.items(results.get("cut_short"))),
    )


def _headline(n_chosen: int, n_columns: int | None) -> str:
    """Return how many columns were chosen, as in ``"8 of 64 columns"``."""
    chosen = count(n_chosen) if n_chosen else "none"
    if n_columns is None:
        return counted(n_chosen, "column") if n_chosen else "no columns"
    said = f"{chosen} of {counted(n_columns, 'column')}"
    return said.replace(" ", "\u00a0") if len(said) < 23 else said  # on one line


def _stopped(results: dict[str, Any]) -> str:
    status = read.mapping(results.get("status"))
    return (sentences([status["message"]]) or [""])[0] if status.get("message") else ""


def _proof(results: dict[str, Any]) -> str:
    certificate = read.mapping(results.get("certificate"))
    said = certificate.get("sentence")
    return (sentences([said]) or [""])[0] if said else ""


def _points(results: dict[str, Any]) -> list[PathPoint]:
    points = []
    for step in read.mappings(results.get("path")):
        n = read.whole(step.get("n_columns"))
        mean = read.number(step.get("cv_mean"))
        se = read.number(step.get("cv_se"))
        if n is not None and mean is not None:
            train = read.number(step.get("train_loss"))
            points.append(PathPoint(n, mean, abs(se) if se else se, train))
    return drawable(points)


def _measure(criterion: Any) -> str:
    """Return the name of what the number of columns was chosen by."""
    by_information = str(criterion).lower() in ("aic", "bic", "ebic", "gic")
    return str(criterion).upper() if by_information else "held-out loss"


def _path_charts(
    points: list[PathPoint], n_chosen: int, measure: str
) -> list[PathChart]:
    """Return the plot twice, for wide and narrow screens: letters must not shrink."""
    if not points:
        return []
    return [
        path_chart(points, n_chosen, measure, ("path-wide", 880, 400)),
        path_chart(points, n_chosen, measure, ("path-narrow", 360, 340)),
    ]


def _steps(results: dict[str, Any], n_chosen: int) -> list[PathStep]:
    """Return the path as a table: each number's error, what came and what went."""
    steps = read.mappings(results.get("path"))
    errors = spreads(
        [(read.number(s.get("cv_mean")), read.number(s.get("cv_se"))) for s in steps]
    )
    rows, before = [], list[str]()
    for step, error in zip(steps, errors, strict=True):
        n = read.whole(step.get("n_columns"))
        names = [read.name(c) for c in read.items(step.get("columns"))]
        rows.append(
            PathStep(
                n=count(n),
                error=error,
                train=number(read.number(step.get("train_loss")), 4),
                came=_named(names, before),
                went=_named(before, names),
                chosen=n == n_chosen,
            )
        )
        before = names
    return rows


def _named(names: list[str], but: list[str]) -> str:
    """Return the names that are in the first list and not in the second."""
    known = set(but)
    found = [clipped(n, 60) for n in names if n not in known]
    rest = len(found) - _NAMED
    return ", ".join(found[:_NAMED]) + (f" and {count(rest)} more" if rest > 0 else "")


def _often(results: dict[str, Any]) -> list[Often]:
    """Return all columns whose share of resamples is known, most often chosen first."""
    found = [
        Often(read.name(item.get("column")), min(1.0, max(0.0, share)), chosen)
        for key, chosen in (("chosen", True), ("runner_up_stability", False))
        for item in read.mappings(results.get(key))
        if (share := read.number(item.get("stability"))) is not None
    ]
    return sorted(found, key=lambda c: -c.share)


def _shown(often: list[Often]) -> list[Often]:
    """Return those that the plot has room for, some of them runners-up."""
    others = [c for c in often if not c.chosen][:ROWS]
    picked = [c for c in often if c.chosen]
    picked = picked[: ROWS - min(len(others), _RIVALS)]
    return sorted([*picked, *others[: ROWS - len(picked)]], key=lambda c: -c.share)


def _left_out(often: list[Often], shown: list[Often]) -> str:
    """Return the sentence on columns that the plot has no room for."""
    rest = [
        f"{counted(n, noun)}"
        for noun, chosen in (("chosen column", True), ("runner-up column", False))
        if (n := sum(c.chosen is chosen for c in often))
        and (n := n - sum(c.chosen is chosen for c in shown))
    ]
    return f"Left out, as less often chosen: {' and '.join(rest)}." if rest else ""


def _stability_charts(often: list[Often]) -> list[StabilityChart]:
    if not often:
        return []
    return [
        stability_chart(often, "stability-wide", 880, narrow=False),
        stability_chart(often, "stability-narrow", 360, narrow=True),
    ]
