"""Pruning in several processes: the same masks in all of them."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.pruning.training import worker
from tests.pruning.training.trainings import same

ROOT = Path(__file__).parents[3]


def run(folder, *arguments, codes=(0, 0)):
    """What two processes found, each in its own words."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    name = worker.__name__
    with ExitStack() as stack:
        processes = []
        for rank in range(worker.WORLD):
            command = [sys.executable, "-m", name, str(rank), str(folder), *arguments]
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process, code in zip(processes, codes, strict=True):
            _, said = process.communicate(timeout=120)
            assert process.returncode == code, said
    paths = [folder / f"{rank}.pt" for rank in range(worker.WORLD)]
    return [torch.load(path, weights_only=True) for path in paths if path.exists()]


def check_together(found, alone):
    """The same masks in both processes after every step, and as one would have them."""
    first, second = found
    assert same(first["weights"], second["weights"])
    assert len(first["masks"]) == len(alone["masks"])
    for each in zip(first["masks"], second["masks"], alone["masks"], strict=True):
        assert same(each[0], each[1])
        assert same(each[0], each[2])
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-4, atol=1e-6)
    changes = sum(
        not same(one, other)
        for one, other in zip(alone["masks"], alone["masks"][1:], strict=False)
    )
    assert changes >= 2  # there was something to agree on


def test_replicas_choose_the_same_masks_as_one_process(tmp_path):
    first, second = run(tmp_path, "replicated")
    assert "make the Pruner first, then wrap" in first["refused"]
    for method in worker.METHODS:
        alone = worker.replicated(None, method)
        check_together((first[method], second[method]), alone)


@pytest.mark.slow
def test_replicas_that_began_apart_go_back_to_the_same_weights(tmp_path):
    first, second = run(tmp_path, "apart")
    check_together((first, second), worker.replicated(None, "iterative"))


@pytest.mark.slow
@pytest.mark.parametrize("each", ["root", "each"])
@pytest.mark.parametrize("method", ["sequential-attention++", "rigl", "iterative"])
def test_sharded_models_train_as_one_process(method, each, tmp_path):
    found = run(tmp_path, "sharded", method, each)
    check_together(found, worker.replicated(None, method))
    for one in found:
        assert one["moved"] == pytest.approx(0, abs=1e-12)
        assert same(one["resumed"], one["weights"])
        assert one["later"].keys() == one["weights"].keys()
        for name, weight in one["weights"].items():  # none is left behind
            assert not torch.equal(one["later"][name], weight), name


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", ["wrapped", "plain"])
def test_a_process_that_dies_stops_the_other_with_its_last_masks(wrapped, tmp_path):
    start = time.monotonic()
    (found,) = run(tmp_path, "dies", wrapped, codes=(0, 9))
    assert time.monotonic() - start < 60  # not gloo's half an hour
    assert same(found["after"], found["masks"][-1])
    if wrapped == "plain":  # else the exchange of gradients says it first
        assert "another process has gone" in found["said"]
    assert "RuntimeError" in found["said"] or "Dist" in found["said"]
