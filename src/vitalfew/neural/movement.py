"""Movement of weights while training, summed up for the criterion of that name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitalfew.neural.layers import prunable_layers
from vitalfew.neural.statistics import Statistics


class MovementSums:
    r"""Sums of :math:`-w g` over the steps of training.

    Call `update` after each backward pass, before the step of the optimizer, then give
    `statistics` to `prune`.

    Parameters
    ----------
    model : Module
        In training.
    include, exclude : str or sequence of str, optional
        As in `prune`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> sums = MovementSums(model)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> sums.update()
    >>> sums.statistics()["0"].movement.shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
    ) -> None:
        self.layers, _ = prunable_layers(model, include, exclude)
        self.n_steps = 0
        self._sums: list[Tensor | None] = [None] * len(self.layers)

    def update(self) -> None:
        """Add the present weights times their present gradients.

        Raises
        ------
        ValueError
            If no layer has a gradient: this comes after ``loss.backward()``.
        """
        seen = False
        for n, layer in enumerate(self.layers):
            gradient = layer.parameter.grad
            if gradient is None:
                continue
            seen = True
            step = -(layer.parameter.detach() * gradient).to(torch.float32)
            before = self._sums[n]
            self._sums[n] = step if before is None else before + step
        if not seen:
            raise ValueError("there are no gradients: call update after backward")
        self.n_steps += 1

    def statistics(self) -> dict[str, Statistics]:
        """Return the sums by the name of the layer; zero where none had a gradient.

        Returns
        -------
        dict of str to Statistics
            With `movement`.
        """
        return {
            layer.name: Statistics(
                n_samples=self.n_steps,
                movement=layer.as_matrix(
                    torch.zeros_like(layer.parameter, dtype=torch.float32)
                    if sum_ is None
                    else sum_
                ),
            )
            for layer, sum_ in zip(self.layers, self._sums, strict=True)
        }
