"""Reading tables as people have them, and saying what is wrong with those that fail."""

import gzip
import time
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from vitalfew.cli.reading import read_table  # noqa: E402
from vitalfew.exceptions import DataError  # noqa: E402
from vitalfew.study._columns import Coded  # noqa: E402


@pytest.fixture
def put(tmp_path):
    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def values(table, name):
    """A column as a list: numbers, or text, None where missing."""
    column = table.columns.column(name)
    if isinstance(column, Coded):
        return [None if c < 0 else column.levels[c] for c in column.codes]
    return [None if np.isnan(v) else float(v) for v in column]


def refused(path, **options):
    """Message and hint of the error that reading gives."""
    with pytest.raises(DataError) as caught:
        read_table(path, **options)
    (hint,) = caught.value.__notes__
    assert hint.startswith("hint: ")
    return str(caught.value).replace(str(path.parent) + "/", ""), hint


# -- what is understood ----------------------------------------------------------------


@pytest.mark.parametrize("between", [",", ";", "\t", "|"])
def test_delimiters(put, between):
    text = "a,b,c\n1,x,2.5\n2,y,3.5\n".replace(",", between)
    table = read_table(put(text))
    assert table.kinds == {"a": "numeric", "b": "category", "c": "numeric"}
    assert values(table, "b") == ["x", "y"]
    assert values(table, "c") == [2.5, 3.5]


def test_the_delimiter_is_not_a_comma_inside_cells(put):
    text = 'name;size\n"a, b, c";1\n"d, e, f";2\n'
    assert list(read_table(put(text)).kinds) == ["name", "size"]


def test_decimal_commas(put):
    table = read_table(put("a;b\n1,5;x\n2,25;y\n"))
    assert values(table, "a") == [1.5, 2.25]


def test_gzip_is_seen_from_the_content(put):
    path = put(gzip.compress(b"a,b\n1,2\n", mtime=0), "data.csv")
    assert values(read_table(path), "b") == [2.0]


@pytest.mark.parametrize(
    "mark", ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", " ? ", "#N/A"]
)
def test_missing_markers(put, mark):
    table = read_table(put(f"a,b\n1,x\n{mark},{mark}\n3,z\n"))
    assert values(table, "a") == [1.0, None, 3.0]
    assert values(table, "b") == ["x", None, "z"]


def test_spaces_around_cells_do_not_matter(put):
    table = read_table(put("a , b\n 1, x\n 2 , y \n"))
    assert values(table, "a") == [1.0, 2.0]
    assert values(table, "b") == ["x", "y"]


def test_kinds(put):
    text = (
        "int,float,sci,bool,day,moment,text,nothing\n"
        "1,0.5,1e-3,true,2020-01-02,2020-01-02 12:00:00,x,\n"
        "2,-1.5,2E5,false,1970-01-02,1970-01-01 00:00:00,y,\n"
    )
    table = read_table(put(text))
    assert list(table.kinds.values()) == [
        *["numeric"] * 3,
        "category",
        "date",
        "date",
        "category",
        "numeric",
    ]
    assert values(table, "bool") == ["true", "false"]
    assert values(table, "day") == [18263.0, 1.0]
    assert values(table, "moment") == [18263.5, 0.0]
    assert values(table, "nothing") == [None, None]
    assert any("dates" in note for note in table.notes)


def test_quotes_newlines_and_byte_order_marks(put):
    table = read_table(put('\ufeff"a, b",c\n"x\ny",1\n"say ""hi""",2\n'))
    assert values(table, "a, b") == ["x\ny", 'say "hi"']


def test_other_line_ends_and_blank_lines(put):
    assert values(read_table(put("a,b\r\n1,2\r\n")), "b") == [2.0]
    assert values(read_table(put("a,b\r1,2\r3,4\r")), "b") == [2.0, 4.0]
    assert values(read_table(put("\n\na,b\n1,2\n\n3,4\n\n")), "b") == [2.0, 4.0]


def test_other_encodings(put):
    path = put("naïve,b\ncafé,1\n".encode("latin-1"))
    assert values(read_table(path, encoding="latin-1"), "naïve") == ["café"]
    path = put("a,b\nx,1\n".encode("utf-16"))
    assert values(read_table(path, encoding="utf-16"), "a") == ["x"]


def test_a_column_without_a_name_gets_one(put):
    assert list(read_table(put(",b\n7,2\n9,2\n")).kinds) == ["column 1", "b"]


