"""Checks of what the user gives: each names the argument, the rule and the value."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from vitalfew._validation import (
    check_count,
    check_density,
    check_finite,
    check_labels,
    check_nonnegative,
    check_rng,
    check_rows,
    check_weights,
)


@given(st.integers(-5, 15))
def test_counts(value):
    if 0 <= value <= 10:
        for kind in (int, np.int32, np.uint8):
            checked = check_count("k", kind(value), 0, 10, "why")
            assert checked == value
            assert type(checked) is int
    else:
        with pytest.raises(ValueError, match=rf"k .*0 to 10 \(why\), got {value}"):
            check_count("k", value, 0, 10, "why")


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.float64(2), [1]])
def test_counts_are_integers(value):
    with pytest.raises(ValueError, match="k must be an integer"):
        check_count("k", value, 0, 10, "why")


@pytest.mark.parametrize("value", [0, -0.1, 1.1, np.nan, np.inf, "0.5", None])
def test_densities(value):
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\]"):
        check_density(value)
    assert check_density(np.float32(0.5)) == 0.5
    assert check_density(1) == 1.0


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf, "1", None, 1j])
def test_nonnegative(value):
    with pytest.raises(ValueError, match="l2 must be a finite number >= 0"):
        check_nonnegative("l2", value)
    assert check_nonnegative("l2", np.int64(3)) == 3.0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_labels_have_no_gaps(labels):
    if set(labels) == set(range(max(labels) + 1)):
        np.testing.assert_array_equal(check_labels(labels), labels)
        assert check_labels(np.array(labels, np.uint16)).dtype == np.int64
    else:
        empty = min(set(range(max(labels))) - set(labels))
        count = max(labels) + 1 - len(set(labels))
        with pytest.raises(
            ValueError, match=rf"group {empty} is empty \({count} empty"
        ):
            check_labels(labels)


def test_labels_of_tensors_and_matrices(backend):
    labels = backend.array([[0, 1], [1, 2]])
    np.testing.assert_array_equal(check_labels(labels), [[0, 1], [1, 2]])


def test_finite_says_where(backend):
    check_finite("X", backend.array([[1.0, 2.0]]))
    x = np.ones((3, 4))
    x[1, 2], x[2, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"X .* 2 of its .*\[1, 2\] \(NaN\)"):
        check_finite("X", backend.array(x))
    with pytest.raises(ValueError, match=r"X .* 1 of its .*\[2, 0\] \(infinity\)"):
        check_finite("X", backend.array(np.nan_to_num(x, nan=0.0, posinf=np.inf)))
    with pytest.raises(ValueError, match=r"X .* 2 of its"):
        check_finite("X", scipy.sparse.csr_array(x))


def test_large_sums_are_finite():
    with np.errstate(over="ignore"):
        check_finite("X", np.full(10, 1e308))


def test_rows_and_weights():
    check_rows("y", np.ones(3), 3)
    for bad in (np.ones(2), np.ones(()), np.ones((2, 3))):
        with pytest.raises(ValueError, match="y must have one entry for each of the 3"):
            check_rows("y", bad, 3)
    check_weights(np.array([0.0, 1.0]), 2)
    for bad, words in (
        ([1.0], r"shape \(2,\).*\(1,\)"),
        ([[1.0], [1.0]], r"shape \(2,\)"),
        ([1.0, -2.0], "negative, got -2"),
        ([0.0, 0.0], "all zero"),
        ([1.0, np.nan], "finite"),
        ([1.0, np.inf], "finite"),
    ):
        with pytest.raises(ValueError, match=f"sample_weight.*{words}"):
            check_weights(np.array(bad), 2)


def test_generators():
    assert check_rng(3).random() == np.random.default_rng(3).random()
    assert check_rng(np.int64(3)).random() == check_rng(3).random()
    mine = np.random.default_rng(1)
    assert check_rng(mine) is mine
    assert isinstance(check_rng(None), np.random.Generator)
    old = [check_rng(np.random.RandomState(5)).random() for _ in range(2)]
    assert old[0] == old[1]
    with pytest.raises(ValueError, match=r"rng must be None.*'seed'"):
        check_rng("seed")
    with pytest.raises(ValueError, match="rng"):
        check_rng(-1)
