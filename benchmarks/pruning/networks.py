"""Accuracy against sparsity on two image classifiers, without and with training.

``python -m benchmarks.pruning.networks`` prunes a perceptron for MNIST and a residual
network for CIFAR-10, three of each, by criteria, by reconstruction layer by layer and
by second-order methods on the whole network. First come the runs that the page's claims
need; ``--full`` adds all patterns, sparsities and arms.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks._runs import (
    Clock,
    Row,
    add_choices,
    arguments,
    conduct,
    parse,
)
from benchmarks.pruning import _networks_report, _train
from vitalfew.exceptions import IncompatibleError
from vitalfew.pruning import prune
from vitalfew.pruning.network import CHITA, MFAC
from vitalfew.structures import NM, Blocks, Cardinality, Channels

SAMPLES = {"mlp": 10_000, "resnet": 2_000}  # training examples to calibrate with
BATCH = 100
STAGES, STEPS = 5, 400  # of gradual pruning: prune, train, prune ...
FIT_STEPS = 1_500  # of training on the calibration examples alone, in all


@dataclass(frozen=True)
class Arm:
    """A way to prune.

    Attributes
    ----------
    method : str or Method
        As `prune` takes it.
    allocation : str
        As `prune` takes it.
    gradual : bool
        Whether it is done in several stages, with training after each.
    on : {"", "calibration", "everything"}
        What is trained on afterwards.
    """

    method: Any
    allocation: str = "global"
    gradual: bool = False
    on: str = ""


ARMS = {
    "magnitude": Arm("magnitude"),
    "magnitude, uniform": Arm("magnitude", "uniform"),
    "fisher": Arm("fisher"),
    "chita": Arm("chita"),
    # what labels alone do: chita learns from those of the calibration examples
    "magnitude, fitted": Arm("magnitude", on="calibration"),
    "magnitude, fitted in stages": Arm("magnitude", gradual=True, on="calibration"),
    "admm": Arm("admm"),  # needs no labels
    "random": Arm("random", "uniform"),
    "magnitude, erk": Arm("magnitude", "erk"),
    "magnitude, lamp": Arm("magnitude", "lamp"),
    "mfac, 1 stage": Arm(MFAC(n_stages=1)),
    "mfac": Arm("mfac"),
    "chita, 1 stage": Arm(CHITA(n_stages=1)),
    "obs": Arm("obs"),
    "local-search": Arm("local-search"),
    "gradual magnitude": Arm("magnitude", gradual=True, on="everything"),
    "gradual fisher": Arm("fisher", gradual=True, on="everything"),
    "gradual chita": Arm("chita", gradual=True, on="everything"),
}
CLAIMED = tuple(ARMS)[:7]
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
CLAIMS = {
    "mlp": (("unstructured", "4x1"), (0.9, 0.95, 0.98)),
    "resnet": (("unstructured", "16x1"), (0.7, 0.8, 0.9)),
}
BLOCKS = {"4x1": (4, 1), "16x1": (16, 1), "8x8": (8, 8)}
PATTERNS = ("unstructured", *BLOCKS, "2:4", "channels")
CHOICES: dict[str, tuple[Any, ...]] = {
    "network": tuple(CLAIMS),
    "pattern": PATTERNS,
    "sparsity": SPARSITIES,
    "arm": tuple(ARMS),
    "seed": _train.SEEDS,
}


def structure(pattern: str, sparsity: float) -> Any:
    """Return what may stay, or None where a pattern has no such sparsity."""
    density = round(1 - sparsity, 6)
    if pattern == "unstructured":
        return Cardinality(density=density)
    if pattern in BLOCKS:
        return Blocks(BLOCKS[pattern], density=density)
    if pattern == "channels":
        return Channels(density=density)
    return NM(2, 4) if sparsity == 0.5 else None


def cells(seeds: int, full: bool) -> Iterator[Row]:
    """Yield the runs that claims need, one network before the next; then the rest."""
    told = set()
    for names in (CLAIMED, tuple(ARMS)) if full else (CLAIMED,):
        for network, (patterns, sparsities) in CLAIMS.items():
            for seed in range(seeds):
                everything = names is not CLAIMED
                for pattern in PATTERNS if everything else patterns:
                    for sparsity in SPARSITIES if everything else sparsities:
                        for arm in names:
                            cell = {
                                "network": network,
                                "pattern": pattern,
                                "sparsity": sparsity,
                                "arm": arm,
                                "seed": seed,
                            }
                            key = tuple(cell.values())
                            if key not in told and structure(pattern, sparsity):
                                told.add(key)
                                yield cell


def run(cell: Row, toy: bool = False) -> Row:
    """Make one run.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool, default=False
        A network that is not trained, little data.

    Returns
    -------
    dict
        Test accuracy before and after, what was kept, and seconds of pruning.
    """
    name, seed, arm = cell["network"], cell["seed"], ARMS[cell["arm"]]
    data = _train.data(name)
    model = _untrained(name) if toy else _train.trained(name, seed)
    dense = _train.score(name, model)
    samples = data.calibration(200 if toy else SAMPLES[name], BATCH, seed)
    stages = STAGES if arm.gradual else 1
    clock, trained = Clock(), Clock()
    cpu = train_cpu = 0.0
    for stage in range(1, stages + 1):
        # cubic in the stage: much at first, little near the end
        sparsity = cell["sparsity"] * (1 - (1 - stage / stages) ** 3)
        wanted = structure(cell["pattern"], sparsity)
        if wanted is None:  # n:m has no stages
            wanted = structure(cell["pattern"], cell["sparsity"])
        try:
            with clock:
                report = prune(
                    model,
                    wanted,
                    method=arm.method,
                    allocation=arm.allocation,
                    calibration=samples,
                    rng=seed,
                )
        except IncompatibleError as error:
            return {"error": str(error)}
        cpu += clock.cpu
        with trained:
            if arm.on == "everything":
                steps = 5 if toy else STEPS
                _train.fine_tune(name, model, report.masks, steps, seed + stage)
            elif arm.on == "calibration":
                steps = 5 if toy else FIT_STEPS // stages
                _train.fit_to(model, samples, report.masks, steps, seed + stage)
        train_cpu += trained.cpu
    return {
        "dense": dense,
        "accuracy": _train.score(name, model),
        "asked": report.asked,
        "kept": report.kept,
        "atoms": report.n_atoms,
        "density": report.density,
        "nonzero": int(sum(_nonzero(model, layer.name) for layer in report.layers)),
        "weights": report.n_weights,
        "cpu": round(cpu, 3),
        "train_cpu": round(train_cpu, 3),
        "recalibrated": len(report.recalibrated),
        "layers": {layer.name: layer.kept for layer in report.layers},
    }


def _untrained(name: str) -> torch.nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return _train.build(_train.RECIPES[name]).eval()


def _nonzero(model: torch.nn.Module, name: str) -> int:
    """Count in the model itself what a report says."""
    return int(torch.count_nonzero(model.get_submodule(name).weight))


def main(given: list[str] | None = None) -> int:
    """Run the experiment and write its page.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0, or 1 when runs are left for another time.
    """
    parser = arguments(__doc__, "pruning_networks.jsonl")
    parser.add_argument("--full", action="store_true", help="all patterns and arms")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    return conduct(
        options,
        cells(1 if options.toy else len(_train.SEEDS), options.full),
        lambda cell: run(cell, options.toy),
        _networks_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
