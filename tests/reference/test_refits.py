"""Refits on fixed columns against scikit-learn, SciPy and statsmodels."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from vitalfew.objectives import (
    Cox,
    Huber,
    LeastSquares,
    Logistic,
    Multinomial,
    Ordinal,
    Poisson,
)
from vitalfew.structures import Rows

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


def refit(f):
    fit = f.refit(Rows(3).on(f.shape).support(np.array(CHOSEN)))
    x = fit.x[CHOSEN]
    rest = np.delete(fit.x, CHOSEN, axis=0)
    assert not rest.any()
    return x, fit.intercept


def total(weight):
    return N if weight is None else weight.sum()


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("outputs", [1, 3])
def test_least_squares(X, stored, signal, weight, intercept, l2, outputs, rng):
    y = signal + rng.standard_normal(N)
    if outputs > 1:
        y = np.stack([y, -(y**2), rng.standard_normal(N)], axis=1)
    f = LeastSquares(stored, y, sample_weight=weight, l2=l2, fit_intercept=intercept)
    x, b = refit(f)
    # theirs is the sum of squares plus alpha |x|^2; ours half its mean plus l2/2 |x|^2
    theirs = linear_model.Ridge(
        alpha=l2 * total(weight), fit_intercept=intercept, solver="cholesky"
    ).fit(X[:, CHOSEN], y, sample_weight=weight)
    np.testing.assert_allclose(x, theirs.coef_.T, atol=1e-10)
    if intercept:
        np.testing.assert_allclose(b, theirs.intercept_, atol=1e-10)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_logistic(X, stored, signal, weight, intercept, l2, rng):
    y = (signal + rng.logistic(size=N) > 0).astype(float)
    f = Logistic(stored, y, sample_weight=weight, l2=l2, fit_intercept=intercept)
    x, b = refit(f)
    theirs = linear_model.LogisticRegression(
        C=np.inf if l2 == 0 else 1 / (l2 * total(weight)),
        fit_intercept=intercept,
        solver="newton-cholesky",
        tol=1e-10,
    ).fit(X[:, CHOSEN], y, sample_weight=weight)
    np.testing.assert_allclose(x, theirs.coef_[0], atol=1e-6)
    if intercept:
        np.testing.assert_allclose(b, theirs.intercept_[0], atol=1e-6)
    own = f.value_and_gradient(f.refit(Rows(3).on((P,)).support(np.array(CHOSEN))).x)[0]
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    probabilities = theirs.predict_proba(X[:, CHOSEN])
    loss = log_loss(y, probabilities, sample_weight=weight)
    assert own == pytest.approx(loss + l2 / 2 * np.sum(x * x), rel=1e-9)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_multinomial(X, stored, signal, weight, intercept, l2, rng):
    scores = rng.gumbel(size=(N, 3)) + np.stack([signal, 0 * signal, -signal], axis=1)
    y = scores.argmax(axis=1)
    f = Multinomial(stored, y, sample_weight=weight, l2=l2, fit_intercept=intercept)
    x, b = refit(f)
    theirs = linear_model.LogisticRegression(
        C=np.inf if l2 == 0 else 1 / (l2 * total(weight)),
        fit_intercept=intercept,
        solver="newton-cg",
        tol=1e-10,
        max_iter=1000,
    ).fit(X[:, CHOSEN], y, sample_weight=weight)

    def centred(a):
        return a - a.mean(axis=-1, keepdims=True)  # free up to a constant in each row

    np.testing.assert_allclose(centred(x), centred(theirs.coef_.T), atol=1e-5)
    if intercept:
        np.testing.assert_allclose(centred(b), centred(theirs.intercept_), atol=1e-5)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_poisson(X, stored, signal, weight, intercept, l2, rng):
    y = rng.poisson(np.exp(np.clip(signal, -3, 2))).astype(float)
    f = Poisson(stored, y, sample_weight=weight, l2=l2, fit_intercept=intercept)
    x, b = refit(f)
    theirs = linear_model.PoissonRegressor(
        alpha=l2, fit_intercept=intercept, solver="newton-cholesky", tol=1e-12
    ).fit(X[:, CHOSEN], y, sample_weight=weight)
    np.testing.assert_allclose(x, theirs.coef_, atol=1e-6)
    if intercept:
        np.testing.assert_allclose(b, theirs.intercept_, atol=1e-6)


def test_poisson_deviance(X, signal, weight, rng):
    metrics = pytest.importorskip("sklearn.metrics")
    y = rng.poisson(np.exp(np.clip(signal, -3, 2))).astype(float)
    f = Poisson(X, y, sample_weight=weight)
    x = 0.1 * rng.standard_normal(P)
    theirs = metrics.mean_poisson_deviance(y, np.exp(X @ x), sample_weight=weight)
    assert f.deviance(x) == pytest.approx(N * theirs, rel=1e-10)


def test_huber(X, stored, signal, weight, intercept, rng):
    y = signal + rng.standard_t(1.5, size=N)
    f = Huber(stored, y, delta=0.8, sample_weight=weight, fit_intercept=intercept)
    x, b = refit(f)
    w = np.ones(N) / N if weight is None else weight / weight.sum()
    A = (
        np.concatenate((X[:, CHOSEN], np.ones((N, 1))), axis=1)
        if intercept
        else X[:, CHOSEN]
    )

    def loss(v):
        return np.sum(w * scipy.special.huber(0.8, y - A @ v))

    def slope(v):
        return -A.T @ (w * np.clip(y - A @ v, -0.8, 0.8))

    theirs = scipy.optimize.minimize(
        loss, np.zeros(A.shape[1]), jac=slope, method="BFGS", options={"gtol": 1e-10}
    )
    ours = np.append(x, b) if intercept else x
    assert loss(ours) <= theirs.fun + 1e-12
    np.testing.assert_allclose(ours, theirs.x, atol=1e-5)


@pytest.mark.parametrize("intercept", [True])
def test_huber_against_statsmodels(X, signal, intercept, rng):
    api = pytest.importorskip("statsmodels.api")
    y = signal + rng.standard_t(1.5, size=N)
    f = Huber(X, y, delta=1.345, fit_intercept=intercept)
    x, b = refit(f)

    class Unit(api.robust.scale.HuberScale):
        def __call__(self, df_resid, nobs, resid):
            return 1.0

    model = api.RLM(y, api.add_constant(X[:, CHOSEN]), M=api.robust.norms.HuberT(1.345))
    theirs = model.fit(maxiter=500, tol=1e-12, scale_est=Unit())
    np.testing.assert_allclose([b, *x], theirs.params, atol=1e-6)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
@pytest.mark.parametrize("rounded", [False, True], ids=["no ties", "ties"])
def test_cox(X, stored, signal, ties, rounded, rng):
    duration = pytest.importorskip("statsmodels.duration.hazard_regression")
    time = rng.exponential(size=N) * np.exp(-signal)
    time = np.ceil(4 * time) if rounded else time
    event = (rng.random(N) < 0.7).astype(float)
    f = Cox(stored, time, event, ties=ties)
    x, b = refit(f)
    assert b is None
    theirs = duration.PHReg(time, X[:, CHOSEN], status=event, ties=ties)
    np.testing.assert_allclose(x, theirs.fit(disp=0).params, atol=1e-5)
    fit = f.refit(Rows(3).on((P,)).support(np.array(CHOSEN)))
    # their log-likelihood is a sum, ours the mean of minus it
    assert N * fit.value == pytest.approx(-theirs.loglike(x), rel=1e-9)


def test_cox_weights_are_repeated_rows(X, signal, rng):
    duration = pytest.importorskip("statsmodels.duration.hazard_regression")
    time = np.ceil(4 * rng.exponential(size=N) * np.exp(-signal))
    event, weight = np.ones(N), rng.integers(1, 4, N)
    x, _ = refit(Cox(X, time, event, ties="breslow", sample_weight=weight))
    many = np.repeat(np.arange(N), weight)
    theirs = duration.PHReg(
        time[many], X[many][:, CHOSEN], status=event[many], ties="breslow"
    )
    np.testing.assert_allclose(x, theirs.fit(disp=0).params, atol=1e-5)


def test_cox_baseline_hazard(X, signal, rng):
    duration = pytest.importorskip("statsmodels.duration.hazard_regression")
    time = rng.exponential(size=N) * np.exp(-signal)
    event = (rng.random(N) < 0.7).astype(float)
    f = Cox(X[:, CHOSEN], time, event, ties="breslow")
    fit = f.refit(Rows(3).on((3,)).support(np.arange(3)))
    times, hazard = f.baseline_hazard(fit.x)
    assert np.all(np.diff(times) > 0)
    assert np.all(np.diff(hazard) > 0)
    np.testing.assert_array_equal(times, np.sort(time[event == 1]))
    theirs = duration.PHReg(time, X[:, CHOSEN], status=event, ties="breslow").fit(
        disp=0
    )
    their_times, before, _ = theirs.baseline_cumulative_hazard[0]
    for t, h in zip(times, hazard, strict=True):
        later = np.flatnonzero(their_times > t)
        if len(later):  # theirs does not count what happens at the time itself
            assert h == pytest.approx(before[later[0]], rel=1e-4)


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
def test_intercepts_are_the_best_where_the_loss_is_flat(size, rng):
    """Probabilities of nought and one leave Newton's method nothing to go by."""
    X = rng.standard_normal((40, 3))
    y = np.argmax(X + 2 * rng.gumbel(size=(40, 3)), axis=1)
    y[:3] = 0, 1, 2
    nominal = Multinomial(X, y, fit_intercept=True)
    for _ in range(5):
        x = size * rng.standard_normal((3, 3))
        value, _ = nominal.value_and_gradient(x)
        b = scipy.optimize.minimize(
            lambda b, x=x: nominal.loss_at(x, b), np.zeros(3), method="Powell"
        )
        assert value <= b.fun * (1 + 1e-6)
        assert value == pytest.approx(nominal.loss_at(x, nominal.intercept_at(x)))


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
def test_thresholds_are_the_best_where_the_loss_is_flat(size, rng):
    X = rng.standard_normal((40, 3))
    y = np.argmax(X + 2 * rng.gumbel(size=(40, 3)), axis=1)
    y[:3] = 0, 1, 2
    f = Ordinal(X, y)
    for _ in range(10):
        x = size * rng.standard_normal(3)
        value, _ = f.value_and_gradient(x)
        e = X @ x
        grid = np.unique(np.concatenate((e - 0.01 * size, e + 0.01 * size)))[::3]
        for low, high in itertools.combinations(grid, 2):
            assert value <= f.loss_at(x, np.array([low, high])) * (1 + 1e-9)


@pytest.mark.parametrize("intercept", [False, True])
def test_a_start_that_is_worse_than_none_does_not_matter(intercept, rng):
    X = rng.standard_normal((60, 4))
    y = np.argmax(X[:, :3] + rng.gumbel(size=(60, 3)), axis=1)
    f = Multinomial(X, y, l2=1e-3, fit_intercept=intercept)
    span = Rows(2).on(f.shape).support([0, 1])
    cold = f.refit(span)
    for size in (10.0, 100.0, 1000.0):
        start = f.at(span, size * rng.standard_normal(6))
        assert f.refit(span, start).value == pytest.approx(cold.value, rel=1e-8)
