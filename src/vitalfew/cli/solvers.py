"""``vitalfew solvers``: what can be chosen with --solver, and when to choose it."""

import json
import re
from typing import Annotated, Any

import typer

import vitalfew.solvers
from vitalfew.contracts import Penalty


def solvers(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """List the solvers: when to use which, what a step costs, what is guaranteed."""
    rows = [_facts(name) for name in vitalfew.solvers.__all__]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("solver", no_wrap=True)
    for title in ("use", "cost of a step", "guarantee", "works on"):
        table.add_column(title)
    for row in rows:
        cells = ("name", "use", "cost", "guarantee", "accepts")
        table.add_row(*(Text(str(row[cell])) for cell in cells))
    Console().print(table)


def _facts(name: str) -> dict[str, Any]:
    kind = getattr(vitalfew.solvers, name)
    return {
        "name": name,
        "title": (kind.__doc__ or "").strip().splitlines()[0],
        "use": kind.use,
        "cost": kind.cost,
        "guarantee": kind.guarantee,
        "accepts": "penalties" if kind.accepts is Penalty else "structures",
        "needs": [_words(need.__name__) for need in kind.needs],
    }


def _words(name: str) -> str:
    """Turn the name of a protocol into words: HasSwapGains -> swap gains."""
    return " ".join(re.findall(r"[A-Z][a-z]+", name.removeprefix("Has"))).lower()
