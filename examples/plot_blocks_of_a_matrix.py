r"""
Blocks of a matrix
==================

Replacing a weight matrix by one with few nonzero blocks.

Let :math:`W_0` be the weights of a layer and :math:`X` the inputs it sees. A cheaper
matrix :math:`W` is as good as :math:`W_0` when it gives nearly the same outputs,

.. math:: \tfrac{1}{2n} \|X W^\top - X W_0^\top\|_F^2
          = \tfrac12 \langle W, W H \rangle - \langle B, W \rangle + c,
          \qquad H = X^\top X / n, \quad B = W_0 H,

which is what `Quadratic` holds. A block is a group of entries with one label, so
`Groups` with a matrix of labels says which blocks there are.

Needs matplotlib: ``pip install 'vitalfew[plot]'``.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from vitalfew import solve
from vitalfew.objectives import Quadratic
from vitalfew.solvers import OMP
from vitalfew.structures import Groups

images = load_digits()
X, X_test, y, y_test = train_test_split(
    images.data / 16, images.target, test_size=0.5, random_state=0
)
network = MLPClassifier((16,), max_iter=1000, random_state=0).fit(X, y)
W0 = network.coefs_[0].T  # 16 outputs, 64 pixels

H = X.T @ X / len(X)
B = W0 @ H
objective = Quadratic(H, B, constant=np.sum(W0 * B) / 2)

SIDE = 4
rows, columns = np.indices(W0.shape) // SIDE
labels = rows * (W0.shape[1] // SIDE) + columns
print(f"{labels.max() + 1} blocks of {SIDE} x {SIDE} in a matrix of {W0.shape}")


def accuracy(W):
    changed = copy.deepcopy(network)
    changed.coefs_[0] = W.T
    return changed.score(X_test, y_test)


# %%
# Four ways to keep a fraction of the blocks: the largest as they are; the largest,
# refitted; one block at a time by how much it lowers the error, `OMP`; and the default
# solver, which also exchanges blocks.

found = {"largest": {}, "largest, refitted": {}, "OMP": {}, "default": {}}
for density in (0.125, 0.25, 0.375, 0.5, 0.75):
    blocks = Groups(labels, density=density)
    bound = blocks.on(W0.shape)
    found["largest"][density] = bound.project(W0)
    found["largest, refitted"][density] = objective.refit(bound.largest(W0)).x
    found["OMP"][density] = solve(objective, blocks, OMP()).x
    found["default"][density] = solve(objective, blocks).x

scale = np.sum(W0 * B) / 2  # the error of a matrix of zeros
share, correct = {}, {}
print(f"accuracy of the network as it was trained: {accuracy(W0):.3f}")
print("density, error as a share of that of a zero matrix, accuracy after the change")
for name, by_density in found.items():
    matrices = by_density.values()
    share[name] = [objective.value_and_gradient(W)[0] / scale for W in matrices]
    correct[name] = [accuracy(W) for W in matrices]
    print(name)
    for row in zip(by_density, share[name], correct[name], strict=True):
        print("{:>10.3f}{:>10.4f}{:>10.3f}".format(*row))

# %%
# Left, the matrix and what is left of it at a quarter of the blocks. Nothing was
# trained again: only the 16 x 64 matrix was replaced.

fig = plt.figure(figsize=(10, 5), layout="constrained")
pictures, curves = fig.subfigures(1, 2, width_ratios=(5, 6))
axes = pictures.subplots(3, 1)
largest = np.abs(W0).max()
shown = {
    "as trained": W0,
    "largest blocks, 25 %": found["largest"][0.25],
    "default solver, 25 %": found["default"][0.25],
}
for ax, (title, W) in zip(axes, shown.items(), strict=True):
    ax.imshow(W, cmap="RdBu", vmin=-largest, vmax=largest, aspect="equal")
    ax.set_title(title, fontsize="medium")
    ax.set_xticks([])
    ax.set_yticks([])
COLOURS = ("#c44536", "#c98a00", "#1f4e79", "#0b6e4f")
top, bottom = curves.subplots(2, 1, sharex=True)
for (name, by_density), colour in zip(found.items(), COLOURS, strict=True):
    top.plot(
        list(by_density), share[name], "o-", color=colour, markersize=4, label=name
    )
    bottom.plot(list(by_density), correct[name], "o-", color=colour, markersize=4)
top.set_yscale("log")
top.set_ylabel("output error / zero")
top.legend(frameon=False, fontsize="small")
bottom.axhline(accuracy(W0), color="grey", ls=":")
bottom.set_ylabel("held-out accuracy")
bottom.set_xlabel("fraction of blocks kept")
for ax in (top, bottom):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
