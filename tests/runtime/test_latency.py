"""What layers cost in time: curves that never fall, and budgets that are kept."""

import glob
import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from vitalfew import pruning  # noqa: E402
from vitalfew.neural import prunable_layers  # noqa: E402
from vitalfew.pruning.allocation import DynamicProgramme  # noqa: E402
from vitalfew.runtime import Latency, _latency  # noqa: E402
from vitalfew.structures import Blocks  # noqa: E402


def layer_of(module, name="0"):
    """A layer as allocations see it."""
    (found,) = prunable_layers(nn.ModuleDict({name: module}))[0]
    return found


class Clock:
    """Stands in for measuring: a call takes what its weights and inputs are worth."""

    def __init__(self, dense=1.0, noise=0.0):
        self.calls, self.dense, self.noise = [], dense, noise
        self.rng = np.random.default_rng(0)

    def __call__(self, calls, threads):
        self.calls.append((threads, torch.get_num_threads()))
        return {name: self.seconds(call) for name, call in calls.items()}

    def seconds(self, call):
        places = math.prod(call().shape[:-1])
        if hasattr(call.func, "nbytes"):
            worth = 1e-6 + 1e-9 * call.func.nbytes * places
        else:
            worth = self.dense * 5e-9 * call.args[0].weight.numel() * places
        return worth * (1 + self.noise * self.rng.uniform(-1, 1))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_latency, "quickest", clock)
    return clock


# -- curves ----------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_curve_never_falls_and_never_exceeds_the_dense_one(clock, dense, noise):
    clock.dense, clock.noise = dense, noise
    cost, layer = Latency(tokens=7), layer_of(nn.Linear(48, 40))
    at = np.linspace(0, 1, 201)
    found = np.array([cost(layer, d) for d in at])
    (row,) = cost.table()
    assert (np.diff(found) >= 0).all()
    assert (found > 0).all()
    assert found.max() <= row["dense"]
    # no dearer than what was measured there, for this density or for more
    for i, d in enumerate(row["densities"]):
        assert cost(layer, d) == min(row["dense"], *row["sparse"][i:])


def test_between_densities_lie_the_costs_between(clock):
    clock.dense = 1e6
    cost, layer = Latency(tokens=7), layer_of(nn.Linear(64, 64))
    low, high = cost(layer, 0.3), cost(layer, 0.5)
    assert low < high
    assert cost(layer, 0.4) == pytest.approx((low + high) / 2)
    assert cost(layer, 0) < cost(layer, 0.01) < cost(layer, 0.02)


@pytest.mark.parametrize("block", [(16, 1), (8, 1), (4, 4), (1, 1)])
@pytest.mark.parametrize("density", _latency.DENSITIES)
def test_masks_are_of_whole_blocks_and_as_dense_as_asked(block, density):
    shape = (50, 23)
    mask = _latency._mask(shape, block, density, np.random.default_rng(0))
    assert mask.shape == shape
    down, across = (-(-n // b) for n, b in zip(shape, block, strict=True))
    kept = 0
    for i in range(down):
        for j in range(across):
            tile = mask[
                i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]
            ]
            assert tile.all() or not tile.any()
            kept += bool(tile.any())
    assert kept == round(density * down * across)


def test_the_same_seed_measures_the_same_masks():
    def masks(seed):
        cost = Latency(seed=seed, tokens=3)
        rng = np.random.default_rng([seed, 32, 16])
        x = np.ones((3, 16), np.float32)
        calls = cost._calls(nn.Linear(16, 32), (32, 16), x, rng)
        return np.stack([calls[d]() for d in _latency.DENSITIES])

    assert np.array_equal(masks(1), masks(1))
    assert not np.array_equal(masks(1), masks(2))


def test_a_shape_is_measured_once(clock):
    cost = Latency(threads=2)
    before = torch.get_num_threads()
    for name in "abc":
        for density in (0.1, 0.7):
            cost(layer_of(nn.Linear(16, 32), name), density)
    cost(layer_of(nn.Linear(16, 32, bias=False), "d"), 0.3)
    cost(layer_of(nn.Linear(32, 16), "e"), 0.3)
    assert clock.calls == [(2, 2)] * 3
    assert torch.get_num_threads() == before
    rows = cost.table()
    assert [row["layers"] for row in rows] == [["a", "b", "c"], ["d"], ["e"]]
    assert [row["shape"] for row in rows] == [(32, 16), (32, 16), (16, 32)]
    assert all(row["inputs"] == (128, row["shape"][1]) for row in rows)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)]
)
def test_what_is_measured_computes_the_layer(dtype, tolerance):
    cost = Latency(dtype=dtype, block=(16, 2))
    linear = nn.Linear(20, 40)
    x = np.random.default_rng(0).standard_normal((3, 20), np.float32)
    calls = cost._calls(linear, (40, 20), x, np.random.default_rng(1))
    with torch.no_grad():
        dense = linear(torch.from_numpy(x))
    assert torch.equal(calls[_latency.DENSE](), dense)
    # the weights of the full matrix come first of its random numbers
    weights = np.random.default_rng(1).standard_normal((40, 20), np.float32)
    found = calls[1.0]()
    if found.dtype == np.uint16:
        found = (found.astype(np.uint32) << 16).view(np.float32)
    assert np.abs(found - x @ weights.T).max() <= tolerance * np.abs(found).max()
    assert not calls[0.0]().any()


