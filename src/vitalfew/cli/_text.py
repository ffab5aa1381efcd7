"""What a text file is: its encoding, delimiter and header, and its faults."""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vitalfew.exceptions import DataError
from vitalfew.study._hints import data_error

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MARKS = {  # the longer ones first: one of UTF-32 begins like one of UTF-16
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
MOST_LINES, MOST_BYTES = 50, 1 << 20  # from which the delimiter is seen
COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
POINT_NUMBER = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Layout:
    """How the cells of a text file are arranged.

    Attributes
    ----------
    delimiter : str
        Between cells.
    decimal : str
        In numbers.
    names : list of str
        Of the columns.
    skip : int
        Lines before the first row.
    """

    delimiter: str
    decimal: str
    names: list[str]
    skip: int


def as_utf8(raw: bytes, path: Path, encoding: str) -> bytes:
    """Return text as UTF-8 without a byte order mark.

    Parameters
    ----------
    raw : bytes
        The file.
    path : Path
        For messages.
    encoding : str
        What the user says.

    Returns
    -------
    bytes
        The text.

    Raises
    ------
    DataError
        If the bytes are not text in that encoding.
    """
    if raw[:2] == b"PK":
        raise data_error(
            f"{path} is a zip archive or a spreadsheet, not text", "save it as CSV"
        )
    if encoding == "utf-8":
        for name, marks in MARKS.items():
            if raw.startswith(marks):
                raise data_error(
                    f"{path} is {name.upper()} text", f"use `--encoding {name}`"
                )
    try:
        text = raw.decode(encoding)
        text.encode("utf-8")  # half characters, which some encodings can spell
    except LookupError as error:
        raise data_error(
            f"--encoding {encoding}: there is no such encoding",
            "common ones are utf-8, latin-1, cp1252 and utf-16",
        ) from error
    except UnicodeDecodeError as error:
        if b"\x00" in raw:
            raise _binary(path) from error
        line = raw.count(b"\n", 0, error.start) + 1
        raise data_error(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is no {encoding} text",
            "use `--encoding latin-1`, or the encoding it was written in",
        ) from error
    except UnicodeError as error:
        raise data_error(
            f"{path} is no {encoding} text: {error}",
            "leave `--encoding` out, or give the encoding it was written in",
        ) from error
    if "\x00" in text[:10_000]:
        raise _binary(path)
    text = text.removeprefix("\ufeff")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # the line ends of old Macs
    return text.encode("utf-8")


def _binary(path: Path) -> DataError:
    return data_error(
        f"{path} is a binary file, not text in this encoding",
        "give a CSV or Parquet file, or its encoding, as in `--encoding utf-16-le`",
    )


def layout_of(text: bytes, path: Path) -> Layout:
    """See how the cells of a text are arranged.

    Parameters
    ----------
    text : bytes
        UTF-8.
    path : Path
        For messages.

    Returns
    -------
    Layout
        Delimiter, decimal point and names.

    Raises
    ------
    DataError
        If it is empty, has one column only, or no names.
    """
    if not text or text.isspace():
        raise data_error(f"{path} is empty", "check that it was written completely")
    longest = max(len(line) for line in text[: 1 << 26].split(b"\n", 2)[:2])
    count = max(2, min(MOST_LINES, MOST_BYTES // max(longest, 1)))
    delimiter = max(DELIMITERS, key=lambda d: _agreement(text, d, count))
    rows = list(islice(_rows(text, delimiter), count))
    cells, skip = rows[0]
    if len(cells) == 1:
        raise data_error(
            f"{path} has one column only, {cells[0][:40]!r}: there is no comma, "
            f"semicolon, tab or bar between cells",
            "write it with commas between the cells",
        )
    names = [name.strip() for name in cells]
    names = [name or f"column {i + 1}" for i, name in enumerate(names)]
    if all(not math.isnan(number(name)) for name in names):
        raise data_error(
            f"the first line of {path} holds numbers, not the names of the columns",
            "put a line of names before it",
        )
    body = [cell.strip() for row, _ in rows[1:] for cell in row]
    commas = sum(COMMA_NUMBER.fullmatch(cell) is not None for cell in body)
    points = sum(POINT_NUMBER.fullmatch(cell) is not None for cell in body)
    decimal = "," if delimiter != "," and commas > points else "."
    return Layout(delimiter, decimal, names, skip)


def _agreement(text: bytes, delimiter: str, count: int) -> tuple[bool, float, int]:
    """How well a delimiter explains the first lines: agreement, then columns."""
    try:
        widths = [len(row) for row, _ in islice(_rows(text, delimiter), count)]
    except csv.Error:
        return False, 0.0, 0
    same = sum(width == widths[0] for width in widths) / len(widths)
    return widths[0] > 1, same if widths[0] > 1 else 0.0, widths[0]


def _rows(text: bytes, delimiter: str) -> Iterator[tuple[list[str], int]]:
    """Cells of each line that is not empty, and the number of its last line."""
    csv.field_size_limit(1 << 30)
    stream = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8", newline="")
    reader = csv.reader(stream, delimiter=delimiter)
    for cells in reader:
        if cells:
            yield cells, reader.line_num


def diagnosis(text: bytes, layout: Layout, path: Path, error: Exception) -> DataError:
    """Say what is wrong with a text that could not be read.

    Parameters
    ----------
    text : bytes
        UTF-8.
    layout : Layout
        How it was read.
    path : Path
        For messages.
    error : Exception
        What reading said.

    Returns
    -------
    DataError
        To raise.
    """
    width, between = len(layout.names), DELIMITERS[layout.delimiter]
    n_lines = 0
    try:
        for cells, line in _rows(text, layout.delimiter):
            n_lines += 1
            if len(cells) != width:
                return data_error(
                    f"{path}, line {line}: {len(cells)} cells, but there are {width} "
                    f"columns (cells are separated by a {between})",
                    "complete that line, or put quotes around cells that hold a "
                    f"{between}",
                )
    except csv.Error as other:
        error = other
    if n_lines == 1:
        return no_rows(path)
    first = str(error).splitlines()[0]
    return data_error(f"{path} cannot be read: {first}", "check that it is a CSV file")


def no_rows(path: Path) -> DataError:
    """Return the error for a table that is only a header.

    Parameters
    ----------
    path : Path
        Of the table.

    Returns
    -------
    DataError
        To raise.
    """
    return data_error(
        f"{path} has column names but no rows", "check that it is the right file"
    )


def number(text: str) -> float:
    """Return the number a text stands for, or NaN.

    Parameters
    ----------
    text : str
        A cell.

    Returns
    -------
    float
        Finite or infinite; NaN for anything else.
    """
    if "_" in text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan
