"""The compiled loops against their NumPy twins, and both against brute force."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from vitalfew import _native
from vitalfew._native import _descent_twins, _twins

needs_compiled = pytest.mark.skipif(
    not _native.COMPILED, reason="installed without the compiled part"
)
FUNCTIONS = [n for n in _native.__all__ if callable(getattr(_native, n))]


def model(seed, k, p, q, dtype):
    """A well-conditioned quadratic at its minimiser over the first k of p columns."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((4 * p + 8, p))
    H = X.T @ X / len(X)
    B = rng.standard_normal((p, q))
    z = np.linalg.solve(H[:k, :k], B[:k])
    P = np.linalg.inv(H[:k, :k])
    C = H[:k]
    parts = {
        "H": H,
        "B": B,
        "C": C,
        "W": P @ C,
        "z": z,
        "P": P,
        "gradient": C.T @ z - B,
    }
    return {name: np.ascontiguousarray(a, dtype=dtype) for name, a in parts.items()}


def single_arguments(m, allowed):
    d, curvature = np.diag(m["P"]).copy(), np.diag(m["H"]).copy()
    return m["C"], m["W"], m["z"], d, m["gradient"], curvature, allowed


def group_arguments(m, sizes, allowed):
    """Groups of the given sizes; the first `len(allowed)` are the support."""
    first = np.concatenate(([0], np.cumsum(sizes)))
    table = np.full((len(sizes), max(sizes)), -1)
    for g, size in enumerate(sizes):
        table[g, :size] = np.arange(first[g], first[g + 1])
    blocks = np.ascontiguousarray(m["H"][table[:, :, None], table[:, None, :]])
    starts = first[: np.searchsorted(first, len(m["C"])) + 1].copy()
    C, W, z, P, gradient = (m[n] for n in ("C", "W", "z", "P", "gradient"))
    return C, W, table, blocks, z, P, starts, gradient, allowed


def minimum(H, B, ids):
    """Smallest value of <z, H z>/2 - <B, z> over some columns."""
    if not len(ids):
        return 0.0
    b = B[ids]
    return -0.5 * np.sum(b * np.linalg.solve(H[np.ix_(ids, ids)], b))


# sums of k <= 6 products in another order; the condition of H is below about 30
ROUGH = {"float64": 1e-10, "float32": 2e-4}
sizes = st.integers(1, 6)
dtypes = st.sampled_from(["float64", "float32"])


def check_outs(gain, out, every):
    """The partner named brings the gain; equal gains may name any of theirs."""
    finite = np.isfinite(gain)
    np.testing.assert_array_equal(finite, np.isfinite(every.max(axis=0)))
    named = np.take_along_axis(every, out[None], axis=0)[0]
    return named[finite], gain[finite]


