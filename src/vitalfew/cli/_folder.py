"""The folder a result goes to: claimed before the long work, never half written."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitalfew.records import RunRecord, write_atomically
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
    there = [name for name in NAMES if (folder / name).exists()]
    if there and not overwrite:
        raise data_error(
            f"{folder} already holds {' and '.join(there)}",
            "use `--overwrite` to replace them, or another folder with `--out`",
        )
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".trial.") as trial:
            trial.write(b"x" * 4096)
            trial.flush()
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


def write(record: RunRecord, folder: Path) -> None:
    """Write the record and its report.

    Parameters
    ----------
    record : RunRecord
        The result.
    folder : Path
        Where to.

    Raises
    ------
    DataError
        If they cannot be written; no file is left half written.
    """
    from vitalfew.report import write_report

    try:
        write_atomically(folder / NAMES[0], record.to_json() + "\n")
        write_report(record, folder / NAMES[1])
    except OSError as error:
        raise _unwritable(folder, error) from error
