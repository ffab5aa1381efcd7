"""Laws that every exported objective obeys."""

import itertools

import numpy as np
import pytest
import scipy.sparse

from tests.contracts.problems import (
    DATA_PROBLEMS,
    FREE_PROBLEMS,
    concrete_objectives,
    make_table,
)
from vitalfew._arrays import as_array, precision, to_host
from vitalfew.contracts import HasRows, Objective, follows
from vitalfew.designs import Scaled, as_design
from vitalfew.objectives import BaseObjective, LeastSquares, Quadratic
from vitalfew.structures import Cardinality, Groups, Rows
from vitalfew.supports import Coordinates, Whole

DATA = list(DATA_PROBLEMS)
EVERY = [*DATA, *FREE_PROBLEMS]
OPTIONS = {
    "plain": {},
    "intercept": {"fit_intercept": True},
    "weights, ridge, intercept": {"weight": True, "l2": 0.3, "fit_intercept": True},
}


def test_every_exported_objective_has_a_builder():
    built = {problem.cls.__name__ for problem in DATA_PROBLEMS.values()}
    built |= {cls.__name__ for cls, _ in FREE_PROBLEMS.values()}
    missing = sorted(set(concrete_objectives()) - built)
    assert not missing, f"add {missing} to the tables in tests/contracts/problems.py"


def make(name, table, options=None, X=None, **more):
    """Build the named data objective from a table on the host."""
    options = dict(options or {})
    if options.pop("weight", False):
        options["sample_weight"] = table.weight
    options |= more
    return DATA_PROBLEMS[name].build(
        table.X if X is None else X, table.targets, **options
    )


def span_of(f, atoms):
    """Span of some rows of `x`."""
    return Rows(len(atoms)).on(f.shape).support(np.asarray(atoms))


def check_gradient(f, x, tolerance):
    value, gradient = f.value_and_gradient(as_array(x, f.like))
    assert np.isfinite(value)
    assert tuple(gradient.shape) == tuple(f.shape)
    assert gradient.dtype == f.like.dtype
    h = precision(f.like) ** (1 / 3)  # balances rounding and truncation
    gradient = to_host(gradient)
    for i in np.ndindex(*f.shape):
        e = np.zeros(f.shape)
        e[i] = h
        above = f.value_and_gradient(as_array(x + e, f.like))[0]
        below = f.value_and_gradient(as_array(x - e, f.like))[0]
        assert (above - below) / (2 * h) == pytest.approx(gradient[i], abs=tolerance)


# A central difference errs by about eps^(2/3) times the value and third derivative,
# both near one here: 4e-11 and 2e-5. The intercept is found to 1e-12 of the value and
# then once more, so to 1e-7 in slopes at the worst.
TOLERANCE = {"float64": 1e-7, "float32": 3e-3}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", DATA)
def test_gradient_is_the_finite_difference(name, options, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, OPTIONS[options])
    assert follows(f, Objective)
    check_gradient(f, 0.3 * rng.standard_normal(f.shape), TOLERANCE["float64"])


@pytest.mark.parametrize("name", DATA)
def test_gradient_on_every_backend(name, backend, dtype, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, OPTIONS["intercept"], X=backend.array(table.X, dtype))
    check_gradient(f, 0.3 * rng.standard_normal(f.shape), TOLERANCE[dtype])


@pytest.mark.parametrize("name", FREE_PROBLEMS)
def test_gradient_of_free_objectives(name, backend, dtype, rng):
    f = FREE_PROBLEMS[name][1](rng, backend, dtype)
    assert follows(f, Objective)
    check_gradient(f, rng.standard_normal(f.shape), TOLERANCE[dtype])


