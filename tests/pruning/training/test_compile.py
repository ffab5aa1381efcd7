"""`torch.compile` sees the masks change without compiling anew."""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional

from tests.pruning.networks import mlp
from tests.pruning.training.trainings import BATCHES
from vitalfew.pruning import Pruner
from vitalfew.structures import NM, Blocks, Channels

STEPS = 24


def trained(method, structure, backend, compile_first=False, dtype=torch.float64):
    """Weights after a training, and how often something was compiled."""
    torch._dynamo.reset()
    counters.clear()
    model = mlp().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = model
    if backend and compile_first:
        run = torch.compile(model, backend=backend)
    pruner = Pruner(
        model,
        structure,
        method=method,
        total_steps=STEPS,
        optimizer=optimizer,
        exclude="4",
        min_blocks=1,
    )
    if backend and not compile_first:
        run = torch.compile(model, backend=backend)
    losses = []
    for n in range(STEPS):
        x, y = BATCHES[n % 4]
        optimizer.zero_grad()
        loss = functional.cross_entropy(run(x.to(dtype)), y)
        loss.backward()
        optimizer.step()
        pruner.step(loss)
        losses.append(loss.item())
    n_graphs = counters["stats"]["unique_graphs"]
    with torch.no_grad():
        before = run(BATCHES[0][0].to(dtype))
    pruner.finalize()
    with torch.no_grad():
        after = run(BATCHES[0][0].to(dtype))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    return losses, pruner.masks, n_graphs


CASES = [
    ("sequential-attention++", Blocks((4, 4), density=0.25), 1),
    # with and without the gradients of what is hidden
    ("rigl", Blocks((4, 4), density=0.25), 2),
    # with and without a look at the inputs
    ("attention-refit", Blocks((4, 4), density=0.25), 2),
    ("acdc", Blocks((5, 7), density=0.3), 1),  # edges are smaller
    ("gradual-magnitude", Channels(density=0.5, axis=1), 1),
    ("powerpropagation", NM(2, 4), 1),
]


def agrees(method, structure, most, backend, compile_first=False):
    losses, masks, _ = trained(method, structure, None)
    found, compiled, n_graphs = trained(method, structure, backend, compile_first)
    assert found == pytest.approx(losses, rel=1e-6)
    assert all(torch.equal(mask, masks[name]) for name, mask in compiled.items())
    assert 1 <= n_graphs <= most


@pytest.mark.parametrize(("method", "structure", "most"), CASES[:3])
def test_a_compiled_model_trains_as_an_eager_one(method, structure, most):
    agrees(method, structure, most, "eager")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "structure", "most"), CASES)
@pytest.mark.parametrize("compile_first", [False, True], ids=["after", "before"])
def test_compiled_before_or_after_the_pruner_is_made(
    method, structure, most, compile_first
):
    agrees(method, structure, most, "aot_eager", compile_first)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_default_backend_trains_as_an_eager_one():
    agrees(*CASES[0], "inductor")


def test_nothing_of_a_gated_layer_breaks_the_graph():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12))
    Pruner(
        model,
        Blocks((4, 4), density=0.5),
        method="attention-refit",
        total_steps=9,
        min_blocks=1,
    )
    explained = torch._dynamo.explain(model)(BATCHES[0][0])
    assert explained.graph_break_count == 0
