"""Curves against brute force, feature by feature."""

import itertools
import zlib

import numpy as np
import pytest

from tests.attribution.functions import Softmax, products
from vitalfew.attribution import Curves, IntegratedGradients, blur, curves


def value(x):
    return products(x)[0]


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 6))


def along(f, x, start, order):
    """Insertion and deletion curves of one input."""
    on, off = start.copy(), x.copy()
    rising, falling = [f(on[None])[0]], [f(off[None])[0]]
    for entries in order:
        on.flat[entries], off.flat[entries] = x.flat[entries], start.flat[entries]
        rising.append(f(on[None])[0])
        falling.append(f(off[None])[0])
    return rising, falling


def test_insertion_and_deletion(rng, x):
    start, scores = rng.normal(size=(2, *x.shape))
    found = curves(value, x, {"a": scores}, target="logit", baseline=start)
    assert list(found.insertion) == ["a", "random", "exact greedy"]
    np.testing.assert_allclose(found.fractions, np.arange(7) / 6)
    for i in range(4):
        rising, falling = along(value, x[i], start[i], np.argsort(-scores[i]))
        np.testing.assert_allclose(found.insertion["a"][i], rising)
        np.testing.assert_allclose(found.deletion["a"][i], falling)
    areas = found.areas()["a"]
    trapezoids = (found.insertion["a"][:, 1:] + found.insertion["a"][:, :-1]) / 12
    np.testing.assert_allclose(areas["insertion"], trapezoids.sum(1).mean())
    assert not found.sic
    assert any("no probability" in note for note in found.notes)


@pytest.mark.parametrize("memory", [1, 3000, 2**28])
def test_groups_levels_and_memory(memory, rng):
    model = Softmax(rng, 24)
    x, scores = rng.normal(size=(2, 3, 2, 3, 4))
    labels = np.arange(12).reshape(3, 4) // 2
    found = curves(model, x, {"a": scores}, 1, groups=labels, levels=3, memory=memory)
    np.testing.assert_allclose(found.fractions, [0, 1 / 3, 2 / 3, 1])
    flat = np.broadcast_to(labels, (2, 3, 4)).ravel()

    def f(p):
        return model(p, np.array([1]))[0]

    for i in range(3):
        means = [scores[i].ravel()[flat == g].mean() for g in range(6)]
        order = [np.flatnonzero(flat == g) for g in np.argsort(means)[::-1]]
        rising, falling = along(f, x[i], np.zeros((2, 3, 4)), order)
        np.testing.assert_allclose(found.insertion["a"][i], rising[::2])
        np.testing.assert_allclose(found.deletion["a"][i], falling[::2])


def test_inputs_with_fewer_groups_than_others(rng, x):
    scores = -rng.uniform(size=x.shape)  # below what a group that is not there has
    labels = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [0] * 6, [0, 1] * 3])
    found = curves(value, x, {"a": scores}, target="logit", groups=labels)
    for i in range(4):
        means = [scores[i][labels[i] == g].mean() for g in range(labels[i].max() + 1)]
        order = [np.flatnonzero(labels[i] == g) for g in np.argsort(means)[::-1]]
        rising, falling = along(value, x[i], np.zeros(6), order)
        left = 7 - len(rising)  # nothing more to show
        rising, falling = rising + left * rising[-1:], falling + left * falling[-1:]
        np.testing.assert_allclose(found.insertion["a"][i], rising)
        np.testing.assert_allclose(found.deletion["a"][i], falling)


def greedy(f, x, start, groups):
    chosen, count = [], max(groups) + 1
    while len(chosen) < count:
        gains = {}
        for g in set(range(count)) - set(chosen):
            on = np.isin(groups, [*chosen, g])
            gains[g] = f(np.where(on, x, start)[None])[0]
        chosen.append(max(gains, key=lambda g: (gains[g], -g)))
    return [np.flatnonzero(groups == g) for g in chosen]


