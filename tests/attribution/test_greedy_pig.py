"""Greedy PIG against its definition."""

import numpy as np
import pytest

from tests.attribution.functions import Softmax, products
from vitalfew.attribution import GreedyPIG, IntegratedGradients


def by_definition(f, x, start, *, rounds, steps, per_round, groups=None):
    """Ranks of one input, entry by entry and point by point."""
    groups = np.arange(x.size).reshape(x.shape) if groups is None else groups
    groups = np.broadcast_to(groups, x.shape)
    count = groups.max() + 1
    chosen, scores = [], {}
    for _ in range(rounds):
        on = np.isin(groups, chosen)
        b = np.where(on, x, start)
        mean = np.zeros_like(x)
        for j in range(steps):
            point = b + (j + 0.5) / steps * (x - b)
            mean += f(point[None])[1][0] / steps
        a = (x - b) * mean
        scores = {g: a[groups == g].sum() for g in range(count) if g not in chosen}
        best = sorted(scores, key=lambda g: (-scores[g], g))[:per_round]
        chosen += best
        if len(chosen) == count:
            break
    chosen += sorted(set(range(count)) - set(chosen), key=lambda g: (-scores[g], g))
    ranks = np.empty(count)
    ranks[chosen] = np.arange(count, 0, -1)
    return ranks[groups]