@given(
    st.integers(0, 10**6),
    sizes,
    st.integers(1, 12),
    st.integers(1, 3),
    dtypes,
    st.booleans(),
)
def test_single_exchanges(seed, k, more, q, dtype, masked):
    m = model(seed, k, k + more, q, dtype)
    rng = np.random.default_rng(seed)
    allowed = rng.random((k, k + more)) < 0.7 if masked else None
    arguments = single_arguments(m, allowed)
    gain, out = _native.best_single_exchanges(*arguments)
    twin, _ = _twins.best_single_exchanges(*arguments)
    rough = ROUGH[dtype]
    assert gain.dtype == np.dtype(dtype)
    np.testing.assert_allclose(gain[k:], twin[k:], rtol=rough, atol=rough)
    every = _twins.single_gains(*arguments[:-1])
    if allowed is not None:
        every = np.where(allowed, every, -np.inf)
    named, found = check_outs(gain[k:], out[k:], every[:, k:])
    np.testing.assert_allclose(named, found, rtol=rough, atol=rough)
    before = minimum(m["H"], m["B"], np.arange(k))
    for j in range(k, k + more):
        if not np.isfinite(gain[j]):
            continue
        ids = np.append(np.delete(np.arange(k), out[j]), j)
        exact = before - minimum(m["H"].astype(float), m["B"].astype(float), ids)
        assert gain[j] == pytest.approx(exact, rel=10 * rough, abs=10 * rough)


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 3), min_size=2, max_size=6),
    st.data(),
    st.integers(1, 3),
    dtypes,
    st.booleans(),
)
def test_group_exchanges(seed, group_sizes, data, q, dtype, masked):
    n_in = data.draw(st.integers(1, len(group_sizes) - 1))
    K = sum(group_sizes[:n_in])
    m = model(seed, K, sum(group_sizes), q, dtype)
    rng = np.random.default_rng(seed)
    allowed = rng.random((n_in, len(group_sizes))) < 0.7 if masked else None
    arguments = group_arguments(m, group_sizes, allowed)
    gain, out = _native.best_group_exchanges(*arguments)
    twin, _ = _twins.best_group_exchanges(*arguments)
    rough = ROUGH[dtype]
    # the twin adds 1e-9 of the curvature where the loop leaves small pivots out
    np.testing.assert_allclose(
        gain[n_in:], twin[n_in:], rtol=max(rough, 1e-6), atol=rough
    )
    columns = np.split(np.arange(sum(group_sizes)), np.cumsum(group_sizes)[:-1])
    before = minimum(m["H"], m["B"], np.arange(K))
    for j in range(n_in, len(group_sizes)):
        if not np.isfinite(gain[j]):
            assert allowed is not None
            assert not allowed[:, j].any()
            continue
        inside = [g for g in range(n_in) if g != out[j]] + [j]
        ids = np.concatenate([columns[g] for g in inside])
        exact = before - minimum(m["H"].astype(float), m["B"].astype(float), ids)
        floor = max(10 * rough, 1e-7)  # the twin's, times the condition
        assert gain[j] == pytest.approx(exact, rel=floor, abs=floor)
        if allowed is not None:
            assert allowed[out[j], j]


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
def test_groups_of_one_are_single_exchanges(seed, k, q):
    m = model(seed, k, k + 5, q, "float64")
    single, _ = _native.best_single_exchanges(*single_arguments(m, None))
    group, _ = _native.best_group_exchanges(*group_arguments(m, [1] * (k + 5), None))
    # the twin adds 1e-9 of the curvature
    np.testing.assert_allclose(group[k:], single[k:], rtol=1e-7, atol=1e-9)


def test_columns_in_the_span_of_others_bring_nothing_wild():
    """A copy of an inner column, an empty column: gains stay below what there is."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 6))
    X[:, 4] = X[:, 0]
    X[:, 5] = 0
    y = X @ np.array([1.0, 2, 0, 0, 0, 0]) + rng.standard_normal(50)
    H, b = X.T @ X / 50, (X.T @ y / 50)[:, None]
    P = np.linalg.inv(H[:2, :2])
    C = np.ascontiguousarray(H[:2])
    z = P @ b[:2]
    gradient = C.T @ z - b
    arguments = (C, P @ C, z, np.diag(P).copy(), gradient, np.diag(H).copy(), None)
    for module in (_native, _twins):
        gain, out = module.best_single_exchanges(*arguments)
        assert not np.isnan(gain).any()
        assert gain[4] == pytest.approx(0, abs=1e-9)  # for the column it copies
        assert out[4] == 0
        assert gain[5] <= 0


@needs_compiled
@pytest.mark.parametrize("position", range(6))
def test_single_wrong_shapes_are_refused(position):
    arguments = list(single_arguments(model(0, 3, 7, 2, "float64"), None))
    shape = [n + 1 for n in arguments[position].shape]
    arguments[position] = np.ones(shape)
    with pytest.raises((ValueError, TypeError)):
        _native.best_single_exchanges(*arguments)


@needs_compiled
def test_single_wrong_kinds_are_refused():
    good = single_arguments(model(0, 3, 7, 2, "float64"), np.ones((3, 7), bool))
    for position, bad in (
        (0, good[0].astype(np.float32)),
        (1, good[1].astype(int)),
        (2, good[2][:, 0].copy()),
        (4, np.asfortranarray(good[4])),
        (6, np.ones((7, 3), bool)),
    ):
        arguments = list(good)
        arguments[position] = bad
        with pytest.raises((ValueError, TypeError)):
            _native.best_single_exchanges(*arguments)


@needs_compiled
def test_group_wrong_shapes_and_indices_are_refused():
    good = group_arguments(
        model(0, 3, 7, 2, "float64"), [2, 1, 3, 1], np.ones((2, 4), bool)
    )
    _native.best_group_exchanges(*good)
    beyond, below = good[2].copy(), good[2].copy()
    beyond[1, 0], below[1, 0] = 7, -2
    for position, bad in (
        (1, good[1][:, :-1].copy()),
        (2, beyond),
        (2, below),
        (3, good[3][:-1].copy()),
        (4, good[4][:-1].copy()),
        (5, good[5][:, :-1].copy()),
        (6, np.array([0, 2, 4])),
        (6, np.array([0, 5, 3])),
        (6, np.array([-1, 2, 3])),
        (6, np.empty(0, int)),
        (7, good[7][:-1].copy()),
        (8, np.ones((4, 2), bool)),
    ):
        arguments = list(good)
        arguments[position] = bad
        with pytest.raises((ValueError, TypeError)):
            _native.best_group_exchanges(*arguments)


def columns_of(seed, n, k, p, dtype):
    """Few columns, many in a view with longer rows, weights and means."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, k)).astype(dtype)
    X = rng.standard_normal((n, p + 3)).astype(dtype)[:, 1 : p + 1]
    w = rng.random(n).astype(dtype)
    return A, X, w, rng.standard_normal(p).astype(dtype)


