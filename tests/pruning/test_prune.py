"""The front door: exact budgets, all methods on all structures, nothing half done."""

import copy
import itertools
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.pruning.networks import convnet, mlp, pairs
from vitalfew import runtime
from vitalfew.exceptions import IncompatibleError
from vitalfew.neural import MovementSums, Statistics, prunable_layers
from vitalfew.pruning import (
    allocations,
    apply_masks,
    methods,
    prune,
    sparsity_report,
)
from vitalfew.pruning._contracts import Criterion, NetworkMethod, Reconstruction
from vitalfew.structures import (
    NM,
    Blocks,
    Bounded,
    Cardinality,
    Channels,
    Groups,
    Joint,
    Rows,
)

STRUCTURES = {
    "unstructured": Cardinality(density=0.3),
    "a count": Cardinality(100),
    "4x1": Blocks((4, 1), density=0.4),
    "16x1": Blocks((16, 1), density=0.4),
    "5x3": Blocks((5, 3), density=0.4),
    "2:4": NM(2, 4),
    "1:4 along outputs": NM(1, 4, axis=0),
    "outputs": Channels(density=0.5),
    "inputs": Channels(density=0.5, axis=1),
}
FREE = {name: s for name, s in STRUCTURES.items() if not isinstance(s, NM)}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )


def zero_atoms(report, model) -> None:
    """Check what the report says against the weights, by another count."""
    modules = dict(model.named_modules())
    for layer in report.layers:
        weight = modules[layer.name].weight
        assert layer.n_nonzero == int(torch.count_nonzero(weight))
        assert layer.n_weights == weight.numel()
        assert layer.kept <= layer.asked
        mask = report.masks[layer.name]
        assert mask.shape == weight.shape
        assert bool((weight[~mask] == 0).all())


def information(method, model, batches):
    """What a method needs besides the model."""
    if "movement" not in method.needs:
        return {"calibration": batches}
    sums = MovementSums(model)
    for x, y in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        sums.update()
    model.zero_grad()
    return {"statistics": sums.statistics()}


def quick(name: str):
    """A method by name, with few stages and samples where it has any."""
    method = methods()[name]
    few = {"n_stages": 2, "n_refits": 1, "n_samples": 50}
    known = {field.name for field in fields(method)}
    if "n_stages" not in known:
        return name
    return method(**{k: v for k, v in few.items() if k in known})


@pytest.mark.parametrize("name", sorted(methods()))
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_every_method_keeps_to_every_structure_it_takes(name, structure):
    model, batches = mlp(), pairs()
    method = methods()[name]
    options = information(method, model, batches)
    before = state(model)
    inside = structure
    if structure.is_counted and structure.density is None:
        inside = type(structure)(density=0.3)
    if issubclass(method, Reconstruction) and not method().supports(
        inside.on((24, 16))
    ):
        with pytest.raises(IncompatibleError, match=r"these can: .*magnitude"):
            prune(model, structure, method=name, rng=0, **options)
        assert same(model, before)
        return
    report = prune(model, structure, method=quick(name), rng=0, **options)
    assert report.method == name
    zero_atoms(report, model)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    n_layers = len(report.layers)
    if isinstance(structure, NM):
        for layer in report.layers:
            assert layer.kept == layer.asked
        return
    everything = sum(layer.n_atoms for layer in report.layers)
    wanted = (
        structure.n_nonzero
        if structure.density is None
        else max(n_layers, int(structure.density * everything + 1e-9))
    )
    assert report.kept == wanted == report.asked
    assert all(layer.kept >= 1 for layer in report.layers)


@pytest.mark.parametrize("name", sorted(allocations()))
@pytest.mark.parametrize("structure", FREE.values(), ids=FREE.keys())
@pytest.mark.parametrize("method", ["magnitude", "obs"])
def test_every_allocation_is_exact(name, structure, method):
    model, batches = mlp(), pairs(n_batches=2)
    report = prune(
        model, structure, method=method, allocation=name, calibration=batches, rng=0
    )
    everything = sum(layer.n_atoms for layer in report.layers)
    wanted = (
        structure.n_nonzero
        if structure.density is None
        else max(len(report.layers), int(structure.density * everything + 1e-9))
    )
    assert report.kept == wanted
    assert report.allocation == name
    zero_atoms(report, model)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "obs", "admm", "chita"])
