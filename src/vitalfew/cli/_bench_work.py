"""The work of ``vitalfew bench``: reading a model, drawing inputs, measuring."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from vitalfew.cli._calibration import _arguments
from vitalfew.exceptions import MissingDependencyError
from vitalfew.study._hints import data_error

TOKENS, SIDE = 128, 224  # of an example, where the model says nothing
IMAGE = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,5})")
FOLDERS = (
    "MODEL_DIR is a folder that `save_pretrained`, `vitalfew prune` or "
    "`CompiledModel.save` wrote, with its weights as safetensors"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options say."""

    model: Path
    batch: tuple[int, ...]
    tokens: int | None
    image: str | None
    engine: tuple[str, ...]
    threads: int
    rounds: int
    seed: int

    def settings(self) -> dict[str, Any]:
        """Return plain data.

        Returns
        -------
        dict
            Each option with what was given for it.
        """
        found = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        return {**found, "batch": list(self.batch), "engine": list(self.engine)}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model and all that was measured."""

    asked: Asked
    model: Any
    compiled: bool
    dtype: str
    inputs: list[dict[str, Any]]
    reports: list[Any]
    notes: tuple[str, ...]


def check_folders(asked: Asked, folder: Path) -> None:
    """Make sure that there is a model, and that the result does not go into one.

    Parameters
    ----------
    asked : Asked
        The options.
    folder : Path
        Where the result will go.

    Raises
    ------
    DataError
        If not.
    """
    if not asked.model.is_dir():
        raise data_error(f"{asked.model} is not a folder", FOLDERS)
    held = ("config.json", "recipe.json", "compiled.json")
    if any((folder / name).exists() for name in held):
        raise data_error(
            f"--out {folder} holds a model, and its result.json may be the model's",
            "use another folder",
        )


def carried_out(asked: Asked, progress: Any) -> Measured:
    """Read the model, draw its inputs and measure.

    Parameters
    ----------
    asked : Asked
        The options.
    progress : callable
        Takes the part at work, how much of it is done, and its total.

    Returns
    -------
    Measured
        All batches, or after Ctrl-C those with a complete round.

    Raises
    ------
    DataError
        If model and options do not go together.
    """
    try:
        from vitalfew.runtime import _bench
    except ImportError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingDependencyError(f"this needs {error.name}") from error
    from vitalfew.cli._prune_work import hushed

    image = _image(asked)
    engines = _engines(asked, tuple(_bench.ENGINES))
    compiled = (asked.model / "compiled.json").is_file() and not (
        asked.model / "config.json"
    ).exists()
    # a compiled network is no model of transformers, which need not be installed
    with nullcontext() if compiled else hushed():
        progress("reading the model", 0, 1)
        model, dtype, notes = _read_compiled(asked) if compiled else _read(asked)
        reports: list[Any] = []
        inputs: list[dict[str, Any]] = []
        for batch in asked.batch:
            drawn = (_compiled_inputs if compiled else _inputs)(
                asked, model, batch, image
            )
            try:
                report = _bench.bench(
                    model,
                    drawn,
                    engines=engines,
                    threads=asked.threads,
                    rounds=asked.rounds,
                    progress=_naming(progress, batch, len(asked.batch) > 1),
                )
            except KeyboardInterrupt:
                if not reports:
                    raise
                notes = (*notes, f"interrupted before batch {batch} was measured")
                break
            except (TypeError, ValueError) as error:
                raise _unsuitable(asked, error) from error
            except (MemoryError, RuntimeError, IndexError) as error:
                if isinstance(error, MemoryError) or "allocate" in str(error):
                    raise data_error(
                        "there is not enough memory",
                        "use a smaller --batch, or fewer engines with --engine",
                    ) from error
                raise _unsuitable(asked, error) from error
            reports.append(report)
            inputs.append(_told(drawn))
            if report.interrupted:
                notes = (
                    *notes,
                    f"interrupted: {report.rounds} of {asked.rounds} rounds of batch "
                    f"{batch} were measured",
                )
                break
    if not any(report.times for report in reports):
        why = "; ".join(f"{k}: {v}" for k, v in reports[0].missing.items())
        raise data_error(f"no engine runs this model: {why}", "name others by --engine")
    return Measured(
        asked=asked,
        model=model,
        compiled=compiled,
        dtype=dtype,
        inputs=inputs,
        reports=reports,
        notes=notes,
    )


def _naming(progress: Any, batch: int, several: bool) -> Any:
    """Return what shows progress, and which batch it is of."""
    suffix = f", batch {batch}" if several else ""
    return lambda part, done, total: progress(f"{part}{suffix}", done, total)


def _unsuitable(asked: Asked, error: Exception) -> Exception:
    return data_error(
        f"the model in {asked.model} cannot be called with random inputs: "
        f"{type(error).__name__}: {error}",
        "try other --tokens or --image; from Python `vitalfew.runtime.bench` takes any "
        "inputs",
    )


# -- options ---------------------------------------------------------------------------


def _image(asked: Asked) -> tuple[int, int, int] | None:
    if asked.image is None:
        return None
    found = IMAGE.fullmatch(asked.image.strip().casefold())
    if not found or not all(int(n) for n in found.groups()):
        raise data_error(
            f"--image {asked.image}: it must be channels, height and width",
            "as in `--image 3x224x224`",
        )
    return int(found[1]), int(found[2]), int(found[3])


def _engines(asked: Asked, known: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the engines that `--engine` names, None for all."""
    plain = {name.replace(" ", "-"): name for name in known}
    found = []
    for given in asked.engine:
        name = re.sub(r"[\s:_-]+", "-", given.strip().casefold())
        if name not in plain:
            near = get_close_matches(name, plain, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise data_error(
                f"--engine {given}: there is none of that name",
                f"it is one of {', '.join(plain)}{meant}",
            )
        found.append(plain[name])
    return tuple(found) or None


# -- models ----------------------------------------------------------------------------


def _read(asked: Asked) -> tuple[Any, str, tuple[str, ...]]:
    """Read a model of transformers in single precision."""
    from vitalfew.pruning.files import read

    try:
        model = read(asked.model)
    except ValueError as error:
        raise data_error(str(error), FOLDERS) from error
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype == "float32":
        return model, dtype, ()
    note = f"the weights are stored as {dtype} and computed with in float32"
    return model.float(), dtype, (note,)


def _read_compiled(asked: Asked) -> tuple[Any, str, tuple[str, ...]]:
    from vitalfew.runtime import load

    try:
        model = load(asked.model, threads=asked.threads)
    except ValueError as error:
        raise data_error(str(error), "compile it again") from error
    notes = ("the network is compiled: other engines cannot run it",)
    return model, str(model.dtype), notes


# -- inputs ----------------------------------------------------------------------------


def _inputs(
    asked: Asked, model: Any, batch: int, image: tuple[int, int, int] | None
) -> dict[str, Any]:
    """Draw inputs of a model of transformers by its configuration."""
    rng = np.random.default_rng(asked.seed)
    takes, config = _arguments(model), model.config
    found: dict[str, Any] = {}
    if "input_ids" in takes:
        text = getattr(config, "text_config", None) or config
        tokens = _tokens(asked, text)
        found["input_ids"] = _words(rng, text, (batch, tokens))
        if "attention_mask" in takes:
            found["attention_mask"] = np.ones((batch, tokens), np.int64)
        if "decoder_input_ids" in takes and getattr(
            config, "is_encoder_decoder", False
        ):
            found["decoder_input_ids"] = _words(rng, text, (batch, tokens))
    elif asked.tokens is not None:
        raise data_error(
            f"--tokens {asked.tokens}: {type(model).__name__} takes no tokens",
            "leave --tokens out",
        )
    if "pixel_values" in takes:
        sides = image or _sides(getattr(config, "vision_config", None) or config)
        pixels = rng.standard_normal((batch, *sides), np.float32)
        found["pixel_values"] = pixels
    elif image is not None:
        raise data_error(
            f"--image {asked.image}: {type(model).__name__} takes no images",
            "leave --image out",
        )
    if not found:
        raise data_error(
            f"{type(model).__name__} takes neither tokens nor images",
            "from Python `vitalfew.runtime.bench` takes any inputs",
        )
    return found


def _tokens(asked: Asked, config: Any) -> int:
    most = getattr(config, "max_position_embeddings", None)
    most = most if isinstance(most, int) and most > 0 else None
    if asked.tokens is None:
        return min(TOKENS, most or TOKENS)
    if most is not None and asked.tokens > most:
        raise data_error(
            f"--tokens {asked.tokens}: the model takes {most} at most",
            f"use --tokens {most} or less",
        )
    return asked.tokens


def _words(rng: Any, config: Any, shape: tuple[int, int]) -> Any:
    """Draw tokens, but for the one that stands for none."""
    known = np.arange(config.vocab_size)
    pad = getattr(config, "pad_token_id", None)
    return rng.choice(known[known != pad] if len(known) > 1 else known, shape)


def _sides(config: Any) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model is made for."""
    side = getattr(config, "image_size", None) or SIDE
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    return getattr(config, "num_channels", 3), height, width


def _compiled_inputs(
    asked: Asked, model: Any, batch: int, image: tuple[int, int, int] | None
) -> Any:
    from vitalfew.runtime._inputs import random_inputs

    try:
        return random_inputs(model, batch, asked.tokens or TOKENS, image, asked.seed)
    except (ValueError, TypeError) as error:
        raise data_error(
            f"{asked.model}: {error}",
            "change --batch or --image, or compile the network for other inputs",
        ) from error


def _told(drawn: Any) -> dict[str, Any]:
    """Return names, types and shapes of inputs as plain data."""
    named = drawn if isinstance(drawn, dict) else dict(enumerate(drawn))
    return {
        str(name): f"{value.dtype} {' x '.join(map(str, value.shape))}"
        for name, value in named.items()
        if isinstance(value, np.ndarray)
    }
