import pickle

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitalfew.estimators import (
    SparseClassifier,
    SparseCox,
    SparseRegressor,
    SparseSelector,
)
from vitalfew.estimators.cox import concordance
from vitalfew.exceptions import ConvergenceWarning
from vitalfew.solvers import HTP, OMP


@pytest.fixture
def diabetes():
    return load_diabetes(return_X_y=True)


def survival(seed=0, n=150, p=8):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    time = rng.exponential(np.exp(-1.5 * X[:, 2] + X[:, 5]))
    stop = rng.exponential(2.0, n)
    return X, np.minimum(time, stop), time <= stop


def test_coefficients_are_least_squares_on_the_chosen_columns(diabetes):
    X, y = diabetes
    model = SparseRegressor(4).fit(X, y)
    assert model.n_nonzero_ == 4
    own = LinearRegression().fit(X[:, model.support_], y)
    np.testing.assert_allclose(model.coef_[model.support_], own.coef_, rtol=1e-8)
    assert model.intercept_ == pytest.approx(own.intercept_, rel=1e-10)
    np.testing.assert_allclose(model.predict(X), own.predict(X[:, model.support_]))


def test_all_columns_is_ordinary_least_squares(diabetes):
    X, y = diabetes
    model = SparseRegressor(X.shape[1]).fit(X, y)
    np.testing.assert_allclose(
        model.coef_, LinearRegression().fit(X, y).coef_, rtol=1e-6
    )


def test_units_of_the_columns_do_not_matter(diabetes):
    X, y = diabetes
    scale = 10.0 ** np.random.default_rng(0).uniform(-3, 3, X.shape[1])
    for solver in (None, OMP(), HTP()):
        plain = SparseRegressor(4, solver=solver).fit(X, y)
        scaled = SparseRegressor(4, solver=solver).fit(X * scale + 100 * scale, y)
        assert plain.support_.tolist() == scaled.support_.tolist()
        np.testing.assert_allclose(plain.coef_, scaled.coef_ * scale, rtol=1e-5)


def test_positive_coefficients_are_the_best_positive_ones(diabetes):
    X, y = diabetes
    free, model = (SparseRegressor(4, positive=p).fit(X, y) for p in (False, True))
    assert free.coef_.min() < 0 <= model.coef_.min()
    own = LinearRegression(positive=True).fit(X[:, model.support_], y)
    np.testing.assert_allclose(model.coef_[model.support_], own.coef_, rtol=1e-6)


def test_groups_are_taken_whole(diabetes):
    X, y = diabetes
    groups = np.array([0, 1, 2, 0, 1, 2, 3, 3, 3, 3])
    model = SparseRegressor(2, groups=groups).fit(X, y)
    assert model.n_nonzero_ == 2
    chosen = set(groups[model.support_])
    assert len(chosen) == 2
    assert (
        model.support_.tolist()
        == np.flatnonzero(np.isin(groups, list(chosen))).tolist()
    )


def test_sparse_x_equals_dense():
    rng = np.random.default_rng(0)
    X = scipy.sparse.random(200, 40, 0.1, random_state=rng, format="csr")
    y = 3 * X[:, [4]].toarray()[:, 0] - 2 * X[:, [7]].toarray()[:, 0]
    y = y + 0.01 * rng.standard_normal(200) + 5
    dense = SparseRegressor(2).fit(X.toarray(), y)
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_array):
        sparse = SparseRegressor(2).fit(kind(X), y)
        np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-8)
        assert sparse.intercept_ == pytest.approx(dense.intercept_)
    labels = (y > np.median(y)).astype(int)
    dense = SparseClassifier(2).fit(X.toarray(), labels)
    sparse = SparseClassifier(2).fit(X, labels)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-6)


