"""
How many columns
================

Cross-validation, its one-standard-error rule and information criteria, on one table.

The diabetes table of scikit-learn has 10 columns and 442 patients; with all squares and
pairwise products it has 65 columns. `path` solves for every number of columns and lets
a criterion choose. What such a choice is worth is then measured the only honest way:
with the whole procedure, the choice included, repeated inside other folds.

Needs matplotlib: ``pip install 'vitalfew[plot]'``.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LassoCV, LinearRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from vitalfew import path
from vitalfew.estimators import SparseRegressor
from vitalfew.objectives import LeastSquares
from vitalfew.structures import Cardinality

diabetes = load_diabetes()
products = PolynomialFeatures(2, include_bias=False).set_output(transform="default")
X = products.fit_transform(diabetes.data)
names = products.get_feature_names_out(diabetes.feature_names)
y = diabetes.target

# %%
# Criteria
# --------
# `path` works on what it is given, so bring the columns to one scale first; the
# estimators do this by themselves.

scaled = StandardScaler().fit_transform(X)
objective = LeastSquares(scaled, y, fit_intercept=True)
paths = {
    choose: path(objective, Cardinality(1), range(16), choose=choose, rng=0)
    for choose in ("cv", "cv-1se", "bic", "ebic", "gic")
}
for choose, found in paths.items():
    chosen = ", ".join(names[found.best.support])
    print(f"{choose:<7}{found.best_budget:>3.0f} columns: {chosen}")

# %%
# Left, the held-out error over the five folds, with the standard error of its mean:
# the rule of one standard error takes the fewest columns within one bar of the least.
# Right, the information criteria, each less its own least value.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
by_folds = paths["cv"]
left.errorbar(
    by_folds.budgets,
    by_folds.scores,
    yerr=by_folds.spread,
    color="#1f4e79",
    marker="o",
    markersize=4,
    capsize=2,
)
for choose, style in (("cv", "-"), ("cv-1se", ":")):
    best = paths[choose].best_budget
    left.axvline(best, color="#c44536", ls=style, label=f"{choose}: {best:.0f}")
left.set_ylabel("held-out loss")
for choose, colour in (("bic", "#0b6e4f"), ("ebic", "#8d6a9f"), ("gic", "#c98a00")):
    found = paths[choose]
    label = f"{choose}: {found.best_budget:.0f}"
    above = found.scores - found.scores.min()
    right.plot(found.budgets, above, "o-", color=colour, markersize=4, label=label)
    right.plot(found.best_budget, 0, "o", color=colour, markersize=9, mfc="none")
right.set_ylim(-3, 60)
right.set_ylabel("criterion, less its least")
for ax in (left, right):
    ax.set_xlabel("columns")
    ax.legend(frameon=False, loc="upper center")
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# What the choice is worth
# ------------------------
# Now everything happens inside five outer folds: scaling, choosing the number, choosing
# the columns. The estimators make that one line. The spread over the folds is much
# larger than most differences between the rows.

outer = KFold(5, shuffle=True, random_state=0)
rivals = {
    "no columns": SparseRegressor(0),
    "all 65 columns": LinearRegression(),
    "lasso": make_pipeline(StandardScaler(), LassoCV(max_iter=20_000)),
    "cv": SparseRegressor(random_state=0),
    "cv-1se": SparseRegressor(criterion="cv-1se", random_state=0),
    "ebic": SparseRegressor(criterion="ebic"),
}
print("root mean squared error over five outer folds, and its standard error")
for name, model in rivals.items():
    scores = -cross_val_score(
        model, X, y, cv=outer, scoring="neg_root_mean_squared_error"
    )
    print(f"{name:<15}{scores.mean():6.1f} ± {scores.std(ddof=1) / 5**0.5:.1f}")

model = rivals["ebic"].fit(X, y)
print("\nwhat ebic chooses on all rows, with coefficients in the table's units:")
for column in model.support_:
    print(f"  {names[column]:<10}{model.coef_[column]:>10.1f}")
print(f"  intercept {model.intercept_:>10.1f}")
