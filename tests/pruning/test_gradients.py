"""Gradients of single samples against plain autograd, and the network as a vector."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from vitalfew.neural import prunable_layers
from vitalfew.neural.batches import loss_of
from vitalfew.neural.flat import FlatNetwork
from vitalfew.neural.gradients import (
    SampleGradients,
    mean_squares,
    per_sample_gradients,
)

N = 5


class Branching(nn.Module):
    """Looks at its numbers, which cannot be run for many samples at once."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)
        return self.second(torch.tanh(h) if h.sum() > 0 else torch.sin(h))


class Tied(nn.Module):
    """Two modules with one weight, and one that no sample reaches."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Tokens(nn.Module):
    """Takes named arguments and returns its own loss, as Hugging Face models do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 11)

    def forward(self, input_ids, positions, labels):
        h = torch.tanh(self.body(self.embedding(input_ids) + positions))
        logits = self.head(h)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def images():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2, stride=2),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def transposed():
    return nn.Sequential(nn.ConvTranspose1d(2, 4, 2, groups=2), nn.Flatten())


def vectors(generator, *shape):
    targets = torch.randint(0, 3, (N,), generator=generator)
    return torch.randn(N, *shape, generator=generator), targets


def sequences(generator):
    return {
        "input_ids": torch.randint(0, 11, (N, 3), generator=generator),
        "positions": torch.randn(1, 3, 6, generator=generator),
        "labels": torch.randint(0, 11, (N, 3), generator=generator),
    }


CASES = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)),
        lambda g: vectors(g, 6),
        True,
    ),
    "convolutions": (images, lambda g: vectors(g, 2, 4, 4), True),
    "transposed convolution": (
        transposed,
        lambda g: (torch.randn(N, 2, 4, generator=g), torch.randn(N, 20, generator=g)),
        True,
    ),
    "branching": (Branching, lambda g: vectors(g, 6), False),
    "tied": (
        Tied,
        lambda g: (torch.randn(N, 6, generator=g), torch.randn(N, 6, generator=g)),
        True,
    ),
    "named arguments": (Tokens, sequences, True),
}


def made(name, seed):
    torch.manual_seed(seed)
    build, batch, together = CASES[name]
    return build(), batch(torch.Generator().manual_seed(seed)), together


def sample(batch, i):
    """Sample number i as a batch of one."""
    if isinstance(batch, tuple):
        return tuple(t[i : i + 1] for t in batch)
    return {k: t[i : i + 1] if len(t) == N else t for k, t in batch.items()}


def by_autograd(model, layers, batch):
    """Rows of gradients, one backward pass each, and the losses."""
    rows, losses = [], []
    training = model.training
    model.eval()
    for i in range(N):
        loss = loss_of(model, sample(batch, i))
        weights = [layer.parameter for layer in layers]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    layer.as_matrix(torch.zeros_like(w) if g is None else g).reshape(-1)
                    for layer, w, g in zip(layers, weights, found, strict=True)
                ]
            )
        )
        losses.append(float(loss.detach()))
    model.train(training)
    return torch.stack(rows).detach(), losses


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_autograd(name, seed):
    model, batch, _ = made(name, seed)
    layers, _ = prunable_layers(model)
    expected, _ = by_autograd(model, layers, batch)
    found = per_sample_gradients(model, layers, batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_samples_run_together_where_they_can(name):
    model, batch, together = made(name, 0)
    layers, _ = prunable_layers(model)
    with SampleGradients(model, layers) as gradients:
        list(gradients.of(batch))
    assert gradients.together is together


@pytest.mark.parametrize("name", CASES)
def test_chunks_change_nothing(name, monkeypatch):
    model, batch, _ = made(name, 1)
    layers, _ = prunable_layers(model)
    expected = per_sample_gradients(model, layers, batch)
    monkeypatch.setattr("vitalfew.neural.gradients.MOST_TOGETHER", 2)
    found = per_sample_gradients(model, layers, batch)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_mean_squares(name, seed):
    model, batch, _ = made(name, seed)
    layers, _ = prunable_layers(model)
    rows, _ = by_autograd(model, layers, batch)
    found, n = mean_squares(model, layers, [batch, batch])
    assert n == 2 * N
    flat = torch.cat([found[layer.name].reshape(-1) for layer in layers])
    torch.testing.assert_close(flat, rows.square().mean(0), atol=1e-7, rtol=1e-4)
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        layer.name: layer.shape for layer in layers
    }


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_behind(name):
    model, batch, _ = made(name, 0)
    layers, _ = prunable_layers(model)
    model.train()
    last = list(model.modules())[-1]
    last.eval()
    layers[0].parameter.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    per_sample_gradients(model, layers, batch)
    mean_squares(model, layers, [batch])
    assert torch.equal(torch.get_rng_state(), random)
    assert not layers[0].parameter.requires_grad
    assert model.training
    assert not last.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_precision(dtype, expected):
    torch.manual_seed(0)
    model = nn.Linear(6, 3).to(dtype)
    x, y = vectors(torch.Generator().manual_seed(0), 6)
    batch = (x.to(dtype), y)
    layers, _ = prunable_layers(model)
    found = per_sample_gradients(model, layers, batch)
    assert found.dtype is expected
    assert mean_squares(model, layers, [batch])[0][""].dtype is expected
    rows, _ = by_autograd(model, layers, batch)
    torch.testing.assert_close(found, rows.to(expected), atol=2e-2, rtol=2e-2)


