"""Laws that every exported solver obeys."""

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass

import numpy as np
import pytest
import scipy.sparse

from tests.contracts.brute_force import optimum
from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import solve, solvers
from vitalfew._arrays import to_host
from vitalfew.contracts import Penalty, Solver, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Multinomial, Quadratic, Smooth
from vitalfew.solution import Status
from vitalfew.structures import Cardinality, Groups, Rows

ALL = {name: getattr(solvers, name) for name in solvers.__all__}
ON_STRUCTURES = [name for name, cls in ALL.items() if cls.accepts is not Penalty]
MONOTONE = [
    n for n in ON_STRUCTURES if "f never rises" in " ".join(ALL[n].__doc__.split())
]

INTERLEAVED = [1, 0, 2, 1, 3, 0, 2, 1, 4, 4]
STRUCTURES = {
    "Cardinality": Cardinality(3),
    "Cardinality, kept": Cardinality(3, keep=(7,)),
    "Groups, unequal": Groups([0, 0, 0, 1, 2, 2, 3, 3, 3, 4], 2),
    "Groups, interleaved": Groups(INTERLEAVED, 2, keep=(3,)),
    "Groups, costs": Groups(INTERLEAVED, costs=[2.0, 3.0, 2.0, 1.0, 4.0], max_cost=6),
    "Rows": Rows(3),
}


@pytest.fixture(params=ON_STRUCTURES)
def solver(request):
    return ALL[request.param]()


@pytest.fixture(params=STRUCTURES)
def structure(request):
    return STRUCTURES[request.param]


def table_of(rng, outputs=1, n=60, p=10):
    """Correlated columns, three of which make y."""
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)))
    y = X[:, [1, 4, 8]] @ rng.choice([-1.0, 1.0], (3, outputs))
    y = y + 0.5 * rng.standard_normal(y.shape)
    return X, y[:, 0] if outputs == 1 else y


# float32 carries seven digits; refits of a value v are stationary to about root(eps v)
ROUGH = {"float64": 1e-9, "float32": 1e-4}
FLAT = {"float64": 1e-5, "float32": 5e-3}


def check(objective, structure, solution, dtype="float64"):
    """What is promised of every answer."""
    bound = structure.on(objective.shape)
    assert tuple(solution.x.shape) == tuple(objective.shape)
    assert solution.x.dtype == objective.like.dtype
    x = to_host(solution.x)
    assert np.all(np.isfinite(x))
    assert bound.contains(solution.x)
    assert bound.allows(solution.fit.support)
    assert np.all(np.diff(solution.support) > 0)
    used = np.flatnonzero(bound.scores(solution.x))
    assert set(used) <= set(solution.support.tolist())
    value, gradient = objective.value_and_gradient(solution.x)
    assert solution.value == pytest.approx(value, rel=ROUGH[dtype], abs=ROUGH[dtype])
    slope = to_host(solution.fit.support.restrict(gradient))
    assert np.abs(slope).max(initial=0) < FLAT[dtype]
    assert solution.status.ok
    assert solution.value <= min(solution.history) + ROUGH[dtype]
    # a budget that is not used up has nothing left to gain
    more = bound.strongest(gradient, solution.fit.support, bound.n_atoms)
    assert (solution.status is Status.FEWER) == (len(more) > 0)
    for position in range(len(more)):
        joined = bound.join(solution.fit.support, bound.pick(more, position))
        gain = solution.value - objective.refit(joined).value
        assert gain <= ROUGH[dtype] * max(1.0, abs(solution.value))


# -- the classes themselves ------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_solver_is_a_frozen_record_of_settings(name):
    cls = ALL[name]
    assert issubclass(cls, Solver)
    assert is_dataclass(cls)
    made = cls()  # every field has a default
    assert made == cls()
    for setting in fields(cls):
        with pytest.raises(FrozenInstanceError):
            setattr(made, setting.name, 1)
    for attribute in ("cost", "guarantee", "use"):
        assert getattr(cls, attribute)
    with pytest.raises(TypeError):
        cls(1)  # keyword only


# -- answers ---------------------------------------------------------------------------


def test_no_answer_is_below_the_optimum(solver, structure, rng):
    X, y = table_of(rng)
    f = LeastSquares(X, y)
    solution = solve(f, structure, solver)
    check(f, structure, solution)
    assert solution.value >= optimum(f, structure.on(f.shape)) - 1e-9


@pytest.mark.parametrize("name", ["Cardinality, kept", "Groups, costs", "Rows"])
def test_answers_on_every_backend(solver, name, kind, rng):
    backend, dtype = kind
    X, y = table_of(rng)
    f = LeastSquares(backend.array(X, dtype), backend.array(y, dtype))
    solution = solve(f, STRUCTURES[name], solver)
    assert type(solution.x) is type(f.like)
    check(f, STRUCTURES[name], solution, dtype)
    exact = LeastSquares(X, y)
    lowest = optimum(exact, STRUCTURES[name].on(exact.shape))
    assert solution.value >= lowest - ROUGH[dtype]