def test_parquet(put, tmp_path):
    path = tmp_path / "data.parquet"
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "u": pa.array([True, None, False]),
            "d": pa.array([Decimal("1.50"), Decimal("2.25"), None]),
            "c": pa.array(["x", "y", None]).dictionary_encode(),
            "s": pa.array(["1", " 2", "?"]),
            "day": pa.array([date(1970, 1, 3), None, date(1970, 1, 1)]),
            "t": pa.array([datetime(1970, 1, 2)] * 3),
            "l": pa.array([[1], [2], [3]]),
        }
    )
    pq.write_table(table, path)
    table = read_table(path)
    assert values(table, "i") == [1.0, None, 3.0]
    assert values(table, "u") == ["true", None, "false"]
    assert values(table, "d") == [1.5, 2.25, None]
    assert values(table, "c") == ["x", "y", None]
    assert values(table, "s") == [1.0, 2.0, None]
    assert values(table, "day") == [2.0, None, 0.0]
    assert values(table, "t") == [1.0] * 3
    assert table.kinds["l"] == "other"
    assert "l" not in table.columns
    assert any("l (list" in note for note in table.notes)


def test_columns_can_be_left_out_unread(put):
    rows = "\n".join(f"{i},{i}" for i in range(30))
    path = put(f"a,b\n{rows}\noops,3\n")
    refused(path)
    assert list(read_table(path, drop=["a"]).kinds) == ["b"]


names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1)
cells = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["red", "blue, or not", 'a "quoted" word', "two\nlines"]),
    st.none(),
)


@given(
    st.lists(
        names.filter(lambda n: n.strip() and not n.strip().replace(".", "").isdigit()),
        min_size=2,
        max_size=5,
        unique_by=lambda n: n.strip(),
    ).flatmap(
        lambda header: st.tuples(
            st.just(header),
            st.lists(
                st.tuples(*[st.floats(-1e9, 1e9), *[cells] * (len(header) - 1)]),
                min_size=1,
                max_size=8,
            ),
        )
    )
)
def test_what_csv_wrote_comes_back(tmp_path_factory, written):
    """Numbers come back as they were, whatever else is in the table."""
    import csv

    header, rows = written
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    message = None
    try:
        table = read_table(path)
    except DataError as error:
        message = str(error)
    if message is None:
        assert list(table.kinds) == [name.strip() for name in header]
        assert values(table, header[0].strip()) == [float(row[0]) for row in rows]
    else:
        assert "mixes numbers" in message or "names of the columns" in message


# -- what is refused -------------------------------------------------------------------


def test_ragged_rows(put):
    message, hint = refused(put("a,b,c\n1,2,3\n4,5\n6,7,8\n"))
    assert "line 3: 2 cells, but there are 3 columns" in message
    assert "quotes" in hint
    message, _ = refused(put('a,b\n"x\ny",2\n1,2,3\n'))
    assert "line 4: 3 cells" in message


def test_no_known_delimiter(put):
    message, _ = refused(put("a:b\n1:2\n"))
    assert "one column only, 'a:b'" in message


def test_mixed_types(put):
    rows = "\n".join(f"{i},{i}" for i in range(30))
    message, hint = refused(put(f"a,b\n{rows}\nabc,3\n"))
    assert "column 'a' mixes numbers with text" in message
    assert "'abc' in row 31" in message
    assert "--drop a" in hint


def test_wrong_encoding(put):
    message, hint = refused(put("a,b\n1,2\ncafé,1\n".encode("latin-1")))
    assert "line 3: byte 0xe9" in message
    assert "--encoding latin-1" in hint
    _, hint = refused(put("a,b\n1,2\n".encode("utf-16")))
    assert "--encoding utf-16" in hint
    message, _ = refused(put("a,b\n1,2\n"), encoding="klingon")
    assert "--encoding klingon" in message


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "data.csv", "is empty"),
        (b"  \n \n", "data.csv", "is empty"),
        (b"a,b\n", "data.csv", "no rows"),
        (b"a,b,a\n1,2,3\n", "data.csv", "2 columns called 'a' (columns 1, 3)"),
        (b"1,2\n3,4\n", "data.csv", "the first line"),
        (b"PK\x03\x04junk", "data.xlsx", "spreadsheet"),
        (b"a\x00b,c\n1,2\n", "data.csv", "binary"),
        (b"PAR1 and no more", "data.parquet", "damaged Parquet"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-4], "data.csv.gz", "damaged gzip"),
    ],
)
def test_files_that_are_no_tables(put, content, name, said):
    message, _ = refused(put(content, name))
    assert said in message


