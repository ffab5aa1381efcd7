"""Pruning behind a ReLU: gradients, convexity, and against least squares."""

import pytest
import torch

from tests.pruning.reconstruction_cases import damped, fitted
from tests.pruning.tiny_layers import layer
from vitalfew.neural import Statistics
from vitalfew.pruning.reconstruction.net_trim import NetTrim, ReluError
from vitalfew.structures import NM, Blocks, Cardinality, Channels


def relu_layer(n_out, n_in, seed, dtype=torch.float64, n=200):
    W, statistics = layer(n_out, n_in, seed, dtype, n=n)
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(n_out, generator=generator, dtype=dtype) - 0.5
    X = statistics.inputs
    return W, Statistics(inputs=X, hessian=X.T @ X / n, bias=bias)


def run(W, statistics, structure):
    structure = structure.on(tuple(W.shape))
    new = NetTrim().reconstruct(W, statistics, structure, None)
    assert new.dtype == W.dtype
    assert structure.contains(new)
    return new


@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_that_of_autograd(seed):
    W, statistics = relu_layer(4, 6, seed)
    X, b = statistics.inputs, statistics.bias
    f = ReluError(W, X, b, damping=0.0)
    x = (W + torch.randn(W.shape, dtype=W.dtype)).requires_grad_()
    Y, Z = torch.relu(X @ W.T + b), X @ x.T + b
    lost = torch.where(Y > 0, Z - Y, torch.clamp(Z, min=0)) ** 2
    value = lost.sum() / (2 * len(X)) + f.ridge / 2 * ((x - W) ** 2).sum()
    (slope,) = torch.autograd.grad(value, x)
    found, gradient = f.value_and_gradient(x.detach())
    assert found == pytest.approx(float(value.detach()))
    assert torch.allclose(gradient, slope)
    assert f.value_and_gradient(W)[0] == 0


@pytest.mark.parametrize("seed", range(3))
def test_convex_and_no_less_than_the_change_behind_the_relu(seed):
    W, statistics = relu_layer(4, 6, seed)
    X, b = statistics.inputs, statistics.bias
    f = ReluError(W, X, b)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        u, v = (torch.randn(W.shape, generator=generator, dtype=W.dtype) for _ in "ab")
        ends = f.value_and_gradient(u)[0] + f.value_and_gradient(v)[0]
        assert f.value_and_gradient((u + v) / 2)[0] <= ends / 2 + 1e-12
        change = torch.relu(X @ u.T + b) - torch.relu(X @ W.T + b)
        assert f.value_and_gradient(u)[0] >= float((change**2).sum()) / (2 * len(X))


@pytest.mark.parametrize(
    "structure",
    [Cardinality(30), NM(2, 4), Blocks((4, 1), 8), Channels(3, axis=1), Channels(5)],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stationary_on_its_support_and_full(structure, dtype):
    W, statistics = relu_layer(8, 12, 0, dtype)
    new = run(W, statistics, structure)
    f = ReluError(W, statistics.inputs, statistics.bias)
    _, gradient = f.value_and_gradient(new)
    _, at_zero = f.value_and_gradient(torch.zeros_like(new))
    rough = 1e-5 if dtype == torch.float64 else 2e-3
    assert float(gradient[new != 0].abs().max()) <= rough * float(at_zero.abs().max())
    bound = structure.on((8, 12))
    assert bound.largest(new).atoms.size == bound.budget


@pytest.mark.parametrize("seed", range(4))
def test_lower_than_least_squares_on_its_support(seed):
    W, statistics = relu_layer(12, 16, seed)
    new = run(W, statistics, Cardinality(60))
    plain = fitted(W, new != 0, damped(statistics))
    f = ReluError(W, statistics.inputs, statistics.bias)
    assert f.value_and_gradient(new)[0] < f.value_and_gradient(plain)[0]


@pytest.mark.parametrize("seed", range(4))
def test_lower_than_the_largest_weights_refitted(seed):
    W, statistics = relu_layer(12, 16, seed)
    structure = Cardinality(60).on((12, 16))
    f = ReluError(W, statistics.inputs, statistics.bias)
    largest = f.refit(structure.largest(W * torch.sqrt(f.curvature)))
    new = run(W, statistics, structure)
    assert f.value_and_gradient(new)[0] < largest.value


def test_without_a_bias():
    W, statistics = relu_layer(4, 6, 0)
    bare = Statistics(inputs=statistics.inputs)
    zero = Statistics(inputs=statistics.inputs, bias=torch.zeros(4, dtype=W.dtype))
    assert torch.equal(run(W, bare, Cardinality(9)), run(W, zero, Cardinality(9)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hostile_layers(dtype):
    W, statistics = relu_layer(4, 8, 0, dtype)
    X = statistics.inputs.clone()
    X[:, 1] = 0
    X[:, 3] = X[:, 2]
    X[:, 6] *= 1e3
    for inputs in (X, torch.zeros_like(X), X * 1e-6, X[:1]):
        for structure in (Cardinality(0), Cardinality(9), NM(1, 4), Cardinality(32)):
            new = run(W, Statistics(inputs=inputs, bias=statistics.bias), structure)
            assert bool(torch.isfinite(new).all())
    off = Statistics(inputs=X, bias=torch.full((4,), -1e6, dtype=dtype))
    run(W, off, Cardinality(9))
    run(torch.zeros_like(W), statistics, Cardinality(9))
    for n_out, n_in in ((1, 8), (4, 1), (1, 1)):
        run(W[:n_out, :n_in], Statistics(inputs=X[:, :n_in]), Cardinality(1))


def test_all_weights_stay_as_they_are():
    W, statistics = relu_layer(3, 6, 2)
    assert torch.allclose(run(W, statistics, Cardinality(18)), W, atol=1e-6)


def test_bad_inputs_are_named():
    W, statistics = relu_layer(3, 6, 2)
    for X in (statistics.inputs[:, :5], statistics.inputs[:0]):
        with pytest.raises(ValueError, match="inputs must have shape"):
            run(W, Statistics(inputs=X), Cardinality(3))
    with pytest.raises(ValueError, match="inputs must be finite"):
        run(W, Statistics(inputs=statistics.inputs * torch.nan), Cardinality(3))
    with pytest.raises(ValueError, match="inputs"):
        run(W, Statistics(), Cardinality(3))
