"""Functions of NumPy arrays with gradients, and the same as torch networks."""

from collections.abc import Callable

import numpy as np

Function = Callable[..., tuple[np.ndarray, np.ndarray]]


def linear(w: np.ndarray) -> Function:
    def f(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x @ w, np.broadcast_to(w, x.shape)

    return f


def quadratic(A: np.ndarray, b: np.ndarray) -> Function:
    """x A x / 2 + b x, for symmetric A."""

    def f(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.sum(x @ A * x, 1) / 2 + x @ b, x @ A + b

    return f


def products(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x0 x1 + tanh(2 x2 - x3) + x0 x3^2; further entries do nothing."""
    g = np.zeros_like(x)
    t = np.tanh(2 * x[:, 2] - x[:, 3])
    g[:, 0] = x[:, 1] + x[:, 3] ** 2
    g[:, 1] = x[:, 0]
    g[:, 2] = 2 * (1 - t**2)
    g[:, 3] = -(1 - t**2) + 2 * x[:, 0] * x[:, 3]
    return x[:, 0] * x[:, 1] + t + x[:, 0] * x[:, 3] ** 2, g


class Softmax:
    """One hidden layer of tanh and a softmax: value and gradient by hand."""

    def __init__(self, rng: np.random.Generator, p: int, hidden: int = 7, C: int = 3):
        self.W = rng.normal(size=(p, hidden))
        self.b = rng.normal(size=hidden) / 3
        self.V = rng.normal(size=(hidden, C))

    def __call__(
        self, x: np.ndarray, classes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        flat = x.reshape(len(x), -1)
        h = np.tanh(flat @ self.W + self.b)
        z = h @ self.V
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        value = p[np.arange(len(x)), classes]
        by_z = -value[:, None] * p
        by_z[np.arange(len(x)), classes] += value
        by_h = by_z @ self.V.T
        return value, ((by_h * (1 - h**2)) @ self.W.T).reshape(x.shape)

    def network(self):
        """Return the same in torch, with logits as outputs."""
        import torch
        from torch import nn

        first = nn.Linear(*self.W.shape).double()
        last = nn.Linear(*self.V.shape, bias=False).double()
        with torch.no_grad():
            first.weight.copy_(torch.tensor(self.W.T))
            first.bias.copy_(torch.tensor(self.b))
            last.weight.copy_(torch.tensor(self.V.T))
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), last)
