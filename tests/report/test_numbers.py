"""Numbers are written as people read them, whatever they are."""
# ruff: noqa: RUF001 (the report writes true minus signs and dashes)

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew.report import _numbers as numbers
from vitalfew.report._scales import Scale, around, count_ticks, value_ticks

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1.00"),
        (-0.012345, "−0.0123"),
        (54321.6, "54,322"),
        (1.5e-9, "1.50\xa0×\xa010⁻⁹"),
        (-1e308, "−1.00\xa0×\xa010³⁰⁸"),
        (5e-324, "4.94\xa0×\xa010⁻³²⁴"),
    ],
)
def test_number(value, text):
    assert numbers.number(value) == text


def test_columns_of_numbers_share_their_decimals():
    assert numbers.aligned([38.81, -35.26, None, 0.0, 8.08]) == [
        "38.8",
        "−35.3",
        "–",
        "0",
        "8.1",
    ]
    assert numbers.aligned([38.81, 0.0123]) == ["38.8", "0.012"]


def test_a_mean_has_the_digits_its_spread_can_bear():
    assert numbers.spreads([(55.685, 2.64), (60.18, 3.57), (None, None)]) == [
        "55.7\xa0±\xa02.6",
        "60.2\xa0±\xa03.6",
        "–",
    ]
    assert numbers.spreads([(0.5, None)]) == ["0.5000"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0, "0%"),
        (0.001, "<1%"),
        (0.74, "74%"),
        (0.999, ">99%"),
        (1, "100%"),
    ],
)
def test_percent(share, text):
    assert numbers.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0 s"), (12.7, "13 s"), (150, "2 min"), (7290, "2 h 2 min")],
)
def test_duration(seconds, text):
    assert numbers.duration(seconds) == text


@given(st.text(), st.integers(3, 40))
def test_clipping_keeps_the_length(text, length):
    assert len(numbers.clipped(text, length)) <= max(length, 0)
    if len(text) <= length:
        assert numbers.clipped(text, length) == text


@given(finite)
def test_a_number_reads_back(value):
    text = numbers.number(value, 6).replace("\xa0×\xa010", "e").replace(",", "")
    plain = text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--"))
    # six digits, fewer for the last floats before zero, which have fewer themselves
    assert float(plain) == pytest.approx(value, rel=1e-5, abs=1e-319)


@given(st.lists(finite.filter(lambda v: abs(v) < 1e150), min_size=1))
def test_ticks_lie_on_their_scale(values):
    scale = Scale(*around(values), 0, 100)
    ticks = value_ticks(scale)
    assert all(-0.1 <= t.at <= 100.1 for t in ticks)
    assert 1 <= len(ticks) <= 8
    assert all(0 <= scale(v) <= 100 for v in values)


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.booleans())
def test_count_ticks_have_room(low, span, logarithmic):
    ticks = count_ticks(Scale(low, low + span, 0, 800, logarithmic), room=34)
    places = [t.at for t in ticks]
    assert all(b - a >= 34 for a, b in pairwise(places))
    assert all(math.isfinite(p) and 0 <= p <= 800 for p in places)
