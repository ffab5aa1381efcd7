"""Fisher scores under attention, and the refit of layers as atoms are removed."""

import numpy as np
import pytest
import torch
from torch import nn

from vitalfew.pruning import Pruner
from vitalfew.pruning.training import Curve, Phase, Schedule
from vitalfew.pruning.training._inputs import MEMORY, MOST_TOKENS, WINDOW
from vitalfew.pruning.training.scores import AttentionRefit, FisherAttention
from vitalfew.pruning.training.scores.sequential_attention import attention
from vitalfew.structures import Blocks, Cardinality, Channels

N_IN, N_OUT, STEPS = 24, 16, 8


class AtOnce(Schedule):
    """All that shall go is removed after the last step but one."""

    name, use = "at-once", "tests"

    def phases(self, total_steps):
        cut = total_steps - 1
        return (
            Phase(name="dense", start=0, end=cut, removed=(0, 0)),
            Phase(name="sparse", start=cut, end=total_steps, curve=Curve()),
        )


def pruned_at_once(layer, structure, score, x, logits=None, steps=STEPS):
    """Take steps that change nothing, then let the Pruner remove; return it."""
    model = nn.Sequential(layer)
    pruner = Pruner(
        model,
        structure,
        score=score,
        schedule=AtOnce(),
        total_steps=steps,
        min_blocks=1,
    )
    gate = layer.parametrizations.weight[0]
    if logits is not None:
        with torch.no_grad():
            gate.logits.copy_(logits)
    gradients = []
    for step in range(steps - 1):
        model.zero_grad()
        model(x[step]).square().mean().backward()
        gradients.append(layer.parametrizations.weight.original.grad.clone())
        pruner.step()
    return pruner, gradients


