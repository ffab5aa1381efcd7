"""What calibration data say about the layers of a network."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitalfew.neural.batches import Batches, LossFunction, loss_of, n_samples, run
from vitalfew.neural.batches import token_mask as mask_of
from vitalfew.neural.layers import Layer, prunable_layers
from vitalfew.neural.modes import evaluating
from vitalfew.neural.watching import watching

MOST_ROWS = 4096  # of inputs that are kept for methods that need them as they are


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of one layer; what nobody asked for is None.

    Attributes
    ----------
    n_tokens : int
        Number of inputs seen: rows that multiply the weight matrix.
    n_samples : int
        Number of samples, for the gradients.
    hessian : tensor of shape (n_in, n_in)
        Mean of ``x x^T`` over tokens.
    input_square : tensor that broadcasts to (n_out, n_in)
        Mean square of the input that each weight multiplies.
    output_square : tensor of shape (n_out,)
        Mean square of each output; for the gate and up projections of a gated MLP, of
        the product that enters the down projection.
    gated : bool
        Whether `output_square` is that of such a product.
    gradient : tensor of shape (n_out, n_in)
        Gradient of the mean loss.
    fisher : tensor of shape (n_out, n_in)
        Mean over samples of the squared gradient of each sample's loss.
    inputs : tensor of shape (n, n_in)
        Some of the inputs themselves, evenly spread.
    bias : tensor of shape (n_out,)
        Bias of the layer, which pruning leaves as it is.
    movement : tensor of shape (n_out, n_in)
        Sum over training steps of ``-weight * gradient``.
    """

    n_tokens: int = 0
    n_samples: int = 0
    hessian: Tensor | None = None
    input_square: Tensor | None = None
    output_square: Tensor | None = None
    gated: bool = False
    gradient: Tensor | None = None
    fisher: Tensor | None = None
    inputs: Tensor | None = None
    bias: Tensor | None = None
    movement: Tensor | None = None

    def get(self, name: str) -> Tensor:
        """Return a statistic, or raise with what would provide it."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise ValueError(f"this needs the statistic {name}, which is not known")
        return found


ACTIVATIONS = frozenset({"hessian", "input_square", "output_square", "inputs"})
GRADIENTS = frozenset({"gradient", "fisher"})
GATED = (  # names of the gate, up and down projections of gated MLPs
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("wi_0", "wi_1", "wo"),
)


def collect(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    needs: Collection[str],
    loss: LossFunction | None = None,
) -> dict[str, Statistics]:
    """Collect statistics of layers over calibration batches.

    Parameters
    ----------
    model : Module
        Run in evaluation mode; left as it was.
    layers : sequence of Layer
        Of which to collect.
    batches : list
        As `as_batches` returns them. Tokens that an ``attention_mask`` excludes do not
        count.
    needs : collection of str
        Names of statistics.
    loss : callable, optional
        As in `loss_of`; for gradients.

    Returns
    -------
    dict of str to Statistics
        By the name of the layer; layers that no batch reached are absent when
        statistics of activations were asked for.

    Raises
    ------
    ValueError
        If an activation or gradient is not finite.

    Notes
    -----
    One pass over the batches for activations, one forward and back for `gradient`,
    and one gradient of each sample for `fisher`. A Hessian takes n_in^2 numbers.
    """
    needs = set(needs)
    found = {layer.name: Statistics() for layer in layers}
    if needs & ACTIVATIONS:
        found = _activations(model, layers, batches, needs)
    if "gradient" in needs:
        gradients = _mean_gradients(model, layers, batches, loss)
        for name in found:
            found[name] = replace(found[name], gradient=gradients[name])
    if "fisher" in needs:
        from vitalfew.neural.gradients import mean_squares

        squares, n = mean_squares(model, layers, batches, loss)
        for name in found:
            found[name] = replace(found[name], fisher=squares[name], n_samples=n)
    return found


class RunningSums:
    """Running sums of one layer."""

    def __init__(self, layer: Layer, needs: set[str]) -> None:
        self.layer, self.needs = layer, needs
        self.n_tokens = 0
        self.sums: dict[str, Tensor] = {}
        self.inputs: list[Tensor] = []
        self.stride = 1  # of the inputs, one in so many is held

    def see(self, x: Tensor, mask: Tensor | None) -> None:
        layer = self.layer
        X = layer.tokens(x.detach())
        if mask is not None and x.shape[:2] == mask.shape and len(X) == mask.numel():
            X = X[mask.reshape(-1).to(X.device)]
        X = X.to(torch.promote_types(X.dtype, torch.float32))
        self.n_tokens += len(X)
        if "hessian" in self.needs and layer.n_groups == 1:
            self._add("hessian", X.T @ X)
        if "input_square" in self.needs:
            self._add("input_square", torch.sum(X * X, dim=0))
        if "inputs" in self.needs and layer.n_groups == 1:
            self._hold(X)

    def see_output(self, y: Tensor, mask: Tensor | None) -> None:
        y = y.detach()
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        n_dims = len(getattr(self.layer.module, "kernel_size", ()))
        channel = y.ndim - 1 - n_dims
        by_token = not n_dims and y.ndim > 2  # (samples, outputs) looks like a mask
        if mask is not None and by_token and y.shape[:2] == mask.shape:
            y = y[mask.to(y.device)]
            channel = y.ndim - 1
        others = [d for d in range(y.ndim) if d != channel]
        self._add("output_square", torch.sum(y * y, dim=others))
        self._add("output_count", torch.tensor(float(y.numel() // y.shape[channel])))

    def _hold(self, X: Tensor) -> None:
        """Hold some of the inputs, evenly spread over all that were seen."""
        first = -(self.n_tokens - len(X)) % self.stride
        self.inputs.append(X[first :: self.stride].clone())
        if sum(len(part) for part in self.inputs) > 2 * MOST_ROWS:
            self.inputs = [torch.cat(self.inputs)[::2].clone()]
            self.stride *= 2

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def statistics(self) -> Statistics:
        means = {name: value / self.n_tokens for name, value in self.sums.items()}
        if "output_square" in self.sums:
            count = self.sums["output_count"]
            means["output_square"] = self.sums["output_square"] / float(count)
            del means["output_count"]
        if self.inputs:
            X = torch.cat(self.inputs)
            means["inputs"] = X[:: -(-len(X) // MOST_ROWS)].clone()
        for name, value in means.items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"the inputs or outputs of layer {self.layer.name!r} are not "
                    f"finite on the calibration data ({name}); look for NaN in them, "
                    "or for overflow in half precision"
                )
        if "input_square" in means:
            means["input_square"] = self.layer.per_weight(means["input_square"])
        return Statistics(n_tokens=self.n_tokens, **means)


def _activations(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, needs: set[str]
) -> dict[str, Statistics]:
    sums = {
        layer.name: RunningSums(layer, needs) for layer in layers if layer.has_tokens
    }
    gates = _gates(model, layers) if "output_square" in needs else {}
    for down in gates.values():
        sums[down.name] = RunningSums(down, needs | {"input_square"})
    by_name = {layer.name: layer for layer in (*layers, *gates.values())}
    watched = [layer for name, layer in by_name.items() if name in sums]
    mask: Tensor | None = None

    def see(layer: Layer, x: Tensor) -> None:
        sums[layer.name].see(x, mask)

    def see_output(layer: Layer, y: Tensor) -> None:
        sums[layer.name].see_output(y, mask)

    outputs = see_output if "output_square" in needs else None
    with (
        watching(watched, inputs=see, outputs=outputs),
        evaluating(model),
        torch.no_grad(),
    ):
        for batch in batches:
            mask = mask_of(batch)
            run(model, batch)
    found = {
        name: each.statistics() for name, each in sums.items() if each.n_tokens > 0
    }
    _through_gates(found, gates, needs)
    return {layer.name: found[layer.name] for layer in layers if layer.name in found}


def _gates(model: nn.Module, layers: Sequence[Layer]) -> dict[str, Layer]:
    """Down projection by the name of each gate and up projection among layers."""
    asked = {layer.name: layer for layer in layers}
    known = {layer.name: layer for layer in prunable_layers(model)[0]} | asked
    found = {}
    for name in asked:
        parent, dot, own = name.rpartition(".")
        for gate, up, down in GATED:
            trio = [known.get(f"{parent}{dot}{part}") for part in (gate, up, down)]
            if own not in (gate, up) or any(layer is None for layer in trio):
                continue
            shapes = [layer.shape for layer in trio if layer is not None]
            if shapes[0] == shapes[1] and shapes[0][0] == shapes[2][1]:
                found[name] = known[f"{parent}{dot}{down}"]
    return found


def _through_gates(
    found: dict[str, Statistics], gates: dict[str, Layer], needs: set[str]
) -> None:
    """Give gate and up projections the mean square of what they make together."""
    for name, down in gates.items():
        if name in found and down.name in found:
            product = found[down.name].get("input_square")[0]
            found[name] = replace(found[name], output_square=product, gated=True)
    if "input_square" not in needs:
        for down in gates.values():
            if down.name in found:
                found[down.name] = replace(found[down.name], input_square=None)


def multiplications(
    model: nn.Module, layers: Sequence[Layer], batch: object
) -> dict[str, float]:
    """Count how often each weight of a layer is multiplied for one sample.

    Parameters
    ----------
    model : Module
        Run once in evaluation mode.
    layers : sequence of Layer
        Of which to count.
    batch : object
        As in `run`.

    Returns
    -------
    dict of str to float
        Output positions or tokens for one sample, by the name of the layer; layers that
        are not reached are absent.
    """
    found: dict[str, float] = {}
    n = max(1, n_samples(batch))

    def see(layer: Layer, tensor: Tensor) -> None:
        channels = layer.shape[0] if layer.has_tokens else layer.parameter.shape[0]
        times = tensor.numel() / channels / n
        found[layer.name] = found.get(layer.name, 0.0) + times

    # in a transposed convolution each input meets each weight
    with (
        watching([each for each in layers if each.has_tokens], outputs=see),
        watching([each for each in layers if not each.has_tokens], inputs=see),
        evaluating(model),
        torch.no_grad(),
    ):
        run(model, batch)
    return found


def _mean_gradients(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    loss: LossFunction | None,
) -> dict[str, Tensor]:
    parameters = [layer.parameter for layer in layers]
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    n = 0
    with evaluating(model), differentiable(parameters), torch.enable_grad():
        for batch in batches:
            count = n_samples(batch)
            grads = torch.autograd.grad(
                loss_of(model, batch, loss), parameters, allow_unused=True
            )
            n += count
            for sum_, g in zip(total, grads, strict=True):
                if g is not None:
                    sum_ += count * g.detach()
    found = {}
    for layer, sum_ in zip(layers, total, strict=True):
        found[layer.name] = layer.as_matrix(sum_ / n)
        if not bool(torch.isfinite(sum_).all()):
            raise ValueError(
                f"the gradient of the loss in layer {layer.name!r} is not finite on "
                "the calibration data"
            )
    return found


@contextmanager
def differentiable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Ask for gradients of parameters, and leave them as frozen as they were."""
    before = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, asked in zip(parameters, before, strict=True):
            p.requires_grad_(asked)
