import copy
import itertools
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from vitalfew.exceptions import MissingDependencyError  # noqa: E402
from vitalfew.pruning import compact, load, save  # noqa: E402


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model weights, biases and norms that are far from trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            else:
                tensor.copy_(noise * max(tensor[0].numel(), 1) ** -0.5)
    return model.eval()


def outputs(model, inputs):
    with torch.no_grad():
        made = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(made, "logits", made)


def compact_and_compare(model, inputs, **options):
    """Compact, and demand the outputs of before by a run of its own in float64."""
    double = copy.deepcopy(model).double().eval()
    wide = inputs
    if not isinstance(inputs, dict):
        wide = inputs.double() if inputs.is_floating_point() else inputs
    before = outputs(double, wide)
    report = compact(model, inputs, **options)
    after = outputs(copy.deepcopy(model).double().eval(), wide)
    assert float((before - after).abs().max()) <= 1e-6 * float(before.abs().max())
    for module in model.modules():
        check_shapes(module)
    return report


def check_shapes(module):
    """Attributes say what the tensors are."""
    if isinstance(module, nn.Linear):
        assert module.weight.shape == (module.out_features, module.in_features)
    elif isinstance(module, nn.Conv2d):
        assert module.weight.shape[0] == module.out_channels
        assert module.weight.shape[1] == module.in_channels // module.groups
    elif isinstance(module, nn.BatchNorm2d):
        assert module.running_mean.shape == (module.num_features,)
    bias = getattr(module, "bias", None)
    if bias is not None and isinstance(module, nn.Linear | nn.Conv2d):
        assert bias.shape == module.weight.shape[:1]


def clear(layer, rows=(), columns=(), bias=True):
    with torch.no_grad():
        layer.weight[list(rows)] = 0
        layer.weight[:, list(columns)] = 0
        if bias and layer.bias is not None:
            layer.bias[list(rows)] = 0


def mlp(*widths):
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return randomise(nn.Sequential(*layers[:-1]))


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(9))
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(8))


# fully connected


def test_rows_columns_and_what_dies_by_them_go():
    model = mlp(6, 10, 8, 3)
    clear(model[0], rows=[1, 2])
    clear(model[4], columns=[5, 6])  # so outputs 5 and 6 of layer 2 are not needed,
    with torch.no_grad():  # nor is output 7 of layer 0, which only they use
        model[2].weight[[0, 1, 2, 3, 4, 7], 7] = 0
    report = compact_and_compare(model, X)
    assert model[0].weight.shape == (7, 6)
    assert model[2].weight.shape == (6, 7)
    assert model[4].weight.shape == (3, 6)
    assert report.parameters_after == sum(p.numel() for p in model.parameters())
    assert report.parameters_before == 6 * 10 + 10 + 10 * 8 + 8 + 8 * 3 + 3
    assert report.macs_before == 5 * (60 + 80 + 24)
    assert report.macs_after == 5 * (42 + 42 + 18)
    assert report.left == {}


def test_a_constant_goes_into_the_bias_of_a_linear_layer():
    model = mlp(6, 10, 3)
    clear(model[0], rows=[1, 4, 8], bias=False)
    with torch.no_grad():
        model[0].bias[[1, 4, 8]] = torch.tensor([2.0, -1.0, 0.7])
    was = model[2].bias.detach().clone()
    more = 2.0 * model[2].weight[:, 1] + 0.7 * model[2].weight[:, 8]  # after the ReLU
    compact_and_compare(model, X)
    assert model[0].out_features == 7
    torch.testing.assert_close(model[2].bias, (was + more).detach())


def test_a_constant_stays_where_no_bias_can_take_it():
    model = mlp(6, 10, 3)
    clear(model[0], rows=[1], bias=False)
    model[0].bias.data[1] = 2.0
    model[2].bias = None
    report = compact_and_compare(model, X)
    assert model[0].out_features == 10
    assert "no bias" in report.left["0"]


