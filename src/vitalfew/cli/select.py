"""``vitalfew select``: from a table to the few columns that predict the target."""

import csv
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from vitalfew.cli._folder import NAMES
from vitalfew.cli._printable import printable
from vitalfew.records import RunRecord


def select(
    data: Annotated[
        Path,
        typer.Argument(help="CSV or TSV, gzipped or not, or Parquet.", metavar="DATA"),
    ],
    target: Annotated[
        str | None, typer.Option(help="Column to predict.", show_default=False)
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Column of survival times.", show_default=False)
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(help="Column that says if the event came.", show_default=False),
    ] = None,
    n_nonzero: Annotated[
        str, typer.Option(help="How many columns to choose.", metavar="K|auto")
    ] = "auto",
    groups: Annotated[
        Path | None,
        typer.Option(
            help="CSV (column,group) or JSON of columns to choose together.",
            show_default=False,
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            help="Column whose equal values stay in one fold; not chosen from.",
            show_default=False,
        ),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(help="What chooses K: cv, cv-1se (fewer), bic, ebic or gic."),
    ] = "cv",
    task: Annotated[
        str,
        typer.Option(
            help="regression, binary, multiclass, ordered, count or survival."
        ),
    ] = "auto",
    order: Annotated[
        str | None,
        typer.Option(
            help="Labels of an ordered target, the lowest first.",
            metavar="A,B,...",
            show_default=False,
        ),
    ] = None,
    solver: Annotated[
        str, typer.Option(help="One of `vitalfew solvers`, or auto.")
    ] = "auto",
    seconds: Annotated[
        float | None, typer.Option(help="Limit of time.", show_default=False)
    ] = None,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify", help="Prove how far the choice can be from the best."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result (vitalfew-NAME).", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Column to leave out; repeatable.", show_default=False),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of the text of DATA.")] = "utf-8",
    resamples: Annotated[
        int, typer.Option(help="Halves of the rows to choose again on.", min=0)
    ] = 20,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Say nothing on the way.")
    ] = False,
) -> int:
    """Choose the few columns of a table that predict a target, with an honest error.

    Prints the columns chosen, and how well they predict rows that had no part in
    choosing them, beside all columns and none. Writes result.json and report.html.
    Ctrl-C after an answer was found keeps it.
    """
    asked = _Asked(
        data=data,
        target=target,
        time=time,
        event=event,
        task=_task(task),
        order=_order(order, task, target),
        groups=groups,
        split_by=split_by,
        drop=tuple(drop or ()),
        encoding=encoding,
        settings=_settings(
            n_nonzero, criterion, solver, seconds, seed, resamples, certify
        ),
    )
    folder = out or Path(f"vitalfew-{_stem(data)}")
    return _run(asked, folder, overwrite=overwrite, as_json=as_json, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the options say, checked as far as they can be without the data."""

    data: Path
    target: str | None
    time: str | None
    event: str | None
    task: str
    order: list[str] | None
    groups: Path | None
    split_by: str | None
    drop: tuple[str, ...]
    encoding: str
    settings: Any


def _task(name: str) -> str:
    from vitalfew.study._hints import data_error
    from vitalfew.study._outcome import TASKS

    if name not in ("auto", *TASKS):
        raise data_error(
            f"--task {name}: there is no such task",
            f"it is auto or one of {', '.join(TASKS)}",
        )
    return name


def _order(text: str | None, task: str, target: str | None) -> list[str] | None:
    """Split the labels of `--order`; quotes hold commas together."""
    from vitalfew.study._hints import data_error

    if text is None:
        return None
    if task not in ("auto", "ordered") or target is None:
        raise data_error(
            "--order gives the order of a target's labels, which asks for --target and "
            "--task ordered",
            "leave --order out, or use `--task ordered`",
        )
    labels = [label.strip() for label in next(csv.reader([text]), [])]
    if len(labels) < 2:
        raise data_error(
            f"--order {text}: it must name at least two labels",
            "as in `--order low,medium,high`",
        )
    return labels


def _settings(
    n_nonzero: str,
    criterion: str,
    solver: str,
    seconds: float | None,
    seed: int,
    resamples: int,
    certify: bool,
) -> Any:
    from vitalfew._path import CRITERIA
    from vitalfew.study._hints import data_error
    from vitalfew.study._study import Settings

    whole = n_nonzero.isdecimal() and len(n_nonzero) < 19
    if n_nonzero != "auto" and not (whole and int(n_nonzero) > 0):
        raise data_error(
            f"--n-nonzero {n_nonzero}: it must be a whole number from 1, or auto",
            "as in `--n-nonzero 10`",
        )
    if criterion not in CRITERIA:
        raise data_error(
            f"--criterion {criterion}: there is no such criterion",
            f"it is one of {', '.join(CRITERIA)}",
        )
    if seconds is not None and not 0 < seconds < float("inf"):
        raise data_error(
            f"--seconds {seconds:g}: it must be a positive number", "as in --seconds 60"
        )
    if seed < 0:
        raise data_error(f"--seed {seed}: it must not be negative", "use 0 or more")
    return Settings(
        n_nonzero=None if n_nonzero == "auto" else int(n_nonzero),
        criterion=criterion,
        solver=_solver(solver),
        seconds=seconds,
        seed=seed,
        resamples=resamples,
        certify=certify,
    )


def _solver(name: str) -> Any:
    import vitalfew.solvers
    from vitalfew.contracts import Structure
    from vitalfew.study._hints import data_error

    if name == "auto":
        return None
    kinds = {
        n.casefold(): getattr(vitalfew.solvers, n) for n in vitalfew.solvers.__all__
    }
    kinds = {n: kind for n, kind in kinds.items() if kind.accepts is Structure}
    if name.casefold() not in kinds:
        near = get_close_matches(name.casefold(), kinds, n=1)
        known = ", ".join(kind.__name__ for kind in kinds.values())
        meant = f"; did you mean {kinds[near[0]].__name__}?" if near else ""
        raise data_error(
            f"--solver {name}: there is no such solver",
            f"it is auto or one of {known}{meant}",
        )
    return kinds[name.casefold()]()


def _stem(data: Path) -> str:
    name = data.name
    for ending in (".gz", ".csv", ".tsv", ".txt", ".parquet"):
        name = name.removesuffix(ending)
    return name or "result"


def _run(
    asked: _Asked, folder: Path, *, overwrite: bool, as_json: bool, quiet: bool
) -> int:
    """Read, study, write and print; return the exit code."""
    from vitalfew.cli._folder import claimed, write
    from vitalfew.cli._interrupts import unheard
    from vitalfew.cli._progress import shown
    from vitalfew.cli._tables import print_result
    from vitalfew.cli.reading import read_table
    from vitalfew.study._study import Study

    table = read_table(asked.data, encoding=asked.encoding, drop=asked.drop)
    given = _prepared(asked, table)
    failure: Exception | None = None
    # inside, Ctrl-C ends the study; after that it must not cost the answer
    with unheard():
        with claimed(folder, overwrite):
            with shown(quiet) as progress:
                study = Study(given, asked.settings, progress)
                study.run()
            record = _record(asked, table, study)
            try:
                write(record, folder, overwrite)
            except ValueError as error:
                failure = error  # the answer is printed all the same
        print_result(record, as_json)
        if failure is not None:
            raise failure
        if not quiet:
            _say(record, folder)
    results = record.results
    finished = study.model.solution.status.ok and not results["interrupted"]
    return 0 if finished else 1


def _prepared(asked: _Asked, table: Any) -> Any:
    from vitalfew.cli._groups import read_groups
    from vitalfew.study._prepare import prepare

    return prepare(
        table.columns,
        target=asked.target,
        time=asked.time,
        event=asked.event,
        task=asked.task,
        order=asked.order,
        split_by=asked.split_by,
        groups=None if asked.groups is None else read_groups(asked.groups),
    )


def _record(asked: _Asked, table: Any, study: Any) -> RunRecord:
    from vitalfew.study import _record as plain

    given = study.given
    used = {name for members in study.encoder.group_columns_ for name in members}
    classes = given.outcome.classes
    return RunRecord(
        kind="select",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=plain.versions(),
        settings=plain.settings_of(study, asked.split_by),
        data={
            "source": table.source,
            "sha256": table.sha256,
            "n_rows": given.n_rows,
            "n_rows_used": given.outcome.n_rows,
            "n_columns": len(table.kinds) + len(set(asked.drop)),
            "n_features": len(used),
            "target": given.outcome.name,
            "task": given.outcome.task,
            "classes": None if classes is None else list(classes),
            "notes": [*table.notes, *given.notes, *study.notes],
            "columns": plain.describe_columns(table.columns, table.kinds),
        },
        results=plain.results_of(study),
    )


def _say(record: RunRecord, folder: Path) -> None:
    """Tell on stderr what was assumed, what is missing, and where the result is."""
    results = record.results
    lines = [f"note: {note}" for note in record.data["notes"]]
    if results["status"]["name"] != "CONVERGED":
        lines.append(f"note: {results['status']['message']}")
    lines.extend(f"cut short: {what}" for what in results["cut_short"])
    lines.extend(f"wrote {folder / name}" for name in NAMES)
    for line in lines:
        typer.echo(printable(line), err=True)
