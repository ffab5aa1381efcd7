"""What was given, what was asked for, and what ran: facts by name."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vitalfew.records import RunRecord
from vitalfew.report import _reading as read
from vitalfew.report._numbers import NOTHING, clipped, count, duration, number

_SETTINGS = {
    "n_nonzero": "Columns asked for",
    "solver": "Solver asked for",
    "loss": "Loss",
    "l2": "Ridge (l2)",
    "criterion": "Number of columns chosen by",
    "cv_folds": "Folds that choose the number",
    "outer_folds": "Folds that measure the error",
    "resamples": "Resamples for the stability",
    "split_by": "Rows kept together by",
    "certify": "Proof of the choice",
    "seed": "Seed",
    "seconds": "Time allowed",
}
_TASKS = {
    "regression": "regression (a number)",
    "binary": "classification, two classes",
    "multiclass": "classification, several classes",
    "ordered": "classification, ordered classes",
    "count": "counts",
    "survival": "survival (time to an event)",
}
_CLASSES = 20  # classes named among the facts


@dataclass(frozen=True)
class Fact:
    """A name and a value; long machine words such as a hash are marked as code."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class InputColumn:
    """A line of the table of the columns given."""

    name: str
    kind: str
    missing: str
    levels: str


def data_facts(data: dict[str, Any]) -> list[Fact]:
    """Return what was given."""
    given = read.whole(data.get("n_rows"))
    used = read.whole(data.get("n_rows_used"))
    task = read.words(data.get("task"))
    facts = [
        Fact("Source", read.words(data.get("source"))),
        Fact("SHA-256", read.words(data.get("sha256")), code=True),
        Fact("Target", read.words(data.get("target"))),
        Fact("Task", _TASKS.get(task, task)),
        Fact("Rows", count(given)),
        Fact("Rows used", _used(given, used)),
        Fact("Columns in the table", count(read.whole(data.get("n_columns")))),
        Fact("Columns to choose from", count(read.whole(data.get("n_features")))),
    ]
    classes = read.items(data.get("classes"))
    if classes:
        rest = len(classes) - _CLASSES
        named = read.words(classes[:_CLASSES])
        more = f" and {count(rest)} more" if rest > 0 else ""
        label = "Classes, the lowest first" if task == "ordered" else "Classes"
        facts.insert(4, Fact(label, named + more))
    return facts


def run_facts(record: RunRecord) -> list[Fact]:
    """Return what was asked for and how the run went."""
    results, settings = read.mapping(record.results), read.mapping(record.settings)
    facts = [
        Fact("Status", _status(results)),
        Fact("Solver that ran", read.words(results.get("solver"))),
        Fact("Time taken", duration(read.number(results.get("seconds")))),
        Fact("Finished", moment(record.created)),
    ]
    order = [*(k for k in _SETTINGS if k in settings), *settings]
    for key in dict.fromkeys(order):
        facts.append(Fact(_label(key), _setting(key, settings[key])))
    facts.append(Fact("Intercept", _intercept(results.get("intercept"))))
    return facts


def versions(record: RunRecord) -> list[Fact]:
    """Return the versions of what did the work."""
    found = read.mapping(record.versions)
    return [Fact(str(k), read.words(v)) for k, v in found.items()]


def input_columns(data: dict[str, Any]) -> list[InputColumn]:
    """Return the columns given, in the order of the table."""
    rows = read.whole(data.get("n_rows"))
    return [
        InputColumn(
            name=read.name(c.get("name")),
            kind=clipped(read.words(c.get("kind")), 40),
            missing=_missing(c.get("missing"), rows),
            levels=_levels(c.get("levels")),
        )
        for c in read.mappings(data.get("columns"))
    ]


def moment(text: Any) -> str:
    """Return a time as people write it, or the text itself if it is not ISO 8601."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return read.words(text)
    zone = f" {when:%Z}" if when.tzinfo else ""
    return f"{when.day} {when:%B} {when.year}, {when:%H:%M}{zone}"


def sentences(texts: Iterable[Any]) -> list[str]:
    """Return texts as sentences: a capital first, a full stop last."""
    said = [read.words(t).strip() for t in texts]
    return [s[0].upper() + s[1:] + ("" if s[-1] in ".!?…" else ".") for s in said if s]


def _label(key: str) -> str:
    plain = str(key).replace("_", " ")
    return _SETTINGS.get(key, plain[:1].upper() + plain[1:])


def _setting(key: str, value: Any) -> str:
    if key == "seconds":
        return "no limit" if value is None else duration(read.number(value))
    if key == "solver" and value is None:
        return "any that suits the problem"
    if key == "split_by" and value is None:
        return "nothing: rows are independent"
    if key == "certify" and value is None:
        return "not asked for"
    if key == "seed":  # a name, not an amount
        return str(value) if value is not None else NOTHING
    return read.words(value)


def _status(results: dict[str, Any]) -> str:
    message = read.mapping(results.get("status")).get("message")
    said = sentences([message]) if message else []
    return said[0] if said else NOTHING


def _intercept(value: Any) -> str:
    single = read.number(value)
    if single is not None:
        return number(single, 4)
    several = [number(read.number(v), 4) for v in read.items(value)]
    rest = len(several) - _CLASSES
    more = f" and {count(rest)} more" if rest > 0 else ""
    return ", ".join(several[:_CLASSES]) + more if several else NOTHING


def _used(given: int | None, used: int | None) -> str:
    if given is None or used is None or used >= given:
        return count(used)
    return f"{count(used)} ({count(given - used)} left out)"


def _missing(value: Any, rows: int | None) -> str:
    missing = read.whole(value)
    if not missing or not rows:
        return count(missing)
    return f"{count(missing)} ({number(100 * missing / rows, 2)}%)"


def _levels(value: Any) -> str:
    if isinstance(value, (list, tuple, dict)):
        return count(len(value))
    return count(read.whole(value))