@pytest.mark.parametrize(
    ("function", "goes"),
    [
        (torch.sigmoid, True),  # a constant, which the next bias takes
        (lambda x: x + 1, False),  # what is added is not seen, it might be anything
        (lambda x: 1 - x, False),
        (lambda x: x * 3, True),
        (lambda x: x.clamp(0.5, 1), True),
        (lambda x: F.gelu(x, approximate="tanh"), True),
        (lambda x: 0.5 * x * (1 + torch.tanh(x + 0.04 * x**3)), True),
        (lambda x: F.softmax(x, dim=-1), False),
        (lambda x: x / x.norm(dim=-1, keepdim=True), False),
        (lambda x: x.cumsum(-1), False),
        (lambda x: x.flip(-1), False),
        (lambda x: x.roll(1, -1), False),
    ],
)
def test_activations(function, goes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 4)

        def forward(self, x):
            return self.b(function(self.a(x)))

    model = randomise(Net())
    clear(model.a, rows=[2, 3])
    compact_and_compare(model, X)
    assert model.a.out_features == (7 if goes else 9)


def test_a_dead_relu_on_the_examples_is_not_a_dead_channel():
    model = mlp(6, 10, 3)
    model[0].bias.data[4] = -1000.0
    compact_and_compare(model, X)
    assert model[0].out_features == 10


def test_one_channel_stays_and_inputs_and_outputs_do():
    model = mlp(6, 5, 3)
    clear(model[0], rows=range(5), columns=range(6))
    clear(model[2], rows=[0, 1])
    report = compact_and_compare(model, X)
    assert model[0].weight.shape == (1, 6)
    assert model[2].weight.shape == (3, 1)
    assert "outputs" in report.left["2"]


@pytest.mark.parametrize("p", [1, 2])
def test_single_neurons(p):
    model = mlp(6, p, p, 3)
    clear(model[2], rows=range(p))
    compact_and_compare(model, X)
    assert model[0].out_features == model[2].out_features == 1


def test_a_dead_gate_kills_and_a_live_factor_does_not_save():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up = nn.Linear(6, 9, bias=False), nn.Linear(6, 9)
            self.down = nn.Linear(9, 4)

        def forward(self, x):
            return self.down(F.silu(self.gate(x)) * self.up(x))

    model = randomise(Gated())
    clear(model.gate, rows=[1, 2])
    clear(model.up, rows=[2, 3], bias=False)  # 3 is a constant times what varies
    clear(model.down, columns=[8])
    compact_and_compare(model, X)
    assert model.gate.out_features == model.up.out_features == 6


# convolutions


def vgg(padding=1, bias=True):
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 10, 3, padding=padding, bias=bias),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(10 * (16 if padding else 9), 4),
        )
    )


def test_channels_behind_batch_norms():
    model = vgg()
    for conv, norm, rows in ((model[0], model[1], [1, 5]), (model[3], model[4], [0])):
        clear(conv, rows=rows)
        with torch.no_grad():
            norm.weight[rows] = 0
            norm.bias[rows] = 0
    compact_and_compare(model, IMAGES)
    assert model[0].weight.shape == (6, 3, 3, 3)
    assert model[3].weight.shape == (9, 6, 3, 3)
    assert model[8].weight.shape == (4, 9 * 16)


def test_a_norm_that_multiplies_by_zero_is_enough():
    model = vgg()
    with torch.no_grad():
        model[1].weight[[2, 3]] = 0
        model[1].bias[[2, 3]] = torch.tensor([-0.5, 0.0])  # both zero after the ReLU
    compact_and_compare(model, IMAGES)
    assert model[0].out_channels == 6


def test_the_constant_of_a_norm_is_folded_only_without_padding():
    for padding, channels in ((1, 8), (0, 6)):
        model = vgg(padding)
        clear(model[0], rows=[1, 5])
        with torch.no_grad():
            model[1].bias[[1, 5]] = 3.0  # sure to pass the ReLU
        report = compact_and_compare(model, IMAGES)
        assert model[0].out_channels == channels
        assert ("pads with zeros" in report.left.get("0", "")) == bool(padding)
    model = vgg(1)
    model[3].padding_mode = "reflect"
    clear(model[0], rows=[1, 5])
    model[1].bias.data[[1, 5]] = 3.0
    compact_and_compare(model, IMAGES)
    assert model[0].out_channels == 6


def test_constants_before_a_flattening_are_folded_column_by_column():
    model = vgg()
    clear(model[3], rows=[4])
    model[4].bias.data[4] = 3.0
    compact_and_compare(model, IMAGES)
    assert model[8].in_features == 9 * 16


