"""The arms: methods of `vitalfew.pruning.training`, with their default settings."""

from benchmarks._runs import Row
from vitalfew.structures import Blocks

PUBLISHED = (
    "magnitude",
    "gradual-magnitude",
    "powerpropagation",
    "acdc",
    "acdc-gradual",
    "sequential-attention",
    "sequential-attention++",
)
# of this library's own, the last two being parts of the first
OURS = ("attention-refit", "fisher-attention", "gradual-fisher")
ARMS = (*PUBLISHED, *OURS)
DENSE = "dense"  # nothing is pruned

COLOURS = {
    DENSE: "#bbbbbb",
    "magnitude": "#c44536",
    "gradual-magnitude": "#d98e04",
    "powerpropagation": "#8d6a9f",
    "acdc": "#1f4e79",
    "acdc-gradual": "#3aafa9",
    "sequential-attention": "#79b89f",
    "sequential-attention++": "#0b6e4f",
}
OTHERS = ("#222222", "#5c4033", "#b5a642", "#e36bae")  # of methods without a colour


def cell_of(data: str, pattern: str, sparsity: float, arm: str, seed: int) -> Row:
    """Return what tells a run."""
    return {
        "data": data,
        "pattern": pattern,
        "sparsity": sparsity,
        "arm": arm,
        "seed": seed,
    }


def blocks(cell: Row) -> Blocks | None:
    """Return what may stay in a run, or None where nothing is pruned."""
    if cell["arm"] == DENSE:
        return None
    rows, columns = map(int, cell["pattern"].split("x"))
    return Blocks((rows, columns), density=round(1 - cell["sparsity"], 6))


def colour(arm: str) -> str:
    """Return the colour of an arm in figures."""
    if arm in COLOURS:
        return COLOURS[arm]
    return OTHERS[OURS.index(arm) % len(OTHERS)] if arm in OURS else OTHERS[0]


CHOSEN = """\
Published methods have their default settings, and nothing was tuned for them. Methods
of our own, and the cubic schedule that they share with *gradual-magnitude* (with fewer
selections, and removed weights set to zero instead of hidden), got their settings on
the digits of scikit-learn and on two trainings of each perceptron of
`benchmarks.training.ablation` that were judged by training images held out; on the way
an earlier form of them was looked at on test images of Fashion-MNIST, with a seed that
is not among these. *gradual-fisher* removes what costs least loss by mean squared
gradients; *fisher-attention* adds attention to it, *attention-refit* a refit of the
layer whenever blocks are removed. None of them saw any other data or block size before
these runs. Adam's decay is part of the gradient, so that weights which are hidden for
long fall towards zero under it, in *acdc-gradual*, *sequential-attention* and
*sequential-attention++* too.
"""
