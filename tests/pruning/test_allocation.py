"""Allocations: exact totals, brute force, and the papers' own procedures."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vitalfew.neural import Statistics, prunable_layers
from vitalfew.pruning import allocation
from vitalfew.pruning._contracts import Part
from vitalfew.pruning.allocation import ERK, LAMP, DynamicProgramme, Global, Uniform
from vitalfew.pruning.criteria import LAMP as LAMPScore
from vitalfew.structures import Blocks, Cardinality


def make_part(saliency, loss=None, macs=1.0, shape=None):
    """A layer of one atom for each saliency; a loss by the number kept."""
    saliency = np.asarray(saliency, float)
    size = len(saliency)
    layer = SimpleNamespace(
        name=f"layer of {size}",
        parameter=torch.empty(shape or (1, size)),
        shape=(1, size) if shape is None else (shape[0], math.prod(shape[1:])),
    )
    increase = None if loss is None else (lambda count: loss[count])
    return Part(layer, Cardinality(1).on((size,)), saliency, increase, macs)


def random_parts(rng, sizes, loss=True):
    parts = []
    for size in sizes:
        # falls with the number of atoms, and is zero where all stay
        falls = np.cumsum(rng.exponential(size=size + 1)[::-1])[::-1]
        parts.append(make_part(rng.exponential(size=size), falls if loss else None))
    return parts


PLAIN = [getattr(allocation, name)() for name in allocation.__all__]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_total_is_exact_and_no_layer_is_empty(sizes, fraction, seed):
    parts = random_parts(np.random.default_rng(seed), sizes)
    total = len(sizes) + round(fraction * (sum(sizes) - len(sizes)))
    for each in PLAIN:
        counts = each.counts(parts, total)
        assert all(type(c) is int for c in counts)
        assert sum(counts) == total
        assert all(1 <= c <= n for c, n in zip(counts, sizes, strict=True))


@pytest.mark.parametrize("saliency", [0.0, 1.0, 1e-320, 1e300])
def test_equal_saliencies_and_the_ends_of_floating_point(saliency):
    parts = [make_part(np.full(n, saliency), np.zeros(n + 1)) for n in (4, 1, 7)]
    for each in PLAIN:
        for total in range(3, 13):
            assert sum(each.counts(parts, total)) == total


@pytest.mark.parametrize("total", [2, 13, 2.5])
def test_a_total_that_cannot_be_is_refused(total):
    parts = random_parts(np.random.default_rng(0), [4, 1, 7])
    for each in PLAIN:
        with pytest.raises(ValueError, match="total must be"):
            each.counts(parts, total)
        with pytest.raises(ValueError, match="parts must"):
            each.counts([], 1)


def test_nan_is_refused():
    parts = [make_part([1.0, float("nan")]), make_part([1.0, 2.0])]
    for each in (Global(), LAMP()):
        with pytest.raises(ValueError, match="NaN"):
            each.counts(parts, 3)


def test_names_are_different():
    names = [each.name for each in PLAIN]
    assert len(set(names)) == len(names)


# -- uniform ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_uniform_is_within_an_atom_of_the_density(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(50, 400, size=7)
    total = int(sizes.sum() * 0.3)
    counts = Uniform().counts(random_parts(rng, sizes, loss=False), total)
    assert np.all(np.abs(counts - sizes * total / sizes.sum()) < 1)


def test_what_is_left_over_goes_to_the_largest_remainder():
    parts = [make_part(np.ones(n)) for n in (13, 15, 12)]
    assert Uniform().counts(parts, 10) == [3, 4, 3]  # of 3.25, 3.75 and 3


def test_a_layer_too_small_for_its_share_keeps_one():
    parts = [make_part(np.ones(n)) for n in (2, 100, 98)]
    assert Uniform().counts(parts, 21) == [1, 10, 10]


# -- global ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_global_keeps_the_most_saliency(seed):
    rng = np.random.default_rng(seed)
    parts = random_parts(rng, [4, 6, 3], loss=False)
    falling = [np.sort(part.saliency)[::-1] for part in parts]
    for total in range(3, 14):
        best = max(
            sum(s[:c].sum() for s, c in zip(falling, counts, strict=True))
            for counts in itertools.product(range(1, 5), range(1, 7), range(1, 4))
            if sum(counts) == total
        )
        counts = Global().counts(parts, total)
        kept = sum(s[:c].sum() for s, c in zip(falling, counts, strict=True))
        assert kept == pytest.approx(best)


def test_ties_go_to_earlier_layers():
    parts = [make_part([1.0, 1.0, 1.0]), make_part([1.0, 1.0]), make_part([2.0, 1.0])]
    assert Global().counts(parts, 5) == [3, 1, 1]


# -- ERK -------------------------------------------------------------------------------


def erk_of_the_paper(shapes, density):
    """Layers whose density would pass one become dense, and the rest is divided."""
    sizes = [math.prod(shape) for shape in shapes]
    dense = set()
    while True:
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        others = [i for i in range(len(shapes)) if i not in dense]
        raw = {i: sum(shapes[i]) / sizes[i] for i in others}
        factor = left / sum(raw[i] * sizes[i] for i in others)
        full = {i for i in others if factor * raw[i] > 1}
        if not full:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(shapes))]
        dense |= full


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.9])
def test_erk_is_that_of_the_paper(density):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 1),
        nn.Linear(256, 64), nn.Linear(64, 10),
    )  # fmt: skip
    layers, _ = prunable_layers(model)
    parts = [
        Part(layer, Cardinality(1).on(layer.shape), np.ones(math.prod(layer.shape)))
        for layer in layers
    ]
    sizes = np.array([part.structure.n_atoms for part in parts])
    total = round(density * sizes.sum())
    expected = erk_of_the_paper([tuple(x.parameter.shape) for x in layers], density)
    counts = ERK().counts(parts, total)
    assert np.all(np.abs(counts - np.array(expected) * sizes) <= 1.5)


def test_erk_counts_blocks_by_the_density_of_weights():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 256))
    layers, _ = prunable_layers(model)
    parts = []
    for layer in layers:
        bound = Blocks((16, 1), n_blocks=1).on(layer.shape)
        parts.append(Part(layer, bound, np.ones(bound.n_atoms)))
    counts = ERK().counts(parts, 128)
    assert counts == [37, 91]  # in proportion to 128 and 320


# -- LAMP ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_lamp_on_weights_is_a_global_ranking_of_lamp_scores(seed):
    rng = np.random.default_rng(seed)
    weights = [
        rng.normal(size=(4, n)) * scale for n, scale in ((5, 1), (20, 30), (9, 1e-3))
    ]
    by_square = [make_part((w * w).ravel()) for w in weights]
    by_score = [
        make_part(
            LAMPScore().score(torch.from_numpy(w), Statistics(), rng).numpy().ravel()
        )
        for w in weights
    ]
    for total in (3, 10, 50, 136):
        assert LAMP().counts(by_square, total) == Global().counts(by_score, total)


# -- dynamic programme -----------------------------------------------------------------


EVERY = [i / 24 for i in range(1, 25)]  # every count of layers of 2, 3, 4, 6, 8 atoms


def total_loss(parts, counts):
    return sum(p.loss_increase(c) for p, c in zip(parts, counts, strict=True))


def best_by_brute_force(parts, allowed):
    sizes = [part.structure.n_atoms for part in parts]
    every = itertools.product(*(range(1, n + 1) for n in sizes))
    return min(total_loss(parts, counts) for counts in every if allowed(counts))


def zeroed(parts):
    """Losses that are zero where all atoms stay, as measured ones are."""
    for part in parts:
        size, loss = part.structure.n_atoms, part.loss_increase
        falls = [loss(c) - loss(size) for c in range(size + 1)]
        yield make_part(part.saliency, falls, part.macs_per_weight)


@pytest.mark.parametrize("resolution", [1000, 7])
@pytest.mark.parametrize("seed", range(6))
def test_every_count_in_the_grid_gives_the_least_loss(seed, resolution):
    rng = np.random.default_rng(seed)
    parts = list(zeroed(random_parts(rng, [4, 6, 3, 8])))
    programme = DynamicProgramme(densities=EVERY, resolution=resolution)
    for total in range(4, 22):
        counts = programme.counts(parts, total)
        assert sum(counts) == total
        best = best_by_brute_force(parts, lambda c, total=total: sum(c) == total)
        if total <= resolution:  # units are whole atoms
            assert total_loss(parts, counts) == pytest.approx(best)
        else:
            assert total_loss(parts, counts) >= best - 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_multiplications_are_within_their_budget(seed):
    rng = np.random.default_rng(seed)
    macs = [9.0, 4.0, 1.0, 1.0]
    parts = [
        make_part(p.saliency, [p.loss_increase(c) for c in range(n + 1)], m)
        for p, m, n in zip(
            zeroed(random_parts(rng, [4, 6, 3, 8])), macs, [4, 6, 3, 8], strict=True
        )
    ]
    dense = 4 * 9 + 6 * 4 + 3 + 8
    programme = DynamicProgramme(cost="macs", densities=EVERY)
    for total in range(6, 22):
        budget = dense * total / 21

        def within(counts, budget=budget):
            return np.dot(macs, counts) <= budget * (1 + 1e-12)

        def both(counts, total=total, within=within):
            return within(counts) and sum(counts) <= total

        counts = programme.counts(parts, total)
        assert both(counts)
        best = best_by_brute_force(parts, both)
        if best == best_by_brute_force(parts, within):  # atoms are no limit
            assert total_loss(parts, counts) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_a_cost_of_ones_own_is_kept_to(seed):
    rng = np.random.default_rng(seed)
    parts = list(zeroed(random_parts(rng, [4, 6, 3, 8])))
    asked = []

    def latency(layer, density):
        asked.append((layer.name, density))
        return 1.0 + layer.shape[1] * math.ceil(4 * density)  # in steps

    programme = DynamicProgramme(cost=latency, densities=EVERY)
    dense = sum(1.0 + 4 * n for n in (4, 6, 3, 8))
    for total in (8, 12, 16, 21):
        counts = programme.counts(parts, total)
        spent = sum(
            latency(p.layer, c / p.structure.n_atoms)
            for p, c in zip(parts, counts, strict=True)
        )
        assert spent <= dense * total / 21 * (1 + 1e-12)
        assert sum(counts) <= total
    assert all(0 < density <= 1 for _, density in asked)


def test_a_sensitive_layer_stays_denser():
    losses = [np.linspace(1, 0, 101) ** 2 * scale for scale in (1.0, 100.0)]
    parts = [make_part(np.ones(100), loss) for loss in losses]
    few, many = DynamicProgramme().counts(parts, 100)
    assert few + many == 100
    assert many > 80


def test_dense_layers_are_not_measured_and_each_density_once():
    asked = []

    def loss(count):
        asked.append(count)
        return 1.0 - count / 50

    part = make_part(np.ones(50), np.zeros(51))
    parts = [Part(part.layer, part.structure, part.saliency, loss)]
    assert DynamicProgramme(densities=(0.5, 0.2)).counts(parts, 30) == [30]
    assert sorted(asked) == [1, 10, 25, 30]  # not 50, which 30 rules out


def test_losses_that_are_not_finite_are_avoided():
    loss = np.linspace(1, 0, 11)
    broken = np.where(np.arange(11) < 5, np.nan, loss)
    broken[0:3] = np.inf
    parts = [make_part(np.ones(10), loss), make_part(np.ones(10), broken)]
    counts = DynamicProgramme(densities=[i / 10 for i in range(1, 11)]).counts(parts, 8)
    assert sum(counts) == 8
    assert counts[1] >= 5


def test_settings_and_costs_are_checked():
    with pytest.raises(ValueError, match="cost must be 'parameters'"):
        DynamicProgramme(cost="latency")
    with pytest.raises(ValueError, match="densities must lie"):
        DynamicProgramme(densities=(0.0, 0.5))
    with pytest.raises(ValueError, match="resolution must be"):
        DynamicProgramme(resolution=0)
    parts = random_parts(np.random.default_rng(0), [4, 6])
    with pytest.raises(ValueError, match="cost must be finite"):
        DynamicProgramme(cost=lambda layer, density: math.nan).counts(parts, 5)
    with pytest.raises(ValueError, match="cost must be able to fall"):
        DynamicProgramme(cost=lambda layer, density: 1.0).counts(parts, 5)
    unmeasured = random_parts(np.random.default_rng(0), [4, 6], loss=False)
    with pytest.raises(ValueError, match="measures losses"):
        DynamicProgramme().counts(unmeasured, 5)


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_many_large_layers(cost):
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(40):
        size = int(rng.integers(10_000, 1_000_000))
        scale, macs = rng.exponential(), float(rng.integers(1, 200))
        layer = SimpleNamespace(name="", parameter=None, shape=(1, size))
        loss = lambda n, size=size, scale=scale: scale * (1 - n / size) ** 3  # noqa: E731
        bound = SimpleNamespace(n_atoms=size)
        parts.append(Part(layer, bound, np.ones(1), loss, macs))
    everything = sum(part.structure.n_atoms for part in parts)
    counts = DynamicProgramme(cost=cost).counts(parts, everything // 5)
    assert sum(counts) <= everything // 5
    if cost == "parameters":
        assert sum(counts) == everything // 5
    uniform = [part.structure.n_atoms // 5 for part in parts]
    assert total_loss(parts, counts) < total_loss(parts, uniform)