def test_exact_greedy_order(rng, x):
    start = rng.normal(size=6)
    labels = np.array(
        [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [0] * 6, [0, 1, 1, 2, 0, 3]]
    )
    for memory in (1, 2**20):
        found = curves(
            value, x, {}, target="logit", baseline=start, groups=labels, memory=memory
        )
        for i in range(4):
            order = greedy(value, x[i], start, labels[i])
            rising, falling = along(value, x[i], start, order)
            n = len(rising)
            np.testing.assert_allclose(found.insertion["exact greedy"][i, :n], rising)
            np.testing.assert_allclose(found.deletion["exact greedy"][i, :n], falling)


def test_exact_greedy_takes_the_best_first_feature(x):
    found = curves(value, x, {}, target="logit")
    best = [
        max(value(np.where(np.arange(6) == j, row, 0)[None])[0] for j in range(6))
        for row in x
    ]
    np.testing.assert_allclose(found.insertion["exact greedy"][:, 1], best)


def test_the_random_order_is_one_of_all_and_drawn_by_the_seed(x):
    one, same, other = (
        curves(value, x[:1, :4], {}, target="logit", rng=seed) for seed in (0, 0, 1)
    )
    every = [
        along(value, x[0, :4], np.zeros(4), order)[0]
        for order in itertools.permutations(range(4))
    ]
    assert any(np.allclose(one.insertion["random"][0], curve) for curve in every)
    np.testing.assert_array_equal(one.insertion["random"], same.insertion["random"])
    assert not np.array_equal(one.insertion["random"], other.insertion["random"])


def test_equal_scores_have_no_fixed_order():
    x = np.eye(8)[:1] * 5
    spread = {
        float(
            curves(value_of_first, x, {"a": 0 * x}, target="logit", rng=seed)
            .insertion["a"]
            .sum()
        )
        for seed in range(12)
    }
    assert len(spread) > 3


def value_of_first(x):
    return x[:, 0]


def test_many_features_leave_exact_greedy_out(rng):
    x = rng.normal(size=(2, 150))
    found = curves(value_of_first, x, {}, target="logit")
    assert "exact greedy" not in found.insertion
    assert any("11325 evaluations" in note for note in found.notes)
    asked = curves(value_of_first, x[:, :140], {}, target="logit", exact_greedy=True)
    assert "exact greedy" in asked.insertion
    assert (
        "exact greedy"
        not in curves(
            value_of_first, x[:, :5], {}, target="logit", exact_greedy=False
        ).insertion
    )


def test_curves_over_information(rng):
    torch = pytest.importorskip("torch")
    model = Softmax(rng, 64)
    images = rng.uniform(size=(5, 8, 8))
    scores = rng.normal(size=images.shape)
    start = blur(images, 30.0)
    network = model.network()

    def chances(p):
        with torch.no_grad():
            return network(torch.tensor(p)).softmax(1).numpy()

    classes = chances(images).argmax(1)
    whole = chances(images)
    found = curves(
        network,
        images,
        {"a": scores},
        classes,
        baseline=start,
        min_value=float(np.sort(whole.max(1))[:2].mean()),
        exact_greedy=False,
    )
    rows = np.argsort(whole.max(1))[1:]  # all but the least sure
    assert any("leave out 1 of 5" in note for note in found.notes)
    sic, kl = [], []
    for i in rows:
        order = np.argsort(-scores[i], axis=None)
        low = min(images[i].min(), start[i].min())
        width = max(images[i].max(), start[i].max()) - low
        points = [start[i].copy()]
        for j in order:
            points.append(points[-1].copy())
            points[-1].flat[j] = images[i].flat[j]
        eight = [np.round((p - low) * (255 / width)).astype(np.uint8) for p in points]
        size = np.array([len(zlib.compress(e.tobytes(), 6)) for e in eight], float)
        level = np.clip((size - size[0]) / (size[-1] - size[0]), 0, 1)
        p = chances(np.array(points))
        part = np.clip(p[:, classes[i]] / p[-1, classes[i]], 0, 1)
        nats = (p[-1] * np.log(p[-1] / p)).sum(1)
        for curve, y, best in ((sic, part, np.maximum), (kl, nats, np.minimum)):
            at, y = np.maximum.accumulate(level), best.accumulate(y)
            # the best that is known at each level of information
            known = dict(zip(at, y, strict=True))
            curve.append(
                np.interp(found.information, list(known), list(known.values()))
            )
    np.testing.assert_allclose(found.sic["a"], np.median(sic, 0))
    np.testing.assert_allclose(found.kl["a"], np.median(kl, 0), atol=1e-12)
    areas = found.areas()["a"]
    np.testing.assert_allclose(areas["sic"], found.sic["a"].mean(), atol=2e-3)


