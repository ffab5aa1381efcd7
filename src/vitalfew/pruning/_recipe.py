"""What `recipe.json` says of a stored model: read without trust, written in one form.

It names every tensor with its shape and type, tells which are packed, which are tied,
and which attributes of modules go with the shapes. No name in it is ever a path, a
class or code.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

from vitalfew.exceptions import DataError

FORMAT = "vitalfew-pruned/1"
NAME = "recipe.json"
MOST = 2**31 - 1
MOST_TEXT = 2**28  # bytes of JSON
KINDS = ("parameter", "buffer", "derived")

Attribute = int | tuple[int, ...]
Attributes = dict[str, dict[str, Attribute]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a model.

    Parameters
    ----------
    kind : str
        ``"parameter"``, ``"buffer"``, or ``"derived"`` for a buffer that is not
        persistent.
    shape : tuple of int
        Its shape.
    dtype : str
        As torch names it.
    block : tuple of int, optional
        Rows and columns of a block where it is packed.
    axis : int
        Where it is packed, the axis that the rows of its matrix run along; all others
        make up the columns.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    block: tuple[int, int] | None = None
    axis: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON holds."""
        plain = {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}
        if self.block is None:
            return plain
        return plain | {"block": list(self.block), "axis": self.axis}

    @classmethod
    def from_plain(cls, name: str, plain: Any) -> Self:
        """Check what JSON held."""
        where = f"tensor {name!r}"
        keys = {"kind", "shape", "dtype"}
        _check_keys(where, plain, keys, keys | {"block", "axis"})
        shape = _sizes(f"shape of {where}", plain["shape"], 0)
        if math.prod(shape) >= 2**62:
            refuse(f"{where} is too large")
        if plain["kind"] not in KINDS or not isinstance(plain["dtype"], str):
            refuse(f"{where} has no known kind and type")
        block, axis = plain.get("block"), plain.get("axis", 0)
        if block is not None:
            block = _sizes(f"block of {where}", block, 1)
            if len(block) != 2 or len(shape) < 2 or axis not in (0, 1):
                refuse(f"{where} has a wrong block or axis")
        if type(axis) is not int:
            refuse(f"{where} has a wrong axis")
        return cls(
            kind=plain["kind"],
            shape=shape,
            dtype=plain["dtype"],
            block=block,
            axis=axis,
        )

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Shape of the matrix that is packed."""
        others = [n for d, n in enumerate(self.shape) if d != self.axis]
        return self.shape[self.axis], math.prod(others)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stored model is put together again.

    Parameters
    ----------
    version : str
        Version of the library that wrote it.
    files : tuple of str
        Names of the files that were written with it.
    ordinary : bool
        Whether the folder is one that transformers reads; then there are no tensors.
    tensors : dict of str to Entry
        Every parameter and buffer but the tied ones.
    tied : dict of str to str
        Names that stand for a tensor listed under another.
    attributes : dict of str to dict
        By module, the attributes that go with its shapes.
    report : object
        Plain data on how the model was pruned, for people to read.
    """

    version: str
    files: tuple[str, ...] = ()
    ordinary: bool = False
    tensors: dict[str, Entry] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    report: Any = None

    @property
    def weights(self) -> str:
        """Name of the file of tensors.

        Packed ones stand under a name that transformers does not know: it would find
        none of its own tensors in the file, and make up what it misses.
        """
        packed = any(entry.block is not None for entry in self.tensors.values())
        return "packed.safetensors" if packed else "model.safetensors"

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        plain = {
            "format": FORMAT,
            "version": self.version,
            "files": list(self.files),
            "ordinary": self.ordinary,
            "tensors": {name: e.to_plain() for name, e in self.tensors.items()},
            "tied": self.tied,
            "attributes": self.attributes,
            "report": self.report,
        }
        return json.dumps(plain, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe.

        Raises
        ------
        DataError
            If it is none, or says what cannot be.
        """
        plain = parse(text, NAME)
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            found = plain.get("format") if isinstance(plain, dict) else None
            refuse(f"its format must be {FORMAT!r}, got {str(found)[:40]!r}")
        names = {"format", *cls.__dataclass_fields__}
        _check_keys("it", plain, names, names)
        if not isinstance(plain["version"], str) or type(plain["ordinary"]) is not bool:
            refuse("version must be text, and ordinary true or false")
        files = plain["files"]
        if not isinstance(files, list) or not all(isinstance(f, str) for f in files):
            refuse("files must be a list of names")
        tensors = {
            name: Entry.from_plain(name, entry)
            for name, entry in _mapping("tensors", plain["tensors"]).items()
        }
        tied = _mapping("tied", plain["tied"])
        for name, other in tied.items():
            if name in tensors or not isinstance(other, str) or other not in tensors:
                refuse(f"{name!r} cannot be tied to {str(other)[:80]!r}")
        attributes = {
            module: {
                name: _attribute(module, name, value)
                for name, value in _mapping("attributes", values).items()
            }
            for module, values in _mapping("attributes", plain["attributes"]).items()
        }
        return cls(
            version=plain["version"],
            files=tuple(files),
            ordinary=plain["ordinary"],
            tensors=tensors,
            tied=tied,
            attributes=attributes,
            report=plain["report"],
        )


def read_text(path: Path, kind: str) -> str:
    """Read JSON from a folder that anybody may have put together.

    Parameters
    ----------
    path : Path
        Of the file.
    kind : str
        Of the folder, for the message: ``"that save wrote"``.

    Raises
    ------
    DataError
        If it is missing, no ordinary file, larger than any of its kind, or no UTF-8.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MOST_TEXT:
            raise OSError(f"it is no file of at most {MOST_TEXT:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{str(path.parent)!r} is no folder {kind}: {path.name} cannot be read "
            f"({error})"
        ) from error


def parse(text: str, name: str) -> Any:
    """Read JSON that anybody may have written.

    Raises
    ------
    DataError
        If it is no JSON, or has a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands there twice")
        return found

    def number(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def is_attribute(name: object, value: object) -> bool:
    """Whether a recipe may carry an attribute: a public name, positive integers."""
    values = value if isinstance(value, tuple) else (value,)
    return (
        isinstance(name, str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
        and all(type(v) is int and 0 < v <= MOST for v in values)
    )


def refuse(why: str) -> NoReturn:
    """Raise that the recipe is not to be used."""
    raise DataError(f"{NAME} is damaged or was not written by vitalfew: {why}")


def _attribute(module: str, name: str, value: Any) -> Attribute:
    value = tuple(value) if isinstance(value, list) else value
    if not is_attribute(name, value):
        refuse(
            f"attribute {name[:80]!r} of module {module!r} must have a public name and "
            "positive integers below 2^31"
        )
    known: Attribute = value
    return known


def _sizes(what: str, value: Any, least: int) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > 64:
        refuse(f"{what} must be a list of integers")
    if not all(type(v) is int and least <= v <= MOST for v in value):
        refuse(f"{what} must be integers from {least} to 2^31 - 1")
    return tuple(value)


def _mapping(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        refuse(f"{what} must map names to values")
    return value


def _check_keys(what: str, value: Any, least: set[str], most: set[str]) -> None:
    if not isinstance(value, dict) or not least <= set(value) <= most:
        refuse(f"{what} must have the keys {', '.join(sorted(least))}")
