"""Staged pruning of a whole network by the Fisher quadratic."""

import copy
import itertools
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from vitalfew.neural import prunable_layers
from vitalfew.neural.flat import FlatNetwork
from vitalfew.objectives import Fisher
from vitalfew.pruning.network import CHITA, MFAC
from vitalfew.pruning.network._stages import Stages, fractions
from vitalfew.solvers import HTP, IHT
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Joint

METHODS = {
    "chita": CHITA(n_stages=2, n_refits=1, n_samples=40),
    "chita, one stage": CHITA(n_stages=1, n_refits=0, n_samples=60),
    "chita, groups, htp": CHITA(
        n_stages=2, n_refits=1, n_samples=160, per_row=4, solver=HTP()
    ),
    "mfac, one stage": MFAC(n_stages=1, n_samples=60, first_order=False),
    "mfac, stages": MFAC(n_stages=2, n_samples=60),
}
STRUCTURES = {
    "unstructured": lambda shape: Cardinality(density=0.2).on(shape),
    "blocks": lambda shape: Blocks((4, 2), density=0.25).on(shape),
    "ragged blocks": lambda shape: Blocks((3, 5), density=0.3).on(shape),
    "outputs": lambda shape: Channels(density=0.5).on(shape),
    "2:4": lambda shape: NM(2, 4).on(shape),
}


@cache
def fitted(seed, n):
    """A small network that fits clusters, and its data."""
    torch.manual_seed(seed)
    middles = 2 * torch.randn(3, 8)
    y = torch.randint(0, 3, (n,))
    x = middles[y] + torch.randn(n, 8)
    model = nn.Sequential(
        nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False)
    )
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.zero_grad()
    return model, x, y


def trained(seed=0, n=400, dtype=torch.float32):
    """A copy of the network, and its data in uneven batches."""
    model, x, y = fitted(seed, n)
    model = copy.deepcopy(model).to(dtype)
    batches = list(zip(x.to(dtype).split(150), y.split(150), strict=True))
    layers, _ = prunable_layers(model)
    return model, FlatNetwork(model, layers, batches)


def down_to(network, make=STRUCTURES["unstructured"], shared=True):
    """`structure_at` as `prune` makes it: one budget for all, or one for each layer."""
    ends = [make(shape) for shape in network.shapes]
    free = all(not isinstance(end, NM) for end in ends)

    def structure_at(t):
        if not free:
            return Joint(ends if t == 1 else [e.widened(2 - t) for e in ends])
        counts = [e.n_atoms - int(t * (e.n_atoms - e.budget)) for e in ends]
        parts = [e.with_budget(c) for e, c in zip(ends, counts, strict=True)]
        return Joint(parts, sum(counts), at_least=1) if shared else Joint(parts)

    return structure_at


