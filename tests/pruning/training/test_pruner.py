"""The Pruner: its promises, and what happens when things go wrong."""

import copy
import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from tests.pruning.networks import convnet, mlp, pairs
from tests.pruning.training.trainings import BATCHES, Training, outputs, weights
from vitalfew.pruning import Pruner, training_methods
from vitalfew.pruning.training._contracts import phases_of
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups

METHODS = training_methods()
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}

# structures, and how many atoms of the layers of 24 x 16 and 12 x 24 weights they keep
LABELS = (
    np.arange(24 * 16).reshape(24, 16) * 7 % 41
)  # interleaved groups of unequal sizes
STRUCTURES = {
    "weights": (Cardinality(density=0.2), 134),
    "4x4": (Blocks((4, 4), density=0.25), 10),
    "5x7": (Blocks((5, 7), density=0.3), 8),
    "count": (Blocks((4, 4), 11), 11),
    "2:4": (NM(2, 4), 336),
    "outputs": (Channels(density=0.4, axis=0), 14),
    "inputs": (Channels(density=0.4, axis=1), 16),
    "groups": (Groups(LABELS, density=0.25), 10),
    "costs": (Groups(LABELS, costs=np.ones(41), max_cost=13), 13),
}


def made(method, structure, total_steps=40, **options):
    if isinstance(structure, Groups):  # its labels fit the first layer alone
        options["include"] = "0"
    return Training(method, structure, total_steps, **options)


# -- promises --------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("method", METHODS)
def test_sparse_phases_have_exact_counts_and_finalize_keeps_the_function(method, name):
    structure, count = STRUCTURES[name]
    training = made(method, structure, 12)
    pruner = training.pruner
    sparse = [
        phase
        for phase in pruner.phases
        if phase.name != "dense" and phase.removed == (1.0, 1.0)
    ]
    assert sparse  # at least the last one
    for n in range(12):
        if any(phase.start <= n < phase.end for phase in sparse):
            assert sum(pruner.kept.values()) == count, n
        training.step()
    assert sum(pruner.kept.values()) == count
    expected = outputs(training.model)
    report = pruner.finalize()
    found = outputs(training.model)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert sum(int(layer.kept) for layer in report.layers) <= count
    for module in training.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    for layer in report.layers:  # what is not kept is zero, and nothing else is hidden
        weight = training.model.get_submodule(layer.name).weight
        assert not weight[~report.masks[layer.name]].any()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_finalize_keeps_the_function_in_every_precision(method, dtype):
    training = Training(method, dtype=dtype, total_steps=16)
    training.steps(16)
    expected = outputs(training.model, dtype).double()
    training.pruner.finalize()
    found = outputs(training.model, dtype).double()
    assert expected.norm() > 0
    assert (found - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("method", ["sequential-attention++", "powerpropagation"])
def test_weights_stay_the_parameters_that_they_were(method):
    model = mlp()
    before = dict(model.named_parameters())
    order = list(before)
    training = Training(method, model=model, total_steps=12)
    trained = {id(p) for g in training.optimizer.param_groups for p in g["params"]}
    assert {id(p) for p in model.parameters()} == trained
    training.finish()
    after = dict(model.named_parameters())
    assert list(after) == order
    assert all(after[name] is before[name] for name in order)
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    trained = {id(p) for g in training.optimizer.param_groups for p in g["params"]}
    assert trained == {id(p) for p in model.parameters()}
    old = weights(model)
    loss = functional.cross_entropy(model(BATCHES[0][0]), BATCHES[0][1])
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    assert not torch.equal(old["0.weight"], model[0].weight)


def test_masks_are_those_of_the_weights_that_the_network_sees():
    training = Training().steps(33)
    for name, mask in training.pruner.masks.items():
        seen = training.model.get_submodule(name).weight
        assert torch.equal(seen != 0, mask)
    hidden = sum(int((~m).sum()) for m in training.pruner.masks.values())
    n_weights = sum(m.numel() for m in training.pruner.masks.values())
    assert training.pruner.sparsity == hidden / n_weights


@pytest.mark.parametrize("total_steps", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_shortest_trainings_reach_the_budget(method, total_steps):
    training = Training(method, total_steps=total_steps)
    report = training.finish()
    assert sum(training.pruner.kept.values()) == report.asked == 10
    assert torch.isfinite(outputs(training.model)).all()


@pytest.mark.parametrize("n_steps", [0, 7, 13])
@pytest.mark.parametrize("method", METHODS)
def test_finalized_early_the_budget_is_met_and_a_warning_says_so(method, n_steps):
    training = Training(method, total_steps=16).steps(n_steps)
    with pytest.warns(UserWarning, match=f"finalized after {n_steps} of 16 steps"):
        training.pruner.finalize()
    assert sum(training.pruner.kept.values()) == 10
    zero = {n: m.weight == 0 for n, m in training.model.named_children() if n in "02"}
    assert sum(int(z.sum()) for z in zero.values()) >= 672 - 160


def test_step_and_finalize_after_finalize_say_what_to_do():
    training = Training(total_steps=2)
    training.finish()
    for method in (training.pruner.step, training.pruner.finalize):
        with pytest.raises(RuntimeError, match="make another"):
            method()
    with pytest.raises(RuntimeError, match="make another"):
        training.pruner.load_state_dict(training.pruner.state_dict())


def test_steps_after_the_last_one_change_no_mask():
    training = Training("acdc").steps(40)
    masks = training.pruner.masks
    training.steps(15)
    assert all(torch.equal(m, masks[n]) for n, m in training.pruner.masks.items())
    training.pruner.finalize()


# -- layers ----------------------------------------------------------------------------


def test_layers_that_stay_dense_are_named_with_the_reason():
    model = mlp()
    model[2].requires_grad_(False)
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.5),
        total_steps=5,
        min_blocks=10,
        method="sequential-attention++",
    )
    assert pruner.left["2"] == "it is frozen"
    assert re.search(r"has 3 blocks, fewer than min_blocks=10", pruner.left["4"])
    assert list(pruner.kept) == ["0"]


