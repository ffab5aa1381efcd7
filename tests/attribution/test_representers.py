"""Representers of models with norm penalties: kernels entry by entry."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import Lasso, LogisticRegression

from vitalfew.attribution import high_dimensional_representers as representers


@pytest.fixture
def data(rng):
    X = rng.normal(size=(40, 12))
    return X, X[:, 0] - 2 * X[:, 3] + rng.normal(size=40) / 3, rng.normal(size=(7, 12))


def test_lasso_predictions_are_sums_over_rows(data):
    X, y, new = data
    model = Lasso(alpha=0.1, tol=1e-12, max_iter=100_000).fit(X, y)
    found = representers(X, y, model.coef_, new, intercept=model.intercept_)
    np.testing.assert_allclose(found.alpha, 0.1)
    np.testing.assert_allclose(found.gaps, 0, atol=1e-8)
    sums = found.values.sum(1) + model.intercept_
    np.testing.assert_allclose(sums, model.predict(new), atol=1e-8)
    residuals = y - model.predict(X)
    for t in range(7):
        for i in range(40):
            kernel = sum(abs(model.coef_[j]) * X[i, j] * new[t, j] for j in range(12))
            wanted = residuals[i] / (40 * 0.1) * kernel
            np.testing.assert_allclose(found.values[t, i], wanted, atol=1e-10)


def test_logistic_regression(data):
    X, y, new = data
    y = (y > 0).astype(int)
    model = LogisticRegression(
        C=0.5, solver="liblinear", l1_ratio=1, tol=1e-10, max_iter=10_000
    ).fit(X, y)
    b, coef = float(model.intercept_[0]), model.coef_[0]
    found = representers(X, y, coef, new, loss="logistic", intercept=b)
    np.testing.assert_allclose(found.alpha, 1 / (0.5 * 40), rtol=1e-4)
    np.testing.assert_allclose(found.gaps, 0, atol=1e-3)
    own = representers(X, y, coef, new, loss=lambda z, y: expit(z) - y, intercept=b)
    np.testing.assert_allclose(own.values, found.values)


def nuclear(X, y, shape, alpha, steps=20_000):
    """Minimise 1/2 mean squared error + alpha * nuclear norm by proximal gradients."""
    flat = X.reshape(len(X), -1)
    size = len(X) / np.linalg.norm(flat, 2) ** 2
    theta = np.zeros(shape)
    for _ in range(steps):
        gradient = (flat.T @ (flat @ theta.ravel() - y) / len(X)).reshape(shape)
        U, s, Vt = np.linalg.svd(theta - size * gradient, full_matrices=False)
        new = (U * np.maximum(s - size * alpha, 0)) @ Vt
        if np.abs(new - theta).max() < 1e-13:
            break
        theta = new
    return theta


def test_nuclear_norm(rng):
    shape = (4, 3)
    truth = np.outer(rng.normal(size=4), rng.normal(size=3))
    X, new = rng.normal(size=(60, *shape)), rng.normal(size=(5, *shape))
    y = np.sum(X * truth, (1, 2)) + rng.normal(size=60) / 5
    theta = nuclear(X, y, shape, 0.15)
    rank = np.linalg.matrix_rank(theta, tol=1e-9)
    assert 1 <= rank < 3
    theta = np.round(theta, 15)
    found = representers(X, y, theta, new)
    np.testing.assert_allclose(found.alpha, 0.15, rtol=1e-6)
    np.testing.assert_allclose(
        found.values.sum(1), np.sum(new * theta, (1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(found.gaps, 0, atol=1e-6)
    U, s, Vt = np.linalg.svd(theta)
    root = np.diag(np.sqrt(s[:rank]))
    U, V = U[:, :rank], Vt[:rank].T
    residual = y - np.sum(X * theta, (1, 2))
    kernel = np.trace((U.T @ X[3] @ V).T @ (root @ U.T @ new[2] @ V @ root))
    np.testing.assert_allclose(
        found.values[2, 3], residual[3] / (60 * 0.15) * kernel, atol=1e-6
    )


def test_entries_of_a_matrix_are_matrices_of_one_entry(rng):
    shape, n = (5, 4), 14
    cells = rng.permutation(20)[:n]
    seen, y = np.divmod(cells, 4), rng.normal(size=n)
    X = np.eye(20)[cells].reshape(n, *shape)
    theta = nuclear(X, y, shape, 0.02)
    every = np.divmod(np.arange(20), 4)
    found = representers(tuple(seen), y, theta, tuple(every))
    whole = representers(X, y, theta, np.eye(20).reshape(20, *shape))
    np.testing.assert_allclose(found.values, whole.values, atol=1e-12)
    np.testing.assert_allclose(found.values.sum(1), theta.ravel(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coef": np.zeros(12)}, "coef must be a minimiser .* but it is zero"),
        ({"coef": -np.eye(12)[0]}, "the loss falls towards zero"),
        ({"coef": np.ones((2, 2, 2))}, r"coef must have shape \(p,\) or \(p, q\)"),
        ({"X_train": np.ones((40, 3))}, r"X_train must have shape \(n, 12\)"),
        ({"coef": np.ones((12, 2))}, r"X_train must have shape \(n, 12, 2\)"),
        ({"y": np.ones(4)}, "y must have one entry for each of the 40 rows"),
        ({"X": np.full((2, 12), np.nan)}, "X must be finite"),
        ({"loss": "hinge"}, "loss must be 'squared', 'logistic' or a function"),
    ],
)
def test_wrong_arguments_are_named(change, message, data):
    X, y, new = data
    given = {"X_train": X, "y": y, "coef": np.eye(12)[0] / 2, "X": new} | change
    with pytest.raises(ValueError, match=message):
        representers(**given)
