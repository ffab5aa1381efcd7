"""Scoring systems: the search for points against enumeration, and the card."""

import itertools
import math
import os
import pickle
import re
import time
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score

from vitalfew import datasets
from vitalfew.estimators import ScoringSystem, _scoring_search
from vitalfew.estimators._points import (
    TOLERANCE,
    Patterns,
    best_points,
    bound,
    cone_quadratic,
    relaxed,
    rounded,
)
from vitalfew.estimators.scoring_system import _short
from vitalfew.exceptions import IncompatibleError
from vitalfew.solvers import OMP


def table_of(seed, m, n=120):
    """Correlated yes-or-no items, classes and weights."""
    rng = np.random.default_rng(seed)
    common = rng.random((n, 1)) < 0.5
    items = rng.random((n, m)) < 0.3 + 0.4 * common
    eta = items @ rng.standard_normal(m) * rng.choice([0.5, 1.5])
    y = (eta + rng.logistic(size=n) > np.median(eta)).astype(float)
    y[:2] = 0, 1
    w = rng.random(n) + 0.1
    return items.astype(float), y, w / w.sum()


def patterns_of(seed, m, l2=1e-3):
    return Patterns.of(*table_of(seed, m), l2)


def loss(items, y, w, z, b, l2):
    eta = items @ z + b
    return float(w @ np.logaddexp(0, (1 - 2 * y) * eta) + l2 / 2 * z @ z)


def calibrated_by_scipy(items, y, w, points, l2):
    """Least loss of points over their multiplier and intercept."""

    def f(v):
        eta = v[0] * (items @ points) + v[1]
        r = w * (expit(eta) - y)
        slope = float(r @ (items @ points)) + l2 * v[0] * float(points @ points)
        return loss(items, y, w, v[0] * points, v[1], l2), [slope, r.sum()]

    options = {"ftol": 1e-15, "gtol": 1e-10}
    limits = [(0, None), (None, None)]
    return minimize(f, [0, 0], jac=True, bounds=limits, options=options).fun


def every_vector(k, most):
    grid = itertools.product(range(-most, most + 1), repeat=k)
    return np.array(list(grid), np.int64).reshape(-1, k)


# -- the search for points -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_patterns_have_the_loss_of_the_rows(seed):
    rng = np.random.default_rng(seed)
    items, y, w = table_of(seed, 4)
    patterns = Patterns.of(items, y, w, 0.1)
    assert len(patterns.A) <= 16
    assert patterns.ones.sum() + patterns.zeros.sum() == pytest.approx(1)
    z = rng.standard_normal(4)
    value, b = patterns.value(z, 0.0)
    assert value == pytest.approx(loss(items, y, w, z, b, 0.1), rel=1e-12)
    near = [loss(items, y, w, z, b + e, 0.1) for e in (-1e-4, 1e-4)]
    assert value <= min(near)
    g, H = patterns.slopes(z, b)
    for i, e in enumerate(1e-5 * np.eye(4)):
        above, below = (patterns.value(z + s * e, b) for s in (1, -1))
        assert (above[0] - below[0]) / 2e-5 == pytest.approx(g[i], abs=1e-9)
        up, down = (
            patterns.slopes(z + s * e, patterns.value(z + s * e, b)[1])[0]
            for s in (1, -1)
        )
        np.testing.assert_allclose((up - down) / 2e-5, H[i], atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_calibrations_are_the_best(seed):
    rng = np.random.default_rng(seed)
    items, y, w = table_of(seed, 3)
    patterns = Patterns.of(items, y, w, 1e-3)
    points = rng.integers(-5, 6, (6, 3))
    points[0] = 0
    value, scale, shift = patterns.calibrate(points)
    assert np.all(scale >= 0)
    for v, s, b, p in zip(value, scale, shift, points, strict=True):
        assert v == pytest.approx(loss(items, y, w, s * p, b, 1e-3), rel=1e-12)
        other = calibrated_by_scipy(items, y, w, p, 1e-3)
        assert v == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_bounds_hold_at_any_point_and_are_met_at_the_best(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 5))
    patterns = patterns_of(seed, k, l2=0.01)
    low = rng.integers(-4, 3, k)
    high = low + rng.integers(0, 4, k)
    lo, hi = low.astype(float), high.astype(float)
    node = relaxed(patterns, low, high, np.zeros(k), 1.0, 0.0, math.inf)
    value, _ = patterns.value(node.z, node.b)
    assert np.all(node.z >= lo * node.s - 1e-12)
    assert np.all(node.z <= hi * node.s + 1e-12)
    assert 0 <= value - node.lower <= TOLERANCE * value
    lowest = math.inf
    for _ in range(200):
        s = rng.exponential() * rng.choice([0.01, 1, 3])
        inside = patterns.value(s * rng.uniform(lo, hi), 0.0)[0]
        lowest = min(lowest, inside)
        z = rng.standard_normal(k)  # anywhere, the bound must hold
        at, b = patterns.value(z, 0.0)
        g, _ = patterns.slopes(z, b)
        assert bound(at, g, z, lo, hi, patterns.l2) <= value + 1e-12
    assert node.lower <= lowest + 1e-12


