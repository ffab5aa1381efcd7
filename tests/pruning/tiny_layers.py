"""Layers small enough for every support to be tried."""

import itertools

import numpy as np
import torch

from vitalfew.neural import Statistics


def layer(n_out, n_in, seed, dtype=torch.float64, n=60, correlated=0.7):
    """Trained weights and statistics of correlated inputs."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 1))
    X = correlated * shared + rng.standard_normal((n, n_in))
    X *= rng.uniform(0.2, 3.0, n_in)
    W = rng.standard_normal((n_out, n_in))
    X, W = torch.as_tensor(X, dtype=dtype), torch.as_tensor(W, dtype=dtype)
    return W, Statistics(n_tokens=n, hessian=X.T @ X / n, inputs=X)


def masks_of(structure):
    """All masks a structure allows that use its whole budget."""
    for atoms in itertools.combinations(range(structure.n_atoms), structure.budget):
        support = structure.support(np.array(atoms, np.int64))
        if structure.allows(support):
            mask = torch.zeros(structure.shape, dtype=torch.bool)
            mask.reshape(-1)[torch.as_tensor(support.ids)] = True
            yield mask
