"""Networks whose inputs are chosen: ours or a user's, with their loss and device."""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural.modes import same_random_state


class Perceptron(nn.Sequential):
    """Linear layers with ReLU between them."""

    def masked(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return what it makes of ``x * weights``, without a gradient for every x.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Inputs.
        weights : tensor of shape (p,)
            Factors of the columns.

        Returns
        -------
        tensor of shape (n, n_outputs)
            Outputs.
        """
        first, *others = self
        x = nn.functional.linear(x, first.weight * weights, first.bias)
        for layer in others:
            x = layer(x)
        return x


def perceptron(n_in: int, n_out: int, hidden: tuple[int, ...], seed: int) -> Perceptron:
    """Return a network of ReLU layers with weights of its own seed.

    Parameters
    ----------
    n_in, n_out : int
        Columns, and outputs.
    hidden : tuple of int
        Units of the layers between; none for a linear model.
    seed : int
        Of the weights.

    Returns
    -------
    Perceptron
        On the CPU.
    """
    sizes = (n_in, *hidden, n_out)
    with same_random_state():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
    return Perceptron(*layers[:-1])


def own_network(network: Any, n_in: int, n_out: int, seed: int) -> nn.Module:
    """Return a copy of a user's network, or what a user's function builds.

    Parameters
    ----------
    network : Module or callable
        A network, or a function of the numbers of columns and outputs.
    n_in, n_out : int
        Those numbers.
    seed : int
        Of random numbers that the function draws.

    Returns
    -------
    Module
        Which may be trained, in single precision.
    """
    if isinstance(network, nn.Module):
        return deepcopy(network).float()
    if not callable(network):
        raise ValueError(
            "network must be None, a torch module or a function of n_inputs and "
            f"n_outputs that returns one, got {type(network).__name__}"
        )
    with same_random_state():
        torch.manual_seed(seed)
        built = network(n_in, n_out)
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"network must return a torch module, got {type(built).__name__}"
        )
    return built.float()


def device_of_choice(device: Any) -> torch.device:
    """Return the device that a name stands for.

    Parameters
    ----------
    device : str or device
        "auto" is a GPU if there is one.

    Returns
    -------
    device
        Of torch.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be 'auto' or one that torch can use here, got {device!r}"
        ) from error


def default_loss(n_outputs: int, classes: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the cross-entropy or the mean squared error, which check the outputs.

    Parameters
    ----------
    n_outputs : int
        Classes, or numbers to predict.
    classes : bool
        Which of the two it is.

    Returns
    -------
    callable
        Of outputs and targets.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        n = len(targets)
        if outputs.shape != (n, n_outputs) and (classes or outputs.numel() != n):
            what = "class" if classes else "number to predict"
            raise ValueError(
                f"network must return one output for each row and {what}, ({n}, "
                f"{n_outputs}), got shape {tuple(outputs.shape)}; or give a loss=..."
            )
        if classes:
            return nn.functional.cross_entropy(outputs, targets)
        return nn.functional.mse_loss(outputs.reshape(targets.shape), targets)

    return loss


def first_layer(network: nn.Module, n_in: int) -> nn.Linear:
    """Return the layer that reads the inputs.

    Parameters
    ----------
    network : Module
        Any.
    n_in : int
        Columns.

    Returns
    -------
    Linear
        The first that reads as many.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.in_features == n_in:
            return module
    raise ValueError(
        f"network must have a torch.nn.Linear that reads the {n_in} columns, for the "
        "lasso is on its weights; SequentialAttentionSelector takes any network"
    )
