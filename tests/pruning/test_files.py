"""Models on disk: every bit comes back, and no file can do harm."""

import copy
import json
import os
import signal
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from vitalfew.exceptions import DataError, MissingDependencyError  # noqa: E402
from vitalfew.pruning import load, save  # noqa: E402
from vitalfew.pruning.files import read, read_tokenizer  # noqa: E402


@pytest.fixture(autouse=True)
def same_weights_each_time():
    torch.manual_seed(3)


def prune(model, density, block=(1, 1), seed=0):
    """Leave exactly a fraction of the blocks of every matrix, at random."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                continue
            matrix = parameter.reshape(parameter.shape[0], -1)
            grid = [-(-n // b) for n, b in zip(matrix.shape, block, strict=True)]
            kept = np.zeros(grid[0] * grid[1])
            kept[rng.permutation(kept.size)[: round(density * kept.size)]] = 1
            mask = np.kron(kept.reshape(grid), np.ones(block))
            mask = torch.tensor(mask[: matrix.shape[0], : matrix.shape[1]])
            parameter *= mask.reshape(parameter.shape).to(parameter)
    return model


def mlp():
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


class Net(nn.Module):
    """Convolutions, normalisation, and tensors of every odd kind."""

    def __init__(self, width=12):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.up = nn.ConvTranspose2d(width, 5, 2)
        self.head = nn.Linear(5, 4)
        self.alias = self.head
        self.twin = nn.Linear(5, 4)
        self.twin.weight = self.head.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.turned = nn.Parameter(torch.randn(7, 30).T)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("table", torch.arange(6).reshape(2, 3).T)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("ramp", torch.rand(width), persistent=False)
        self.register_buffer("wide", torch.rand(1).expand(4), persistent=False)

    def forward(self, x):
        x = self.norm(self.first(x)) * self.ramp[:, None, None]
        x = self.up(torch.relu(self.depthwise(x))).mean((2, 3))
        return self.head(x) + self.twin(x) + self.scale


def tensors_of(model):
    return dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )


def check_same(model, other):
    """The same names, types and bits, but for the signs of zeros; the same ties."""
    here, there = tensors_of(model), tensors_of(other)
    assert list(here) == list(there)
    for name, tensor in here.items():
        assert there[name].dtype == tensor.dtype, name
        assert there[name].shape == tensor.shape, name
        torch.testing.assert_close(
            there[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name
        )
    for name in here:
        for twin in here:
            same = here[name] is here[twin]
            assert (there[name] is there[twin]) == same, (name, twin)


def recipe_of(folder):
    return json.loads((folder / "recipe.json").read_text())


def change(folder, **changes):
    """Change the recipe, wherever the path of keys leads."""
    recipe = recipe_of(folder) | changes
    (folder / "recipe.json").write_text(json.dumps(recipe))


# -- there and back --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_multilayer_perceptron_comes_back(tmp_path, dtype, dense):
    model = prune(mlp().to(getattr(torch, dtype)), 0.1)
    save(model, tmp_path / "m", dense=dense)
    again = load(tmp_path / "m", mlp)
    check_same(model, again)
    kept = load_file(tmp_path / "m" / f"{'model' if dense else 'packed'}.safetensors")
    assert ("0.weight.bits" in kept) == (not dense)
    x = torch.randn(3, 64).to(getattr(torch, dtype))
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("half", [False, True])
def test_a_network_of_every_kind_of_tensor_comes_back(tmp_path, density, half):
    model = prune(Net().eval(), density, (4, 1))
    model = model.bfloat16() if half else model
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", Net)
    check_same(model, again)
    assert again.training  # as it was built
    assert again.alias is again.head
    assert again.turned.is_contiguous()
    assert "ramp" not in again.state_dict()
    x = torch.randn(2, 3, 8, 8).to(model.scale.dtype)
    torch.testing.assert_close(again.eval()(x), model(x), rtol=0, atol=0)


def test_nothing_of_the_model_changes(tmp_path):
    model = prune(Net(), 0.2)
    model.head.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    save(model, tmp_path / "m")
    load(tmp_path / "m", Net)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert [m.training for m in model.modules()] == modes
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_values_that_are_not_numbers_stay(tmp_path):
    model = prune(mlp(), 0.1)
    with torch.no_grad():
        model[0].weight[0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    save(model, tmp_path / "m")
    check_same(model, load(tmp_path / "m", mlp))


def test_a_built_model_may_be_on_meta_and_frozen(tmp_path):
    def build():
        with torch.device("meta"):
            model = Net()
        model.head.weight.requires_grad_(False)
        return model

    model = prune(Net(), 0.3)
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", build)
    check_same(model, again)
    assert not again.head.weight.requires_grad
    assert again.first.weight.requires_grad


def test_parameters_stay_the_objects_that_were_built(tmp_path):
    model = prune(mlp(), 0.1)
    save(model, tmp_path / "m")
    built = mlp()
    known = list(built.parameters())
    again = load(tmp_path / "m", lambda: built)
    assert all(p is q for p, q in zip(known, again.parameters(), strict=True))


def test_ties_are_those_of_the_saved_model(tmp_path):
    def tied(loose=False):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        if not loose:
            model[1].weight = model[0].weight
        return model

    for saved, built in ((False, True), (True, False)):
        model = tied(saved)
        save(model, tmp_path / str(saved))
        check_same(model, load(tmp_path / str(saved), lambda b=built: tied(b)))


def test_a_recurrent_network_runs_on_what_was_loaded(tmp_path):
    model = prune(nn.LSTM(20, 16), 0.1)
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", lambda: nn.LSTM(20, 16))
    x = torch.randn(4, 2, 20)
    torch.testing.assert_close(again(x)[0], model(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("block", "most"), [((1, 1), 0.14), ((16, 1), 0.11), ((8, 8), 0.11)]
)
def test_ninety_percent_pruned_is_about_a_tenth_on_disk(tmp_path, block, most):
    def build():
        return nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))

    model = prune(build(), 0.1, block)
    save(model, tmp_path / "packed")
    save(model, tmp_path / "dense", dense=True)
    sizes = [
        sum(p.stat().st_size for p in (tmp_path / name).iterdir())
        for name in ("packed", "dense")
    ]
    assert sizes[0] <= most * sizes[1]
    check_same(model, load(tmp_path / "packed", build))


def test_the_report_is_kept(tmp_path):
    class Report:
        def to_record(self):
            return {"method": "obs", "error": float("nan"), "shape": (2, 3)}

    save(mlp(), tmp_path / "m", report=Report())
    expected = {"method": "obs", "error": None, "shape": [2, 3]}
    assert recipe_of(tmp_path / "m")["report"] == expected
    save(load(tmp_path / "m", mlp), tmp_path / "n", report={"a": 1})
    assert recipe_of(tmp_path / "n")["report"] == {"a": 1}


# -- shapes that pruning changed -------------------------------------------------------


def compacted():
    """A `Net` whose first convolution lost five channels, as compaction would do it."""
    model = Net()
    kept = torch.tensor([0, 2, 3, 5, 7, 8, 11])
    with torch.no_grad():
        for module in (model.first, model.norm, model.depthwise):
            for tensor in tensors_of(module).values():
                if tensor.ndim:
                    tensor.data = tensor[kept].clone()
        model.up.weight.data = model.up.weight[kept].clone()
        model.ramp = model.ramp[kept].clone()
    model.first.out_channels = model.norm.num_features = 7
    model.depthwise.in_channels = model.depthwise.out_channels = 7
    model.depthwise.groups = model.up.in_channels = 7
    return model


def test_pruned_shapes_are_rebuilt(tmp_path):
    model = compacted().eval()
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", Net).eval()
    check_same(model, again)
    assert repr(again) == repr(model)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    save(again, tmp_path / "n")  # and once more
    check_same(model, load(tmp_path / "n", Net))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.size = 4, (4, 8)
        self.out = nn.Linear(32, 5, bias=False)


def test_attributes_that_compaction_names_are_set(tmp_path):
    model = nn.Sequential(Attention())
    model[0].heads, model[0].size = 3, (3, 8)
    model[0].out.weight.data = model[0].out.weight.data[:, :24].clone()
    model[0].out.in_features = 24
    model._vitalfew_attributes = {"0": {"heads": 3, "size": (3, 8)}}
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", lambda: nn.Sequential(Attention()))
    assert (again[0].heads, again[0].size) == (3, (3, 8))
    assert again[0].out.in_features == 24
    save(again, tmp_path / "n")
    known = recipe_of(tmp_path / "n")["attributes"]["0"]
    assert known == {"heads": 3, "size": [3, 8]}


def test_a_bias_that_compaction_made(tmp_path):
    model = nn.Sequential(Attention())
    model[0].out.bias = nn.Parameter(torch.randn(5))
    save(model, tmp_path / "m")
    check_same(model, load(tmp_path / "m", lambda: nn.Sequential(Attention())))


@pytest.mark.parametrize("value", [0, -1, 2**31, True, 1.5, "3", None, [3], (3, 0)])
def test_attributes_that_cannot_be_stored(tmp_path, value):
    model = nn.Sequential(Attention())
    model._vitalfew_attributes = {"0": {"heads": value}}
    with pytest.raises(ValueError, match="heads"):
        save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


# -- what cannot be stored -------------------------------------------------------------


def test_models_that_cannot_be_stored(tmp_path):
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

    meta = nn.Linear(3, 3, device="meta")
    sparse = nn.Linear(3, 3)
    sparse.register_buffer("s", torch.eye(3).to_sparse())
    odd = nn.Linear(3, 3)
    odd.register_buffer("c", torch.zeros(2, dtype=torch.complex128))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(mlp())
        quantised = torch.ao.quantization.quantize_dynamic(mlp())
    for model, why in (
        (meta, "meta"),
        (nn.LazyLinear(3), "initialised"),
        (sparse, "sparse"),
        (odd, "complex128"),
        (Extra(), "_extra_state"),
        (quantised, "_packed_params"),
        (scripted, "scripted"),
    ):
        with pytest.raises(ValueError, match=why):
            save(model, tmp_path / "m")
    with pytest.raises(TypeError):
        save(mlp(), tmp_path / "m", report={"a": object()})
    assert not list(tmp_path.iterdir())


# -- folders ---------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    save(mlp(), folder)  # an empty one is fine
    with pytest.raises(ValueError, match="overwrite=True"):
        save(mlp(), folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match=r"recipe\.json"):
        save(mlp(), tmp_path / "other", overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        save(mlp(), tmp_path / "other" / "thesis.txt", overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years"
    assert {p.name for p in tmp_path.iterdir()} == {"m", "other"}


def test_overwriting_keeps_what_others_wrote(tmp_path):
    folder, model = tmp_path / "m", prune(mlp(), 0.1)
    save(Net(), folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "more").mkdir()
    (folder / "more" / "a").write_text("too")
    save(model, folder, overwrite=True)
    check_same(model, load(folder, mlp))
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "more" / "a").read_text() == "too"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_link_to_a_folder_is_followed(tmp_path):
    model = mlp()
    save(Net(), tmp_path / "m")
    (tmp_path / "link").symlink_to("m")
    save(model, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    check_same(model, load(tmp_path / "m", mlp))


@pytest.mark.skipif(os.name == "nt", reason="has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_may_be_read_by_those_whom_the_umask_lets(tmp_path, umask):
    before = os.umask(umask)
    try:
        save(prune(mlp(), 0.1), tmp_path / "m")
        (tmp_path / "m" / "plain").write_text("as others are written")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "m").iterdir()}
    assert modes.keys() == {"packed.safetensors", "recipe.json", "plain"}
    assert set(modes.values()) == {modes["plain"]}


@pytest.mark.skipif(os.name == "nt", reason="has no modes")
def test_a_private_folder_stays_private(tmp_path):
    (tmp_path / "m").mkdir(mode=0o700)
    for overwrite in (False, True):
        save(mlp(), tmp_path / "m", overwrite=overwrite)
        assert (tmp_path / "m").stat().st_mode & 0o777 == 0o700


def test_a_relative_path_and_new_parents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = mlp()
    save(model, "a/b/m")
    check_same(model, load("a/b/m", mlp))


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", ["save_file", "os.fsync", "os.rename"])
def test_a_failed_write_changes_nothing(tmp_path, monkeypatch, name, earlier):
    model = mlp()
    if earlier:
        save(model, tmp_path / "m")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    where = "files" if name == "save_file" else "_folder"
    monkeypatch.setattr(f"vitalfew.pruning.{where}.{name}", fail)
    with pytest.raises(OSError, match="disk full"):
        save(mlp(), tmp_path / "m", overwrite=True)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["m"] * earlier
    if earlier:
        check_same(model, load(tmp_path / "m", mlp))


def test_an_interrupt_between_the_two_renames(tmp_path, monkeypatch):
    model = mlp()
    save(model, tmp_path / "m")
    calls, real = [], os.rename

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr("vitalfew.pruning._folder.os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(mlp(), tmp_path / "m", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    check_same(model, load(tmp_path / "m", mlp))


def in_children(jobs):
    """Run functions in processes of their own; return their exit codes."""
    children = []
    for job in jobs:
        child = os.fork()
        if not child:
            try:
                job()
            except ValueError:
                os._exit(3)
            finally:
                os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]


forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python warns of the threads that torch has, which writing does not need
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


class TestProcesses:
    pytestmark = forks

    @pytest.mark.parametrize("name", ["fsync", "rename", "rmdir"])
    def test_killed_while_writing(self, tmp_path, name):
        model = mlp()

        def job():
            setattr(os, name, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
            (tmp_path / "m").mkdir(exist_ok=True)
            save(model, tmp_path / "m")

        codes = in_children([job])
        assert codes in ([-signal.SIGKILL], [0])
        if any((tmp_path / "m").iterdir()):
            check_same(model, load(tmp_path / "m", mlp))
        save(model, tmp_path / "m", overwrite=True)
        check_same(model, load(tmp_path / "m", mlp))

    def test_a_read_only_folder(self, tmp_path):
        def job():
            if os.getuid() == 0:
                os.setuid(65534)  # the one who owns it may write anywhere
            with pytest.raises(OSError, match="locked"):
                save(mlp(), tmp_path / "locked" / "m")
            os._exit(5)

        (tmp_path / "locked").mkdir(mode=0o500)
        assert in_children([job]) == [5]
        assert not any((tmp_path / "locked").iterdir())

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_at_once_into_one_folder(self, tmp_path, overwrite):
        models = [mlp() for _ in range(6)]

        def job(model):
            return lambda: save(model, tmp_path / "m", overwrite=overwrite)

        codes = in_children([job(m) for m in models])
        assert sorted(codes) == ([0] * 6 if overwrite else [0] + [3] * 5)
        again = load(tmp_path / "m", mlp).state_dict()
        alike = [
            all(torch.equal(again[k], v) for k, v in m.state_dict().items())
            for m in models
        ]
        assert sum(alike) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        save(mlp(), tmp_path / "file" / "m")


# -- files that lie --------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "m"
    torch.manual_seed(0)
    save(prune(Net(), 0.1), folder)
    return folder


@pytest.fixture
def damaged(stored, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for path in stored.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_no_folder_of_a_model(tmp_path):
    with pytest.raises(DataError, match=r"recipe\.json"):
        load(tmp_path / "nowhere", mlp)
    (tmp_path / "recipe.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"recipe\.json"):
        load(tmp_path, mlp)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 10**5, '{"format": NaN}'])
def test_recipes_that_are_none(damaged, text):
    (damaged / "recipe.json").write_text(text)
    with pytest.raises(DataError):
        load(damaged, Net)


def test_a_key_that_stands_twice(damaged):
    text = (damaged / "recipe.json").read_text()
    (damaged / "recipe.json").write_text('{"version": "x",' + text.lstrip("{ \n"))
    with pytest.raises(DataError, match="twice"):
        load(damaged, Net)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "vitalfew-pruned/2"},
        {"format": None},
        {"version": 3},
        {"files": "recipe.json"},
        {"files": [3]},
        {"ordinary": 1},
        {"tensors": []},
        {"tensors": {"head.weight": 3}},
        {"tied": ["a"]},
        {"tied": {"twin.weight": "../../head.weight"}},
        {"tied": {"head.weight": "head.weight"}},
        {"tied": {}},
        {"attributes": {"head": {"__class__": 3}}},
        {"attributes": {"head": {"forward": 3}}},
        {"attributes": {"head": {"training": 1}}},
        {"attributes": {"head": {"_version": 1}}},
        {"attributes": {"head": {"in_features": "5"}}},
        {"attributes": {"head": {"in_features": [5]}}},
        {"attributes": {"head": {"in_features": 0}}},
        {"attributes": {"head": {"in_features": 2**31}}},
        {"attributes": {"head": {"in_features": True}}},
        {"attributes": {"head": {"nothing": 5}}},
        {"attributes": {"first": {"kernel_size": [3, 3, 3]}}},
        {"attributes": {"../head": {"in_features": 5}}},
        {"attributes": 3},
        {"surprise": 1},
    ],
    ids=str,
)
def test_recipes_that_say_what_cannot_be(damaged, changes):
    change(damaged, **changes)
    with pytest.raises(DataError):
        load(damaged, Net)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("first.weight", {"shape": [12, 3, 3]}),
        ("first.weight", {"shape": [2**30, 2**30, 2**30]}),
        ("first.weight", {"shape": [2**30, 3, 3, 3]}),
        ("first.weight", {"shape": [-12, 3, 3, 3]}),
        ("first.weight", {"shape": [12.0, 3, 3, 3]}),
        ("first.weight", {"shape": "12"}),
        ("first.weight", {"shape": [11, 3, 3, 3]}),
        ("first.weight", {"block": [0, 1]}),
        ("first.weight", {"block": [2, 1, 1]}),
        ("first.weight", {"block": [2**31 - 1, 1]}),
        ("first.weight", {"axis": 2}),
        ("first.weight", {"axis": True}),
        ("first.weight", {"axis": -1}),
        ("first.weight", {"dtype": "float64"}),
        ("first.weight", {"dtype": "int32"}),
        ("first.weight", {"dtype": "object"}),
        ("first.weight", {"dtype": None}),
        ("first.weight", {"kind": "buffer"}),
        ("first.weight", {"kind": "pickle"}),
        ("first.weight", {"file": "/etc/passwd"}),
        ("norm.bias", {"shape": [13]}),
        ("norm.bias", {"shape": [6]}),
        ("norm.bias", {"block": [1, 1]}),
        ("norm.bias", {"dtype": "bfloat16"}),
        ("steps", {"dtype": "int32"}),
        ("steps", {"dtype": "float32"}),
        ("steps", {"kind": "parameter"}),
    ],
    ids=str,
)
def test_tensors_that_cannot_be(damaged, name, changes):
    tensors = recipe_of(damaged)["tensors"]
    assert (name == "first.weight") == ("block" in tensors[name])
    tensors[name] |= changes
    change(damaged, tensors=tensors)
    with pytest.raises(DataError):
        load(damaged, Net)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_truncated_weights(damaged, keep):
    path = damaged / "packed.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else keep])
    with pytest.raises(DataError, match=r"packed\.safetensors"):
        load(damaged, Net)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
@pytest.mark.parametrize("name", ["recipe.json", "config.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, transformers, name):
    save(bert(transformers), tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    os.mkfifo(tmp_path / "m" / name)
    with pytest.raises(ValueError, match=r"recipe\.json|build must be given"):
        load(tmp_path / "m")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        read(tmp_path)


def test_missing_and_strange_weights(damaged):
    path = damaged / "packed.safetensors"
    path.write_bytes(b"\x80\x05" + b"pickle" * 50)
    with pytest.raises(DataError, match=r"packed\.safetensors"):
        load(damaged, Net)
    path.unlink()
    with pytest.raises(DataError, match=r"packed\.safetensors"):
        load(damaged, Net)


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("first.weight.bits", lambda t: t[:-1]),
        ("first.weight.bits", lambda t: ~t),
        ("first.weight.bits", lambda t: t.to(torch.int8)),
        ("first.weight.bits", lambda t: t[None]),
        ("first.weight.values", lambda t: t[:-1]),
        ("first.weight.values", lambda t: t.double()),
        ("first.weight.values", lambda t: t[None]),
        ("norm.bias", lambda t: t[:-1]),
        ("norm.bias", lambda t: t.double()),
        ("norm.bias", None),
    ],
)
def test_weights_that_do_not_fit_the_recipe(damaged, name, new):
    path = damaged / "packed.safetensors"
    tensors = load_file(path)
    tensor = tensors.pop(name)
    if new is not None:
        tensors[name] = new(tensor).contiguous()
    save_file(tensors, path)
    with pytest.raises(DataError):
        load(damaged, Net)


def test_the_weights_of_another_save(damaged, tmp_path):
    other = tmp_path / "other"
    save(prune(mlp(), 0.1), other)
    os.replace(other / "packed.safetensors", damaged / "packed.safetensors")
    with pytest.raises(DataError, match="belong together"):
        load(damaged, Net)


def test_another_class_is_named(damaged):
    with pytest.raises(DataError, match="not the one saved here"):
        load(damaged, mlp)
    with pytest.raises(DataError, match="smaller"):
        load(damaged, lambda: Net(8))
    with pytest.raises(ValueError, match="build"):
        load(damaged)
    with pytest.raises(ValueError, match="build"):
        load(damaged, lambda: {"head.weight": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_recipe_is_refused_or_harmless(damaged, stored, data):
    recipe = recipe_of(stored)
    at = recipe
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [k for k, v in at.items() if isinstance(v, dict) and v]
        if not inner:
            break
        at = at[data.draw(st.sampled_from(inner))]
    key = data.draw(st.sampled_from(sorted(at)) | st.text(max_size=8))
    if data.draw(st.booleans()):
        at.pop(key, None)
    else:
        at[key] = data.draw(JSON | st.sampled_from(sorted(at)) | st.just(at.get(key)))
    (damaged / "recipe.json").write_text(json.dumps(recipe))
    try:
        model = load(damaged, Net)
    except DataError:
        return
    known, sizes = tensors_of(Net()), tensors_of(model)
    assert set(sizes) == set(known)
    assert all(sizes[n].numel() <= known[n].numel() for n in known)


# -- transformers ----------------------------------------------------------------------


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


def bert(transformers):
    config = transformers.BertConfig(
        vocab_size=101,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    return transformers.BertForMaskedLM(config).eval()


def gpt2(transformers):
    config = transformers.GPT2Config(
        vocab_size=103, n_positions=32, n_embd=48, n_layer=2, n_head=4
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama(transformers):
    config = transformers.LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


def t5(transformers):
    config = transformers.T5Config(
        vocab_size=97, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def outputs(model):
    ids = torch.arange(12).reshape(2, 6)
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("make", [bert, gpt2, llama, t5])
def test_a_transformer_comes_back_packed(tmp_path, transformers, make, half):
    model = prune(make(transformers), 0.1, (4, 1))
    model = model.bfloat16() if half else model
    state = torch.get_rng_state()
    save(model, tmp_path / "m")
    for again in (
        load(tmp_path / "m"),
        load(tmp_path / "m", lambda: make(transformers)),
        read(tmp_path / "m"),
    ):
        assert torch.equal(state, torch.get_rng_state())
        check_same(model, again)
        assert type(again) is type(model)
        assert not again.training
        torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=0)
    if make is not bert:
        assert again.generation_config == model.generation_config
    with pytest.raises(OSError, match="no file named"):  # not a random model
        type(model).from_pretrained(tmp_path / "m", local_files_only=True)
    tied = recipe_of(tmp_path / "m")["tied"]
    assert bool(tied) == (make is not llama)


@pytest.mark.parametrize("make", [bert, gpt2, llama, t5])
def test_a_dense_folder_is_one_for_from_pretrained(tmp_path, transformers, make):
    model = prune(make(transformers), 0.2).bfloat16()
    save(model, tmp_path / "m", dense=True)
    theirs = type(model).from_pretrained(tmp_path / "m", dtype=torch.bfloat16).eval()
    for again in (theirs, load(tmp_path / "m"), read(tmp_path / "m")):
        torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=0)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            assert torch.equal(again.get_parameter(name), parameter), name
    with pytest.raises(ValueError, match="build"):
        load(tmp_path / "m", lambda: make(transformers))
    save(load(tmp_path / "m"), tmp_path / "m", overwrite=True)  # and packed in place
    torch.testing.assert_close(outputs(read(tmp_path / "m")), outputs(model))


def test_sizes_of_a_pruned_transformer(tmp_path, transformers):
    config = transformers.GPT2Config(
        vocab_size=512, n_positions=64, n_embd=128, n_layer=2, n_head=4
    )
    model = prune(transformers.GPT2LMHeadModel(config), 0.1, (1, 16))
    save(model, tmp_path / "packed")
    save(model, tmp_path / "dense", dense=True)
    sizes = [
        (tmp_path / name / f"{file}.safetensors").stat().st_size
        for name, file in (("packed", "packed"), ("dense", "model"))
    ]
    vectors = sum(p.nbytes for p in model.parameters() if p.ndim < 2)
    assert sizes[0] - vectors <= 0.12 * (sizes[1] - vectors)
    # blocks run along outputs, which GPT-2's weights hold in their second axis
    entry = recipe_of(tmp_path / "packed")["tensors"][
        "transformer.h.0.attn.c_attn.weight"
    ]
    assert (entry["block"], entry["axis"]) == ([16, 1], 1)


def test_a_transformer_with_fewer_neurons(tmp_path, transformers):
    model = bert(transformers)
    layer = model.bert.encoder.layer[1]
    for linear, rows in ((layer.intermediate.dense, 0), (layer.output.dense, 1)):
        linear.weight.data = linear.weight.data.narrow(rows, 3, 20).clone()
    layer.intermediate.dense.bias.data = layer.intermediate.dense.bias.data[3:23]
    layer.intermediate.dense.out_features = layer.output.dense.in_features = 20
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    check_same(model, again)
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=0)
    with pytest.raises(ValueError, match="dense must be False"):
        save(model, tmp_path / "n", dense=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_the_tokenizer_goes_along(tmp_path, transformers):
    words = {"[UNK]": 0, "few": 1, "matter": 2, "[PAD]": 3, "[CLS]": 4, "[SEP]": 5}
    words |= {"[MASK]": 6}
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    save(bert(transformers), tmp_path / "m", tokenizer=tokenizer)
    again = read_tokenizer(tmp_path / "m")
    assert again("few matter")["input_ids"] == tokenizer("few matter")["input_ids"]
    save(bert(transformers), tmp_path / "n")
    assert read_tokenizer(tmp_path / "n") is None


def test_ordinary_folders_are_read(tmp_path, transformers):
    model = gpt2(transformers).half()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20kB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for name in ("one", "parts"):
        again = read(tmp_path / name)
        assert again.dtype == torch.float16
        check_same(model, again)


def configured(transformers, folder, **changes):
    bert(transformers).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["os.system"]},
        {"architectures": ["pipeline"]},
        {"architectures": ["PreTrainedModel"]},
        {"architectures": ["AutoModel"]},
        {"architectures": ["BertConfig"]},
        {"architectures": ["__loader__"]},
        {"architectures": ["models"]},
        {"architectures": ["../BertModel"]},
        {"architectures": []},
        {"architectures": None},
        {"architectures": "BertModel"},
        {"attn_implementation": "someone/kernels"},
        {"sub": {"_attn_implementation": {"": "someone/kernels@main"}}},
        {"sub": {"trust_remote_code": True}},
        {"sub": {"attribute_map": {"auto_map": "other"}}},
        {"backbone": "someone/model"},
        {"backbone": "./model"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"hidden_size": -1},
        {"num_hidden_layers": 10**9},
        {"hidden_size": "many"},
        {"num_attention_heads": 5},
        {"hidden_act": "no such"},
    ],
    ids=str,
)
def test_configurations_that_are_refused(tmp_path, transformers, changes):
    ordinary = configured(transformers, tmp_path / "ordinary", **changes)
    with pytest.raises(DataError):
        read(ordinary)
    save(bert(transformers), tmp_path / "packed")
    os.replace(ordinary / "config.json", tmp_path / "packed" / "config.json")
    with pytest.raises(DataError):
        load(tmp_path / "packed")


def test_code_in_a_folder_is_not_run(tmp_path, transformers):
    folder = configured(
        transformers,
        tmp_path / "m",
        architectures=["Evil"],
        auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Config"},
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="never run"):
        read(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(read(folder)) is transformers.BertForMaskedLM
    assert not (tmp_path / "ran").exists()


def test_code_that_a_part_of_a_configuration_names_is_not_run(
    tmp_path, transformers, monkeypatch
):
    part = {"auto_map": {"AutoBackbone": "evil.Evil"}, "name_or_path": str(tmp_path)}
    folder = configured(
        transformers,
        tmp_path,
        architectures=["DepthAnythingForDepthEstimation"],
        model_type="depth_anything",
        backbone_config={"model_type": "bert", **part},
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *said: asked.append(said) or "y")
    with pytest.raises(DataError):
        read(folder)
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_a_configuration_of_a_giant_allocates_nothing(tmp_path, transformers):
    save(bert(transformers), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["vocab_size"] = 2**36
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="bytes"):
        load(tmp_path / "m")
    folder = configured(transformers, tmp_path / "n", vocab_size=2**36)
    with pytest.raises(DataError, match="bytes"):
        read(folder)


def test_pickled_weights_are_refused(tmp_path, transformers):
    folder = configured(transformers, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="has no model"):
        read(folder)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="save_pretrained"):
        read(folder)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/etc/model.safetensors"}}',
        '{"weight_map": {"a": "model.bin"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "absent.safetensors"}}',
    ],
)
def test_lists_of_parts_that_are_refused(tmp_path, transformers, index):
    folder = configured(transformers, tmp_path / "m")
    os.replace(folder / "model.safetensors", tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError):
        read(folder)


def test_folders_with_weights_that_are_not_the_model_s(tmp_path, transformers):
    folder = configured(transformers, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="would be random"):
        read(folder)
    with pytest.raises(DataError, match="not a folder"):
        read("bert-base-uncased")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapter"):
        read(folder)


def test_without_transformers(tmp_path, transformers, monkeypatch):
    save(bert(transformers), tmp_path / "m")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="hf"):
        load(tmp_path / "m")
    save(mlp(), tmp_path / "n")
    check_same(load(tmp_path / "n", mlp), load(tmp_path / "n", mlp))