class Block(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(n_in, 6, 3, 1, 1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, n_out, 3, 1, 1), nn.BatchNorm2d(n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.skip(x)
        return F.relu(y)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 12), Block(12, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.blocks(F.relu(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def silence(conv, norm, rows):
    clear(conv, rows=rows)
    with torch.no_grad():
        norm.weight[rows] = 0
        norm.bias[rows] = 0


def test_residual_sums_need_all_producers_or_all_consumers():
    model = randomise(ResNet())
    silence(model.blocks[0].conv1, model.blocks[0].norm1, [0, 1])
    # channel 3 of the first stage is dead in both its producers, channel 4 in one
    clear(model.stem, rows=[3, 4])
    silence(model.blocks[0].conv2, model.blocks[0].norm2, [3])
    # channel 7 of the second stage has no consumer, channel 8 still has the head
    clear(model.blocks[2].conv1, columns=[7, 8])
    clear(model.head, columns=[7])
    report = compact_and_compare(model, IMAGES)
    assert model.blocks[0].conv1.out_channels == 4
    assert model.stem.out_channels == model.blocks[0].conv2.out_channels == 7
    assert model.blocks[1].skip.weight.shape[:2] == (11, 7)
    assert model.head.in_features == model.blocks[2].conv2.out_channels == 11
    assert report.macs_after < report.macs_before


def test_depthwise_convolutions_go_along_and_grouped_ones_stay():
    def net(groups):
        return randomise(
            nn.Sequential(
                nn.Conv2d(3, 8, 1),
                nn.ReLU6(),
                nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU6(),
                nn.Conv2d(8, 5, 1),
            )
        )

    model = net(8)
    clear(model[0], rows=[0, 1])
    model[3].bias.data[:2] = torch.tensor([-1.0, 1.0])  # constants, folded in layer 5
    model[2].weight.data[2] = 0
    model[3].bias.data[2] = 0.5
    clear(model[5], columns=[7])
    compact_and_compare(model, IMAGES)
    assert model[2].groups == model[2].in_channels == model[0].out_channels == 4
    model = net(4)
    clear(model[0], rows=[0, 1])
    report = compact_and_compare(model, IMAGES)
    assert model[0].out_channels == 8
    assert "grouped" in report.left["0"]


def test_depthwise_down_to_one_channel():
    model = randomise(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)
        )
    )
    clear(model[2], columns=[0, 1, 3])
    compact_and_compare(model, IMAGES)
    assert model[1].weight.shape == (1, 1, 3, 3)
    clear(model[2], columns=[0])
    compact_and_compare(model, IMAGES)
    assert model[1].groups == 1


class Dense(nn.Module):
    def __init__(self, with_input):
        super().__init__()
        self.with_input = with_input
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        n = 4 + 5 + (3 if with_input else 0)
        self.norm, self.c = nn.BatchNorm2d(n), nn.Conv2d(n, 6, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        parts = [x, a, b] if self.with_input else [a, b]
        return self.head(F.relu(self.c(F.relu(self.norm(torch.cat(parts, 1))))))


@pytest.mark.parametrize("with_input", [False, True])
def test_concatenations(with_input):
    model = randomise(Dense(with_input))
    first = 3 if with_input else 0
    clear(model.a, rows=[1])
    clear(model.b, rows=[0, 2])
    with torch.no_grad():
        model.norm.weight[[first + 1, first + 4, first + 6]] = 0
        model.norm.bias[[first + 1, first + 4, first + 6]] = 0
    clear(model.c, columns=[first + 2])  # of a, whose other consumer wants it
    clear(model.c, columns=[first + 8])  # of b, which has none
    compact_and_compare(model, IMAGES)
    assert model.a.out_channels == 3
    assert model.b.out_channels == 2
    assert model.norm.num_features == model.c.in_channels == first + 5


def test_squeeze_and_excitation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.squeeze, self.excite = nn.Linear(8, 5), nn.Linear(5, 8)

        def forward(self, x):
            x = F.relu(self.a(x))
            s = F.relu(self.squeeze(x.mean((2, 3))))
            return self.b(x * torch.sigmoid(self.excite(s))[:, :, None, None])

    model = randomise(Net())
    clear(model.a, rows=[0, 1])
    clear(model.squeeze, rows=[4], columns=[2])
    clear(model.b, columns=[3])
    compact_and_compare(model, IMAGES)
    assert model.a.out_channels == model.excite.out_features == 6
    assert model.squeeze.weight.shape == (4, 6)


def test_downsampling_and_skipping():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
            self.up = nn.ConvTranspose2d(8, 5, 2, 2)
            self.c = nn.Conv2d(5 + 6, 2, 3, padding=1)

        def forward(self, x):
            a = F.leaky_relu(self.a(x))
            up = self.up(F.relu(self.b(a)))
            return self.c(torch.cat([F.interpolate(up, a.shape[2:]), a], dim=1))

    model = randomise(UNet())
    clear(model.a, rows=[0])
    clear(model.b, rows=[1], columns=[5])
    clear(model.c, columns=[2, 5 + 4, 5 + 5])
    with torch.no_grad():
        model.up.weight[:, 3] = 0
        model.up.bias[3] = 0
    compact_and_compare(model, IMAGES)
    assert model.a.out_channels == 4
    assert model.up.weight.shape == (7, 3, 2, 2)
    assert model.c.in_channels == 3 + 4


def test_group_norms_lose_whole_groups():
    model = randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)
        )
    )
    clear(model[3], columns=[0, 1, 2, 6, 7])
    report = compact_and_compare(model, IMAGES)
    assert (model[1].num_groups, model[1].num_channels) == (2, 4)
    assert "group norm" in report.left["0"]


