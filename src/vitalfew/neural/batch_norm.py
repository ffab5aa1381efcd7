"""Batch-norm statistics of a changed network."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from vitalfew._validation import check_count
from vitalfew.neural.batches import Batches, run
from vitalfew.neural.modes import evaluating

__all__ = ["recalibrate"]


def recalibrate(
    model: nn.Module, batches: Batches, *, max_batches: int | None = None
) -> list[str]:
    """Estimate the running statistics of normalising layers again.

    After a change of weights the means and variances that batch-norm layers keep are
    those of a network that is no more. This runs the batches once, with the layers
    normalising by each batch as in training, and sets the statistics to the mean and
    the unbiased variance over all batches together; for an instance norm, to the means
    of those of the instances, as in training.

    Parameters
    ----------
    model : Module
        Only the running statistics change; everything but the normalising layers runs
        in evaluation mode, so that dropout is off.
    batches : list
        As `as_batches` returns them.
    max_batches : int, optional
        Use the first so many.

    Returns
    -------
    list of str
        Names of the layers estimated again. Not among them, and as before: layers that
        keep no statistics, frozen ones (``momentum=0``), those no batch reaches, and
        those that saw a single value for each channel.

    Raises
    ------
    ValueError
        If the inputs of a layer are not finite; all statistics are as before then, as
        after any other error.

    Notes
    -----
    One forward pass. Small batches make the inputs of later layers noisy; a batch with
    a single value for each channel is normalised by the statistics from before.

    References
    ----------
    .. [1] S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network
       training by reducing internal covariate shift", ICML, 2015, algorithm 2 (the
       statistics of a trained network).
    """
    if max_batches is not None:
        check_count("max_batches", max_batches, 1)
    layers = {name: m for name, m in model.named_modules() if _keeps_statistics(m)}
    moments = {name: _Moments(module) for name, module in layers.items()}
    with _restored_on_error(list(layers.values())):
        with (
            torch.no_grad(),
            evaluating(model),
            _watched(list(moments.values())),
        ):
            for batch in batches[:max_batches]:
                run(model, batch)
        done = []
        for name, each in moments.items():
            if each.write():
                done.append(name)
            if not each.finite():
                raise ValueError(
                    f"the inputs of layer {name!r} are not finite on the calibration "
                    "data; look for NaN in the weights, or for overflow in half "
                    "precision"
                )
    return done


def _keeps_statistics(module: nn.Module) -> bool:
    return (
        isinstance(module, _BatchNorm | _InstanceNorm)
        and module.track_running_stats
        and module.running_mean is not None
        and module.momentum != 0
    )


class _Moments:
    """Pooled moments of what a layer normalises."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.by_instance = isinstance(module, _InstanceNorm)
        self.n_batches = 0
        self.count = 0  # values of each channel, or instances
        self.mean: Any = 0.0
        self.square: Any = 0.0  # sum of squared deviations, or of variances

    def see(self, x: Tensor) -> bool:
        """Add an input; say whether the layer can normalise by it."""
        x = x.detach()
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.by_instance:
            if x.ndim == self.module._get_no_batch_dim():
                x = x[None]
            places = x.reshape(*x.shape[:2], -1)
            if places.shape[2] < 2:
                return False
            variances, means = torch.var_mean(places, dim=2)
            self._pool(len(x), _wide(means).mean(dim=0), _wide(variances).sum(dim=0))
            return True
        count = x.numel() // x.shape[1]
        if count:
            others = [d for d in range(x.ndim) if d != 1]
            variance, mean = torch.var_mean(x, dim=others, correction=0)
            self._pool(count, _wide(mean), _wide(variance) * count)
        return count > 1

    def _pool(self, count: int, mean: Tensor, square: Tensor) -> None:
        """Add the moments of some values to those of the others."""
        total = self.count + count
        apart = mean - self.mean
        if not self.by_instance:
            self.square = self.square + apart * apart * (self.count * count / total)
        self.square = self.square + square
        self.mean = self.mean + apart * (count / total)
        self.count = total
        self.n_batches += 1

    def write(self) -> bool:
        """Set the layer's statistics; say whether there were values enough."""
        least = 1 if self.by_instance else 2
        if self.count < least:
            return False
        module = self.module
        variance = self.square / (self.count if self.by_instance else self.count - 1)
        module.running_mean.copy_(self.mean)
        module.running_var.copy_(variance)
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.fill_(self.n_batches)
        return True

    def finite(self) -> bool:
        """Whether the statistics of the layer are, in its own precision."""
        seen = (self.mean,) if self.count else ()
        kept = (self.module.running_mean, self.module.running_var)
        return all(bool(torch.isfinite(x).all()) for x in (*seen, *kept))


def _wide(x: Tensor) -> Tensor:
    """Return a tensor in float64, where the device has it."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


@contextmanager
def _watched(moments: Sequence[_Moments]) -> Iterator[None]:
    """Let layers normalise by each batch and add it up, their statistics untouched."""
    momenta = [each.module.momentum for each in moments]
    with ExitStack() as hooks:
        try:
            for each in moments:

                def before(
                    module: Any, args: Any, named: Any, each: _Moments = each
                ) -> None:
                    module.training = each.see(*args, *named.values())

                each.module.momentum = 0.0
                handle = each.module.register_forward_pre_hook(before, with_kwargs=True)
                hooks.callback(handle.remove)
            yield
        finally:
            for each, momentum in zip(moments, momenta, strict=True):
                each.module.momentum = momentum


@contextmanager
def _restored_on_error(modules: Sequence[Any]) -> Iterator[None]:
    """Put running statistics back if anything goes wrong."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    every = [getattr(module, name, None) for module in modules for name in names]
    buffers = [buffer for buffer in every if buffer is not None]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
        raise