@pytest.mark.parametrize("per_round", [1, 2, 5])
@pytest.mark.parametrize("rounds", [1, 2, 64])
def test_definition(rounds, per_round, rng):
    model = Softmax(rng, 9)
    x, start = rng.normal(size=(2, 6, 9))
    classes = np.arange(6) % 3
    pig = GreedyPIG(model, baseline=start, rounds=rounds, steps=4, per_round=per_round)
    found = pig.explain(x, classes)
    for i in range(6):
        wanted = by_definition(
            lambda p, i=i: model(p, classes[i : i + 1]),
            x[i],
            start[i],
            rounds=rounds,
            steps=4,
            per_round=per_round,
        )
        np.testing.assert_array_equal(found.scores[i], wanted)
    assert found.gaps is None
    assert found.n_gradients <= 4 * min(rounds, -(-9 // per_round))
    for i in range(6):
        alone = GreedyPIG(
            model, baseline=start[i], rounds=rounds, steps=4, per_round=per_round
        )
        ranks = alone.attribute(x[i : i + 1], classes[i])
        np.testing.assert_array_equal(ranks[0], found.scores[i])


@pytest.mark.parametrize(
    "groups",
    [
        np.array([[0, 1, 1, 2]]),
        np.array([[0], [1], [0]]),
        np.arange(12).reshape(3, 4) // 5,
    ],
    ids=["pixels of channels", "tokens", "regions"],
)
def test_groups(groups, rng):
    model, x = Softmax(rng, 12), rng.normal(size=(4, 3, 4))
    found = GreedyPIG(model, groups=groups, steps=3).attribute(x, 1)
    for i in range(4):
        wanted = by_definition(
            lambda p: model(p, np.array([1])),
            x[i],
            np.zeros((3, 4)),
            rounds=12,
            steps=3,
            per_round=1,
            groups=groups,
        )
        np.testing.assert_array_equal(found[i], wanted)


def test_named_groups(rng):
    model, x = Softmax(rng, 24), rng.normal(size=(3, 2, 3, 4))

    def ranks(groups):
        return GreedyPIG(model, groups=groups).attribute(x, 0)

    pixels = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(ranks("pixels"), ranks(pixels))
    channels = np.arange(2).reshape(2, 1, 1)
    np.testing.assert_array_equal(ranks("channels"), ranks(channels))
    np.testing.assert_array_equal(ranks("tokens"), ranks(channels))


def test_every_input_may_have_its_own_groups(rng):
    model, x = Softmax(rng, 8), rng.normal(size=(3, 8))
    labels = np.array([[0, 0, 1, 1, 2, 2, 3, 3], [0, 1] * 4, [0] * 3 + [1] * 4 + [2]])
    for memory in (1, 2**20):
        pig = GreedyPIG(model, groups=labels, memory=memory)
        found = pig.attribute(x, 0)
        for i in range(3):
            alone = GreedyPIG(model, groups=labels[i]).attribute(x[i : i + 1], 0)
            missing = 3 - labels[i].max()  # ranks go down from the most that any has
            np.testing.assert_array_equal(found[i], alone[0] + missing)


def test_one_round_ranks_as_integrated_gradients(rng):
    model, x = Softmax(rng, 9), rng.normal(size=(5, 9))
    ig = IntegratedGradients(model, steps=6).attribute(x, 2)
    pig = GreedyPIG(model, rounds=1, per_round=9, steps=6).attribute(x, 2)
    np.testing.assert_array_equal(np.argsort(-pig, 1), np.argsort(-ig, 1))


def test_a_copy_of_a_feature_is_taken_late():
    def f(x):  # a saturated sum of two copies, and a small term
        z = 4 * (x[:, 0] + x[:, 1]) - 2
        s = 1 / (1 + np.exp(-z))
        slope = (s * (1 - s))[:, None] * [4.0, 4.0, 0.0]
        return s + 0.3 * x[:, 2], slope + np.array([0.0, 0.0, 0.3])

    x = np.ones((1, 3))
    assert IntegratedGradients(f).attribute(x)[0].argmin() == 2
    np.testing.assert_array_equal(GreedyPIG(f, steps=20).attribute(x), [[3, 1, 2]])


@pytest.mark.parametrize("memory", [1, 2**28])
def test_one_choice_for_a_data_set(rng, memory):
    x, start = rng.normal(size=(20, 6)), rng.normal(size=6)
    found = GreedyPIG(products, baseline=start, memory=memory).attribute_dataset(x)

    def mean(flat):  # all rows as one input of one function
        rows = flat.reshape(-1, 6)
        value, gradient = products(rows)
        return value.mean()[None], gradient.reshape(flat.shape) / 20

    wanted = by_definition(
        mean,
        x.ravel(),
        np.tile(start, 20),
        rounds=6,
        steps=5,
        per_round=1,
        groups=np.tile(np.arange(6), 20),
    )
    np.testing.assert_array_equal(found, wanted[:6])


def test_choosing_features_of_a_trained_model(rng):
    torch = pytest.importorskip("torch")
    network = torch.nn.Linear(8, 2, dtype=torch.float64)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[1, 5], network.weight[1, 2], network.weight[1, 3] = 4.0, 2.0, 1.0
        network.bias.zero_()
    X = rng.normal(size=(200, 8))
    y = (X @ network.weight[1].detach().numpy() > 0).astype(int)
    pig = GreedyPIG(network, target="loss", baseline=X.mean(0))
    ranks = pig.attribute_dataset(torch.tensor(X), y)
    assert isinstance(ranks, torch.Tensor)
    assert ranks.shape == (8,)
    assert ranks.argsort(descending=True)[:3].tolist() == [5, 2, 3]


def test_a_single_feature_and_a_single_group():
    np.testing.assert_array_equal(
        GreedyPIG(lambda x: (x[:, 0], np.ones_like(x))).attribute(np.ones((2, 1))), 1
    )
    one = GreedyPIG(products, groups=np.zeros(5, int))
    np.testing.assert_array_equal(one.attribute(np.ones((2, 5))), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds must be an integer of at least 1"),
        ({"per_round": 0}, "per_round must be an integer of at least 1"),
        ({"groups": [0, 0, 2, 2, 1, 4]}, "groups must be labels that broadcast"),
        ({"groups": [0, 0, 2, 2, 4]}, "group 1 is empty"),
        ({"groups": "words"}, "groups must be None, labels or one of pixels"),
        ({"groups": "pixels"}, "got 'pixels' for inputs of shape"),
        ({"groups": [0.0, 1, 2, 3, 4]}, "groups must be integers"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GreedyPIG(products, **settings).attribute(np.ones((2, 5)))


def test_a_data_set_has_one_set_of_groups():
    labels = np.array([[0, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    with pytest.raises(ValueError, match="groups must be the same for all inputs"):
        GreedyPIG(products, groups=labels).attribute_dataset(np.ones((2, 5)))