def test_layer_norms_keep_their_channels():
    model = randomise(
        nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    )
    clear(model[0], rows=[1])
    clear(model[3], columns=[1])
    report = compact_and_compare(model, X)
    assert model[0].out_features == 8
    assert "layer norm" in report.left["0"]


@pytest.mark.parametrize(
    "middle",
    [
        nn.PReLU(),
        nn.PReLU(8),
        nn.AvgPool2d(3, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.Hardswish(),
        nn.InstanceNorm2d(8),
        nn.ChannelShuffle(2),
        nn.Softmax2d(),
        nn.PixelShuffle(2),
        nn.LocalResponseNorm(3),
        nn.Dropout(0.5),
        nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.ZeroPad2d(1),
        nn.Unflatten(1, (2, 4)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_whatever_stands_between_the_outputs_stay(middle):
    last = nn.Conv2d(2 if isinstance(middle, nn.PixelShuffle) else 8, 4, 1)
    layers = [nn.Conv2d(3, 8, 3), copy.deepcopy(middle), last]
    if isinstance(middle, nn.Unflatten):
        layers[2] = nn.Conv3d(2, 4, 1)
    model = randomise(nn.Sequential(*layers))
    clear(model[0], rows=[0, 5])
    clear(model[2], columns=[1])
    compact_and_compare(model, IMAGES)
    followed = nn.PReLU | nn.AvgPool2d | nn.Upsample | nn.Hardswish | nn.Dropout
    followed |= nn.AdaptiveAvgPool2d
    if isinstance(middle, followed):
        assert model[0].out_channels == 5
    elif not isinstance(middle, nn.ConvTranspose2d | nn.ZeroPad2d):
        assert model[0].out_channels == 8


# random masks


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(6, 9, 7, 8, 3),
        vgg,
        lambda: vgg(0),
        lambda: randomise(ResNet()),
        lambda: randomise(Dense(True)),
    ],
    ids=["mlp", "vgg", "vgg-unpadded", "resnet", "dense"],
)
def test_random_masks(make, seed):
    model = make()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                rows = rng.random(module.weight.shape[0]) < 0.4
                columns = rng.random(module.weight.shape[1]) < 0.3
                clear(
                    module,
                    np.flatnonzero(rows),
                    np.flatnonzero(columns),
                    bias=rng.random() < 0.5,
                )
            elif isinstance(module, nn.BatchNorm2d):
                gone = np.flatnonzero(rng.random(module.num_features) < 0.4)
                module.weight[gone] = 0
                module.bias[gone[: rng.integers(len(gone) + 1)]] = 0
    inputs = (
        X
        if isinstance(model[0] if hasattr(model, "0") else None, nn.Linear)
        else IMAGES
    )
    report = compact_and_compare(model, inputs)
    assert report.parameters_after < report.parameters_before
    shapes = [p.shape for p in model.parameters()]
    compact_and_compare(model, inputs)  # nothing is left to do
    assert [p.shape for p in model.parameters()] == shapes


# attention


IDS = {
    "input_ids": torch.randint(
        0, 50, (2, 7), generator=torch.Generator().manual_seed(1)
    ),
    "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
}
SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}


def bert(attention="sdpa"):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        **SMALL,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=16,
        attn_implementation=attention,
    )
    return randomise(transformers.BertForSequenceClassification(config))


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return randomise(transformers.GPT2LMHeadModel(config))