SMALL = st.integers(0, 40)
ROUGH = {"float64": 1e-12, "float32": 1e-4}


@given(
    seed=st.integers(0, 999),
    n=st.integers(0, 600),
    k=SMALL,
    p=st.integers(0, 120),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_products_are_those_of_the_twins(seed, n, k, p, dtype):
    A, X, w, center = columns_of(seed, n, k, p, dtype)
    rough = ROUGH[dtype] * max(n, 1)
    for threads in (1, 3):
        C = _native.products(A, w, X, threads)
        assert C.dtype == dtype
        np.testing.assert_allclose(C, _twins.products(A, w, X), atol=rough)
        if k:
            many = _native.products(A, w, X, threads, center)
            for one, other in zip(
                many, _twins.products(A, w, X, 1, center), strict=True
            ):
                np.testing.assert_allclose(one, other, atol=rough)
        G = _native.gram(A, w, threads)
        np.testing.assert_allclose(G, _twins.gram(A, w), atol=rough)
        if _native.COMPILED:
            np.testing.assert_array_equal(G, G.T)
    for middle in (None, center):
        squares, left = _native.column_sums(X, w, middle)
        expected = _twins.column_sums(X, w, middle)
        np.testing.assert_allclose(squares, expected[0], atol=rough)
        np.testing.assert_allclose(left, expected[1], atol=rough)


@given(seed=st.integers(0, 999), n=st.integers(1, 150), p=st.integers(1, 20))
def test_products_within_groups_are_those_of_the_twin(seed, n, p):
    _, X, w, center = columns_of(seed, n, 1, p, "float64")
    order = np.random.default_rng(seed).permutation(p)
    table = np.full((3, p), -1)
    cuts = np.sort(np.random.default_rng(seed).integers(0, p + 1, 2))
    for g, part in enumerate(np.split(order, cuts)):
        table[g, : len(part)] = part
    for middle in (None, center):
        blocks = _native.block_grams(X, table, w, middle)
        expected = _twins.block_grams(X, table, w, middle)
        np.testing.assert_allclose(blocks, expected, atol=1e-10)


@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 60),
    k=st.integers(1, 8),
    p=st.integers(1, 30),
    kind=st.sampled_from([np.int32, np.int64]),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_sparse_products_are_those_of_the_twins(seed, n, k, p, kind, dtype):
    X, _, by_rows = sparse_of(seed, n, p, kind, dtype)
    A, columns, _ = sparse_of(seed + 1, n, k, kind, dtype)
    w = np.random.default_rng(seed).random(n).astype(dtype)
    for first, stop in ((0, p), (p // 3, p // 2), (1, p)):
        run = (p, first, stop)
        C = _native.sparse_products(*columns, w, *by_rows, *run)
        assert C.dtype == dtype
        exact = (A.T @ (X * w[:, None]))[:, first:stop]
        np.testing.assert_allclose(C, exact, atol=1e-4)
        expected = _twins.sparse_products(*columns, w, *by_rows, *run)
        np.testing.assert_allclose(C, expected, atol=ROUGH[dtype] * n)
    G = _native.sparse_gram(*by_rows, w, p)
    np.testing.assert_allclose(G, X.T @ (X * w[:, None]), atol=1e-4)
    np.testing.assert_allclose(G, _twins.sparse_gram(*by_rows, w, p), atol=1e-4)


def sparse_of(seed, n, p, kind, dtype):
    """A matrix with many zeros, and its parts by columns and by rows."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * (rng.random((n, p)) < 0.3)
    X = X.astype(dtype)
    stored = []
    for S in (scipy.sparse.csc_array(X), scipy.sparse.csr_array(X)):
        stored.append((S.indptr.astype(kind), S.indices.astype(kind), S.data))
    return X, *stored


@needs_compiled
def test_sparse_parts_that_do_not_fit_are_refused():
    _, columns, by_rows = sparse_of(0, 9, 5, np.int64, "float64")
    w = np.ones(9)
    starts, indices, data = by_rows
    beyond, falling = indices.copy(), starts.copy()
    beyond[0], falling[3] = 5, len(data) + 7
    below = indices.copy()
    below[0] = -1
    for bad in (
        (starts, beyond, data),
        (starts, below, data),
        (falling, indices, data),
        (starts[:-1].copy(), indices, data),
        (starts, indices[:-1].copy(), data),
        (np.empty(0, np.int64), indices, data),
        (starts.astype(np.int32), indices, data),
    ):
        with pytest.raises((ValueError, TypeError)):
            _native.sparse_gram(*bad, w, 5)
        with pytest.raises((ValueError, TypeError)):
            _native.sparse_products(*columns, w, *bad, 5, 0, 5)
    for run in ((0, 6), (4, 3), (-1, 2)):
        with pytest.raises((ValueError, TypeError)):
            _native.sparse_products(*columns, w, *by_rows, 5, *run)
    one, none = np.ones(1), np.zeros(1, int)
    tall, all_but = np.array([0, 1, 1, 1, 1]), np.array([0, 1])
    with pytest.raises(ValueError, match="too large"):  # 4 * 2**62 is 0
        _native.sparse_products(
            tall, none, one, one, all_but, none, one, 2**62, 0, 2**62
        )
    with pytest.raises(ValueError, match="too large"):
        _native.sparse_gram(all_but, none, one, one, 2**32)
    wrong = columns[1].copy()
    wrong[0] = 9
    with pytest.raises(ValueError, match="indices"):
        _native.sparse_products(columns[0], wrong, columns[2], w, *by_rows, 5, 0, 5)


@needs_compiled
def test_many_products_on_many_threads():
    A, X, w, _ = columns_of(1, 2000, 40, 500, "float64")
    many = _native.products(A, w, X, 4)  # enough work for each of them
    np.testing.assert_array_equal(many, _native.products(A, w, X, 1))
    np.testing.assert_allclose(many, _twins.products(A, w, X), atol=1e-9)


@needs_compiled
def test_products_of_wrong_shapes_are_refused():
    A, X, w, center = columns_of(0, 9, 2, 5, "float64")
    table = np.array([[0, 1], [4, -1]])
    for call in (
        lambda: _native.products(A, w[:-1], X),
        lambda: _native.products(A[:-1], w[:-1], X),
        lambda: _native.products(A.astype(np.float32), w, X),
        lambda: _native.products(A, w, np.asfortranarray(X)),
        lambda: _native.products(A, w, X[::-1]),
        lambda: _native.products(A, w, X, -1),
        lambda: _native.products(A, w, X, 1, center[1:]),
        lambda: _native.products(A[:, :0].copy(), w, X, 1, center),
        lambda: _native.gram(A, w[1:]),
        lambda: _native.gram(np.asfortranarray(A), w),
        lambda: _native.column_sums(X, w[1:]),
        lambda: _native.column_sums(X, w, center[1:]),
        lambda: _native.block_grams(X, table + 1, w),
        lambda: _native.block_grams(X, table - 2, w),
        lambda: _native.block_grams(X, table, w[1:]),
        lambda: _native.block_grams(X, table, w, center[1:]),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()


SHAPES = {"shrink": 0.0, "mcp": 3.0, "scad": 3.7, "lq": 0.5, "log_sum": 0.3}


def descent_arguments(seed, kind, dtype):
    """A quadratic that is bounded below, not always strictly, in blocks."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 30)), int(rng.integers(1, 15))
    A = rng.standard_normal((n, m)) / np.sqrt(n)
    H = A.T @ A + (0.05 if seed % 3 else 0.0) * np.eye(m)
    z = rng.standard_normal(m)
    g = H @ z - 0.5 * A.T @ rng.standard_normal(n)
    starts = np.arange(m + 1)
    if kind == "shrink":
        starts = np.unique(np.concatenate(([0, m], rng.integers(0, m + 1, 3))))
    k = len(starts) - 1
    parameters = np.zeros((k, 3))
    parameters[:, 0] = 0.05 + 0.2 * rng.random(k)
    parameters[:, 1] = SHAPES[kind] or 0.3 * rng.random(k)
    parameters[:, 2] = 0.0 if SHAPES[kind] else 0.1 * rng.random(k)
    arrays = [np.ascontiguousarray(a, dtype) for a in (H, g, z, parameters)]
    return *arrays[:3], starts, kind, arrays[3]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(12))
def test_descent_ends_where_the_twin_does(seed, kind, dtype):
    arguments = descent_arguments(seed, kind, dtype)
    H, g, z, starts, _, parameters = arguments
    tol = 1e-10 if dtype == "float64" else 1e-5
    u, passes = _native.descend(*arguments, tol, 5000)
    assert u.dtype == dtype
    assert 0 < passes < 5000
    # from where the compiled one ended, the twin goes nowhere
    there = (g + H @ (u - z)).astype(dtype)
    again, few = _twins.descend(H, there, u, *arguments[3:], 2 * tol, 5000)
    assert few <= 3
    np.testing.assert_allclose(again, u, atol=1e-8 if dtype == "float64" else 1e-3)
    if kind == "shrink":  # convex: one value, whatever the way
        twin, _ = _twins.descend(*arguments, tol, 5000)
        value = _descent_twins.FORMS[kind][0]

        def total(u):
            blocks = zip(starts[:-1], starts[1:], parameters, strict=True)
            model = (u - z) @ H @ (u - z) / 2 + g @ (u - z)
            return model + sum(value(u[a:b], *p) for a, b, p in blocks)

        rough = 1e-10 if dtype == "float64" else 1e-4
        assert total(u) == pytest.approx(total(twin), abs=rough)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(6))
