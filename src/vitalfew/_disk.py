"""Files that are there as a whole or not at all."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it.

    Parameters
    ----------
    path : Path
        Where it goes; the folder must exist.
    content : str or bytes
        What it holds; text as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind, and what stood there stays.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Write files under temporary names, and rename them once all are whole.

    Parameters
    ----------
    contents : mapping of Path to str or bytes
        Where each goes, and what it holds, text as UTF-8; the folders must exist.

    Raises
    ------
    OSError
        If one cannot be written; nothing is left behind, and what stood there stays.
    """
    waiting: list[tuple[Path, Path]] = []
    try:
        for path, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            name = beside(path)
            with open(name, "xb") as file:
                waiting.append((name, path))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        while waiting:
            os.replace(*waiting[0])
            del waiting[0]
    finally:
        for name, _ in waiting:
            name.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Return a temporary name in the same folder, which nobody else has.

    Parameters
    ----------
    path : Path
        What will take its place.

    Returns
    -------
    Path
        Hidden, with the ending ``.tmp``.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make other processes that ask for the same folder wait.

    Parameters
    ----------
    folder : Path
        It must exist.

    Yields
    ------
    None
        While no other has it; without effect where there are no such locks.
    """
    handle = None
    with suppress(ImportError, OSError):  # not on Windows, nor on every network
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