@pytest.mark.parametrize("seed", range(10))
def test_quadratic_programmes_over_a_cone(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    root = rng.standard_normal((k + 2, k))
    H, g = root.T @ root + 0.01 * np.eye(k), 3 * rng.standard_normal(k)
    low = rng.integers(-4, 3, k).astype(float)
    high = low + rng.integers(0, 4, k)
    s0 = 0.5
    z0 = s0 * rng.uniform(low, high)

    def q(v):
        d = v[:k] - z0
        return g @ d + d @ H @ d / 2

    z, s = cone_quadratic(H, g, z0, s0, low, high)
    assert s > 0
    assert np.all((z >= low * s - 1e-10) & (z <= high * s + 1e-10))
    rules = [
        {"type": "ineq", "fun": lambda v: v[:k] - low * v[k]},
        {"type": "ineq", "fun": lambda v: high * v[k] - v[:k]},
    ]
    start = np.append(z0, s0)
    options = {"ftol": 1e-14, "maxiter": 500}
    limits = [(None, None)] * k + [(1e-6, None)]
    other = minimize(
        q, start, method="SLSQP", constraints=rules, bounds=limits, options=options
    )
    assert q(np.append(z, s)) <= other.fun + 1e-7 * (1 + abs(other.fun))


@pytest.mark.parametrize(("k", "most"), [(1, 5), (2, 4), (3, 3), (4, 2), (5, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_points_are_proved_best_among_all(k, most, seed):
    patterns = patterns_of(seed, k)
    cards = []
    lower = best_points(patterns, most, None, math.inf, cards.append)
    lowest = patterns.calibrate(every_vector(k, most))[0].min()
    assert cards[-1].value == pytest.approx(lowest, rel=2 * TOLERANCE)
    assert lower <= lowest + 1e-12
    assert lower >= cards[-1].value * (1 - 2 * TOLERANCE)
    values = [card.value for card in cards]
    assert np.all(np.diff(values) < 0)
    # with the answer known there is nothing to tell, and the bound is as good
    again = best_points(patterns, most, cards[-1], math.inf, cards.append)
    assert again >= cards[-1].value * (1 - 2 * TOLERANCE)
    assert len(cards) == len(values)


def test_a_search_without_time_still_has_a_bound():
    patterns = patterns_of(0, 6)
    cards = []
    lower = best_points(patterns, 5, None, -math.inf, cards.append)
    best = []
    best_points(patterns, 5, None, math.inf, best.append)
    assert lower <= best[-1].value <= cards[-1].value


def test_rounding_finds_points_that_are_multiples():
    items, _, w = table_of(3, 4, n=400)
    points = np.array([3, -2, 1, 5])
    # infinitely many rows of a true card
    risk = expit(0.7 * (items @ points) - 1.5)
    everything = np.concatenate((items, items))
    classes = np.repeat([0.0, 1.0], len(items))
    weight = np.concatenate((w * (1 - risk), w * risk))
    patterns = Patterns.of(everything, classes, weight, 1e-9)
    z = 0.7 * points
    assert rounded(patterns, z, 5).points.tolist() == points.tolist()
    cards = []
    best_points(patterns, 5, None, math.inf, cards.append)
    assert cards[-1].points.tolist() == points.tolist()
    assert cards[-1].scale == pytest.approx(0.7, rel=1e-4)
    assert cards[-1].shift == pytest.approx(-1.5, rel=1e-4)


# -- items and points together ---------------------------------------------------------


@pytest.mark.parametrize(("m", "k"), [(3, 1), (3, 2), (3, 3), (4, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_cards_against_every_card(m, k, seed):
    items, y, w = table_of(seed, m)
    model = ScoringSystem(k, max_points=2).fit(items, y, w)
    assert model.proved_
    assert model.gap_ <= TOLERANCE
    vectors = every_vector(m, 2)
    vectors = vectors[np.count_nonzero(vectors, axis=1) <= k]
    vectors = vectors[np.gcd.reduce(vectors, axis=1) <= 1]  # others are no better
    lowest = min(calibrated_by_scipy(items, y, w, v, 1e-3) for v in vectors)
    assert model.loss_ == pytest.approx(lowest, rel=3e-6)
    # and the attributes say which it is
    points = np.zeros(m, int)
    points[model.features_] = model.points_
    z = points / model.multiplier_
    b = model.intercept_ / model.multiplier_
    assert loss(items, y, w, z, b, 1e-3) == pytest.approx(model.loss_, rel=1e-9)


def test_larger_cards_are_never_worse_where_this_is_proved():
    items, y, w = table_of(1, 8)
    for vary in ("n_nonzero", "max_points"):
        losses = []
        for size in (1, 2, 4):
            settings = {"n_nonzero": 3, "max_points": 3, vary: size}
            model = ScoringSystem(**settings).fit(items, y, w)
            assert model.proved_
            losses.append(model.loss_)
        assert np.all(np.diff(losses) <= 2 * TOLERANCE)


def test_exchanges_find_what_a_poor_start_misses():
    items, y, w = table_of(7, 14, n=300)
    greedy = ScoringSystem(4, solver=OMP(), max_seconds=20).fit(items, y, w)
    usual = ScoringSystem(4).fit(items, y, w)
    assert usual.proved_
    assert greedy.loss_ == pytest.approx(usual.loss_, rel=2 * TOLERANCE)


def test_no_time_is_told(monkeypatch):
    X, y = load_breast_cancer(return_X_y=True)
    model = ScoringSystem(max_seconds=0).fit(X, y)
    assert not model.proved_
    assert 0 <= model.gap_ < 1
    assert model.score(X, y) >= max(y.mean(), 1 - y.mean())
    full = ScoringSystem().fit(X, y)
    assert full.loss_ <= model.loss_
    assert full.gap_ <= TOLERANCE
    assert not full.proved_  # too many choices of items to look at
    # with time for rounding alone the gap must cover what points are still to be found
    monkeypatch.setattr(
        _scoring_search.Search, "_late", property(lambda self: bool(self.lower))
    )
    rough = ScoringSystem(4, max_points=2).fit(X, y)
    monkeypatch.undo()
    items = (X[:, rough.features_] >= rough.thresholds_).astype(float)
    patterns = Patterns.of(items, y.astype(float), np.full(len(y), 1 / len(y)), 1e-3)
    cards = []
    best_points(patterns, 2, None, math.inf, cards.append)
    assert cards[-1].value >= rough.loss_ * (1 - rough.gap_) - 1e-9


def test_ctrl_c_keeps_the_best_card_and_passes_on(monkeypatch):
    X, y = load_breast_cancer(return_X_y=True)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_scoring_search, "best_points", stop)
    model = ScoringSystem()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.score(X, y) > 0.9
    assert not model.proved_
    assert model.gap_ > 0


# -- the estimator ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    y = np.where(y == 0, "malignant", "benign")
    return ScoringSystem().fit(X, y), X, y


def test_accuracy_on_rows_held_out():
    X, y = load_breast_cancer(return_X_y=True)
    assert cross_val_score(ScoringSystem(), X, y, cv=5).mean() > 0.92


def test_risks_follow_from_the_attributes(fitted):
    model, X, y = fitted
    values = X.to_numpy()
    total = np.zeros(len(X))
    rows = zip(model.features_, model.thresholds_, model.points_, strict=True)
    for j, t, p in rows:
        total += p * (values[:, j] >= t)
    np.testing.assert_array_equal(model.total(X), total)
    risk = 1 / (1 + np.exp(-(total + model.intercept_) / model.multiplier_))
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], risk, rtol=1e-12)
    assert model.classes_.tolist() == ["benign", "malignant"]
    np.testing.assert_array_equal(
        model.predict(X), np.where(risk > 0.5, "malignant", "benign")
    )
    # calibrated: expected cases are the cases, as the intercept is free
    assert risk.mean() == pytest.approx(np.mean(y == "malignant"), abs=1e-6)
    assert np.all(np.abs(model.points_) <= 5)
    assert np.all(model.points_ != 0)
    assert len(model.points_) <= 5
    assert np.gcd.reduce(model.points_) == 1


def test_the_card_says_what_the_model_does(fitted):
    model, X, _ = fitted
    card = model.card()
    assert all(len(line) <= 60 for line in card.splitlines())
    for item, points in zip(model.items(), model.points_, strict=True):
        told = re.escape(f"{points:+d}")
        assert re.search(rf"^  {re.escape(item)} +{told}$", card, re.MULTILINE)
    risk_of = {}
    lines = card.splitlines()
    for above, below in itertools.pairwise(lines):
        if above.startswith("  total"):
            totals = [int(t) for t in above.split()[1:]]
            risk_of |= dict(zip(totals, below.split()[1:], strict=True))
    assert list(risk_of) == sorted(risk_of)
    risks = model.predict_proba(X)[:, 1]
    for total, risk in zip(model.total(X), risks, strict=True):
        text = risk_of[total]
        if text[0] not in "<>":
            assert float(text[:-1]) == pytest.approx(100 * risk, abs=0.051)
        else:
            assert risk < 0.001 if text[0] == "<" else risk > 0.999
    assert "Risk of malignant" in card


def test_thresholds_that_imply_each_other_give_no_impossible_totals():
    x = np.arange(60.0)
    risk = np.where(x < 20, 0.1, np.where(x < 40, 0.5, 0.9))
    y = np.random.default_rng(0).random(60) < risk
    model = ScoringSystem(2, max_points=2).fit(x[:, None], y)
    assert model.features_.tolist() == [0, 0]
    totals = re.findall(r"total(.*)", model.card())[0].split()
    assert {int(t) for t in totals} == set(model.total(x[:, None]).tolist())


def test_names_and_plain_items(rng):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "smoker": rng.integers(0, 2, 300),
            "sex": rng.integers(1, 3, 300),
            "age": rng.integers(20, 90, 300),
            "noise": np.ones(300),
        }
    )
    eta = 2 * frame.smoker + 1.5 * (frame.age >= 60) - 1.5 * frame.sex
    y = eta + rng.logistic(size=300) > eta.mean()
    model = ScoringSystem(3).fit(frame, y)
    items = model.items()
    assert items[0] == "smoker"
    assert items[1] == "sex >= 2"
    assert re.fullmatch(r"age >= [56]\d", items[2])
    unnamed = ScoringSystem(3).fit(frame.to_numpy(), y)
    assert unnamed.items()[:2] == ["x0", "x1 >= 2"]


def test_values_that_many_rows_share_are_cut_off_on_both_sides(rng):
    amount = np.where(rng.random(400) < 0.7, 0.0, rng.exponential(size=400))
    y = (amount > 0) ^ (rng.random(400) < 0.1)
    model = ScoringSystem(1).fit(amount[:, None], y)
    assert 0 < model.thresholds_[0] <= amount[amount > 0].min()


def test_weights_are_repeated_rows(rng):
    X = rng.standard_normal((80, 4)).round(2)
    y = X[:, 0] - X[:, 2] + rng.logistic(size=80) > 0
    w = rng.integers(0, 4, 80)
    weighted = ScoringSystem(3).fit(X, y, w)
    repeated = ScoringSystem(3).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    assert weighted.items() == repeated.items()
    assert weighted.points_.tolist() == repeated.points_.tolist()
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e9, 1e200])
def test_units_change_nothing_but_the_thresholds(scale, rng):
    X = rng.standard_normal((100, 5))
    y = X[:, 1] > 0.3 * rng.standard_normal(100)
    plain, scaled = ScoringSystem(2).fit(X, y), ScoringSystem(2).fit(scale * X, y)
    assert plain.points_.tolist() == scaled.points_.tolist()
    np.testing.assert_array_equal(plain.total(X), scaled.total(scale * X))


