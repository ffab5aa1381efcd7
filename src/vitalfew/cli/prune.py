"""``vitalfew prune``: from a folder of a trained network to one that is smaller."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from vitalfew.cli._folder import NAMES
from vitalfew.cli._printable import printable
from vitalfew.exceptions import MissingDependencyError
from vitalfew.records import RunRecord

PATTERNS = "it is unstructured, blocks:ROWSxCOLS, N:M, channels or channels:in"
BLOCKS = re.compile(r"blocks:(\d{1,6})x(\d{1,6})")
RUNS = re.compile(r"(?:nm:)?(\d{1,6}):(\d{1,6})")
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
    asked = _Asked(
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
    )
    folder = out or Path(f"{model.resolve().name or 'model'}-pruned")
    with _hints(asked):
        return _run(asked, folder, overwrite=overwrite, as_json=as_json, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the options say."""

    model: Path
    structure: str
    sparsity: float | None
    density: float | None
    calibration: Path | None
    method: str
    allocation: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_blocks: int
    samples: int | None
    length: int | None
    seed: int
    checkpoint: Path | None
    dense: bool

    def settings(self) -> dict[str, Any]:
        """Return plain data."""
        found = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        return {**found, "include": list(self.include), "exclude": list(self.exclude)}


@contextmanager
def _hints(asked: _Asked) -> Iterator[None]:
    """Turn what libraries raise into errors of the user's that say what to do."""
    from vitalfew.study._hints import data_error

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


# -- options ---------------------------------------------------------------------------


def _structure(asked: _Asked) -> Any:
    """Return the structure that `--structure` and its budget name."""
    from vitalfew.structures import NM, Blocks, Cardinality, Channels
    from vitalfew.study._hints import data_error

    name = asked.structure.strip().casefold()
    runs, blocks = RUNS.fullmatch(name), BLOCKS.fullmatch(name)
    if runs:
        n, m = int(runs[1]), int(runs[2])
        if not 0 < n <= m:
            raise data_error(
                f"--structure {asked.structure}: {n} of every {m} cannot stay",
                "as in `--structure 2:4`, two of every four",
            )
        if asked.sparsity is not None or asked.density is not None:
            raise data_error(
                f"--structure {asked.structure} says by itself how many weights stay",
                "leave --sparsity and --density out",
            )
        return NM(n, m)
    density = _density(asked)
    if blocks:
        rows, cols = int(blocks[1]), int(blocks[2])
        if not rows or not cols:
            raise data_error(
                f"--structure {asked.structure}: a block has no rows or no columns",
                "as in `--structure blocks:16x1`",
            )
        return Blocks((rows, cols), density=density)
    if name == "unstructured":
        return Cardinality(density=density)
    if name in ("channels", "channels:out", "channels:in"):
        return Channels(density=density, axis=int(name == "channels:in"))
    raise data_error(
        f"--structure {asked.structure}: there is no such structure", PATTERNS
    )


def _density(asked: _Asked) -> float:
    """The fraction to keep, without the rounding of a difference."""
    from vitalfew.study._hints import data_error

    sparsity, density = asked.sparsity, asked.density
    if (sparsity is None) == (density is None):
        raise data_error(
            f"--structure {asked.structure} needs one of --sparsity and --density",
            "as in `--sparsity 0.9`, which removes 90 %",
        )
    if sparsity is not None:
        if not 0 <= sparsity < 1:
            raise data_error(
                f"--sparsity {sparsity:g}: it must be from 0 to below 1",
                "as in `--sparsity 0.9`, which removes 90 %",
            )
        return float(1 - Decimal(repr(sparsity)))
    assert density is not None
    if not 0 < density <= 1:
        raise data_error(
            f"--density {density:g}: it must be above 0 and at most 1",
            "as in `--density 0.1`, which keeps 10 %",
        )
    return density


def _method(asked: _Asked) -> Any:
    """Return the method that `--method` names, None for auto."""
    from vitalfew.pruning import NetworkMethod, methods
    from vitalfew.study._hints import data_error

    if asked.method.casefold() == "auto":
        return None
    method = _named("--method", asked.method, methods(), "it is auto or one of ")
    if "movement" in method.needs:
        raise data_error(
            f"--method {asked.method} sums the movement of weights while training",
            "use `vitalfew.pruning.MovementSums` and `prune` from Python",
        )
    if asked.calibration is None and (
        method.needs or isinstance(method, NetworkMethod)
    ):
        raise data_error(
            f"--method {asked.method} needs data",
            "give `--calibration FILE`, or use `--method magnitude`",
        )
    return method


def _allocation(asked: _Asked) -> Any:
    from vitalfew.pruning import allocations
    from vitalfew.study._hints import data_error

    found = _named("--allocation", asked.allocation, allocations(), "it is one of ")
    if found.measures and asked.calibration is None:
        raise data_error(
            f"--allocation {asked.allocation} measures losses", "give --calibration"
        )
    return found