@pytest.mark.parametrize(
    ("storage", "options"),
    [("csr_array", "plain"), ("csc_array", "weights, ridge, intercept")],
)
def test_storage_does_not_change_the_answer(solver, structure, storage, options, rng):
    X, y = table_of(rng)
    X[np.abs(X) < 0.4] = 0
    more = {}
    if options != "plain":
        weight = rng.integers(1, 4, len(y))
        more = {"sample_weight": weight, "l2": 0.1, "fit_intercept": True}
    dense = LeastSquares(X, y, **more)
    sparse = LeastSquares(getattr(scipy.sparse, storage)(X), y, **more)
    one, other = solve(dense, structure, solver), solve(sparse, structure, solver)
    check(dense, structure, one)
    check(sparse, structure, other)
    np.testing.assert_array_equal(one.support, other.support)
    np.testing.assert_allclose(one.x, other.x, atol=1e-9)


@pytest.mark.parametrize("name", MONOTONE)
def test_f_never_rises_where_this_is_claimed(name, structure, rng):
    X, y = table_of(rng)
    history = solve(LeastSquares(X, y), structure, ALL[name]()).history
    assert len(history) > 1
    rise = np.diff(history) / np.abs(history[:-1])
    assert rise.max() <= 1e-12  # rounding


def test_the_claim_is_found_in_the_docstrings():
    assert {"OMP", "OMPR", "LocalSearch", "IHT"} <= set(MONOTONE)


@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
def test_every_objective_of_data(solver, name, rng):
    table = make_table(DATA_PROBLEMS[name], rng, n=80)
    f = DATA_PROBLEMS[name].build(table.X, table.targets, fit_intercept=True, l2=0.05)
    structure = Rows(2)
    solution = solve(f, structure, solver)
    check(f, structure, solution)
    # Newton and L-BFGS know a value to 1e-9
    assert solution.value >= optimum(f, structure.on(f.shape)) - 1e-8


def test_several_outputs_and_classes(solver, kind, rng):
    backend, dtype = kind
    X, y = table_of(rng, outputs=3)
    f = LeastSquares(
        backend.array(X, dtype), backend.array(y, dtype), fit_intercept=True
    )
    for structure in (
        Rows(3),
        Rows(3, keep=(2,)),
        Groups([0, 0, 1, 1, 2, 2, 3, 4, 4, 4], 2),
    ):
        check(f, structure, solve(f, structure, solver), dtype)
    labels = y.argmax(axis=1).astype(float)
    g = Multinomial(
        backend.array(X, dtype),
        backend.array(labels, dtype),
        l2=0.05,
        fit_intercept=True,
    )
    check(g, Rows(3), solve(g, Rows(3), solver), dtype)


@pytest.mark.parametrize("structure", [Cardinality(5), Groups(np.arange(20) % 7, 2)])
def test_matrices_of_independent_rows(solver, structure, backend, rng):
    root = rng.standard_normal((30, 10))
    H, B = root.T @ root / 30, rng.standard_normal((2, 10))
    f = Quadratic(backend.array(H), backend.array(B), 3.0)
    if not isinstance(structure, Cardinality):
        structure = Groups((np.arange(20) % 7).reshape(2, 10), 2)
    check(f, structure, solve(f, structure, solver))


def test_a_function_of_the_users(solver, rng):
    X, y = table_of(rng)
    f = LeastSquares(X, y)
    smooth = Smooth(
        lambda x: f.value_and_gradient(x)[0],
        f.shape,
        gradient=lambda x: f.value_and_gradient(x)[1],
    )
    lacking = [n.__name__ for n in solver.needs if not follows(smooth, n)]
    if {"HasRidge", "HasCurvature"} & set(lacking):
        with pytest.raises(IncompatibleError, match="which Smooth lacks"):
            solve(smooth, Cardinality(3), solver)
        return
    solution = solve(smooth, Cardinality(3), solver)
    # L-BFGS leaves a gap of some eps in f
    assert solution.value >= optimum(f, Cardinality(3).on(f.shape)) - 1e-12
    assert Cardinality(3).contains(solution.x)
    direct = solve(f, Cardinality(3), solver)
    if not hasattr(
        solver, "width"
    ):  # without gains LocalSearch looks at fewer exchanges
        assert solution.value == pytest.approx(direct.value, rel=1e-8)


# -- invariances -----------------------------------------------------------------------


