"""The knapsack against enumeration."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitalfew.structures import _knapsack
from vitalfew.structures._knapsack import knapsack

items = st.lists(
    st.tuples(st.floats(1e-3, 1e3), st.integers(1, 40)), min_size=1, max_size=9
)


def best(gains, costs, capacity):
    """Largest total gain by trying every subset."""
    n = len(gains)
    subsets = itertools.product((False, True), repeat=n)
    return max(
        gains[list(s)].sum() if any(s) else 0.0
        for s in (np.array(s) for s in subsets)
        if costs[s].sum() <= capacity
    )


@given(items, st.integers(0, 150))
def test_integer_costs_are_exact(pairs, capacity):
    gains, costs = (np.array(v, float) for v in zip(*pairs, strict=True))
    taken = knapsack(gains, costs, capacity)
    assert len(set(taken.tolist())) == len(taken)
    assert costs[taken].sum() <= capacity
    # items are fixed by bounds that are compared to 1e-12
    assert gains[taken].sum() >= best(gains, costs, capacity) * (1 - 1e-11)


@given(items, st.floats(0.1, 150))
def test_real_costs_are_feasible_and_at_least_half(pairs, capacity):
    gains, costs = (np.array(v, float) for v in zip(*pairs, strict=True))
    costs = costs + 0.37
    taken = knapsack(gains, costs, capacity)
    assert costs[taken].sum() <= capacity * (1 + 1e-12)
    # greedy by ratio, or the single best item, is half of the best (Dantzig)
    assert gains[taken].sum() >= best(gains, costs, capacity) * (0.5 - 1e-12)


def test_one_heavy_item_beats_greedy():
    # greedy takes the light one and has no room left
    np.testing.assert_array_equal(
        knapsack(np.array([2.0, 9.0]), np.array([1.0, 9.0]), 9), [1]
    )
    exact = knapsack(np.array([2.0, 9.0]), np.array([1.5, 9.25]), 9.25)
    np.testing.assert_array_equal(exact, [1])


def test_equal_ratios():
    costs = np.array([6.0, 5.0, 4.0])
    taken = knapsack(costs * 2, costs, 9)
    np.testing.assert_array_equal(taken, [1, 2])


def test_edges():
    nothing = np.empty(0)
    assert len(knapsack(nothing, nothing, 5)) == 0
    assert len(knapsack(np.ones(2), np.array([3.0, 4.0]), 2)) == 0
    np.testing.assert_array_equal(knapsack(np.ones(2), np.ones(2), 2), [0, 1])
    np.testing.assert_array_equal(knapsack(np.ones(2), np.ones(2), np.inf), [0, 1])


def test_falls_back_to_greedy_beyond_the_table(monkeypatch, rng):
    gains, costs = rng.random(30), rng.integers(1, 50, 30).astype(float)
    exact = gains[knapsack(gains, costs, 200)].sum()
    monkeypatch.setattr(_knapsack, "MOST_CELLS", 0)
    taken = knapsack(gains, costs, 200)
    assert costs[taken].sum() <= 200
    assert exact / 2 <= gains[taken].sum() <= exact + 1e-12


def test_larger_tables_agree_with_a_plain_dynamic_programme(rng):
    for _ in range(20):
        n = 60
        gains, costs = rng.random(n), rng.integers(1, 100, n).astype(float)
        capacity = 700
        table = np.zeros(capacity + 1)
        for g, c in zip(gains, costs.astype(int), strict=True):
            table[c:] = np.maximum(table[c:], table[:-c] + g)
        taken = knapsack(gains, costs, capacity)
        assert costs[taken].sum() <= capacity
        assert gains[taken].sum() >= table[-1] * (1 - 1e-11)
