"""A folder of files that is there as a whole or not at all."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitalfew._disk import alone, beside
from vitalfew.exceptions import DataError
from vitalfew.pruning._recipe import NAME, Recipe, read_text


@contextmanager
def whole(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Write into a new folder beside, and put it in place once it is complete.

    Parameters
    ----------
    folder : Path
        Where the files go: new, empty, or what an earlier call wrote.
    overwrite : bool
        Whether what an earlier call wrote may be replaced. What else stands in the
        folder is kept.

    Yields
    ------
    Path
        The folder to write into.

    Raises
    ------
    ValueError
        If the folder holds something that may not be replaced.
    OSError
        If it cannot be written; nothing is left behind, and what stood there stays.
    """
    folder = Path(os.path.realpath(folder))
    _written_before(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = beside(folder)
    new.mkdir()
    try:
        yield new
        files = [path for path in new.rglob("*") if path.is_file()]
        for path in files:  # safetensors gives its own to nobody else
            path.chmod(_mode(new))
        for path in (*files, new):
            _flush(path)
        with alone(folder.parent):
            _put(new, folder, overwrite)
        with suppress(OSError):  # it is in place, whoever may read the one above
            _flush(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _put(new: Path, folder: Path, overwrite: bool) -> None:
    written = _written_before(folder, overwrite)
    if folder.exists():
        shutil.copymode(folder, new)  # one that is private stays so
    if written is None:
        if os.name == "nt" and folder.exists():
            folder.rmdir()  # elsewhere the new one takes the place of an empty one
        os.rename(new, folder)
        return
    old = beside(folder)
    try:
        os.rename(folder, old)
        os.rename(new, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    for path in old.iterdir():
        if path.name not in written and not (folder / path.name).exists():
            os.rename(path, folder / path.name)
    shutil.rmtree(old, ignore_errors=True)


def _written_before(folder: Path, overwrite: bool) -> set[str] | None:
    """Return the names an earlier call wrote, None if there is nothing at all."""
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        raise ValueError(f"folder must be a folder, but {str(folder)!r} is a file")
    if not any(folder.iterdir()):
        return None
    if not overwrite:
        raise ValueError(
            f"folder must be new or empty, but {str(folder)!r} holds files; give "
            "another, or overwrite=True to replace a model that was saved there"
        )
    try:
        recipe = Recipe.from_json(read_text(folder / NAME, "that save wrote"))
    except DataError as error:
        raise ValueError(
            f"overwrite replaces only what save wrote, and {str(folder)!r} has no "
            f"{NAME} that says so; give another folder"
        ) from error
    return {NAME, *recipe.files}


def _mode(folder: Path) -> int:
    """What the umask of the user lets others do with a file in a new folder."""
    return stat.S_IMODE(folder.stat().st_mode) & 0o666


def _flush(path: Path) -> None:
    """Wait until what was written is on the disk; folders only where that is known."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
