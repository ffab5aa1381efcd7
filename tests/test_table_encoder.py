"""Encoding tables: groups, what is missing, rare and unseen levels, speed."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from vitalfew.exceptions import DataError
from vitalfew.study._columns import Coded, Columns
from vitalfew.study.table_encoder import TableEncoder


def text(*values):
    return np.array(values, dtype=object)


@pytest.fixture
def table():
    n = 40
    age = np.arange(n, dtype=float)
    age[:8] = np.nan
    return {
        "age": age,
        "sex": text(*["f", "m"] * 20),
        "colour": text(*["red"] * 20, *["blue"] * 12, *["green"] * 5, *["pink"] * 3),
        "flat": np.ones(n),
        "none": np.full(n, np.nan),
        "name": text(*[f"n{i}" for i in range(n)]),
        "height": np.linspace(1.5, 2.0, n),
    }


def test_layout(table):
    encoder = TableEncoder().fit(table)
    assert encoder.feature_names_ == [
        "age",
        "age (missing)",
        "sex=m",
        "colour=green",
        "colour=red",
        "colour=other",
        "height",
    ]
    np.testing.assert_array_equal(encoder.groups_, [0, 0, 1, 2, 2, 2, 3])
    assert encoder.group_names_ == ["age", "sex", "colour", "height"]
    assert encoder.sources_[3:6] == ["colour"] * 3
    assert encoder.references_ == {"sex": "f", "colour": "blue"}
    np.testing.assert_array_equal(encoder.numeric_, [1, 0, 0, 0, 0, 0, 1])
    assert encoder.dropped_ == {
        "flat": "constant",
        "none": "all missing",
        "name": "text without a repeated value",
    }
    assert any("flat" in note for note in encoder.notes())


def test_values(table):
    X = TableEncoder().fit(table).transform(table)
    assert X.shape == (40, 7)
    np.testing.assert_array_equal(X[:8, 0], np.full(8, np.nanmedian(table["age"])))
    np.testing.assert_array_equal(X[:, 1], np.isnan(table["age"]))
    np.testing.assert_array_equal(X[:, 2], table["sex"] == "m")
    np.testing.assert_array_equal(X[:, 5], table["colour"] == "pink")


def test_all_is_learned_from_the_training_rows(table):
    train = np.arange(8, 20)  # no age is missing, one colour only
    encoder = TableEncoder().fit(table, train)
    assert encoder.feature_names_ == ["age", "sex=m", "height"]
    X = encoder.transform(table, np.array([0, 30]))
    assert X[0, 0] == np.median(table["age"][train])
    assert np.all(np.isfinite(X))


def test_few_missing_entries_get_no_indicator(table):
    table["age"][2:8] = 1.0
    assert "age (missing)" not in TableEncoder().fit(table).feature_names_
    assert "age (missing)" in TableEncoder(min_count=2).fit(table).feature_names_


def test_a_constant_column_with_gaps_is_its_indicator():
    values = np.array([5.0] * 10 + [np.nan] * 10)
    encoder = TableEncoder().fit({"a": values})
    assert encoder.feature_names_ == ["a (missing)"]
    X = encoder.transform({"a": values})
    np.testing.assert_array_equal(X[:, 0], np.isnan(values))


def test_missing_categories_are_a_level():
    values = text(*["a"] * 10, *["b"] * 10, *[None] * 10)
    encoder = TableEncoder().fit({"c": values})
    assert encoder.feature_names_ == ["c=b", "c=missing"]
    X = encoder.transform({"c": values})
    np.testing.assert_array_equal(X.sum(axis=0), [10, 10])


def test_unseen_levels_are_pooled_or_the_reference():
    pooled = text(*["a"] * 10, *["b"] * 10, "c", "d")
    encoder = TableEncoder().fit({"x": pooled})
    assert encoder.feature_names_ == ["x=b", "x=other"]
    X = encoder.transform({"x": text("zebra", "c", "a", None)})
    np.testing.assert_array_equal(X, [[0, 1], [0, 1], [0, 0], [0, 1]])
    plain = TableEncoder().fit({"x": text(*["a"] * 10, *["b"] * 10)})
    X = plain.transform({"x": text("zebra", "b", None)})
    np.testing.assert_array_equal(X, [[0], [1], [0]])


def test_levels_named_like_the_pool_stay_apart():
    values = text(*["other"] * 10, *["b"] * 10, "c", "d")
    encoder = TableEncoder().fit({"x": values})
    assert encoder.feature_names_ == ["x=other", "x=other_"]


def test_groups_can_be_given(table):
    encoder = TableEncoder(groups={"age": "body", "height": "body"}).fit(table)
    assert encoder.group_names_ == ["body", "sex", "colour"]
    assert encoder.group_columns_[0] == ["age", "height"]
    np.testing.assert_array_equal(encoder.groups_, [0, 0, 1, 2, 2, 2, 0])


def test_many_levels_are_text():
    values = text(*[f"w{i}" for i in range(80)] * 6)
    encoder = TableEncoder().fit({"x": values, "y": np.arange(480.0)})
    assert "different values" in encoder.dropped_["x"]
    mostly_rare = text(*["a"] * 10, *["b"] * 10, *[f"w{i}" for i in range(80)] * 3)
    encoder = TableEncoder().fit({"x": mostly_rare, "y": np.arange(260.0)})
    assert "different values" in encoder.dropped_["x"]


def test_booleans_and_integers_are_numbers():
    encoder = TableEncoder().fit({"a": np.array([True, False]), "b": np.array([1, 2])})
    assert encoder.feature_names_ == ["a", "b"]


def test_columns_may_come_in_another_order(table):
    encoder = TableEncoder().fit(table)
    mixed = {name: table[name] for name in reversed(table)}
    mixed["extra"] = np.ones(40)
    np.testing.assert_array_equal(encoder.transform(mixed), encoder.transform(table))


def test_what_cannot_be_encoded_is_an_error(table):
    with pytest.raises(DataError, match="no columns"):
        TableEncoder().fit({})
    with pytest.raises(DataError, match="at least one row"):
        TableEncoder().fit(table, np.array([], dtype=int))
    with pytest.raises(DataError, match="one length"):
        TableEncoder().fit({"a": np.ones(3), "b": np.ones(4)})
    with pytest.raises(DataError, match="'a' must not hold infinities"):
        TableEncoder().fit({"a": np.array([1.0, np.inf])})
    with pytest.raises(DataError, match="none of the 2 columns can be used"):
        TableEncoder().fit({"flat": np.ones(5), "none": np.full(5, np.nan)})
    encoder = TableEncoder().fit(table)
    with pytest.raises(DataError, match="lacks the column 'age'"):
        encoder.transform({"sex": table["sex"]})
    with pytest.raises(DataError, match="numbers or categories"):
        encoder.transform({**table, "age": table["sex"]})


def test_parameters_follow_the_convention():
    encoder = TableEncoder(min_count=3, groups={"a": "b"})
    assert clone(encoder).get_params() == encoder.get_params()


levels = st.sampled_from(["a", "b", "c", "d", None])
cells = st.lists(st.tuples(st.floats(-1e6, 1e6) | st.just(np.nan), levels), min_size=3)


@given(cells, st.integers(0, 2**31))
def test_encodings_are_finite_and_full(rows, seed):
    numbers, categories = zip(*rows, strict=True)
    table = {
        "number": np.array(numbers),
        "category": np.array(categories, dtype=object),
        "always": np.arange(len(rows), dtype=float),
    }
    train = np.random.default_rng(seed).permutation(len(rows))[: max(2, len(rows) // 2)]
    encoder = TableEncoder(min_count=2).fit(table, train)
    X = encoder.transform(table)
    assert X.shape == (len(rows), len(encoder.groups_))
    assert np.all(np.isfinite(X))
    # groups run from 0 without a gap, and no training column is constant
    assert set(encoder.groups_) == set(range(len(encoder.group_names_)))
    assert np.all(np.ptp(X[train], axis=0) > 0)
    # indicators of one column are exclusive, and its reference occurs
    hot = X[:, [name.startswith("category=") for name in encoder.feature_names_]]
    assert np.all(hot.sum(axis=1) <= 1)
    if hot.shape[1]:
        assert hot[train].sum(axis=1).min() == 0


def test_taking_rows_forgets_levels():
    columns = Columns.of({"x": text("a", "b", None, "c")}).take(np.array([3, 2, 0]))
    assert columns.coded["x"].levels == ("a", "c")
    np.testing.assert_array_equal(columns.coded["x"].codes, [1, -1, 0])


def test_coded_columns_pass():
    coded = Coded.of(["b", "a", None, "b"])
    assert coded.levels == ("a", "b")
    np.testing.assert_array_equal(coded.codes, [1, 0, -1, 1])


def test_speed(rng):
    n = 48_842
    table = {f"x{i}": rng.standard_normal(n) for i in range(6)}
    for i in range(8):
        table[f"c{i}"] = rng.choice([f"level {j}" for j in range(12)], n).astype(object)
    begun = time.perf_counter()
    TableEncoder().fit_transform(table)
    # about 0.15 s on a quiet machine; the slack is for a busy one
    assert time.perf_counter() - begun < 2.0


def test_many_columns_of_numbers(rng):
    A = rng.standard_normal((60, 20_000))
    A[rng.random(A.shape) < 0.01] = np.nan
    columns = Columns.of({f"x{i}": A[:, i] for i in range(A.shape[1])})
    begun = time.perf_counter()
    encoder = TableEncoder(min_count=1).fit(columns, np.arange(40))
    encoder.transform(columns, np.arange(40, 60))
    # about 0.4 s on a quiet machine
    assert time.perf_counter() - begun < 5.0