def test_a_model_without_a_layer_to_prune_says_why():
    model = mlp().requires_grad_(False)
    with pytest.raises(ValueError, match=r"no layer can be pruned.*frozen"):
        Pruner(
            model,
            Blocks((4, 4), density=0.5),
            total_steps=5,
            min_blocks=1,
            method="sequential-attention++",
        )
    with pytest.raises(ValueError, match="fewer than min_blocks=100"):
        Pruner(
            mlp(),
            Blocks((8, 8), density=0.5),
            total_steps=5,
            method="sequential-attention++",
        )


def test_two_pruners_share_a_model_but_not_a_layer():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    options = {"total_steps": 12, "min_blocks": 1, "optimizer": optimizer}
    first = Pruner(model, Blocks((4, 4), 6), include="0", **options)
    second = Pruner(model, NM(1, 4), include="2", method="acdc", **options)
    with pytest.raises(ValueError, match="parametrized"):
        Pruner(model, Blocks((4, 4), density=0.5), include=["0", "2"], **options)
    for n in range(12):
        x, y = BATCHES[n % 4]
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        first.step()
        second.step()
    expected = outputs(model)
    first.finalize()
    second.finalize()
    assert torch.equal(outputs(model), expected)
    assert first.kept == {"0": 6}
    assert second.kept == {"2": 72}


