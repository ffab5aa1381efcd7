"""Compiled networks compute what the networks do, and say what computes it."""

import contextlib
import copy
import json
import pickle
import random
import threading
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitalfew.exceptions import DataError
from vitalfew.runtime import compile, load
from vitalfew.runtime._graph import difference

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def pruned(model, density=0.3, block=(8, 1), seed=0):
    """Fill a network with numbers, of which some blocks of the weights stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1, generator=generator)
                module.bias.normal_(generator=generator)
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                matrix = module.weight.view(len(module.weight), -1)
                cells = [-(-n // b) for n, b in zip(matrix.shape, block, strict=True)]
                kept = torch.rand(*cells, generator=generator) < density
                for axis in (0, 1):
                    kept = kept.repeat_interleave(block[axis], axis)
                matrix *= kept[: matrix.shape[0], : matrix.shape[1]]
    return model.eval()


class Mixed(nn.Module):
    """Strides, dilations, branches, pools and what is not known."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.wide = nn.Conv2d(12, 20, (3, 5), stride=(2, 1), padding=(1, 2))
        self.narrow = nn.Conv2d(12, 20, 1, stride=(2, 1), padding=(0, 0))
        self.grouped = nn.Conv2d(20, 20, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(20, 9, 3, padding=2, dilation=2)
        self.same = nn.Conv2d(9, 9, 3, padding="same")
        self.head = nn.Linear(9, 5)
        self.last = nn.Linear(5, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = F.gelu(self.wide(x) + self.narrow(x))
        x = self.grouped(x)
        y = self.dilated(F.max_pool2d(x, 3, 2, 1))
        z = F.silu(self.same(F.avg_pool2d(y, 2, 2)))
        z = F.adaptive_avg_pool2d(z, 1).flatten(1)
        return self.last(torch.softmax(self.head(z), -1)), y


class Residual(nn.Module):
    """Convolutions and their input, added in both orders."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))

    def forward(self, x):
        y = F.relu(self.a(x) + x)
        z = F.relu(y + self.b(y))
        return z + F.relu(self.b(z)), y


class Perceptron(nn.Module):
    """Siblings, a gate, residuals within and from without."""

    def __init__(self, n=24):
        super().__init__()
        self.up, self.gate = nn.Linear(n, 40), nn.Linear(n, 40)
        self.down, self.norm = nn.Linear(40, n), nn.LayerNorm(n)
        self.more = nn.Linear(n, n, bias=False)

    def forward(self, x, scale=None):
        y = self.norm(x + self.down(F.silu(self.gate(x)) * self.up(x)))
        y = self.more(F.gelu(self.more(y))) + y
        return {"y": y if scale is None else y * scale, "x": x}


@cache
def compiled(name, dense_below=0.0):
    """Compile a network once for all tests: tracing takes a second."""
    build, shape, _ = NETWORKS[name]
    model = pruned(build())
    return model, compile(model, torch.randn(shape), dense_below=dense_below)


def close(found, wanted):
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, **CLOSE)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        close(list(found.values()), list(wanted.values()))
    else:
        for a, b in zip(found, wanted, strict=True):
            close(a, b)


NETWORKS = {
    "mixed": (Mixed, (2, 3, 22, 18), (5, 3, 17, 31)),
    "residual": (Residual, (1, 6, 8, 8), (3, 6, 11, 5)),
    "perceptron": (Perceptron, (1, 7, 24), (4, 33, 24)),
    "flat": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
        ),
        (2, 2, 6, 6),
        (7, 2, 6, 6),
    ),
    "linear": (lambda: nn.Linear(5, 3), (5,), (5,)),
}


@pytest.mark.parametrize(
    ("name", "dense_below"), [*((name, 0.0) for name in NETWORKS), ("mixed", "auto")]
)
def test_computes_the_same_at_other_sizes_too(name, dense_below):
    _, shape, other = NETWORKS[name]
    model, fast = compiled(name, dense_below)
    with torch.no_grad():
        for size in (shape, other):
            x = torch.randn(size)
            close(fast(x), model(x))
    explanation = fast.explain()
    assert explanation.difference < 1e-5
    if dense_below == 0.0:
        assert all("float32" in layer.kernel for layer in explanation.layers)
        assert explanation.segments


def random_network(seed):
    rng = np.random.default_rng(seed)
    layers, c = [], int(rng.integers(1, 9))
    first = c
    for _ in range(int(rng.integers(1, 6))):
        kind = rng.integers(5)
        if kind <= 2:
            n = int(rng.integers(1, 40))
            kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
            dilation = tuple(int(k) for k in rng.integers(1, 3, 2))
            padding = tuple(int(k) for k in rng.integers(0, 5, 2))
            stride = tuple(int(k) for k in rng.integers(1, 4, 2))
            layers.append(nn.Conv2d(c, n, kernel, stride, padding, dilation))
            layers.append([nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Identity()][kind])
            if rng.random() < 0.5:
                layers.append(nn.BatchNorm2d(n))
            c = n
        elif kind == 3:
            layers.append(
                nn.MaxPool2d(2, int(rng.integers(1, 3)), int(rng.integers(2)))
            )
        else:
            counted = bool(rng.integers(2))
            layers.append(nn.AvgPool2d(3, 2, 1, count_include_pad=counted))
    if rng.random() < 0.5:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 7)]
    return nn.Sequential(*layers), (int(rng.integers(1, 4)), first, 23, 19)


@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(s, marks=pytest.mark.slow) for s in range(3, 40))]
)
def test_random_convolutional_networks(seed):
    model, shape = random_network(seed)
    model = pruned(model, seed=seed)
    x = torch.randn(shape)
    try:
        model(x)
    except RuntimeError:
        pytest.skip("images shrink to nothing")
    fast = compile(model, x, dense_below=0.0, threads=1 + seed % 2)
    with torch.no_grad():
        close(fast(x), model(x))


def test_everything_is_left_to_torch_where_it_is_asked():
    model, fast = compiled("residual", 1.0)
    assert fast.explain().segments == 0
    assert {layer.kernel for layer in fast.explain().layers} == {"torch"}
    x = torch.randn(2, 6, 20, 20)
    with torch.no_grad():
        close(fast(x), model(x))


def test_explanation_names_layers_and_what_is_left():
    explanation = compiled("mixed")[1].explain()
    names = [layer.name for layer in explanation.layers]
    assert names == ["first", "wide", "narrow", "dilated", "same", "head", "last"]
    assert explanation.operators["conv2d"] == 1  # the grouped one
    assert explanation.operators["softmax"] == 1
    text = str(explanation)
    assert all(name in text for name in names)
    assert "1 conv2d" in text


def test_the_network_is_not_changed():
    model = pruned(Residual()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    compile(model, torch.randn(1, 6, 8, 8))
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_arguments_by_name_and_by_position():
    model = pruned(Perceptron())
    x, scale = torch.randn(2, 3, 24), torch.randn(24)
    fast = compile(model, {"x": x, "scale": scale})
    with torch.no_grad():
        close(fast(x=x, scale=scale), model(x, scale))
        close(compile(model, (x, scale))(x, scale=scale), model(x, scale))
    with pytest.raises(ValueError, match="structured"):
        fast(x=x)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(2, 4, 8, 8), "shape"),
        (torch.zeros(6, 8, 8), "shape"),
        ([1.0], "structured|tensor"),
        (np.zeros((1, 6, 8, 8)), "tensor"),
        (torch.zeros(1, 6, 8, 8, dtype=torch.float64), "float32"),
    ],
    ids=["channels", "dimensions", "list", "array", "double"],
)
def test_wrong_inputs_are_refused(x, match):
    _, fast = compiled("residual")
    with pytest.raises(ValueError, match=match):
        fast(x)


def test_images_smaller_than_the_kernel_are_refused():
    model = pruned(nn.Sequential(nn.Conv2d(1, 4, 5)))
    fast = compile(model, torch.randn(2, 1, 9, 9), dense_below=0.0)
    with pytest.raises(ValueError, match="satisfy"):
        fast(torch.randn(2, 1, 4, 9))


def test_empty_batches():
    assert compiled("residual")[1](torch.zeros(0, 6, 8, 8))[0].shape == (0, 6, 8, 8)


def test_values_out_of_line_in_memory():
    model, fast = compiled("residual")
    x = torch.randn(2, 8, 8, 6).permute(0, 3, 1, 2)
    with torch.no_grad():
        close(fast(x), model(x))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dtype": "float16"}, "dtype"),
        ({"threads": 0}, "threads"),
        ({"dense_below": 2.0}, "dense_below"),
    ],
    ids=["dtype", "threads", "dense_below"],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        compile(nn.Linear(2, 2), torch.zeros(1, 2), **options)


class Branching(nn.Module):
    """Looks at its numbers, which a trace cannot follow."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.b = nn.ModuleList([nn.Linear(8, 4)])

    def forward(self, x):
        y = self.a(x)
        return self.b[0](y) if y.sum() > 0 else self.b[0](-y)


def test_parts_of_a_network_that_cannot_be_traced(tmp_path):
    model = pruned(Branching())
    fast = compile(model, torch.randn(2, 8), dense_below=0.0)
    explanation = fast.explain()
    assert [layer.name for layer in explanation.layers] == ["a.0", "a.2", "b.0"]
    assert "Branching" in explanation.reason
    with torch.no_grad():
        for seed in range(8):
            x = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
            close(fast(x), model(x))
    with pytest.raises(Exception, match="as a whole"):
        fast.save(tmp_path)


class Asked(nn.Module):
    """Cannot be traced, and reads a weight of a part beside calling the part."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x.mul_(self.a.weight.abs().max())
        return self.b(self.a(x)) if x.sum() > 0 else x


def test_parts_that_are_more_than_called():
    model, x = pruned(Asked()), torch.rand(3, 8)
    fast = compile(model, x, dense_below=0.0)
    assert [layer.name for layer in fast.explain().layers] == ["b"]
    with torch.no_grad():
        close(fast(x.clone()), model(x.clone()))


class Odd(nn.Module):
    """What looks like a layer, a batch norm or a sum that can be fused, and is not."""

    def __init__(self):
        super().__init__()
        self.line, self.wide = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.image, self.scaled = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.one = nn.Parameter(torch.randn(1))
        self.register_buffer("table", torch.randn(3, 4))
        for norm in (self.norm, *self.norms):
            norm.running_mean += torch.randn(4)
            norm.weight.data += torch.rand(4)

    def forward(self, x, whole, images):
        a = self.norm(self.line(x))  # over tokens, as many as features
        b = self.line(self.table)  # of constants
        c = self.wide(x) + whole  # integers
        d = torch.addmm(self.one, x[0], self.wide.weight)
        e = self.norms[0](nn.functional.conv2d(images, self.image.weight, b[0]))
        scale = self.norms[1].weight.exp()
        mean, var = self.norms[1].running_mean, self.norms[1].running_var
        f = F.batch_norm(self.scaled(images), mean, var, scale, scale)
        g = F.adaptive_avg_pool2d(f, (images.shape[2] // 2, images.shape[3] // 2))
        h = self.scaled(images[0])  # one image without a batch
        return a, b, c, d, e, f, F.avg_pool2d(g, g.shape[2:]), h


def test_what_only_looks_as_if_it_could_be_fused():
    model = pruned(Odd())

    def inputs(n, size):
        whole = torch.arange(16 * n).view(n, 4, 4)
        return torch.randn(n, 4, 4), whole, torch.randn(n, 4, size, size)

    fast = compile(model, inputs(3, 8), dense_below=0.0)
    with torch.no_grad():
        for given in (inputs(3, 8), inputs(1, 8)):
            close(fast(*given), model(*given))


class Crossed(nn.Module):
    """Two segments that would wait for each other if both took all they could."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, v, w):
        x, a = self.a(v), self.b(w)
        return x + torch.softmax(a, -1), a + x


def test_segments_do_not_wait_for_each_other():
    model, given = pruned(Crossed()), (torch.randn(3, 4), torch.randn(3, 4))
    with torch.no_grad():
        close(compile(model, given, dense_below=0.0)(*given), model(*given))


class Sized(nn.Module):
    """Looks at lengths."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, y):
        even = x["x"].shape[0] % 2 == 0
        x = self.b(x["x"]) + x["y"] if even else self.a(x["x"])
        return x, self.a(y).squeeze()


def test_lengths_for_which_the_network_does_something_else_are_refused(tmp_path):
    model, draw = pruned(Sized()), torch.randn
    given = {"x": draw(4, 4), "y": draw(4, 4)}, draw(3, 4)
    fast = compile(model, given, dense_below=0.0)
    fast.save(tmp_path)
    for each in (fast, load(tmp_path)):
        with torch.no_grad():
            turned = dict(reversed(given[0].items())), draw(5, 4)
            close(each(*turned), model(*turned))
        with pytest.raises(ValueError, match="Mod"):
            each({"x": draw(3, 4), "y": draw(3, 4)}, draw(3, 4))
        with pytest.raises(ValueError, match="int64"):
            each(given[0], torch.ones(3, 4, dtype=torch.int64))
    single = compile(model, (given[0], draw(1, 4)), dense_below=0.0)
    with torch.no_grad():
        assert single(given[0], draw(1, 4))[1].shape == (4,)


class Pooled(nn.Module):
    """Pools all of an image, which torch.export follows at one size only."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.avg_pool2d(x, x.shape[3]).flatten(1))


def test_batches_may_vary_where_sizes_may_not():
    model = pruned(Pooled())
    fast = compile(model, torch.randn(1, 3, 16, 16), dense_below=0.0)
    assert not fast.explain().reason
    assert fast.explain().segments
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        close(fast(x), model(x))


def test_the_state_of_torch_around_a_call_does_not_matter():
    model, fast = compiled("perceptron")
    x = torch.randn(2, 5, 24)
    with torch.no_grad():
        wanted = model(x)
    with torch.autocast("cpu"):
        close(fast(x), wanted)
    with torch.inference_mode():
        close(fast(x), wanted)
    close(fast(x.clone().requires_grad_()), wanted)
    torch.set_default_dtype(torch.float64)
    try:
        close(fast(x), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
    assert not fast.train().training


def test_copies_and_pickles():
    _, fast = compiled("residual")
    x = torch.randn(1, 6, 8, 8)
    close(copy.deepcopy(fast)(x), fast(x))
    with pytest.raises(TypeError, match="save"):
        pickle.dumps(fast)


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match=r"model\.float"):
        compile(nn.Linear(2, 2).double(), torch.zeros(1, 2, dtype=torch.float64))


def test_nothing_of_the_network_is_kept():
    _, fast = compiled("residual")
    assert not list(fast.parameters())
    assert not any(node.meta for node in fast.graph.graph.nodes)


def test_calls_from_several_threads():
    model, fast = compiled("mixed")
    inputs = [torch.randn(1 + i % 3, 3, 16 + i, 20) for i in range(12)]
    with torch.no_grad():
        wanted = [model(x) for x in inputs]
    found = [None] * len(inputs)

    def work(i):
        for _ in range(5):
            found[i] = fast(inputs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    close(found, wanted)


def test_under_torch_compile():
    _, fast = compiled("perceptron")
    again = torch.compile(fast.graph, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 7, 24)
    with torch.no_grad():
        for a, b in zip(again(x), fast.graph(x), strict=True):
            torch.testing.assert_close(a, b)


def test_the_operator_is_registered_as_torch_wants():
    _, fast = compiled("residual")
    handle = fast.graph.segment_0.handle
    torch.library.opcheck(
        torch.ops.vitalfew.segment.default,
        ([torch.randn(2, 6, 9, 7)], handle),
        test_utils=("test_schema", "test_faketensor"),
    )
    with pytest.raises(ValueError, match="alive"):
        torch.ops.vitalfew.segment([torch.randn(1, 6, 8, 8)], 10**9)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lower_precisions(dtype):
    width = {"bfloat16": 2, "int8": 4}[dtype]
    model = pruned(Perceptron(64), density=0.5, block=(16, width))
    fast = compile(model, torch.randn(2, 7, 64), dtype=dtype, dense_below=0.0)
    assert all(layer.kernel.endswith(dtype) for layer in fast.explain().layers)
    x = torch.randn(3, 9, 64)
    with torch.no_grad():
        wanted, found = model(x)["y"], fast(x)["y"]
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


def _places(value, way=()):
    """Return the ways to all that a structure holds."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield (*way, key)
        if isinstance(part, (dict, list)):
            yield from _places(part, (*way, key))


class TestFiles:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_what_is_read_computes_the_same(self, name, tmp_path):
        _, shape, other = NETWORKS[name]
        _, fast = compiled(name)
        fast.save(tmp_path)
        again = load(tmp_path)
        for size in (shape, other):
            x = torch.randn(size)
            a, b = (torch.utils._pytree.tree_leaves(m(x)) for m in (fast, again))
            assert all(torch.equal(c, d) for c, d in zip(a, b, strict=True))
        assert again.explain() == fast.explain()
        again.save(tmp_path / "again")
        assert load(tmp_path / "again").explain() == fast.explain()

    @pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
    def test_lower_precisions(self, dtype, tmp_path):
        model = pruned(Perceptron(64), block=(16, 4))
        fast = compile(model, torch.randn(2, 64), dtype=dtype, dense_below=0.0)
        fast.save(tmp_path)
        x = torch.randn(5, 64)
        assert torch.equal(load(tmp_path)(x)["y"], fast(x)["y"])

    def test_a_pruned_network_takes_little_room(self, tmp_path):
        model = pruned(nn.Sequential(nn.Linear(512, 512)), 0.1, (16, 1))
        compile(model, torch.randn(1, 512), dense_below=0.0).save(tmp_path)
        size = sum(f.stat().st_size for f in tmp_path.iterdir())
        assert size < 0.15 * 4 * 512 * 512

    @pytest.fixture
    def saved(self, tmp_path):
        compiled("perceptron")[1].save(tmp_path)
        return tmp_path

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load(tmp_path)

    def test_tensors_of_another_network(self, saved, tmp_path_factory):
        other = tmp_path_factory.mktemp("other")
        compiled("perceptron")[1].save(other)
        (other / "compiled.json").rename(saved / "compiled.json")
        with pytest.raises(DataError, match="belong together"):
            load(saved)

    @pytest.mark.parametrize(
        "change",
        [
            lambda r: r.update(version=99),
            lambda r: r.pop("nodes"),
            lambda r: r["nodes"][-1]["args"].append({"node": "no_such"}),
            lambda r: r["nodes"].insert(
                -1, {"name": "x", "op": "call_function", "args": [], "kwargs": {}}
            ),
            lambda r: r["segments"]["segment_0"]["steps"][0][1].update(source=7),
            lambda r: r["segments"]["segment_0"]["matrices"][0].update(
                shape=[10**9, 2]
            ),
            lambda r: r["segments"]["segment_0"].update(outputs=[99]),
        ],
        ids=["version", "nodes", "node", "target", "source", "shape", "outputs"],
    )
    def test_damage_is_told(self, saved, change):
        file = saved / "compiled.json"
        recipe = json.loads(file.read_text())
        change(recipe)
        file.write_text(json.dumps(recipe))
        with pytest.raises(DataError):
            load(saved)

    @pytest.mark.parametrize(
        "target",
        [
            "aten.from_file.default",
            "aten.add_.Tensor",
            "aten.resize_.default",
            "prims.add.default",
            "builtins.eval",
            "aten.__class__.default",
            "aten.add.__call__",
            "operator.attrgetter",
            "aten._reshape_alias.default",
            "aten.native_batch_norm.default",
            "aten.threshold_backward.default",
        ],
    )
    def test_operators_with_side_effects_are_refused(self, saved, target):
        file = saved / "compiled.json"
        recipe = json.loads(file.read_text())
        node = next(n for n in recipe["nodes"] if n["op"] == "call_function")
        node["target"] = target
        file.write_text(json.dumps(recipe))
        with pytest.raises(DataError):
            load(saved)

    @pytest.mark.parametrize("where", ["name", "kwargs", "target"])
    def test_names_that_are_programs_are_refused(self, saved, where, tmp_path):
        file = saved / "compiled.json"
        recipe = json.loads(file.read_text())
        bad = f"x=open({str(tmp_path / 'made')!r},'w')"
        node = next(
            n
            for n in recipe["nodes"]
            if n["op"] == ("get_attr" if where == "target" else "call_function")
        )
        node[where] = {bad: 1} if where == "kwargs" else bad
        file.write_text(json.dumps(recipe))
        with pytest.raises(DataError):
            load(saved)
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize(
        "change",
        [
            lambda r: r["nodes"][0].update(name="import"),
            lambda r: r["nodes"][0].update(name="self"),
            lambda r: r["nodes"][1].update(op="get_attr", target="forward"),
            lambda r: r.update(threads=0),
            lambda r: r.update(conditions=[{"text": "", "formula": ["eval", 1]}]),
            lambda r: r["segments"]["segment_0"].update(outputs=[0]),
            lambda r: r["segments"]["segment_0"].update(outputs=[2, 2]),
            lambda r: next(
                n for n in r["nodes"] if str(n.get("target")).startswith("aten.mul")
            ).update(target="aten.softmax.int", args=[{"node": "x"}, -1, -1]),
        ],
        ids=[
            "keyword",
            "self",
            "attribute",
            "threads",
            "condition",
            "input",
            "twice",
            "dtype",
        ],
    )
    def test_what_could_do_harm_is_refused(self, saved, change):
        file = saved / "compiled.json"
        recipe = json.loads(file.read_text())
        change(recipe)
        file.write_text(json.dumps(recipe))
        with pytest.raises(DataError):
            load(saved)

    def test_any_value_in_any_place_is_refused_or_fails_in_python(self, saved):
        recipe = json.loads((saved / "compiled.json").read_text())
        places = [p for p in _places(recipe) if p[:1] != ("explanation",)]
        hostile = [0, -1, 2**31, 2**63, 1.5, "", "x", None, [], [1, 1], {}, True]
        rng = random.Random(0)
        loaded = 0
        for _ in range(150):
            changed = copy.deepcopy(recipe)
            *way, last = rng.choice(places)
            at = changed
            for key in way:
                at = at[key]
            at[last] = rng.choice(hostile)
            (saved / "compiled.json").write_text(json.dumps(changed))
            try:
                fast = load(saved)
            except DataError:
                continue
            loaded += 1
            with contextlib.suppress(Exception):
                fast(torch.randn(1, 7, 24))
        assert 0 < loaded < 75

    def test_a_structure_that_imports_is_refused(self, saved):
        file = saved / "compiled.json"
        recipe = json.loads(file.read_text())
        recipe["inputs"][1]["type"] = "collections.defaultdict"
        recipe["inputs"][1]["context"] = json.dumps(
            {"default_factory_module": "os", "default_factory_name": "abort"}
        )
        file.write_text(json.dumps(recipe))
        with pytest.raises(DataError, match="structure"):
            load(saved)

    def test_every_prefix_of_the_files_is_refused(self, saved):
        for name in ("compiled.json", "compiled.safetensors"):
            file = saved / name
            whole = file.read_bytes()
            cuts = np.linspace(0, len(whole) - 1, 12).astype(int)
            for low, high in pairwise(cuts):
                assert low < high
                file.write_bytes(whole[:low])
                with pytest.raises(DataError):
                    load(saved)
            file.write_bytes(whole)
        load(saved)


def test_results_that_are_not_numbers_differ():
    one, bad = torch.ones(3), torch.tensor([1.0, torch.nan, torch.inf])
    assert difference([bad], [bad]) == 0
    assert difference([one], [bad]) == difference([bad], [one]) == torch.inf
    assert difference([one + 1], [2 * one + 2]) == 0.5
    assert difference([torch.ones(2)], [one]) == torch.inf
