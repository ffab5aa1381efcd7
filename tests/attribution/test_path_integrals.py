"""Integrated gradients and the kernel under all methods."""

import subprocess
import sys

import numpy as np
import pytest

from tests.attribution.functions import Softmax, linear, products, quadratic
from vitalfew.attribution import (
    BlurIG,
    GradientTimesInput,
    GreedyPIG,
    GuidedIG,
    IntegratedGradients,
)


@pytest.fixture(params=["midpoint", "gauss-legendre"])
def nodes(request):
    return request.param


def test_linear_models_are_divided_by_their_weights(rng, nodes):
    w, x, start = rng.normal(size=(3, 6))
    ig = IntegratedGradients(linear(w), baseline=start, steps=1, nodes=nodes)
    np.testing.assert_allclose(ig.attribute(x[None])[0], w * (x - start), atol=1e-14)


def test_quadratics_have_a_closed_form(rng, nodes):
    A = rng.normal(size=(6, 6))
    A, b, start = A + A.T, rng.normal(size=6), rng.normal(size=6)
    x = rng.normal(size=(5, 6))
    # one midpoint integrates a slope that is linear along the path exactly
    ig = IntegratedGradients(quadratic(A, b), baseline=start, steps=1, nodes=nodes)
    mean = (x + start) / 2 @ A + b
    np.testing.assert_allclose(ig.attribute(x), (x - start) * mean, rtol=1e-12)


def test_gauss_legendre_is_exact_for_cubics(rng):
    def f(x):
        return np.sum(x**4, 1), 4 * x**3

    x = rng.normal(size=(3, 4))
    ig = IntegratedGradients(f, steps=2, nodes="gauss-legendre")
    np.testing.assert_allclose(ig.attribute(x), x**4, rtol=1e-12)
    coarse = IntegratedGradients(f, steps=2).attribute(x)
    assert np.abs(coarse - x**4).max() > 0.01


def test_scores_add_up_and_the_gap_says_how_nearly(rng, nodes):
    x = rng.normal(size=(4, 5))
    start = rng.normal(size=5)
    gaps = []
    for steps in (4, 16, 64):
        ig = IntegratedGradients(products, baseline=start, steps=steps, nodes=nodes)
        found = ig.explain(x)
        whole = products(x)[0] - products(start[None])[0]
        np.testing.assert_allclose(found.gaps, whole - found.scores.sum(1), atol=1e-12)
        np.testing.assert_allclose(found.values - found.baseline_values, whole)
        assert found.n_gradients == steps
        gaps.append(np.abs(found.gaps).max())
    assert gaps[2] < gaps[0] / 100
    assert gaps[2] < 2e-3


def test_gradient_times_input_is_the_end_of_the_path(rng):
    x, start = rng.normal(size=(2, 3, 5))
    found = GradientTimesInput(products, baseline=start).attribute(x)
    np.testing.assert_allclose(found, products(x)[1] * (x - start))


