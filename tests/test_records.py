"""Run records: plain data, written whole or not at all."""

import json
import math
import os
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew.records import FORMAT, RunRecord, write_atomically, write_together

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)
parts = st.dictionaries(st.text(), plain, max_size=4)


@given(st.text(), st.text(), parts, parts, parts)
def test_a_record_survives_its_file(kind, created, settings, data, results):
    record = RunRecord(
        kind=kind, created=created, settings=settings, data=data, results=results
    )
    assert RunRecord.from_json(record.to_json()) == record


def test_what_json_lacks_becomes_null_or_plain():
    record = RunRecord(
        kind="select",
        created="now",
        results={
            "numbers": [math.nan, math.inf, -math.inf, 1.5],
            "numpy": (np.float32(0.5), np.int64(3), np.bool_(True), np.float64(np.nan)),
            3: {"inner": np.inf},
        },
    )
    text = record.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    results = json.loads(text)["results"]
    assert results["numbers"] == [None, None, None, 1.5]
    assert results["numpy"] == [0.5, 3, True, None]
    assert results["3"] == {"inner": None}


def good(**changes):
    return {"format": FORMAT, "kind": "select", "created": "now"} | changes


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", '"x"', "{}"),
        json.dumps(good(format="vitalfew-run/999")),
        json.dumps(good(unknown=1)),
        json.dumps({"format": FORMAT, "kind": "select"}),
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="not a run record"):
        RunRecord.from_json(text)


def test_good_texts_are_read():
    assert RunRecord.from_json(json.dumps(good())).kind == "select"


def test_half_characters_survive_as_escapes():
    """As in the name of a file whose bytes are no UTF-8."""
    record = RunRecord(kind="select", created="now", data={"source": "caf\udce9.csv"})
    text = record.to_json()
    text.encode("utf-8")
    assert RunRecord.from_json(text) == record


def test_files_are_written_all_or_none(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="nowhere"):
        write_together({tmp_path / "a": "new", tmp_path / "nowhere" / "b": "new"})
    with pytest.raises(UnicodeEncodeError):
        write_together({tmp_path / "a": "new", tmp_path / "b": "\ud800"})
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_files_are_as_private_as_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "run.json", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600


def test_written_whole(tmp_path):
    path = tmp_path / "run.json"
    write_atomically(path, "first ü")
    write_atomically(path, "second ü")
    assert path.read_text(encoding="utf-8") == "second ü"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "first")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("vitalfew.records.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "second")
    monkeypatch.undo()
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "run.json", "x")
