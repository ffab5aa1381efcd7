"""Refits of a quadratic on many rows, by factorisations or by conjugate gradients."""

import numpy as np
import pytest

from vitalfew import solve
from vitalfew._arrays import solve_posdef, solve_posdef_many, to_host
from vitalfew.objectives import Quadratic
from vitalfew.objectives import _rows_of_free_entries as row_systems
from vitalfew.objectives._rows_of_free_entries import RowSystems
from vitalfew.solvers import HTP, IHT
from vitalfew.structures import NM, Blocks, Cardinality

CLOSE = {"float64": 1e-9, "float32": 2e-3}


def layer(rng, n_out=12, n_in=20, n=60, condition=30.0):
    """Correlated inputs and the weights that read them."""
    X = rng.standard_normal((n, n_in)) * np.geomspace(1, 1 / condition, n_in)
    X = X @ rng.standard_normal((n_in, n_in)) + 0.3 * rng.standard_normal((n, n_in))
    H = X.T @ X / n
    return H, rng.standard_normal((n_out, n_in)) @ H


def row_by_row(H, B, free, extra=None):
    """The minimiser by one least-norm solve for each row."""
    W = np.zeros_like(B)
    for r, ids in enumerate(map(np.flatnonzero, free)):
        G = H[np.ix_(ids, ids)]
        if extra is not None:
            G = G + np.diag(extra[r, ids])
        W[r, ids] = np.linalg.lstsq(G, B[r, ids])[0]
    return W


