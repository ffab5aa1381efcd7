"""``vitalfew methods``: what ``vitalfew prune`` can be told to use, and when."""

import json
from typing import Annotated, Any

import typer

from vitalfew.exceptions import MissingDependencyError


def methods(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.")
    ] = False,
) -> None:
    """List the methods of pruning, and the ways to divide a budget among layers."""
    from vitalfew.study._hints import data_error

    try:
        from vitalfew import pruning
    except MissingDependencyError as error:
        raise data_error(
            "pruning networks needs PyTorch", "pip install 'vitalfew[cli,torch,hf]'"
        ) from error
    found = [facts(name, cls) for name, cls in sorted(pruning.methods().items())]
    shares: list[dict[str, Any]] = [
        {"name": name, "title": _title(cls), "measures": cls.measures}
        for name, cls in sorted(pruning.allocations().items())
    ]
    if as_json:
        plain = {"methods": found, "allocations": shares}
        typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("method", no_wrap=True)
    for title in ("kind", "use", "cost", "needs"):
        table.add_column(title)
    for row in found:
        cells = ("name", "kind", "use", "cost", "data")
        table.add_row(*(Text(str(row[cell])) for cell in cells))
    Console().print(table)
    table = Table()
    table.add_column("allocation", no_wrap=True)
    table.add_column("how layers share a budget")
    table.add_column("measures losses")
    for row in shares:
        measures = "yes" if row["measures"] else "no"
        table.add_row(Text(row["name"]), Text(row["title"]), Text(measures))
    Console().print(table)


def facts(name: str, cls: Any) -> dict[str, Any]:
    """Return what a method says of itself, in words for users.

    Parameters
    ----------
    name : str
        Of the method.
    cls : type
        Its class.

    Returns
    -------
    dict
        Name, title, kind, use, cost and the data it needs.
    """
    from vitalfew.pruning import Criterion, NetworkMethod, Reconstruction

    kinds = {
        Criterion: "score",
        Reconstruction: "layer by layer",
        NetworkMethod: "whole network",
    }
    needs = cls().needs
    if "movement" in needs:
        data = "a training run, from Python"
    elif issubclass(cls, NetworkMethod) or needs & {"gradient", "fisher"}:
        data = "inputs and targets"
    else:
        data = "inputs" if needs else "no data"
    return {
        "name": name,
        "title": _title(cls),
        "kind": next(said for kind, said in kinds.items() if issubclass(cls, kind)),
        "use": cls.use,
        "cost": cls.cost,
        "data": data,
    }


def _title(cls: Any) -> str:
    return str(cls.__doc__ or "").strip().splitlines()[0]
