"""Guided IG and Blur IG against plain loops over one image."""

import numpy as np
import pytest
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter

from tests.attribution.functions import Softmax, linear
from vitalfew.attribution import BlurIG, GuidedIG, IntegratedGradients, blur


def guided(f, x, start, steps, fraction, max_distance):
    """Walk of one input, group of entries by group, as the paper tells it."""
    total = np.abs(x - start).sum()
    at, score = start.copy(), np.zeros_like(x)
    for step in range(1, steps + 1):
        slope = f(at[None])[1][0]
        time = step / steps
        low = start + max(time - max_distance, 0) * (x - start)
        high = start + min(time + max_distance, 1) * (x - start)
        old = at.copy()
        behind = np.abs(at - start) < np.abs(low - start)
        at[behind] = low[behind]
        goal = total * (1 - time)
        rank = np.abs(slope)
        while True:
            rest = np.abs(x - at).sum()
            rank[np.isclose(at, high, rtol=0, atol=1e-13)] = np.inf
            if rest <= goal + 1e-12 or np.isinf(rank).all():
                break
            level = np.quantile(rank, fraction, method="lower")
            group = (rank <= level) & np.isfinite(rank)
            room = np.abs(high - at)[group].sum()
            share = min((rest - goal) / room, 1)
            at[group] += share * (high - at)[group]
            if share < 1:
                break
        score += slope * (at - old)
    return score


@pytest.mark.parametrize("max_distance", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 1.0])
def test_guided_walk(fraction, max_distance, rng):
    model = Softmax(rng, 12)
    x, start = rng.normal(size=(2, 4, 12))
    x[0, 3:6] = start[0, 3:6]  # entries without a way
    x[3] = start[3]
    classes = np.array([0, 1, 2, 0])
    settings = {"steps": 8, "fraction": fraction, "max_distance": max_distance}
    found = GuidedIG(model, baseline=start, **settings).attribute(x, classes)
    for i in range(4):
        wanted = guided(
            lambda p, i=i: model(p, classes[i : i + 1]), x[i], start[i], **settings
        )
        np.testing.assert_allclose(found[i], wanted, atol=1e-10)


def test_equal_gradients_go_together():
    """Of three equal slopes all go when one may: the walk knows no order of entries."""
    w = np.array([1.0, 1.0, 1.0, -5.0])

    def f(x):
        return np.tanh(x @ w), w / np.cosh(x @ w)[:, None] ** 2

    settings = {"steps": 5, "fraction": 0.1, "max_distance": 1.0}
    found = GuidedIG(f, **settings).attribute(np.ones((1, 4)))[0]
    np.testing.assert_allclose(found, guided(f, np.ones(4), np.zeros(4), **settings))
    np.testing.assert_allclose(found[:3], found[0])


def test_without_freedom_the_walk_is_the_straight_line(rng):
    model, x = Softmax(rng, 12), rng.normal(size=(3, 12))
    walk = GuidedIG(model, steps=400, max_distance=0.0).attribute(x, 0)
    line = IntegratedGradients(model, steps=400).attribute(x, 0)
    np.testing.assert_allclose(walk, line, atol=0.01)


def test_guided_scores_add_up(rng):
    model, x = Softmax(rng, 12), rng.normal(size=(3, 12))
    gaps = [
        np.abs(GuidedIG(model, steps=steps, max_distance=1.0).explain(x, 0).gaps).max()
        for steps in (20, 400)
    ]
    assert gaps[1] < 0.02
    assert gaps[1] < gaps[0] / 3
    exact = GuidedIG(linear(np.arange(12.0)), steps=3).explain(x)
    np.testing.assert_allclose(exact.gaps, 0, atol=1e-12)


def blurred(x, sigma):
    """One image, by the discrete cosine transform of SciPy."""
    squares = sum(
        np.expand_dims((np.pi * np.arange(size) / size) ** 2, 1 - axis)
        for axis, size in enumerate(x.shape)
    )
    waves = dctn(x, norm="ortho") * np.exp(-(sigma**2) * squares / 2)
    return idctn(waves, norm="ortho")


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_blur_path(shape, rng):
    model, x = Softmax(rng, shape[0] * shape[1]), rng.normal(size=(3, *shape))
    classes = np.array([0, 1, 2])
    found = BlurIG(model, steps=6, max_sigma=2.5).attribute(x, classes)
    for i in range(3):
        wanted = np.zeros(shape)
        for j in range(6):
            sigma, h = 2.5 * (1 - (j + 0.5) / 6), 1e-5
            slope = model(blurred(x[i], sigma)[None], classes[i : i + 1])[1][0]
            change = blurred(x[i], sigma + h) - blurred(x[i], sigma - h)
            wanted -= slope * change / (2 * h) * 2.5 / 6
        np.testing.assert_allclose(found[i], wanted, atol=1e-8)


def test_blur_is_the_gaussian_filter_where_it_is_well_sampled(rng):
    x = rng.normal(size=(2, 3, 20, 24))
    for sigma in (1.5, 4.0):
        wanted = gaussian_filter(x, (0, 0, sigma, sigma), mode="reflect", truncate=8)
        np.testing.assert_allclose(blur(x, sigma), wanted, atol=1e-4)
    np.testing.assert_allclose(blur(x, 0.0), x, atol=1e-12)
    np.testing.assert_allclose(blur(x, 1e3), np.mean(x, (2, 3), keepdims=True) + 0 * x)


def test_blur_of_tensors_and_whole_numbers(rng):
    torch = pytest.importorskip("torch")
    x = rng.integers(0, 255, size=(2, 6, 8))
    found = blur(torch.tensor(x, dtype=torch.float32), 1.5)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), blur(x, 1.5), rtol=1e-4, atol=1e-2)


def test_blur_scores_add_up(rng):
    model, x = Softmax(rng, 24), rng.normal(size=(3, 4, 6))
    coarse = BlurIG(model, steps=10, nodes="gauss-legendre").explain(x, 0)
    found = BlurIG(model, steps=150, nodes="gauss-legendre").explain(x, 0)
    np.testing.assert_allclose(found.gaps, 0, atol=1e-9)
    assert np.abs(coarse.gaps).max() > 1e-6
    start = np.stack([blurred(image, 6 / 4) for image in x])
    np.testing.assert_allclose(found.baseline_values, model(start, [0, 0, 0])[0])


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (GuidedIG, {"fraction": 0}, r"fraction must lie in \(0, 1\]"),
        (GuidedIG, {"max_distance": 1.5}, r"max_distance must lie in \[0, 1\]"),
        (BlurIG, {"max_sigma": -1}, "max_sigma must be a finite number >= 0"),
        (BlurIG, {}, "inputs must be images of shape"),
    ],
)
def test_wrong_settings_are_named(method, settings, message):
    with pytest.raises(ValueError, match=message):
        method(linear(np.ones(5)), **settings).attribute(np.ones((2, 5)))
