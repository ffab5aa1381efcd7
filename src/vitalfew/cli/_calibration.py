"""Reading calibration data: a text, or arrays named as the model's arguments."""

import gzip
import hashlib
import inspect
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitalfew.exceptions import DataError
from vitalfew.study._hints import data_error

SAMPLES, LENGTH = 128, 512  # sequences of a text, and tokens in each
MOST_CHARACTERS = 32  # of a text, for each token that is wanted
MOST_BYTES = 1 << 31  # of a text, unpacked
MOST_COMPRESSED = 16  # how often its file arrays may be that are larger than that
KINDS = "a text (.txt, .txt.gz), or arrays (.npz, .safetensors)"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Samples to calibrate on.

    Attributes
    ----------
    arrays : dict of str to array
        By the names of the model's arguments, samples along the first axis.
    chosen : array of int64
        Which samples.
    facts : dict
        What they are, as plain data.
    notes : tuple of str
        What was done to them.
    """

    arrays: dict[str, Any]
    chosen: Any
    facts: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def check_calibration(path: Path) -> None:
    """Raise unless a file is there and of a kind that can be read.

    Parameters
    ----------
    path : Path
        Of the file.

    Raises
    ------
    DataError
        If it is not.
    """
    if not path.is_file():
        raise data_error(f"--calibration {path}: there is no such file", "check it")
    if _kind(path) is None:
        raise data_error(
            f"--calibration {path}: its ending says nothing about what it holds",
            f"give {KINDS}",
        )


def _kind(path: Path) -> str | None:
    name = path.name.casefold()
    for ending, kind in (
        (".txt", "text"),
        (".txt.gz", "text"),
        (".npz", "npz"),
        (".safetensors", "safetensors"),
    ):
        if name.endswith(ending):
            return kind
    return None


def read_calibration(
    path: Path, model: Any, tokenizer: Any, samples: int | None, length: int | None
) -> Calibration:
    """Read calibration data for a model of transformers.

    Parameters
    ----------
    path : Path
        A text or arrays; its ending tells.
    model : PreTrainedModel
        That takes them.
    tokenizer : PreTrainedTokenizerBase or None
        For a text.
    samples : int or None
        Most samples; by default 128 sequences of a text, and all of an array.
    length : int or None
        Tokens in a sequence of a text; by default 512, or as many as the model takes.

    Returns
    -------
    Calibration
        Samples evenly spread over the file: the same ones each time.

    Raises
    ------
    DataError
        If the file cannot be read, or does not suit the model.
    """
    kind = _kind(path)
    if kind == "text":
        found = _from_text(path, model, tokenizer, samples or SAMPLES, length)
    else:
        if length is not None:
            raise data_error(
                f"--length {length}: it is for texts, and {path} holds arrays",
                "leave --length out",
            )
        found = _from_arrays(path, kind, model, samples)
    _check_tokens(path, found.arrays.get("input_ids"), model)
    return found


# -- texts -----------------------------------------------------------------------------


def _from_text(
    path: Path, model: Any, tokenizer: Any, samples: int, length: int | None
) -> Calibration:
    if tokenizer is None:
        raise data_error(
            f"--calibration {path} is a text, and there is no tokenizer beside the "
            "model",
            "put the tokenizer's files into MODEL_DIR, or give arrays (.npz, "
            ".safetensors)",
        )
    if "input_ids" not in _arguments(model):
        raise data_error(
            f"--calibration {path} is a text, and {type(model).__name__} takes none",
            f"give arrays: it takes {_some(_arguments(model))}",
        )
    raw = _bytes(path)
    length = _length(model, tokenizer, length)
    text = _thinned(_decoded(raw, path), samples * length * MOST_CHARACTERS, samples)
    rows = _tokens(tokenizer, text, length)
    full = [row for row in rows if len(row) == length]
    notes = []
    if not full:
        full = rows[:1]
        if not full or len(full[0]) < 2:
            raise data_error(
                f"--calibration {path} holds no text to speak of", "give some pages"
            )
        length = len(full[0])
        notes.append(f"the text has {length} tokens only: one short sequence")
    elif len(full) < samples:
        notes.append(
            f"the text gives {len(full)} sequence{'' if len(full) == 1 else 's'} of "
            f"{length} tokens, not {samples}"
        )
    ids = np.array(full, np.int64)
    arrays = {"input_ids": ids}
    if model.can_generate() and "labels" in _arguments(model):
        arrays["labels"] = ids
    chosen = _spread(len(ids), samples)
    return Calibration(
        arrays=arrays,
        chosen=chosen,
        facts={
            **_facts(path, raw, "text", arrays, len(chosen)),
            "tokens_each": length,
            "tokens": len(chosen) * length,
        },
        notes=tuple(notes),
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise data_error(
            f"--calibration {path} cannot be read: {error.strerror}", "check the path"
        ) from error


def _decoded(raw: bytes, path: Path) -> str:
    if path.name.casefold().endswith(".gz"):
        raw = _unpacked(raw, path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise data_error(
            f"--calibration {path} is no UTF-8 text: byte 0x{raw[error.start]:02x} at "
            f"{error.start}",
            "save it as UTF-8 text",
        ) from error


def _unpacked(raw: bytes, path: Path) -> bytes:
    import io

    try:
        with gzip.open(io.BytesIO(raw)) as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise data_error(
            f"--calibration {path} is a damaged gzip file: {error}",
            "copy or download it again",
        ) from error
    if len(text) > MOST_BYTES:
        raise data_error(
            f"--calibration {path} is more than {MOST_BYTES:,} bytes of text",
            "a few megabytes do: take a part of it",
        )
    return text


def _thinned(text: str, most: int, pieces: int) -> str:
    """Return a text, or pieces of a long one, evenly spread over it."""
    if len(text) <= most:
        return text
    width = most // pieces
    starts = _spread(len(text), pieces).tolist()
    return "\n".join(text[start : start + width] for start in starts)


def _length(model: Any, tokenizer: Any, asked: int | None) -> int:
    """How many tokens a sequence has."""
    known = (
        getattr(model.config, "max_position_embeddings", None),
        getattr(tokenizer, "model_max_length", None),
    )
    most = min((n for n in known if isinstance(n, int) and n > 0), default=LENGTH)
    if asked is None:
        return min(most, LENGTH)
    least = tokenizer.num_special_tokens_to_add() + 1
    if asked < least:
        raise data_error(
            f"--length {asked}: the tokenizer itself adds {least - 1} tokens to each "
            "sequence",
            f"use --length {least} or more",
        )
    if asked > most:
        raise data_error(
            f"--length {asked}: {type(model).__name__} takes {most} tokens at most",
            f"use --length {most} or less",
        )
    return asked


def _tokens(tokenizer: Any, text: str, length: int) -> list[list[int]]:
    """Cut a text into sequences of tokens, with what each begins and ends with."""
    if tokenizer.is_fast:
        try:
            found: list[list[int]] = tokenizer(
                text,
                max_length=length,
                truncation=True,
                return_overflowing_tokens=True,
            )["input_ids"]
        except Exception as error:  # the library in Rust has one kind for everything
            raise data_error(
                f"the tokenizer cannot cut the text into {length} tokens: {error}",
                "use a greater --length",
            ) from error
        return found
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids[start : start + length] for start in range(0, len(ids), length)]


# -- arrays ----------------------------------------------------------------------------


def _from_arrays(
    path: Path, kind: str | None, model: Any, samples: int | None
) -> Calibration:
    raw = _bytes(path)
    arrays = _loaded(raw, path, kind)
    takes = _arguments(model)
    unknown = [name for name in arrays if name not in takes]
    if unknown or not arrays:
        what = f"holds {_some(unknown)}" if unknown else "holds no arrays"
        raise data_error(
            f"--calibration {path} {what}, which {type(model).__name__} does not take",
            f"name the arrays as its arguments: {_some(takes)}",
        )
    for name, array in arrays.items():
        if array.ndim == 0 or not array.shape[0]:
            raise data_error(
                f"--calibration {path}: {name} has no samples",
                "samples lie along the first axis of each array",
            )
    counts = {name: int(array.shape[0]) for name, array in arrays.items()}
    n = min(counts.values())
    if max(counts.values()) != n:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise data_error(
            f"--calibration {path} has different numbers of samples: {told}",
            "the first axis of each array must be as long",
        )
    chosen = _spread(n, samples or n)
    notes = (f"{len(chosen)} of {n} samples were used",) if len(chosen) < n else ()
    return Calibration(
        arrays=arrays,
        chosen=chosen,
        facts=_facts(path, raw, str(kind), arrays, len(chosen)),
        notes=notes,
    )


def _loaded(raw: bytes, path: Path, kind: str | None) -> dict[str, Any]:
    try:
        if kind == "safetensors":
            from safetensors.torch import load

            return dict(load(raw))
        return _from_npz(raw)
    except DataError:
        raise
    except Exception as error:  # zip, zlib, NumPy and safetensors: each has its own
        raise data_error(
            f"--calibration {path} cannot be read: {error}",
            "write it with numpy.savez, or with safetensors; nothing is unpickled",
        ) from error


def _from_npz(raw: bytes) -> dict[str, Any]:
    import io

    found = {}
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        size = sum(member.file_size for member in file.zip.infolist())
        if size > max(MOST_BYTES, MOST_COMPRESSED * len(raw)):
            raise data_error(
                f"--calibration: {len(raw):,} bytes unpack to {size:,}",
                "write it with numpy.savez, or take a part of it",
            )
        for name in file.files:
            array = file[name]
            if array.dtype.kind not in "biuf":
                raise data_error(
                    f"--calibration: {name} holds {array.dtype}, not numbers",
                    "give integers, floating-point numbers or booleans",
                )
            found[name] = np.ascontiguousarray(
                array, array.dtype.newbyteorder("=")
            ).reshape(array.shape)  # a scalar stays one
    return found


# -- both ------------------------------------------------------------------------------


def _arguments(model: Any) -> list[str]:
    """What the model takes, by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind in kinds]


def _spread(n: int, wanted: int) -> Any:
    """At most so many of n, evenly spread."""
    count = min(n, wanted)
    return np.arange(count, dtype=np.int64) * n // count


def _check_tokens(path: Path, ids: Any, model: Any) -> None:
    size = getattr(model.config, "vocab_size", None)
    if ids is None or not isinstance(size, int):
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise data_error(
            f"--calibration {path}: it has tokens from {low} to {high}, and the model "
            f"knows 0 to {size - 1}",
            "use the tokenizer that the model was trained with",
        )


def _facts(
    path: Path, raw: bytes, kind: str, arrays: dict[str, Any], n: int
) -> dict[str, Any]:
    return {
        "source": path.name,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "kind": kind,
        "arguments": list(arrays),
        "samples": n,
    }


def _some(names: list[str]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:8])
    return shown + (" ..." if len(names) > 8 else "")