def test_descent_on_columns_is_that_on_their_products(seed, kind, dtype):
    _, _, z, starts, _, parameters = descent_arguments(seed, kind, dtype)
    rng = np.random.default_rng(seed)
    A = (rng.standard_normal((len(z) + 9, 70)) / 8).astype(dtype)
    slots = rng.permutation(len(A))[: len(z)]
    ridge = (0.1 * rng.random(len(z))).astype(dtype)
    g = rng.standard_normal(len(z)).astype(dtype)
    tol = 1e-10 if dtype == "float64" else 1e-5
    rest = (g, z, starts, kind, parameters, tol, 5000)
    u, passes = _native.descend_columns(A, slots, ridge, *rest)
    twin, _ = _twins.descend_columns(A, slots, ridge, *rest)
    H = A[slots] @ A[slots].T + np.diag(ridge)
    same, _ = _native.descend(H, *rest)
    assert 0 < passes < 5000
    rough = 1e-8 if dtype == "float64" else 1e-3
    if kind == "shrink":
        np.testing.assert_allclose(u, twin, atol=rough)
    np.testing.assert_allclose(u, same, atol=rough)


def one_coordinate(module, kind, parameters, t, v):
    """The prox of one coordinate, by descent from v on a quadratic of curvature 1/t."""
    row = np.array([parameters])
    H, z, starts = np.array([[1 / t]]), np.array([v]), np.arange(2)
    u, _ = module.descend(H, np.zeros(1), z, starts, kind, row, 1e-14 * v, 50)
    return float(u[0])


