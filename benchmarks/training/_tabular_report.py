"""The page of `benchmarks.training.tabular`."""

from pathlib import Path

from benchmarks import _pages
from benchmarks._runs import Results
from benchmarks.training._arms import CHOSEN
from benchmarks.training._tables import Measure, Runs, page

NAME = "training_tabular"
TITLES = {
    "criteo-like": "Drawn clicks, 39 fields",
    "adult": "Adult, 14 fields",
}
MEASURE = Measure("loss", -1, 4, "validation log loss (nats)", "nats")

INTRODUCTION = """\
The set-up of the paper on SequentialAttention++ for clicks, made small: each field of a
table has an embedding of ten numbers, a perceptron of three layers of 400 follows, and
the first of them alone is pruned, in square blocks. Criteo's own table is not used. The
drawn clicks have its shape: 39 fields, 13 of them counts in 16 classes and 26
categories with a power law, up to 100,000 of them hashed into at most 1,000 places; a
quarter of the rows is clicked, by effects of single fields and of pairs of fields that
were planted; 500,000 rows are seen once and 100,000 validate. They say nothing about
real clicks. Adult is real, with 14 fields, numbers in up to 16 classes by quantiles;
its training rows are seen 15.7 times. So the first layer is 400 x 390 with the one and
400 x 140 with the other. 390 is no multiple of 20: blocks at an edge are smaller, and
count as blocks.

All arms train from the same initial weights on the same batches of 512, with Adam, a
rate that falls exponentially from 2e-3 to 2e-5, and a weight decay of 1e-4 on all but
embeddings; a seed draws weights and batches. *acdc* and *sequential-attention++* have
the lengths of the paper for this network, a fifth of the training dense, ten cycles, a
fifth sparse, and acdc hides weights rather than setting them to zero; the other arms
have their defaults. Numbers are mean log losses on the validation rows, in nats, the
lower the better, with the least and the greatest in brackets. Seeds are paired in the
tests: p is the share of all choices of signs of the differences whose mean is as far
from zero, exact, for both sides, and not corrected for the number of tests.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``training_tabular.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs([row for row in results.rows if "error" not in row], TITLES, MEASURE)
    introduction = f"{INTRODUCTION}\n{CHOSEN}"
    least = {row["least"] for row in runs.rows if "least" in row}
    if least:
        introduction += (
            "\nOn the drawn clicks, training and validation rows together, the "
            f"probabilities they were drawn with have a log loss of {min(least):.4f}.\n"
        )
    parts = page(
        "Pruning while training: categories",
        introduction,
        _pages.machines(results),
        results.rows,
        runs,
        (NAME, "loss", "Log loss against sparsity"),
    )
    (folder / f"{NAME}.rst").write_text("\n".join(parts))
    if runs.settings:
        runs.draw(folder / f"{NAME}_loss.svg")