def batches(seed, *shape, steps=STEPS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, *shape, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_the_fisher_score_is_that_of_the_weight_the_network_sees(seed):
    torch.manual_seed(seed)
    layer = nn.Linear(N_IN, N_OUT).double()
    structure = Blocks((4, 3), density=0.25)
    logits = torch.randn(32)
    weight = layer.weight.detach().clone()
    x = batches(seed, 10, N_IN).double()
    pruner, gradients = pruned_at_once(layer, structure, FisherAttention(), x, logits)
    A = attention(logits).clamp(0.25, 4).double()
    A = A.reshape(4, 1, 8, 1).expand(4, 4, 8, 3).reshape(N_OUT, N_IN)
    # by the chain rule a gradient by the seen weight is that by the trained one over A
    F = torch.stack(gradients).div(A).square().mean(0)
    wanted = (F * (A * weight).square()).reshape(4, 4, 8, 3).sum((1, 3)).flatten()
    kept = torch.from_numpy(pruner.sites[0].kept)
    assert kept.sum() == 8
    assert wanted[kept].min() > wanted[~kept].max()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attended", [True, False])
def test_the_refit_is_the_least_squares_solution(bias, attended):
    torch.manual_seed(1)
    layer = nn.Linear(N_IN, N_OUT, bias=bias).double()
    logits = torch.randn(32) / 4 if attended else torch.zeros(32)
    mixing = torch.randn(N_IN, N_IN).double()  # correlated inputs, not centred
    x = batches(2, 200, N_IN).double() @ mixing + 1
    A = attention(logits).clamp(0.25, 4).double()
    A = A.reshape(4, 1, 8, 1).expand(4, 4, 8, 3).reshape(N_OUT, N_IN)
    W = (layer.weight.detach() * A).numpy()
    b = layer.bias.detach().numpy().copy() if bias else np.zeros(N_OUT)
    score = AttentionRefit(damping=0.0)
    pruner, _ = pruned_at_once(layer, Blocks((4, 3), density=0.25), score, x, logits)
    mask = pruner.masks["0"].numpy()
    weight = layer.weight.detach().numpy()  # what the network sees
    assert np.all(weight[~mask] == 0)
    # the steps of the window in an exponentially weighted mean
    shares = MEMORY ** np.arange(STEPS - 2, -1, -1)
    rows = np.concatenate(
        [np.sqrt(s) * r for s, r in zip(shares, x.numpy(), strict=False)]
    )
    ones = np.concatenate([np.full(200, np.sqrt(s)) for s in shares])
    for i in range(N_OUT):
        columns = rows[:, mask[i]]
        if bias:
            columns = np.column_stack([columns, ones])
        target = rows @ W[i] + b[i] * ones
        if not columns.shape[1]:
            continue
        best, *_ = np.linalg.lstsq(columns, target if bias else rows @ W[i])
        # second moments are kept in single precision
        np.testing.assert_allclose(weight[i, mask[i]], best[: mask[i].sum()], atol=2e-4)
        if bias:
            np.testing.assert_allclose(layer.bias[i].item(), best[-1], atol=2e-3)


def test_a_copy_of_an_input_makes_up_for_the_one_that_goes():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    x = batches(3, 64, 6)
    x[..., 3:] = x[..., :3]
    before = layer(x[0]).detach()
    structure = Channels(density=0.5, axis=1)
    with torch.no_grad():
        layer.weight[:, 3:] *= 0.01  # so that these go
        before = layer(x[0]).detach()
    pruned_at_once(layer, structure, AttentionRefit(damping=1e-6), x)
    assert torch.allclose(layer(x[0]), before, atol=1e-4)
    assert not layer.weight[:, 3:].any()


def test_convolutions_are_refitted_and_grouped_ones_are_left():
    x = batches(4, 8, 1, 6, 6) + 0.3 * batches(5, 8, 4, 6, 6)  # channels alike
    errors = {}
    for score in (AttentionRefit(), FisherAttention()):
        torch.manual_seed(0)
        layer = nn.Conv2d(4, 8, 3, padding=1)
        before = layer(x[0]).detach()
        pruned_at_once(layer, Blocks((4, 4), density=0.4), score, x)
        with torch.no_grad():
            errors[score.name] = float((layer(x[0]) - before).square().sum())
    assert errors["attention-refit"] < 0.8 * errors["fisher-attention"]
    grouped = nn.Conv2d(4, 8, 3, groups=2)
    weight = grouped.weight.detach().clone()
    pruner, _ = pruned_at_once(grouped, Cardinality(density=0.5), AttentionRefit(), x)
    assert torch.equal(grouped.weight, weight * pruner.masks["0"])


def test_inputs_are_looked_at_shortly_before_selections_only():
    torch.manual_seed(0)
    layer, steps = nn.Linear(N_IN, N_OUT), 3 * WINDOW
    model = nn.Sequential(layer)
    pruner = Pruner(
        model,
        Blocks((4, 3), density=0.5),
        score=AttentionRefit(),
        schedule=AtOnce(),
        total_steps=steps,
        min_blocks=1,
    )
    inputs = layer.parametrizations.weight[0].inputs
    looked = []
    for _ in range(steps):
        before = inputs.seen.clone()
        model(torch.randn(4, N_IN)).sum().backward()
        looked.append(bool(inputs.seen != before))
        pruner.step()
    cut = steps - 1  # steps before the selection that removes
    assert looked == [
        cut - WINDOW <= step < cut or step == cut for step in range(steps)
    ]
    assert not model(torch.randn(MOST_TOKENS * 3, N_IN)).isnan().any()
    hooks = len(layer._forward_pre_hooks)
    pruner.finalize()
    assert hooks == 1
    assert not layer._forward_pre_hooks


def test_evaluation_and_long_batches():
    layer = nn.Linear(N_IN, N_OUT)
    pruner = Pruner(
        nn.Sequential(layer),
        Blocks((4, 3), density=0.5),
        score=AttentionRefit(),
        schedule=AtOnce(),
        total_steps=2,
        min_blocks=1,
    )
    inputs = layer.parametrizations.weight[0].inputs
    assert inputs.watching
    layer.eval()
    layer(torch.ones(3, N_IN))
    layer.train()
    with torch.no_grad():
        layer(torch.ones(3, N_IN))
    assert not inputs.seen
    x = torch.randn(2 * MOST_TOKENS, N_IN)
    layer(x)
    mean, square = pruner.sites[0].moments()
    torch.testing.assert_close(mean, x[::2].mean(0))
    torch.testing.assert_close(square, x[::2].T @ x[::2] / MOST_TOKENS)


@pytest.mark.parametrize("damping", [-1.0, float("nan"), "much"])
def test_damping_is_checked(damping):
    with pytest.raises(ValueError, match="damping must be a finite number >= 0"):
        AttentionRefit(damping=damping)