def test_files_that_cannot_be_opened(tmp_path):
    (tmp_path / "real.csv").write_text("a,b\n1,2\n")
    message, hint = refused(tmp_path / "unreal.csv")
    assert "does not exist" in message
    assert "real.csv" in hint
    message, _ = refused(tmp_path)
    assert "is a folder" in message


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", gzip.compress(b""), gzip.compress(b"\n \n")],
    ids=["mark", "mark and line", "gzip", "gzip of lines"],
)
def test_files_with_nothing_in_them(put, content):
    message, _ = refused(put(content))
    assert "is empty" in message


def test_names_without_a_line_end(put):
    message, _ = refused(put("a,b"))
    assert "no rows" in message


def test_bytes_that_are_no_text(put):
    _, hint = refused(put("a,b\n1,2\n".encode("utf-32")))
    assert "--encoding utf-32" in hint
    message, hint = refused(put(b"BZh9\xff\x00\x01"))
    assert "is a binary file" in message
    assert "latin-1" not in hint
    for encoding in ("undefined", "punycode", "hex"):
        message, _ = refused(put("a,b\n1.5,2\n"), encoding=encoding)
        assert encoding in message
    message, _ = refused(put("\\ud800,b\n1,2\n"), encoding="unicode_escape")
    assert "no unicode_escape text" in message


def test_names_that_would_command_a_shell_are_quoted(put):
    rows = "\n".join(f"{i},{i}" for i in range(30))
    _, hint = refused(put(f"$(reboot),b\n{rows}\noops,3\n"))
    assert "--drop '$(reboot)'" in hint


def test_a_path_that_cannot_be(tmp_path):
    message, _ = refused(tmp_path / ("x" * 300 + ".csv"))
    assert "cannot be read" in message


def test_parquet_that_is_odd(tmp_path):
    path = tmp_path / "data.parquet"
    x = pa.array([1.0, 2.0])
    pq.write_table(pa.Table.from_arrays([x, x], names=["a", "a"]), path)
    message, _ = refused(path)
    assert "2 columns called 'a'" in message
    pq.write_table(pa.table({"a": x}).slice(0, 0), path)
    message, _ = refused(path)
    assert "no rows" in message
    raw = pa.array([b"\xff", b"\xfe"]).buffers()
    pq.write_table(pa.table({"a": pa.Array.from_buffers(pa.string(), 2, raw)}), path)
    message, hint = refused(path)
    assert "column 'a' cannot be read" in message
    assert "--drop a" in hint


def test_an_unknown_column_to_drop(put):
    message, hint = refused(put("height,b\n1,2\n"), drop=["hieght"])
    assert "--drop hieght" in message
    assert "`height`" in hint


def test_many_columns(put, rng):
    header = ",".join(f"x{i}" for i in range(40_000))
    rows = "\n".join(",".join(["1.5", "2", "?", "x"] * 10_000) for _ in range(4))
    path = put(f"{header}\n{rows}\n")
    begun = time.perf_counter()
    table = read_table(path)
    # about 2 s on a quiet machine, and minutes where the time were not linear
    assert time.perf_counter() - begun < 20
    assert table.columns.numbers.shape == (4, 30_000)


def test_an_ordered_dictionary_keeps_its_order(tmp_path):
    """In several chunks whose dictionaries differ, with labels that never occur."""
    chunks = [
        pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int8()), pa.array(labels), ordered=True
        )
        for codes, labels in (
            ([0, 1, None, 1], ["low ", "mid", "never", "top"]),
            ([3, 0, 1, 3], ["low ", "mid", "never", "top"]),
        )
    ]
    column = pa.chunked_array(chunks)
    plain = column.cast(pa.string())
    numbers = pa.DictionaryArray.from_arrays([0, 1, 1, 0] * 2, [7, 3], ordered=True)
    path = tmp_path / "t.parquet"
    table = pa.table({"a": column, "b": plain, "c": numbers})
    pq.write_table(table, path)
    columns = read_table(path).columns
    a, b = columns.column("a"), columns.column("b")
    assert (a.ordered, b.ordered) == (True, False)
    assert a.levels == ("low", "mid", "top")
    assert a.codes.tolist() == [0, 1, -1, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(a.codes, b.codes)
    assert columns.column("c").tolist() == [7, 3, 3, 7] * 2
    kept = columns.take(np.array([0, 5, 7])).column("a")
    assert (kept.ordered, kept.levels) == (True, ("low", "top"))
