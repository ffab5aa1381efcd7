"""The lasso over inputs: its own optimality, brute force, exact budgets."""

import numpy as np
import pytest
import torch

from tests.pruning.reconstruction_cases import (
    damped,
    error,
    fitted,
    least_error,
)
from tests.pruning.tiny_layers import layer
from vitalfew.neural import Statistics
from vitalfew.pruning.reconstruction.channel_lasso import ChannelLasso, _scales
from vitalfew.structures import Cardinality, Channels


def run(W, statistics, structure):
    structure = structure.on(tuple(W.shape))
    new = ChannelLasso().reconstruct(W, statistics, structure, None)
    assert new.dtype == W.dtype
    assert structure.contains(new)
    return new


@pytest.mark.parametrize("seed", range(3))
def test_the_quadratic_is_the_error_of_scaled_inputs(seed):
    W, statistics = layer(3, 6, seed)
    X = statistics.inputs
    for width in (1, 2, 3):
        structure = Channels(1, axis=1, width=width).on((3, 6))
        scales = _scales(W, statistics.hessian, structure)
        beta = np.random.default_rng(seed).standard_normal((1, 6 // width))
        each = torch.as_tensor(np.repeat(beta[0], width))
        lost = float(torch.sum((X @ (W * each - W).T) ** 2)) / (2 * len(X))
        assert scales.value_and_gradient(beta)[0] == pytest.approx(lost)


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_just_as_many_inputs_as_asked_refitted(budget, dtype):
    for seed in range(4):
        W, statistics = layer(4, 8, seed, dtype)
        H = damped(statistics)
        new = run(W, statistics, Channels(budget, axis=1))
        used = (new != 0).any(dim=0)
        assert int(used.sum()) == budget
        best = fitted(W, used.expand(4, -1), H)
        assert torch.allclose(new.double(), best, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_scales_are_those_of_a_lasso(seed):
    """Against the path of scikit-learn's least angles on the same quadratic."""
    from sklearn.linear_model import lars_path_gram

    W, statistics = layer(5, 9, seed)
    H = damped(statistics)
    structure = Channels(4, axis=1).on((5, 9))
    scales = _scales(W, torch.as_tensor(H), structure)
    G = np.asarray(scales.H)
    _, _, path = lars_path_gram(np.asarray(scales.B)[0], G, n_samples=1, method="lasso")
    counts = np.count_nonzero(np.abs(path) > 1e-10, axis=0)
    assert 4 in counts  # or the seed says nothing
    supports = {tuple(np.flatnonzero(path[:, i])) for i in np.flatnonzero(counts == 4)}
    new = run(W, statistics, Channels(4, axis=1))
    assert tuple(np.flatnonzero((new != 0).any(dim=0).numpy())) in supports


def test_close_to_the_best_of_all_supports():
    ratios = []
    for seed in range(10):
        W, statistics = layer(3, 7, seed)
        H, structure = damped(statistics), Channels(3, axis=1)
        found = error(W, run(W, statistics, structure), H)
        best = least_error(W, structure, H)
        assert found >= best * (1 - 1e-9)
        ratios.append(found / best)
    assert np.median(ratios) < 1.2


def test_channels_of_a_kernel():
    W, statistics = layer(4, 12, 0)
    new = run(W, statistics, Channels(2, axis=1, width=3))
    used = (new != 0).reshape(4, 4, 3).any(dim=2).any(dim=0)
    assert int(used.sum()) == 2


def test_useless_inputs_go_first():
    W, statistics = layer(4, 8, 1)
    X = statistics.inputs.clone()
    X[:, 1] = 0  # never on
    W = W.clone()
    W[:, 4] = 0  # of no use
    new = run(W, Statistics(hessian=X.T @ X / len(X)), Channels(6, axis=1))
    assert set(torch.nonzero((new != 0).any(dim=0))[:, 0].tolist()) == {
        0,
        2,
        3,
        5,
        6,
        7,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hostile_layers(dtype):
    W, statistics = layer(4, 8, 0, dtype)
    X = statistics.inputs.clone()
    X[:, 3] = X[:, 2]
    X[:, 6] *= 1e3
    H = X.T @ X / len(X)
    for hessian in (H, torch.zeros_like(H), H * 1e-12, X[:2].T @ X[:2]):
        for budget in (0, 1, 4, 8):
            new = run(W, Statistics(hessian=hessian), Channels(budget, axis=1))
            assert bool(torch.isfinite(new).all())
    run(torch.zeros_like(W), statistics, Channels(3, axis=1))
    for n_out, n_in in ((1, 8), (4, 1), (1, 1)):
        part = Statistics(hessian=H[:n_in, :n_in])
        run(W[:n_out, :n_in], part, Channels(1, axis=1))


def test_only_whole_inputs():
    method = ChannelLasso()
    assert method.supports(Channels(1, axis=1).on((2, 3)))
    for other in (Channels(1).on((2, 3)), Cardinality(1).on((2, 3))):
        assert not method.supports(other)
        with pytest.raises(ValueError, match="structure must be Channels"):
            method.reconstruct(*layer(2, 3, 0), other, None)
