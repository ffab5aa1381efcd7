"""Run records: plain data that come back from JSON as they were."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew.records import FORMAT, RunRecord

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
