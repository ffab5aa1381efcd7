"""The work of ``vitalfew prune``: reading a model, trying the data, pruning."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

from vitalfew.cli._prune_options import Asked, allocation_of, method_of
from vitalfew.exceptions import MissingDependencyError
from vitalfew.study._hints import data_error

# arguments of `vitalfew.pruning.prune` that are options too, as its messages name them
ARGUMENT = re.compile(
    r"\b(include|exclude|min_blocks|calibration|method|allocation)="
    r"(batches|'[^']*'|\d+)?"
)


@contextmanager
def hushed() -> Iterator[None]:
    """Keep off stdout what libraries say, and off stderr their bars and advice.

    Yields
    ------
    None
        While they are kept off.

    Raises
    ------
    MissingDependencyError
        If transformers is not installed.
    """
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
class Pruned:
    """A pruned model and all that there is to say about it."""

    asked: Asked
    model: Any
    tokenizer: Any
    calibration: Any
    report: Any
    counts: Any
    notes: tuple[str, ...] = ()


def carried_out(asked: Asked, structure: Any, progress: Any) -> Pruned:
    """Read the model and the data, and prune.

    Parameters
    ----------
    asked : Asked
        The options.
    structure : Structure
        What `--structure` names.
    progress : callable
        Takes the part at work, how much of it is done, and its total.

    Returns
    -------
    Pruned
        The model, not yet written.

    Raises
    ------
    DataError
        If model, data and options do not go together.
    """
    from vitalfew import pruning
    from vitalfew.cli._calibration import read_calibration
    from vitalfew.pruning._calibration import batches_of

    method, allocation = method_of(asked), allocation_of(asked)
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
        said = in_own_terms(str(error))
        raise data_error(said, _advice(said)) from error
    except IndexError as error:
        raise data_error(
            f"--calibration {asked.calibration} does not suit {type(model).__name__}: "
            f"{error}",
            "check that tokens and labels are among those that the model knows",
        ) from error
    batch = batches[0] if batches else None
    counts, notes = _counted(asked, model, batch, report, progress)
    return Pruned(
        asked=asked,
        model=model,
        tokenizer=tokenizer,
        calibration=calibration,
        report=report,
        counts=counts,
        notes=notes,
    )


def _counted(
    asked: Asked, model: Any, batch: Any, report: Any, progress: Any
) -> tuple[Any, tuple[str, ...]]:
    """Count what is zero and measure what was asked for; say why if it cannot be."""
    from vitalfew import pruning

    count = partial(pruning.sparsity_report, model, report=report)
    if not asked.latency or batch is None:
        return count(example_inputs=batch), ()
    progress("measuring latency", 0, 1)
    example = {name: array[:1] for name, array in batch.items() if name != "labels"}
    if getattr(model.config, "use_cache", False):
        # a cache for tokens to come is none of what a sample asks for
        example["use_cache"] = False
    why = "interrupted"
    try:
        found = count(example_inputs=example, latency=True)
        return found, found.notes
    except KeyboardInterrupt:  # what was pruned is not lost with it
        pass
    except Exception as error:  # what a model does when it is traced is its own
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    return count(example_inputs=batch), (f"latency was not measured: {why}",)


def _model(asked: Asked) -> tuple[Any, Any]:
    """Read the model and its tokenizer from the disk alone."""
    from vitalfew.pruning.files import read, read_tokenizer

    try:
        return read(asked.model), read_tokenizer(asked.model)
    except ValueError as error:
        raise data_error(
            str(error),
            "MODEL_DIR is a folder that `save_pretrained` or `vitalfew prune` wrote, "
            "with its weights as safetensors",
        ) from error


def _try(asked: Asked, model: Any, batch: Any, method: Any, allocation: Any) -> None:
    """Run the model on a batch; say what does not fit before the long work."""
    from vitalfew.pruning._calibration import try_once, uses_gradients

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


def in_own_terms(message: str) -> str:
    """Return what `pruning.prune` says, with options in place of its arguments.

    Parameters
    ----------
    message : str
        Of an error, a note, or why a layer is left dense.

    Returns
    -------
    str
        As in ``--min-blocks 4`` for ``min_blocks=4``.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if value is None:
            return f"--{name}"
        return f"--{name} {'FILE' if value == 'batches' else value}"

    return ARGUMENT.sub(option, message)


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