def test_real_times_are_positive_and_ordered():
    cost, layer = Latency(tokens=2), layer_of(nn.Linear(32, 64))
    found = [cost(layer, d) for d in (0.0, 0.1, 0.5, 1.0)]
    assert found == sorted(found)
    (row,) = cost.table()
    assert row["dense"] > 0
    assert len(row["sparse"]) == len(row["densities"]) == len(row["microseconds"])


# -- convolutions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 16, 3, padding=1, stride=2),
        nn.Conv2d(3, 16, (1, 3), padding="same", dilation=(1, 2), bias=False),
    ],
)
def test_a_convolution_is_measured_as_one(clock, module):
    cost = Latency(shapes={"0": (2, 3, 9, 9)}, block=(8, 1))
    layer = layer_of(module)
    assert cost(layer, 0.1) < cost(layer, 1.0)
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 9), np.float32)
    calls = cost._calls(module, layer.shape, x, np.random.default_rng(1))
    weights = np.random.default_rng(1).standard_normal(layer.shape, np.float32)
    wanted = F.conv2d(
        torch.from_numpy(x),
        torch.from_numpy(weights).reshape(module.weight.shape),
        None,
        module.stride,
        module.padding,
        module.dilation,
    )
    assert np.allclose(calls[1.0](), wanted.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 6, 6)),
        (nn.Conv1d(4, 8, 3), (1, 4, 9)),
        (nn.ConvTranspose2d(4, 8, 3), (1, 4, 6, 6)),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), (1, 4, 6, 6)),
        (nn.Conv2d(4, 8, 2, padding="same"), (1, 4, 6, 6)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_what_has_no_sparse_kernel_costs_the_same_at_each_density(clock, module, shape):
    cost, layer = Latency(shapes={"0": shape}), layer_of(module)
    assert cost(layer, 0.01) == cost(layer, 0.5) == cost(layer, 1.0) > 0
    assert cost.table()[0]["sparse"] is None


def test_a_convolution_without_a_shape_is_refused(clock):
    cost = Latency()
    with pytest.raises(ValueError, match="input of '0', a convolution"):
        cost(layer_of(nn.Conv2d(3, 16, 3)), 0.5)


# -- networks --------------------------------------------------------------------------


class Network(nn.Module):
    """A convolution, a layer that is used twice, one never, and what is shared."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.twice = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.words = nn.Embedding(5, 8)
        self.last = nn.Linear(8, 5, bias=False)
        self.last.weight = self.words.weight
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, scale=None):
        x = self.first(x if scale is None else scale * x).flatten(2).mean(2)
        return self.last(self.dropout(self.twice(self.twice(x))))


@pytest.mark.parametrize(
    "given",
    [
        torch.ones(2, 1, 6, 5),
        (torch.ones(2, 1, 6, 5),),
        [torch.ones(2, 1, 6, 5), torch.ones(1)],
        {"x": torch.ones(2, 1, 6, 5), "scale": torch.ones(1)},
    ],
)
def test_shapes_are_those_of_an_example(clock, given):
    torch.manual_seed(0)
    model = Network().train()
    state = torch.get_rng_state()
    cost = Latency.of(model, given, block=(8, 1))
    assert model.training
    assert model.dropout.training
    assert torch.equal(torch.get_rng_state(), state)
    assert cost.block == (8, 1)
    assert dict(cost.shapes) == {
        "first": [(2, 1, 6, 5)],
        "twice": [(2, 8), (2, 8)],
        "never": [],
        "last": [(2, 8)],
    }
    names = [glob.escape(name) for name, _ in model.named_modules()]
    layers = {layer.name: layer for layer in prunable_layers(model, names)[0]}
    assert cost(layers["never"], 1.0) == 0
    once = Latency(tokens=2, block=(8, 1))(layers["twice"], 0.5)
    assert cost(layers["twice"], 0.5) == pytest.approx(2 * once)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_pruning_keeps_a_budget_in_time(clock, density):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 32),
        nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip
    x, y = torch.randn(24, 1, 6, 6), torch.randint(0, 4, (24,))
    cost = Latency.of(model, x, block=(4, 1))
    layers = {layer.name: layer for layer in prunable_layers(model)[0]}
    report = pruning.prune(
        model,
        Blocks((4, 1), density=density),
        calibration=[(x, y)],
        allocation=DynamicProgramme(cost=cost),
        recalibrate=False,
    )
    dense = sum(cost(layer, 1.0) for layer in layers.values())
    spent = sum(cost(layers[r.name], r.kept / r.n_atoms) for r in report.layers)
    share = int(density * report.n_atoms) / report.n_atoms
    assert spent <= dense * share * (1 + 1e-9)
    assert report.kept <= report.asked
    # nothing more fits: a block more in any layer passes the budget or the count
    if report.kept < int(density * report.n_atoms):
        for r in report.layers:
            if r.kept < r.n_atoms:
                one = cost(layers[r.name], (r.kept + 1) / r.n_atoms)
                now = cost(layers[r.name], r.kept / r.n_atoms)
                assert spent - now + one > dense * share * (1 - 1e-9)


def test_it_is_told_apart_by_its_settings():
    # checkpoints of pruning compare allocations by what they print
    one, same = (DynamicProgramme(cost=Latency(tokens=3)) for _ in range(2))
    assert repr(one) == repr(same)
    assert one == same
    assert repr(one) != repr(DynamicProgramme(cost=Latency(tokens=4)))
    assert "0x" not in repr(one)


def test_importing_it_loads_no_torch():
    code = "import sys; from vitalfew.runtime import Latency; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "vitalfew.runtime" in done.stdout.split()
    assert "torch" not in done.stdout.split()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens must be"),
        ({"threads": 0}, "threads must be"),
        ({"seed": -1}, "seed must be"),
        ({"block": (0, 1)}, "block must be"),
        ({"dtype": "float16"}, "dtype must be"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Latency(**settings)


# -- the clock -------------------------------------------------------------------------


def test_the_least_time_of_each_call_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_latency.time, "process_time", lambda: now[0])
    monkeypatch.setattr(_latency.time, "perf_counter", lambda: 2 * now[0])
    monkeypatch.setattr(_latency.sys, "platform", "linux")
    rng = np.random.default_rng(0)

    def taking(seconds):
        def call():
            now[0] += seconds * (1 + rng.integers(0, 3))

        return call

    found = _latency.quickest({"a": taking(0.01), "b": taking(0.03)}, 1)
    assert found == pytest.approx({"a": 0.01, "b": 0.03})
    found = _latency.quickest({"a": taking(0.01)}, 2)  # by the clock
    assert found == pytest.approx({"a": 0.02})
