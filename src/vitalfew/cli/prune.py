"""``vitalfew prune``: from a folder of a trained network to one that is smaller."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vitalfew.cli._printable import printable
from vitalfew.cli._prune_options import Asked, check_folders, structure_of
from vitalfew.cli._prune_record import say, written
from vitalfew.cli._prune_work import carried_out, hushed
from vitalfew.exceptions import MissingDependencyError
from vitalfew.study._hints import data_error

INSTALL = "pip install 'vitalfew[cli,torch,hf]'"


def prune(
    model: Annotated[
        Path,
        typer.Argument(
            help="Folder of a model: what `save_pretrained` or this command wrote.",
            metavar="MODEL_DIR",
        ),
    ],
    structure: Annotated[
        str,
        typer.Option(
            help="Which weights go together: unstructured, blocks:16x1 (outputs x "
            "inputs), 2:4, channels (outputs) or channels:in."
        ),
    ] = "unstructured",
    sparsity: Annotated[
        float | None,
        typer.Option(help="Fraction to remove, from 0 to below 1.", show_default=False),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="Fraction to keep, instead.", show_default=False),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Text (.txt, .txt.gz), or arrays named as the model's arguments "
            "(.npz, .safetensors).",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="One of `vitalfew methods`, or auto.")
    ] = "auto",
    allocation: Annotated[
        str, typer.Option(help="How layers share the budget; see `vitalfew methods`.")
    ] = "global",
    include: Annotated[
        list[str] | None,
        typer.Option(help="Layers to prune, a pattern; repeatable.", metavar="PATTERN"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Layers to leave, a pattern; repeatable.", metavar="PATTERN"),
    ] = None,
    min_blocks: Annotated[
        int, typer.Option(help="Leave layers of fewer blocks dense.", min=0)
    ] = 1,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Most calibration samples: 128 sequences of a text, or all arrays.",
            min=1,
            show_default=False,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens in a sequence of a text: 512, or what the model takes.",
            min=2,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness.", min=0)] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder for finished layers, from which the same command goes on.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result (NAME-pruned).", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result.")
    ] = False,
    dense: Annotated[
        bool,
        typer.Option(
            "--dense", help="Store zeros as well: a folder for `from_pretrained`."
        ),
    ] = False,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency",
            help="Measure a calibration sample's time by torch and compiled.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Say nothing on the way.")
    ] = False,
) -> int:
    """Prune a trained network: the few weights that matter stay, as many as asked.

    Prints what is left of each layer, and how far its outputs changed on the
    calibration data. Writes the model, in which zeros take no room, with result.json
    and report.html. MODEL_DIR stays as it is.
    """
    asked = Asked(
        model=model,
        structure=structure,
        sparsity=sparsity,
        density=density,
        calibration=calibration,
        method=method,
        allocation=allocation,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        min_blocks=min_blocks,
        samples=samples,
        length=length,
        seed=seed,
        checkpoint=checkpoint,
        dense=dense,
        latency=latency,
    )
    folder = out or Path(f"{model.resolve().name or 'model'}-pruned")
    with _hints(asked):
        return _run(asked, folder, overwrite=overwrite, as_json=as_json, quiet=quiet)


@contextmanager
def _hints(asked: Asked) -> Iterator[None]:
    """Turn what libraries raise into errors of the user's that say what to do."""
    try:
        yield
    except MissingDependencyError as error:
        raise data_error(str(error), INSTALL) from error
    except (MemoryError, RuntimeError) as error:
        # torch says so in its own way
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise data_error(
            "there is not enough memory", "use fewer --samples or a shorter --length"
        ) from error


def _run(
    asked: Asked, folder: Path, *, overwrite: bool, as_json: bool, quiet: bool
) -> int:
    """Read, prune, write and print; return the exit code."""
    from vitalfew.cli._calibration import check_calibration
    from vitalfew.cli._folder import claimed
    from vitalfew.cli._interrupts import unheard
    from vitalfew.cli._progress import shown
    from vitalfew.cli._prune_tables import print_tables
    from vitalfew.cli._tables import print_result

    structure = structure_of(asked)
    check_folders(asked, folder, overwrite)
    if asked.calibration is not None:
        check_calibration(asked.calibration)
    try:
        with claimed(folder, overwrite):
            with shown(quiet) as progress, hushed():
                done = carried_out(asked, structure, progress)
            # from here on Ctrl-C must not cost the answer
            with unheard():
                with hushed():
                    record = written(done, folder, overwrite)
                print_result(record, as_json, print_tables)
                if not quiet:
                    say(record, folder)
    except KeyboardInterrupt:
        return _interrupted(asked)
    return 0


def _interrupted(asked: Asked) -> int:
    kept = asked.checkpoint
    if kept is not None and kept.is_dir():
        hint = f"the same command goes on after the layers that {kept} holds"
    else:
        hint = "with `--checkpoint DIR` the same command would go on after its layers"
    typer.echo(
        printable("error: interrupted; the model is as it was, nothing was written"),
        err=True,
    )
    typer.echo(printable(f"hint: {hint}"), err=True)
    return 1
