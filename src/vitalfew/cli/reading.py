"""Reading tables: CSV and its kin, gzipped or not, and Parquet."""

import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from vitalfew.cli import _text
from vitalfew.exceptions import DataError
from vitalfew.study._columns import Coded, Columns
from vitalfew.study._hints import data_error, dropping, no_column

MISSING = [
    "",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "NAN",
    "null",
    "NULL",
    "None",
    "?",
    ".",
]
MISSING += ["#N/A", "<NA>"]
ENDINGS = {".csv", ".tsv", ".txt", ".gz", ".parquet"}
MOSTLY = 0.9  # share of numbers from which a column of text must be a mistake
MOST_BLOCK = 2**31 - 2


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read.

    Attributes
    ----------
    source : str
        The path as it was given.
    sha256 : str
        Of the file.
    columns : Columns
        The columns that can be used.
    kinds : dict of str to str
        Of all columns, in order: numeric, category, date or other.
    notes : list of str
        What was done to the columns on the way.
    """

    source: str
    sha256: str
    columns: Columns
    kinds: dict[str, str]
    notes: list[str] = field(default_factory=list)


def read_table(
    path: str | Path, *, encoding: str = "utf-8", drop: Collection[str] = ()
) -> Table:
    """Read a table.

    Parameters
    ----------
    path : path
        CSV with any of ``, ; tab |`` between its cells, gzipped or not, or Parquet; its
        first bytes tell which.
    encoding : str, default="utf-8"
        Of the text.
    drop : collection of str
        Columns to leave out, whatever is in them.

    Returns
    -------
    Table
        Its columns.

    Raises
    ------
    DataError
        If the file cannot be read as a table; the message names the line or column.
    """
    path = Path(path)
    raw = _bytes_of(path)
    digest = hashlib.sha256(raw).hexdigest()
    if raw[:4] == b"PAR1":
        arrow = _read_parquet(raw, path)
    else:
        arrow = _read_text(_unpacked(raw, path), path, encoding)
    names = arrow.column_names
    if len(set(names)) < len(names):
        raise _same_names(names, path)
    for name in drop:
        if name not in names:
            raise no_column(name, names, "--drop")
    if arrow.num_rows == 0:
        raise _text.no_rows(path)
    return _typed(arrow, set(drop), str(path), digest)


# -- bytes to an Arrow table -----------------------------------------------------------


def _bytes_of(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise data_error(
                f"{path} is a folder", "give the path of a CSV or Parquet file"
            )
        raw = path.read_bytes()
    except FileNotFoundError as error:
        beside = path.parent.iterdir() if path.parent.is_dir() else []
        near = sorted(p.name for p in beside if p.suffix in ENDINGS)
        hint = f"that folder holds {', '.join(near[:5])}" if near else "check the path"
        raise data_error(f"{path} does not exist", hint) from error
    except OSError as error:
        raise data_error(
            f"{path} cannot be read: {error.strerror}",
            "check the path and its permissions",
        ) from error
    if not raw.strip():
        raise data_error(f"{path} is empty", "check that it was written completely")
    return raw


def _unpacked(raw: bytes, path: Path) -> bytes:
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise data_error(
            f"{path} is a damaged gzip file: {error}", "copy or download it again"
        ) from error


def _read_parquet(raw: bytes, path: Path) -> Any:
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(raw))
        names = file.schema_arrow.names
        if len(set(names)) == len(names):
            return file.read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise data_error(
            f"{path} is a damaged Parquet file: {str(error).splitlines()[0]}",
            "write or copy it again",
        ) from error
    raise _same_names(names, path)


def _read_text(raw: bytes, path: Path, encoding: str) -> Any:
    text = _text.as_utf8(raw, path, encoding)
    layout = _text.layout_of(text, path)
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(
                # one block: a column's type is seen from all of its cells
                block_size=min(max(len(text) + 1, 1 << 20), MOST_BLOCK),
                column_names=layout.names,
                skip_rows_after_names=0,
                skip_rows=layout.skip,
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=layout.delimiter, newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=MISSING,
                strings_can_be_null=True,
                decimal_point=layout.decimal,
            ),
        )
    except pa.ArrowException as error:
        raise _text.diagnosis(text, layout, path, error) from error


def _same_names(names: list[str], path: Path) -> DataError:
    twice = next(name for name, count in Counter(names).items() if count > 1)
    where = [i + 1 for i, name in enumerate(names) if name == twice]
    return data_error(
        f"{path} has {len(where)} columns called {twice!r} (columns "
        f"{', '.join(map(str, where))})",
        "give every column its own name",
    )


# -- Arrow columns to numbers and categories -------------------------------------------


def _typed(arrow: Any, drop: set[str], source: str, digest: str) -> Table:
    """Turn every column into numbers or categories."""
    kinds: dict[str, str] = {}
    numeric: dict[str, Any] = {}
    coded: dict[str, Coded] = {}
    dates: list[str] = []
    others: list[str] = []
    for name, column in zip(arrow.column_names, arrow.columns, strict=True):
        if name in drop:
            continue
        try:
            kind, values = _convert(name, column)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise data_error(
                f"column {name!r} cannot be read: {str(error).splitlines()[0]}",
                f"correct it, or use {dropping([name])}",
            ) from error
        kinds[name] = kind
        if kind == "category":
            coded[name] = values
        elif kind == "other":
            others.append(f"{name} ({column.type})")
        else:
            numeric[name] = values
            if kind == "date":
                dates.append(name)
    numbers = np.empty((arrow.num_rows, len(numeric)))
    for j, values in enumerate(numeric.values()):
        numbers[:, j] = values
    usable = tuple(name for name, kind in kinds.items() if kind != "other")
    columns = Columns(usable, arrow.num_rows, tuple(numeric), numbers, coded)
    notes = []
    if dates:
        notes.append(f"dates and times used as days or seconds: {', '.join(dates)}")
    if others:
        notes.append(
            f"columns that hold no numbers or text dropped: {', '.join(others)}"
        )
    return Table(source, digest, columns, kinds, notes)


def _convert(name: str, column: Any) -> tuple[str, Any]:
    """Return the kind and the values of one column."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        found, values = _convert(name, column.cast(kind.value_type))
        if found == "category" and kind.ordered:
            values = _in_order(values, column)
        return found, values
    if str(kind) == "string_view":  # older versions do not know it
        column = column.cast(pa.large_string())
        kind = column.type
    if pa.types.is_null(kind):
        return "numeric", np.full(len(column), np.nan)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numeric", _floats(column)
    if pa.types.is_decimal(kind):
        return "numeric", _floats(column.cast(pa.float64()))
    if pa.types.is_boolean(kind):
        texts = pc.if_else(column, "true", "false")
        return "category", _coded(texts)
    if pa.types.is_temporal(kind):
        return _from_times(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _from_text(name, column)
    return "other", None


def _floats(column: Any) -> Any:
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _from_times(column: Any) -> tuple[str, Any]:
    kind = column.type
    try:
        if pa.types.is_time(kind):
            seconds = column.cast(pa.time64("us")).cast(pa.int64())
            return "date", _floats(seconds) / 1e6
        if pa.types.is_duration(kind):
            seconds = column.cast(pa.duration("us")).cast(pa.int64())
            return "date", _floats(seconds) / 1e6
        micro = column.cast(pa.timestamp("us", getattr(kind, "tz", None)))
        return "date", _floats(micro.cast(pa.int64())) / 86_400e6
    except pa.ArrowException:
        return "other", None


def _from_text(name: str, column: Any) -> tuple[str, Any]:
    """Trim, find what is missing, and see whether numbers are left."""
    column = pc.utf8_trim_whitespace(column)
    gone = pc.is_in(column, value_set=pa.array(MISSING, column.type))
    column = pc.if_else(gone, pa.scalar(None, column.type), column)
    levels = _coded(column)
    if not levels.levels:
        return "numeric", np.full(len(column), np.nan)
    as_numbers = np.array([_text.number(level) for level in levels.levels])
    strange = np.isnan(as_numbers)
    if not strange.any():
        return "numeric", np.append(as_numbers, np.nan)[levels.codes]
    counts = np.bincount(levels.codes[levels.codes >= 0], minlength=len(strange))
    share = counts[~strange].sum() / counts.sum()
    if share >= MOSTLY:
        first = int(np.flatnonzero(np.isin(levels.codes, np.flatnonzero(strange)))[0])
        odd = levels.levels[levels.codes[first]]
        raise data_error(
            f"column {name!r} mixes numbers with text: {int(counts[strange].sum())} of "
            f"its {int(counts.sum())} cells are no numbers, the first {odd!r} in row "
            f"{first + 1}",
            f"correct these cells or leave them empty, or use {dropping([name])}",
        )
    return "category", levels


def _in_order(coded: Coded, column: Any) -> Coded:
    """Give levels the order that the dictionary of their column has."""
    given = column.unify_dictionaries().chunk(0).dictionary.to_pylist()
    place: dict[str, int] = {}
    for value in given:
        place.setdefault(str(value).strip(), len(place))
    known = [place.get(level, len(place)) for level in coded.levels]
    order = sorted(range(len(known)), key=known.__getitem__)
    rank = np.append(np.argsort(order), -1).astype(np.int32)
    return Coded(rank[coded.codes], tuple(coded.levels[i] for i in order), True)


def _coded(column: Any) -> Coded:
    """Number the levels of a column of text in ascending order."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(whole, pa.ChunkedArray):  # older versions keep the chunks
        whole = pa.concat_arrays(whole.chunks)
    encoded = whole.dictionary_encode()
    levels = encoded.dictionary.to_pylist()
    order = sorted(range(len(levels)), key=lambda i: levels[i])
    rank = np.full(len(levels) + 1, -1, np.int32)
    rank[order] = np.arange(len(levels), dtype=np.int32)
    codes = encoded.indices.fill_null(len(levels)).to_numpy(zero_copy_only=False)
    return Coded(rank[codes], tuple(levels[i] for i in order))
