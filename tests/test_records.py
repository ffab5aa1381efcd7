"""Run records: plain data, written whole or not at all."""

import json
import math
import os
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew.records import FORMAT, RunRecord, write_atomically

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


def test_written_whole(tmp_path):
    path = tmp_path / "run.json"
    write_atomically(path, "first ü")
    write_atomically(path, "second ü")
    assert path.read_text(encoding="utf-8") == "second ü"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


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
