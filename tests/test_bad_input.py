"""Data as they come: a clear error, or a stated and safe behaviour."""

import re

import numpy as np
import pytest
import scipy.sparse

from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import solve, solvers
from vitalfew.objectives import (
    Cox,
    Huber,
    LeastSquares,
    Logistic,
    Multinomial,
    Poisson,
    Quadratic,
)
from vitalfew.solution import Status
from vitalfew.structures import Cardinality, Groups, Rows

NAMES = list(DATA_PROBLEMS)


@pytest.fixture
def X(rng):
    return rng.standard_normal((20, 4))


def build(name, table, X=None, **options):
    return DATA_PROBLEMS[name].build(
        table.X if X is None else X, table.targets, **options
    )


# -- X ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_x_that_is_not_finite(name, intercept, bad, backend, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    table.X[7, 2] = bad
    kind = "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(ValueError, match=rf"X must be finite.*\[7, 2\] \({kind}\)"):
        build(name, table, backend.array(table.X), fit_intercept=intercept)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_sparse_x_that_is_not_finite(name, bad, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    table.X[7, 2] = bad
    for make in (scipy.sparse.csr_array, scipy.sparse.csc_matrix):
        with pytest.raises(ValueError, match="X must be finite, but 1 of"):
            build(name, table, make(table.X))


@pytest.mark.parametrize("name", NAMES)
def test_bad_x_in_a_row_without_weight_is_still_seen(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    table.X[7, 2] = np.nan
    table.weight[7] = 0
    with pytest.raises(ValueError, match="X must be finite"):
        build(name, table, sample_weight=table.weight)


@pytest.mark.parametrize("name", NAMES)
def test_one_feature_and_two_rows(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng, p=1)
    solution = solve(build(name, table, fit_intercept=True), Rows(1))
    assert np.all(np.isfinite(solution.x))
    assert solution.status.ok
    short = make_table(DATA_PROBLEMS["LeastSquares"], rng, n=3, p=5)
    fit = solve(LeastSquares(short.X, short.targets["y"], fit_intercept=True), Rows(5))
    assert np.all(np.isfinite(fit.x))


@pytest.mark.parametrize("name", NAMES)
def test_any_layout_gives_the_same_answer(name, tmp_path, rng):
    """Fortran order, strides, read-only, memory-mapped, big-endian."""
    table = make_table(DATA_PROBLEMS[name], rng)
    expected = solve(build(name, table, l2=0.1), Rows(2))
    wide = np.repeat(table.X, 2, axis=1)
    locked = table.X.copy()
    locked.flags.writeable = False
    mapped = np.memmap(tmp_path / "X", np.float64, "w+", shape=table.X.shape)
    mapped[:] = table.X
    mapped.flush()
    read = np.memmap(tmp_path / "X", np.float64, "r", shape=table.X.shape)
    layouts = {
        "Fortran": np.asfortranarray(table.X),
        "strided": wide[:, ::2],
        "reversed": table.X[:, ::-1].copy()[:, ::-1],
        "read-only": locked,
        "mapped": read,
        "big-endian": table.X.astype(">f8"),
        "list": table.X.tolist(),
    }
    for layout, X in layouts.items():
        solution = solve(build(name, table, X, l2=0.1), Rows(2))
        assert solution.value == pytest.approx(expected.value, rel=1e-9), layout
        np.testing.assert_array_equal(solution.support, expected.support)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "int8", "bool"])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_numbers(name, dtype, rng):
    table = make_table(DATA_PROBLEMS[name], rng, n=80)
    X = np.clip(np.round(2 * table.X), 0, 7).astype(dtype)
    exact = solve(build(name, table, X.astype(float), l2=0.1), Rows(2))
    solution = solve(build(name, table, X, l2=0.1), Rows(2))
    single = np.dtype(dtype).kind == "f"
    assert solution.x.dtype == (np.float32 if single else np.float64)
    assert solution.value == pytest.approx(exact.value, rel=1e-4 if single else 1e-12)


def test_huge_and_tiny_numbers_are_fitted(rng):
    X, x = rng.standard_normal((40, 5)), np.array([0.0, 2.0, 0.0, -1.0, 0.0])
    for size in (1e-100, 1e100):
        solution = solve(LeastSquares(size * X, X @ x), Cardinality(2))
        np.testing.assert_allclose(solution.x * size, x, atol=1e-9)