def test_awkward_columns_are_harmless(rng):
    X = rng.standard_normal((60, 3))
    y = (X[:, 0] > 0).astype(int)  # separated
    awkward = np.column_stack((X, X, np.ones(60), np.zeros(60)))
    model = ScoringSystem(4).fit(awkward, y)
    assert model.score(awkward, y) > 0.9
    assert np.isfinite(model.predict_proba(awkward)).all()
    nothing = ScoringSystem(4).fit(np.ones((60, 2)), y)
    assert len(nothing.points_) == 0
    np.testing.assert_allclose(nothing.predict_proba(X[:, :2])[:, 1], y.mean())
    assert "0 in all" in nothing.card()
    assert nothing.proved_
    none = ScoringSystem(0).fit(X, y)
    np.testing.assert_allclose(none.predict_proba(X)[:, 1], y.mean(), rtol=1e-9)
    two = ScoringSystem(1).fit([[0.0], [1.0]], [0, 1])
    assert two.predict([[0.0], [1.0]]).tolist() == [0, 1]


def test_the_same_call_gives_the_same_card_and_it_pickles(fitted):
    model, X, y = fitted
    again = ScoringSystem().fit(X, y)
    assert again.card() == model.card()
    stored = pickle.dumps(model)
    assert len(stored) < 5_000
    np.testing.assert_array_equal(pickle.loads(stored).predict(X), model.predict(X))


