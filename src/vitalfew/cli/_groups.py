"""Reading which columns belong together."""

import csv
import io
import json
from pathlib import Path

from vitalfew.cli._text import as_utf8
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
    text = as_utf8(raw, path, "utf-8").decode()
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    return _from_csv(text, path)


def _from_json(text: str, path: Path) -> dict[str, str]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise data_error(f"--groups {path} is no JSON: {error}", SHAPE) from error
    if not isinstance(given, dict) or not all(
        isinstance(group, (str, int)) for group in given.values()
    ):
        raise data_error(f"--groups {path} is no object of columns", SHAPE)
    return {str(column): str(group) for column, group in given.items()}


def _from_csv(text: str, path: Path) -> dict[str, str]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows or [cell.strip() for cell in rows[0]] != ["column", "group"]:
        raise data_error(f"--groups {path}: the first line is another", SHAPE)
    groups: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise data_error(f"--groups {path}, line {number}: {len(row)} cells", SHAPE)
        column, group = (cell.strip() for cell in row)
        if column in groups:
            raise data_error(f"--groups {path} names {column!r} twice", "name it once")
        groups[column] = group
    return groups