def test_several_outputs_share_their_columns(diabetes):
    X, y = diabetes
    Y = np.column_stack(
        (y, -2 * y + 1, y + np.random.default_rng(0).normal(size=len(y)))
    )
    model = SparseRegressor(3).fit(X, Y)
    assert model.coef_.shape == (3, 10)
    assert model.predict(X).shape == Y.shape
    assert np.all((model.coef_ != 0).sum(axis=1) == 3)
    np.testing.assert_allclose(model.coef_[1], -2 * model.coef_[0], rtol=1e-8)


def test_robust_regression_ignores_outliers():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 20))
    clean = X[:, 3] - 2 * X[:, 8] + 0.1 * rng.standard_normal(200)
    y = clean.copy()
    y[:20] += 500 * X[:20, 0]  # one row in ten screams for column 0
    model = SparseRegressor(2, loss="huber").fit(X, y)
    assert model.support_.tolist() == [3, 8]
    assert SparseRegressor(2).fit(X, y).support_.tolist() != [3, 8]


def test_counts():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((400, 15))
    y = rng.poisson(np.exp(0.5 + 0.8 * X[:, 1] - 0.5 * X[:, 9]))
    model = SparseRegressor(loss="poisson", random_state=0).fit(X, y)
    assert {1, 9} <= set(model.support_)
    assert np.all(model.predict(X) > 0)


def test_automatic_choice_beats_none_on_held_out_rows(diabetes):
    X, y = diabetes
    scores = cross_val_score(SparseRegressor(random_state=0), X, y, cv=5)
    assert np.mean(scores) > 0.4  # all ten columns give about 0.48 here


def test_classifier_on_two_and_three_classes():
    X, y = load_breast_cancer(return_X_y=True)
    model = SparseClassifier(4).fit(X, np.array(["no", "yes"])[y])
    assert model.coef_.shape == (1, 30)
    assert set(model.predict(X)) == {"no", "yes"}
    probability = model.predict_proba(X)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert np.mean(model.predict(X) == np.array(["no", "yes"])[y]) > 0.93
    X, y = load_iris(return_X_y=True)
    model = SparseClassifier(2).fit(X, y)
    assert model.coef_.shape == (3, 4)
    assert len(model.support_) == 2
    assert np.all((model.coef_ != 0).sum(axis=1) == 2)
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-8)


def test_separated_classes_warn_without_ridge():
    X = np.column_stack(
        (np.linspace(-1, 1, 40), np.random.default_rng(0).normal(size=40))
    )
    y = X[:, 0] > 0
    with pytest.warns(ConvergenceWarning, match="l2 > 0"):
        SparseClassifier(1, l2=0.0).fit(X, y)
    model = SparseClassifier(1).fit(X, y)  # the automatic ridge keeps it finite
    assert model.support_.tolist() == [0]
    assert np.abs(model.coef_).max() < 100


@pytest.mark.parametrize("form", ["structured", "two columns", "times"])
def test_cox_takes_three_forms_of_y(form):
    X, time, event = survival()
    if form == "structured":
        y = np.array(
            list(zip(event, time, strict=True)), dtype=[("e", bool), ("t", float)]
        )
    elif form == "two columns":
        y = np.column_stack((event, time))
    else:
        y = time
    model = SparseCox(2).fit(X, y)
    assert model.support_.tolist() == [2, 5]
    assert model.coef_[2] > 0 > model.coef_[5]
    assert 0.7 < model.score(X, y) <= 1
    S = model.predict_survival(X[:3], [0.0, 0.5, 2.0])
    assert np.all(np.diff(S, axis=1) <= 0)
    assert np.all((S > 0) & (S <= 1))
    np.testing.assert_allclose(S[:, 0], 1)


def test_survival_does_not_depend_on_where_zero_is():
    X, time, event = survival()
    y = np.column_stack((event, time))
    plain, moved = SparseCox(2).fit(X, y), SparseCox(2).fit(X + 2000, y)
    times = np.quantile(time, [0.1, 0.5, 0.9])
    near = plain.predict_survival(X, times)
    assert near.min() < 0.2 < 0.8 < near.max()
    np.testing.assert_allclose(moved.predict_survival(X + 2000, times), near, atol=1e-6)
    at = plain.event_times_.searchsorted(times, side="right") - 1
    np.testing.assert_allclose(
        plain.predict_survival(np.zeros((1, 8)), times)[0],
        np.exp(-plain.baseline_hazard_[at]),
        rtol=1e-12,
    )


