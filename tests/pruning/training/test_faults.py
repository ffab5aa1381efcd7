"""Damaged states, errors on the way, and models that cannot be trained."""

import copy
import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.pruning.networks import mlp
from tests.pruning.training.trainings import Training, outputs, weights
from vitalfew.exceptions import DataError
from vitalfew.pruning import Pruner, load, save
from vitalfew.pruning.training import Score
from vitalfew.pruning.training.callbacks import STATE_FILE, _load
from vitalfew.pruning.training.schedules import SWAMP
from vitalfew.structures import NM, Blocks

BLOCKS = Blocks((4, 4), density=0.25)


# -- damaged states --------------------------------------------------------------------


def damaged(state, at, value):
    """A state with another value at some keys; one that is called changes what is."""
    found = copy.deepcopy(state)
    inner = found
    for key in at[:-1]:
        inner = inner[key]
    if value is None:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value(inner[at[-1]]) if callable(value) else value
    return found


def everything(pruner):
    """All that a state can change, as text."""
    torch.set_printoptions(threshold=10**6)
    state = pruner.state_dict()
    gates = [site.gate.mask for site in pruner.sites]
    found = repr((state, gates, pruner.phase, pruner.sparsity, pruner._phase))
    torch.set_printoptions(profile="default")
    return found


PARTS = ("n_steps", "finished", "kept", "seen", "n_seen", "inputs", "snapshots")
VALUES = ("x", [], -1, math.nan, torch.ones(3), {}, {1: 2})
WRONG = [
    *(((key,), None) for key in (*PARTS, "format", "said", "history")),
    *(((key,), value) for key in (*PARTS, "format", "said") for value in VALUES),
    *((("history",), value) for value in ("x", -1, torch.ones(3), {}, {1: 2})),
    (("n_steps",), 1.5),
    (("n_steps",), True),
    (("n_steps",), 3),  # the masks are of another phase
    (("kept", "0"), lambda marks: marks[1:]),
    (("kept", "0"), lambda marks: marks[None]),
    (("kept", "0"), lambda marks: marks.float() * math.nan),
    (("kept", "0"), lambda marks: marks.to("meta")),
    (("kept", "0"), lambda marks: marks.float().to_sparse()),
    (("kept", "0"), lambda marks: torch.ones_like(marks)),
    (("kept", "0"), lambda marks: torch.zeros_like(marks)),
    (("kept", "0"), lambda _: torch.zeros(1, dtype=torch.bool).expand(10**13)),
    (("kept", "evil"), torch.ones(3, dtype=torch.bool)),
    (("n_seen", "0"), -5),
    (("n_seen", "0"), 1.5),
    (("seen", "0", "fisher"), None),
    (("seen", "0", "fisher"), [1]),
    (("seen", "0", "fisher"), torch.ones(1, 1)),
    (("seen", "0", "fisher"), lambda f: f.double()),
    (("seen", "0", "fisher"), lambda f: f * math.nan),
    (("seen", "0", "evil"), torch.ones(24, 16)),
    (("inputs", "0"), None),
    (("inputs", "0", "seen"), None),
    (("inputs", "0", "seen"), lambda seen: seen * 0 - 3),
    (("inputs", "0", "square"), torch.ones(1, 1)),
    (("inputs", "0", "square"), lambda square: square * math.nan),
    (("snapshots", "n_means"), -1),
    (("snapshots", "n_means"), 0),
    (("snapshots", "n_means"), "a"),
    *(
        (("snapshots", part, name), value)
        for part in ("remembered", "means")
        for name, value in (
            ("0.bias", torch.ones(1)),
            ("0.bias", [1]),
            ("0.bias", lambda bias: bias.to(torch.complex64)),
            ("0.parametrizations.weight.original", None),
            ("evil", torch.ones(2, 2)),
        )
    ),
    *(
        (("history",), rows)
        for rows in (
            [[1]],
            [["a"] * 6],
            [[1, "dense", math.nan, 1, 1, None]],
            [[1, "=evil()", 0.5, 1, 1, None]],
            [{}],
            [[1] * 7],
        )
    ),
]


def said(wrong):
    at, value = wrong
    return f"{'.'.join(at)}={type(value).__name__ if callable(value) else value}"