def test_permuting_the_features_permutes_the_answer(solver, structure, rng):
    X, y = table_of(rng)
    order = rng.permutation(X.shape[1])
    moved = structure
    if isinstance(structure, Groups):
        options = {"costs": structure.costs, "max_cost": structure.max_cost}
        if structure.max_cost is None:
            options = {"n_groups": structure.n_groups}
        moved = Groups(structure.labels[order], keep=structure.keep, **options)
    elif structure.keep:
        kept = tuple(int(np.flatnonzero(order == k)[0]) for k in structure.keep)
        moved = Cardinality(structure.n_nonzero, keep=kept)
    x = solve(LeastSquares(X, y), structure, solver).x
    permuted = solve(LeastSquares(X[:, order], y), moved, solver).x
    np.testing.assert_allclose(permuted, x[order], atol=1e-9)


@pytest.mark.parametrize("factor", [-1e-6, 1e6])
def test_scaling_y_scales_x(solver, structure, factor, rng):
    X, y = table_of(rng)
    x = solve(LeastSquares(X, y), structure, solver).x
    scaled = solve(LeastSquares(X, factor * y), structure, solver).x
    np.testing.assert_allclose(scaled, factor * x, atol=1e-8 * abs(factor))


def test_permuting_the_rows_changes_nothing(solver, structure, rng):
    X, y = table_of(rng)
    order = rng.permutation(len(y))
    one = solve(LeastSquares(X, y), structure, solver)
    other = solve(LeastSquares(X[order], y[order]), structure, solver)
    np.testing.assert_array_equal(one.support, other.support)
    np.testing.assert_allclose(one.x, other.x, atol=1e-9)


def test_the_same_call_gives_the_same_bits(solver, structure, rng):
    X, y = table_of(rng)
    one = solve(LeastSquares(X, y), structure, solver, rng=3)
    other = solve(LeastSquares(X, y), structure, solver, rng=3)
    np.testing.assert_array_equal(one.x, other.x)
    assert one.history == other.history


# -- order among solvers ---------------------------------------------------------------


@pytest.mark.parametrize("better", ["OMPR", "LocalSearch"])
def test_never_above_omp(better, structure, seed):
    for offset in range(10):
        X, y = table_of(np.random.default_rng(seed + offset))
        f = LeastSquares(X, y)
        greedy = solve(f, structure, solvers.OMP()).value
        assert solve(f, structure, ALL[better]()).value <= greedy * (1 + 1e-9)


def test_no_exchange_improves_a_local_search(structure, seed):
    for offset in range(10):
        X, y = table_of(np.random.default_rng(seed + offset))
        f = LeastSquares(X, y)
        fit = solve(f, structure, solvers.LocalSearch()).fit
        bound = structure.on(f.shape)
        allowed = bound.exchangeable(fit.support)
        for out in range(len(fit.support)):
            for into in set(range(bound.n_atoms)) - set(fit.support.atoms.tolist()):
                if allowed is None or allowed[out, into]:
                    other = f.refit(bound.exchange(fit.support, out, into))
                    assert other.value >= fit.value * (1 - 1e-8)


def test_local_search_finds_what_omp_misses(rng):
    """Two columns cancel each other: greedy takes a decoy, an exchange mends it."""
    n = 100
    noise = rng.standard_normal((n, 3))
    a, b = noise[:, 0], noise[:, 0] + 0.1 * noise[:, 1]
    y = b - a
    decoy = y + 0.3 * noise[:, 2] * np.std(y)
    X = np.stack([a, b, decoy], axis=1)
    X = X / np.sqrt((X * X).mean(axis=0))
    f = LeastSquares(X, y)
    assert solve(f, Cardinality(2), solvers.OMP()).support.tolist() != [0, 1]
    for start in (None, solvers.GraSP()):
        best = solve(f, Cardinality(2), solvers.LocalSearch(), start=start)
        assert best.support.tolist() == [0, 1]
        assert best.value == pytest.approx(0, abs=1e-20)


# -- awkward data ----------------------------------------------------------------------


def test_a_budget_of_nothing(solver, rng):
    X, y = table_of(rng)
    f = LeastSquares(X, y)
    for structure in (Cardinality(0), Rows(0), Groups(INTERLEAVED, 0)):
        solution = solve(f, structure, solver)
        assert not solution.x.any()
        assert len(solution.support) == 0
        assert solution.value == pytest.approx(0.5 * np.mean(y * y))
        assert solution.status is Status.CONVERGED


def test_a_budget_of_everything(solver, rng):
    X, y = table_of(rng)
    f = LeastSquares(X, y)
    solution = solve(f, Cardinality(10), solver)
    expected = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(solution.x, expected, atol=1e-8)


