"""Exchanges in a quadratic model, against refits of the quadratic."""

import numpy as np
import pytest
import scipy.sparse

from vitalfew import _native
from vitalfew._native import _twins
from vitalfew.designs import Scaled, as_design
from vitalfew.linalg import (
    QuadraticModel,
    exchange,
    group_exchanges,
    single_exchanges,
)
from vitalfew.objectives import LeastSquares, Logistic
from vitalfew.structures import Cardinality, Groups


def problem(seed, p=9, q=1):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((3 * p, p))
    return X.T @ X / len(X), rng.standard_normal((p, q))


def minimum(H, B, ids):
    return -0.5 * np.sum(B[ids] * np.linalg.solve(H[np.ix_(ids, ids)], B[ids]))


def model_at(H, B, ids):
    z = np.linalg.solve(H[np.ix_(ids, ids)], B[ids])
    gradient = H[:, ids] @ z - B
    return QuadraticModel(H[ids], H[np.ix_(ids, ids)], z, gradient, np.diag(H).copy())


@pytest.fixture(params=["compiled", "twins"], autouse=True)
def loops(request, monkeypatch):
    """Once with the compiled loops, once with NumPy's."""
    if request.param == "twins":
        for name in ("best_single_exchanges", "best_group_exchanges"):
            monkeypatch.setattr(_native, name, getattr(_twins, name))
    elif not _native.COMPILED:
        pytest.skip("installed without the compiled part")


def test_single_exchanges_are_exact_and_ordered():
    for seed in range(10):
        H, B = problem(seed, q=1 + seed % 2)
        inside = np.array([4, 0, 7])
        found = single_exchanges([model_at(H, B, inside)], inside, 9, None)
        assert set(found.into.tolist()) == set(range(9)) - {4, 0, 7}
        assert np.all(np.diff(found.gain) <= 0)
        before = minimum(H, B, inside)
        for out, into, gain in zip(*found, strict=True):
            gains = [
                before - minimum(H, B, np.append(np.delete(inside, h), into))
                for h in range(3)
            ]
            assert gain == pytest.approx(max(gains), rel=1e-9, abs=1e-12)
            assert gain == pytest.approx(gains[out], rel=1e-9, abs=1e-12)


def test_several_models_add_their_gains():
    H, B = problem(3)
    G, D = problem(4)
    inside = np.array([1, 2])
    models = [model_at(H, B, inside), model_at(G, D, inside)]
    found = single_exchanges(models, inside, 9, None)
    before = minimum(H, B, inside) + minimum(G, D, inside)
    for out, into, gain in zip(*found, strict=True):
        ids = np.append(np.delete(inside, out), into)
        exact = before - minimum(H, B, ids) - minimum(G, D, ids)
        assert gain == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_group_exchanges_are_exact():
    members = [[0, 5], [1], [2, 3, 8], [4], [6, 7]]
    table = np.full((5, 3), -1)
    for g, ids in enumerate(members):
        table[g, : len(ids)] = ids
    for seed in range(10):
        H, B = problem(seed, q=1 + seed % 2)
        inside = np.array([2, 0])
        ids = np.array([2, 3, 8, 0, 5])
        found = group_exchanges(
            model_at(H, B, ids),
            table,
            np.array([0, 3, 5]),
            inside,
            lambda table, H=H: H[table[:, :, None], table[:, None, :]],
            5,
            None,
        )
        assert set(found.into.tolist()) == {1, 3, 4}
        before = minimum(H, B, ids)
        for out, into, gain in zip(*found, strict=True):
            new = np.concatenate((members[inside[1 - out]], members[into]))
            exact = before - minimum(H, B, new)
            # small pivots are floored at 1e-9 of the curvature
            assert gain == pytest.approx(exact, rel=1e-6, abs=1e-8)


def test_only_allowed_exchanges_come_back():
    H, B = problem(1)
    inside = np.array([4, 0])
    allowed = np.zeros((2, 9), bool)
    allowed[1, [2, 3]] = True
    for models in ([model_at(H, B, inside)], [model_at(H, B, inside)] * 2):
        found = single_exchanges(models, inside, 9, allowed)
        assert set(found.into.tolist()) == {2, 3}
        assert found.out.tolist() == [1, 1]
        none = single_exchanges(models, inside, 9, np.zeros((2, 9), bool))
        assert len(none.into) == 0


def test_count_is_respected_and_nothing_gives_nothing():
    H, B = problem(1)
    inside = np.array([4, 0])
    model = model_at(H, B, inside)
    assert len(single_exchanges([model], inside, 3, None).into) == 3
    assert len(single_exchanges([model], inside, 0, None).into) == 0
    empty = np.empty(0, np.int64)
    assert len(single_exchanges([model_at(H, B, empty)], empty, 3, None).into) == 0


@pytest.mark.parametrize("seed", range(30))
def test_a_support_of_dependent_columns_gives_finite_gains(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((20, 7))
    X[:, 1] = X[:, 0]
    X[:, 5] = 0
    H, B = X.T @ X / 20, X.T @ rng.standard_normal((20, 1)) / 20
    inside = np.array([0, 1, 5])
    z = np.linalg.pinv(H[np.ix_(inside, inside)]) @ B[inside]
    model = QuadraticModel(
        H[inside], H[np.ix_(inside, inside)], z, H[:, inside] @ z - B, np.diag(H).copy()
    )
    found = single_exchanges([model], inside, 7, None)
    assert np.all(np.isfinite(found.gain))
    assert set(found.into.tolist()) == {2, 3, 4, 6}
    # the copy or the empty column leaves for nothing; nothing brings more than it can
    best = min(minimum(H, B, np.array([0, j])) for j in found.into)
    assert found.gain.max() <= (minimum(H, B, np.array([0])) - best) * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("storage", ["dense", "Fortran", "sparse", "scaled"])
def test_gains_come_in_runs_of_columns(storage, intercept, monkeypatch):
    """Where not all rows of the Hessian fit, the answer is the same."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 700)) + 0.5
    X[rng.random(X.shape) < 0.5] = 0.0
    X[:, 3] = 2.0 * intercept  # constant or empty
    y = X[:, 5] - X[:, 600] + 0.1 * rng.standard_normal(40)
    design = {
        "dense": X,
        "Fortran": np.asfortranarray(X),
        "sparse": scipy.sparse.csr_array(X),
        "scaled": Scaled(as_design(X), rng.random(700) + 0.5),
    }[storage]
    structures = (
        Cardinality(4).on((700,)),
        Groups(np.repeat(np.arange(233), 3 + np.eye(1, 233, 7, int)[0]), 3).on((700,)),
        Groups(np.arange(700) % 200, 2).on((700,)),
    )
    for structure in structures:
        some = structure.support(np.array([2, 0, 9, 1])[: structure.budget])
        for f in (
            LeastSquares(design, y, l2=0.1, fit_intercept=intercept),
            LeastSquares(design, y, l2=0.1, fit_intercept=intercept, cache_bytes=0),
            Logistic(design, (y > 0) * 1.0, l2=0.1, fit_intercept=intercept),
        ):
            fit = f.refit(some)
            whole = f.swap_gains(structure, fit, 50)
            monkeypatch.setattr(exchange, "RUN", 1)  # 256 columns at a time
            parts = f.swap_gains(structure, fit, 50)
            monkeypatch.undo()
            np.testing.assert_array_equal(whole.into, parts.into)
            np.testing.assert_array_equal(whole.out, parts.out)
            np.testing.assert_allclose(whole.gain, parts.gain, rtol=1e-8)