def digits(number):
    """How many digits are left without the zeros around them."""
    return len(Decimal(f"{number:.12g}").normalize().as_tuple().digits)


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_short_thresholds_part_the_same_values(a, b):
    assume(a != b)
    low, high = min(a, b), max(a, b)
    t = _short(low, high)
    assert low < t <= high
    assert digits(t) <= digits(high)


def test_short_thresholds_are_short():
    assert _short(63.0, 65.0) == 65
    assert _short(59.0, 65.0) == 60
    assert _short(13.0827, 13.0837) == 13.083
    assert _short(-0.2, 0.7) == 0
    assert _short(-0.7, -0.2) == -0.2
    assert _short(0.0, 1.0) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_nonzero": -1}, "n_nonzero must be an integer from 0 to 50"),
        ({"n_nonzero": 2.5}, "n_nonzero must be an integer"),
        ({"max_points": 0}, "max_points must be an integer from 1 to 1000"),
        ({"n_thresholds": 0}, "n_thresholds must be an integer of at least 1"),
        ({"l2": 0.0}, "l2 must be positive"),
        ({"l2": -1.0}, "l2 must be a finite number >= 0"),
        ({"max_seconds": -1}, "max_seconds must be"),
        ({"solver": "omp"}, "solver must be an instance"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    items, y, _ = table_of(0, 3)
    with pytest.raises((ValueError, IncompatibleError), match=message):
        ScoringSystem(**settings).fit(items, y)


def test_three_classes_are_refused():
    with pytest.raises(ValueError, match="two classes, got 3"):
        ScoringSystem().fit([[0], [1], [2]], [0, 1, 2])
    with pytest.raises(ValueError, match="two classes, got one"):
        ScoringSystem().fit([[0], [1], [2]], [1, 1, 1])


@pytest.mark.skipif("VITALFEW_DATA" not in os.environ, reason="needs $VITALFEW_DATA")
def test_mail_is_told_from_spam_by_five_lines():
    columns = dict(datasets.load("spambase").columns)
    y = columns.pop(next(reversed(columns)))
    X = np.column_stack([np.asarray(v, float) for v in columns.values()])
    train = np.arange(len(y)) % 2 == 0
    begun = time.perf_counter()
    model = ScoringSystem().fit(X[train], y[train])
    assert time.perf_counter() - begun < 60
    assert model.gap_ <= TOLERANCE
    assert model.score(X[~train], y[~train]) > 0.85


@pytest.mark.parametrize("unit", [5e-324, 1e-310, 1e300, 1.7e308])
def test_columns_of_extreme_units_have_items(unit, rng):
    x = rng.integers(0, 2, 60)
    model = ScoringSystem(1).fit(unit * x[:, None] - unit / 3, x ^ (np.arange(60) == 7))
    assert model.predict((unit * x[:, None]) - unit / 3).tolist() == x.tolist()


def test_weights_may_be_of_any_size(rng):
    X, y = rng.standard_normal((60, 2)), rng.integers(0, 2, 60)
    cards = [
        ScoringSystem(2, max_points=2).fit(X, y, np.full(60, size)).card()
        for size in (1.0, 1e-300, 1e307)
    ]
    assert cards[0] == cards[1] == cards[2]