def llama(bias=False):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        **SMALL,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=40,
        attention_bias=bias,
        head_dim=4,
    )
    return randomise(transformers.LlamaForCausalLM(config))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert(attention):
    model = bert(attention)
    first, second = model.bert.encoder.layer
    clear(first.attention.output.dense, columns=range(8, 16))
    clear(second.attention.self.value, rows=range(8))
    clear(first.intermediate.dense, rows=[1, 2])
    clear(second.output.dense, columns=[3])
    report = compact_and_compare(model, IDS)
    assert report.heads == {
        "bert.encoder.layer.0.attention.self": (4, 3),
        "bert.encoder.layer.1.attention.self": (4, 3),
    }
    assert first.attention.self.num_attention_heads == 3
    assert first.attention.self.all_head_size == 24
    assert first.attention.self.query.weight.shape == (24, 32)
    assert second.attention.output.dense.weight.shape == (32, 24)
    assert first.intermediate.dense.out_features == 38
    assert second.output.dense.in_features == 39


def test_gpt2():
    model = gpt2()
    first, second = model.transformer.h
    with torch.no_grad():
        first.attn.c_proj.weight[8:16] = 0
        second.attn.c_attn.weight[:, 64 + 24 :] = 0  # values of the last head
        second.attn.c_attn.bias[64 + 24 :] = 0
        first.mlp.c_fc.weight[:, 5:9] = 0
        first.mlp.c_fc.bias[5:9] = torch.tensor([0.0, 0.0, 1.0, 2.0])
        second.mlp.c_proj.weight[7:9] = 0
    ids = IDS["input_ids"]
    before = model.generate(ids[:1], max_new_tokens=5, do_sample=False)
    compact_and_compare(model, IDS)
    assert (first.attn.num_heads, first.attn.split_size) == (3, 24)
    assert first.attn.c_attn.weight.shape == (32, 72)
    assert second.attn.c_attn.nf == 72
    # constants stay: GPT-2's activation adds numbers, of which the graph shows none
    assert first.mlp.c_fc.nf in (124, 126)
    assert second.mlp.c_proj.nx == 126
    after = model.generate(ids[:1], max_new_tokens=5, do_sample=False)
    assert torch.equal(before, after)


def test_llama_loses_key_value_heads_with_all_their_queries():
    model = llama()
    first, second = (layer.self_attn for layer in model.model.layers)
    clear(first.o_proj, columns=[*range(8, 16), *range(16, 20)])  # group 1, half of 2
    clear(second.v_proj, rows=range(12, 16))
    mlp = model.model.layers[0].mlp
    clear(mlp.gate_proj, rows=[1])
    clear(mlp.up_proj, rows=[2])
    clear(mlp.down_proj, columns=[3])
    report = compact_and_compare(model, IDS)
    assert first.k_proj.out_features == first.v_proj.out_features == 12
    assert first.q_proj.out_features == first.o_proj.in_features == 24
    assert second.k_proj.out_features == 12
    assert "alike" in report.left["model.layers.0.self_attn"]
    assert mlp.up_proj.out_features == mlp.down_proj.in_features == 37


def test_a_constant_value_is_no_dead_head():
    model = llama(bias=True)
    attention = model.model.layers[0].self_attn
    clear(attention.v_proj, rows=range(4), bias=False)
    compact_and_compare(model, IDS)
    assert attention.v_proj.out_features == 16


def test_one_head_stays_and_excluded_ones_do():
    model = bert()
    first, second = (layer.attention for layer in model.bert.encoder.layer)
    clear(first.output.dense, columns=range(32))
    clear(second.output.dense, columns=range(8))
    report = compact_and_compare(model, IDS, exclude="*layer.1.attention.self")
    assert first.self.num_attention_heads == 1
    assert second.self.num_attention_heads == 4
    assert "excluded" in report.left["bert.encoder.layer.1.attention.self"]