@pytest.mark.parametrize("module", [_native, _twins])
@pytest.mark.parametrize("kind", ["mcp", "scad"])
def test_points_on_the_border_of_two_pieces_are_not_lost(kind, module):
    """Rounding may put the minimiser of a piece just beyond its end."""
    value, rng = _descent_twins.FORMS[kind][0], np.random.default_rng(0)
    for _ in range(300):
        strength = 10 ** rng.uniform(-3, 3)
        bend = 2.01 + 10 ** rng.uniform(-1, 1)
        critical = bend if kind == "mcp" else bend - 1
        t = critical * (1 - rng.choice([1e-12, 1e-9, 0.3, 0.6]))
        ends = strength * np.array([1.0, 1 + t, bend])
        v = rng.choice(ends) * (1 + rng.choice([-2.3, 0.0, 2.3]) * 1e-16)
        p = (strength, bend, 0.0)

        def total(u, v=v, t=t, p=p):
            return (u - v) ** 2 / (2 * t) + value(np.array([u]), *p)

        u = one_coordinate(module, kind, p, t, v)
        grid = np.concatenate((np.linspace(0, v, 300), ends, [v]))
        assert total(u) <= min(map(total, grid)) * (1 + 1e-9)


@pytest.mark.parametrize("module", [_native, _twins])
def test_small_numbers_keep_their_digits_under_logarithms(module):
    for v, strength in ((1e-9, 1e-10), (1e-5, 1e-6), (1e-150, 1e-151)):
        u = one_coordinate(module, "log_sum", (strength, 1.0, 0.0), 1.0, v)
        assert u == pytest.approx(v - strength / (1 + u), rel=1e-12, abs=0)


