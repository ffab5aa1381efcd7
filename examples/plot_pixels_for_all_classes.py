"""
A few pixels for ten classes
============================

One choice of columns shared by all classes.

A multinomial model has a coefficient for each column and class. Choosing single
coefficients would save nothing: a pixel must be measured as soon as one class uses it.
`Rows` chooses whole rows of the coefficient matrix, so a pixel serves all ten classes
or none; `SparseClassifier` uses it by itself when there are more than two classes.

Needs matplotlib: ``pip install 'vitalfew[plot]'``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitalfew.estimators import SparseClassifier

images = load_digits()
X, X_test, y, y_test = train_test_split(
    images.data, images.target, test_size=0.5, random_state=0, stratify=images.target
)

everything = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
all_pixels = everything.fit(X, y).score(X_test, y_test)

budgets = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32)
models = {k: SparseClassifier(k).fit(X, y) for k in budgets}
accuracy = {k: model.score(X_test, y_test) for k, model in models.items()}

print(f"accuracy on {len(y_test)} images that were not used for choosing")
for k, share in accuracy.items():
    print(f"{k:>4} of 64 pixels  {share:.3f}")
print(f"all pixels, l2      {all_pixels:.3f}")

# %%
# Three of the choices, over the mean of all images, and the accuracy of all of them.

SHOWN = (6, 12, 24)
fig, axes = plt.subplots(
    1, 4, figsize=(11, 3.1), layout="constrained", width_ratios=(1, 1, 1, 2)
)
mean = X.mean(axis=0).reshape(8, 8)
for ax, k in zip(axes, SHOWN, strict=False):
    ax.imshow(mean, cmap="Greys", vmax=24)
    row, column = np.divmod(models[k].support_, 8)
    ax.scatter(column, row, marker="s", s=130, fc="none", ec="#c44536", lw=2)
    ax.set_title(f"{k} pixels: {accuracy[k]:.0%}")
    ax.set(xticks=[], yticks=[])
axes[3].plot(budgets, list(accuracy.values()), "o-", color="#1f4e79", label="chosen")
axes[3].axhline(all_pixels, color="grey", ls=":", label="all 64 pixels")
axes[3].set_xlabel("pixels")
axes[3].set_ylabel("held-out accuracy")
axes[3].legend(frameon=False, loc="lower right")
axes[3].spines[["top", "right"]].set_visible(False)
plt.show()