@pytest.mark.parametrize("solver", [None, OMP(), HTP()])
def test_columns_of_tiny_relative_deviation_are_still_scaled(solver):
    # times in seconds since 1970, within one hour, beside columns near one
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((200, 6))
    X = Z.copy()
    X[:, 5] = 1.7e9 + 1000 * Z[:, 5]
    y = Z[:, 0] - Z[:, 1] + 0.1 * rng.standard_normal(200)
    for model, target in (
        (SparseRegressor(2, solver=solver), y),
        (SparseClassifier(2, solver=solver), y > 0),
    ):
        assert model.fit(X, target).support_.tolist() == [0, 1]


def test_concordance_by_definition():
    rng = np.random.default_rng(0)
    time, event = rng.integers(1, 6, 40).astype(float), rng.random(40) < 0.6
    risk = rng.integers(0, 4, 40).astype(float)
    good = pairs = 0.0
    for i in range(40):
        for j in range(40):
            if event[i] and (
                time[i] < time[j] or (time[i] == time[j] and not event[j])
            ):
                pairs += 1
                good += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    assert concordance(time, event, risk) == pytest.approx(good / pairs)
    assert np.isnan(concordance(time, np.zeros(40), risk))


def test_selector_in_a_pipeline_with_a_grid(diabetes):
    X, y = diabetes
    pipe = make_pipeline(StandardScaler(), SparseSelector(3), LinearRegression())
    search = GridSearchCV(pipe, {"sparseselector__n_nonzero": [1, 3, 5]}, cv=3).fit(
        X, y
    )
    assert search.best_params_["sparseselector__n_nonzero"] in (3, 5)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_names_come_back_from_data_frames(library):
    frames = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    X = {name: rng.standard_normal(60) for name in ("age", "bmi", "noise", "more")}
    y = X["bmi"] * 2 - X["age"]
    selector = SparseSelector(2).set_output(transform=library)
    out = selector.fit_transform(frames.DataFrame(X), y)
    assert list(out.columns) == ["age", "bmi"]
    assert selector.get_feature_names_out().tolist() == ["age", "bmi"]


def test_a_fitted_model_pickles_small_and_predicts_the_same(diabetes):
    X, y = diabetes
    model = SparseRegressor(random_state=0).fit(X, y)
    stored = pickle.dumps(model)
    assert len(stored) < X.nbytes  # the data do not travel with it
    again = pickle.loads(stored)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.path_.best.support.tolist() == model.path_.best.support.tolist()
    with pytest.raises(AttributeError, match="stored without its data"):
        _ = again.solution_.fit.gradient


def test_same_seed_same_model(diabetes):
    X, y = diabetes
    first, second = (SparseRegressor(random_state=5).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_ctrl_c_leaves_the_best_so_far_and_passes_on(diabetes, monkeypatch):
    X, y = diabetes
    calls = []

    def step(*args, original=OMP.step):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(OMP, "step", step)
    model = SparseRegressor(solver=OMP())
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.predict(X).shape == y.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_nonzero": 11}, "n_nonzero must be an integer from 0 to 10"),
        ({"n_nonzero": -1}, "n_nonzero must be an integer"),
        ({"n_nonzero": "all"}, "n_nonzero must be 'auto' or an integer"),
        ({"loss": "absolute"}, "loss must be one of"),
        ({"criterion": "aic"}, "criterion must be one of"),
        ({"l2": -1.0}, "l2 must be a finite number >= 0"),
        ({"l2": "none"}, "l2 must be 'auto' or a number"),
        ({"groups": [0, 1]}, "groups must have one label for each of the 10 columns"),
        ({"groups": [0] * 5 + [2] * 5}, "groups.*group 1 is empty"),
        ({"groups": [0.0] * 10}, "groups must be integers"),
        ({"cv": 1}, "cv must lie between 2 and"),
        ({"solver": "omp"}, "solver must be an instance"),
    ],
)
def test_wrong_settings_are_named(settings, message, diabetes):
    with pytest.raises((ValueError, TypeError), match=message):
        SparseRegressor(**settings).fit(*diabetes)


