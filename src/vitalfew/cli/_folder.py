"""The folder a result goes to: claimed before the long work, never half written."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitalfew._disk import alone, write_together
from vitalfew.records import RunRecord
from vitalfew.study._hints import data_error

NAMES = ("result.json", "report.html")
LEAST_SPACE = 5_000_000  # bytes


@contextmanager
def claimed(folder: Path, overwrite: bool) -> Iterator[None]:
    """Make sure that a result can be written, and leave no empty folder on failure.

    Parameters
    ----------
    folder : Path
        Where the result will go.
    overwrite : bool
        Whether an earlier result may be replaced.

    Yields
    ------
    None
        While the work is done.

    Raises
    ------
    DataError
        If there is a result already, or nothing can be written there.
    """
    made: list[Path] = []
    try:
        _refuse_earlier(folder, overwrite)
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _try(folder)
        space = shutil.disk_usage(folder).free
    except OSError as error:
        _remove(made)
        raise _unwritable(folder, error) from error
    try:
        if space < LEAST_SPACE:
            raise data_error(
                f"the disk of {folder} is full: {space // 1000} kB are free",
                "free some space, or use another folder with `--out`",
            )
        yield
    finally:
        _remove(made)


def _refuse_earlier(folder: Path, overwrite: bool) -> None:
    there = [name for name in NAMES if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise data_error(
            f"{folder} already holds {' and '.join(there)}",
            "use `--overwrite` to replace them, or another folder with `--out`",
        )
    for name in there:
        if (folder / name).is_dir():
            raise data_error(
                f"{folder / name} is a folder and cannot be replaced",
                "use another folder with `--out`",
            )


def _try(folder: Path) -> None:
    """Write a little, and remove it whatever becomes of it."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".trial.")
    try:
        os.write(handle, b"x" * 4096)
    finally:
        os.close(handle)
        os.unlink(name)


def _remove(made: list[Path]) -> None:
    """Remove the folders that were made, as far as they are empty."""
    for path in made:
        try:
            path.rmdir()
        except OSError:
            return


def _unwritable(folder: Path, error: OSError) -> Exception:
    return data_error(
        f"nothing can be written to {folder}: {error.strerror or error}",
        "use another folder with `--out`",
    )


def write(record: RunRecord, folder: Path, overwrite: bool) -> None:
    """Write the record and its report, both or neither.

    Parameters
    ----------
    record : RunRecord
        The result.
    folder : Path
        Where to.
    overwrite : bool
        Whether an earlier result may be replaced: one may have come meanwhile.

    Raises
    ------
    DataError
        If they cannot be written; no file is left half written.
    """
    from vitalfew.report import render

    texts = {folder / NAMES[0]: record.to_json() + "\n"}
    try:
        texts[folder / NAMES[1]] = render(record)
    finally:  # a record is not lost with its report
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with alone(folder):  # so that both files are of one run
                _refuse_earlier(folder, overwrite)
                write_together(texts)
        except OSError as error:
            raise _unwritable(folder, error) from error
