"""Recipes of the networks that are pruned, and their weights once trained.

``python -m benchmarks.pruning._train`` trains what is not there yet: each recipe on
seeds 0, 1 and 2. The weights go to ``benchmarks/.models``, which git ignores, under
a name made of the recipe and the seed, so a changed recipe is trained anew.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from benchmarks._runs import ROOT, Clock, Row, say
from benchmarks.pruning import _data
from benchmarks.pruning._models import GPT, MLPNet, ResNet
from vitalfew.pruning._masks import apply_masks

Tensor = torch.Tensor

PLACE = ROOT / "benchmarks" / ".models"
SEEDS = (0, 1, 2)
CONTEXT = 128
RATE = 2e-3  # of `fit_to`
VERSION = 1  # of what the recipes mean; part of their hash


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes
    ----------
    name : str
        Of the network, as in `RECIPES`.
    steps : int
        Steps of the optimiser.
    batch : int
        Examples of a step.
    rate : float
        Highest learning rate; it rises linearly and falls as a cosine.
    warm_up : int
        Steps in which it rises.
    decay : float
        Weight decay.
    optimiser : {"sgd", "adamw"}
        SGD has Nesterov's momentum of 0.9; decoupled decay in AdamW.
    size : tuple of int
        Arguments of the network.
    """

    name: str
    steps: int
    batch: int
    rate: float
    warm_up: int
    decay: float
    optimiser: str
    size: tuple[int, ...] = ()

    def file(self, seed: int) -> Path:
        """Return where the weights of a seed are kept."""
        facts = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
        return PLACE / f"{self.name}-{digest}-{seed}.safetensors"


RECIPES = {
    "mlp": Recipe("mlp", 9_400, 64, 2e-3, 200, 0.0, "sgd"),
    "resnet": Recipe("resnet", 4_700, 128, 0.2, 400, 5e-4, "sgd", (2,)),
    "resnet-20": Recipe("resnet-20", 4_700, 128, 0.2, 400, 5e-4, "sgd", (3,)),
    "gpt": Recipe("gpt", 1_300, 32, 2e-3, 100, 0.1, "adamw", (4, 192, 6, CONTEXT)),
}


def data(name: str) -> _data.Data:
    """Return what a network is trained and tested on."""
    if name == "mlp":
        return _data.mnist()
    return _data.shakespeare(CONTEXT) if name == "gpt" else _data.cifar10()


def build(recipe: Recipe) -> nn.Module:
    """Return the network of a recipe with random weights."""
    if recipe.name == "mlp":
        return MLPNet()
    if recipe.name == "gpt":
        return GPT(data(recipe.name).n_classes, *recipe.size)
    return ResNet(*recipe.size)


def trained(name: str, seed: int) -> nn.Module:
    """Return a trained network; it is trained where its weights are not there.

    Parameters
    ----------
    name : str
        One of `RECIPES`.
    seed : int
        Of the initial weights and of the order of the examples.

    Returns
    -------
    Module
        In evaluation mode, on the CPU.
    """
    recipe = RECIPES[name]
    file = recipe.file(seed)
    if not file.exists():
        _train(recipe, seed, file)
    model = build(recipe)
    model.load_state_dict(load_file(file))
    return model.eval()


def facts(name: str, seed: int) -> Row:
    """Return test score, CPU seconds and versions of a training that was made."""
    with safe_open(RECIPES[name].file(seed), "pt") as file:
        return dict(json.loads(file.metadata()["facts"]))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> float:
    """Return the share of examples, in per cent, whose class scores highest."""
    right = 0
    for images, labels in _data.batches(x, y, batch):
        right += int((model(images).argmax(1) == labels).sum())
    return 100 * right / len(y)


@torch.no_grad()
def perplexity(model: nn.Module, x: Tensor, y: Tensor, batch: int = 64) -> float:
    """Return the exponential of the mean cross-entropy of a token, in nats."""
    total = 0.0
    for tokens, following in _data.batches(x, y, batch):
        scores, wanted = model(tokens).flatten(0, 1), following.flatten()
        total += float(functional.cross_entropy(scores, wanted, reduction="sum"))
    return math.exp(total / y.numel())


def score(name: str, model: nn.Module) -> float:
    """Return test accuracy in per cent, or test perplexity of the GPT."""
    found = data(name)
    measure = perplexity if name == "gpt" else accuracy
    return measure(model, found.x_test, found.y_test)


