r"""
Prune a network
===============

One trained network, one budget, several methods and structures.

A small network that reads digits is trained once. Each method then keeps the same
number of its weights, and nothing is trained afterwards: what differs is which weights
stay, and whether those that stay are fitted again.

Needs torch and matplotlib: ``pip install 'vitalfew[torch,plot]'``.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from vitalfew import pruning
from vitalfew.pruning.network import CHITA
from vitalfew.structures import NM, Blocks, Cardinality, Channels

images = load_digits()
X, X_test, y, y_test = train_test_split(
    torch.tensor(images.data / 16, dtype=torch.float32),
    torch.tensor(images.target),
    test_size=0.5,
    random_state=0,
)
torch.manual_seed(0)
dense = nn.Sequential(
    nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
)
optimiser = torch.optim.Adam(dense.parameters(), lr=0.01, weight_decay=1e-4)
for _ in range(200):
    optimiser.zero_grad()
    nn.functional.cross_entropy(dense(X), y).backward()
    optimiser.step()


def accuracy(network):
    with torch.no_grad():
        return (network(X_test).argmax(dim=1) == y_test).float().mean().item()


# %%
# Calibration data are a few hundred training rows, in batches, with their labels: only
# the methods that use gradients look at these.

batches = list(zip(X[:512].split(64), y[:512].split(64), strict=True))


def pruned(structure, **options):
    network = copy.deepcopy(dense)
    report = pruning.prune(network, structure, rng=0, **options)
    assert report.kept <= report.asked
    return accuracy(network), report


# %%
# Single weights, from half of them to 95 % removed. Three methods score weights, and
# what stays keeps its values: at random, by magnitude, by Wanda (magnitude times the
# size of the input). OBS and ADMM choose layer by layer and fit the rest again, so that
# each layer gives the outputs it gave before; CHITA does so for all weights at once, by
# the loss. Magnitude is shown with the same share of every layer, as the others that go
# layer by layer, and with one budget for the network, as CHITA. A method is a name, or
# an object with settings: fewer stages, here, to be quick.

SAME_SHARE = {"allocation": "uniform"}
METHODS = {
    "random": {"method": "random", **SAME_SHARE},
    "magnitude": {"method": "magnitude", **SAME_SHARE},
    "magnitude, one budget": {"method": "magnitude"},
    "wanda": {"method": "wanda", "calibration": batches, **SAME_SHARE},
    "obs": {"method": "obs", "calibration": batches, **SAME_SHARE},
    "admm": {"method": "admm", "calibration": batches, **SAME_SHARE},
    "chita, one budget": {
        "method": CHITA(n_stages=8, n_refits=2),
        "calibration": batches,
    },
}
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
curves = {
    name: [pruned(Cardinality(density=1 - s), **options)[0] for s in SPARSITIES]
    for name, options in METHODS.items()
}
print(f"accuracy of the dense network: {accuracy(dense):.3f}")
print(f"{'removed':<22}" + "".join(f"{s:>7.0%}" for s in SPARSITIES))
for name, correct in curves.items():
    print(f"{name:<22}" + "".join(f"{value:>7.3f}" for value in correct))

# %%
# The same budget in patterns. A pattern is a constraint: at equal numbers of weights it
# cannot be better than single weights for one and the same choice by score, and it pays
# only where a program makes use of it.

STRUCTURES = {
    "single weights": Cardinality(density=0.5),
    "2 of every 4": NM(2, 4),
    "blocks of 8 x 1": Blocks((8, 1), density=0.5),
    "blocks of 16 x 1": Blocks((16, 1), density=0.5),
    "blocks of 4 x 4": Blocks((4, 4), density=0.5),
    "whole outputs": Channels(density=0.5),
}
by_structure = {}
print(f"\n{'half of the weights removed':<28}{'magnitude':>10}{'admm':>8}")
for name, structure in STRUCTURES.items():
    found = [
        pruned(structure, method=method, calibration=batches, **SAME_SHARE)[0]
        for method in ("magnitude", "admm")
    ]
    by_structure[name] = found
    print(f"{name:<28}{found[0]:>10.3f}{found[1]:>8.3f}")

# %%
# Left, accuracy against the share of weights removed; right, half of the weights in
# each pattern. With half of the single weights gone, magnitude under one budget is
# nearly enough; further on, fitting again what stays makes the difference. This is one
# small network and one seed: a picture of the idea, not a ranking.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
COLOURS = ("#999999", "#e0a3a3", "#c44536", "#c98a00", "#7a5195", "#1f4e79", "#0b6e4f")
for (name, correct), colour in zip(curves.items(), COLOURS, strict=True):
    left.plot(SPARSITIES, correct, "o-", color=colour, markersize=4, label=name)
left.axhline(accuracy(dense), color="grey", ls=":")
left.set_xlabel("fraction of weights removed")
left.set_ylabel("held-out accuracy")
left.legend(frameon=False, fontsize="small")
places = range(len(by_structure))
for shift, column, colour in ((-0.2, 0, "#c44536"), (0.2, 1, "#0b6e4f")):
    right.barh(
        [place + shift for place in places],
        [found[column] for found in by_structure.values()],
        height=0.38,
        color=colour,
        label=("magnitude", "admm")[column],
    )
right.axvline(accuracy(dense), color="grey", ls=":")
right.set_yticks(places, by_structure)
right.invert_yaxis()
right.set_xlabel("held-out accuracy, half of the weights removed")
right.legend(
    frameon=False,
    fontsize="small",
    ncols=2,
    loc="lower center",
    bbox_to_anchor=(0.5, 1),
)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