def test_attention_that_cannot_change_its_heads_keeps_them():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head_dim, self.num_heads = 2, 4
            self.q_proj, self.k_proj = nn.Linear(8, 8), nn.Linear(8, 8)
            self.v_proj, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            split = [
                layer(x).view(*x.shape[:2], 4, 2).transpose(1, 2)
                for layer in (self.q_proj, self.k_proj, self.v_proj)
            ]
            y = F.scaled_dot_product_attention(*split).transpose(1, 2)
            return self.out_proj(y.flatten(2))

    torch.manual_seed(0)
    model = randomise(nn.Sequential(nn.Linear(3, 8), Fixed(), nn.Linear(8, 2)))
    clear(model[1].out_proj, columns=[0, 1])
    report = compact_and_compare(model, torch.randn(2, 5, 3))
    assert model[1].v_proj.out_features == 8
    assert "another number of heads" in report.left["1"]
    assert report.heads == {}


def test_multihead_attention_is_named_and_left():
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
    model = randomise(nn.Sequential(layer, nn.Linear(8, 2)))
    clear(layer.self_attn.out_proj, columns=[0, 1])
    clear(layer.linear1, rows=[0, 4])
    x = torch.randn(2, 5, 8)
    report = compact_and_compare(model, x)
    assert "MultiheadAttention" in report.left["0.self_attn"]
    assert layer.self_attn.out_proj.weight.shape == (8, 8)
    assert layer.linear1.out_features == 10


# what stays as it was


def state(model):
    return {
        name: (t.clone(), id(t))
        for name, t in [*model.named_parameters(), *model.named_buffers()]
    }


def unchanged(model, before):
    now = state(model)
    return now.keys() == before.keys() and all(
        torch.equal(now[name][0], t) and now[name][1] == number
        for name, (t, number) in before.items()
    )


