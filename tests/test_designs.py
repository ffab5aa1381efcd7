"""Designs: every product against plain NumPy, whatever holds the numbers."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse

from tests.backends import BACKENDS, Backend
from vitalfew._arrays import as_array, to_host
from vitalfew.designs import CrossRows, Dense, Grams, Scaled, Sparse, as_design

SCALE = np.array([0.5, 2.0, 1.0, 3.0, 0.1])
KINDS = [f"{kind} {name}" for kind in ("dense", "scaled") for name in BACKENDS]
KINDS += ["CSR", "CSC", "COO", "duplicates", "scaled CSR", "Fortran", "view", "rows"]


def with_duplicates(X):
    """The same matrix with every entry stored in two halves."""
    one = scipy.sparse.csr_array(X)
    data, indices = np.repeat(one.data / 2, 2), np.repeat(one.indices, 2)
    return scipy.sparse.csr_array((data, indices, 2 * one.indptr), shape=X.shape)


@pytest.fixture
def X(rng):
    X = rng.standard_normal((30, 5)) + 1.0
    X[rng.random(X.shape) < 0.4] = 0
    return X


@pytest.fixture(params=KINDS)
def design(request, X):
    kind, _, name = request.param.partition(" ")
    if kind == "dense":
        return as_design(Backend.load(name).array(X))
    if kind == "scaled" and name != "CSR":
        backend = Backend.load(name)
        return Scaled(as_design(backend.array(X * SCALE)), backend.array(SCALE))
    if kind == "scaled":
        return Scaled(as_design(scipy.sparse.csr_array(X * SCALE)), SCALE)
    if kind == "rows":
        return Sparse(scipy.sparse.csr_array(X), by_columns=False)
    make = {
        "Fortran": np.asfortranarray,
        "view": lambda X: np.hstack((X, X))[:, :5],
        "CSR": scipy.sparse.csr_array,
        "CSC": scipy.sparse.csc_array,
        "COO": scipy.sparse.coo_matrix,
        "duplicates": with_duplicates,
    }
    return as_design(make[kind](X))


def close(value, expected):
    # sums of 30 products of numbers near one in another order
    np.testing.assert_allclose(to_host(value), expected, atol=1e-12)


def test_products(design, X, rng):
    assert tuple(design.shape) == X.shape
    assert design.like.dtype == design.dense().dtype
    close(design.dense(), X)
    for shape in ((), (3,)):
        w, r = rng.standard_normal((5, *shape)), rng.standard_normal((30, *shape))
        close(design.matvec(as_array(w, design.like)), X @ w)
        close(design.rmatvec(as_array(r, design.like)), X.T @ r)


def test_parts(design, X):
    ids = np.array([3, 0, 4])
    part = design.columns(ids)
    close(part.dense(), X[:, ids])
    close(part.matvec(as_array(np.ones(3), design.like)), X[:, ids].sum(axis=1))
    close(part.rmatvec(as_array(np.ones(30), design.like)), X[:, ids].sum(axis=0))
    lines = np.array([7, 7, 0, 29])
    close(design.rows(lines).dense(), X[lines])
    close(design.rows(lines).columns(ids).dense(), X[lines][:, ids])
    close(part.rows(lines).dense(), X[lines][:, ids])
    none = np.empty(0, np.int64)
    nothing = design.columns(none).matvec(as_array(np.empty(0), design.like))
    close(nothing, np.zeros(30))


@pytest.mark.parametrize("centred", [False, True])
def test_second_moments(design, X, rng, centred):
    w = rng.random(30)
    w[:5] = 0
    center = X.T @ w / w.sum() if centred else None
    A = X - center if centred else X
    G = (A * w[:, None]).T @ A
    given = None if center is None else as_array(center, design.like)
    weights = as_array(w, design.like)
    ids = np.array([3, 0, 4])
    close(design.gram(weights, given), G)
    close(design.cross(ids, weights, given), G[ids])
    close(design.squared_norms(weights, given), np.diag(G))
    for run in (slice(None), slice(1, 4), slice(2, 3)):
        C, norms = design.cross_and_norms(ids, weights, given, run)
        close(C, G[ids][:, run])
        close(norms, np.diag(G)[run])
    part = None if given is None else as_array(center[ids], design.like)
    close(design.columns(ids).gram(weights, part), G[np.ix_(ids, ids)])
    table = np.array([[0, 3], [4, -1], [2, 1]])
    blocks = to_host(design.block_grams(table, weights, given))
    for g, row in enumerate(table):
        real = row[row >= 0]
        close(blocks[g][: len(real), : len(real)], G[np.ix_(real, real)])


def test_standard_scales_to_unit_deviation(design, X, rng):
    w = rng.random(30)
    w /= w.sum()
    center = X.T @ w
    weights = as_array(w, design.like)
    for given, A in ((center, X - center), (None, X)):
        view = Scaled.standard(
            design, weights, None if given is None else as_array(given, design.like)
        )
        expected = np.sqrt(w @ (A * A))
        close(view.dense(), X / expected)


def test_standard_leaves_constant_columns(backend):
    X = np.stack([np.full(50, 1e5 / 3), np.zeros(50), np.arange(50.0)], axis=1)
    w = np.full(50, 1 / 50)
    design = as_design(backend.array(X))
    view = Scaled.standard(design, backend.array(w), backend.array(X.T @ w))
    scale = to_host(view.scale)
    assert scale[:2].tolist() == [1.0, 1.0]
    assert scale[2] == pytest.approx(np.std(np.arange(50.0)))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_products_of_constant_columns_are_exactly_zero(kind, dtype, rng):
    X = np.stack([np.full(999, 1e4 / 3), rng.standard_normal(999)], 1).astype(dtype)
    w = rng.random(999).astype(dtype)
    w /= w.sum()
    design = as_design(X if kind == "dense" else scipy.sparse.csr_array(X))
    center = design.rmatvec(w)
    table = np.array([[0, 1]])
    assert design.squared_norms(w, center)[0] == 0
    assert design.gram(w, center)[0, 0] == 0
    assert np.all(design.cross(np.array([0]), w, center) == 0)
    assert design.block_grams(table, w, center)[0, 0, 0] == 0
    moved, means = design.around_means(w)
    assert np.all(moved[:, 0] == 0)
    np.testing.assert_allclose(means, w @ X, rtol=1e-4)
    assert Scaled.standard(design, w, center).scale[0] == 1


def test_moments_survive_means_far_above_deviations(backend, rng):
    Z = rng.standard_normal((60, 4))
    mean, deviation = np.array([1e6, -1e3, 1e9, 0.0]), np.array([1.0, 1e-4, 10.0, 1.0])
    w = rng.random(60)
    w /= w.sum()
    design = as_design(backend.array(mean + deviation * Z))
    weights = backend.array(w)
    center = design.rmatvec(weights)
    view = Scaled.standard(design, weights, center)
    A = Z - w @ Z
    G = (A * w[:, None]).T @ A / np.sqrt(np.outer(w @ (A * A), w @ (A * A)))
    middle = center / view.scale
    # the data themselves are rounded: 1e-16 of a mean 1e8 deviations away
    for found in (
        view.gram(weights, middle),
        view.cross(np.arange(4), weights, middle),
        view.block_grams(np.arange(4)[None, :], weights, middle)[0, ...],
    ):
        np.testing.assert_allclose(to_host(found), G, atol=1e-7)
    np.testing.assert_allclose(
        to_host(view.squared_norms(weights, middle)), np.ones(4), rtol=1e-7
    )


def test_sparse_columns_have_their_own_deviation(rng):
    # full and nearly full columns of large mean
    X = 1e6 + rng.standard_normal((200, 2))
    X[7, 1] = 0
    w = rng.random(200)
    w /= w.sum()
    center = w @ X
    found = as_design(scipy.sparse.csc_array(X)).squared_norms(w, center)
    np.testing.assert_allclose(found, w @ (X - center) ** 2, rtol=1e-8)


# -- recognising what X is -------------------------------------------------------------


def test_floats_are_not_copied(backend, dtype, rng):
    X = backend.array(rng.standard_normal((4, 3)), dtype)
    design = as_design(X)
    assert isinstance(design, Dense)
    assert design.X is X
    assert as_design(design) is design


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("int8", "float64"),
        ("bool", "float64"),
        ("uint16", "float64"),
        ("float16", "float32"),
        (">f8", "float64"),
        ("longdouble", "float64"),
        ("object", "float64"),
    ],
)
def test_other_numbers_are_converted(given, expected):
    X = np.array([[1, 0], [0, 1]]).astype(given)
    design = as_design(X)
    assert design.dense().dtype == np.dtype(expected)
    np.testing.assert_array_equal(design.dense(), np.eye(2))
    if given not in ("float16", "object", ">f8", "longdouble"):
        sparse = as_design(scipy.sparse.csr_array(X))
        assert sparse.like.dtype == np.dtype(expected)


def test_tensors_are_converted():
    torch = pytest.importorskip("torch")
    for given, expected in (
        (torch.int32, torch.float64),
        (torch.bool, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        assert as_design(torch.eye(2).to(given)).like.dtype == expected


def test_tables_and_lists():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    np.testing.assert_array_equal(as_design(frame).dense(), frame.to_numpy())
    np.testing.assert_array_equal(as_design([[1, 2], [3, 4]]).dense(), [[1, 2], [3, 4]])


def test_sparse_input_is_left_alone(X):
    for make in (with_duplicates, scipy.sparse.csc_array, scipy.sparse.coo_array):
        given = make(X)
        nnz = given.nnz
        as_design(given).gram(np.ones(30))
        assert given.nnz == nnz
        np.testing.assert_array_equal(given.toarray(), X)


BAD = {
    "vector": (np.ones(3), r"two dimensions.*\(3,\).*reshape"),
    "cube": (np.ones((2, 2, 2)), "two dimensions"),
    "no rows": (np.ones((0, 3)), r"at least one row.*\(0, 3\)"),
    "no columns": (np.ones((3, 0)), r"at least one row.*\(3, 0\)"),
    "no rows, sparse": (scipy.sparse.csr_array((0, 3)), r"at least one row.*\(0, 3\)"),
    "complex": (np.ones((2, 2), complex), "real numbers.*complex"),
    "complex, sparse": (
        scipy.sparse.csr_array(np.ones((2, 2), complex)),
        "real numbers",
    ),
    "text": (np.array([["a", "b"]]), "real numbers"),
    "text objects": (np.array([["a", 1]], object), "could not convert"),
    "dates": (np.array([["2020-01-01"]], "datetime64[D]"), "real numbers"),
    "masked": (np.ma.masked_less(np.arange(4.0).reshape(2, 2), 1), "masked"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_design(name):
    X, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        as_design(X)


def test_complex_tensors_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"real numbers.*complex"):
        as_design(torch.ones((2, 2), dtype=torch.complex64))


def test_masked_arrays_without_masks_are_arrays():
    X = np.ma.array(np.eye(3), mask=False)
    np.testing.assert_array_equal(as_design(X).dense(), np.eye(3))


# -- the cache -------------------------------------------------------------------------


class _Counting(Dense):
    """Counts the columns whose products are taken."""

    def __init__(self, X):
        super().__init__(X)
        self.fetched = []

    def _around(self, ids, center):
        self.fetched.extend(ids.tolist())
        return super()._around(ids, center)


def test_each_row_is_computed_once(rng):
    X, w = rng.standard_normal((20, 100)), np.full(20, 0.05)
    design = _Counting(X)
    cache = CrossRows(design, w, None)
    G = (X * w[:, None]).T @ X
    for _ in range(30):
        ids = rng.permutation(100)[:7]
        slots = cache.get(ids, likely=rng.permutation(100)[:50])
        np.testing.assert_allclose(cache.rows[slots], G[ids], atol=1e-12)
        np.testing.assert_allclose(
            cache.gram(slots, ids), G[np.ix_(ids, ids)], atol=1e-12
        )
        for shape in ((7,), (7, 2)):
            z = rng.standard_normal(shape)
            np.testing.assert_allclose(
                cache.combine(slots, z), G[:, ids] @ z, atol=1e-12
            )
        assert cache.has(ids)
    assert len(design.fetched) == len(set(design.fetched)) == cache.used


def test_the_cache_stops_at_its_limit(rng):
    X, w = rng.standard_normal((20, 50)), np.full(20, 0.05)
    cache = CrossRows(Dense(X), w, None, cache_bytes=10 * 50 * 8)
    assert cache.capacity == 10
    assert cache.get(np.arange(8)) is not None
    assert cache.get(np.arange(8, 12)) is None
    assert cache.get(np.arange(8, 10), likely=np.arange(10, 30)) is not None
    assert cache.used == 10
    assert cache.get(np.arange(10)) is not None
    assert not cache.has(np.array([10]))
    assert CrossRows(Dense(X), w, None, cache_bytes=0).get(np.array([1])) is None


def test_nothing_is_fetched_for_nothing(rng):
    design = _Counting(rng.standard_normal((20, 5)))
    cache = CrossRows(design, np.full(20, 0.05), None)
    assert len(cache.get(np.empty(0, np.int64), likely=np.arange(5))) == 0
    assert design.fetched == []


def test_sparse_keeps_what_is_sparse(rng):
    X = scipy.sparse.random_array((2000, 3000), density=1e-3, rng=rng, format="csr")
    design = as_design(X)
    assert isinstance(design, Sparse)
    C = design.cross(np.arange(5), np.ones(2000))
    expected = (X[:, :5].T @ X).toarray()
    np.testing.assert_allclose(C, expected, atol=1e-12)


class _Slow(Dense):
    """Lets other threads in whenever columns are asked for."""

    interrupted = False

    def columns(self, ids):
        time.sleep(0.01)
        if self.interrupted:
            raise KeyboardInterrupt
        return super().columns(ids)

    def cross(self, ids, w, center=None):
        self.columns(ids)
        return super().cross(ids, w, center)

    def cross_and_norms(self, ids, w, center=None, part=slice(None)):
        self.columns(ids)
        return super().cross_and_norms(ids, w, center, part)


@pytest.mark.parametrize("kind", [CrossRows, Grams])
def test_threads_share_a_cache(kind, rng):
    X, w = rng.standard_normal((30, 12)), rng.random(30)
    G = X.T @ (X * w[:, None])
    cache = kind(_Slow(X), w, None)

    def ask(seed):
        ids = np.random.default_rng(seed).permutation(12)
        if kind is Grams:
            return cache.get(ids), G[np.ix_(ids, ids)]
        slots = cache.get(ids)
        return cache.rows[slots], G[ids]

    with ThreadPoolExecutor(4) as pool:
        for found, expected in pool.map(ask, range(8)):
            close(found, expected)
    twin = copy.deepcopy(cache)  # with a lock of its own
    close(*[c.get(np.arange(3)) for c in (twin, cache)])


@pytest.mark.parametrize("kind", [CrossRows, Grams])
def test_an_interrupt_leaves_a_cache_right(kind, rng):
    X, w, ids = rng.standard_normal((30, 5)), rng.random(30), np.arange(4)
    G = X.T @ (X * w[:, None])
    design = _Slow(X)
    cache = kind(design, w, None)
    cache.get(ids[:1])
    design.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        cache.get(ids)
    design.interrupted = False
    found = cache.get(ids)
    if kind is Grams:
        close(found, G[:4, :4])
    else:
        close(cache.rows[found], G[:4])
