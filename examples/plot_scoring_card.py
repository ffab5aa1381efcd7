"""
A card of points
================

A risk that can be worked out on paper, and what that costs.

`ScoringSystem` cuts columns at quantiles into yes-or-no items, chooses a few of them
and gives each a small whole number of points. Which points are best on the chosen items
is proved by branch and bound; the multiplier that turns totals into risks is left free.
The patients below are made up: five of ten measurements matter.

Needs matplotlib and pandas: ``pip install 'vitalfew[plot]' pandas``.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import log_loss

from vitalfew.estimators import ScoringSystem, SparseClassifier

rng = np.random.default_rng(0)


def draw(n):
    age = rng.integers(20, 91, n)
    patients = pd.DataFrame(
        {
            "age": age,
            "systolic": np.round(100 + 0.5 * age + 15 * rng.standard_normal(n)),
            "smoker": (rng.random(n) < 0.25).astype(int),
            "glucose": np.round(np.exp(4.6 + 0.25 * rng.standard_normal(n))),
            "exercise": rng.poisson(2, n),
        }
    )
    log_odds = (
        0.05 * (age - 75)
        + 0.03 * (patients["systolic"] - 130)
        + 1.0 * patients["smoker"]
        + 2.0 * (patients["glucose"] > 126)
        - 0.4 * patients["exercise"]
    )
    for i in range(1, 6):  # levels that say little beside the rest
        patients[f"level {i}"] = np.round(log_odds + 4 * rng.standard_normal(n), 1)
    return patients, np.where(rng.random(n) < expit(log_odds), "sick", "healthy")


X, y = draw(2000)
X_new, y_new = draw(20_000)
model = ScoringSystem(6).fit(X, y)
print(model.card())
print()
print(f"accuracy on new patients {model.score(X_new, y_new):.3f}")
print(
    f"other points on these items save at most {max(model.gap_, 1e-6):.0e} of the loss"
)

# %%
# Below on the left, what whole numbers cost: the log loss on new patients of cards of
# one to eight items, beside sparse logistic regression on as many columns, which takes
# a calculator. On the right, whether the risks on the card hold: the share of new
# patients who are sick at each total, with two standard errors.

sizes = range(1, 9)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for make, colour, label in (
    (ScoringSystem, "#0b6e4f", "points for items"),
    (SparseClassifier, "#c44536", "coefficients of columns"),
):
    fits = [make(k).fit(X, y) for k in sizes]
    losses = [log_loss(y_new, m.predict_proba(X_new)) for m in fits]
    left.plot(sizes, losses, "o-", color=colour, markersize=4, label=label)
left.set_xlabel("items or columns")
left.set_ylabel("log loss on new patients")
left.legend(frameon=False)

totals, risk = model.total(X_new), model.predict_proba(X_new)[:, 1]
shown = np.unique(totals)
share = np.array([np.mean(y_new[totals == t] == "sick") for t in shown])
count = np.array([np.sum(totals == t) for t in shown])
error = 2 * np.sqrt(share * (1 - share) / count)
card = [risk[totals == t][0] for t in shown]
right.errorbar(shown, share, error, fmt="o", color="#0b6e4f", label="new patients")
right.plot(shown, card, color="#c44536", label="the card")
right.set_xlabel("total")
right.set_ylabel("risk")
right.legend(frameon=False)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
plt.show()
