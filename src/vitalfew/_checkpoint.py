"""Storing a run so that it can be taken up again.

A state is a record of arrays, numbers, strings, fits and tuples of these. It is written
as one ``.npz`` without pickle: the arrays, and a JSON tree that says where they belong.
Which class a record has is never read from the file.
"""

import hashlib
import io
import json
import math
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitalfew._arrays import as_array, is_array_api_obj, to_host, zeros
from vitalfew._disk import write_atomically
from vitalfew.contracts import Fit
from vitalfew.supports import Whole

HASHED = (
    "y",
    "weight",
    "event",
    "labels",
    "costs",
    "weights",
    "lambdas",
    "lower",
    "upper",
    "B",
    "H",
)


def fingerprint(objective: Any, structure: Any, solvers: Any) -> str:
    """Return a hash of what is solved: classes, settings, shapes, targets, weights."""
    digest = hashlib.sha256()
    owners = [objective, structure]
    if hasattr(structure, "structure"):
        owners.append(structure.structure)  # of one that wraps another
    owners.extend(getattr(structure, "parts", ()))  # of one that is several
    for part in (*owners, *solvers):
        digest.update(type(part).__name__.encode())
    digest.update(repr(tuple(solvers)).encode())
    for owner in owners:
        for name in sorted(vars(owner)):
            value = vars(owner)[name]
            if name.startswith("_") or callable(value):
                continue
            if is_array_api_obj(value) and name in HASHED:
                digest.update(np.ascontiguousarray(to_host(value)).tobytes())
            elif isinstance(value, (int, float, str, tuple)):
                digest.update(f"{name}={value!r}".encode())
    return digest.hexdigest()


def save(path: Path, mark: str, state: Any, extra: dict[str, Any]) -> None:
    """Write a state to a temporary name and rename it."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tree = {"fingerprint": mark, "extra": extra, "state": _pack(state, arrays)}
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, tree=text, **arrays)  # type: ignore[arg-type]
    write_atomically(path, file.getvalue())


def load(path: Path, mark: str) -> tuple[dict[str, Any], Any]:
    """Read what `save` wrote: the extra values, and a function that rebuilds a state.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or one of another problem.
    """
    try:
        # opened here, because np.load forgets to close what it cannot read
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            # written without compression, so what is larger than the file is a trap
            size = sum(member.file_size for member in file.zip.infolist())
            if size > os.fstat(raw.fileno()).st_size:
                raise ValueError("compressed")
            arrays = {name: file[name] for name in file.files}
        tree = json.loads(arrays.pop("tree").tobytes().decode())
        stored, extra, state = tree["fingerprint"], tree["extra"], tree["state"]
    except Exception as e:  # zip, zlib and JSON each fail in their own ways
        raise ValueError(
            f"checkpoint {str(path)!r} cannot be read ({type(e).__name__}); "
            "remove it to start afresh"
        ) from e
    if stored != mark:
        raise ValueError(
            f"checkpoint {str(path)!r} belongs to another problem, structure or "
            "solver; give another path, or remove it to start afresh"
        )

    damaged = ValueError(
        f"checkpoint {str(path)!r} is damaged; remove it to start afresh"
    )

    def rebuild(template: Any, objective: Any, structure: Any) -> Any:
        try:
            with np.errstate(all="ignore"):
                return _unpack(state, template, arrays, objective, structure)
        except (ArithmeticError, RecursionError) as e:
            raise damaged from e

    try:
        _check_extra(extra)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as e:
        raise damaged from e
    return extra, rebuild


def _check_extra(extra: Any) -> None:
    """Raise unless the counts are counts and the generator's state is one."""
    for name in ("stage", "stage_began", "n_iter"):
        if type(extra[name]) is not int or not 0 <= extra[name] < 2**63:
            raise ValueError(name)
    for value in extra["history"]:
        float.fromhex(value)
    stored = json.loads(extra["rng"])
    kind = getattr(np.random, stored["bit_generator"], None)
    if not isinstance(kind, type) or not issubclass(kind, np.random.BitGenerator):
        raise ValueError("bit_generator")
    # positions in buffers, which NumPy reads at without a look
    inner = {**stored, **stored["state"]}
    for name, most in (("pos", 624), ("buffer_pos", 4)):
        if not 0 <= inner.get(name, 0) <= most:
            raise ValueError(name)
    kind(0).state = stored