def test_convolutions_are_pruned_too(name):
    model, batches = convnet(), pairs((3, 6, 6))
    report = prune(
        model,
        Blocks((4, 1), density=0.5),
        method=quick(name),
        calibration=batches,
        rng=0,
    )
    zero_atoms(report, model)
    assert report.kept == report.asked
    assert report.recalibrated == ("1", "4")
    x = batches[0][0]
    assert bool(torch.isfinite(model(x)).all())


def test_magnitude_keeps_the_largest_weights_of_all_layers():
    model = mlp()
    weights = torch.cat([layer.weight.flatten() for layer in prunable_layers(model)[0]])
    total = int(0.2 * len(weights) + 1e-9)
    border = weights.abs().sort(descending=True).values[total - 1]
    expected = {
        name: p.detach() * (p.detach().abs() >= border)
        for name, p in model.named_parameters()
        if p.ndim == 2
    }
    prune(model, Cardinality(density=0.2))
    for name, value in expected.items():
        assert torch.equal(model.get_parameter(name), value)


def test_uniform_gives_each_layer_its_share():
    model = mlp()
    report = prune(model, Cardinality(density=0.25), allocation="uniform")
    for layer in report.layers:
        assert layer.density == pytest.approx(0.25, abs=1 / layer.n_weights)


