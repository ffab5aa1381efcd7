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

# attention is set here, not trained
pytestmark = pytest.mark.filterwarnings("ignore:.*going on without:UserWarning")


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


def refitting(model, structure=None, score=None, steps=2):
    """A Pruner that looks at inputs, at its only layer, and what it looks with."""
    pruner = Pruner(
        model,
        Blocks((4, 3), density=0.5) if structure is None else structure,
        score=AttentionRefit() if score is None else score,
        schedule=AtOnce(),
        total_steps=steps,
        min_blocks=1,
    )
    (site,) = pruner.sites
    return pruner, site


class ByName(nn.Module):
    """Gives its layer the input by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(N_IN, N_OUT)

    def forward(self, x):
        return self.layer(input=x)


WIDE = MOST_TOKENS + 952
INPUTS = {
    "by name": (ByName, (5, N_IN), 5),
    "one sample": (lambda: nn.Linear(WIDE, N_OUT), (WIDE,), 1),
    "one long sequence": (
        lambda: nn.Linear(N_IN, N_OUT),
        (1, 3 * MOST_TOKENS, N_IN),
        MOST_TOKENS,
    ),
    "one image": (lambda: nn.Conv2d(3, N_OUT, 3), (3, 120, 120), 118**2),
    "images": (
        lambda: nn.Conv2d(4, N_OUT, 3, padding=1),
        (16, 4, 32, 32),
        MOST_TOKENS,
    ),
}


@pytest.mark.parametrize(("make", "shape", "n_tokens"), INPUTS.values(), ids=INPUTS)
def test_inputs_of_any_form_are_looked_at(make, shape, n_tokens):
    model = make()
    _, site = refitting(model)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model(x)
    assert len(site.gate.inputs._some(x)) == n_tokens
    mean, square = site.moments()
    tokens = site.gate.inputs._some(x)
    torch.testing.assert_close(mean, tokens.mean(0), rtol=1e-4, atol=1e-6)
    wanted = tokens.T @ tokens / len(tokens)
    torch.testing.assert_close(square, wanted, rtol=1e-4, atol=1e-6)


def test_an_empty_batch_and_one_that_is_not_finite_do_not_count():
    model = nn.Linear(N_IN, N_OUT)
    _, site = refitting(model)
    x, bad = torch.randn(2, 7, N_IN)
    bad[3, 4] = float("inf")
    model(x)
    before = site.moments()
    model(bad)
    model(torch.empty(0, N_IN))
    for now, then in zip(site.moments(), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_sums_are_single_precision_at_least(dtype):
    model = nn.Linear(N_IN, N_OUT)
    _, site = refitting(model)
    model.to(dtype)
    model(torch.randn(7, N_IN, dtype=dtype))
    wanted = torch.promote_types(dtype, torch.float32)
    assert {part.dtype for part in site.moments()} == {wanted}


@pytest.mark.parametrize("kind", ["frozen", "shared"])
def test_a_bias_that_is_frozen_or_of_one_of_several_layers_is_left(kind):
    torch.manual_seed(0)
    layer = nn.Linear(N_IN, N_OUT)
    model = nn.Sequential(layer)
    if kind == "frozen":
        layer.bias.requires_grad_(False)
    else:
        model = nn.ModuleList([layer, nn.Linear(N_IN, N_OUT)])
        model[1].weight = layer.weight
    W, b = layer.weight.detach().clone(), layer.bias.detach().clone()
    pruner, _ = refitting(model, score=AttentionRefit(damping=1e-6))
    mixing = torch.randn(N_IN, N_IN)
    x = torch.randn(500, N_IN) @ mixing + 2  # not centred
    layer(x).square().mean().backward()
    pruner.step()
    mask = pruner.masks[pruner.sites[0].name].numpy()
    assert torch.equal(layer.bias, b)
    for i in range(N_OUT):
        rows = x.numpy()
        best, *_ = np.linalg.lstsq(rows[:, mask[i]], rows @ W[i].numpy())
        found = layer.weight[i].detach().numpy()[mask[i]]
        np.testing.assert_allclose(found, best, atol=2e-3)


def test_nothing_is_refitted_where_nothing_leaves():
    torch.manual_seed(0)
    model = nn.Linear(N_IN, N_OUT)
    pruner, site = refitting(model)
    model(torch.randn(50, N_IN) + 1).square().mean().backward()
    before, bias = site.matrix.clone(), model.bias.detach().clone()
    pruner.score.compensate(site, torch.from_numpy(site.kept))
    assert torch.equal(site.matrix, before)
    site.show(np.arange(site.n_atoms) % 2 == 0)
    pruner.score.compensate(site, torch.from_numpy(site.kept))
    assert torch.equal(site.matrix, before)
    assert torch.equal(model.bias, bias)


def test_a_process_that_saw_nothing_takes_part_in_the_exchange(monkeypatch):
    _, other = refitting(nn.Linear(N_IN, N_OUT))
    x = torch.randn(7, N_IN)
    other.gate.inputs.look(other.layer.module, (x,), {})
    _, site = refitting(nn.Linear(N_IN, N_OUT))
    assert site.moments() is None
    sums = [getattr(other.gate.inputs, n) for n in ("mean", "square", "seen")]

    def with_the_other(own):
        pairs = zip(own, sums, strict=True)
        return [(a + b.reshape(-1)) / 2 for a, b in pairs]

    monkeypatch.setattr("vitalfew.pruning.training._site.agreed", with_the_other)
    mean, square = site.moments()
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(square, x.T @ x / 7)
