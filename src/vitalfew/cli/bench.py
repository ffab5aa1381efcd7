"""``vitalfew bench``: how fast a network runs here, in each engine."""

from pathlib import Path
from typing import Annotated

import typer

from vitalfew.cli._bench_work import Asked
from vitalfew.exceptions import MissingDependencyError
from vitalfew.study._hints import data_error

INSTALL = "pip install 'vitalfew[cli,torch,hf]'"


def bench(
    model: Annotated[
        Path,
        typer.Argument(
            help="Folder of a model: what `save_pretrained`, `vitalfew prune` or "
            "`CompiledModel.save` wrote.",
            metavar="MODEL_DIR",
        ),
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option(
            help="Examples of a call (1); repeatable.", min=1, show_default=False
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of an example: 128, or what the model takes.",
            min=1,
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="Channels, height and width of an image; by default the model's.",
            metavar="CxHxW",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine to measure, as vitalfew-int8; repeatable. All by default.",
            metavar="NAME",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Of each engine.", min=1)] = 1,
    rounds: Annotated[
        int, typer.Option(help="How often the engines take turns.", min=1)
    ] = 20,
    seed: Annotated[int, typer.Option(help="Of the random inputs.", min=0)] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result (NAME-bench).", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Say nothing on the way.")
    ] = False,
) -> int:
    """Measure a network on this machine, in every engine that is installed.

    Prints latency and throughput of torch, OpenVINO, ONNX Runtime and vitalfew on the
    same random inputs, in turns, and how far results differ. Writes result.json and
    report.html. Ctrl-C keeps what was measured. MODEL_DIR stays as it is.
    """
    asked = Asked(
        model=model,
        batch=tuple(dict.fromkeys(batch or (1,))),
        tokens=tokens,
        image=image,
        engine=tuple(engine or ()),
        threads=threads,
        rounds=rounds,
        seed=seed,
    )
    folder = out or Path(f"{model.resolve().name or 'model'}-bench")
    try:
        return _run(asked, folder, overwrite=overwrite, as_json=as_json, quiet=quiet)
    except MissingDependencyError as error:
        raise data_error(str(error), INSTALL) from error


def _run(
    asked: Asked, folder: Path, *, overwrite: bool, as_json: bool, quiet: bool
) -> int:
    """Read, measure, write and print; return the exit code."""
    from vitalfew.cli._bench_record import print_tables, record_of, say
    from vitalfew.cli._bench_work import carried_out, check_folders
    from vitalfew.cli._folder import claimed, write
    from vitalfew.cli._interrupts import unheard
    from vitalfew.cli._progress import shown
    from vitalfew.cli._tables import print_result

    check_folders(asked, folder)
    try:
        with claimed(folder, overwrite):
            with shown(quiet) as progress:
                done = carried_out(asked, progress)
            # from here on Ctrl-C must not cost the answer
            with unheard():
                record = record_of(done)
                write(record, folder, overwrite)
                print_result(record, as_json, print_tables)
                if not quiet:
                    say(record, folder)
    except KeyboardInterrupt:
        typer.echo(
            "error: interrupted before a round was complete; nothing was written\n"
            "hint: after the first round Ctrl-C keeps what was measured",
            err=True,
        )
        return 1
    return 0