@pytest.mark.parametrize("module", [_native, _twins])
@pytest.mark.parametrize("power", [-100, 100])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_descent_in_other_units(module, power, seed):
    """In H as in g and the strengths: the minimiser is the same."""
    H, g, z, starts, kind, parameters = descent_arguments(seed, "shrink", "float64")
    unit = 10.0 ** (2 * power)
    here, _ = module.descend(H, g, z, starts, kind, parameters, 1e-10, 5000)
    arrays = (unit * H, unit * g, z, starts, kind, unit * parameters)
    there, _ = module.descend(*arrays, unit * 1e-10, 5000)
    assert np.abs(here).max() > 0.01
    np.testing.assert_allclose(there, here, atol=1e-7)


@needs_compiled
def test_columns_that_are_not_there_are_refused():
    A, two, one = np.ones((3, 4)), np.ones(2), np.ones((2, 3))
    starts, slots = np.arange(3), np.array([0, 2])
    rest = (two, two, starts, "shrink", one, 1e-6, 5)
    _native.descend_columns(A, slots, two, *rest)
    for bad in ([0, 3], [-1, 2], [0]):
        with pytest.raises((ValueError, TypeError)):
            _native.descend_columns(A, np.array(bad), two, *rest)
    with pytest.raises((ValueError, TypeError)):
        _native.descend_columns(A, slots, np.ones(3), *rest)
    with pytest.raises((ValueError, TypeError)):
        _native.descend_columns(A, slots, two, np.ones(3), *rest[1:])


@needs_compiled
def test_descent_of_wrong_shapes_is_refused():
    good = [*descent_arguments(1, "shrink", "float64"), 1e-6, 10]
    H, g, starts = good[0], good[1], good[3]
    assert len(starts) > 3
    _native.descend(*good)
    for position, bad in (
        (0, np.ones((len(g), len(g) + 1))),
        (0, H.astype(np.float32)),
        (1, np.append(g, 0.0)),
        (2, g[:-1].copy()),
        (3, starts[:-1].copy()),
        (3, starts[::-1].copy()),
        (3, np.concatenate((starts[:2], starts[1:-1]))),
        (3, np.empty(0, int)),
        (4, "other"),
        (4, "mcp"),  # has no blocks of several coordinates
        (5, good[5][:-1].copy()),
        (5, good[5][:, :2].copy()),
    ):
        arguments = list(good)
        arguments[position] = bad
        with pytest.raises((ValueError, TypeError)):
            _native.descend(*arguments)