class Tied(nn.Module):
    """A table of words that reads and writes, and two layers of one weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 16)
        self.inner = nn.Linear(16, 16)
        self.again = nn.Linear(16, 16)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        x = self.words(ids)
        return self.head(self.again(torch.tanh(self.inner(x))))


def test_shared_weights_are_pruned_once_and_stay_shared():
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.5),
        total_steps=15,
        optimizer=optimizer,
        include=["inner", "head"],
        min_blocks=1,
        method="sequential-attention++",
    )
    ids = torch.arange(20)
    for _ in range(15):
        optimizer.zero_grad()
        functional.cross_entropy(model(ids), ids.roll(1)).backward()
        optimizer.step()
        pruner.step()
    assert (model.words.weight == 0).any()  # the embedding sees what the head sees
    expected = model(ids).detach()
    pruner.finalize()
    assert torch.equal(model(ids).detach(), expected)
    assert model.again.weight is model.inner.weight
    assert model.head.weight is model.words.weight
    assert pruner.kept == {"inner": 8, "head": 10}


def test_convolutions_are_pruned():
    model = convnet().eval()
    x = torch.randn(4, 3, 8, 8)
    pruner = Pruner(
        model,
        Channels(density=0.5, axis=0),
        total_steps=8,
        min_blocks=1,
        exclude="8",
        method="sequential-attention++",
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner.attach(optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        model(x[..., :5, :5]).square().sum().backward()
        optimizer.step()
        pruner.step()
    expected = model(x[..., :5, :5])
    pruner.finalize()
    assert torch.equal(model(x[..., :5, :5]), expected)
    empty = [int((model[i].weight.flatten(1) == 0).all(1).sum()) for i in (0, 3, 6)]
    assert sum(empty) == sum(model[i].weight.shape[0] for i in (0, 3, 6)) // 2


def test_layers_of_gpt_2_are_pruned_by_outputs():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(24, 16), nn.Tanh(), Conv1D(4, 24))
    training = Training(
        model=model, structure=Channels(6, axis=0), total_steps=10, exclude="2"
    )
    training.finish()
    assert model[0].weight.shape == (16, 24)  # inputs first
    assert int((model[0].weight == 0).all(0).sum()) == 18


# -- faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["sequential-attention++", "acdc", "rigl"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_masks(method, bad):
    training = Training(method).steps(33)
    masks, n_steps = training.pruner.masks, training.pruner.n_steps
    with pytest.raises(FloatingPointError, match="after 33 steps"):
        training.pruner.step(torch.tensor(bad))
    assert training.pruner.n_steps == n_steps
    assert all(torch.equal(m, masks[n]) for n, m in training.pruner.masks.items())


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_stop_at_a_selection_and_keep_the_masks(method):
    training = Training(method, total_steps=16).steps(3)
    layer = training.pruner.sites[1].layer
    with torch.no_grad():
        layer.parameter[3, 4] = math.nan
    masks = []

    def go_on():
        for _ in range(13):
            masks.append(training.pruner.masks)
            training.optimizer.zero_grad(set_to_none=False)
            training.pruner.step()
        training.pruner.finalize()

    with pytest.raises(FloatingPointError, match=r"weights of layer '2' .*checkpoint"):
        go_on()
    for name, mask in training.pruner.masks.items():
        assert torch.equal(mask, masks[-1][name])


def test_a_budget_that_cannot_be_met_is_refused_and_leaves_the_model_alone():
    model = mlp()
    before = repr(model)
    for count, said in ((1, "must leave one in each"), (43, "at most the 42")):
        with pytest.raises(ValueError, match=said):
            Pruner(
                model,
                Blocks((4, 4), count),
                total_steps=5,
                exclude="4",
                min_blocks=1,
                method="sequential-attention++",
            )
    assert repr(model) == before


def replaced(model):
    model[2] = nn.Linear(24, 12)


def unparametrized(model):
    parametrize.remove_parametrizations(model[2], "weight", leave_parametrized=False)


def parametrized_again(model):
    parametrizations.spectral_norm(model[2])


def removed(model):
    del model[2]


@pytest.mark.parametrize(
    "surgery", [replaced, unparametrized, parametrized_again, removed]
)
def test_surgery_after_the_pruner_was_made_is_noticed(surgery):
    training = Training().steps(3)
    surgery(training.model)
    for method in (
        training.pruner.step,
        training.pruner.finalize,
        lambda: training.pruner.load_state_dict(training.pruner.state_dict()),
    ):
        with pytest.raises(RuntimeError, match="layer '2' was changed"):
            method()


def test_a_score_that_needs_gradients_says_when_it_sees_none():
    training = Training("movement")
    training.train()
    training.optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="before zero_grad"):
        training.pruner.step()


def test_a_state_of_another_pruner_is_refused():
    training = Training()
    state = training.pruner.state_dict()
    others = [
        Training("acdc"),
        Training(total_steps=41),
        Training(structure=Blocks((4, 4), density=0.3)),
        Training(model=mlp(width=28)),
        Training(rng=1),
        Training(allocation="erk"),
    ]
    for other in others:
        with pytest.raises(ValueError, match="of another pruning"):
            other.pruner.load_state_dict(state)
    with pytest.raises(ValueError, match="of another pruning"):
        training.pruner.load_state_dict({})


def test_a_state_from_after_the_end_is_refused():
    training = Training(total_steps=2)
    training.finish()
    with pytest.raises(ValueError, match="was finalized"):
        Training(total_steps=2).pruner.load_state_dict(training.pruner.state_dict())


def test_a_failing_first_selection_leaves_the_model_as_it_was():
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    optimizer = torch.optim.Adam(model.parameters())
    before = repr(model), weights(model), len(optimizer.param_groups)
    with pytest.raises(FloatingPointError, match="after 0 steps"):
        Pruner(
            model,
            Blocks((4, 4), density=0.5),
            score="sequential-attention",
            schedule="one-shot",
            total_steps=1,  # the first selection is at once
            min_blocks=1,
            optimizer=optimizer,
        )
    assert repr(model) == before[0]
    assert weights(model).keys() == before[1].keys()
    assert len(optimizer.param_groups) == before[2]


# -- optimizers ------------------------------------------------------------------------


def test_without_an_optimizer_a_warning_comes_once():
    model = mlp()
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.5),
        method="sequential-attention++",
        total_steps=30,
        min_blocks=1,
    )
    optimizer = torch.optim.Adam([*model.parameters()], lr=0.01)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for n in range(30):
            x, y = BATCHES[n % 4]
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            pruner.step()
    assert [str(w.message).partition(",")[0] for w in found] == [
        "the schedule resets the optimizer here"
    ]


def test_parameters_are_for_an_optimizer_of_ones_own():
    training = Training(total_steps=8)
    given = {id(p) for p in training.pruner.parameters()}
    found = [g for g in training.optimizer.param_groups if id(g["params"][0]) in given]
    assert [{id(p) for p in g["params"]} for g in found] == [given]


def test_an_optimizer_may_be_made_later():
    model = mlp()
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.25),
        method="sequential-attention++",
        total_steps=40,
        exclude="4",
        min_blocks=1,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    pruner.attach(optimizer)  # it has the logits, so that the scheduler does not matter
    straight = Training()
    straight.optimizer.param_groups[1]["lr"] = 0.01
    for n in range(40):
        x, y = BATCHES[n % 4]
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()
    straight.steps(40)
    del schedule
    assert all(
        torch.equal(mask, straight.pruner.masks[name])
        for name, mask in pruner.masks.items()
    )


def test_a_scheduler_made_before_the_pruner_is_refused_with_the_right_order():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    before = repr(model)
    for method in ("sequential-attention++", "attention-refit"):
        with pytest.raises(ValueError, match="before the scheduler"):
            Pruner(
                model,
                Blocks((4, 4), density=0.5),
                method=method,
                total_steps=9,
                min_blocks=1,
                optimizer=optimizer,
            )
        assert repr(model) == before
        assert not any(module._forward_pre_hooks for module in model)
    # scores without parameters need no new group
    Pruner(
        model,
        Blocks((4, 4), density=0.5),
        method="acdc",
        total_steps=9,
        min_blocks=1,
        optimizer=optimizer,
    )
    del scheduler


def test_a_scheduler_goes_on_after_finalize():
    training = Training(total_steps=6)
    scheduler = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda n: 0.5**n)
    for _ in range(6):
        training.step()
        scheduler.step()
    training.pruner.finalize()
    training.optimizer.step()
    scheduler.step()
    assert training.optimizer.param_groups[0]["lr"] == 0.01 * 0.5**7


def test_an_optimizer_of_other_parameters_is_refused():
    model = mlp()
    other = torch.optim.Adam(model[4].parameters())
    with pytest.raises(ValueError, match="none of the weights"):
        Pruner(
            model,
            Blocks((4, 4), density=0.5),
            total_steps=9,
            exclude="4",
            min_blocks=1,
            optimizer=other,
            method="sequential-attention++",
        )
    with pytest.raises(TypeError, match="got list_iterator"):
        Training(optimizer=torch.optim.Adam).pruner.attach(iter([other]))


def test_two_optimizers_are_both_reset():
    model = mlp()
    first = torch.optim.SGD(model[0].parameters(), lr=0.01, momentum=0.9)
    second = torch.optim.Adam(model[2:].parameters(), lr=0.01)
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.25),
        method="sequential-attention++",
        total_steps=40,
        exclude="4",
        min_blocks=1,
        optimizer=[first, second],
    )
    start = pruner.phases[1].start
    for n in range(start):
        for each in (first, second):
            each.zero_grad()
        x, y = BATCHES[n % 4]
        functional.cross_entropy(model(x), y).backward()
        for each in (first, second):
            each.step()
        if n < start - 1:
            pruner.step()
    assert first.state
    assert second.state
    pruner.step()
    assert not first.state
    assert not second.state


def test_options_of_a_score_need_a_group_of_their_own():
    from vitalfew.pruning.training.scores import SequentialAttention

    score = SequentialAttention(rate=0.5, weight_decay=0.125)
    training = Training(score=score)
    assert training.optimizer.param_groups[-1]["lr"] == 0.5
    assert training.optimizer.param_groups[-1]["weight_decay"] == 0.125
    model = mlp()
    pruner = Pruner(
        model, Blocks((4, 4), density=0.25), score=score, total_steps=9, min_blocks=1
    )
    with pytest.raises(ValueError, match=r"with lr=0\.001, the score asks for 0\.5"):
        pruner.attach(torch.optim.Adam(model.parameters()))
    logits = pruner.parameters()
    mine = {id(p) for p in logits}
    rest = [p for p in model.parameters() if id(p) not in mine]
    groups = [{"params": rest}, {"params": logits, "lr": 0.25}]
    pruner.attach(torch.optim.Adam(groups))  # a choice of one's own


def test_names_of_parameters_are_kept():
    model = mlp()
    optimizer = torch.optim.Adam(model.named_parameters())
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.5),
        method="sequential-attention++",
        total_steps=1,
        exclude="4",
        min_blocks=1,
        optimizer=optimizer,
    )
    group = optimizer.param_groups[-1]
    known = dict(model.named_parameters())
    pairs_ = zip(group["param_names"], group["params"], strict=True)
    assert all(known[name] is parameter for name, parameter in pairs_)
    pruner.step()
    pruner.finalize()
    assert len(optimizer.param_groups) == 1


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.01, "initial_accumulator_value": 0.1}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "adamax": (torch.optim.Adamax, {"lr": 0.01}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}),
    "radam": (torch.optim.RAdam, {"lr": 0.01}),
    "asgd": (torch.optim.ASGD, {"lr": 0.01}),
    "rprop": (torch.optim.Rprop, {"lr": 0.01}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_a_reset_optimizers_step_as_new_ones(name):
    kind, settings = OPTIMIZERS[name]
    training = Training("acdc", optimizer=kind, settings=settings)
    start = training.pruner.phases[1].start
    training.steps(start)  # the reset at the change of phase is the last thing
    twin = copy.deepcopy(training.model)
    fresh = kind(twin.parameters(), **settings)
    for n in range(3):
        for model, optimizer in ((training.model, training.optimizer), (twin, fresh)):
            optimizer.zero_grad()
            x, y = BATCHES[n]
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    for one, other in zip(training.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_to_the_budget(name):
    kind, settings = OPTIMIZERS[name]
    training = Training(optimizer=kind, settings=settings, total_steps=16)
    report = training.finish()
    assert report.kept == report.asked == 10
    assert torch.isfinite(outputs(training.model)).all()


@pytest.mark.parametrize("method", ["acdc", "sequential-attention++"])
def test_lbfgs_trains_to_the_budget(method):
    model = mlp()
    options = {"total_steps": 20, "exclude": "4", "min_blocks": 1, "method": method}
    if method == "sequential-attention++":
        with pytest.raises(ValueError, match="one group of parameters only"):
            Pruner(
                model,
                Blocks((4, 4), density=0.25),
                optimizer=torch.optim.LBFGS(model.parameters()),
                **options,
            )
    pruner = Pruner(model, Blocks((4, 4), density=0.25), **options)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    pruner.attach(optimizer)
    x, y = BATCHES[0]

    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
        pruner.step()
    expected = outputs(model)
    assert pruner.finalize().kept == 10
    torch.testing.assert_close(outputs(model), expected)
    optimizer.step(closure)
    assert torch.isfinite(outputs(model)).all()


def test_hidden_weights_do_not_come_back_by_momentum():
    training = Training(
        "magnitude",
        optimizer=torch.optim.SGD,
        settings={"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        total_steps=20,
    ).steps(10)
    for _ in range(9):
        training.step()
        for site in training.pruner.sites:
            hidden = ~training.pruner.masks[site.name]
            assert not site.layer.parameter[hidden].any()


# -- loops of training -----------------------------------------------------------------


def test_gradient_accumulation_is_the_same_as_one_batch():
    whole, parts = Training(dtype=torch.float64), Training(dtype=torch.float64)
    for n in range(40):
        whole.step()
        parts.optimizer.zero_grad()
        x, y = BATCHES[n % 4]
        for half in (slice(0, 16), slice(16, 32)):
            out = parts.model(x[half].double())
            (functional.cross_entropy(out, y[half]) / 2).backward()
        parts.optimizer.step()
        parts.pruner.step()
    assert all(
        torch.equal(mask, whole.pruner.masks[name])
        for name, mask in parts.pruner.masks.items()
    )
    torch.testing.assert_close(
        outputs(parts.model, torch.float64), outputs(whole.model, torch.float64)
    )


@pytest.mark.parametrize("method", ["sequential-attention++", "rigl", "movement"])
def test_autocast_in_bfloat16_trains(method):
    training = Training(method, total_steps=20)
    for n in range(20):
        x, y = BATCHES[n % 4]
        training.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(training.model(x), y)
        loss.backward()
        training.optimizer.step()
        training.pruner.step(loss)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = training.model(BATCHES[0][0])
    assert training.pruner.finalize().kept == 10
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(training.model(BATCHES[0][0]), expected)
    assert training.model[0].weight.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_steps_that_loss_scaling_skips_do_no_harm(method):
    training = Training(method, total_steps=12)
    for n in range(12):
        training.optimizer.zero_grad()
        loss = training.loss(n)
        loss.backward()
        if n % 3:
            training.optimizer.step()
        else:  # overflow: gradients are infinite, and the optimizer waits
            for parameter in training.model.parameters():
                parameter.grad.fill_(math.inf)
        training.pruner.step(loss)
    training.pruner.finalize()
    assert sum(training.pruner.kept.values()) == 10
    assert torch.isfinite(outputs(training.model)).all()


def test_step_works_without_gradients_enabled_and_leaves_no_graph():
    training, plain = Training(), Training()
    for _ in range(40):
        loss = training.train()
        with torch.no_grad():
            training.pruner.step(loss)
        plain.step()
    one, other = weights(training.model), weights(plain.model)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for model in (training.model, plain.model):
        assert not any(buffer.requires_grad for buffer in model.buffers())
        assert all(p.is_leaf for p in model.parameters())
    assert torch.is_grad_enabled()


def test_eval_sees_the_same_weights_as_training():
    training = Training().steps(33)
    train = outputs(training.model)
    training.model.eval()
    assert torch.equal(outputs(training.model), train)
    training.steps(7)
    assert not training.model.training
    training.pruner.finalize()
    assert not training.model.training


def test_random_numbers_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    training = Training("set")
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    training.finish()
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


@pytest.mark.parametrize("n_steps", [3, 21, 33, 39])
def test_a_copy_of_the_model_in_mid_training_is_a_model(n_steps):
    training = Training().steps(n_steps)
    twin = copy.deepcopy(training.model)
    expected = outputs(training.model)
    assert torch.equal(outputs(twin), expected)
    training.finish()
    assert torch.equal(outputs(twin), expected)  # it has masks of its own
    functional.cross_entropy(twin(BATCHES[0][0]), BATCHES[0][1]).backward()


@pytest.mark.parametrize("n_steps", [3, 21, 33, 39])
def test_the_state_of_the_model_in_mid_training_makes_the_same_network(n_steps):
    training = Training().steps(n_steps)
    other = Training(seed=1)
    other.model.load_state_dict(training.model.state_dict())
    assert torch.equal(outputs(other.model), outputs(training.model))


def test_every_event_is_told_and_recorded():
    told = []
    training = Training(callback=told.append)
    training.steps(40)
    events = training.pruner.history.events
    assert [event.step for event in events] == sorted({event.step for event in events})
    assert events[-1].step == 40
    assert told[-1] == events[-1]
    starts = [phase.start for phase in phases_of(training.pruner.schedule, 40)]
    assert {event.step for event in events} >= set(starts)
    assert events[-1].sparsity == training.pruner.sparsity


def test_data_of_many_dimensions_are_pruned_alike():
    """A layer sees tokens of sequences as it sees rows."""
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner = Pruner(
        model,
        Blocks((8, 8), density=0.5),
        total_steps=12,
        optimizer=optimizer,
        min_blocks=1,
        method="sequential-attention++",
    )
    x = pairs(shape=(5, 16))[0][0]
    for _ in range(12):
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        pruner.step()
    model.eval()
    with torch.no_grad():
        expected = model(x)
        pruner.finalize()
        torch.testing.assert_close(model(x), expected)
    assert "self_attn.out_proj" in pruner.kept