@pytest.fixture(scope="module")
def sound():
    """A state with every part of a state, and how to make its Pruner."""

    def made():
        return Training(
            score="attention-refit", schedule=SWAMP(n_rounds=2), total_steps=24, seed=1
        )

    state = made().steps(22).pruner.state_dict()
    assert state["n_seen"]["0"]
    assert state["inputs"]["0"]
    assert state["snapshots"]["remembered"]
    assert state["snapshots"]["means"]
    return made, state


def test_a_sound_state_is_taken(sound):
    made, state = sound
    training = made()
    training.pruner.load_state_dict(copy.deepcopy(state))
    assert training.pruner.n_steps == 22
    assert training.pruner.kept == {k: int(v.sum()) for k, v in state["kept"].items()}


@pytest.fixture(scope="module")
def other(sound):
    return sound[0]().steps(3)


@pytest.mark.parametrize("wrong", WRONG, ids=said)
def test_a_damaged_state_is_refused_and_changes_nothing(wrong, sound, other):
    state = damaged(sound[1], *wrong)
    before = everything(other.pruner)
    with pytest.raises(ValueError, match=r"damaged|of another pruning"):
        other.pruner.load_state_dict(state)
    assert everything(other.pruner) == before


@pytest.mark.parametrize("state", [None, [1], "x", torch.ones(3)])
def test_what_is_no_state_is_refused(state, other):
    with pytest.raises(TypeError, match=r"what Pruner\.state_dict returns"):
        other.pruner.load_state_dict(state)


def test_marks_that_break_the_pattern_are_refused():
    training = Training("magnitude", NM(2, 4), 8).steps(8)
    state = training.pruner.state_dict()
    marks = state["kept"]["0"]
    out = int(marks.nonzero()[0])
    state["kept"]["0"] = marks.clone()
    state["kept"]["0"][out // 4 * 4 : out // 4 * 4 + 4] = True
    with pytest.raises(DataError, match="not as many atoms"):
        training.pruner.load_state_dict(state)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x02."])
def test_an_unreadable_file_in_a_checkpoint_is_named(content, tmp_path):
    path = tmp_path / STATE_FILE
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pruner\.pt cannot be read"):
        _load(Training().pruner, path, 3)


def test_a_file_of_another_step_changes_nothing(tmp_path):
    path = tmp_path / STATE_FILE
    torch.save(Training().steps(5).pruner.state_dict(), path)
    pruner = Training().pruner
    with pytest.raises(ValueError, match="is of step 5, training resumes after 3"):
        _load(pruner, path, 3)
    assert pruner.n_steps == 0


# -- going on after an error -----------------------------------------------------------


@pytest.mark.parametrize("method", ["magnitude", "gradual-magnitude", "acdc", "swamp"])
def test_a_selection_that_failed_is_made_up_for(method):
    """At every step weights go wrong once, are mended, and the step is repeated."""
    training = Training(method, total_steps=16)
    pruner = training.pruner
    weight = pruner.sites[1].layer.parameter
    n_errors = 0
    for n in range(16):
        training.train()
        was = weight[3, 4].item()
        with torch.no_grad():
            weight[3, 4] = math.nan
        try:
            pruner.step()
        except FloatingPointError:
            n_errors += 1
            assert pruner.n_steps == n
            with torch.no_grad():
                weight[3, 4] = was
            pruner.step()
        else:
            with torch.no_grad():
                weight[3, 4] = was
        assert pruner.n_steps == n + 1
    assert n_errors
    assert pruner.finalize().kept == 10  # of 42, a quarter


@dataclass(frozen=True)
class Failing(Score):
    """Infinite as long as the list holds something."""

    broken: list

    name = "failing"
    cost = use = ""

    def saliency(self, site):
        return site.tiles.sums(site.matrix.square()) / (0 if self.broken else 1)


def test_finalize_may_be_called_again_after_an_error():
    broken = [1]
    training = Training("gradual-magnitude", score=Failing(broken)).steps(3)
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="after 3 of 40 steps"),
            pytest.raises(FloatingPointError, match="scores of layer '0'"),
        ):
            training.pruner.finalize()
        assert training.pruner.n_steps == 3
    broken.clear()
    with pytest.warns(UserWarning, match="after 3 of 40 steps"):
        assert training.pruner.finalize().kept == 10


