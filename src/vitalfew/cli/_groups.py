"""Reading which columns belong together."""

import csv
import io
import json
from pathlib import Path

from vitalfew.cli._text import as_utf8
from vitalfew.exceptions import DataError
from vitalfew.study._hints import data_error

SHAPE = "it must be CSV with the columns `column` and `group`, or JSON {column: group}"


def read_groups(path: Path) -> dict[str, str]:
    """Read the group of each column.

    Parameters
    ----------
    path : Path
        CSV with the columns ``column`` and ``group``, or a JSON object of both.

    Returns
    -------
    dict of str to str
        Group of each column named.

    Raises
    ------
    DataError
        If the file cannot be read so.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise data_error(
            f"--groups {path} cannot be read: {error.strerror}", "check the path"
        ) from error
    try:
        text = as_utf8(raw, path, "utf-8").decode()
    except DataError as error:
        raise data_error(f"--groups {error}", "save it as UTF-8 text") from error
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    return _from_csv(text, path)


def _from_json(text: str, path: Path) -> dict[str, str]:
    try:
        # in pairs, so that a column named twice is seen
        given = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise data_error(f"--groups {path} is no JSON: {error}", SHAPE) from error
    if not isinstance(given, tuple) or not all(
        isinstance(group, (str, int)) and not isinstance(group, bool)
        for _, group in given
    ):
        raise data_error(f"--groups {path} is no object of columns", SHAPE)
    return _gathered([(column, str(group)) for column, group in given], path)


def _from_csv(text: str, path: Path) -> dict[str, str]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise data_error(f"--groups {path} is no CSV: {error}", SHAPE) from error
    if not rows or [cell.strip() for cell in rows[0]] != ["column", "group"]:
        raise data_error(f"--groups {path}: the first line is another", SHAPE)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise data_error(f"--groups {path}, line {number}: {len(row)} cells", SHAPE)
    return _gathered([(row[0].strip(), row[1].strip()) for row in rows[1:]], path)


def _gathered(pairs: list[tuple[str, str]], path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for column, group in pairs:
        if not group:
            raise data_error(f"--groups {path}: {column!r} has no group", "name one")
        if column in groups:
            raise data_error(f"--groups {path} names {column!r} twice", "name it once")
        groups[column] = group
    return groups
