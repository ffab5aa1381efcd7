"""Statistics of layers against inputs and outputs taken by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitalfew.neural import Statistics, collect, prunable_layers

ALL = ("hessian", "input_square", "output_square", "inputs")
SIZES = (4, 3)


def batches_of(*shape, seed=0, dtype=torch.float32):
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=drawn).to(dtype) for n in SIZES]


def collected(model, batches, needs=ALL, **options):
    layers, _ = prunable_layers(model)
    return layers, collect(model, layers, batches, needs, **options)


def assert_describes(known, X, Y=None):
    """Check the statistics of one layer against its inputs (n, n_in) and outputs."""
    assert known.n_tokens == len(X)
    torch.testing.assert_close(known.hessian, X.T @ X / len(X))
    torch.testing.assert_close(
        known.input_square, X.square().mean(dim=0).expand_as(known.input_square)
    )
    torch.testing.assert_close(known.inputs, X)
    if Y is not None:
        torch.testing.assert_close(known.output_square, Y.square().mean(dim=0))


# -- linear layers ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 3, 5)])
def test_linear(shape, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    data = batches_of(*shape, seed=seed)
    _, known = collected(model, data)
    x = torch.cat(data).reshape(-1, 5)
    with torch.no_grad():
        hidden = torch.tanh(model[0](x))
        assert_describes(known["0"], x, model[0](x))
        assert_describes(known["2"], hidden, model[2](hidden))
    assert known["0"].input_square.shape == (4, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_sums_are_taken_in_float32_at_least(dtype):
    model = nn.Sequential(nn.Linear(5, 4, dtype=dtype))
    data = batches_of(7, 5, dtype=dtype)
    _, known = collected(model, data)
    wide = torch.promote_types(dtype, torch.float32)
    X = torch.cat(data).reshape(-1, 5).to(wide)
    assert known["0"].hessian.dtype == wide
    torch.testing.assert_close(known["0"].hessian, X.T @ X / len(X))


def test_only_what_is_asked_for():
    model = nn.Linear(5, 4)
    for asked in ALL:
        _, known = collected(model, batches_of(5), needs={asked})
        (only,) = known.values()
        assert [name for name in ALL if getattr(only, name) is not None] == [asked]
        for other in set(ALL) - {asked}:
            with pytest.raises(ValueError, match=other):
                only.get(other)


def test_hugging_face_conv1d():
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    model = nn.Sequential(pytorch_utils.Conv1D(4, 5))
    data = batches_of(6, 5)
    layers, known = collected(model, data)
    X = torch.cat(data).reshape(-1, 5)
    assert layers[0].shape == (4, 5)
    with torch.no_grad():
        assert_describes(known["0"], X, model(X))
        torch.testing.assert_close(X @ layers[0].weight.T + model[0].bias, model(X))


# -- convolutions ----------------------------------------------------------------------


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padding": {"kernel_size": (3, 2), "padding": (2, 1)},
    "same": {"kernel_size": (4, 3), "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "stride": {"kernel_size": 3, "stride": (2, 3), "padding": 1},
    "dilation": {"kernel_size": 3, "dilation": (2, 1), "stride": 2},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular"},
    "1x1": {"kernel_size": 1, "stride": 2},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("setting", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(setting):
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, bias=False, **setting)
    data = batches_of(3, 9, 8)
    layers, known = collected(nn.Sequential(conv), data)
    X = known["0"].inputs
    with torch.no_grad():
        Y = conv(torch.cat(data)).movedim(1, -1).reshape(-1, 4)
        # the matrix times the inputs is the convolution, so the inputs are right
        torch.testing.assert_close(X @ layers[0].weight.T, Y, rtol=1e-4, atol=1e-5)
    assert_describes(known["0"], X, Y)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("setting", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_sees_the_patches_that_unfold_gives(setting):
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, bias=False, **setting)
    data = batches_of(3, 9, 8)
    _, known = collected(nn.Sequential(conv), data)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = functional.pad(
        torch.cat(data), conv._reversed_padding_repeated_twice, mode=mode
    )
    patches = functional.unfold(
        padded, conv.kernel_size, dilation=conv.dilation, stride=conv.stride
    )
    assert torch.equal(
        known["0"].inputs,
        patches.movedim(1, -1).reshape(-1, 3 * conv.weight[0, 0].numel()),
    )


@pytest.mark.parametrize(
    ("kind", "places"), [(nn.Conv1d, (9,)), (nn.Conv3d, (4, 5, 3))]
)
def test_other_dimensions(kind, places):
    torch.manual_seed(2)
    conv = kind(2, 3, 2, stride=2, padding=1, bias=False)
    data = batches_of(2, *places)
    layers, known = collected(nn.Sequential(conv), data)
    with torch.no_grad():
        Y = conv(torch.cat(data)).movedim(1, -1).reshape(-1, 3)
        X = known["0"].inputs
        torch.testing.assert_close(X @ layers[0].weight.T, Y, rtol=1e-4, atol=1e-5)
    assert_describes(known["0"], X, Y)


def test_a_sample_without_a_batch():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    (x,) = batches_of(3, 6, 6)[:1]
    _, whole = collected(nn.Sequential(conv), [x])
    _, single = collected(nn.Sequential(conv), list(x))
    for name in ("hessian", "input_square", "output_square"):
        one, all_ = getattr(single["0"], name), getattr(whole["0"], name)
        torch.testing.assert_close(one, all_)


@pytest.mark.parametrize(("n_in", "n_out", "groups"), [(6, 4, 2), (4, 8, 4), (5, 5, 5)])
def test_grouped_convolutions_have_inputs_of_their_own(n_in, n_out, groups):
    torch.manual_seed(3)
    conv = nn.Conv2d(n_in, n_out, 3, groups=groups, bias=False)
    data = batches_of(n_in, 6, 5)
    layers, known = collected(nn.Sequential(conv), data)
    assert known["0"].hessian is None
    square = known["0"].input_square
    assert square.shape == layers[0].shape
    x = torch.cat(data)
    with torch.no_grad():
        for i in range(n_out):
            group = i // (n_out // groups)
            own = x[:, group * (n_in // groups) : (group + 1) * (n_in // groups)]
            patches = functional.unfold(own, 3).movedim(1, -1).flatten(0, 1)
            torch.testing.assert_close(square[i], patches.square().mean(dim=0))
        y = conv(x).movedim(1, -1).reshape(-1, n_out)
    torch.testing.assert_close(known["0"].output_square, y.square().mean(dim=0))


# -- what counts -----------------------------------------------------------------------


class Embedded(nn.Module):
    """Tokens to features to a number for each."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.first = nn.Linear(5, 4)
        self.second = nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask=None):
        return self.second(torch.tanh(self.first(self.embedding(input_ids))))