def patterns(rng, n_out=12, n_in=20):
    ragged = rng.random((n_out, n_in)) < np.linspace(0, 1, n_out)[:, None]
    shared = np.repeat(rng.random((n_out // 4, n_in)) < 0.4, 4, axis=0)
    mixed = np.where(np.arange(n_out)[:, None] % 3 == 0, shared[0], ragged)
    return {"ragged": ragged, "shared": shared, "mixed": mixed, "all": ragged | True}


@pytest.fixture(params=["exact", "iterated"])
def way(request, monkeypatch):
    """Make one of the two ways the cheaper one."""
    if request.param == "iterated":
        monkeypatch.setattr(row_systems, "SMALL", 0)
        monkeypatch.setattr(row_systems, "ITERATIONS", 0)
        monkeypatch.setattr(row_systems, "FACTOR", 1e9)
        monkeypatch.setattr(
            RowSystems, "_exact", lambda self, alike: pytest.fail("was factorised")
        )
    else:
        monkeypatch.setattr(
            RowSystems, "_iterated", lambda *args: pytest.fail("was iterated")
        )
    return request.param


@pytest.mark.parametrize("pattern", ["ragged", "shared", "mixed", "all"])
@pytest.mark.parametrize("ridge", [False, True])
def test_a_refit_minimises_each_row(pattern, ridge, way, kind, rng):
    backend, dtype = kind
    H, B = layer(rng)
    free = patterns(rng)[pattern]
    f = Quadratic(backend.array(H, dtype), backend.array(B, dtype))
    extra = None
    if ridge:
        extra = rng.random(B.shape)
        f = f.with_ridge(backend.array(extra, dtype))
    span = Cardinality(0).on(B.shape).support(rng.permutation(np.flatnonzero(free)))
    fit = f.refit(span)
    expected = row_by_row(H, B, free, extra)
    error = np.abs(to_host(fit.x) - expected).max() / np.abs(expected).max()
    assert error < CLOSE[dtype]
    assert not to_host(fit.x)[~free].any()
    np.testing.assert_array_equal(to_host(span.embed(fit.z)), to_host(fit.x))


def test_a_warm_start_is_gone_on_from(rng, monkeypatch):
    monkeypatch.setattr(row_systems, "SMALL", 0)
    monkeypatch.setattr(row_systems, "ITERATIONS", 0)
    H, B = layer(rng)
    f, free = Quadratic(H, B), patterns(rng)["mixed"]
    span = Cardinality(0).on(B.shape).support(np.flatnonzero(free))
    fit = f.refit(span)
    products = []
    real = row_systems._conjugate_gradients

    def counted(H, *rest):
        class Counting:
            __array_ufunc__ = None

            def __rmatmul__(self, other):
                products.append(len(other))
                return other @ H

        return real(Counting(), *rest)

    monkeypatch.setattr(row_systems, "_conjugate_gradients", counted)
    again = f.refit(span, start=fit)
    assert len(products) == 1  # it is solved already
    np.testing.assert_allclose(again.z, fit.z, atol=1e-12)
    products.clear()
    f.refit(span)
    assert 1 < len(products) <= 2 * 20
    assert products[-1] < products[0]  # rows that are solved go


def test_rows_that_do_not_converge_are_factorised(rng):
    H, B = layer(rng, condition=1e5)
    free = patterns(rng)["ragged"]
    systems = RowSystems(H, B, None, free)
    W = systems._iterated(None, 3)
    np.testing.assert_allclose(W, row_by_row(H, B, free), rtol=1e-6, atol=1e-8)


def test_single_precision_is_as_accurate_as_it_says(rng, monkeypatch):
    """The value is above the least by the square of the residual, times a condition."""
    monkeypatch.setattr(row_systems, "SMALL", 0)
    monkeypatch.setattr(row_systems, "ITERATIONS", 0)
    H, B = layer(rng, n_out=64, n_in=96, n=300)
    free = rng.random(B.shape) < 0.5
    W = RowSystems(H.astype("f"), B.astype("f"), None, free)._iterated(None, 200)
    exact = row_by_row(H, B, free)
    value = Quadratic(H, B).value_and_gradient
    least = value(exact)[0]
    assert value(W.astype(float))[0] - least <= 1e-6 * abs(least)
    slope = np.where(free, W @ H - B, 0) / np.sqrt(np.diagonal(H))
    size = np.where(free, B, 0) / np.sqrt(np.diagonal(H))
    ratio = np.linalg.norm(slope, axis=1) / np.linalg.norm(size, axis=1)
    assert ratio.max() < 3 * np.finfo("f").eps ** 0.75


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e12])
def test_units_do_not_matter(scale, way, kind, rng):
    backend, dtype = kind
    H, B = layer(rng)
    free = patterns(rng)["mixed"]
    W = [
        to_host(
            RowSystems(
                backend.array(s * H, dtype), backend.array(s * B, dtype), None, free
            ).minimiser(None)
        )
        for s in (1.0, scale)
    ]
    np.testing.assert_allclose(*W, atol=CLOSE[dtype] * np.abs(W[0]).max())


@pytest.mark.parametrize("seed", range(3))
def test_dead_and_duplicate_inputs_are_harmless(seed, way, kind):
    backend, dtype = kind
    rng = np.random.default_rng(seed)
    H, B = layer(rng)
    same = np.arange(20)
    same[[3, 7]] = 5  # three inputs that are one
    alive = np.arange(20) % 9 != 2
    H, B = H[np.ix_(same, same)] * np.outer(alive, alive), B[:, same] * alive
    free = patterns(rng)["mixed"]
    f = Quadratic(backend.array(H, dtype), backend.array(B, dtype))
    span = Cardinality(0).on(B.shape).support(np.flatnonzero(free))
    fit = f.refit(span)
    x = to_host(fit.x)
    assert not x[:, ~alive].any()
    expected = row_by_row(H, B, free)
    assert np.abs(x).max() <= 1.5 * np.abs(expected).max()
    least = Quadratic(H, B).value_and_gradient(expected)[0]
    assert fit.value == pytest.approx(least, rel=CLOSE[dtype])


def test_many_systems_are_solved_as_one_is(kind, rng):
    backend, dtype = kind
    root = rng.standard_normal((7, 5, 9)) * 10.0 ** rng.integers(-5, 6, (7, 5, 1))
    root[2, 1] = root[2, 0]  # of less than full rank
    root[4, 3] = 0
    root[5] = 0
    G = backend.array(root @ root.transpose(0, 2, 1), dtype)
    b = backend.array(rng.standard_normal((7, 5, 2)), dtype)
    many = to_host(solve_posdef_many(G, b))
    for i in range(7):
        one = to_host(solve_posdef(G[i, ...], b[i, ...]))
        np.testing.assert_allclose(many[i], one, rtol=CLOSE[dtype], atol=1e-30)


def test_rows_that_share_a_support_share_a_factorisation(rng, monkeypatch):
    H, B = layer(rng, n_out=64, n_in=24)
    bound = Blocks((16, 1), density=0.5).on(B.shape)
    sizes = []
    real = row_systems.solve_posdef_many

    def counted(G, b):
        sizes.append((G.shape[0], b.shape[2]))
        return real(G, b)

    monkeypatch.setattr(row_systems, "solve_posdef_many", counted)
    Quadratic(H, B).refit(bound.largest(B))
    assert sum(n for n, _ in sizes) == 4
    assert {q for _, q in sizes} == {16}


def test_batches_hold_each_set_once_and_fit(rng, monkeypatch):
    monkeypatch.setattr(row_systems, "BATCH", 2000)
    free = rng.random((200, 40)) < rng.random((200, 1))
    free[50:90] = free[50]
    systems = RowSystems(np.eye(40), np.zeros((200, 40)), None, free)
    alike = systems._alike()
    found = []
    for batch in row_systems._batches(alike):
        widths, heights = [len(a.free) for a in batch], [len(a.rows) for a in batch]
        assert len(batch) * max(widths) * max(*widths, *heights) <= 2000 or (
            len(batch) == 1
        )
        assert min(widths) >= 0.9 * max(widths) - 4
        found += [int(r) for a in batch for r in a.rows]
    assert sorted(found) == np.flatnonzero(free.any(axis=1)).tolist()


def test_nothing_free(kind):
    backend, dtype = kind
    f = Quadratic(
        backend.array(np.eye(3), dtype), backend.array(np.ones((2, 3)), dtype)
    )
    fit = f.refit(Cardinality(0).on((2, 3)).support([]))
    assert fit.value == 0
    assert not to_host(fit.x).any()


def test_the_choice_follows_the_cost(rng, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        RowSystems, "_exact", lambda self, alike: chosen.append("exact")
    )
    monkeypatch.setattr(
        RowSystems, "_iterated", lambda self, start, most: chosen.append("iterated")
    )
    n = 1024
    H = np.broadcast_to(np.float32(0), (n, n))  # never looked at
    for density, width in ((0.02, 1), (0.5, 1), (0.5, 256)):
        some = rng.random((n // width, n)) < density
        free = np.repeat(some, width, axis=0)
        RowSystems(H, H, None, free).minimiser(None)
    assert chosen == ["exact", "iterated", "exact"]


def test_a_matrix_that_is_symmetric_but_for_rounding_is_made_so(rng):
    H, B = layer(rng)
    noisy = H + 1e-6 * H.max() * np.triu(rng.standard_normal(H.shape))
    f = Quadratic(noisy, B)
    np.testing.assert_array_equal(f.H, f.H.T)
    x = rng.standard_normal(B.shape)
    value = 0.5 * np.sum(x * (x @ noisy)) - np.sum(B * x)
    assert f.value_and_gradient(x)[0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "structure",
    [Cardinality(density=0.3), Blocks((4, 1), density=0.3), NM(2, 4)],
    ids=["Cardinality", "Blocks", "NM"],
)
def test_a_layer_is_pruned_better_than_by_magnitude(structure, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    H, B = layer(rng, n_out=32, n_in=48, n=200)
    W = B @ np.linalg.inv(H)
    f = Quadratic(
        torch.tensor(H, dtype=torch.float32), torch.tensor(B, dtype=torch.float32)
    )
    bound = structure.on(B.shape)
    magnitude = f.refit(bound.largest(W))
    for solver in (IHT(), HTP()):
        solution = solve(f, structure, solver, start=magnitude)
        assert bound.contains(solution.x)
        assert solution.value < magnitude.value