def test_information_of_ones_own(rng):
    pytest.importorskip("torch")
    network = Softmax(rng, 6).network()
    x, scores = rng.uniform(size=(2, 3, 6))
    count = curves(network, x, {"a": scores}, min_value=0, information="count")
    own = curves(
        network,
        x,
        {"a": scores},
        min_value=0,
        information=lambda p: float(np.count_nonzero(p)),
    )
    np.testing.assert_allclose(own.sic["a"], count.sic["a"])
    np.testing.assert_allclose(own.kl["a"], count.kl["a"])


def test_inputs_without_information_or_chance_are_left_out(rng):
    pytest.importorskip("torch")
    network = Softmax(rng, 6).network()
    x = rng.uniform(size=(2, 6))
    found = curves(network, x, {"a": x}, baseline=x, min_value=0)
    assert np.isnan(found.sic["a"]).all()
    assert np.isnan(found.areas()["a"]["kl"])
    assert any("leave out 2 of 2" in note for note in found.notes)
    assert "nan" in str(found)


def test_table_and_picture(rng, x):
    pytest.importorskip("matplotlib")
    pytest.importorskip("torch")
    network = Softmax(rng, 6).network()
    method = IntegratedGradients(network, steps=4)
    explained = method.explain(x, 0)
    scores = {"ig": explained, "plain": explained.scores}
    found = curves(network, x, scores, 0, min_value=0)
    assert isinstance(found, Curves)
    wanted = (
        np.abs(explained.gaps).mean()
        / np.abs(explained.values - explained.baseline_values).mean()
    )
    np.testing.assert_allclose(found.gaps["ig"], wanted)
    assert "plain" not in found.gaps
    np.testing.assert_array_equal(found.insertion["ig"], found.insertion["plain"])
    lines = str(found).splitlines()
    assert lines[0].split() == ["insertion", "deletion", "sic", "kl", "gap"]
    assert [line.split()[0] for line in lines[1:4]] == ["ig", "plain", "random"]
    assert lines[4].startswith("exact greedy")
    axes = found.plot()
    assert len(axes) == 4
    for ax, curve in zip(axes, (found.insertion, found.deletion), strict=False):
        assert len(ax.lines) == 4
        np.testing.assert_allclose(ax.lines[0].get_ydata(), curve["ig"].mean(0))
    with pytest.raises(ValueError, match="axes must be 4 axes, got 1"):
        found.plot(axes[:1])


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        ({"a": np.ones((4, 5))}, {}, r"scores of 'a' must have the shape .* \(4, 6\)"),
        ({"a": np.full((4, 6), np.nan)}, {}, "scores of 'a' must be finite"),
        ({"random": np.ones((4, 6))}, {}, "must not be named 'random'"),
        ({}, {"levels": 0}, "levels must be an integer of at least 1"),
        ({}, {"information": "webp"}, "information must be one of compressed, count"),
    ],
)
def test_wrong_arguments_are_named(scores, settings, message, x):
    with pytest.raises(ValueError, match=message):
        curves(value, x, scores, **settings)