# -- targets ---------------------------------------------------------------------------

BAD_TARGETS = {
    "NaN": (LeastSquares, [np.nan], "y must be finite.*NaN"),
    "infinity": (Huber, [np.inf], "y must be finite.*infinity"),
    "text": (LeastSquares, ["a"], "y must hold numbers"),
    "complex": (LeastSquares, [1j], "y must hold numbers.*complex"),
    "two classes": (Logistic, [2.0], r"y must hold 0 and 1 only.*2\.0"),
    "negative count": (Poisson, [-1.0], "y must hold counts.*-1"),
    "negative class": (Multinomial, [-1.0], "y must hold classes"),
    "half a class": (Multinomial, [0.5], "y must hold classes"),
    "gap in classes": (Multinomial, [9.0], "class 2 has 0 rows"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_bad_values_of_y(name, X):
    cls, values, words = BAD_TARGETS[name]
    y = np.array([0.0, 1.0] * 10)
    y = y.astype(np.asarray(values).dtype)
    y[3] = values[0]
    with pytest.raises(ValueError, match=words):
        cls(X, y)


ONE_KIND = {
    "Logistic": (Logistic, np.ones(20), r"y must hold both classes, got only \[1.0\]"),
    "Multinomial": (Multinomial, np.zeros(20), "y must hold at least two classes"),
    "Poisson": (Poisson, np.zeros(20), "y must not be all zero"),
}


@pytest.mark.parametrize("name", ONE_KIND)
def test_targets_of_one_kind(name, X):
    cls, y, words = ONE_KIND[name]
    with pytest.raises(ValueError, match=words):
        cls(X, y)


def test_a_class_that_has_no_weight_is_missing(X):
    y = np.array([0.0, 1.0] * 10)
    for cls, words in ((Logistic, "both classes"), (Multinomial, "class 1 has 0")):
        with pytest.raises(ValueError, match=words):
            cls(X, y, sample_weight=1 - y)


@pytest.mark.parametrize("cls", [LeastSquares, Logistic, Poisson, Huber, Multinomial])
@pytest.mark.parametrize("shape", [(19,), (21,), (), (0,)])
def test_y_of_the_wrong_length(cls, shape, X):
    with pytest.raises(
        ValueError, match=r"y must have one entry for each of the 20 rows"
    ):
        cls(X, np.ones(shape))


@pytest.mark.parametrize("cls", [Logistic, Poisson, Huber, Multinomial])
def test_y_with_two_dimensions(cls, X):
    with pytest.raises(ValueError, match=r"y must have shape \(n,\), got \(20, 1\)"):
        cls(X, np.array([[0.0], [1.0]] * 10))


def test_least_squares_with_three_dimensions(X):
    for shape in ((20, 1, 1), (20, 0)):
        with pytest.raises(ValueError, match="y must have shape"):
            LeastSquares(X, np.ones(shape))


def test_y_of_other_kinds(X, rng):
    y = rng.integers(0, 2, 20)
    y[:2] = 0, 1
    expected = Logistic(X, y.astype(float)).value_and_gradient(np.ones(4))[0]
    for given in (y.astype(bool), y.astype("int8"), y.tolist(), y.astype("float32")):
        assert Logistic(X, given).value_and_gradient(np.ones(4))[0] == expected


BAD_SURVIVAL = {
    "zero time": ({"time": 0.0}, "time must be positive, got 0 in row 3"),
    "negative time": ({"time": -2.0}, "time must be positive, got -2 in row 3"),
    "NaN time": ({"time": np.nan}, "time must be finite"),
    "event of two": ({"event": 2}, "event must hold True and False"),
    "NaN event": ({"event": np.nan}, "event must hold True and False"),
}


@pytest.mark.parametrize("name", BAD_SURVIVAL)
def test_bad_survival_times(name, X):
    (changed,), words = list(BAD_SURVIVAL[name][0].items()), BAD_SURVIVAL[name][1]
    given = {"time": np.arange(1.0, 21), "event": np.ones(20)}
    given[changed[0]][3] = changed[1]
    with pytest.raises(ValueError, match=words):
        Cox(X, **given)


def test_survival_of_other_shapes(X):
    time, event = np.arange(1.0, 21), np.ones(20, bool)
    Cox(X, time, event.tolist())
    with pytest.raises(ValueError, match="event must be True somewhere"):
        Cox(X, time, ~event)
    with pytest.raises(ValueError, match="event must be True somewhere"):
        Cox(X, time, time > 10, sample_weight=(time <= 10) * 1.0)
    with pytest.raises(
        ValueError, match="event must have one entry for each of the 20"
    ):
        Cox(X, time, event[:19])
    with pytest.raises(ValueError, match=r"event must have shape \(n,\)"):
        Cox(X, time, event[:, None])
    with pytest.raises(ValueError, match="time must have one entry for each of the 20"):
        Cox(X, time[:19], event)
    with pytest.raises(ValueError, match=r"time must have shape \(n,\)"):
        Cox(X, time[:, None], event)
    with pytest.raises(
        ValueError, match="ties must be 'efron' or 'breslow', got 'exact'"
    ):
        Cox(X, time, event, ties="exact")


# -- weights and settings --------------------------------------------------------------

BAD_WEIGHTS = {
    "negative": (lambda w: np.where(np.arange(len(w)) == 3, -1, w), "negative, got -1"),
    "all zero": (lambda w: 0 * w, "all zero"),
    "NaN": (lambda w: np.nan * w, "finite"),
    "infinite": (lambda w: np.inf * w, "finite"),
    "short": (lambda w: w[:-1], r"shape \(40,\)"),
    "matrix": (lambda w: w[:, None], r"shape \(40,\)"),
    "number": (lambda w: 1.0, r"shape \(40,\)"),
}


@pytest.mark.parametrize("bad", BAD_WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_bad_weights(name, bad, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    change, words = BAD_WEIGHTS[bad]
    with pytest.raises(ValueError, match=f"sample_weight must .*{words}"):
        build(name, table, sample_weight=change(table.weight))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("l2", [-1.0, np.nan, np.inf, "1"])
def test_bad_ridge(name, l2, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    with pytest.raises(ValueError, match=f"l2 must be .*{re.escape(repr(l2))}"):
        build(name, table, l2=l2)


@pytest.mark.parametrize("delta", [0, -1.0, np.nan])
def test_bad_delta(delta, X):
    with pytest.raises(ValueError, match="delta must be"):
        Huber(X, X[:, 0], delta=delta)


BAD_QUADRATICS = {
    "shape": (np.eye(3), np.ones((2, 4)), r"H must have shape.*\(3, 3\) and \(2, 4\)"),
    "vector": (np.eye(3), np.ones(3), "H must have shape"),
    "asymmetric": (np.triu(np.ones((3, 3))), np.ones((2, 3)), "H must be symmetric"),
    "NaN in H": (np.diag([1.0, np.nan, 1.0]), np.ones((2, 3)), "H must be finite"),
    "NaN in B": (np.eye(3), np.full((2, 3), np.nan), "B must be finite"),
}


@pytest.mark.parametrize("name", BAD_QUADRATICS)
def test_bad_quadratics(name):
    H, B, words = BAD_QUADRATICS[name]
    with pytest.raises(ValueError, match=words):
        Quadratic(H, B)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool"])
def test_quadratics_of_other_numbers(dtype):
    f = Quadratic(np.eye(3, dtype=dtype), np.ones((2, 3), dtype=dtype))
    assert f.like.dtype == (np.float32 if dtype.startswith("float") else np.float64)
    np.testing.assert_allclose(solve(f, Cardinality(6)).x, np.ones((2, 3)))


# -- the budget and the structure at the door ------------------------------------------


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (Cardinality(5), r"n_nonzero .*0 to 4 .*got 5"),
        (Rows(5), r"n_rows .*0 to 4 .*got 5"),
        (Groups([0, 1, 1], 1), r"labels .*\(4,\).*\(3,\)"),
        (Groups([0, 1, 1, 2], 4), r"n_groups .*0 to 3 .*got 4"),
        (Cardinality(2, keep=(7,)), r"keep .*0 to 3.*\(7,\)"),
    ],
)
def test_structures_that_do_not_fit(structure, words, X):
    with pytest.raises(ValueError, match=words):
        solve(LeastSquares(X, X[:, 0]), structure)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cardinality(-1), r"n_nonzero .*at least 0, got -1"),
        (lambda: Cardinality(2.0), r"n_nonzero .*got 2.0"),
        (lambda: Cardinality(True), r"n_nonzero .*got True"),
        (lambda: Cardinality(), r"exactly one of n_nonzero and density"),
        (lambda: Cardinality(2, density=0.5), r"exactly one of n_nonzero and density"),
        (lambda: Cardinality(density=2), r"density .*got 2"),
        (lambda: Rows(-1), r"n_rows .*got -1"),
        (lambda: Groups([0, 1], -1), r"n_groups .*got -1"),
        (lambda: Groups([0, 1], costs=[1, 1], max_cost=-1), r"max_cost .*-1"),
        (lambda: Cardinality(2).n_atoms, r"does not know the shape of x"),
        (lambda: Cardinality(density=0.5).budget, r"does not know the shape of x"),
    ],
)
def test_budgets_that_make_no_sense(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_no_cost_can_be_paid(X):
    structure = Groups([0, 1, 2, 3], costs=[5, 6, 7, 8], max_cost=4)
    solution = solve(LeastSquares(X, X[:, 0]), structure)
    assert not solution.x.any()
    assert solution.status is Status.CONVERGED


# -- hard data -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_constant_duplicate_and_empty_columns(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng, n=80)
    constant, empty = np.full((80, 1), 1e4), np.zeros((80, 1))
    X = np.concatenate((table.X, constant, empty, table.X[:, :2]), axis=1)
    f = build(name, table, X, fit_intercept=True)
    plain = build(name, table, fit_intercept=True)
    for solver in (None, solvers.OMP(), solvers.LocalSearch()):
        for k in (2, 6, 10):
            solution = solve(f, Rows(k), solver)
            assert np.all(np.isfinite(solution.x))
            assert solution.status.ok
            value, _ = f.value_and_gradient(solution.x)
            assert solution.value == pytest.approx(value, rel=1e-7)
            # nothing beyond the columns that differ can be gained
            least = plain.refit(Rows(6).on(plain.shape).support(range(6))).value
            if DATA_PROBLEMS[name].has_intercept:
                assert solution.value >= least * (1 - 1e-7)


def test_perfectly_ordered_survival_stops(rng):
    """The partial likelihood then has no maximiser."""
    X = rng.standard_normal((40, 3))
    f = Cox(X, np.exp(-X[:, 1]), np.ones(40))
    solution = solve(f, Cardinality(1), solvers.OMP())
    assert solution.support.tolist() == [1]
    assert np.all(np.isfinite(solution.x))


def test_counts_that_are_zero_wherever_a_column_is_not(rng):
    """The best coefficient is minus infinity."""
    X = rng.standard_normal((60, 3))
    X[:, 1] = rng.random(60) < 0.5
    y = rng.poisson(3.0, 60) * (X[:, 1] == 0) * 1.0
    solution = solve(Poisson(X, y, fit_intercept=True), Cardinality(1))
    assert solution.support.tolist() == [1]
    assert np.all(np.isfinite(solution.x))


def test_predictors_that_overflow_stay_errors_not_answers(rng):
    X = 1e3 * rng.standard_normal((40, 3))
    y = rng.poisson(2.0, 40) + 1.0
    f = Poisson(X, y, fit_intercept=True)
    value, _ = f.value_and_gradient(np.zeros(3))
    solution = solve(f, Cardinality(2))
    assert np.all(np.isfinite(solution.x))
    assert solution.value <= value


def test_outliers_do_not_break_huber(rng):
    X = rng.standard_normal((60, 4))
    y = X[:, 2] + 0.1 * rng.standard_normal(60)
    y[:3] = 1e5
    solution = solve(Huber(X, y, delta=0.3, fit_intercept=True), Cardinality(1))
    assert solution.support.tolist() == [2]
    assert solution.x[2] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_array])
@pytest.mark.parametrize("index", [-1, 7])
def test_sparse_matrices_with_indices_out_of_range(kind, index):
    X = kind(np.eye(4))
    X.indices[2] = index
    with pytest.raises(ValueError, match="X must be a valid sparse matrix"):
        LeastSquares(X, np.ones(4))