def test_not_finite_is_refused_by_name():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    with torch.no_grad():
        model[1].weight.fill_(float("inf"))
    layers, _ = prunable_layers(model)
    with pytest.raises(ValueError, match="layer '0' is not finite"):
        per_sample_gradients(model, layers, vectors(torch.Generator(), 6))
    with pytest.raises(ValueError, match="not finite"):
        mean_squares(model, layers, [vectors(torch.Generator(), 6)])


def test_faults_of_the_model_are_told_and_leave_it_as_it_was():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(5, 3)).train()
    layers, _ = prunable_layers(model)
    with pytest.raises(RuntimeError, match="shapes"):
        per_sample_gradients(model, layers, vectors(torch.Generator(), 6))
    assert model.training
    with pytest.raises(ValueError, match="targets"):
        mean_squares(model[:1], layers[:1], [torch.zeros(2, 6)])


# -- the network as a vector -----------------------------------------------------------


def flat(name="perceptron", seed=0, n_batches=3):
    model, _, _ = made(name, seed)
    generator = torch.Generator().manual_seed(seed)
    batches = [CASES[name][1](generator) for _ in range(n_batches)]
    layers, _ = prunable_layers(model)
    return model, layers, batches, FlatNetwork(model, layers, batches)


@pytest.mark.parametrize("name", CASES)
def test_write_then_read(name):
    _, layers, _, network = flat(name)
    w = torch.arange(network.size, dtype=torch.float32)
    network.write(w)
    torch.testing.assert_close(network.weights(), w)
    parts = network.split(w)
    for layer in layers:
        assert torch.equal(parts[layer.name], layer.weight)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_all_samples(name, seed):
    model, layers, batches, network = flat(name, seed)
    found = [by_autograd(model, layers, batch) for batch in batches]
    rows = torch.cat([r for r, _ in found])
    losses = np.concatenate([values for _, values in found])
    A, loss = network.gradients(100, np.random.default_rng(0))
    assert A.shape == rows.shape == (3 * N, network.size)
    order = torch.from_numpy(np.random.default_rng(0).permutation(3 * N))
    torch.testing.assert_close(A, rows[order], atol=1e-6, rtol=1e-4)
    assert loss == pytest.approx(losses.mean(), rel=1e-5)
    if name != "branching":  # where a sample's loss depends on those beside it
        mean = network.loss(100, np.random.default_rng(1))
        assert mean == pytest.approx(losses.mean(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_some_samples_are_different_ones_and_those_of_the_loss(seed):
    model, layers, batches, network = flat()
    rows = torch.cat([by_autograd(model, layers, batch)[0] for batch in batches])
    A, loss = network.gradients(4, np.random.default_rng(seed))
    distance = torch.cdist(A, rows)
    nearest = distance.argmin(1)
    assert float(distance.min(1)[0].max()) < 1e-5
    assert len(set(nearest.tolist())) == 4
    assert loss == pytest.approx(network.loss(4, np.random.default_rng(seed)), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_several_samples_are_their_means(seed):
    model, layers, batches, network = flat()
    rows = torch.cat([by_autograd(model, layers, batch)[0] for batch in batches])
    A, _ = network.gradients(5, np.random.default_rng(seed), per_row=3)
    assert len(A) == 5
    torch.testing.assert_close(A.mean(0), rows.mean(0), atol=1e-6, rtol=1e-4)
    drawn = np.random.default_rng(seed).permutation(15).reshape(5, 3)
    expected = torch.stack([rows[torch.from_numpy(some)].mean(0) for some in drawn])
    torch.testing.assert_close(A, expected, atol=1e-6, rtol=1e-4)
    few, _ = network.gradients(9, np.random.default_rng(seed), per_row=100)
    torch.testing.assert_close(few[0], rows.mean(0), atol=1e-6, rtol=1e-4)


def test_weights_come_back_to_the_bit_when_something_raises():
    model, _, _, network = flat()
    model.half()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def fail():
        with network.restoring():
            network.write(network.weights() * 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_a_flat_network_refuses():
    model, layers, batches, network = flat()
    with pytest.raises(ValueError, match="layers must hold"):
        FlatNetwork(model, [], batches)
    with pytest.raises(ValueError, match="at least one sample"):
        FlatNetwork(model, layers, [torch.zeros(0, 6)])
    with pytest.raises(ValueError, match="w must have shape"):
        network.write(torch.zeros(3))
    with pytest.raises(ValueError, match="n_rows"):
        network.gradients(0, np.random.default_rng(0))
