"""Batch-norm statistics estimated again, against moments taken by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitalfew.neural.batch_norm import recalibrate

SIZES = (5, 9, 2)


def batches(seed=0, sizes=SIZES, shape=(3, 8, 8), shift=2.0):
    drawn = torch.Generator().manual_seed(seed)
    return [shift + 3 * torch.randn(n, *shape, generator=drawn) for n in sizes]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
    )


def moments(x):
    """Mean and unbiased variance of each channel, over everything else."""
    flat = x.double().movedim(1, -1).reshape(-1, x.shape[1])
    return flat.mean(dim=0), flat.var(dim=0)


def assert_is(norm, mean, variance, rtol=1e-5):
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(
        norm.running_var.double(), variance, rtol=rtol, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_statistics_are_those_of_all_batches_together(seed):
    model, data = network(seed), batches(seed)
    assert recalibrate(model, data) == ["1", "5"]
    with torch.no_grad():
        first = [model[0](x) for x in data]
        assert_is(model[1], *moments(torch.cat(first)))
        # later layers see what is normalised batch by batch, without dropout
        middle = [
            functional.relu(functional.batch_norm(x, None, None, training=True))
            for x in first
        ]
        assert_is(model[5], *moments(torch.cat([model[4](x) for x in middle])))
    assert int(model[1].num_batches_tracked) == len(data)


def test_batches_of_one_size_agree_with_averages_of_torch():
    model, data = network(), batches(sizes=(6, 6, 6, 6))
    other = copy.deepcopy(model)
    recalibrate(model, data)
    other.train()
    other[3].eval()
    for norm in (other[1], other[5]):
        norm.reset_running_stats()
        norm.momentum = None
    for x in data:
        other(x)
    for i in (1, 5):
        torch.testing.assert_close(model[i].running_mean, other[i].running_mean)
        # torch averages the variances within batches, without that of their means
        torch.testing.assert_close(
            model[i].running_var, other[i].running_var, rtol=0.1, atol=0
        )


@pytest.mark.parametrize("momentum", [None, 0.1, 0.7])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training, momentum):
    model = network()
    model.train(training)
    model[1].eval()
    for norm in (model[1], model[5]):
        norm.momentum = momentum
    model[0].weight.requires_grad_(False)
    before = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "running" not in name and "tracked" not in name
    }
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    recalibrate(model, batches())
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert wanted == [p.requires_grad for p in model.parameters()]
    assert [norm.momentum for norm in (model[1], model[5])] == [momentum] * 2
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_again_makes_no_difference():
    model, data = network(), batches()
    recalibrate(model, data)
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, data)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_only_the_first_batches():
    one, other = network(), network()
    recalibrate(one, batches(), max_batches=2)
    recalibrate(other, batches()[:2])
    assert torch.equal(one[5].running_var, other[5].running_var)
    with pytest.raises(ValueError, match="max_batches must be"):
        recalibrate(one, batches(), max_batches=0)


def test_layers_without_statistics_frozen_or_unreached_are_left_alone():
    model = network()
    model[1].momentum = 0.0
    model[5] = nn.BatchNorm2d(4, track_running_stats=False)
    model.unused = nn.BatchNorm2d(3)
    model.forward = lambda x: nn.Sequential.forward(model[:6], x)
    before = copy.deepcopy(model.state_dict())
    assert recalibrate(model, batches()) == []
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_pruned_network_is_nearer_the_dense_one_again():
    model, data = network(), batches(sizes=(16, 16))
    recalibrate(model, data)
    model.eval()
    x = batches(seed=1, sizes=(16,))[0]
    with torch.no_grad():
        dense = model(x)
        weight = model[0].weight
        weight[weight.abs() < weight.abs().median()] = 0
        before = float((model(x) - dense).square().mean())
        recalibrate(model, data)
        after = float((model(x) - dense).square().mean())
    assert after < before


class Breaks(nn.Module):
    """Passes a few batches on, then fails."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return x


