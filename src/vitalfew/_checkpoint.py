"""Storing a run so that it can be taken up again.

A state is a record of arrays, numbers, strings, fits and tuples of these. It is written
as one ``.npz`` without pickle: the arrays, and a JSON tree that says where they belong.
Which class a record has is never read from the file.
"""

import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitalfew._arrays import as_array, is_array_api_obj, to_host
from vitalfew.contracts import Fit


def fingerprint(objective: Any, structure: Any, solvers: Any) -> str:
    """Return a hash of what is solved: classes, settings, shapes and targets."""
    digest = hashlib.sha256()
    for part in (objective, structure, *solvers):
        digest.update(type(part).__name__.encode())
    digest.update(repr(tuple(solvers)).encode())
    for owner in (objective, structure):
        for name in sorted(vars(owner)):
            value = vars(owner)[name]
            if name.startswith("_") or callable(value):
                continue
            if is_array_api_obj(value) and name in ("y", "labels", "B", "costs", "event"):
                digest.update(np.ascontiguousarray(to_host(value)).tobytes())
            elif isinstance(value, (int, float, str, tuple)):
                digest.update(f"{name}={value!r}".encode())
    return digest.hexdigest()


def save(path: Path, mark: str, state: Any, extra: dict[str, Any]) -> None:
    """Write a state to a temporary name and rename it."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tree = {"fingerprint": mark, "extra": extra, "state": _pack(state, arrays)}
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, tree=text, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path, mark: str) -> tuple[dict[str, Any], Any]:
    """Read what `save` wrote: the extra values, and a function that rebuilds a state.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or one of another problem.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        tree = json.loads(arrays.pop("tree").tobytes().decode())
        stored, extra, state = tree["fingerprint"], tree["extra"], tree["state"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        raise ValueError(
            f"checkpoint {str(path)!r} cannot be read ({type(e).__name__}); "
            "remove it to start afresh"
        ) from e
    if stored != mark:
        raise ValueError(
            f"checkpoint {str(path)!r} belongs to another problem, structure or solver; "
            "give another path, or remove it to start afresh"
        )

    def rebuild(template: Any, objective: Any, structure: Any) -> Any:
        try:
            return _unpack(state, template, arrays, objective, structure)
        except (KeyError, TypeError, IndexError) as e:
            raise ValueError(f"checkpoint {str(path)!r} is damaged; remove it") from e

    return extra, rebuild


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
            "record": {f.name: _pack(getattr(value, f.name), arrays) for f in fields(value)}
        }
    raise TypeError(f"a solver's state cannot hold a {type(value).__name__}")


def _unpack(tree: Any, like: Any, arrays: Any, objective: Any, structure: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "float":
        return float.fromhex(held)
    if kind == "tuple":
        return tuple(
            _unpack(v, None, arrays, objective, structure) for v in held
        )
    if kind == "array":
        return as_array(arrays[held], objective.like)
    if kind == "fit":
        return _fit(arrays[held[0]], arrays[held[1]], objective, structure)
    values = {
        name: _unpack(v, getattr(like, name), arrays, objective, structure)
        for name, v in held.items()
    }
    return type(like)(**values)


def _fit(atoms: Any, z: Any, objective: Any, structure: Any) -> Fit:
    if len(atoms) and not 0 <= atoms.min() <= atoms.max() < structure.n_atoms:
        raise KeyError("atoms")
    support = structure.support(atoms)
    if len(z) != len(support.ids):
        raise KeyError("z")
    fit: Fit = objective.at(support, as_array(z, objective.like))
    return fit
