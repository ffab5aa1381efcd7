"""Going on from a checkpoint gives the very training that was not interrupted."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pruning.networks import convnet
from tests.pruning.training.trainings import BATCHES, Training, outputs, same, weights
from vitalfew.pruning import Pruner, training_methods
from vitalfew.structures import NM, Channels

METHODS = training_methods()
TOTAL = 60


def stored(state):
    """What a file gives back of a state."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def stops(phases):
    """A step inside every phase that is unlike those before it, and its first one."""
    seen, found = set(), []
    for phase in phases:
        kind = phase.name, phase.average, phase.removed, phase.rewind, phase.revive
        if kind not in seen:
            seen.add(kind)
            found += [phase.start, (phase.start + 3 * phase.end) // 4]
    return sorted(set(found))


@pytest.mark.parametrize("method", METHODS)
def test_resuming_in_any_kind_of_phase_is_bit_identical(method):
    straight = Training(method, total_steps=TOTAL)
    places = stops(straight.pruner.phases)
    assert len(places) >= 2
    states = {}
    for n in range(TOTAL):
        if n in places:
            states[n] = stored(straight.state())
        straight.step()
    masks = straight.pruner.masks
    events = straight.pruner.history.events
    straight.pruner.finalize()
    expected = weights(straight.model)
    for n, state in states.items():
        other = Training(method, total_steps=TOTAL, seed=1)  # other weights at first
        other.load(state).steps(TOTAL - n)
        assert all(torch.equal(m, masks[k]) for k, m in other.pruner.masks.items()), n
        assert other.pruner.history.events == events, n
        other.pruner.finalize()
        assert same(weights(other.model), expected), n


@pytest.mark.parametrize("structure", [NM(2, 4), Channels(density=0.5, axis=1)])
@pytest.mark.parametrize("method", ["sequential-attention++", "rigl", "decaying"])
def test_resuming_with_other_structures_is_bit_identical(method, structure):
    straight = Training(method, structure, 24, optimizer=torch.optim.SGD)
    straight.steps(13)
    state = stored(straight.state())
    straight.finish()
    other = Training(method, structure, 24, optimizer=torch.optim.SGD, seed=1)
    other.load(state).finish()
    assert same(weights(other.model), weights(straight.model))


def test_the_order_of_loading_does_not_matter():
    straight = Training(total_steps=24).steps(13)
    state = stored(straight.state())
    straight.finish()
    other = Training(total_steps=24, seed=1)
    other.pruner.load_state_dict(state["pruner"])
    other.optimizer.load_state_dict(state["optimizer"])
    other.model.load_state_dict(state["model"])
    other.finish()
    assert same(weights(other.model), weights(straight.model))


def test_an_optimizer_made_later_is_resumed_as_well():
    def run(stop=None, state=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Linear(24, 4))
        pruner = Pruner(
            model,
            Channels(density=0.5, axis=0),
            total_steps=24,
            min_blocks=1,
            method="sequential-attention++",
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        pruner.attach(optimizer)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            pruner.load_state_dict(state["pruner"])
        for n in range(pruner.n_steps, stop or 24):
            x, y = BATCHES[n % 4]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            pruner.step()
        if stop is not None:
            parts = {"model": model, "optimizer": optimizer, "pruner": pruner}
            return stored({name: part.state_dict() for name, part in parts.items()})
        pruner.finalize()
        return weights(model)

    assert same(run(state=run(stop=11)), run())


def test_batch_norm_of_averaged_networks_is_resumed():
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def made():
        return Training("swamp", model=convnet(), total_steps=24, exclude=["6", "8"])

    def go(training, n):
        for _ in range(n):
            training.optimizer.zero_grad()
            training.model(x).square().mean().backward()
            training.optimizer.step()
            training.pruner.step()

    straight, other = made(), made()
    go(straight, 22)  # in the mean of the last phase
    other.load(stored(straight.state()))
    go(straight, 2)
    go(other, 2)
    assert same(weights(straight.model), weights(other.model))


def test_a_state_in_memory_stays_what_it_was():
    training = Training("swamp", total_steps=24).steps(21)
    state = training.pruner.state_dict()
    copy = stored(state)
    training.steps(3)
    assert same(state["kept"], copy["kept"])
    for key in ("means", "remembered"):
        assert same(state["snapshots"][key], copy["snapshots"][key])
    assert state["n_steps"] == 21


SCRIPT = """
import os, sys, time
from pathlib import Path

import torch

from tests.pruning.training.trainings import Training, weights

folder, total = Path(sys.argv[1]), int(sys.argv[2])
path = folder / "state.pt"
training = Training("sequential-attention++", total_steps=total)
if path.exists():
    training.load(torch.load(path, weights_only=True))
while training.pruner.n_steps < total:
    training.step()
    torch.save(training.state(), folder / "new.pt")
    os.replace(folder / "new.pt", path)
    print(training.pruner.n_steps, flush=True)
    time.sleep(0.01)
training.pruner.finalize()
torch.save(weights(training.model), folder / "end.pt")
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(TOTAL)]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    n_steps = 0
    for kill_at in (9, 20, 41, 58):  # dense, sparsification, sparse, fine-tuning
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        ) as process:
            for line in process.stdout:
                n_steps = int(line)
                if n_steps >= kill_at:
                    process.send_signal(signal.SIGKILL)
                    break
            assert process.wait() == -signal.SIGKILL
    assert n_steps >= 58
    subprocess.run(command, check=True, env=environment, cwd=root)
    straight = Training("sequential-attention++", total_steps=TOTAL)
    straight.finish()
    assert same(torch.load(tmp_path / "end.pt"), weights(straight.model))
    assert torch.isfinite(outputs(straight.model)).all()