def _pack(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    def stored(array: Any) -> str:
        name = f"a{len(arrays)}"
        arrays[name] = to_host(array)
        return name

    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return {"float": float(value).hex()}
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, tuple):
        return {"tuple": [_pack(v, arrays) for v in value]}
    if is_array_api_obj(value):
        return {"array": stored(value)}
    if hasattr(value, "support") and hasattr(value, "z"):
        return {"fit": [stored(value.support.atoms), stored(value.z)]}
    if is_dataclass(value):
        return {
            "record": {
                f.name: _pack(getattr(value, f.name), arrays) for f in fields(value)
            }
        }
    raise TypeError(f"a solver's state cannot hold a {type(value).__name__}")


def _unpack(tree: Any, like: Any, arrays: Any, objective: Any, structure: Any) -> Any:
    """Rebuild a value; `like` is one of the same kind, or None where it may be any.

    Solvers trust their states, so whatever is not of that kind is refused here.
    """

    def again(tree: Any, like: Any) -> Any:
        return _unpack(tree, like, arrays, objective, structure)

    if not isinstance(tree, dict):
        if isinstance(tree, float) and not math.isfinite(tree):
            raise ValueError(str(tree))
        if like is not None and _kind(tree) != _kind(like):
            raise TypeError(f"expected {type(like).__name__}")
        return tree
    ((kind, held),) = tree.items()
    known_kind = None if like is None else _kind(like)
    if known_kind not in (None, "number" if kind == "float" else kind):
        raise KeyError(kind)
    if kind == "float":
        value = float.fromhex(held)
        if not math.isfinite(value) and (like is None or math.isfinite(like)):
            raise ValueError(held)
        return value
    if kind == "tuple":
        known = like if like is not None and len(like) == len(held) else None
        return tuple(map(again, held, known or [None] * len(held)))
    if kind == "array":
        return _array(arrays[held], like, objective)
    if kind == "fit":
        return _fit(arrays[held[0]], arrays[held[1]], objective, structure)
    if kind != "record" or set(held) != {f.name for f in fields(like)}:
        raise KeyError(kind)
    values = {}
    for f in fields(like):
        may_be_none = held[f.name] is None and "None" in str(f.type)
        known = None if may_be_none else getattr(like, f.name)
        values[f.name] = again(held[f.name], known)
    return type(like)(**values)


def _kind(value: Any) -> str:
    """Which of the kinds that `_pack` tells apart a value is; all numbers are one."""
    packed = _pack(value, {})
    if isinstance(packed, dict) and "float" not in packed:
        return str(next(iter(packed)))
    if packed is None or isinstance(packed, (bool, str)):
        return type(packed).__name__
    return "number"


def _array(held: Any, like: Any, objective: Any) -> Any:
    """Return numbers as an array; one over all coefficients stays one.

    Integers number atoms and rows, and stay on the host.
    """
    shape = tuple(objective.shape)
    if held.dtype.kind in "iu":
        if like is not None and getattr(like.dtype, "kind", "f") not in "iu":
            raise KeyError("array")
        return held.astype(np.int64)
    if held.dtype.kind not in "fb":
        raise KeyError("array")
    if like is not None and tuple(like.shape) == shape != held.shape:
        raise KeyError("array")
    return as_array(held, objective.like)


def _fit(atoms: Any, z: Any, objective: Any, structure: Any) -> Fit:
    support: Any = Whole(tuple(objective.shape))  # where penalised runs live
    if hasattr(structure, "support"):
        inside = np.isin(atoms, np.arange(structure.n_atoms))
        if atoms.ndim != 1 or len(np.unique(atoms)) != len(atoms) or not inside.all():
            raise KeyError("atoms")
        support = structure.support(atoms)
    if z.dtype.kind != "f" or not np.isfinite(z).all():
        raise KeyError("z")
    z = as_array(z, objective.like)
    if z.shape != support.restrict(zeros(objective.shape, z)).shape:
        raise KeyError("z")
    fit: Fit = objective.at(support, z)
    if not math.isfinite(fit.value):
        raise KeyError("z")
    return fit
