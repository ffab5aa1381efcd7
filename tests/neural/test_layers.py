"""Layers seen as matrices."""

import pytest
import torch
from torch import nn

from vitalfew.neural import prunable_layers
from vitalfew.neural.layers import Layer

torch.manual_seed(0)


def only_layer(module: nn.Module) -> Layer:
    layers, _ = prunable_layers(nn.Sequential(module))
    assert len(layers) == 1
    return layers[0]


CONVOLUTIONS = {
    "stride, padding, dilation": nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
    "same, reflected": nn.Conv2d(
        4, 6, (3, 1), padding="same", padding_mode="reflect", bias=False
    ),
    "circular": nn.Conv2d(2, 5, 3, padding=(1, 2), padding_mode="circular"),
    "one dimension": nn.Conv1d(3, 5, 4, padding=2),
    "three dimensions": nn.Conv3d(2, 3, 2, stride=(1, 2, 1)),
    "1x1": nn.Conv2d(3, 7, 1),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.parametrize("batched", [True, False])
def test_tokens_times_the_matrix_are_the_convolution(conv, batched):
    layer = only_layer(conv)
    x = torch.randn(2, conv.in_channels, *[9] * len(conv.kernel_size))
    x = x if batched else x[0]
    with torch.no_grad():
        y = conv(x) if batched else conv(x)[None]
        product = layer.tokens(x) @ layer.weight.T
        if conv.bias is not None:
            product = product + conv.bias
    expected = y.movedim(1, -1).reshape(-1, conv.out_channels)
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


def test_tokens_times_the_matrix_are_the_linear_layer():
    linear = nn.Linear(5, 3, bias=False)
    layer = only_layer(linear)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(
        layer.tokens(x) @ layer.weight.T, linear(x).detach().reshape(-1, 3)
    )


def test_groups_multiply_their_own_columns():
    conv = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    layer = only_layer(conv)
    x = torch.randn(2, 4, 5, 5)
    tokens = layer.tokens(x)  # (tokens, 2 * 18)
    with torch.no_grad():
        y = conv(x).movedim(1, -1).reshape(-1, 6)
    assert layer.shape == (6, 18)
    for group in range(2):
        part = tokens[:, 18 * group : 18 * (group + 1)]
        rows = slice(3 * group, 3 * group + 3)
        torch.testing.assert_close(
            part @ layer.weight[rows].T, y[:, rows], rtol=1e-5, atol=1e-5
        )
    values = torch.arange(36.0)
    spread = layer.per_weight(values)
    assert torch.equal(spread[:3], values[:18].expand(3, 18))
    assert torch.equal(spread[3:], values[18:].expand(3, 18))


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 3),
        nn.Conv2d(4, 6, (3, 2), groups=2),
        nn.ConvTranspose2d(4, 6, (3, 2)),
        nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
        nn.ConvTranspose1d(3, 2, 2),
    ],
    ids=repr,
)
def test_there_and_back(module):
    layer = only_layer(module)
    before = module.weight.detach().clone()
    parameter = module.weight
    assert torch.equal(layer.as_weight(layer.as_matrix(before)), before)
    layer.write(2 * layer.weight)
    assert module.weight is parameter
    assert torch.equal(module.weight, 2 * before)


def test_rows_of_a_transposed_convolution_are_its_outputs():
    module = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)
    layer = only_layer(module)
    matrix = layer.weight.clone()
    matrix[3] = 0
    layer.write(matrix)
    y = module(torch.randn(1, 4, 3, 3))
    used = (y != 0).any(dim=3).any(dim=2)[0]
    assert used.tolist() == [True, True, True, False, True, True]


def test_gpt2_stores_its_layers_transposed():
    from transformers.pytorch_utils import Conv1D

    module = Conv1D(3, 5)
    layer = only_layer(module)
    assert layer.shape == (3, 5)
    x = torch.randn(7, 5)
    torch.testing.assert_close(
        layer.tokens(x) @ layer.weight.T + module.bias, module(x)
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_a_shared_weight_is_one_layer():
    model = Tied()
    layers, left = prunable_layers(model)
    assert [layer.name for layer in layers] == ["first"]
    assert layers[0].sharing == (model.second,)
    assert "embedding" in left["head"]
    assert left["embed"] == "an embedding"


def test_an_embedding_tied_layer_is_pruned_when_named():
    layers, _ = prunable_layers(Tied(), include="head")
    assert [layer.name for layer in layers] == ["head"]


def test_patterns_choose_full_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    names = [layer.name for layer in prunable_layers(model, include="1.*")[0]]
    assert names == ["1.0"]
    layers, left = prunable_layers(model, exclude=["0"])
    assert [layer.name for layer in layers] == ["1.0"]
    assert left == {"0": "excluded"}
    with pytest.raises(ValueError, match="no module matches 'layer"):
        prunable_layers(model, include="layer*")


def test_what_is_left_dense_is_named():
    from torch.nn.utils import parametrizations, prune

    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(3, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "normed": parametrizations.weight_norm(nn.Linear(3, 3)),
            "hooked": prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5),
            "lazy": nn.LazyLinear(3),
            "norm": nn.LayerNorm(4),
        }
    )
    layers, left = prunable_layers(model)
    assert [layer.name for layer in layers] == ["attention.out_proj"]
    assert "not supported" in left["lstm"]
    assert "not supported" in left["attention"]
    assert "parametrized" in left["normed"]
    assert "hook" in left["hooked"]
    assert "not initialised" in left["lazy"]
    assert "norm" not in left
