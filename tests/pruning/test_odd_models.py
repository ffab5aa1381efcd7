"""Networks and data that tempt `prune` into wrong answers."""

import sys
from collections import UserDict

import pytest
import torch
from torch import nn

from vitalfew.neural import as_batches, collect, prunable_layers
from vitalfew.neural.propagation import propagate
from vitalfew.pruning import prune
from vitalfew.pruning.allocation import Uniform
from vitalfew.pruning.network import CHITA
from vitalfew.structures import NM, Blocks, Cardinality, Channels

METHODS = [
    *("magnitude", "wanda", "taylor", "obs"),
    pytest.param(CHITA(n_stages=2, n_refits=1, n_samples=20), id="chita"),
]


def mlp(n_in=6, n_hidden=8, n_out=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out)
    )


class Two(nn.Module):
    """Two layers and what a test puts between them."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.does = forward

    def forward(self, x):
        return self.head(self.does(self, x))


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def changed(model, before):
    return [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]


# -- nothing but what was asked for changes ----------------------------------------


@pytest.mark.parametrize("structure", [Channels(density=1.0), NM(4, 4)], ids=str)
def test_keeping_everything_clears_no_bias_and_no_statistics(structure):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), mlp(4))
    with torch.no_grad():
        model[2].weight[1] = 0  # an output that is its bias
    before = state(model)
    report = prune(model, structure, calibration=[torch.randn(9, 4)])
    assert changed(model, before) == []
    assert report.recalibrated == ()


def test_a_model_that_writes_into_its_inputs():
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    given = x.clone()
    plain = Two(lambda m, x: m.a(x - 1))
    writing = Two(lambda m, x: m.a(x.sub_(1)))
    for model in (plain, writing):
        prune(model, Cardinality(density=0.4), calibration=[x], method="obs")
    assert torch.equal(x, given)
    assert torch.equal(plain.a.weight, writing.a.weight)


def test_random_numbers_that_the_model_draws_are_not_missed_after_it():
    model = Two(lambda m, x: nn.functional.dropout(m.a(x), 0.3, True))
    x = torch.randn(8, 6)
    before = torch.get_rng_state()
    prune(model, Channels(density=0.5), calibration=[x], method="obs")
    assert torch.equal(torch.get_rng_state(), before)


# -- weights in several places -----------------------------------------------------


@pytest.mark.parametrize("excluded", ["0", "2"])
def test_an_excluded_layer_is_not_pruned_through_another(excluded):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), mlp())
    model[2].weight = model[0].weight
    before = model[0].weight.clone()
    report = prune(model, Cardinality(density=0.3), exclude=excluded)
    assert torch.equal(model[0].weight, before)
    other = "2" if excluded == "0" else "0"
    assert repr(excluded) in report.left[other]


@pytest.mark.parametrize("method", ["magnitude", "obs"])
def test_two_parameters_in_one_piece_of_memory_are_one_weight(method):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = nn.Parameter(model[0].weight.data)
    x = torch.randn(20, 6)
    report = prune(model, Cardinality(12), calibration=[x], method=method)
    assert [layer.name for layer in report.layers] == ["0"]
    assert int((model[2].weight != 0).sum()) == report.kept == 12


# -- batch norms behind removed channels -------------------------------------------


def lives(layer):
    return (layer.weight != 0).any(dim=1)


def test_a_norm_of_two_layers_is_cleared_where_neither_needs_it():
    model = Two(lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)))
    with torch.no_grad():
        model.a.weight[:5] /= 100
        model.b.weight[:3] /= 100
    prune(model, Channels(7), calibration=[torch.randn(9, 6)], method="magnitude")
    used = lives(model.a) | lives(model.b)
    assert 0 < int(used.sum()) < 8
    assert torch.equal(model.norm.weight != 0, used)


def test_a_norm_called_by_keyword():
    model = Two(lambda m, x: m.norm(input=m.a(input=x)))
    prune(model, Channels(5), calibration=[torch.randn(9, 6)], include=["a"])
    assert torch.equal(model.norm.weight != 0, lives(model.a))


def test_a_norm_of_a_sum_made_in_place_is_not_cleared():
    model = Two(lambda m, x: m.norm(m.a(x).add_(m.b(x))))
    prune(model, Channels(3), calibration=[torch.randn(9, 6)], include=["a"])
    assert int(lives(model.a).sum()) == 3
    assert bool((model.norm.weight != 0).all())


def test_a_norm_over_another_dimension_than_the_outputs_is_not_cleared():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Flatten())
    prune(model, Channels(3), calibration=[torch.randn(4, 8, 6)], include=["0"])
    assert int(lives(model[0]).sum()) == 3
    assert bool((model[1].weight != 0).all())


# -- exact budgets -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_must_keep_more_than_their_share(method):
    model = mlp()
    x, y = torch.randn(20, 6), torch.randint(0, 4, (20,))
    keep = tuple(range(9))
    structure = Cardinality(density=0.3, keep=keep)
    report = prune(model, structure, calibration=[(x, y)], method=method)
    assert report.kept == report.asked == 24
    for layer in (model[0], model[2]):
        assert bool((layer.weight.flatten()[:9] != 0).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "structure", [Cardinality(density=0.9), NM(3, 4), Blocks((2, 3), density=0.9)]
)
def test_what_the_data_never_use_fills_the_budget_but_comes_last(method, structure):
    model = mlp()
    x, y = torch.randn(20, 6), torch.randint(0, 4, (20,))
    x[:, [1, 4]] = 0
    weight = model[0].weight.detach().clone()
    report = prune(model, structure, calibration=[(x, y)], method=method)
    assert report.kept == report.asked
    if method == "wanda" and isinstance(structure, Cardinality):
        gone = (model[0].weight == 0) & (weight != 0)
        for old, out in zip(weight.abs(), gone, strict=True):
            # within an output: unused inputs first, the smallest weight first
            order = sorted(range(6), key=lambda j: (j not in (1, 4), float(old[j])))
            assert set(torch.nonzero(out)[:, 0].tolist()) <= set(order[:2])


@pytest.mark.parametrize("method", ["magnitude", "wanda", "obs"])
def test_zeros_take_nothing_of_the_budget(method):
    model = mlp()
    with torch.no_grad():
        model[0].weight[:, 1:] = 0
        model[2].weight[1:] = 0
    report = prune(
        model, Cardinality(24), calibration=[torch.randn(20, 6)], method=method
    )
    assert report.kept == 16  # all there are


# -- calibration -------------------------------------------------------------------


class Measured(Uniform):
    measures = True

    def counts(self, parts, total):
        self.seen.append([part.loss_increase(3) for part in parts])
        return super().counts(parts, total)


def test_measured_losses_do_not_depend_on_the_batches():
    x, y = torch.randn(33, 6), torch.randn(33, 4)
    allocation = Measured()
    object.__setattr__(allocation, "seen", [])
    for batches in (
        [(x, y)],
        [(x[:1], y[:1]), (x[1:], y[1:])],
        [(x[:0], y[:0]), (x, y)],
    ):
        prune(mlp(), Cardinality(20), calibration=batches, allocation=allocation)
    one, *others = torch.tensor(allocation.seen)
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_targets_without_the_last_dimension_of_one():
    x, y = torch.randn(16, 6), torch.randn(16)
    models = [mlp(n_out=1) for _ in range(2)]
    for model, targets in zip(models, (y, y[:, None]), strict=True):
        prune(model, Cardinality(20), calibration=[(x, targets)], method="taylor")
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    with pytest.raises(ValueError, match="targets must have the shape"):
        prune(
            mlp(n_out=2),
            Cardinality(8),
            calibration=[(x, torch.randn(2, 16))],
            method="taylor",
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool])
@pytest.mark.parametrize("method", ["taylor", "fisher"])
def test_targets_of_any_integer_type(dtype, method):
    x, y = torch.randn(16, 6), torch.randint(0, 2, (16,))
    models = [mlp() for _ in range(2)]
    for model, targets in zip(models, (y, y.to(dtype)), strict=True):
        prune(model, Cardinality(20), calibration=[(x, targets)], method=method)
    assert torch.equal(models[0][0].weight, models[1][0].weight)


def test_outputs_of_samples_are_not_taken_for_tokens():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.pool = nn.Embedding(10, 5), nn.Linear(5, 5)

        def forward(self, input_ids, attention_mask):
            return self.pool(self.embed(input_ids)[:, 0])

    torch.manual_seed(0)
    model, ids = Pooled(), torch.randint(0, 10, (3, 5))  # as many tokens as outputs
    mask = torch.ones(3, 5).tril()
    batches = as_batches([{"input_ids": ids, "attention_mask": mask}])
    found = collect(model, prunable_layers(model)[0], batches, {"output_square"})
    expected = (model(ids, mask) ** 2).mean(dim=0)
    torch.testing.assert_close(found["pool"].output_square, expected)


# -- statistics of the layers before -----------------------------------------------


def test_an_input_changed_between_two_layers_is_another_input():
    def forward(m, x):
        x = x + 0.0
        first = m.a(x)
        return first + m.b(x.mul_(torch.arange(6.0)))

    model = Two(forward)
    x = torch.randn(20, 6)
    scale = {"a": torch.ones(6), "b": torch.arange(6.0)}
    layers = [each for each in prunable_layers(model)[0] if each.name in scale]
    seen = {}
    for group, statistics in propagate(model, layers, [x], {"hessian"}):
        seen |= {layer.name: statistics.hessian for layer in group}
    for name, factor in scale.items():
        X = x * factor
        torch.testing.assert_close(seen[name], X.T @ X / 20)


def test_a_block_that_writes_into_its_input():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            x += self.up(x)
            x += 1
            return x + self.down(torch.relu(x))

    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    x = torch.randn(20, 6)
    seen = {}
    layers = prunable_layers(model)[0]
    for group, statistics in propagate(model, layers, [x], {"hessian"}):
        seen |= {layer.name: statistics.hessian for layer in group}
    with torch.no_grad():
        state = x
        for number, block in enumerate(model):
            inside = state + block.up(state) + 1
            expected = torch.relu(inside).T @ torch.relu(inside) / 20
            torch.testing.assert_close(seen[f"{number}.up"], state.T @ state / 20)
            torch.testing.assert_close(seen[f"{number}.down"], expected)
            state = block(state.clone())


# -- checkpoints -------------------------------------------------------------------


class Enough(Exception):
    pass


def stop_at_second(what, step, steps):
    if what.startswith("pruning") and step == 2:
        raise Enough


def test_a_checkpoint_knows_data_in_any_mapping(tmp_path):
    model = mlp()
    given = {"checkpoint": tmp_path / "c", "method": "obs"}
    batches = [[UserDict(input=torch.randn(20, 6))] for _ in range(2)]
    with pytest.raises(Enough):
        prune(
            model,
            Cardinality(20),
            calibration=batches[0],
            progress=stop_at_second,
            **given,
        )
    with pytest.raises(ValueError, match="another calibration"):
        prune(model, Cardinality(20), calibration=batches[1], **given)


def test_a_checkpoint_of_layers_with_another_budget(tmp_path):
    model, x, y = mlp(), torch.randn(20, 6), torch.randint(0, 4, (20,))
    given = {
        "calibration": [(x, y)],
        "checkpoint": tmp_path / "c",
        "method": "obs",
        "allocation": "dynamic-programme",
    }

    def loss(sign):
        # which of the two layers counts depends on the sign
        def of(output, target):
            one, two = (layer.weight.square().sum() for layer in (model[0], model[2]))
            return 0 * output.sum() + sign * (one - two)

        return of

    with pytest.raises(Enough):
        prune(model, Cardinality(20), loss=loss(1), progress=stop_at_second, **given)
    before = state(model)
    with pytest.raises(ValueError, match="another budget"):
        prune(model, Cardinality(20), loss=loss(-1), **given)
    assert changed(model, before) == []


# -- interrupts --------------------------------------------------------------------


def interrupted(work, at=None):
    """Run, with Ctrl-C at one line of these packages; return how many lines ran."""
    count = 0

    def line(frame, event, _):
        nonlocal count
        if event == "line":
            count += 1
            if count == at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return line

    def call(frame, event, _):
        name, where = frame.f_code.co_name, frame.f_code.co_filename
        ours = "vitalfew/neural" in where or "vitalfew/pruning" in where
        # not in the clean-up itself, nor on the way out of the call
        return line if ours and name not in ("_undone_on_failure", "prune") else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("method", ["magnitude", "obs"])
def test_an_interrupt_at_any_line_leaves_the_model_as_it_was(method):
    x = torch.randn(12, 6)

    def make():
        model = Two(lambda m, x: m.norm(m.a(x)))
        model.b.eval()
        return model

    def work(model):
        prune(model, Channels(4), calibration=[x], method=method)

    n_lines = interrupted(lambda: work(make()))
    assert n_lines > 300
    for at in range(1, n_lines, max(1, n_lines // 60)):
        model = make()
        before, modes = state(model), [m.training for m in model.modules()]
        interrupted(lambda model=model: work(model), at)
        assert changed(model, before) == [], at
        assert [m.training for m in model.modules()] == modes, at
        assert torch.is_grad_enabled(), at