METHODS = {
    "ig": (IntegratedGradients, {"steps": 7}),
    "gauss": (IntegratedGradients, {"steps": 7, "nodes": "gauss-legendre"}),
    "pig": (GreedyPIG, {"steps": 3}),
    "guided": (GuidedIG, {"steps": 9, "max_distance": 0.2}),
    "blur": (BlurIG, {"steps": 7}),
    "gradient": (GradientTimesInput, {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_memory_changes_nothing(name, rng):
    method, settings = METHODS[name]
    model, x = Softmax(rng, 12), rng.normal(size=(5, 3, 4))
    classes = np.array([0, 2, 1, 1, 0])
    seen = []

    def counted(x, classes):
        seen.append(len(x))
        return model(x, classes)

    whole = method(counted, **settings).attribute(x, classes)
    point = 6 * x[0].nbytes
    for points in (0.5, 1, 4, 11):
        seen.clear()
        some = method(counted, memory=points * point, **settings)
        np.testing.assert_allclose(some.attribute(x, classes), whole, atol=1e-13)
        assert max(seen) <= max(1, points)
    one = [
        method(model, **settings).attribute(x[i : i + 1], classes[i]) for i in range(5)
    ]
    np.testing.assert_allclose(np.concatenate(one), whole, atol=1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_functions_and_networks_agree(name, rng):
    torch = pytest.importorskip("torch")
    method, settings = METHODS[name]
    model, x = Softmax(rng, 12), rng.normal(size=(5, 3, 4))
    classes = np.array([0, 2, 1, 1, 0])
    by_hand = method(model, **settings).explain(x, classes)
    network = method(model.network(), **settings)
    by_torch = network.explain(x, classes)
    assert isinstance(by_torch.scores, np.ndarray)
    np.testing.assert_allclose(by_torch.scores, by_hand.scores, atol=1e-12)
    np.testing.assert_allclose(by_torch.values, by_hand.values, atol=1e-12)
    if by_hand.gaps is not None:
        np.testing.assert_allclose(by_torch.gaps, by_hand.gaps, atol=1e-12)
    tensors = network.attribute(torch.tensor(x), torch.tensor(classes))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_allclose(tensors.numpy(), by_hand.scores, atol=1e-12)
    single = method(model.network().float(), **settings).attribute(x, classes)
    assert single.dtype == np.float32
    if name != "pig":  # ranks may differ where two features are nearly equal
        np.testing.assert_allclose(single, by_hand.scores, atol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_an_input_equal_to_its_baseline_has_no_scores(name, rng):
    method, settings = METHODS[name]
    x = np.full((2, 3, 4), 0.7)  # the blur of a constant image is itself
    found = method(Softmax(rng, 12), baseline=x, **settings).explain(x, [0, 1])
    np.testing.assert_allclose(found.values, found.baseline_values)
    if name == "pig":
        assert np.array_equal(np.sort(found.scores.ravel()), np.repeat(range(1, 13), 2))
    else:
        np.testing.assert_allclose(found.scores, 0, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"nodes": "simpson"}, "nodes must be one of midpoint, gauss-legendre"),
        ({"target": "margin"}, "target must be one of softmax, logit, loss"),
        ({"baseline": np.ones(3)}, "baseline must be a number or an array that broad"),
        ({"baseline": np.nan}, "baseline must be finite"),
        ({"forward": products}, "forward must be None unless the model is a torch"),
        ({"amp": "bfloat16"}, "amp must be None unless"),
        ({"memory": -1}, "memory must be a finite number >= 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(products, **settings).attribute(np.ones((2, 5)))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (products, np.ones(5), r"inputs must have one row .* got shape \(5,\)"),
        (products, np.ones((0, 5)), "without a length of zero"),
        (products, np.full((1, 5), np.inf), "inputs must be finite"),
        ("model", np.ones((1, 5)), "model must be a torch.nn.Module or a function"),
        (lambda x: x.sum(1), np.ones((1, 5)), r"return a pair \(value, gradient\)"),
        (lambda x: (x, x), np.ones((2, 5)), "one value for each row"),
        (lambda x: (x.sum(1), x[:, 1:]), np.ones((2, 5)), "gradients of the shape"),
        (lambda x: (x[:, 0], x * np.nan), np.ones((2, 5)), "not finite on the path"),
    ],
)
def test_wrong_models_and_inputs_are_named(model, inputs, message):
    for method in (IntegratedGradients, GreedyPIG, GuidedIG, GradientTimesInput):
        with pytest.raises(ValueError, match=message):
            method(model).attribute(inputs)


def test_the_input_at_fault_is_named():
    def root(x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(x).sum(1), 0.5 / np.sqrt(x)

    x = np.ones((4, 2))
    x[2] = -1
    for memory in (1, 2**20):
        with pytest.raises(ValueError, match="path of input 2"):
            IntegratedGradients(root, memory=memory).attribute(x)


def test_functions_need_no_torch():
    code = """
import sys
import numpy as np
from vitalfew.attribution import GreedyPIG, curves

def f(x):
    return x[:, 0], np.eye(3)[[0] * len(x)]

x = np.ones((2, 3))
curves(f, x, {"pig": GreedyPIG(f).attribute(x)})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_captum_agrees(rng):
    captum = pytest.importorskip("captum.attr")
    torch = pytest.importorskip("torch")
    network = Softmax(rng, 12).network()
    x, classes = (
        torch.tensor(rng.normal(size=(6, 12))),
        torch.tensor([0, 1, 2, 0, 1, 2]),
    )
    theirs = captum.IntegratedGradients(lambda x: network(x).softmax(1)).attribute(
        x, target=classes, n_steps=50
    )
    ours = IntegratedGradients(network, nodes="gauss-legendre").attribute(x, classes)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
