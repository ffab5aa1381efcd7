"""Squared hinge, gamma, quantile and ordinal losses against other programs and laws."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.stats

from vitalfew import solve
from vitalfew._arrays import to_host
from vitalfew.objectives import Gamma, Logistic, Ordinal, Quantile, SquaredHinge
from vitalfew.objectives.ordinal import log_shares
from vitalfew.penalties import L1
from vitalfew.solution import Status
from vitalfew.solvers import OMP, LocalSearch
from vitalfew.structures import Cardinality, Groups, Rows
from vitalfew.supports import Whole

linear_model = pytest.importorskip("sklearn.linear_model")

N, P, CHOSEN = 120, 8, [5, 1, 2]


@pytest.fixture
def X(rng):
    X = rng.standard_normal((N, P)) @ (np.eye(P) + 0.3 * rng.standard_normal((P, P)))
    X[rng.random((N, P)) < 0.2] = 0
    return X


@pytest.fixture
def signal(X):
    return X[:, CHOSEN] @ np.array([1.0, -0.7, 0.4]) + 0.5


@pytest.fixture(params=[False, True], ids=["equal weights", "weights"])
def weight(request, rng):
    return rng.random(N) + 0.2 if request.param else None


@pytest.fixture(params=[False, True], ids=["no intercept", "intercept"])
def intercept(request):
    return request.param


@pytest.fixture(params=["dense", "CSR"])
def stored(request, X):
    return X if request.param == "dense" else scipy.sparse.csr_array(X)


def refit(f, columns=CHOSEN):
    span = Rows(len(columns)).on(f.shape).support(np.array(columns, dtype=int))
    return f.refit(span)


def shares(weight):
    return np.full(N, 1 / N) if weight is None else weight / weight.sum()


def lowest(loss, size, start=None):
    """Least value and where, of a smooth function, by BFGS with many restarts."""
    x = np.zeros(size) if start is None else start
    for _ in range(5):
        found = scipy.optimize.minimize(
            loss, x, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}
        )
        x = found.x
    return found.fun, x


# -- squared hinge ---------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.01, 0.3])
def test_squared_hinge(X, stored, signal, weight, l2, rng):
    svm = pytest.importorskip("sklearn.svm")
    y = (signal + rng.logistic(size=N) > 0).astype(float)
    f = SquaredHinge(stored, y, sample_weight=weight, l2=l2)
    total = N if weight is None else weight.sum()
    theirs = svm.LinearSVC(
        C=1 / (l2 * total), fit_intercept=False, dual=False, tol=1e-10, max_iter=10000
    ).fit(X[:, CHOSEN], y, sample_weight=weight)
    np.testing.assert_allclose(refit(f).x[CHOSEN], theirs.coef_[0], atol=1e-5)


def test_squared_hinge_with_an_intercept(X, stored, signal, weight, rng):
    y = (signal + rng.logistic(size=N) > 0).astype(float)
    w, A, sign = shares(weight), X[:, CHOSEN], 2 * y - 1
    fit = refit(SquaredHinge(stored, y, sample_weight=weight, fit_intercept=True))

    def loss(v):
        return w @ np.maximum(0, 1 - sign * (A @ v[:3] + v[3])) ** 2

    value, v = lowest(loss, 4)
    assert fit.value <= value + 1e-12
    np.testing.assert_allclose(np.append(fit.x[CHOSEN], fit.intercept), v, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_squared_hinge_of_separated_classes_ends_at_zero(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 5))
    y = (X[:, 1] - X[:, 3] > 0.1).astype(float)
    fit = refit(SquaredHinge(X, y, fit_intercept=True), [1, 3])
    assert fit.status is None
    assert 0 <= fit.value < 1e-12
    assert np.all((2 * y - 1) * (X @ fit.x + fit.intercept) > 0)


# -- gamma -----------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_gamma(X, stored, signal, weight, intercept, l2, rng):
    y = rng.gamma(3.0, np.exp(np.clip(signal, -3, 2)))
    f = Gamma(stored, y, sample_weight=weight, l2=l2, fit_intercept=intercept)
    fit = refit(f)
    theirs = linear_model.GammaRegressor(
        alpha=l2, fit_intercept=intercept, solver="newton-cholesky", tol=1e-10
    ).fit(X[:, CHOSEN], y, sample_weight=weight)
    np.testing.assert_allclose(fit.x[CHOSEN], theirs.coef_, atol=1e-6)
    if intercept:
        np.testing.assert_allclose(fit.intercept, theirs.intercept_, atol=1e-6)


@pytest.mark.parametrize("shape", [0.3, 2.0, 50.0, 1e4])
def test_gamma_deviance_is_the_likelihood_at_the_best_shape(X, signal, shape, rng):
    mean = np.exp(signal)
    y = rng.gamma(shape, mean / shape)
    f = Gamma(X, y, fit_intercept=True)
    fit = refit(f)
    m = np.exp(X @ fit.x + fit.intercept)

    def minus_twice(log_shape):
        a = np.exp(log_shape)
        return -2 * np.sum(scipy.stats.gamma.logpdf(y, a, scale=m / a))

    best = scipy.optimize.minimize_scalar(minus_twice, bounds=(-5, 15))
    assert f.deviance(fit.x, fit.intercept) == pytest.approx(best.fun, abs=1e-3)


def test_gamma_of_any_unit(X, signal, rng):
    y = rng.gamma(3.0, np.exp(signal))
    plain = refit(Gamma(X, y, fit_intercept=True))
    for unit in (1e-250, 1e-9, 1e9, 1e250):
        fit = refit(Gamma(X, unit * y, fit_intercept=True))
        np.testing.assert_allclose(fit.x, plain.x, atol=1e-4)
        shift = float(fit.intercept) - float(plain.intercept)
        assert shift == pytest.approx(np.log(unit), abs=1e-4)
    assert Gamma(X, y).deviance(-1e6 * np.ones(P)) == np.inf


# -- quantiles -------------------------------------------------------------------------

QUANTILES = [0.1, 0.5, 0.8]


def check_loss(w, r, q):
    return w @ np.maximum(q * r, (q - 1) * r)


def heavy(signal, rng):
    return signal + rng.standard_t(2, size=N)


@pytest.mark.parametrize("q", QUANTILES)
@pytest.mark.parametrize("bandwidth", [1e-3, 0.3, 20.0])
def test_smoothed_quantiles(X, stored, signal, weight, intercept, q, bandwidth, rng):
    y, w, A = heavy(signal, rng), shares(weight), X[:, CHOSEN]
    options = {"sample_weight": weight, "fit_intercept": intercept}
    fit = refit(Quantile(stored, y, quantile=q, bandwidth=bandwidth, **options))
    A = np.column_stack((A, np.ones(N))) if intercept else A
    v = np.append(fit.x[CHOSEN], fit.intercept) if intercept else fit.x[CHOSEN]

    def loss(v):
        # the convolution of the check loss with a logistic density
        r = y - A @ v
        return w @ (q * r + bandwidth * np.logaddexp(0, -r / bandwidth))

    def slope(v):
        r = y - A @ v
        return -A.T @ (w * (q - scipy.special.expit(-r / bandwidth)))

    assert fit.value == pytest.approx(loss(v), rel=1e-12)
    # the loss is convex, so where its slope vanishes it is least
    assert np.abs(slope(v)).max() < 1e-6


def test_smoothing_is_a_convolution(rng):
    f = Quantile(np.ones((5, 1)), rng.standard_normal(5), quantile=0.3, bandwidth=0.7)
    eta = np.linspace(-3, 3, 5)
    for loss, r in zip(f.losses(eta), f.y - eta, strict=True):
        spread, _ = scipy.integrate.quad(
            lambda t, r=r: (
                np.maximum(0.3 * (r + t), -0.7 * (r + t))
                * scipy.stats.logistic.pdf(t, scale=0.7)
            ),
            -40,
            40,
            points=[-r],
        )
        assert loss == pytest.approx(spread, abs=1e-8)


def linear_program(A, y, w, q):
    """Least check loss, by the simplex or interior point method of HiGHS."""
    n, m = A.shape
    found = scipy.optimize.linprog(
        np.concatenate((np.zeros(m), q * w, (1 - q) * w)),
        A_eq=np.hstack((A, np.eye(n), -np.eye(n))),
        b_eq=y,
        bounds=[(None, None)] * m + [(0, None)] * (2 * n),
        method="highs",
    )
    return found.fun


@pytest.mark.parametrize("q", QUANTILES)
def test_exact_quantiles_are_the_linear_program(
    X, stored, signal, weight, intercept, q, rng
):
    for y in (heavy(signal, rng), np.round(signal + rng.standard_normal(N))):
        f = Quantile(
            stored,
            y,
            quantile=q,
            exact=True,
            sample_weight=weight,
            fit_intercept=intercept,
        )
        fit, A = refit(f), X[:, CHOSEN]
        A = np.column_stack((A, np.ones(N))) if intercept else A
        best = linear_program(A, y, shares(weight), q)
        assert fit.value == pytest.approx(best, rel=1e-9)
        b = 0.0 if fit.intercept is None else fit.intercept
        own = check_loss(shares(weight), y - X @ fit.x - b, q)
        assert fit.value == pytest.approx(own, rel=1e-12)
        # the dual variables make a gradient that vanishes on the span
        assert np.abs(fit.gradient[CHOSEN]).max() < 1e-8


@pytest.mark.parametrize("q", QUANTILES)
def test_exact_quantiles_against_statsmodels_and_scikit_learn(X, signal, q, rng):
    api = pytest.importorskip("statsmodels.api")
    y = heavy(signal, rng)
    fit = refit(Quantile(X, y, quantile=q, exact=True, fit_intercept=True))
    ours = np.append(fit.intercept, fit.x[CHOSEN])
    theirs = api.QuantReg(y, api.add_constant(X[:, CHOSEN])).fit(
        q=q, max_iter=5000, p_tol=1e-9
    )
    np.testing.assert_allclose(ours, theirs.params, atol=1e-3)  # reweighting
    model = linear_model.QuantileRegressor(quantile=q, alpha=0, solver="highs")
    model.fit(X[:, CHOSEN], y)
    np.testing.assert_allclose(ours[0], model.intercept_, atol=1e-7)
    np.testing.assert_allclose(ours[1:], model.coef_, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("l2", [0.0, 0.2])
@pytest.mark.parametrize("exact_at", ["fit", "point"])
def test_exact_gradients_are_subgradients(seed, l2, exact_at, intercept):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((40, 5)), rng.standard_normal(40).round(1)
    w = rng.integers(0, 3, 40) * 1.0
    options = {"sample_weight": w, "l2": l2, "fit_intercept": intercept}
    f = Quantile(X, y, quantile=0.3, exact=True, **options)
    if exact_at == "fit":
        fit = refit(f, [1, 3])
    else:
        whole = Whole((5,))
        fit = f.at(whole, rng.standard_normal(5).round(1))
    value, slope = f.value_and_gradient(fit.x)[0], fit.gradient
    assert fit.value == pytest.approx(value, abs=1e-10)
    for size in (1e-3, 0.1, 1.0, 10.0):
        for _ in range(20):
            step = size * rng.standard_normal(5)
            above = f.value_and_gradient(fit.x + step)[0]
            assert above >= value + slope @ step - 1e-9 * (1 + size)


@pytest.mark.parametrize("l2", [1e-3, 0.3])
def test_exact_quantiles_with_a_ridge_are_the_limit_of_smoothing(X, signal, l2, rng):
    y = heavy(signal, rng)
    ridge = rng.random(P)
    options = {"quantile": 0.8, "l2": l2, "fit_intercept": True}
    exact = refit(Quantile(X, y, exact=True, **options).with_ridge(ridge))
    for h in (0.1, 1e-2, 1e-3):
        smooth = refit(Quantile(X, y, bandwidth=h, **options).with_ridge(ridge))
        # the smoothed loss is above, by at most h log 2
        assert -1e-9 <= smooth.value - exact.value <= h * np.log(2)
    np.testing.assert_allclose(exact.x, smooth.x, atol=1e-2)
    assert np.abs(exact.gradient[CHOSEN]).max() < 1e-8


def test_exact_quantiles_on_every_backend(X, signal, backend, dtype, rng):
    y = heavy(signal, rng)
    plain = refit(Quantile(X, y, quantile=0.4, exact=True, fit_intercept=True))
    f = Quantile(
        backend.array(X, dtype), y, quantile=0.4, exact=True, fit_intercept=True
    )
    fit = refit(f)
    assert fit.x.dtype == f.like.dtype
    rough = 1e-9 if dtype == "float64" else 1e-4
    assert fit.value == pytest.approx(plain.value, rel=rough)
    found = solve(f, Cardinality(3))
    assert set(to_host(found.support).tolist()) == set(CHOSEN)


@pytest.mark.parametrize("solver", [OMP(), LocalSearch()], ids=["OMP", "LocalSearch"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_quantiles_are_chosen_as_by_trying_all_pairs(solver, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 6))
    y = 2 * X[:, 1] - X[:, 4] + rng.standard_t(3, size=60)
    f = Quantile(X, y, quantile=0.6, exact=True, fit_intercept=True)
    best = min(
        linear_program(
            np.column_stack((X[:, [i, j]], np.ones(60))), y, np.full(60, 1 / 60), 0.6
        )
        for i in range(6)
        for j in range(i)
    )
    assert solve(f, Cardinality(2), solver).value == pytest.approx(best, rel=1e-8)


def test_exact_quantiles_at_the_edges(rng):
    X, y = rng.standard_normal((6, 9)), rng.standard_normal(6)
    f = Quantile(X, y, exact=True, fit_intercept=True)
    none = refit(f, [])
    assert none.value == pytest.approx(np.mean(np.abs(y - np.median(y))) / 2)
    everything = refit(f, range(9))  # more columns than rows
    assert 0 <= everything.value < 1e-8
    assert np.all(np.isfinite(everything.x))
    one = Quantile(X[:1], y[:1], exact=True, fit_intercept=True)
    assert refit(one, [2]).value == pytest.approx(0, abs=1e-12)
    flat = X.copy()
    flat[:, 0], flat[:, 1], flat[:, 3] = 0.0, 5.0, X[:, 2]
    f = Quantile(flat, y, exact=True, fit_intercept=True)
    degenerate, plain = refit(f, [0, 1, 2, 3]), refit(f, [2])
    assert degenerate.value == pytest.approx(plain.value, abs=1e-9)
    for unit in (1e-12, 1e12):
        scaled = refit(Quantile(X, unit * y, exact=True, fit_intercept=True), [1, 2])
        fit = refit(Quantile(X, y, exact=True, fit_intercept=True), [1, 2])
        assert scaled.value == pytest.approx(unit * fit.value, rel=1e-9)
    assert refit(Quantile(X, 0 * y, exact=True), [1]).value == 0


def test_bandwidth_of_the_quantile(rng):
    X, y = rng.standard_normal((80, 20)), rng.standard_normal(80)
    f = Quantile(X, y, quantile=0.2)
    spread = np.subtract(*np.quantile(y, [0.75, 0.25])) / 1.35
    expected = 0.4 * (np.log(20) / 80) ** 0.25 * spread
    assert f.bandwidth == pytest.approx(expected, rel=1e-12)
    assert Quantile(X, 1e6 * y, quantile=0.2).bandwidth == pytest.approx(1e6 * expected)
    assert f.rows(np.arange(20)).bandwidth == f.bandwidth
    assert Quantile(X, 0 * y).bandwidth > 0
    sparse = np.where(np.arange(80) < 70, 0.0, y)  # whose quartiles are equal
    assert 0 < Quantile(X, sparse).bandwidth < 1
    for options, words in (
        ({"quantile": 0.0}, "quantile must lie in"),
        ({"quantile": 1.0}, "quantile must lie in"),
        ({"quantile": -0.5}, "quantile"),
        ({"bandwidth": 0.0}, "exact=True"),
        ({"bandwidth": float("nan")}, "bandwidth"),
    ):
        with pytest.raises(ValueError, match=words):
            Quantile(X, y, **options)


# -- ordered classes -------------------------------------------------------------------


def graded(signal, rng):
    noise = rng.logistic(size=len(signal))
    return np.digitize(signal + noise, [-1.0, 0.5, 2.0])


def test_proportional_odds_against_statsmodels(X, stored, signal, rng):
    models = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    y = graded(signal, rng)
    f = Ordinal(stored, y)
    fit = refit(f)
    theirs = models.OrderedModel(y, X[:, CHOSEN], distr="logit")
    found = theirs.fit(method="newton", disp=0, maxiter=100)
    np.testing.assert_allclose(fit.x[CHOSEN], found.params[:3], atol=1e-5)
    thresholds = theirs.transform_threshold_params(found.params)[1:-1]
    np.testing.assert_allclose(fit.intercept, thresholds, atol=1e-5)
    assert f.deviance(fit.x, fit.intercept) == pytest.approx(-2 * found.llf, rel=1e-9)
    assert N * fit.value == pytest.approx(-found.llf, rel=1e-9)
    eta = fit.intercept[None, :] - (X @ fit.x)[:, None]
    np.testing.assert_allclose(
        np.exp(log_shares(eta)), theirs.predict(found.params), atol=1e-6
    )


def likelihood(A, y, w, coefficients, thresholds):
    """Mean of minus the log-likelihood, straight from the definition."""
    cumulative = scipy.special.expit(thresholds - A @ coefficients)
    edges = np.column_stack((np.zeros(len(y)), cumulative, np.ones(len(y))))
    chance = np.diff(edges, axis=1)[np.arange(len(y)), y]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 0, -w @ np.log(np.maximum(chance, 1e-300)), np.inf)[0]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_ordered_classes_from_the_definition(
    X, stored, signal, weight, parallel, l2, rng
):
    y, w, A = graded(signal, rng), shares(weight), X[:, CHOSEN]
    f = Ordinal(stored, y, parallel=parallel, sample_weight=weight, l2=l2)
    fit = refit(f)

    def split(v):
        x = v[:-3].reshape(3, -1)
        # a difference from one boundary to the next; or the same at all
        return x, x @ np.ones((1, 3)) if parallel else np.cumsum(x, axis=1)

    def loss(v):
        x, coefficients = split(v)
        if np.any(np.diff(v[-3:]) <= 0):
            return 1e3
        own = likelihood(A, y, w, coefficients, v[-3:])
        return min(own, 1e3) + l2 / 2 * np.sum(x * x)

    start = np.append(np.zeros(3 if parallel else 9), [-1.0, 0.5, 2.0])
    value, v = lowest(loss, len(start), start)
    assert loss(np.append(fit.x[CHOSEN].ravel(), fit.intercept)) == pytest.approx(
        fit.value, rel=1e-10
    )
    assert fit.value <= value + 1e-10
    np.testing.assert_allclose(
        np.append(fit.x[CHOSEN].ravel(), fit.intercept), v, atol=2e-4
    )


def test_thresholds_are_the_best_for_any_point(X, signal, rng):
    y = graded(signal, rng)
    for parallel in (True, False):
        f = Ordinal(X, y, parallel=parallel)
        for size in (0.1, 1.0, 30.0):
            x = size * rng.standard_normal(f.shape)
            value, t = f.value_and_gradient(x)[0], f.intercept_at(x)
            assert np.isfinite(value)
            assert f.loss_at(x, t) == pytest.approx(value, rel=1e-9)
            for step in (1e-3, 0.1, 1.0):
                other = t + step * rng.standard_normal(3)
                assert f.loss_at(x, other) >= value - 1e-12


def test_two_ordered_classes_are_logistic_regression(X, signal, weight, rng):
    y = (signal + rng.logistic(size=N) > 0).astype(float)
    for parallel in (True, False):
        options = {"sample_weight": weight, "l2": 0.02}
        f = Ordinal(X, y, parallel=parallel, **options)
        g = Logistic(X, y, fit_intercept=True, **options)
        one, other = refit(f), refit(g)
        np.testing.assert_allclose(one.x.ravel(), other.x, atol=1e-6)
        assert float(one.intercept[0]) == pytest.approx(-float(other.intercept))
        np.testing.assert_allclose(one.gradient.ravel(), other.gradient, atol=1e-6)
        x = rng.standard_normal(P)
        mine = f.value_and_gradient(x.reshape(f.shape))
        assert mine[0] == pytest.approx(g.value_and_gradient(x)[0], rel=1e-10)


def test_classes_in_reverse_change_the_signs(X, signal, rng):
    y = graded(signal, rng)
    one, other = refit(Ordinal(X, y, l2=0.1)), refit(Ordinal(X, 3 - y, l2=0.1))
    assert one.value == pytest.approx(other.value, rel=1e-10)
    np.testing.assert_allclose(one.x, -other.x, atol=1e-6)
    np.testing.assert_allclose(one.intercept, -other.intercept[::-1], atol=1e-6)


def test_crossed_boundaries_have_an_infinite_loss(X, signal, rng):
    y = graded(signal, rng)
    f = Ordinal(X, y, parallel=False)
    fit = refit(f)
    assert f.loss_at(fit.x, fit.intercept) == pytest.approx(fit.value, rel=1e-10)
    assert f.loss_at(fit.x, fit.intercept[::-1].copy()) == np.inf
    steep = np.zeros(f.shape)
    steep[0, 1] = 100.0  # the second boundary turns, the first does not
    assert f.loss_at(steep, fit.intercept) == np.inf
    chance = f.log_probabilities(X @ steep, fit.intercept)
    assert np.isneginf(chance).any()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        value, gradient = f.value_and_gradient(steep)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_differences_shrink_towards_proportional_odds(X, signal, rng):
    """The convex program of PRESTO; a strong penalty leaves no column at all."""
    y = graded(signal, rng)
    f = Ordinal(X, y, parallel=False)
    for alpha in (1e-3, 1e-2, 5e-2):
        found = solve(f, L1(alpha))
        gradient = f.value_and_gradient(found.x)[1]
        assert L1(alpha).subdifferential_distance(found.x, gradient) < 1e-4
    empty = f.refit(Rows(0).on(f.shape).support(np.empty(0, int)))
    top = np.abs(empty.gradient).max()
    assert not solve(f, L1(1.01 * top)).x.any()
    # a ridge on the differences alone ends at the proportional odds model
    weights = np.zeros(f.shape)
    weights[:, 1:] = 1e7
    tied = f.with_ridge(weights).refit(Whole(f.shape))
    parallel = Ordinal(X, y).refit(Whole((P,)))
    np.testing.assert_allclose(tied.x[:, 0], parallel.x, atol=1e-4)
    np.testing.assert_allclose(tied.intercept, parallel.intercept, atol=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("missing", [[0], [1], [3], [1, 2], [0, 3]])
def test_part_of_the_rows_may_lack_a_class(X, signal, parallel, missing, rng):
    y = graded(signal, rng)
    f = Ordinal(X, y, parallel=parallel, l2=0.1)
    ids = np.flatnonzero(~np.isin(y, missing))
    part = f.rows(ids)
    fit = refit(part)
    # the classes left, renumbered, are a problem of their own
    left = np.setdiff1d(np.arange(4), missing)
    fewer = np.searchsorted(left, y[ids])
    x = 0.3 * rng.standard_normal(P)
    if parallel:
        own = refit(Ordinal(X[ids], fewer, l2=0.1))
        np.testing.assert_allclose(fit.x, own.x, atol=1e-6)
        assert fit.value == pytest.approx(own.value, rel=1e-9)
        np.testing.assert_allclose(fit.intercept[left[:-1]], own.intercept, atol=1e-5)
        value = Ordinal(X[ids], fewer, l2=0.1).value_and_gradient(x)[0]
        assert part.value_and_gradient(x)[0] == pytest.approx(value, rel=1e-9)
        # what was never seen is rare, not impossible
        held = f.rows(np.flatnonzero(np.isin(y, missing)))
        assert 5 < held.loss_at(fit.x, fit.intercept) < 20
        loss = fit.value - 0.05 * np.sum(fit.x**2)
        assert part.loss_at(fit.x, fit.intercept) == pytest.approx(loss, abs=1e-3)
    assert np.all(np.diff(fit.intercept) > 0)
    assert np.abs(fit.gradient[CHOSEN]).max() < 1e-6


def test_rows_of_one_class_are_no_error(X, signal, rng):
    y = graded(signal, rng)
    f = Ordinal(X, y)
    fit = refit(f)
    for label in range(4):
        part = f.rows(np.flatnonzero(y == label))
        assert np.isfinite(part.loss_at(fit.x, fit.intercept))
        assert np.all(np.isfinite(refit(part).x))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parallel", [True, False])
def test_separated_ordered_classes_stop_and_say_so(seed, parallel):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((50, 3))
    y = np.digitize(X[:, 0], [-0.5, 0.5]).astype(float)
    fit = refit(Ordinal(X, y, parallel=parallel), [0])
    assert fit.status is Status.SEPARATED
    assert np.all(np.isfinite(fit.x))
    assert refit(Ordinal(X, y, parallel=parallel, l2=1e-2), [0]).status is None


@pytest.mark.parametrize("parallel", [True, False])
def test_ordered_gains_are_near_refits(parallel, rng):
    """Around a fit to noise the loss is nearly its quadratic."""
    X = rng.standard_normal((2000, 8))
    y = np.digitize(rng.logistic(size=2000) + 0.1 * X[:, 0], [-1.0, 0.5, 2.0])
    f = Ordinal(X, y, parallel=parallel)
    labels = [0, 1, 1, 2, 3, 3, 4, 0]
    structures = [Rows(2).on(f.shape)]
    if parallel:
        structures.append(Groups(labels, 2).on(f.shape))
    for structure in structures:
        fit = f.refit(structure.support(np.array([1, 3])))
        found = f.swap_gains(structure, fit, 20)
        assert len(found.into) == structure.n_atoms - 2
        for out, into, gain in zip(*found, strict=True):
            other = f.refit(structure.exchange(fit.support, out, into))
            rough = 1e-2 if parallel else 0.1  # as if independent
            now = fit.value - other.value
            assert gain == pytest.approx(now, rel=rough, abs=3e-5)


@pytest.mark.parametrize("parallel", [True, False])
def test_ordered_classes_in_single_precision_and_far_away(parallel, backend, rng):
    X = rng.standard_normal((200, 5))
    y = graded(X[:, 1] - X[:, 2], rng)
    plain = refit(Ordinal(X, y, parallel=parallel, l2=0.01), [1, 2])
    f = Ordinal(backend.array(X, "float32"), y, parallel=parallel, l2=0.01)
    fit = refit(f, [1, 2])
    np.testing.assert_allclose(to_host(fit.x), plain.x, atol=2e-3)
    far = Ordinal(backend.array(X + 1e5), y, parallel=parallel, l2=0.01)
    np.testing.assert_allclose(to_host(refit(far, [1, 2]).x), plain.x, atol=1e-5)


def test_targets_of_the_wrong_kind(X):
    bad = {
        "gap": (Ordinal, np.arange(N) % 2 * 2.0, "class 1 has 0 rows"),
        "one class": (Ordinal, np.zeros(N), "at least two classes"),
        "huge label": (Ordinal, np.append(np.zeros(N - 1), 1e15), "class 1 has 0"),
        "half": (Ordinal, np.arange(N) % 2 / 2, "as integers"),
        "negative": (Ordinal, np.arange(N) % 3 - 1, "as integers"),
        "matrix": (Ordinal, np.zeros((N, 2)), r"shape \(n,\)"),
        "not 0 and 1": (SquaredHinge, np.arange(N) % 3, "0 and 1 only"),
        "of one sort": (SquaredHinge, np.ones(N), "both classes"),
        "zero": (Gamma, np.append(np.ones(N - 1), 0.0), "positive, got 0 in row 119"),
        "below zero": (Gamma, -np.ones(N), "positive"),
        "NaN": (Quantile, np.append(np.ones(N - 1), np.nan), "finite"),
    }
    for cls, y, words in bad.values():
        with pytest.raises(ValueError, match=words):
            cls(X, y)
    hollow = X.copy()
    hollow[3, 2] = np.nan
    for cls in (Ordinal, SquaredHinge, Quantile, Gamma):
        y = np.arange(N) % 2 + (1.0 if cls is Gamma else 0.0)
        with pytest.raises(ValueError, match="X must be finite"):
            cls(hollow, y)