def test_an_interrupt_leaves_the_statistics_as_they_were():
    model = nn.Sequential(*network(), Breaks(after=2)).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, batches())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [model[1].momentum, model[5].momentum] == [0.1, 0.1]
    assert all(m.training for m in model.modules())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("bad", ["weight", "overflow"])
def test_statistics_that_are_not_finite_name_the_layer(bad):
    model, data = network(), batches()
    with torch.no_grad():
        if bad == "weight":
            model[4].weight[2, 1, 0, 0] = float("nan")
        else:
            model[4].weight.mul_(1e25)  # the variance is too large for float32
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="layer '5' are not finite"):
        recalibrate(model, data)
    after = model.state_dict()
    assert all(
        torch.equal(after[name], value)
        for name, value in before.items()
        if name != "4.weight"
    )


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 1)])
def test_a_batch_of_single_values_counts_and_does_not_fail(sizes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    data = batches(sizes=sizes, shape=(6,))
    assert recalibrate(model, data) == ["1"]
    with torch.no_grad():
        assert_is(model[1], *moments(model[0](torch.cat(data))))


def test_one_value_in_all_is_no_variance():
    model = nn.Sequential(nn.BatchNorm1d(6))
    before = copy.deepcopy(model.state_dict())
    assert recalibrate(model, batches(sizes=(1,), shape=(6,))) == []
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("seed", range(3))
def test_large_means_do_not_cancel(seed):
    model = nn.Sequential(nn.BatchNorm2d(3))
    data = [x.double().float() for x in batches(seed, shift=1e3)]
    recalibrate(model, data)
    assert_is(model[0], *moments(torch.cat(data)), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = nn.Sequential(nn.BatchNorm1d(4)).to(dtype)
    data = [x.to(dtype) for x in batches(shape=(4,))]
    assert recalibrate(model, data) == ["0"]
    rtol = 1e-12 if dtype == torch.float64 else 2e-2
    assert_is(model[0], *moments(torch.cat(data)), rtol=rtol)


@pytest.mark.parametrize("batched", [True, False])
def test_instance_norms_average_over_instances(batched):
    model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True))
    data = batches(shape=(3, 10)) if batched else [x[0] for x in batches(shape=(3, 10))]
    assert recalibrate(model, data) == ["0"]
    x = torch.cat(data) if batched else torch.stack(data)
    assert_is(model[0], x.double().mean(dim=(0, 2)), x.double().var(dim=2).mean(dim=0))
    other = nn.InstanceNorm1d(3, track_running_stats=True, momentum=1.0)
    other(x)
    torch.testing.assert_close(model[0].running_var, other.running_var)


def test_every_kind_of_batch_norm():
    model = nn.ModuleDict(
        {
            "one": nn.BatchNorm1d(3),
            "three": nn.BatchNorm3d(3),
            "all": nn.SyncBatchNorm(3),
            "named": nn.BatchNorm2d(3),
        }
    )

    def forward(x):
        model["one"](x.flatten(2))
        model["three"](x[:, :, None])
        model["all"](x)
        return model["named"](input=x)

    model.forward = forward
    data = batches()
    assert recalibrate(model, data) == ["one", "three", "all", "named"]
    for norm in model.values():
        assert_is(norm, *moments(torch.cat(data)))


def test_a_shared_layer_counts_all_it_sees():
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.Tanh(), norm)
    data = batches()
    assert recalibrate(model, data) == ["0"]
    normalised = [
        torch.tanh(functional.batch_norm(x, None, None, training=True)) for x in data
    ]
    assert_is(norm, *moments(torch.cat([*data, *normalised])))
    assert int(norm.num_batches_tracked) == 2 * len(data)


def test_a_model_without_such_layers():
    assert recalibrate(nn.Linear(2, 2), [torch.ones(3, 2)]) == []