def test_more_atoms_than_rows(solver, dtype, rng):
    X, y = rng.standard_normal((5, 12)), rng.standard_normal(5)
    f = LeastSquares(X.astype(dtype), y.astype(dtype))
    solution = solve(f, Cardinality(9), solver)
    assert len(solution.support) <= 9
    assert np.all(np.isfinite(solution.x))
    assert solution.status.ok
    # a perfect fit, found to rounding: least squares of condition 100 or so
    assert 0 <= solution.value < (1e-18 if dtype == "float64" else 1e-5)


def test_one_row_one_column(solver):
    f = LeastSquares(np.array([[2.0]]), np.array([6.0]))
    solution = solve(f, Cardinality(1), solver)
    np.testing.assert_allclose(solution.x, [3.0])


@pytest.mark.parametrize("intercept", [False, True])
def test_duplicate_constant_and_empty_columns_are_harmless(
    solver, intercept, dtype, rng
):
    X, y = table_of(rng)
    awkward = np.concatenate(
        (X, X[:, :4], 2 * X[:, 4:5], np.zeros((60, 1)), np.full((60, 1), 3.0)), axis=1
    ).astype(dtype)
    f = LeastSquares(awkward, y.astype(dtype), fit_intercept=intercept)
    for k in (3, 8, 17):
        solution = solve(f, Cardinality(k), solver)
        assert np.all(np.isfinite(solution.x))
        assert len(solution.support) <= k
        # gradient steps are slow on a system without a smallest eigenvalue
        assert solution.status.ok or solution.status is Status.MAX_ITER
        # rank-deficient systems must not blow up on rounding
        assert np.abs(solution.x).max() < 100
    best = solve(LeastSquares(X, y, fit_intercept=intercept), Cardinality(10), solver)
    assert solution.value <= best.value + 0.2  # the constant can only help


def test_a_large_constant_beside_an_intercept_is_harmless(solver, rng):
    X, y = table_of(rng)
    X[:, 0] = 1e6
    plain = solve(LeastSquares(X[:, 1:], y, fit_intercept=True), Cardinality(3), solver)
    for k in (3, 10):
        f = LeastSquares(X, y, fit_intercept=True)
        solution = solve(f, Cardinality(k), solver)
        assert np.abs(solution.x).max() < 100
        assert abs(float(solution.intercept)) < 100
        value, _ = f.value_and_gradient(solution.x)
        assert solution.value == pytest.approx(value, rel=1e-6)
        if k == 3:
            assert solution.value == pytest.approx(plain.value, rel=1e-6)


def test_a_perfect_fit_stops_early_and_says_so(solver, rng):
    X = rng.standard_normal((50, 10))
    f = LeastSquares(X, 2 * X[:, 3] - X[:, 7])
    solution = solve(f, Cardinality(5), solver)
    assert {3, 7} <= set(solution.support.tolist())
    assert solution.value < 1e-20
    assert solution.status.ok


def test_y_of_zeros(solver, rng):
    X, _ = table_of(rng)
    solution = solve(LeastSquares(X, np.zeros(60)), Cardinality(3), solver)
    assert not solution.x.any()
    assert solution.status is Status.FEWER


def test_columns_of_very_different_units(solver, rng):
    X, y = table_of(rng)
    scale = 10.0 ** rng.integers(-6, 7, 10)
    f = LeastSquares(X * scale, y)
    solution = solve(f, Cardinality(10), solver)
    expected = np.linalg.lstsq(X, y, rcond=None)[0]
    assert solution.value <= LeastSquares(X, y).value_and_gradient(0 * expected)[0]
    assert np.all(np.isfinite(solution.x))
    direct = f.refit(solution.fit.support)
    assert solution.value == pytest.approx(direct.value, rel=1e-9)


def test_planted_columns_are_found(solver, structure, rng):
    """Orthogonal columns and little noise: any sensible method must succeed."""
    X = np.linalg.qr(rng.standard_normal((60, 10)))[0] * np.sqrt(60)
    bound = structure.on((10,))
    atoms = {"Cardinality": [2, 7, 9], "Rows": [2, 7, 9], "Groups": [1, 3]}
    planted = bound.support(atoms[type(structure).__name__])
    x = planted.embed(rng.choice([-2.0, 2.0], len(planted.ids)))
    solution = solve(LeastSquares(X, X @ x), structure, solver)
    np.testing.assert_allclose(solution.x, x, atol=1e-9)


def test_records_are_plain_data(solver, backend, rng):
    X, y = table_of(rng)
    f = LeastSquares(backend.array(X), backend.array(y), fit_intercept=True)
    solution = solve(f, Cardinality(3), solver)
    record = json.loads(json.dumps(solution.to_record()))
    assert record["support"] == solution.support.tolist()
    assert record["status"] == solution.status.name
    x = np.zeros(record["shape"])
    x[tuple(np.array(record["nonzero"]).T)] = record["coefficients"]
    np.testing.assert_array_equal(x, to_host(solution.x))
    assert record["intercept"] == pytest.approx(float(solution.intercept))
