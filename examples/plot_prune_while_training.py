r"""
Prune while training
====================

Blocks leave a network little by little while it learns, instead of all at once.

A small network that reads digits is trained several times with the same steps and the
same exact budget of blocks. What differs is when blocks are removed, whether they may
come back, and what says which ones: their magnitude, or attention that trains along.

Needs torch and matplotlib: ``pip install 'vitalfew[torch,plot]'``.
"""

import statistics

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from vitalfew.pruning import Pruner
from vitalfew.structures import Blocks

images = load_digits()
X, X_test, y, y_test = train_test_split(
    torch.tensor(images.data / 16, dtype=torch.float32),
    torch.tensor(images.target),
    test_size=0.5,
    random_state=0,
)
STEPS = 300

# %%
# The loop is that of any training, with three lines more: the pruner is made after the
# optimiser and before the scheduler, told of every step, and folded in at the end. The
# last layer has too few blocks and stays dense, as ``pruner.left`` says.


def train(method, density, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    pruner = Pruner(
        network,
        Blocks((8, 8), density=density),
        method=method,
        total_steps=STEPS,
        optimizer=optimiser,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(X), (64,))
        noisy = X[rows] + 0.1 * torch.randn(64, 64)
        loss = nn.functional.cross_entropy(network(noisy), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pruner.step(loss)
        scheduler.step()
    report = pruner.finalize()
    assert report.kept == report.asked
    with torch.no_grad():
        correct = network(X_test).argmax(dim=1) == y_test
    return correct.float().mean().item(), pruner


# %%
# Four methods, three budgets, three seeds. One-shot magnitude removes everything in the
# middle of the training; gradual magnitude more and more; AC/DC is sparse and dense by
# turns; SequentialAttention++ too, with a gradual way down and attention as the score.

METHODS = {
    "magnitude": "#999999",
    "acdc": "#c98a00",
    "gradual-magnitude": "#c44536",
    "sequential-attention++": "#0b6e4f",
}
DENSITIES = (0.2, 0.1, 0.05)
found = {
    method: [
        [train(method, density, seed) for seed in range(3)] for density in DENSITIES
    ]
    for method in METHODS
}
print(f"{'blocks kept':<24}" + "".join(f"{density:<22.0%}" for density in DENSITIES))
for method, cells in found.items():
    rights = [[accuracy for accuracy, _ in runs] for runs in cells]
    spreads = [
        f"{statistics.mean(right):.3f} ({min(right):.3f}-{max(right):.3f})"
        for right in rights
    ]
    print(f"{method:<24}" + "".join(f"{spread:<22}" for spread in spreads))

# %%
# Left and middle, what happened in one training of each kind: the fraction of weights
# that the network does not see, the steps in which masks changed, and the loss. Right,
# held-out accuracy against the blocks kept; lines are means, bands all seeds. One
# small network: a picture of the idea, not a ranking.

fig, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for ax, method in zip(
    axes, ("gradual-magnitude", "sequential-attention++"), strict=False
):
    _, pruner = found[method][1][0]
    pruner.history.plot(ax)
    ax.legend(loc="center right", fontsize="small")
    ax.set_title(f"{method}, 10 % kept")
for method, colour in METHODS.items():
    right = [[accuracy for accuracy, _ in runs] for runs in found[method]]
    means = [statistics.mean(runs) for runs in right]
    axes[2].plot(DENSITIES, means, "o-", color=colour, markersize=4, label=method)
    lowest, highest = [min(runs) for runs in right], [max(runs) for runs in right]
    axes[2].fill_between(DENSITIES, lowest, highest, color=colour, alpha=0.15, lw=0)
axes[2].set_xscale("log")
axes[2].set_xticks(DENSITIES, [f"{density:.0%}" for density in DENSITIES])
axes[2].minorticks_off()
axes[2].set_xlabel("blocks kept")
axes[2].set_ylabel("held-out accuracy")
axes[2].legend(frameon=False, fontsize="small")
for ax in axes:
    ax.spines[["top"]].set_visible(False)
plt.show()
