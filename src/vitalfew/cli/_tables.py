"""The short tables of a result, for people."""

import errno
import json
import math
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitalfew.cli._printable import LONGEST, printable
from vitalfew.records import RunRecord
from vitalfew.study._hints import data_error

MOST_EFFECTS = 2
LONGEST_CELL = 200
UNITS = {
    "regression": "change of {target}",
    "binary": "change of the log-odds of {last}",
    "multiclass": "change of the log-odds of a class",
    "ordered": "change of the log-odds of a higher one of the ordered classes",
    "count": "change of the logarithm of {target}",
    "survival": "change of the logarithm of the hazard",
}


def print_result(
    record: RunRecord, as_json: bool, tables: Callable[[RunRecord], None] | None = None
) -> None:
    """Print the tables of a result on stdout.

    Parameters
    ----------
    record : RunRecord
        Of a study, or of what `tables` prints.
    as_json : bool
        Print the record instead.
    tables : callable, optional
        Prints the tables; by default the chosen columns and the errors.

    Raises
    ------
    DataError
        If nothing can be written to stdout.
    """
    try:
        if as_json:
            _print_json(record)
        else:
            (tables or _print_tables)(record)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever reads has seen enough
            raise
        raise data_error(
            f"nothing can be printed: {error.strerror or error}",
            "redirect the output elsewhere",
        ) from error


def _print_json(record: RunRecord) -> None:
    text = record.to_json()
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=1)  # in ASCII
    sys.stdout.write(text + "\n")


def _print_tables(record: RunRecord) -> None:
    console, results, data = Console(), record.results, record.data
    console.print(_chosen(results["chosen"]))
    unit = UNITS[data["task"]].format(
        target=printable(data["target"], LONGEST_CELL),
        last=printable((data["classes"] or [""])[-1], LONGEST_CELL),
    )
    console.print(
        _text(
            f"effect: {unit} for one standard deviation of the column, or for a level "
            "instead of the first; chosen again: on random halves of the rows"
        )
    )
    if results["certificate"] is not None:
        console.print(_text(results["certificate"]["sentence"]))
    if results["errors"]:
        console.print(_errors(results["errors"], results["metric"]["name"]))
        console.print(Text("±: standard deviation over the folds"))


def _text(text: str, longest: int = LONGEST) -> Text:
    return Text(printable(text, longest))


def _chosen(chosen: list[dict[str, Any]]) -> Table:
    table = Table("column", "effect", "chosen again")
    for entry in chosen:
        again = entry["stability"]
        table.add_row(
            _text(str(entry["column"]), LONGEST_CELL),
            _text(_effect(entry), 2 * LONGEST_CELL),
            Text("-" if again is None else f"{again:.0%}", justify="right"),
        )
    if not chosen:
        table.add_row(Text("(none: no column predicts the target)"), "", "")
    return table


def _effect(entry: dict[str, Any]) -> str:
    """The effect per standard deviation, or the largest of several."""
    if entry["effect"] is not None:
        return f"{entry['effect']:+.3g}"
    ranked = sorted(entry["effects"], key=lambda e: -abs(e["value"]))
    shown = []
    for effect in ranked[:MOST_EFFECTS]:
        name = effect["name"].removeprefix(f"{entry['column']}=")
        if effect["class"] is not None:
            same = name == entry["column"]
            name = effect["class"] if same else f"{name} for {effect['class']}"
        shown.append(f"{name} {effect['value']:+.3g}")
    return ", ".join(shown) + (", ..." if len(ranked) > MOST_EFFECTS else "")


def _errors(errors: list[dict[str, Any]], main: str) -> Table:
    names = list(errors[0]["metrics"])
    names.sort(key=lambda name: name != main)
    table = Table("on held-out rows", *names)
    for entry in errors:
        cells = [_spread(entry["metrics"][name]) for name in names]
        table.add_row(Text(entry["model"]), *(Text(c, justify="right") for c in cells))
    return table


def _spread(metric: dict[str, Any]) -> str:
    """Mean and standard deviation, to as many places as the latter has digits."""
    mean, sd = metric["mean"], metric["sd"]
    if mean is None:
        return "-"
    if not sd:
        return f"{mean:.4g}"
    if not 1e-6 < sd < 1e6:  # places would be many
        return f"{mean:.4g} ± {sd:.2g}"
    places = max(0, 1 - math.floor(math.log10(sd)))
    return f"{mean:.{places}f} ± {sd:.{places}f}"
