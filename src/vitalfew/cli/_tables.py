"""The short tables of a result, for people."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitalfew.records import RunRecord

MOST_EFFECTS = 2
UNITS = {
    "regression": "change of {target}",
    "binary": "change of the log-odds of {last}",
    "multiclass": "change of the log-odds of a class",
    "count": "change of the logarithm of {target}",
    "survival": "change of the logarithm of the hazard",
}


def print_result(record: RunRecord) -> None:
    """Print the chosen columns and the errors on stdout.

    Parameters
    ----------
    record : RunRecord
        Of a study.
    """
    console, results, data = Console(), record.results, record.data
    console.print(_chosen(results["chosen"]))
    unit = UNITS[data["task"]].format(
        target=data["target"], last=(data["classes"] or [""])[-1]
    )
    console.print(
        Text(
            f"effect: {unit} for one standard deviation of the column, or for a level "
            "instead of the first; chosen again: on random halves of the rows"
        )
    )
    if results["errors"]:
        console.print(_errors(results["errors"], results["metric"]["name"]))
        console.print(Text("±: standard deviation over the folds"))


def _chosen(chosen: list[dict[str, Any]]) -> Table:
    table = Table("column", "effect", "chosen again")
    for entry in chosen:
        again = entry["stability"]
        table.add_row(
            Text(str(entry["column"])),
            Text(_effect(entry)),
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
    places = max(0, 1 - math.floor(math.log10(sd)))
    return f"{mean:.{places}f} ± {sd:.{places}f}"
