"""``vitalfew methods``: what pruning can be told to use, and when."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from vitalfew.exceptions import MissingDependencyError


def methods(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.")
    ] = False,
) -> None:
    """List the methods of pruning, after training and during it, and allocations."""
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
    training = training_facts()
    if as_json:
        plain = {"methods": found, "allocations": shares, "training": training}
        typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))
        return
    _print_table(
        ("method", "kind", "use", "cost", "needs"),
        [[row[c] for c in ("name", "kind", "use", "cost", "data")] for row in found],
    )
    _print_table(
        ("allocation", "how layers share a budget", "measures losses"),
        [[s["name"], s["title"], "yes" if s["measures"] else "no"] for s in shares],
    )
    typer.echo("While a network trains, from Python: vitalfew.pruning.Pruner")
    _print_table(
        ("method", "score", "schedule"),
        [[m["name"], m["score"], m["schedule"]] for m in training["methods"]],
    )
    _print_table(
        ("score", "use", "cost"),
        [[row["name"], row["use"], row["cost"]] for row in training["scores"]],
    )
    _print_table(
        ("schedule", "use"),
        [[row["name"], row["use"]] for row in training["schedules"]],
    )


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column, of names, is never broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, header in enumerate(headers):
        table.add_column(header, no_wrap=i == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
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


def training_facts() -> dict[str, list[dict[str, str]]]:
    """Return what pruning while training offers, in words for users.

    Returns
    -------
    dict
        Under ``"methods"`` the name, score and schedule of each, with settings that
        are not the default; under ``"scores"`` and ``"schedules"`` the name, title, use
        and class, and the cost of scores.
    """
    from vitalfew.pruning import training

    scores = training.training_scores()
    schedules = training.training_schedules()
    return {
        "methods": [
            {
                "name": name,
                "score": _called(pair.score),
                "schedule": _called(pair.schedule),
            }
            for name, pair in sorted(training.training_methods().items())
        ],
        "scores": [
            {**_said_of(name, score), "cost": score.cost}
            for name, score in sorted(scores.items())
        ],
        "schedules": [_said_of(name, when) for name, when in sorted(schedules.items())],
    }


def _called(thing: Any) -> str:
    """Return a name, and the settings that differ from the default."""
    changed = [
        f"{field.name}={getattr(thing, field.name)}"
        for field in fields(thing)
        if field.default is not MISSING and getattr(thing, field.name) != field.default
    ]
    return f"{thing.name}({', '.join(changed)})" if changed else str(thing.name)


def _said_of(name: str, thing: Any) -> dict[str, str]:
    # a score that reads a criterion of `prune` is known by the criterion's class
    cls = type(getattr(thing, "criterion", thing))
    path = f"{cls.__module__.rpartition('.')[0]}.{cls.__name__}"
    return {"name": name, "title": _title(cls), "use": thing.use, "class": path}


def _title(cls: Any) -> str:
    return str(cls.__doc__ or "").strip().splitlines()[0]