def test_wanda_compares_within_outputs():
    model = mlp()
    prune(
        model,
        Cardinality(density=0.5),
        method="wanda",
        allocation="uniform",
        calibration=pairs(),
    )
    for layer in prunable_layers(model)[0]:
        kept = (layer.weight != 0).sum(dim=1)
        assert bool((kept == layer.shape[1] // 2).all())


def test_auto_says_what_it_chose():
    assert prune(mlp(), Cardinality(density=0.5)).method == "magnitude"
    for structure in STRUCTURES.values():
        report = prune(mlp(), structure, calibration=pairs(n_batches=1), rng=0)
        assert issubclass(methods()[report.method], Reconstruction)


def test_reconstruction_beats_magnitude_on_the_calibration_data():
    batches = pairs()

    def change(method: str) -> float:
        dense = mlp()
        model = copy.deepcopy(dense)
        prune(
            model,
            Cardinality(density=0.3),
            method=method,
            calibration=batches,
            allocation="uniform",
            rng=0,
        )
        with torch.no_grad():
            return float(sum((model(x) - dense(x)).square().sum() for x, _ in batches))

    magnitude = change("magnitude")
    for name in ("obs", "admm", "iht", "local-search"):
        assert change(name) < magnitude


def test_errors_are_those_behind_the_pruned_layers():
    dense, batches = mlp(), pairs()
    model = copy.deepcopy(dense)
    report = prune(
        model, Cardinality(density=0.3), method="obs", calibration=batches, rng=0
    )
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        for number, layer in zip((0, 2, 4), report.layers, strict=True):
            inputs = model[:number](x)
            old, new = dense[number].weight, model[number].weight
            error = (inputs @ (old - new).T).square().sum()
            expected = error / (inputs @ old.T).square().sum()
            assert layer.error == pytest.approx(float(expected), rel=1e-3)
            assert layer.n_tokens == len(x)


@pytest.mark.parametrize("structure", ["unstructured", "4x1", "inputs"])
def test_the_budget_follows_the_outputs_that_would_be_lost(structure):
    """Squares of weights times inputs, against all that are not lower in the layer."""
    dense, batches = mlp(bias=False), pairs()
    model = copy.deepcopy(dense)
    report = prune(
        model, STRUCTURES[structure], method="obs", calibration=batches, rng=0
    )
    everything = []
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        for number in (0, 2, 4):
            inputs, weight = dense[:number](x), dense[number].weight
            lost = weight.square() * inputs.square().mean(dim=0)
            bound = STRUCTURES[structure].on(tuple(weight.shape))
            atoms = bound.scores(lost.sqrt())
            everything += [(a / atoms[atoms >= a].sum(), number) for a in atoms]
    kept = sorted(everything, reverse=True)[: report.kept]
    counts = [sum(n == number for _, n in kept) for number in (0, 2, 4)]
    assert [layer.kept for layer in report.layers] == counts
    assert min(counts) > 1


# -- what is left dense, and why -----------------------------------------------------


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.spare = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        h = self.second(torch.relu(self.first(self.embed(ids))))
        return self.head(self.lstm(h)[0])


@pytest.mark.parametrize("name", ["magnitude", "obs", "fisher", "chita"])
def test_odd_modules_are_named_and_left(name):
    torch.manual_seed(0)
    model = Odd()
    ids = [(torch.randint(0, 20, (6, 5)), torch.randint(0, 20, (6, 5)))] * 2
    report = prune(
        model, Cardinality(density=0.5), method=quick(name), calibration=ids, rng=0
    )
    assert {"embed", "lstm", "head"} <= set(report.left)
    assert "first" in {layer.name for layer in report.layers}
    assert model.second.weight is model.first.weight
    assert model.head.weight is model.embed.weight
    if name == "obs":
        assert "no data reach it" in report.left["spare"]
    zero_atoms(report, model)


def test_small_layers_are_left_dense():
    model = mlp()
    report = prune(model, Blocks((4, 4), density=0.5), min_blocks=4)
    assert list(report.left) == ["4"]
    assert "3 blocks, fewer than min_blocks=4" in report.left["4"]
    assert bool((model[4].weight != 0).all())


def test_include_and_exclude():
    model = mlp()
    report = prune(model, Cardinality(density=0.5), include=["0", "2"], exclude="2")
    assert [layer.name for layer in report.layers] == ["0"]
    assert report.left == {"2": "excluded", "4": "excluded"}


def test_frozen_weights_are_pruned_and_stay_frozen():
    model = mlp()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in ("magnitude", "obs", "taylor", "fisher", "chita"):
        prune(
            copy.deepcopy(model),
            Cardinality(density=0.5),
            method=quick(name),
            calibration=pairs(n_batches=1),
            rng=0,
        )
        assert not any(p.requires_grad for p in model.parameters())


def test_outputs_of_the_model_are_no_channels_to_remove():
    model = mlp()
    report = prune(model, Channels(density=0.5), calibration=pairs(), rng=0)
    assert "outputs are the model's" in report.left["4"]
    for layer in report.layers:
        module = model[int(layer.name)]
        empty = ~(module.weight != 0).any(dim=1)
        assert int(empty.sum()) == layer.n_atoms - layer.kept
        assert bool((module.bias[empty] == 0).all())


def test_norms_of_removed_channels_are_cleared():
    model, batches = convnet(), pairs((3, 6, 6))
    prune(model, Channels(density=0.5), calibration=batches, include="[03]", rng=0)
    for conv, norm in ((model[0], model[1]), (model[3], model[4])):
        empty = ~(conv.weight != 0).flatten(1).any(dim=1)
        assert bool(empty.any())
        assert bool((norm.weight[empty] == 0).all())
        assert bool((norm.bias[empty] == 0).all())
        assert bool((norm.weight[~empty] != 0).all())
    with torch.no_grad():
        hidden = model[:2](batches[0][0])
    empty = ~(model[0].weight != 0).flatten(1).any(dim=1)
    assert float(hidden[:, empty].abs().max()) == 0


def test_norms_are_told_of_without_data():
    report = prune(convnet(), Cardinality(density=0.5))
    assert report.recalibrated == ()
    assert any("give calibration" in note for note in report.notes)
    report = prune(
        convnet(),
        Cardinality(density=0.5),
        calibration=pairs((3, 6, 6)),
        recalibrate=False,
        method="magnitude",
    )
    assert report.recalibrated == ()


def test_pruning_a_pruned_model_goes_on_from_it():
    model = mlp()
    first = prune(model, Cardinality(density=0.5))
    second = prune(model, Cardinality(density=0.2))
    for name, mask in second.masks.items():
        assert bool((first.masks[name] | ~mask).all())
    assert second.kept == second.asked
    third = prune(model, Cardinality(density=0.5))  # there is not that much left
    assert third.kept == second.kept < third.asked


@pytest.mark.parametrize("structure", [Cardinality(density=1.0), NM(4, 4)], ids=repr)
@pytest.mark.parametrize("name", ["magnitude", "obs", "chita"])
def test_keeping_everything_changes_nothing(name, structure):
    model, batches = mlp(), pairs(n_batches=2)
    before = state(model)
    report = prune(model, structure, method=quick(name), calibration=batches, rng=0)
    assert report.density == 1
    assert same(model, before)
    assert "nothing was to be removed" in str(report)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("name", ["magnitude", "wanda", "obs", "admm"])
def test_every_precision(dtype, name):
    model = mlp().to(dtype)
    batches = [(x.to(dtype), y) for x, y in pairs()]
    report = prune(
        model, Blocks((4, 1), density=0.4), method=name, calibration=batches, rng=0
    )
    assert report.kept == report.asked
    assert all(p.dtype == dtype for p in model.parameters())
    assert bool(torch.isfinite(model(batches[0][0])).all())


@pytest.mark.parametrize("name", sorted(set(methods()) - {"movement"}))
def test_the_same_seed_gives_the_same_answer(name):
    structure = Channels(density=0.5, axis=1)
    first, second = mlp(), mlp()
    for model in (first, second):
        torch.manual_seed(int(model is first))  # the global generator has no say
        prune(model, structure, method=quick(name), calibration=pairs(), rng=3)
    assert same(first, state(second))


# -- bad input -------------------------------------------------------------------------


def with_nan(batches):
    batches[0][0][0, 0] = float("nan")
    return batches


BAD = {
    "no layers": (
        lambda: (nn.ReLU(), Cardinality(density=0.5), {}),
        ValueError,
        "no layer can be pruned",
    ),
    "no such module": (
        lambda: (mlp(), Cardinality(density=0.5), {"include": "encoder.*"}),
        ValueError,
        "no module matches 'encoder",
    ),
    "no such method": (
        lambda: (mlp(), Cardinality(density=0.5), {"method": "magnitud"}),
        ValueError,
        "did you mean magnitude",
    ),
    "no method": (
        lambda: (mlp(), Cardinality(density=0.5), {"method": 3}),
        TypeError,
        "method must be a name",
    ),
    "no such allocation": (
        lambda: (mlp(), Cardinality(density=0.5), {"allocation": "fair"}),
        ValueError,
        "allocation must be one of",
    ),
    "no data": (
        lambda: (mlp(), Cardinality(density=0.5), {"method": "obs"}),
        ValueError,
        "needs data: give calibration",
    ),
    "no movement": (
        lambda: (
            mlp(),
            Cardinality(density=0.5),
            {"method": "movement", "calibration": pairs()},
        ),
        ValueError,
        "MovementSums",
    ),
    "no losses": (
        lambda: (
            mlp(),
            Cardinality(density=0.5),
            {"allocation": "dynamic-programme"},
        ),
        ValueError,
        "give calibration",
    ),
    "no targets": (
        lambda: (
            mlp(),
            Cardinality(density=0.5),
            {"method": "taylor", "calibration": [x for x, _ in pairs()]},
        ),
        ValueError,
        "needs targets",
    ),
    "too many": (
        lambda: (mlp(), Cardinality(10**6), {}),
        ValueError,
        "n_nonzero must be at most the 720",
    ),
    "too few": (
        lambda: (mlp(), Cardinality(2), {}),
        ValueError,
        "leave one in each of the 3 layers",
    ),
    "a tensor": (
        lambda: (
            mlp(),
            Cardinality(density=0.5),
            {"calibration": torch.ones(3, 16)},
        ),
        TypeError,
        r"calibration=\[batch\]",
    ),
    "empty data": (
        lambda: (mlp(), Cardinality(density=0.5), {"calibration": []}),
        ValueError,
        "at least one batch",
    ),
    "NaN in the data": (
        lambda: (
            mlp(),
            Cardinality(density=0.5),
            {"calibration": with_nan(pairs()), "method": "obs"},
        ),
        ValueError,
        "batch 0 has NaN",
    ),
    "NaN in a weight": (
        lambda: (broken(), Cardinality(density=0.5), {}),
        ValueError,
        "layer '2' has NaN",
    ),
    "bounds": (
        lambda: (mlp(), Bounded(Cardinality(5), 0, 1), {}),
        IncompatibleError,
        "got Bounded",
    ),
    "joint": (
        lambda: (mlp(), Joint((Cardinality(5).on((3, 4)),), 5), {}),
        IncompatibleError,
        "got Joint",
    ),
    "groups that fit nothing": (
        lambda: (mlp(), Groups([0, 1, 1], 1), {}),
        ValueError,
        "no layer can be pruned .*labels",
    ),
    "another method's structure": (
        lambda: (
            mlp(),
            Cardinality(density=0.5),
            {"method": "channel-lasso", "calibration": pairs()},
        ),
        IncompatibleError,
        "cannot keep to Cardinality; these can: .*admm",
    ),
}


def broken() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    return model


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_told_and_changes_nothing(case):
    make, error, message = case
    model, structure, options = make()
    before = state(model)
    with pytest.raises(error, match=message):
        prune(model, structure, **options)
    assert all(
        torch.equal(value.nan_to_num(), before[name].nan_to_num())
        for name, value in model.state_dict().items()
    )


class Interrupting:
    """A progress that raises at a step."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        self.after, self.error = after, error

    def __call__(self, what: str, step: int, steps: int) -> None:
        self.after -= 1
        if self.after < 0:
            raise self.error


@pytest.mark.parametrize("name", ["magnitude", "obs", "chita"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_run_leaves_the_model_as_it_was(name, error, after):
    model, batches = convnet(), pairs((3, 6, 6))
    before = state(model)
    with pytest.raises(error):
        prune(
            model,
            Cardinality(density=0.5),
            method=name,
            calibration=batches,
            rng=0,
            progress=Interrupting(after, error),
        )
    assert same(model, before)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(m.training for m in model.modules())


def test_an_interrupted_run_goes_on_layer_by_layer(tmp_path):
    batches, folder = pairs(), tmp_path / "layers"
    options = {"method": "obs", "calibration": batches, "rng": 0}
    whole = mlp()
    expected = prune(whole, Cardinality(density=0.3), **options)
    model = mlp()
    steps = itertools.count()

    def interrupt(what, step, n):
        if what.startswith("pruning 4"):
            raise KeyboardInterrupt
        next(steps)

    with pytest.raises(KeyboardInterrupt):
        prune(
            model,
            Cardinality(density=0.3),
            checkpoint=folder,
            progress=interrupt,
            **options,
        )
    assert len(list(folder.glob("*.layer"))) == 2
    with pytest.raises(ValueError, match="another method"):
        prune(
            model,
            Cardinality(density=0.3),
            checkpoint=folder,
            **{**options, "method": "admm"},
        )
    for file in folder.glob("*.layer"):  # read, not made again
        file.touch()
    report = prune(model, Cardinality(density=0.3), checkpoint=folder, **options)
    assert same(model, state(whole))
    assert [layer.error for layer in report.layers] == [
        layer.error for layer in expected.layers
    ]
    assert not folder.exists()


def test_a_broken_checkpoint_is_told(tmp_path):
    from vitalfew.exceptions import DataError

    options = {"method": "obs", "calibration": pairs(), "rng": 0}
    folder = tmp_path / "layers"
    with pytest.raises(KeyboardInterrupt):
        prune(
            mlp(),
            Cardinality(density=0.3),
            checkpoint=folder,
            progress=Interrupting(3, KeyboardInterrupt),
            **options,
        )
    file = next(folder.glob("*.layer"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="remove it to prune"):
        prune(mlp(), Cardinality(density=0.3), checkpoint=folder, **options)
    (folder / "run.json").write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        prune(mlp(), Cardinality(density=0.3), checkpoint=folder, **options)
    other = tmp_path / "full"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="new or empty folder"):
        prune(mlp(), Cardinality(density=0.3), checkpoint=other, **options)
    assert (other / "thesis.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda matrix: matrix[:3],
        lambda matrix: matrix.reshape(-1),
        lambda matrix: matrix[..., None],
        lambda matrix: torch.tensor(0.0),
        lambda matrix: matrix.to(torch.int64),
    ],
)
def test_a_finished_layer_of_another_form_is_told(tmp_path, change):
    from safetensors.torch import load_file, save_file

    from vitalfew.exceptions import DataError

    model, before = mlp(), state(mlp())
    options = {"method": "obs", "calibration": pairs(), "checkpoint": tmp_path / "at"}
    with pytest.raises(KeyboardInterrupt):
        prune(
            model,
            Cardinality(density=0.3),
            progress=Interrupting(3, KeyboardInterrupt),
            **options,
        )
    file = next((tmp_path / "at").glob("*.layer"))
    stored = load_file(file)
    save_file(stored | {"matrix": change(stored["matrix"]).clone()}, file)
    with pytest.raises(DataError, match="remove it to prune"):
        prune(model, Cardinality(density=0.3), **options)
    assert same(model, before)


def test_files_that_a_killed_run_was_writing_do_not_matter(tmp_path):
    folder = tmp_path / "layers"
    folder.mkdir()
    (folder / ".run.json.01234567.tmp").write_text('{"lay')
    options = {"method": "obs", "calibration": pairs(), "checkpoint": folder}
    prune(mlp(), Cardinality(density=0.3), **options)
    assert not folder.exists()


def test_a_layer_that_was_pruned_because_it_was_named_is_counted():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 8))
    model[2].weight = model[0].weight
    report = prune(model, Cardinality(density=0.5), include="2")
    assert [layer.name for layer in sparsity_report(model).layers] == ["1"]
    counted = sparsity_report(model, report=report).layers
    assert [layer.name for layer in counted] == ["1", "2"]
    assert counted[1].n_nonzero == report.n_nonzero == 16
    other = nn.Sequential(nn.Linear(4, 4))
    assert len(sparsity_report(other, report=report).layers) == 1


def test_few_samples_are_told():
    report = prune(
        mlp(),
        Cardinality(density=0.3),
        method="obs",
        calibration=[torch.randn(5, 16)],
        rng=0,
    )
    assert "5 tokens for 16 inputs" in report.layers[0].notes[0]


# -- what is said ------------------------------------------------------


def test_the_report_reads_well():
    model, batches = convnet(), pairs((3, 6, 6))
    report = prune(model, Cardinality(density=0.25), method="obs", calibration=batches)
    text = str(report)
    assert "pruned by obs to Cardinality(density=0.25)" in text
    assert f"{report.kept} of {report.n_atoms} weights kept" in text
    assert "2 layers estimated again" in text
    record = report.to_record()
    assert record["n_nonzero"] == report.n_nonzero
    assert len(record["layers"]) == len(report.layers)
    picture = np.array(record["layers"][0]["picture"])
    assert picture.shape == (8, 27)
    np.testing.assert_array_equal(picture > 0, report.masks["0"].reshape(8, 27))
    ax = report.plot()
    assert len(ax.patches) == len(report.layers)


def test_masks_hold_while_training_goes_on():
    model, batches = mlp(), pairs()
    report = prune(model, Cardinality(density=0.3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        apply_masks(model, report.masks)
    assert sparsity_report(model).n_nonzero <= report.kept
    with pytest.raises(ValueError, match="'9', which has no weight"):
        apply_masks(model, {"9": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="has shape"):
        apply_masks(model, {"0": torch.ones(2, 2, dtype=torch.bool)})


def test_multiplications_and_bytes_are_counted():
    model = convnet()
    batch = torch.randn(5, 3, 6, 6)
    found = sparsity_report(model, example_inputs=batch)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["0"].macs == 36 * 8 * 27
    assert by_name["3"].macs == 4 * 10 * 72
    assert by_name["8"].macs == 10 * 4
    assert found.density == 1
    report = prune(model, Cardinality(density=0.1))
    after = sparsity_report(model, example_inputs=batch, report=report)
    assert after.macs == found.macs
    assert after.n_nonzero == report.n_nonzero
    largest = max(after.layers, key=lambda layer: layer.n_weights)
    # a bit for each weight, four bytes for each that stays
    most = 4 * largest.n_nonzero + largest.n_weights / 8 + 1
    assert largest.bytes_packed <= most
    assert "total" in str(after)
    assert after.to_record()["layers"][0]["asked"] is not None


def test_latency_is_that_of_the_compiled_model(monkeypatch):
    seen = []

    def compiled(model, inputs):
        seen.append((model, inputs))
        layers = (
            runtime.LayerChoice("0", (4, 4), "16x1", 0.5, "16x1 float32", 3.0, 2.0),
            runtime.LayerChoice("2", (4, 4), "16x1", 0.5, "torch", 7.0, 7.0),
            runtime.LayerChoice("0", (4, 4), "16x1", 0.5, "8x1 float32", 4.0, 1.0),
        )
        torch.rand(1)  # compiling may draw numbers
        found = runtime.Explanation(layers, {}, 1, 90.0, 30.0, 0.0, "because\nof")
        return SimpleNamespace(explain=lambda: found)

    monkeypatch.setattr(runtime, "compile", compiled)
    model = mlp().double()
    batch = torch.ones(2, 16, dtype=torch.float64), torch.zeros(2)
    state = torch.get_rng_state()
    found = sparsity_report(model, example_inputs=batch, latency=True)
    assert torch.equal(torch.get_rng_state(), state)
    (given, inputs), *others = seen
    assert not others
    assert {p.dtype for p in given.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.equal(inputs, torch.ones(2, 16))
    assert inputs.dtype == torch.float32
    assert (found.latency_before, found.latency_after) == (90.0, 30.0)
    assert found.threads == torch.get_num_threads()
    assert found.notes == ("compiled by parts: because",)
    times = {
        layer.name: (layer.latency_before, layer.latency_after, layer.kernel)
        for layer in found.layers
    }
    assert times.pop("0") == (7.0, 3.0, "16x1 float32, 8x1 float32")
    assert times.pop("2") == (7.0, 7.0, "torch")
    assert set(times.values()) <= {(None, None, None)}
    said = str(found)
    assert "a call takes 90.0 us by torch, 30.0 us compiled" in said
    assert "because" in said
    record = found.to_record()
    assert record["latency_after"] == 30.0
    assert record["layers"][0]["latency_before"] == 7.0


def test_latency_is_measured_when_it_is_asked_for():
    model = mlp()
    prune(model, Cardinality(density=0.1))
    batch = torch.randn(4, 16)
    without = sparsity_report(model, example_inputs=batch)
    assert without.latency_before is None
    assert all(layer.latency_before is None for layer in without.layers)
    found = sparsity_report(model, example_inputs=batch, latency=True)
    assert found.latency_before > 0
    assert found.latency_after > 0
    assert {layer.name for layer in found.layers if layer.kernel} == {
        layer.name for layer in found.layers
    }
    assert found.macs == without.macs
    with pytest.raises(ValueError, match="latency=True needs example_inputs"):
        sparsity_report(model, latency=True)


def test_known_statistics_are_used():
    model = mlp()
    known = {
        layer.name: Statistics(input_square=torch.ones(layer.shape))
        for layer in prunable_layers(model)[0]
    }
    other = copy.deepcopy(model)
    prune(model, NM(2, 4), method="wanda", statistics=known)
    prune(other, NM(2, 4), method="magnitude")
    assert same(model, state(other))


def test_rows_and_groups_are_structures_too():
    model = mlp()
    report = prune(model, Rows(density=0.5))
    assert report.atoms == "rows"
    labels = torch.arange(24 * 16).reshape(24, 16) // 8
    report = prune(model, Groups(labels.numpy(), 10), include="0")
    assert report.kept == 10


def test_kinds_are_disjoint():
    kinds = (Criterion, Reconstruction, NetworkMethod)
    for method in methods().values():
        assert sum(issubclass(method, kind) for kind in kinds) == 1
        assert method.cost
        assert method.use
