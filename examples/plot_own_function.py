r"""
A function of your own
======================

Any smooth function can be minimised under a budget.

A third of the targets below are replaced by values from a Cauchy distribution. Least
squares follows them; a loss that grows like a logarithm,
:math:`\frac{1}{2n} \sum_i \log(1 + r_i^2)`, gives far outliers almost no say. It is not
convex and not part of the library: `Smooth` takes it as a function and its gradient.

Needs matplotlib: ``pip install 'vitalfew[plot]'``. Does not need torch.
"""

import importlib.util

import matplotlib.pyplot as plt
import numpy as np

from vitalfew import solve
from vitalfew.objectives import Huber, LeastSquares, Smooth
from vitalfew.structures import Cardinality

N, P, K = 200, 300, 8


def draw(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P))
    coef = np.zeros(P)
    coef[rng.choice(P, K, replace=False)] = rng.choice([-1, 1], K)
    y = X @ coef + 0.3 * rng.standard_normal(N)
    bad = rng.choice(N, N // 3, replace=False)
    y[bad] = 10 * rng.standard_cauchy(len(bad))
    return X, y, coef


def cauchy(X, y):
    """Return the loss as an objective: six lines."""

    def value(x):
        return np.log1p((y - X @ x) ** 2).mean() / 2

    def gradient(x):
        r = y - X @ x
        return -X.T @ (r / (1 + r * r)) / len(y)

    return Smooth(value, X.shape[1], gradient=gradient)


# %%
# All three are given the number of columns and nothing else.

LOSSES = {"LeastSquares": LeastSquares, "Huber": Huber, "Smooth, own loss": cauchy}
hits = {name: [] for name in LOSSES}
distance = {name: [] for name in LOSSES}
for seed in range(10):
    X, y, coef = draw(seed)
    for name, make in LOSSES.items():
        found = solve(make(X, y), Cardinality(K))
        hits[name].append(np.count_nonzero(coef[found.support]))
        error = np.linalg.norm(found.x - coef) / np.linalg.norm(coef)
        distance[name].append(error)

print(f"planted columns found, of {K}, and distance to the planted coefficients")
print("smallest, median and largest over ten draws")
for name in LOSSES:
    found = "{:.0f} {:.0f} {:.0f}".format(*np.quantile(hits[name], (0, 0.5, 1)))
    off = "{:.3f} {:.3f} {:.3f}".format(*np.quantile(distance[name], (0, 0.5, 1)))
    print(f"{name:<18}{found:>10}   {off}")

# %%
# The coefficients of the last draw. Note the scale of each axis.

fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained", sharex=True)
for ax, (name, make) in zip(axes, LOSSES.items(), strict=True):
    x = solve(make(X, y), Cardinality(K)).x
    planted, chosen = np.flatnonzero(coef), np.flatnonzero(x)
    ax.plot(planted, coef[planted], "o", color="grey", mfc="none")
    colours = np.where(coef[chosen] != 0, "#0b6e4f", "#c44536")
    ax.vlines(chosen, 0, x[chosen], color=colours, lw=2)
    ax.axhline(0, color="black", lw=0.8)
    ax.set_title(name)
    ax.set_xlabel("column")
    ax.spines[["top", "right", "bottom"]].set_visible(False)
axes[0].set_ylabel("coefficient")
marks = [
    plt.Line2D([], [], color="grey", marker="o", mfc="none", ls="", label="planted"),
    plt.Line2D([], [], color="#0b6e4f", lw=2, label="chosen, planted"),
    plt.Line2D([], [], color="#c44536", lw=2, label="chosen, not planted"),
]
fig.legend(handles=marks, frameon=False, ncols=3, loc="outside upper center")
plt.show()

# %%
# With torch the gradient need not be written down: leave `gradient` out, and the
# function takes and returns tensors.

if importlib.util.find_spec("torch"):
    import torch

    A, b = torch.asarray(X), torch.asarray(y)
    own = Smooth(lambda x: torch.log1p((b - A @ x) ** 2).mean() / 2, P)
    by_torch = solve(own, Cardinality(K))
    by_hand = solve(cauchy(X, y), Cardinality(K))
    same = np.array_equal(by_torch.support, by_hand.support)
    print(f"torch: same columns {same}, value {by_torch.value:.6f}")
    print(f"by hand:                    {by_hand.value:.6f}")
else:
    print("torch is not installed; the part above used NumPy alone")