def fine_tune(
    name: str, model: nn.Module, masks: Mapping[str, Tensor], steps: int, seed: int
) -> None:
    """Train a pruned network further, its zeros kept.

    Parameters
    ----------
    name : {"mlp", "resnet", "gpt"}
        Whose data and optimiser are used.
    model : Module
        Changed; left in evaluation mode.
    masks : mapping of str to bool tensor
        `PruneReport.masks`.
    steps : int
        Steps of the optimiser, from half of the recipe's highest rate down to zero.
    seed : int
        Of the order of the examples.
    """
    recipe = RECIPES[name]
    short = replace(recipe, steps=steps, rate=recipe.rate / 2, warm_up=steps // 10)
    found = data(name)
    with torch.random.fork_rng([]), _deterministic():
        torch.manual_seed(seed)
        for x, y in _steps(short, model, found, seed):
            apply_masks(model, masks)
            _loss(model(x), y).backward()
    apply_masks(model, masks)
    model.eval()


def fit_to(
    model: nn.Module,
    samples: Sequence[_data.Batch],
    masks: Mapping[str, Tensor],
    steps: int,
    seed: int,
) -> None:
    """Train a pruned network on calibration examples alone, its zeros kept.

    The control of methods that learn from the labels of these examples: what plain
    training makes of the same. Adam from a rate of 2e-3 down to zero, 128 examples a
    step; chosen once and not tuned. Batch norms keep their statistics.

    Parameters
    ----------
    model : Module
        In evaluation mode; changed.
    samples : sequence of (tensor, tensor)
        Inputs and targets.
    masks : mapping of str to bool tensor
        `PruneReport.masks`.
    steps : int
        Steps of Adam.
    seed : int
        Of the order of the examples.
    """
    x, y = (torch.cat(parts) for parts in zip(*samples, strict=True))
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        rows = torch.randint(len(x), (128,), generator=generator)
        optimiser.zero_grad()
        _loss(model(x[rows]), y[rows]).backward()
        optimiser.step()
        apply_masks(model, masks)
    optimiser.zero_grad()


def _loss(scores: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, -2), y.flatten())


def _train(recipe: Recipe, seed: int, file: Path) -> None:
    say(f"training {recipe.name} with seed {seed}")
    found = data(recipe.name)
    clock = Clock()
    with torch.random.fork_rng([]), _deterministic(), clock:
        torch.manual_seed(seed)
        model = build(recipe).to(memory_format=torch.channels_last)
        for x, y in _steps(recipe, model, found, seed):
            _loss(model(x), y).backward()
    model.eval()
    reached = {
        "score": score(recipe.name, model),
        "cpu_seconds": round(clock.cpu, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "recipe": asdict(recipe),
    }
    say(f"{recipe.name}, seed {seed}: {reached['score']:.2f} in {clock.cpu:.0f} s")
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    save_file(weights, part, {"facts": json.dumps(reached)})
    part.replace(file)


def _steps(
    recipe: Recipe, model: nn.Module, found: _data.Data, seed: int
) -> Iterator[_data.Batch]:
    """Yield batches, and step the optimiser when their gradients are there."""
    optimiser = _optimiser(recipe, model)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    begun, order = time.monotonic(), torch.empty(0, dtype=torch.int64)
    for step in range(recipe.steps):
        if len(order) < recipe.batch:
            order = torch.randperm(len(found.x), generator=generator)
        rows, order = order[: recipe.batch], order[recipe.batch :]
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * _height(step, recipe)
        optimiser.zero_grad()
        yield varied(found.x[rows], generator), found.y[rows]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0 if recipe.name == "gpt" else 5)
        optimiser.step()
        if step % 500 == 0:
            say(f"  step {step} of {recipe.steps}, {time.monotonic() - begun:.0f} s")


def _height(step: int, recipe: Recipe) -> float:
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / (recipe.steps - recipe.warm_up)
    return (1 + math.cos(math.pi * done)) / 2


def _optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": weights, "weight_decay": recipe.decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, recipe.rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, recipe.rate, betas=(0.9, 0.99))


def varied(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return photographs moved by up to 4 pixels, half of them mirrored.

    Parameters
    ----------
    x : tensor
        Of shape (n, channels, height, width); anything else comes back as it is.
    generator : torch.Generator
        Randomness of both.

    Returns
    -------
    tensor
        Of the same shape.
    """
    if x.ndim != 4:
        return x
    n, _, height, width = x.shape
    padded = functional.pad(x, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2, n, 1), generator=generator)
    columns = right + torch.arange(width)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    rows = (down + torch.arange(height))[:, :, None]
    # channels last, as one advanced index puts them
    moved = padded.permute(0, 2, 3, 1)[
        torch.arange(n)[:, None, None], rows, columns[:, None, :]
    ]
    return moved.permute(0, 3, 1, 2)


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def main(given: list[str] | None = None) -> int:
    """Train what is not there, and tell what every network scores.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0.
    """
    parser = argparse.ArgumentParser(description="Train the networks to be pruned.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args(given)
    for seed in options.seeds:
        for name in options.names:
            trained(name, seed)
            told = facts(name, seed)
            say(f"{name} {seed}: {told['score']:.2f}, {told['cpu_seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
