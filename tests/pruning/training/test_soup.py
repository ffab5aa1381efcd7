"""`soup`: the mean of networks that are pruned alike."""

import copy

import pytest
import torch
from torch import nn

from tests.pruning.networks import convnet, pairs
from vitalfew.pruning import Pruner, prune, soup
from vitalfew.structures import Cardinality

KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def noisy(model, seed):
    """Return a copy whose nonzero entries are others."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    for tensor in other.state_dict().values():
        if tensor.is_floating_point():
            there = tensor != 0
            tensor.copy_(tensor + 0.1 * there * torch.rand_like(tensor))
        else:
            tensor += seed
    return other


def pruned(dtype=torch.float32):
    model = convnet().to(dtype)
    prune(model, Cardinality(density=0.3), method="magnitude")
    return model


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_entries_are_the_means_and_as_sparse(dtype, n):
    models = [noisy(pruned(dtype), seed) for seed in range(1, n + 1)]
    found = soup(models)
    states = [model.state_dict() for model in models]
    assert list(found) == list(states[0])
    for name, tensor in found.items():
        assert tensor.dtype == states[0][name].dtype
        if not tensor.is_floating_point():
            assert torch.equal(tensor, states[0][name])
            continue
        every = [state[name].to(torch.float64) for state in states]
        mean = torch.stack(every).mean(0)
        torch.testing.assert_close(tensor, mean.to(tensor.dtype))
        if tensor.ndim > 1:
            assert torch.equal(tensor == 0, states[0][name] == 0)


def test_means_of_half_precision_lose_nothing_on_the_way():
    # added up in bfloat16, ones would stay at 256
    models = [{"w": torch.ones(1, dtype=torch.bfloat16)} for _ in range(512)]
    assert soup(models)["w"].item() == 1


def test_models_and_states_stay_as_they_are():
    models = [noisy(pruned(), seed) for seed in (1, 2)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    found = soup(models)
    found["0.weight"].add_(1)
    found["1.num_batches_tracked"].add_(1)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items())


def test_states_will_do_and_a_model_can_be_written_into():
    models = [noisy(pruned(), seed) for seed in (1, 2, 3)]
    expected = soup(models)
    found = soup([model.state_dict() for model in models], into=models[1])
    for name, tensor in models[1].state_dict().items():
        assert torch.equal(tensor, expected[name])
        assert torch.equal(tensor, found[name])


def test_networks_trained_on_from_one_pruned_network_can_be_averaged():
    # the last selection is before the first step, from the same weights in each
    models, masks = [], {}
    for seed in range(3):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
        optimizer = torch.optim.Adam(model.parameters())
        pruner = Pruner(
            model,
            Cardinality(density=0.3),
            method="rigl",
            allocation="erk",
            total_steps=1,
            optimizer=optimizer,
            min_blocks=1,
        )
        for x, y in pairs(seed=seed, n_batches=1):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            pruner.step()
        with pytest.raises(ValueError, match="model 1 is still being pruned"):
            soup([nn.Linear(2, 2), model])
        masks = pruner.finalize().masks
        models.append(model)
    found = soup(models, masks=masks, into=models[0])
    for name, mask in masks.items():
        assert bool((found[f"{name}.weight"][~mask] == 0).all())
        assert torch.equal(
            models[0].get_submodule(name).weight, found[f"{name}.weight"]
        )


def test_kept_weights_that_are_zero_need_masks():
    one, two = (nn.Linear(3, 2) for _ in range(2))
    mask = torch.tensor([[True, True, False], [False, True, True]])
    for layer in (one, two):
        layer.weight.data.fill_(1.0).mul_(mask)
    two.weight.data[0, 0] = 0
    with pytest.raises(ValueError, match=r"weight of model 1 .* 1 different .* masks="):
        soup([one, two])
    found = soup([one, two], masks={"": mask})["weight"]
    assert found.tolist() == [[0.5, 1, 0], [0, 1, 1]]
    two.weight.data[0, 2] = 5
    with pytest.raises(ValueError, match="weight of model 1 is not at 1 entries"):
        soup([one, two], masks={"": mask})


def test_what_does_not_fit_together_is_said():
    model = pruned()
    with pytest.raises(ValueError, match="at least one model"):
        soup([])
    with pytest.raises(ValueError, match="do not both have 8"):
        soup([model, nn.Sequential(*list(model)[:-1])])
    with pytest.raises(ValueError, match=r"weight is float32 \(2, 3\) in model 0"):
        soup([nn.Linear(3, 2), nn.Linear(3, 4)])
    with pytest.raises(ValueError, match="float64"):
        soup([nn.Linear(3, 2), nn.Linear(3, 2).double()])
    with pytest.raises(ValueError, match=r"must be modules or their state dicts.*list"):
        soup([[1]])
    with pytest.raises(ValueError, match="masks must be of weights"):
        soup([model], masks={"7": torch.ones(1)})
    with pytest.raises(ValueError, match="masks must be of weights"):
        soup([model], masks={"0": torch.ones(8, 3)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_entries_that_are_not_finite_are_refused(bad):
    models = [noisy(pruned(), seed) for seed in (1, 2)]
    models[1][0].bias.data[0] = bad
    with pytest.raises(ValueError, match=r"0\.bias of model 1 .* not finite"):
        soup(models)