def silent(name, step, steps):
    pass


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", METHODS)
def test_feasible_not_worse_than_the_projection_and_no_trace(method, structure, shared):
    model, network = trained()
    at = down_to(network, STRUCTURES[structure], shared)
    before, random = network.weights(), torch.get_rng_state()
    w = METHODS[method].prune_network(network, at, np.random.default_rng(0), silent)
    assert torch.equal(network.weights(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert w.shape == before.shape
    assert w.dtype == before.dtype
    assert at(1.0).contains(w)
    everything = network.n_samples  # fewer than are checked, so the same ones
    losses = []
    for x in (w, at(1.0).project(before)):
        network.write(x)
        losses.append(network.loss(everything, np.random.default_rng(0)))
    assert losses[0] <= losses[1] * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_stages_beat_one_and_one_is_not_above_magnitude(seed):
    _, network = trained(seed)
    at = down_to(network, lambda shape: Cardinality(density=0.15).on(shape))

    def loss_of(w):
        with network.restoring():
            network.write(w)
            return network.loss(network.n_samples, np.random.default_rng(0))

    plain = loss_of(at(1.0).project(network.weights()))
    rng = np.random.default_rng(seed)
    one = CHITA(n_stages=1, n_refits=0).prune_network(network, at, rng, silent)
    many = CHITA(n_stages=8, n_refits=3).prune_network(network, at, rng, silent)
    assert loss_of(many) < 0.9 * loss_of(one)
    assert loss_of(one) <= plain


def test_the_same_seed_gives_the_same_weights():
    _, network = trained()
    at = down_to(network)
    method = METHODS["chita"]
    first, second, other = (
        method.prune_network(network, at, np.random.default_rng(seed), silent)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_of_the_weights(dtype):
    model, network = trained(dtype=dtype)
    at = down_to(network)
    w = METHODS["chita"].prune_network(network, at, np.random.default_rng(0), silent)
    assert w.dtype is torch.promote_types(dtype, torch.float32)
    assert at(1.0).contains(w)
    assert next(model.parameters()).dtype is dtype


@pytest.mark.parametrize("method", METHODS)
def test_nothing_and_everything_and_one_sample(method):
    _, network = trained(n=1)
    w = network.weights()
    rng = np.random.default_rng(0)

    def everything(t):
        return Cardinality(network.size).on((network.size,))

    def one(t):
        return Cardinality(1 if t == 1 else network.size).on((network.size,))

    def nothing(t):
        return Cardinality(0 if t == 1 else network.size).on((network.size,))

    assert torch.isfinite(
        METHODS[method].prune_network(network, everything, rng, silent)
    ).all()
    assert (METHODS[method].prune_network(network, one, rng, silent) != 0).sum() <= 1
    none = METHODS[method].prune_network(network, nothing, rng, silent)
    assert torch.equal(none, torch.zeros_like(w))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_flat_losses_and_steep_ones(method, scale):
    model, network = trained()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    at = down_to(network)
    w = METHODS[method].prune_network(network, at, np.random.default_rng(0), silent)
    assert torch.isfinite(w).all()
    assert at(1.0).contains(w)


def test_a_network_without_gradients():
    _, network = trained()
    network.write(torch.zeros(network.size))
    at = down_to(network)
    w = METHODS["chita"].prune_network(network, at, np.random.default_rng(0), silent)
    assert torch.equal(w, torch.zeros_like(w))


def test_proposals_that_make_things_worse_are_refused():
    _, network = trained()
    at = down_to(network)
    plain = at(1.0).project(network.weights())

    def harmful(model, structure):
        return 1e6 * structure.project(model.center)

    stages = Stages(network, harmful, 1.0, 50, 1, np.random.default_rng(0))
    assert torch.equal(stages.run(at, 1, 2, lambda n, total: None), plain)


@pytest.mark.parametrize("seed", range(3))
def test_short_steps_are_stretched_and_end_where_longer_ones_do_not_help(seed):
    _, network = trained(seed)
    everything = Cardinality(network.size).on((network.size,))
    network.write(0.3 * network.weights())
    w, seen = network.weights(), []

    def short(model, structure):
        seen.append(model.center - 1e-3 * model.value_and_gradient(model.center)[1])
        return seen[-1]

    def loss_of(x):
        with network.restoring():
            network.write(x)
            return network.loss(network.n_samples, np.random.default_rng(0))

    stages = Stages(network, short, 1.0, 400, 1, np.random.default_rng(0))
    found = stages.run(lambda t: everything, 1, 0, lambda n, total: None)
    length = float((found - w).norm() / (seen[-1] - w).norm())
    assert length == pytest.approx(2 ** round(np.log2(length)), rel=1e-3)
    assert length > 1
    longer = loss_of(w + 2 * length * (seen[-1] - w))
    assert loss_of(found) < loss_of(w + length / 2 * (seen[-1] - w))
    assert length == 1024 or loss_of(found) <= longer * (1 + 1e-6)


def test_a_network_that_overflows_on_the_way_gives_the_projection():
    _, network = trained()
    at = down_to(network)
    plain = at(1.0).project(network.weights())
    loss, calls = network.loss, []

    def broken(n_rows, rng):
        calls.append(n_rows)
        return loss(n_rows, rng) if len(calls) == 1 else float("inf")

    network.loss = broken
    w = METHODS["chita"].prune_network(network, at, np.random.default_rng(0), silent)
    assert torch.equal(w, plain)


def test_weights_are_back_after_a_fault():
    _, network = trained()
    before = network.weights()

    def broken(model, structure):
        raise KeyboardInterrupt

    stages = Stages(network, broken, 1.0, 50, 1, np.random.default_rng(0))
    with pytest.raises(KeyboardInterrupt):
        stages.run(down_to(network), 2, 0, lambda n, total: None)
    assert torch.equal(network.weights(), before)


@pytest.mark.parametrize("n_stages", [1, 2, 7])
def test_each_stage_keeps_the_same_share(n_stages):
    def structure_at(t):
        return Cardinality(1000 - round(980 * t)).on((1000,))

    kept = [1000.0, *(1000 - 980 * t for t in fractions(structure_at, n_stages))]
    assert len(kept) == n_stages + 1
    assert kept[-1] == 20
    shares = [b / a for a, b in itertools.pairwise(kept)]
    assert shares == pytest.approx([0.02 ** (1 / n_stages)] * n_stages)


def test_fractions_where_nothing_is_removed_or_nothing_stays():
    for few in (0, 10):
        found = list(
            fractions(lambda t, k=few: Cardinality(10 if t < 1 else k).on((10,)), 4)
        )
        assert found == [0.25, 0.5, 0.75, 1.0]


def test_progress_counts_stages():
    _, network = trained()
    seen = []
    METHODS["chita"].prune_network(
        network, down_to(network), np.random.default_rng(0), lambda *a: seen.append(a)
    )
    assert seen == [("chita", i, 3) for i in range(3)]


@pytest.mark.parametrize(
    "settings", [{"n_stages": 0}, {"n_samples": 0}, {"n_refits": -1}, {"per_row": 0.5}]
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        CHITA(**settings)


@pytest.mark.parametrize("seed", range(5))
def test_one_proposal_finds_the_best_support_of_an_easy_quadratic(seed):
    # gradients nearly orthogonal, so that hard thresholding is right: brute force
    rng = np.random.default_rng(seed)
    A = np.linalg.qr(rng.standard_normal((30, 6)))[0] * np.sqrt(30)
    A = A + 0.05 * rng.standard_normal(A.shape)
    f = Fisher(A, rng.standard_normal(6), 0.0, slope=0.0, ridge=0.01)
    structure = Cardinality(3).on((6,))
    best = min(
        f.refit(structure.support(np.array(s))).value
        for s in itertools.combinations(range(6), 3)
    )
    from vitalfew import solve

    start = structure.largest(f.center)
    fit = f.at(start, start.restrict(f.center))
    assert solve(f, structure, IHT(), start=fit).value == pytest.approx(best)
