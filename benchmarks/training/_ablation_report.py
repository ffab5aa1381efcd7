"""The page of `benchmarks.training.ablation`."""

from pathlib import Path

from benchmarks import _pages
from benchmarks._runs import Results
from benchmarks.training._arms import CHOSEN
from benchmarks.training._tables import Measure, Runs, page

NAME = "training_ablation"
TITLES = {
    "fashion": "MLP 784-256-256-10, Fashion-MNIST",
    "mnist": "MLP 784-256-256-10, MNIST",
    "cifar10": "ResNet-8, CIFAR-10",
}
MEASURE = Measure("accuracy", 1, 1, "test accuracy (%)", "points of accuracy")

INTRODUCTION = """\
Every arm trains the same network from the same initial weights, on the same batches in
the same order, for the same number of steps, and ends with the same number of blocks; a
seed draws all three, and 10,000 training images where there are more. Arms differ in
what scores blocks and in when blocks go. *magnitude* removes all blocks at half time;
*gradual-magnitude* little by little; *powerpropagation* like magnitude, with weights
that are products; *acdc* is dense and sparse by turns; *acdc-gradual* is the schedule
of *sequential-attention++*, dense, sparsification and sparse by turns, with magnitude
for a score; *sequential-attention* is attention with the schedule of acdc. The
perceptrons train for 15 passes with batches of 128, Adam, a rate of 1e-3 that falls as
a cosine, and a weight decay of 1e-4, also on attention. The residual network trains for
15 passes with SGD, a momentum of 0.9, a rate of 0.1 that falls as a cosine, and a
weight decay of 5e-4, on moved and mirrored photographs.

Layers with fewer than 100 blocks stay dense, as in the paper, and the last layer of the
perceptrons always does: so the tables also say how many of the weights of pruned layers
and of all layers are zero in the end. A block of 16x1 is 16 outputs of one input;
blocks at an edge are smaller where their size does not divide the layer. Numbers are
mean test accuracies in per cent, with the least and the greatest in brackets. Seeds are
paired in the tests: p is the share of all choices of signs of the differences whose
mean is as far from zero, exact, for both sides, and not corrected for the number of
tests. With five seeds it cannot fall below 0.06, with eight not below 0.008.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``training_ablation.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs([row for row in results.rows if "error" not in row], TITLES, MEASURE)
    parts = page(
        "Pruning while training: what helps",
        f"{INTRODUCTION}\n{CHOSEN}",
        _pages.machines(results),
        results.rows,
        runs,
        (NAME, "accuracy", "Accuracy against sparsity"),
    )
    (folder / f"{NAME}.rst").write_text("\n".join(parts))
    if runs.settings:
        runs.draw(folder / f"{NAME}_accuracy.svg")