@pytest.mark.parametrize("seed", range(3))
def test_padding_does_not_count(seed):
    torch.manual_seed(seed)
    model = Embedded()
    batches = [
        {
            "input_ids": torch.randint(20, (n, 6)),
            "attention_mask": (torch.rand(n, 6) < 0.6).long(),
        }
        for n in SIZES
    ]
    _, known = collected(model, batches)
    with torch.no_grad():
        X = torch.cat(
            [model.embedding(b["input_ids"])[b["attention_mask"] == 1] for b in batches]
        )
        assert_describes(known["first"], X, model.first(X))
        hidden = torch.tanh(model.first(X))
        assert_describes(known["second"], hidden, model.second(hidden))


class Shared(nn.Module):
    """Two linear layers with one weight, and one layer called twice."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.again = nn.Linear(4, 4)

    def forward(self, x):
        y = self.two(torch.tanh(self.one(x)))
        return self.again(torch.tanh(self.again(y)))


def test_shared_weights_count_all_their_inputs():
    torch.manual_seed(0)
    model, data = Shared(), batches_of(4)
    layers, known = collected(model, data, ("hessian", "input_square", "output_square"))
    assert [layer.name for layer in layers] == ["one", "again"]
    with torch.no_grad():
        x = torch.cat(data)
        hidden = torch.tanh(model.one(x))
        y = model.two(hidden)
        twice = torch.tanh(model.again(y))
    for name, X in (("one", (x, hidden)), ("again", (y, twice))):
        X = torch.cat(X)
        assert known[name].n_tokens == len(X)
        torch.testing.assert_close(known[name].hessian, X.T @ X / len(X))


def test_layers_that_no_batch_reaches_are_absent():
    model = nn.Sequential(nn.Linear(5, 4))
    model.unused = nn.Linear(5, 4)
    model.forward = lambda x: model[0](x)
    layers, known = collected(model, batches_of(5))
    assert len(layers) == 2
    assert list(known) == ["0"]


# -- gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_mean_loss(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    data = [(x, torch.randint(3, (len(x),))) for x in batches_of(5, seed=seed)]
    _, known = collected(model, data, {"gradient"})
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    loss = functional.cross_entropy(model(x), y)
    expected = torch.autograd.grad(loss, [model[0].weight, model[2].weight])
    for name, g in zip(("0", "2"), expected, strict=True):
        torch.testing.assert_close(known[name].gradient, g)


# -- what is left behind, and what is refused ------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
    )
    model.train(training)
    model[1].train(not training)
    model[0].weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    data = [(x, torch.randn(len(x), 3)) for x in batches_of(5)]
    state = torch.get_rng_state()
    _, known = collected(model, data, {*ALL, "gradient", "fisher"})
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert wanted == [p.requires_grad for p in model.parameters()]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for each in known.values():
        tensors = [t for t in vars(each).values() if torch.is_tensor(t)]
        assert len(tensors) == 6
        assert not any(t.requires_grad for t in tensors)


@pytest.mark.parametrize("needs", [*ALL, "gradient"])
def test_what_is_not_finite_names_the_layer(needs):
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    data = [(x, torch.randn(len(x), 3)) for x in batches_of(5)]
    with torch.no_grad():
        model[0].bias[1] = float("inf")
    culprit = "'0'" if needs in ("gradient", "output_square") else "'1'"
    with pytest.raises(ValueError, match=culprit):
        collected(model, data, {needs})
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


# -- gated MLPs ------------------------------------------------------------------------


class Gated(nn.Module):
    """A gated MLP with the names of its projections."""

    def __init__(self, gate, up, down, width=6, hidden=8):
        super().__init__()
        self.names = (gate, up, down)
        self.add_module(gate, nn.Linear(width, hidden, bias=False))
        self.add_module(up, nn.Linear(width, hidden, bias=False))
        self.add_module(down, nn.Linear(hidden, width, bias=False))

    def product(self, x):
        gate, up, _ = (getattr(self, name) for name in self.names)
        return functional.silu(gate(x)) * up(x)

    def forward(self, x):
        return getattr(self, self.names[2])(self.product(x))


NAMED = [
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("wi_0", "wi_1", "wo"),
]


@pytest.mark.parametrize("names", NAMED)
@pytest.mark.parametrize("chosen", ["all", "gate", "gate and up"])
def test_gate_and_up_have_the_square_of_their_product(names, chosen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Gated(*names))
    layers, _ = prunable_layers(model)
    count = {"all": 4, "gate": 2, "gate and up": 3}[chosen]
    data = batches_of(5, 6)
    with torch.no_grad():
        x = model[0](torch.cat(data)).reshape(-1, 6)
        product = model[1].product(x).square().mean(dim=0)
        last = model[1](x).square().mean(dim=0)
        first = x.square().mean(dim=0)
    for needs in ({"output_square"}, {"output_square", "input_square"}):
        known = collect(model, layers[:count], data, needs)
        assert list(known) == [layer.name for layer in layers[:count]]
        for name in (f"1.{names[0]}", f"1.{names[1]}"):
            if name in known:
                assert known[name].gated
                torch.testing.assert_close(known[name].output_square, product)
        torch.testing.assert_close(known["0"].output_square, first)
        assert not known["0"].gated
        down = known.get(f"1.{names[2]}")
        if down is not None:
            assert not down.gated
            torch.testing.assert_close(down.output_square, last)
        for each in known.values():
            assert (each.input_square is None) == ("input_square" not in needs)


def test_a_gated_model_by_itself():
    model = Gated("w1", "w3", "w2")
    _, known = collected(model, batches_of(6), {"output_square"})
    assert [known[name].gated for name in ("w1", "w3", "w2")] == [True, True, False]


def test_layers_whose_shapes_do_not_fit_are_not_gated():
    model = nn.ModuleDict(
        {"w1": nn.Linear(4, 4), "w3": nn.Linear(4, 5), "w2": nn.Linear(5, 4)}
    )
    model.forward = lambda x: model["w2"](model["w3"](model["w1"](x)))
    _, known = collected(model, batches_of(4), {"output_square"})
    assert not any(each.gated for each in known.values())


def test_llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    batch = {
        "input_ids": torch.randint(20, (3, 7)),
        "attention_mask": torch.ones(3, 7, dtype=torch.long),
    }
    seen = SimpleNamespace(inputs={})
    handles = [
        block.mlp.down_proj.register_forward_pre_hook(
            lambda _, args, i=i: seen.inputs.update({i: args[0]})
        )
        for i, block in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    _, known = collected(model, [batch], {"output_square"})
    gated = {name for name, each in known.items() if each.gated}
    assert gated == {
        f"model.layers.{i}.mlp.{part}_proj" for i in (0, 1) for part in ("gate", "up")
    }
    for name in gated:
        product = seen.inputs[int(name.split(".")[2])].square().mean(dim=(0, 1))
        torch.testing.assert_close(known[name].output_square, product)


def test_statistics_of_nothing_say_what_is_missing():
    with pytest.raises(ValueError, match="hessian"):
        Statistics().get("hessian")