def test_finalize_refuses_what_the_score_has_made_of_the_weights():
    training = Training(total_steps=4).steps(4)
    with torch.no_grad():
        training.pruner.parameters()[-1][2] = math.nan
    before = weights(training.model)
    with pytest.raises(FloatingPointError, match="weights of layer '2'"):
        training.pruner.finalize()
    after = weights(training.model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], t) for n, t in before.items() if "logits" not in n)


def test_gradients_whose_squares_overflow_are_left_out():
    training = Training("gradual-fisher", total_steps=12)
    for n in range(12):
        training.train()
        if n == 1:
            training.pruner.sites[0].layer.parameter.grad.fill_(1e25)
        training.pruner.step()
    assert training.pruner.finalize().kept == 10


# -- optimizers ------------------------------------------------------------------------


def test_a_failed_attach_leaves_the_optimizer_there_was():
    training = Training()
    with pytest.raises(ValueError, match="none of the weights"):
        training.pruner.attach(torch.optim.SGD(mlp().parameters(), lr=0.1))
    assert training.pruner.optimizers.all == [training.optimizer]


def test_nothing_is_attached_after_finalize():
    training = Training(total_steps=2)
    training.finish()
    with pytest.raises(RuntimeError, match="is finalized"):
        training.pruner.attach(training.optimizer)
    assert len(training.optimizer.param_groups) == 1


@pytest.mark.parametrize("trained", [False, True])
def test_scores_that_nobody_trains_are_told(trained):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(
        model, BLOCKS, score="sequential-attention", schedule="gradual",
        total_steps=20, min_blocks=1,
    )  # fmt: skip
    if trained:
        optimizer.add_param_group({"params": pruner.parameters()})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(20):
            optimizer.zero_grad()
            outputs(model)
            model(torch.randn(8, 16)).square().mean().backward()
            optimizer.step()
            pruner.step()
    said = [str(warning.message).partition(",")[0] for warning in found]
    assert said == ([] if trained else ["nobody has trained what the score learns"])
    assert all(warning.filename == __file__ for warning in found)


# -- models ----------------------------------------------------------------------------


def test_layers_without_values_or_with_numbers_too_small_to_train_stay_dense():
    model = nn.Sequential(
        nn.Linear(16, 24),
        nn.Linear(24, 24, device="meta"),
        nn.Linear(24, 24).to(torch.float8_e4m3fn),
    )
    pruner = Pruner(
        model, BLOCKS, total_steps=3, min_blocks=1, method="sequential-attention++"
    )
    assert [site.name for site in pruner.sites] == ["0"]
    assert "meta device" in pruner.left["1"]
    assert "float8" in pruner.left["2"]


@pytest.mark.parametrize("model", [None, "model", mlp().parameters()])
def test_what_is_no_model_is_said(model):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        Pruner(model, BLOCKS, total_steps=3, method="sequential-attention++")


@pytest.mark.parametrize("least", [-1, 2.5, "100", None])
def test_min_blocks_is_checked(least):
    with pytest.raises(ValueError, match="min_blocks must be an integer"):
        Pruner(
            mlp(),
            BLOCKS,
            total_steps=3,
            min_blocks=least,
            method="sequential-attention++",
        )


@pytest.mark.parametrize("method", ["iterative", "swamp"])
def test_layers_may_be_frozen_on_the_way(method):
    training = Training(method, total_steps=24).steps(6)
    frozen = training.model[4]
    frozen.requires_grad_(False)
    before = weights(frozen)
    training.steps(18)
    assert training.pruner.finalize().kept == 10
    after = weights(frozen)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_infinite_buffers_stay_when_networks_are_averaged():
    model = mlp()
    mask = torch.tensor([0.0, -math.inf, math.inf])
    model.register_buffer("allowed", mask.clone())
    training = Training("swamp", model=model, total_steps=24)
    training.finish()
    assert torch.equal(model.allowed, mask)


def test_a_model_is_saved_after_finalize_and_not_before(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    pruner = Pruner(model, Blocks((4, 4), density=0.25), total_steps=2, min_blocks=1)
    with pytest.raises(ValueError, match=r"call Pruner\.finalize first"):
        save(model, tmp_path / "early")
    assert not (tmp_path / "early").exists()
    for _ in range(2):
        model(torch.ones(1, 16)).sum().backward()
        pruner.step()
    report = pruner.finalize()
    save(model, tmp_path / "late", report=report)
    again = load(tmp_path / "late", lambda: nn.Sequential(nn.Linear(16, 16)))
    assert torch.equal(again[0].weight, model[0].weight)