def test_constant_duplicate_and_huge_columns_are_harmless(diabetes):
    X, y = diabetes
    awkward = np.column_stack(
        (np.ones(len(y)), X[:, 2], X, 1e6 + X[:, 3], 1e-9 * X[:, 8])
    )
    model = SparseRegressor(4).fit(awkward, y)
    plain = SparseRegressor(4).fit(X, y)
    assert np.isfinite(model.coef_).all()
    assert 0 not in model.support_
    np.testing.assert_allclose(model.predict(awkward), plain.predict(X), rtol=1e-4)


def ordered_labels(seed=0, n=300):
    """Labels in the order of a predictor; ascending text would be in another."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 12))
    grade = np.digitize(X[:, 3] * 2 - X[:, 7] + rng.logistic(size=n), [-2.0, 0.0, 3.0])
    return X, np.array(["poor", "fair", "good", "best"])[grade], grade


def test_ordered_classes():
    X, y, grade = ordered_labels()
    names = ["poor", "fair", "good", "best"]
    model = SparseClassifier(2, ordered=["worst", *names]).fit(X, y)
    assert model.classes_.tolist() == names
    assert model.support_.tolist() == [3, 7]
    assert model.coef_.shape == (1, 12)
    assert model.coef_[0, 3] > 0 > model.coef_[0, 7]
    assert np.all(np.diff(model.intercept_) > 0)
    chance = model.predict_proba(X)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    # from the definition of proportional odds
    below = 1 / (1 + np.exp(X @ model.coef_[0] - model.intercept_[:, None]))
    np.testing.assert_allclose(np.cumsum(chance, axis=1)[:, :3], below.T, atol=1e-12)
    np.testing.assert_array_equal(
        model.predict(X), np.array(names)[chance.argmax(axis=1)]
    )
    same = SparseClassifier(2, ordered=True).fit(X, grade)
    np.testing.assert_allclose(same.coef_, model.coef_)
    back = SparseClassifier(2, ordered=names[::-1]).fit(X, y)
    np.testing.assert_allclose(back.coef_, -model.coef_, atol=1e-6)
    np.testing.assert_allclose(
        pickle.loads(pickle.dumps(model)).predict_proba(X), chance
    )


def test_ordered_classes_predict_better_than_unordered_ones():
    X, _, grade = ordered_labels(1, 120)
    fresh, _, truth = ordered_labels(2, 2000)

    def loss(model):
        chance = model.fit(X, grade).predict_proba(fresh)
        return -np.mean(np.log(chance[np.arange(2000), truth]))

    assert loss(SparseClassifier(2, ordered=True)) < loss(SparseClassifier(2))


def test_orders_that_do_not_fit_and_two_classes():
    X, y, grade = ordered_labels()
    for ordered, words in (
        (["poor", "fair"], "best is missing"),
        (["poor", "fair", "good", "best", "poor"], "twice"),
        ("poor", "missing"),
    ):
        with pytest.raises(ValueError, match=words):
            SparseClassifier(2, ordered=ordered).fit(X, y)
    two = np.where(grade > 1, "yes", "no")
    given = SparseClassifier(2, ordered=["yes", "no"]).fit(X, two)
    plain = SparseClassifier(2).fit(X, two)
    np.testing.assert_allclose(given.coef_, -plain.coef_, atol=1e-6)
    assert given.classes_.tolist() == ["yes", "no"]
    np.testing.assert_array_equal(given.predict(X), plain.predict(X))
