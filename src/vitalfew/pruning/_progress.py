"""Finished layers of an interrupted run, in a folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from vitalfew._disk import write_atomically
from vitalfew.exceptions import DataError
from vitalfew.neural import Batches, Layer
from vitalfew.pruning._budgets import Target


def fingerprint(
    model: nn.Module,
    targets: Sequence[Target],
    method: Any,
    allocation: Any,
    structure: Any,
    batches: Batches | None,
) -> dict[str, str]:
    """Return what must agree for a run to go on from another's layers."""
    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            _update(weights, tensor)
    data = hashlib.sha256()
    _update_all(data, batches)
    return {
        "layers": ", ".join(target.layer.name for target in targets),
        "weights": weights.hexdigest(),
        "calibration": data.hexdigest(),
        "method": repr(method),
        "allocation": repr(allocation),
        "structure": repr(structure),
    }


def _update(digest: Any, tensor: Tensor) -> None:
    host = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(host.view(torch.uint8).numpy() if host.numel() else b"")


def _update_all(digest: Any, thing: Any) -> None:
    if isinstance(thing, Tensor):
        _update(digest, thing)
    elif isinstance(thing, Mapping):
        for name, value in thing.items():
            digest.update(str(name).encode())
            _update_all(digest, value)
    elif isinstance(thing, tuple | list):
        for value in thing:
            _update_all(digest, value)
    elif isinstance(thing, str | int | float | None):
        digest.update(repr(thing).encode())


class Finished:
    """A folder with one file for each finished layer, and what they belong to.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    said : dict
        As `fingerprint` returns it.

    Raises
    ------
    ValueError
        If the folder holds the layers of another run, or other files.
    """

    def __init__(self, folder: Path, said: dict[str, str]) -> None:
        self.folder = folder
        about = folder / "run.json"
        if about.exists():
            try:
                before = json.loads(about.read_text("utf-8"))
            except (ValueError, OSError, RecursionError) as error:
                raise DataError(f"{about} cannot be read: {error}") from None
            if before != said:
                old = before if isinstance(before, dict) else {}
                other = [name for name in said if old.get(name) != said[name]]
                raise ValueError(
                    f"checkpoint {str(folder)!r} belongs to a run with another "
                    f"{', '.join(other)}; give another folder or remove it"
                )
            return
        if folder.exists() and (not folder.is_dir() or _others(folder)):
            raise ValueError(
                f"checkpoint {str(folder)!r} must be a new or empty folder, or that of "
                "the run to go on with"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(about, json.dumps(said))

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.layer"

    def load(self, layer: Layer, count: int) -> Tensor | None:
        """Return the matrix of a finished layer of so many atoms, or None.

        Raises
        ------
        DataError
            If its file is damaged.
        ValueError
            If it was finished with another number.
        """
        name = layer.name
        file = self._file(name)
        if not file.exists():
            return None
        try:
            stored = load_bytes(file.read_bytes())
            matrix, before = stored["matrix"], int(stored["count"])
            if tuple(matrix.shape) != layer.shape or not matrix.is_floating_point():
                raise ValueError(f"{matrix.dtype} of shape {tuple(matrix.shape)}")
        except (SafetensorError, KeyError, OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{file} cannot be read ({error}); remove it to prune {name!r} again"
            ) from None
        if before != count:
            raise ValueError(
                f"checkpoint {str(self.folder)!r} belongs to a run with another budget "
                f"of layer {name!r}; give another folder or remove it"
            )
        return matrix

    def save(self, name: str, count: int, matrix: Tensor) -> None:
        """Write the matrix of a finished layer, and how many atoms it was to keep."""
        host = matrix.detach().cpu().contiguous()
        data = save_bytes({"matrix": host, "count": torch.tensor(count)})
        write_atomically(self._file(name), data)

    def remove(self) -> None:
        """Remove the folder and what this class wrote in it."""
        unfinished = self.folder.glob(".*.tmp")  # of a process that was killed
        for file in (
            *unfinished,
            *self.folder.glob("*.layer"),
            self.folder / "run.json",
        ):
            file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _others(folder: Path) -> list[str]:
    """Names in a folder, less those of files that a killed process was writing."""
    return [path.name for path in folder.iterdir() if path.suffix != ".tmp"]
