"""Statistics of layers behind layers that have changed."""

import pytest
import torch
from torch import nn

from vitalfew.neural import Statistics, collect, prunable_layers
from vitalfew.neural.propagation import propagate


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, scale, *, shift=None):
        h = x + torch.tanh(self.q(x) * self.k(x)) * scale + shift
        return (h + self.down(torch.relu(self.up(self.norm(h)))), None)


class Transformer(nn.Module):
    """A chain of blocks with more arguments than their first."""

    def __init__(self, width: int = 6, n_blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(n_blocks))
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        h, shift = self.first(x), x.mean()
        for block in self.blocks:
            h = block(h, 0.5, shift=shift)[0]
        return self.last(h)


class Tangled(Transformer):
    """Blocks that see more than the one before."""

    def forward(self, x):
        h = first = self.first(x)
        for block in self.blocks:
            h = block(h + first, 0.5, shift=0.0)[0]
        return self.last(h)


class Recurrent(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.cell(torch.tanh(self.cell(x)))))


class Convolutional(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 2, 2),
            nn.Flatten(),
            nn.Linear(2 * 4, 3),
        )


MODELS = {
    "chain": (Transformer, (5, 3, 4)),
    "no chain": (Tangled, (5, 3, 4)),
    "one layer twice": (Recurrent, (5, 4)),
    "convolutions": (Convolutional, (5, 4, 5, 5)),
}


@pytest.fixture(params=MODELS, ids=str)
def case(request):
    torch.manual_seed(1)
    make, shape = MODELS[request.param]
    model = make()
    return model, [torch.randn(shape) for _ in range(3)]


def change(layer) -> None:
    layer.write(layer.weight * 0.7 + 0.1)


def test_inputs_are_those_behind_the_changed_layers(case):
    model, batches = case
    layers, _ = prunable_layers(model)
    seen: list[str] = []
    for group, statistics in propagate(model, layers, batches, {"hessian"}):
        direct = collect(model, group, batches, {"hessian"})
        for layer in group:
            expected = direct[layer.name]
            assert statistics.n_tokens == expected.n_tokens
            torch.testing.assert_close(
                statistics.hessian, expected.hessian, rtol=1e-5, atol=1e-6
            )
            change(layer)
            seen.append(layer.name)
    assert sorted(seen) == sorted(layer.name for layer in layers)


def test_layers_of_one_input_come_together(case):
    model, batches = case
    layers, _ = prunable_layers(model)
    groups = [
        {layer.name for layer in group}
        for group, _ in propagate(model, layers, batches, {"hessian"})
    ]
    if isinstance(model, Transformer):
        assert {"blocks.0.q", "blocks.0.k"} in groups
    assert sum(len(group) for group in groups) == len(layers)


def test_a_chain_runs_its_blocks_alone():
    torch.manual_seed(0)
    model, batches = Transformer(n_blocks=4), [torch.randn(2, 3, 4)] * 5
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    model.blocks[0].register_forward_pre_hook(count)
    layers, _ = prunable_layers(model)
    list(propagate(model, layers, batches, {"hessian"}))
    # the order, the chain, the capture; three inputs and one hand-over; the last layer
    assert calls == 1 + 1 + 5 + (3 + 1) * 5 + 5


def test_nothing_is_left_behind(case):
    model, batches = case
    model.train()
    model[1].eval() if isinstance(model, nn.Sequential) else None
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers, _ = prunable_layers(model)
    list(propagate(model, layers, batches, {"hessian", "inputs"}))
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_layers_that_are_not_reached_are_not_yielded():
    model = Transformer()
    model.spare = nn.Linear(3, 3)
    layers, _ = prunable_layers(model)
    groups = list(propagate(model, layers, [torch.randn(2, 3, 4)], {"hessian"}))
    names = {layer.name for group, _ in groups for layer in group}
    assert "spare" not in names
    assert len(names) == len(layers) - 1


def test_padding_does_not_count():
    model = nn.Linear(3, 2)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, x, attention_mask):
            return self.layer(x)

    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    batch = {"x": x, "attention_mask": mask}
    named = Named()
    layers, _ = prunable_layers(named)
    kept = x[mask != 0]
    for found in (
        collect(named, layers, [batch], {"hessian"})["layer"],
        next(propagate(named, layers, [batch], {"hessian"}))[1],
    ):
        assert isinstance(found, Statistics)
        assert found.n_tokens == 6
        torch.testing.assert_close(found.hessian, kept.T @ kept / 6)


def test_layers_may_be_called_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(input=x)

    model, x = Named(), torch.randn(4, 3)
    layers, _ = prunable_layers(model)
    found = next(propagate(model, layers, [x], {"hessian"}))[1]
    torch.testing.assert_close(found.hessian, x.T @ x / 4)


@pytest.mark.parametrize("sizes", [[3, 50, 1], [4000] * 5, [9000, 10]])
def test_inputs_that_are_held_are_spread_evenly(sizes):
    model = nn.Linear(1, 1)
    layers, _ = prunable_layers(nn.Sequential(model))
    rows = torch.arange(float(sum(sizes)))[:, None]
    batches = list(rows.split(sizes))
    found = collect(nn.Sequential(model), layers, batches, {"inputs"})["0"]
    held = found.inputs[:, 0]
    assert found.n_tokens == len(rows)
    assert len(held) <= 4096
    assert len(held) >= min(len(rows), 2048)
    steps = held.diff()
    assert float(held[0]) == 0
    assert float(steps.min()) == float(steps.max())