def _named(option: str, name: str, known: dict[str, Any], these: str) -> Any:
    from vitalfew.study._hints import data_error

    if name.casefold() in known:
        return known[name.casefold()]()
    near = get_close_matches(name.casefold(), known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise data_error(
        f"{option} {name}: there is none of that name",
        f"{these}{', '.join(sorted(known))}{meant}",
    )


def _check_folders(asked: _Asked, folder: Path, overwrite: bool) -> None:
    """Raise if the result would replace what it must not."""
    from vitalfew.study._hints import data_error

    if not asked.model.is_dir():
        raise data_error(
            f"{asked.model} is not a folder",
            "MODEL_DIR is a folder that `save_pretrained` or `vitalfew prune` wrote",
        )
    source, result = asked.model.resolve(), folder.resolve()
    if result == source or result in source.parents:
        raise data_error(
            f"--out {folder} would replace the model itself", "use another folder"
        )
    if asked.checkpoint is not None:
        kept = asked.checkpoint.resolve()
        if {result, source} & {kept, *kept.parents}:
            raise data_error(
                f"--checkpoint {asked.checkpoint} lies in the folder of a model",
                "use a folder of its own",
            )
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise data_error(
            f"{folder} already holds files",
            "use `--overwrite` to replace an earlier result, or another folder with "
            "`--out`",
        )
    if not (folder / "recipe.json").is_file():
        raise data_error(
            f"{folder} holds files, and no model that was pruned",
            "use another folder with `--out`",
        )


# -- work ------------------------------------------------------------------------------


def _run(
    asked: _Asked, folder: Path, *, overwrite: bool, as_json: bool, quiet: bool
) -> int:
    """Read, prune, write and print; return the exit code."""
    from vitalfew.cli._calibration import check_calibration
    from vitalfew.cli._folder import claimed
    from vitalfew.cli._interrupts import unheard
    from vitalfew.cli._progress import shown
    from vitalfew.cli._prune_tables import print_tables
    from vitalfew.cli._tables import print_result

    structure = _structure(asked)
    _check_folders(asked, folder, overwrite)
    if asked.calibration is not None:
        check_calibration(asked.calibration)
    try:
        with claimed(folder, overwrite):
            with shown(quiet) as progress, _hushed():
                done = _pruned(asked, structure, progress)
            # from here on Ctrl-C must not cost the answer
            with unheard():
                with _hushed():
                    record = _written(done, folder, overwrite)
                print_result(record, as_json, print_tables)
                if not quiet:
                    _say(record, folder)
    except KeyboardInterrupt:
        return _interrupted(asked)
    return 0


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep off stdout what libraries say, and off stderr their bars and advice."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers.utils import logging
    except ImportError as error:
        raise MissingDependencyError("this needs transformers") from error
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A pruned model and all that there is to say about it."""

    asked: _Asked
    model: Any
    tokenizer: Any
    calibration: Any
    report: Any
    counts: Any


def _pruned(asked: _Asked, structure: Any, progress: Any) -> _Done:
    from vitalfew import pruning
    from vitalfew.cli._calibration import read_calibration
    from vitalfew.pruning._calibration import batches_of
    from vitalfew.study._hints import data_error

    method, allocation = _method(asked), _allocation(asked)
    progress("reading the model", 0, 1)
    model, tokenizer = _model(asked)
    if asked.dense and getattr(model, "_vitalfew_attributes", None):
        raise data_error(
            "--dense: the shapes of this model were changed, and `from_pretrained` "
            "would make the old ones",
            "leave --dense out",
        )
    calibration, batches = None, None
    if asked.calibration is not None:
        calibration = read_calibration(
            asked.calibration, model, tokenizer, asked.samples, asked.length
        )
        batches = batches_of(calibration.arrays, model, calibration.chosen)
        _try(asked, model, batches[0], method, allocation)
    try:
        report = pruning.prune(
            model,
            structure,
            method=method or "auto",
            calibration=batches,
            allocation=allocation,
            include=asked.include or None,
            exclude=asked.exclude or None,
            min_blocks=asked.min_blocks,
            rng=asked.seed,
            checkpoint=asked.checkpoint,
            progress=progress,
        )
    except (ValueError, TypeError) as error:  # of what was asked, not of the program
        if getattr(error, "__notes__", None):
            raise
        raise data_error(str(error), _advice(str(error))) from error
    except IndexError as error:
        raise data_error(
            f"--calibration {asked.calibration} does not suit {type(model).__name__}: "
            f"{error}",
            "check that tokens and labels are among those that the model knows",
        ) from error
    counts = pruning.sparsity_report(
        model, example_inputs=batches[0] if batches else None, report=report
    )
    return _Done(
        asked=asked,
        model=model,
        tokenizer=tokenizer,
        calibration=calibration,
        report=report,
        counts=counts,
    )


def _model(asked: _Asked) -> tuple[Any, Any]:
    """Read the model and its tokenizer from the disk alone."""
    from vitalfew.pruning.files import read, read_tokenizer
    from vitalfew.study._hints import data_error

    try:
        return read(asked.model), read_tokenizer(asked.model)
    except ValueError as error:
        raise data_error(
            str(error),
            "MODEL_DIR is a folder that `save_pretrained` or `vitalfew prune` wrote, "
            "with its weights as safetensors",
        ) from error


def _try(asked: _Asked, model: Any, batch: Any, method: Any, allocation: Any) -> None:
    """Run the model on a batch; say what does not fit before the long work."""
    from vitalfew.pruning._calibration import try_once, uses_gradients
    from vitalfew.study._hints import data_error

    name = type(model).__name__
    try:
        try_once(model, batch, with_loss=False)
    except Exception as error:  # what a model raises at wrong inputs is its own
        raise data_error(
            f"--calibration {asked.calibration} does not suit {name}: "
            f"{type(error).__name__}: {error}",
            "give its arguments as arrays, as it takes them",
        ) from error
    if not (uses_gradients(method, allocation) if method else allocation.measures):
        return
    try:
        try_once(model, batch, with_loss=True)
    except Exception as error:
        who = "--method " + asked.method if method else "--allocation"
        who = f"--allocation {asked.allocation}" if allocation.measures else who
        raise data_error(
            f"{who} needs the loss of {name}, and {asked.calibration} gives none "
            f"({type(error).__name__}: {error})",
            "give an .npz or .safetensors file with its labels beside its inputs, or "
            "use a method without a loss, as `--method admm`",
        ) from error


def _advice(message: str) -> str:
    """What to do about an error of `pruning.prune`."""
    if "checkpoint" in message or ".layer" in message:
        return "give another folder with --checkpoint, or remove it"
    if "no module matches" in message:
        return "patterns are matched with whole names, as in `--exclude '*.query'`"
    if "cannot keep to" in message:
        return "`vitalfew methods` lists what there is"
    if "calibration" in message or "finite" in message:
        return "check the data and the weights; --exclude leaves a layer as it is"
    return "change --structure, --sparsity, --include, --exclude or --min-blocks"


def _interrupted(asked: _Asked) -> int:
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


# -- what is written -------------------------------------------------------------------


def _written(done: _Done, folder: Path, overwrite: bool) -> RunRecord:
    """Write model, record and report together, all or nothing."""
    from vitalfew.pruning import save
    from vitalfew.pruning._folder import whole
    from vitalfew.report import render
    from vitalfew.study._hints import data_error

    plain = done.report.to_record()
    layers = [{k: v for k, v in x.items() if k != "picture"} for x in plain["layers"]]
    failure: Exception | None = None
    try:
        with whole(folder, overwrite) as new:
            save(
                done.model,
                new,
                report={**plain, "layers": layers},
                tokenizer=done.tokenizer,
                dense=done.asked.dense,
            )
            record = _record(done, plain, _bytes(done.asked.model), _bytes(new))
            (new / NAMES[0]).write_text(record.to_json() + "\n", encoding="utf-8")
            try:
                (new / NAMES[1]).write_text(render(record), encoding="utf-8")
            except Exception as error:  # a model is not lost with its report
                failure = error
    except OSError as error:
        raise data_error(
            f"the model cannot be written to {folder}: {error.strerror or error}",
            "free some space, or use another folder with `--out`",
        ) from error
    if failure is not None:
        raise failure
    return record


def _bytes(folder: Path) -> int:
    """Size of the files of weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _record(done: _Done, plain: dict[str, Any], before: int, after: int) -> RunRecord:
    counts, calibration = done.counts, done.calibration
    macs = {layer.name: layer for layer in counts.layers}
    for layer in plain["layers"]:
        # one line of text for each row of a picture, not one for each of its cells
        layer["picture"] = [" ".join(map(str, row)) for row in layer["picture"]]
        layer["macs"] = macs[layer["name"]].macs
        layer["macs_nonzero"] = macs[layer["name"]].macs_nonzero
    return RunRecord(
        kind="prune",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=_versions(),
        settings=done.asked.settings(),
        data={
            "source": done.asked.model.resolve().name,
            "model": type(done.model).__name__,
            "n_parameters": sum(p.numel() for p in done.model.parameters()),
            "dtype": str(done.model.dtype).removeprefix("torch."),
            "calibration": calibration.facts if calibration else None,
            "notes": list(calibration.notes) if calibration else [],
        },
        results={
            **plain,
            "sparsity": done.report.sparsity,
            "macs": counts.macs,
            "macs_nonzero": counts.macs_nonzero,
            "bytes_before": before,
            "bytes_after": after,
        },
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from vitalfew.study._record import versions

    others = ("torch", "transformers", "safetensors")
    found = {k: v for k, v in versions().items() if k in ("vitalfew", "python")}
    return {**found, **{name: version(name) for name in ("numpy", *others)}}


def _say(record: RunRecord, folder: Path) -> None:
    """Tell on stderr what was assumed, what stayed dense, and where the result is."""
    results = record.results
    lines = [f"note: {note}" for note in [*record.data["notes"], *results["notes"]]]
    reasons: dict[str, list[str]] = {}
    for name, why in results["left"].items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"left dense: {', '.join(names[:3])}{more}: {why}")
    lines += [f"wrote {path}" for path in sorted(folder.glob("*.safetensors"))]
    lines += [f"wrote {folder / name}" for name in NAMES]
    for line in lines:
        typer.echo(printable(line), err=True)