def part_arguments(seed, dtype, n=4, p=9, q=2):
    """Arguments of the loop, from a support drawn for each part."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((3 * p, p))
    H = A.T @ A / len(A)
    B = rng.standard_normal((n, q, p))
    counts = rng.integers(0, p, n)
    counts[0] = 0
    K = max(1, counts.max())
    ids = np.zeros((n, K), np.int64)
    P, W, z = np.zeros((n, K, K)), np.zeros((n, K, p)), np.zeros((n, K, q))
    gradient = -B.copy()
    for i, k in enumerate(counts):
        S = rng.permutation(p)[:k]
        ids[i, :k] = S
        P[i, :k, :k] = np.linalg.inv(H[np.ix_(S, S)])
        W[i, :k] = P[i, :k, :k] @ H[S]
        z[i, :k] = P[i, :k, :k] @ B[i][:, S].T
        gradient[i] += z[i, :k].T @ H[S]
    floats = [np.ascontiguousarray(a, dtype) for a in (H, P, W, z, gradient)]
    H, P, W, z, gradient = floats
    least = np.full(n, 1e-9 if dtype == np.float64 else 1e-5, dtype)
    return (H, P, W, ids, counts, z, gradient, least), B


def least_value(H, B, ids):
    """Least value of one part on a support."""
    b = B[:, ids]
    return -0.5 * np.sum(b * np.linalg.solve(H[np.ix_(ids, ids)], b.T).T)


@pytest.mark.parametrize("loop", [_native.exchange_parts, _twins.exchange_parts])
@pytest.mark.parametrize("run_length", [0, 4])
@pytest.mark.parametrize("seed", range(4))
def test_no_exchange_in_a_part_helps_and_moves_cost_what_is_said(
    loop, run_length, seed
):
    arguments, B = part_arguments(seed, np.float64)
    H, counts = arguments[0], arguments[4]
    before = [a.copy() for a in arguments]
    ids, swaps, loss, drop, gain, add = loop(*arguments, run_length, 100, 2)
    for a, b in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert swaps.sum() > 0
    p = len(H)
    for i, k in enumerate(counts):
        S = ids[i, :k]
        assert len(set(S)) == k
        at = least_value(H, B[i], S)
        assert at <= least_value(H, B[i], before[3][i, :k]) + 1e-12
        others = np.setdiff1d(np.arange(p), S)
        for h in range(k):
            for j in others:
                if not run_length or j // run_length == S[h] // run_length:
                    swapped = np.append(np.delete(S, h), j)
                    assert least_value(H, B[i], swapped) >= at - 1e-8
        drops = [least_value(H, B[i], np.delete(S, h)) - at for h in range(k)]
        assert loss[i] == pytest.approx(min(drops, default=np.inf))
        adds = [at - least_value(H, B[i], np.append(S, j)) for j in others]
        assert gain[i] == pytest.approx(max(adds, default=0.0), abs=1e-12)
        if k:
            assert S[np.argmin(drops)] == drop[i]
        if len(others):
            assert others[np.argmax(adds)] == add[i]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("run_length", [0, 3])
def test_exchanges_in_parts_are_those_of_the_twin(dtype, run_length):
    rough = 1e-8 if dtype == np.float64 else 1e-3
    for seed in range(6):
        arguments, _ = part_arguments(seed, dtype, n=5, p=40, q=3)
        found = _native.exchange_parts(*arguments, run_length, 200, 1)
        twin = _twins.exchange_parts(*arguments, run_length, 200, 1)
        counts = arguments[4]
        for i, k in enumerate(counts):
            assert set(found[0][i, :k]) == set(twin[0][i, :k])
        for a, b in zip(found[1:], twin[1:], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=rough)


@needs_compiled
@pytest.mark.parametrize("position", range(8))
def test_parts_of_wrong_shapes_or_kinds_are_refused(position):
    good, _ = part_arguments(0, np.float64)
    wrong = [np.concatenate((good[position], good[position]), axis=0)]
    wrong.append(good[position].astype(np.float16))
    if position in (3, 4):
        wrong = [good[position] + 100, good[position] - 100, *wrong[:1]]
    for bad in wrong:
        arguments = list(good)
        arguments[position] = bad
        with pytest.raises((ValueError, TypeError)):
            _native.exchange_parts(*arguments)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_a_twin(name):
    assert callable(getattr(_twins, name))
    source = Path(__file__).read_text(encoding="utf-8")
    assert f"_native.{name}(" in source, f"compare {name} with its twin here"


def test_the_twins_are_chosen_by_the_environment():
    code = "from vitalfew import _native; print(_native.COMPILED)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"VITALFEW_NATIVE": "0"},
    )
    assert run.stdout.strip() == "False"
