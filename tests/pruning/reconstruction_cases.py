"""Small layers with their Hessians, structures on them, and laws of reconstructions."""

import itertools

import numpy as np
import pytest
import torch

from vitalfew.neural import Statistics
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups

SHAPE = (12, 10)
SCATTERED = np.random.default_rng(3).permutation(np.arange(120) % 24).reshape(SHAPE)
HEADS = np.broadcast_to(np.repeat([0, 1, 2, 3], [3, 3, 2, 2]), SHAPE)
STRUCTURES = {
    "weights": Cardinality(density=0.3),
    "one weight": Cardinality(1),
    "all weights": Cardinality(density=1.0),
    "weights, some kept": Cardinality(30, keep=(0, 55, 119)),
    "5x1": Blocks((5, 1), density=0.4),  # the last row of blocks is 2 high
    "1x4": Blocks((1, 4), density=0.4),  # the last column of blocks is 2 wide
    "4x3": Blocks((4, 3), 5),
    "more than the layer": Blocks((64, 64), 1),
    "2:4": NM(2, 4),
    "1:3 along outputs": NM(1, 3, axis=0),
    "4:4": NM(4, 4),
    "outputs": Channels(5, axis=0),
    "inputs": Channels(4, axis=1),
    "scattered groups": Groups(SCATTERED, 8),
    "heads": Groups(HEADS, 2),
    "heads at a cost": Groups(HEADS, costs=[3.0, 3.0, 2.0, 2.0], max_cost=5.0),
}


def make_layer(seed, shape=SHAPE, n=200, dead=(), copies=(), dtype=torch.float64):
    """Return a weight and statistics of inputs that are strongly correlated."""
    rng = np.random.default_rng(seed)
    n_in = shape[1]
    X = rng.standard_normal((n, n_in)) @ rng.standard_normal((n_in, n_in))
    X += rng.standard_normal(n)[:, None]
    for to, of in copies:
        X[:, to] = X[:, of]
    X[:, list(dead)] = 0
    W = torch.as_tensor(rng.standard_normal(shape), dtype=dtype)
    hessian = torch.as_tensor(X.T @ X / n, dtype=dtype)
    return W, Statistics(n_tokens=n, hessian=hessian)


def damped(statistics, damping=0.01):
    """Return the Hessian in float64 with a share of its mean diagonal added."""
    H = statistics.hessian.double().numpy()
    diagonal = np.diag(H)
    unit = diagonal[diagonal > 0].mean() if diagonal.any() else 1.0
    return H + damping * unit * np.eye(len(H))


def error(weight, new, H):
    D = (new - weight).double().numpy()
    return 0.5 * float(np.sum((D @ H) * D))


def fitted(weight, mask, H):
    """Return the least-squares weights on a mask, row by row."""
    W, new = weight.double().numpy(), np.zeros(mask.shape)
    for row, kept in enumerate(mask):
        S = np.flatnonzero(kept)
        new[row, S] = np.linalg.solve(H[np.ix_(S, S)], H[S] @ W[row])
    return torch.as_tensor(new)


def least_error(weight, structure, H):
    """Return the error of the best of all supports."""
    bound, errors = structure.on(tuple(weight.shape)), []
    for atoms in itertools.combinations(range(bound.n_atoms), int(bound.budget)):
        support = bound.support(np.array(atoms, np.int64))
        if bound.allows(support):
            mask = np.zeros(weight.shape, bool)
            mask.reshape(-1)[support.ids] = True
            errors.append(error(weight, fitted(weight, mask, H), H))
    return min(errors)


def prune_layer(method, weight, statistics, structure):
    bound = structure.on(tuple(weight.shape))
    before = weight.clone()
    new = method.reconstruct(weight, statistics, bound, np.random.default_rng(0))
    assert torch.equal(weight, before)
    assert new.shape == weight.shape
    assert new.dtype == weight.dtype
    assert new.isfinite().all()
    assert bound.contains(new)
    return new


def check_structure(method, structure, seed):
    """The budget is used up, and no weight kept can be better than it is."""
    weight, statistics = make_layer(seed)
    new = prune_layer(method, weight, statistics, structure)
    support = structure.on(SHAPE).largest(new)
    if isinstance(structure, Groups) and structure.max_cost is not None:
        assert len(support) == 2  # 3 + 2 of 5
    else:
        assert len(support) == structure.on(SHAPE).budget
    H = damped(statistics)
    gradient = (new - weight).numpy() @ H
    scale = np.abs(weight.numpy() @ H).max()
    assert np.abs(gradient[new.numpy() != 0]).max() <= 1e-4 * scale
    nearest = structure.on(SHAPE).project(weight)
    assert error(weight, new, H) <= error(weight, nearest, H) + 1e-12


def check_hostile_hessians(method):
    """What calibration data may look like does not stop a method."""
    W, few = make_layer(0, n=4)  # fewer samples than inputs
    prune_layer(method, W, few, Cardinality(density=0.4))
    W, statistics = make_layer(1, dead=(2, 7))
    new = prune_layer(method, W, statistics, Channels(8, axis=1))
    assert not new[:, [2, 7]].any()  # inputs that are never on go first
    W, twins = make_layer(2, copies=[(3, 1), (4, 1)])
    prune_layer(method, W, twins, Cardinality(density=0.4))
    W = make_layer(3)[0]
    nothing = Statistics(n_tokens=5, hessian=torch.zeros(10, 10))
    new = prune_layer(method, W, nothing, Cardinality(40))
    torch.testing.assert_close(new, Cardinality(40).project(W))


def check_refusals(method):
    """Data that cannot be used are named."""
    W, statistics = make_layer(0)
    H = statistics.hessian.clone()
    H[0, 0] = torch.nan
    with pytest.raises(ValueError, match="hessian must be finite"):
        prune_layer(method, W, Statistics(hessian=H), Cardinality(9))
    with pytest.raises(ValueError, match="hessian must have shape"):
        prune_layer(method, W, Statistics(hessian=torch.eye(3)), Cardinality(9))
    indefinite = Statistics(hessian=torch.eye(10) - torch.ones(10, 10) * 1e5)
    with pytest.raises(ValueError, match="positive semi-definite"):
        prune_layer(method, W, indefinite, Cardinality(9))
    W[3, 4] = torch.inf
    bound = Cardinality(9).on(SHAPE)
    with pytest.raises(ValueError, match="weight must be finite"):
        method.reconstruct(W, statistics, bound, np.random.default_rng(0))
    with pytest.raises(ValueError, match="statistic hessian"):
        method.reconstruct(W, Statistics(), bound, np.random.default_rng(0))


def check_units(method):
    """Other units, dtypes and layouts in memory change nothing but the rounding."""
    for structure in (Cardinality(density=0.4), Blocks((3, 2), density=0.4), NM(2, 4)):
        W, statistics = make_layer(5)
        new = prune_layer(method, W, statistics, structure)
        for scale in (2.0**-60, 2.0**60):
            other = Statistics(hessian=statistics.hessian * scale)
            again = prune_layer(method, W * scale, other, structure)
            torch.testing.assert_close(again / scale, new, rtol=1e-5, atol=1e-6)
        narrow = Statistics(hessian=statistics.hessian.float())
        again = prune_layer(method, W.float(), narrow, structure)
        H = damped(statistics)
        assert error(W, again, H) == pytest.approx(error(W, new, H), rel=0.02)
        turned = prune_layer(method, W.T.contiguous().T, statistics, structure)
        torch.testing.assert_close(turned, new)
