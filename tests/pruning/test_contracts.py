"""Laws that every exported criterion obeys, on every structure over weights."""

import dataclasses

import numpy as np
import pytest
import torch

from vitalfew.neural import Statistics
from vitalfew.pruning import criteria
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups

SHAPE = (36, 22)
LABELS = np.random.default_rng(5).permutation(np.arange(36 * 22) % 60).reshape(SHAPE)
STRUCTURES = {
    "weights": Cardinality(density=0.3),
    "16x1": Blocks((16, 1), density=0.3),  # the last row of blocks is 4 high
    "4x4": Blocks((4, 4), density=0.3),  # the last column of blocks is 2 wide
    "2:4": NM(2, 4),
    "2:4 along outputs": NM(2, 4, axis=0),
    "groups": Groups(LABELS, density=0.3),
    "outputs": Channels(density=0.3, axis=0),
    "inputs": Channels(density=0.3, axis=1),
}
NAMES = criteria.__all__
OF_THE_WEIGHT = [name for name in NAMES if name not in ("Random", "Movement")]


def make_weight(seed, shape=SHAPE, dtype=torch.float32):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=drawn).to(dtype)


def make_statistics(seed, shape=SHAPE, dtype=torch.float32, gated=False):
    drawn = torch.Generator().manual_seed(100 + seed)

    def positive(*size):
        return (torch.rand(size, generator=drawn) + 0.1).to(dtype)

    return Statistics(
        n_tokens=60,
        n_samples=20,
        input_square=positive(1, shape[1]).expand(shape),
        output_square=positive(shape[0]),
        gated=gated,
        gradient=positive(*shape) - 1.2,
        fisher=positive(*shape),
        movement=torch.randn(shape, generator=drawn).to(dtype),
    )


def score(name, weight, statistics, seed=0):
    return getattr(criteria, name)().score(
        weight, statistics, np.random.default_rng(seed)
    )


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("name", NAMES)
def test_the_atoms_kept_are_the_best_and_as_many_as_allowed(name, structure, gated):
    bound = structure.on(SHAPE)
    saliency = score(name, make_weight(1), make_statistics(1, gated=gated))
    support = bound.largest(saliency.sqrt())
    assert len(support) == bound.budget
    flat = saliency.reshape(-1).numpy()
    sums = np.array([flat[bound.members(a)].sum() for a in range(bound.n_atoms)])
    kept = np.zeros(bound.n_atoms, bool)
    kept[support.atoms] = True
    if isinstance(structure, NM):
        marks, sums = kept.reshape(SHAPE), sums.reshape(SHAPE)
        if structure.axis == 0:
            marks, sums = marks.T, sums.T
        for start in range(0, marks.shape[1], 4):
            here, run = marks[:, start : start + 4], sums[:, start : start + 4]
            assert np.all(here.sum(axis=1) == 2)
            least = np.where(here, run, np.inf).min(axis=1)
            assert np.all(least >= np.where(here, -np.inf, run).max(axis=1))
    else:
        assert sums[kept].min() >= sums[~kept].max() * (1 - 1e-9)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]
)
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_saliencies_in_any_precision(name, dtype):
    weight, statistics = make_weight(2, dtype=dtype), make_statistics(2, dtype=dtype)
    found = score(name, weight, statistics)
    assert found.shape == weight.shape
    assert found.dtype == torch.float64
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert not found.requires_grad


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "Random"])
def test_the_order_of_outputs_and_inputs_does_not_matter(name, gated):
    rng = np.random.default_rng(3)
    i, j = rng.permutation(SHAPE[0]), rng.permutation(SHAPE[1])
    weight, known = make_weight(3), make_statistics(3, gated=gated)
    moved = dataclasses.replace(
        known,
        input_square=known.input_square[:, j],
        output_square=known.output_square[i],
        gradient=known.gradient[i][:, j],
        fisher=known.fisher[i][:, j],
        movement=known.movement[i][:, j],
    )
    torch.testing.assert_close(
        score(name, weight[i][:, j], moved),
        score(name, weight, known)[i][:, j],
        rtol=1e-10,
        atol=0,
    )


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
@pytest.mark.parametrize("name", OF_THE_WEIGHT)
def test_the_scale_of_the_weights_does_not_change_their_order(name, scale):
    weight, statistics = make_weight(4), make_statistics(4)
    found = score(name, weight, statistics)
    scaled = score(name, weight * scale, statistics)
    assert torch.isfinite(scaled).all()
    assert (scaled > 0).all()
    power = 0 if name == "LAMP" else 2
    torch.testing.assert_close(scaled / scale**power, found, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", OF_THE_WEIGHT)
def test_a_zero_weight_scores_nothing_and_others_something(name, gated):
    weight, statistics = make_weight(5), make_statistics(5, gated=gated)
    weight[::3, ::2] = 0
    weight[:, 7] = 0
    weight[9] = 0
    found = score(name, weight, statistics)
    assert torch.equal(found > 0, weight != 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("name", OF_THE_WEIGHT)
def test_equal_weights_score_the_same(name, value, shape):
    same = Statistics(
        n_tokens=3,
        n_samples=3,
        input_square=torch.full(shape, 2.0),
        output_square=torch.full(shape[:1], 2.0),
        gradient=torch.full(shape, -2.0),
        fisher=torch.full(shape, 2.0),
    )
    found = score(name, torch.full(shape, value), same)
    assert torch.isfinite(found).all()
    assert (found == found[0, 0]).all()
    assert (found[0, 0] > 0) == (value != 0)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "Random"])
def test_duplicate_columns_score_the_same(name):
    weight, known = make_weight(6), make_statistics(6)
    weight[:, 4] = weight[:, 1]
    for each in (known.gradient, known.fisher, known.movement):
        each[:, 4] = each[:, 1]
    square = known.input_square.clone()
    square[:, 4] = square[:, 1]
    found = score(name, weight, dataclasses.replace(known, input_square=square))
    assert torch.equal(found[:, 4], found[:, 1])


@pytest.mark.parametrize("name", NAMES)
def test_neither_weights_nor_statistics_are_changed(name):
    weight, known = (
        make_weight(7, dtype=torch.float64),
        make_statistics(7, dtype=torch.float64),
    )
    tensors = [weight, *(t for t in vars(known).values() if torch.is_tensor(t))]
    before = [t.clone() for t in tensors]
    score(name, weight, known).zero_()
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_strides_do_not_matter(name):
    weight, statistics = make_weight(8), make_statistics(8)
    transposed = weight.T.contiguous().T
    assert torch.equal(
        score(name, weight, statistics), score(name, transposed, statistics)
    )


@pytest.mark.parametrize(
    "name", [name for name in NAMES if getattr(criteria, name).needs]
)
def test_a_missing_statistic_is_named(name):
    with pytest.raises(ValueError, match="|".join(getattr(criteria, name).needs)):
        score(name, make_weight(9), Statistics())


def test_each_says_what_it_is():
    classes = [getattr(criteria, name) for name in NAMES]
    assert len({cls.name for cls in classes}) == len(classes)
    known = {field.name for field in dataclasses.fields(Statistics)}
    for cls in classes:
        assert cls.name == cls.name.lower()
        assert cls.cost
        assert cls.use
        assert cls.needs <= known
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls().name = "other"