def storages(X):
    scale = np.linspace(0.5, 2.0, X.shape[1])
    return {
        "CSR": scipy.sparse.csr_array(X),
        "CSC": scipy.sparse.csc_matrix(X),
        "COO": scipy.sparse.coo_array(X),
        "Scaled": Scaled(as_design(X * scale), scale),
        "Scaled CSR": Scaled(as_design(scipy.sparse.csr_array(X * scale)), scale),
    }


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", DATA)
def test_storage_does_not_matter(name, options, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    dense = make(name, table, OPTIONS[options])
    x = 0.3 * rng.standard_normal(dense.shape)
    value, gradient = dense.value_and_gradient(x)
    fit = dense.refit(span_of(dense, [4, 1, 2]))
    groups = Groups([0, 1, 0, 2, 1, 0], 1).on(dense.shape)
    in_group = dense.refit(groups.support([1]))
    rows = Rows(3).on(dense.shape)
    for storage, X in storages(table.X).items():
        f = make(name, table, OPTIONS[options], X=X)
        other_value, other_gradient = f.value_and_gradient(x)
        # the same sums in another order, around an intercept found to 1e-7
        assert other_value == pytest.approx(value, rel=1e-12), storage
        np.testing.assert_allclose(other_gradient, gradient, atol=1e-7)
        other = f.refit(span_of(f, [4, 1, 2]))
        # Newton stops at 1e-10 of the value, which is 1e-5 in the point
        assert other.value == pytest.approx(fit.value, rel=1e-9)
        np.testing.assert_allclose(other.x, fit.x, atol=1e-4)
        for structure, point, there in (
            (rows, fit, other),
            (groups, in_group, f.refit(groups.support([1]))),
        ):
            gains = dense.swap_gains(structure, point, 6)
            others = f.swap_gains(structure, there, 6)
            assert (gains is None) == (others is None)
            if gains is not None:
                order, again = np.argsort(gains.into), np.argsort(others.into)
                np.testing.assert_array_equal(gains.into[order], others.into[again])
                np.testing.assert_allclose(
                    gains.gain[order], others.gain[again], atol=1e-4 * value
                )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", DATA)
def test_refit_is_stationary_and_no_generic_method_is_lower(name, options, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, OPTIONS[options])
    check_refit(f, span_of(f, [4, 0, 2]), 1e-4)
    everything = f.refit(span_of(f, range(f.shape[0])))
    warm = f.refit(span_of(f, [4, 0, 2]), start=everything)
    assert warm.value == pytest.approx(f.refit(span_of(f, [4, 0, 2])).value, rel=1e-8)


@pytest.mark.parametrize("name", FREE_PROBLEMS)
def test_refit_of_free_objectives(name, backend, dtype, rng):
    f = FREE_PROBLEMS[name][1](rng, backend, dtype)
    size = int(np.prod(f.shape))
    cardinality = Cardinality(3).on(f.shape)
    check_refit(f, cardinality.support([size - 1, 0, 2]), 3 * precision(f.like) ** 0.4)


@pytest.mark.parametrize("name", DATA)
def test_refit_on_every_backend(name, backend, dtype, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, OPTIONS["intercept"], X=backend.array(table.X, dtype))
    # a relative gap of eps (1e-10 at most) in f is its root in the gradient
    check_refit(f, span_of(f, [4, 0, 2]), 1e-4 if dtype == "float64" else 5e-3)


def check_refit(f, span, tolerance):
    fit = f.refit(span)
    slope = to_host(span.restrict(fit.gradient))
    assert np.abs(slope).max() < tolerance
    generic = BaseObjective.refit(f, span)
    margin = tolerance**2 * max(1.0, abs(generic.value))
    assert fit.value <= generic.value + margin
    # value, gradient and intercept agree wherever they are computed
    x = span.embed(fit.z)
    value, gradient = f.value_and_gradient(x)
    again = f.at(span, fit.z)
    rough = 30 * precision(f.like) * max(1.0, abs(value))
    assert fit.value == pytest.approx(value, abs=max(rough, margin))
    assert again.value == pytest.approx(value, abs=rough)
    np.testing.assert_allclose(to_host(fit.x), to_host(x))
    np.testing.assert_allclose(to_host(again.x), to_host(x))
    np.testing.assert_allclose(to_host(fit.gradient), to_host(gradient), atol=tolerance)
    np.testing.assert_allclose(
        to_host(again.gradient), to_host(gradient), atol=tolerance
    )
    if fit.intercept is not None:
        np.testing.assert_allclose(
            to_host(fit.intercept), to_host(f.intercept_at(x)), atol=10 * tolerance
        )


@pytest.mark.parametrize("name", DATA)
def test_refit_on_nothing_and_on_everything(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, OPTIONS["intercept"])
    nothing = f.refit(span_of(f, []))
    value, gradient = f.value_and_gradient(np.zeros(f.shape))
    assert nothing.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(nothing.gradient, gradient, atol=1e-7)  # intercepts
    whole = Whole(f.shape)
    everything = f.refit(span_of(f, range(f.shape[0])))
    generic = f.refit(whole)
    assert everything.value <= nothing.value
    # L-BFGS stops where f falls by 4 eps, far above Newton's accuracy
    assert generic.value == pytest.approx(everything.value, rel=1e-7)


@pytest.mark.parametrize("name", [n for n in DATA if DATA_PROBLEMS[n].has_intercept])
def test_intercept_is_optimal(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, {"fit_intercept": True, "weight": True})
    x = 0.3 * rng.standard_normal(f.shape)
    best = f.intercept_at(x)
    value = f.loss_at(x, best)
    assert value == pytest.approx(f.value_and_gradient(x)[0], rel=1e-12)
    for _ in range(10):
        other = best + 0.01 * rng.standard_normal(np.shape(best))
        assert f.loss_at(x, other) >= value
    without = make(name, table, {"weight": True})
    assert without.intercept_at(x) is None
    assert without.refit(span_of(f, [1])).intercept is None


@pytest.mark.parametrize("name", DATA)
def test_value_is_the_loss_and_the_ridge(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    plain, ridge = make(name, table), make(name, table, l2=0.7)
    x = 0.3 * rng.standard_normal(plain.shape)
    value = plain.value_and_gradient(x)[0]
    assert plain.loss_at(x) == pytest.approx(value, rel=1e-12)
    assert ridge.loss_at(x) == pytest.approx(value, rel=1e-12)
    expected = value + 0.35 * np.sum(x * x)
    assert ridge.value_and_gradient(x)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", DATA)
def test_rows_are_the_objective_on_these_rows(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    options = {"fit_intercept": True, "weight": True, "l2": 0.1}
    f = make(name, table, options)
    assert follows(f, HasRows)
    ids = np.concatenate((np.arange(3), rng.permutation(np.arange(3, 40))[:25]))
    part, direct = f.rows(ids), make(name, table.rows(ids), options)
    x = 0.3 * rng.standard_normal(f.shape)
    before = f.value_and_gradient(x)[0]
    assert (part.n_samples, f.n_samples) == (28, 40)
    check_same(part, direct, x)
    assert part.deviance(x) == pytest.approx(direct.deviance(x), rel=1e-12)
    assert f.value_and_gradient(x)[0] == before


def check_same(f, g, x):
    """Two objectives are one function, around an intercept found to 1e-7."""
    value, gradient = f.value_and_gradient(x)
    assert value == pytest.approx(g.value_and_gradient(x)[0], rel=1e-12)
    np.testing.assert_allclose(gradient, g.value_and_gradient(x)[1], atol=1e-7)
    fit, other = f.refit(span_of(f, [0, 3])), g.refit(span_of(g, [0, 3]))
    assert fit.value == pytest.approx(other.value, rel=1e-9)  # where Newton stops


@pytest.mark.parametrize("name", [n for n in DATA if DATA_PROBLEMS[n].weights_repeat])
def test_an_integer_weight_is_that_many_rows(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    repeated = table.rows(np.repeat(np.arange(40), table.weight.astype(int)))
    f = make(name, table, {"fit_intercept": True, "weight": True})
    check_same(f, make(name, repeated, OPTIONS["intercept"]), 0.3 * np.ones(f.shape))


@pytest.mark.parametrize("name", DATA)
def test_a_weight_of_zero_is_no_row(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    table.weight[10:20] = 0.0
    kept = np.flatnonzero(table.weight)
    options = {"fit_intercept": True, "weight": True}
    f = make(name, table, options)
    check_same(f, make(name, table.rows(kept), options), 0.3 * np.ones(f.shape))


@pytest.mark.parametrize("name", DATA)
def test_scaling_all_weights_changes_nothing(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = make(name, table, sample_weight=table.weight)
    g = make(name, table, sample_weight=1e3 * table.weight)
    x, zero = np.ones(f.shape), np.zeros(f.shape)
    # the risk sets of Cox grow with the weights, which adds a constant
    fall = f.value_and_gradient(zero)[0] - f.value_and_gradient(x)[0]
    same = g.value_and_gradient(zero)[0] - g.value_and_gradient(x)[0]
    assert same == pytest.approx(fall, rel=1e-9)
    np.testing.assert_allclose(
        g.value_and_gradient(x)[1], f.value_and_gradient(x)[1], atol=1e-12
    )


# shifts cancel in Cox's likelihood, and thresholds are always fitted
SHIFTED = [
    n
    for n in DATA
    if DATA_PROBLEMS[n].has_intercept or n.startswith(("Cox", "Ordinal"))
]


@pytest.mark.parametrize("name", SHIFTED)
def test_shifting_the_columns_changes_nothing(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    p = table.X.shape[1]
    far = table.X + np.resize([1e6, -1e5, 1e7], p)
    plain = make(name, table, fit_intercept=True)
    moved = make(name, table, X=far, fit_intercept=True)
    atoms = np.arange(min(3, p))
    fit, other = (f.refit(span_of(f, atoms)) for f in (plain, moved))
    # 1e7 deviations away, the data are rounded to 1e-9 of a deviation
    assert other.value == pytest.approx(fit.value, abs=1e-7)
    np.testing.assert_allclose(
        to_host(other.gradient), to_host(fit.gradient), atol=1e-6
    )
    structure = Rows(3).on(plain.shape)
    one, two = (
        f.swap_gains(structure, g, 1) for f, g in ((plain, fit), (moved, other))
    )
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        np.testing.assert_allclose(two.gain, one.gain, atol=1e-6)


@pytest.mark.parametrize("name", SHIFTED)
def test_constant_columns_bring_nothing_beside_an_intercept(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    X = table.X.copy()
    X[:, :2] = 7.0, -1e5 / 3
    f = make(name, table, X=X, fit_intercept=True)
    none, fit = (f.refit(span_of(f, atoms)) for atoms in ([], [0, 1]))
    assert fit.value == pytest.approx(none.value, rel=1e-12)
    assert np.abs(to_host(fit.x)).max() < 1e-3
    value, _ = f.value_and_gradient(fit.x)
    assert value == pytest.approx(fit.value, rel=1e-9)


@pytest.mark.parametrize("name", DATA)
def test_inputs_are_left_alone(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    arrays = [table.X, table.weight, *table.targets.values()]
    before = [a.copy() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    f = make(name, table, {"fit_intercept": True, "weight": True, "l2": 0.1})
    fit = f.refit(span_of(f, [0, 1]))
    f.swap_gains(Rows(2).on(f.shape), fit, 3)
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


# -- exchanges -----------------------------------------------------------------------

LABELS = {
    "Cardinality": None,
    "groups, unequal": [0, 0, 0, 1, 2, 2, 3, 3],
    "groups, interleaved": [0, 1, 2, 0, 1, 2, 3, 0],
    "groups of one, renumbered": [3, 1, 7, 0, 2, 6, 5, 4],
}


def structures_on(shape, **options):
    """Structures of whole rows with room for two atoms, by name."""
    made = {"Rows": Rows(2, **options).on(shape)}
    for name, labels in LABELS.items():
        if labels is not None:
            made[name] = Groups(labels, 2, **options).on(shape)
        elif len(shape) == 1:
            made[name] = Cardinality(2, **options).on(shape)
    return made


def brute_force(f, structure, fit):
    """Gain of every allowed exchange, by refitting."""
    gains = {}
    allowed = structure.exchangeable(fit.support)
    for out, into in itertools.product(
        range(len(fit.support)), range(structure.n_atoms)
    ):
        if into in fit.support.atoms or not (allowed is None or allowed[out, into]):
            continue
        new = f.refit(structure.exchange(fit.support, out, into))
        gains[out, into] = fit.value - new.value
    return gains


def check_exact(f, structure, fit):
    gains = brute_force(f, structure, fit)
    found = f.swap_gains(structure, fit, structure.n_atoms)
    entrants = {into for _, into in gains}
    assert set(found.into.tolist()) == entrants
    assert np.all(np.diff(found.gain) <= 1e-12)
    for out, into, gain in zip(*found, strict=True):
        # normal equations and the floor of 1e-9 on the curvature left
        assert gain == pytest.approx(gains[out, into], rel=1e-6, abs=1e-8)
        best = max(g for (_, j), g in gains.items() if j == into)
        assert gain == pytest.approx(best, rel=1e-6, abs=1e-8)
    few = f.swap_gains(structure, fit, 2)
    np.testing.assert_array_equal(few.into, found.into[:2])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", [n for n in DATA if n.startswith("LeastSquares")])
def test_least_squares_gains_equal_refits(name, options, rng):
    table = make_table(DATA_PROBLEMS[name], rng, p=8)
    f = make(name, table, OPTIONS[options])
    for structure in structures_on(f.shape).values():
        check_exact(f, structure, f.refit(structure.support([1, 3])))


def test_gains_do_not_depend_on_what_was_asked_before(rng):
    """Two groupings whose tables hold the same numbers must not share blocks."""
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng, p=8)
    f = make("LeastSquares", table)
    for labels in ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]):
        structure = Groups(labels, 1).on(f.shape)
        check_exact(f, structure, f.refit(structure.support([1])))


def test_gains_respect_kept_atoms_and_costs(rng):
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng, p=8)
    f = make("LeastSquares", table)
    for structure in structures_on(f.shape, keep=(1,)).values():
        fit = f.refit(structure.support([1, 3]))
        found = f.swap_gains(structure, fit, structure.n_atoms)
        assert set(found.out.tolist()) == {1}
        check_exact(f, structure, fit)
    costs = [3.0, 1.0, 2.0, 4.0]
    structure = Groups(LABELS["groups, interleaved"], costs=costs, max_cost=4.0)
    structure = structure.on(f.shape)
    fit = f.refit(structure.support([1, 2]))
    check_exact(f, structure, fit)
    found = f.swap_gains(structure, fit, 4)
    for out, into in zip(found.out, found.into, strict=True):
        assert structure.allows(structure.exchange(fit.support, out, into))


@pytest.mark.parametrize(
    "labels",
    [None, [[0, 0, 1, 2, 1], [3, 3, 2, 4, 4]], [[4, 2, 3, 1, 0], [5, 9, 8, 7, 6]]],
    ids=["Cardinality", "blocks", "entries, renumbered"],
)
def test_quadratic_gains_equal_refits(labels, backend, rng):
    f = FREE_PROBLEMS["Quadratic"][1](rng, backend, "float64")
    assert isinstance(f, Quadratic)
    structure = Cardinality(2) if labels is None else Groups(np.array(labels), 2)
    structure = structure.on(f.shape)
    check_exact(f, structure, f.refit(structure.support([1, 3])))


def test_one_huge_group_does_not_make_a_table_for_all(rng, monkeypatch):
    monkeypatch.setattr(Groups, "table", property(lambda self: pytest.fail("built")))
    labels = np.concatenate((np.zeros(300, int), 1 + np.arange(2000)))
    groups = Groups(labels, 2).on((len(labels),))
    X = scipy.sparse.random_array((20, len(labels)), density=0.05, rng=rng)
    f = LeastSquares(X, rng.standard_normal(20))
    assert f.swap_gains(groups, f.refit(groups.support([1, 2])), 3) is None


def test_no_formula_where_atoms_are_not_whole_rows(rng):
    table = make_table(DATA_PROBLEMS["LeastSquares, two outputs"], rng)
    f = make("LeastSquares, two outputs", table)
    structure = Cardinality(4).on(f.shape)
    for atoms in ([0, 1, 4, 5], [0, 3, 4, 5]):  # the first happens to hold whole rows
        fit = f.refit(structure.support(atoms))
        assert f.swap_gains(structure, fit, 3) is None


SECOND_ORDER = [n for n in DATA if not n.startswith("LeastSquares")]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_gains_are_allowed_and_finite(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng, p=8)
    f = make(name, table, {"fit_intercept": True, "weight": True})
    for structure in structures_on(f.shape, keep=(1,)).values():
        fit = f.refit(structure.support([1, 3]))
        found = f.swap_gains(structure, fit, 5)
        if found is None:
            continue
        assert np.all(np.isfinite(found.gain))
        assert len(set(found.into.tolist())) == len(found.into) <= 5
        assert not np.isin(found.into, fit.support.atoms).any()
        assert set(found.out.tolist()) <= {1}


def test_huber_gains_are_exact_where_the_loss_is_a_square(rng):
    """With a wide delta Huber is least squares, whose gains are exact."""
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng, p=8)
    weight = table.weight
    huber = DATA_PROBLEMS["Huber"].cls(
        table.X, **table.targets, delta=1e6, sample_weight=weight, fit_intercept=True
    )
    for structure in structures_on(huber.shape).values():
        check_exact(huber, structure, huber.refit(structure.support([1, 3])))


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_gains_rank_a_clear_exchange_first(name, rng):
    """Column 0 carries the signal; of two columns of noise one must leave for it."""
    problem = DATA_PROBLEMS[name]
    X = rng.standard_normal((400, 6))
    targets = problem.targets(rng, np.stack([2 * X[:, 0]] + [0 * X[:, 0]] * 2, axis=1))
    f = problem.build(X, targets)
    structure = Rows(2).on(f.shape)
    found = f.swap_gains(structure, f.refit(structure.support([3, 5])), 3)
    assert found.into[0] == 0


def test_separated_classes_stop_and_say_so(rng):
    X = rng.standard_normal((30, 3))
    for name, y in {
        "Logistic": (X[:, 0] > 0) * 1.0,
        "Multinomial": np.digitize(X[:, 0], [-0.3, 0.5]) * 1.0,
    }.items():
        cls = DATA_PROBLEMS[name].cls
        fit = cls(X, y, fit_intercept=True).refit(span_of(cls(X, y), [0]))
        assert fit.status is not None
        assert fit.status.name == "SEPARATED"
        assert np.all(np.isfinite(fit.z))
        damped = cls(X, y, l2=1e-2).refit(span_of(cls(X, y), [0]))
        assert damped.status is None


def test_values_near_zero_keep_their_digits(rng):
    """A perfect fit has a value of rounding errors, not of cancelled sums."""
    X = rng.standard_normal((50, 5))
    y = 1e3 * X[:, 2]
    fit = LeastSquares(X, y).refit(
        Coordinates(*[np.array([2])] * 2, np.array([1]), (5,))
    )
    assert 0 <= fit.value < 1e-20 * np.sum(y * y)