class Detached(nn.Module):
    """Hides a consumer from the graph."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.d = nn.Linear(4, 9)
        self.e = nn.Linear(9, 2)

    def forward(self, x):
        a = F.relu(self.a(x))
        return self.e(self.d(F.relu(self.b(a) + self.c(a.detach()))))


def test_a_failure_names_the_layer_and_changes_nothing():
    model = randomise(Detached())
    clear(model.b, columns=[2])  # not of c, which the graph does not show
    clear(model.d, rows=[1])
    model.train()
    model.b.requires_grad_(False)
    before, numbers = state(model), [vars(m).copy() for m in model.modules()]
    with pytest.raises(ValueError, match="layer 'a'"):
        compact(model, X)
    assert unchanged(model, before)
    for module, own in zip(model.modules(), numbers, strict=True):
        assert {k: v for k, v in vars(module).items() if isinstance(v, int)} == {
            k: v for k, v in own.items() if isinstance(v, int)
        }
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not hasattr(model, "_vitalfew_attributes")
    assert not model.b.weight.requires_grad
    compact_and_compare(model.eval(), X, exclude="a")
    assert model.d.out_features == 8


def test_modes_gradients_hooks_and_random_numbers_stay():
    model = mlp(6, 10, 8, 3)
    clear(model[0], rows=[1, 2])
    model.train()
    model[1].eval()
    model[2].weight.requires_grad_(False)
    seen = []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    parameters = list(model.parameters())
    model(X).sum().backward()
    gradient = model[0].weight.grad.clone()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    compact(model, X)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert [p is q for p, q in zip(parameters, model.parameters(), strict=True)]
    assert not model[2].weight.requires_grad
    assert model[0].weight.requires_grad
    assert len(model[0]._forward_hooks) == 1
    assert sum(len(m._forward_hooks) for m in model) == 1
    keep = [i for i in range(10) if i not in (1, 2)]
    assert torch.equal(model[0].weight.grad, gradient[keep])
    handle.remove()
    assert all(p.grad_fn is None for p in model.parameters())
    model.zero_grad()
    model(X).square().sum().backward()  # and it can still be trained
    assert model[0].weight.grad.shape == (8, 6)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types(dtype):
    model = mlp(6, 10, 8, 3).to(dtype)
    clear(model[0], rows=[1, 2])
    clear(model[2], rows=[0], bias=False)  # a constant that would round in half
    model[2].bias.data[0] = 1.5
    report = compact_and_compare(model, X.to(dtype))
    assert model[0].weight.dtype == dtype
    assert model[0].out_features == 8
    assert model[2].out_features == (7 if dtype == torch.float64 else 8)
    assert report.difference <= 1e-5
    assert model(X.to(dtype)).dtype == dtype


def test_huge_tiny_and_missing_numbers():
    model = mlp(6, 10, 3)
    clear(model[0], rows=[1])
    with torch.no_grad():
        model[0].weight[2] = 1e-40  # not zero
        model[2].weight[:, 2] = 1e30
        model[0].weight[3] = float("nan")
        model[2].weight[:, 3] = 0  # zero times NaN is NaN: not exact, so all is NaN
    before = outputs(model, X)
    assert before.isnan().all()
    try:
        compact(model, X)
    except ValueError:
        assert model[0].out_features == 10
    torch.testing.assert_close(outputs(model, X), before, equal_nan=True)


def test_shared_and_parametrized_weights_are_left():
    model = mlp(6, 6, 6, 3)
    model[2].weight = model[0].weight
    clear(model[0], rows=[1], columns=[2])
    report = compact_and_compare(model, X)
    assert model[0].out_features == 6
    assert "shares" in report.left["0"]
    model = mlp(6, 8, 3)
    clear(model[2], columns=[1])
    nn.utils.parametrizations.weight_norm(model[0])
    report = compact_and_compare(model, X)
    assert model[2].in_features == 8


def test_a_module_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 7)
            self.c = nn.Linear(7, 2)

        def forward(self, x):
            x = F.relu(self.a(x))
            return self.c(F.relu(self.b(F.relu(self.b(x)))))

    model = randomise(Twice())
    clear(model.a, rows=[0, 1])
    clear(model.b, rows=[1, 2])
    clear(model.b, columns=[1])
    compact_and_compare(model, X)
    assert model.b.in_features == model.b.out_features == 6
    assert model.c.in_features == model.a.out_features == 6


def test_bad_input():
    model = mlp(6, 8, 3)
    with pytest.raises(ValueError, match="no module"):
        compact(model, X, exclude="nothing*")
    with pytest.raises(RuntimeError):
        compact(model, torch.randn(2, 5))

    class NoGrad(nn.Sequential):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    before = state(model)
    with pytest.raises(ValueError, match="no_grad"):
        compact(NoGrad(*model), X)
    assert unchanged(model, before)


def test_without_torch_pruning(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingDependencyError, match=r"vitalfew\[compact\]"):
        compact(mlp(6, 8, 3), X)


# reports and files


def test_the_report():
    model = mlp(6, 10, 3)
    clear(model[0], rows=[1, 2])
    report = compact(model, X)
    record = report.to_record()
    assert record["layers"][0]["before"] == [10, 6]
    assert record["layers"][0]["after"] == [8, 6]
    assert record["parameters_after"] == 8 * 6 + 8 + 8 * 3 + 3
    assert "10 x 6 -> 8 x 6" in str(report)
    assert record["attributes"] == {
        "0": {"out_features": 8},
        "2": {"in_features": 8},
    }


def test_multiplications_of_convolutions():
    model = randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)
        )
    )
    clear(model[0], rows=[0])
    report = compact_and_compare(model, IMAGES)
    places = 2 * 3 * 3
    assert report.macs_before == places * (8 * 27 + 8 * 16)
    assert report.macs_after == places * (7 * 27 + 7 * 16)


@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_saved_and_loaded_transformers(make, tmp_path):
    model = make()
    killed = (
        "intermediate.dense.weight",
        "intermediate.dense.bias",
        "gate_proj.weight",
        "mlp.c_proj.weight",
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("attention.output.dense.weight", "o_proj.weight")):
                p[:, :8] = 0
            elif name.endswith("attn.c_proj.weight"):
                p[:8] = 0
            elif name.endswith(killed):
                p[:6] = 0
    report = compact_and_compare(model, IDS)
    assert len(report.heads) == 2
    save(model, tmp_path / "model")
    again = load(tmp_path / "model").eval()
    assert torch.equal(outputs(again, IDS), outputs(model, IDS))
    assert again._vitalfew_attributes == model._vitalfew_attributes


@pytest.mark.parametrize(
    "make", [vgg, lambda: randomise(ResNet()), lambda: randomise(Dense(True))]
)
def test_saved_and_loaded_convolutions(make, tmp_path):
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            clear(module, rows=[0])
        elif isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[0] = module.bias[0] = 0
    report = compact_and_compare(model, IMAGES)
    assert report.parameters_after < report.parameters_before
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", make).eval()
    assert torch.equal(outputs(again, IMAGES), outputs(model, IMAGES))
