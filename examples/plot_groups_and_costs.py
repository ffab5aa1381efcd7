"""
Groups under a cost budget
==========================

What to measure when measurements come in bundles and have prices.

Each of 25 instruments reads three channels, and for each there is a cheap version with
noisier channels. Eight of the instruments matter. Whoever buys one gets all its
channels, so the atoms to choose are groups of columns, and the budget is money:
``Groups(labels, costs=..., max_cost=...)``.

Needs matplotlib: ``pip install 'vitalfew[plot]'``.
"""

import matplotlib.pyplot as plt
import numpy as np

from vitalfew import path
from vitalfew.objectives import LeastSquares
from vitalfew.structures import Groups

N, CHANNELS = 25, 3
rng = np.random.default_rng(0)
matter = rng.choice(N, 8, replace=False)
coef = np.zeros((N, CHANNELS))
coef[matter] = rng.standard_normal((8, CHANNELS))


def draw(n_rows):
    signal = rng.standard_normal((n_rows, N, CHANNELS))
    y = np.einsum("nij,ij->n", signal, coef) + rng.standard_normal(n_rows)
    cheap = signal + 0.7 * rng.standard_normal(signal.shape)
    return np.concatenate((signal, cheap), axis=1).reshape(n_rows, -1), y


train, test = LeastSquares(*draw(400)), LeastSquares(*draw(2000))
labels = np.repeat(np.arange(2 * N), CHANNELS)  # instruments, then their cheap versions
costs = np.concatenate((rng.integers(8, 15, N), rng.integers(2, 5, N)))

# %%
# One path spends a budget of money, the other counts instruments without looking at
# their prices. Both are judged by what they paid. The noise alone has variance 1.

by_cost = path(
    train, Groups(labels, costs=costs, max_cost=0), range(0, 121, 5), choose=None
)
by_count = path(train, Groups(labels, 0), range(11), choose=None)


def paid(solution):
    return costs[solution.support].sum()


def squared_error(solution):
    return 2 * test.loss_at(solution.x)


print("budget  paid  full  cheap  held-out squared error")
for budget, s in zip(by_cost.budgets, by_cost.solutions, strict=True):
    full, cheap = np.sum(s.support < N), np.sum(s.support >= N)
    print(f"{budget:>6.0f}{paid(s):>6}{full:>6}{cheap:>7}{squared_error(s):>10.2f}")
print("by count: paid, held-out squared error")
for s in by_count.solutions:
    print(f"{len(s.support):>6}{paid(s):>6}{squared_error(s):>23.2f}")

# %%
# Below, which version of each instrument that matters is bought at each budget, and how
# many others are bought beside them.

grid = np.zeros((len(matter), len(by_cost.budgets)))
others = []
for column, s in enumerate(by_cost.solutions):
    for row, instrument in enumerate(matter):
        full, cheap = instrument in s.support, instrument + N in s.support
        grid[row, column] = 2 if full else 1 if cheap else 0
    others.append(np.count_nonzero(~np.isin(s.support % N, matter)))

fig, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(4, 5)
)
for found, colour, label in (
    (by_cost, "#0b6e4f", "budget in money"),
    (by_count, "#c44536", "budget in instruments"),
):
    spent = [paid(s) for s in found.solutions]
    errors = [squared_error(s) for s in found.solutions]
    left.plot(spent, errors, "o-", color=colour, markersize=4, label=label)
left.axhline(1, color="grey", ls=":", label="variance of the noise")
left.set_yscale("log")
left.set_xlabel("money spent")
left.set_ylabel("held-out squared error")
left.legend(frameon=False)
left.spines[["top", "right"]].set_visible(False)

shades = ["#f2f2f2", "#a7d3b9", "#0b6e4f"]
colours = plt.matplotlib.colors.ListedColormap(shades)
right.pcolormesh(grid, cmap=colours, vmin=0, vmax=2, edgecolor="white")
right.set_ylim(len(matter) + 1, 0)
for column, count in enumerate(others):
    at = column + 0.5, len(matter) + 0.55
    right.annotate(str(count), at, ha="center", va="center", fontsize=8)
right.set_xticks(np.arange(0, 25, 4) + 0.5, range(0, 121, 20))
rows = [f"instrument {i}" for i in matter] + ["others"]
right.set_yticks(np.arange(len(rows)) + 0.5, rows)
right.tick_params(length=0)
right.set_xlabel("budget in money")
marks = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in shades]
meaning = ("not bought", "cheap version", "full version")
fig.legend(marks, meaning, ncols=3, frameon=False, loc="outside upper right")
for side in right.spines.values():
    side.set_visible(False)
plt.show()
