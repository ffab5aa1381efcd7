"""A torch network that is explained; imported only where there is one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vitalfew.attribution._explained import COPIES, Explained
from vitalfew.contracts import Ints
from vitalfew.neural.modes import device_of, evaluating, same_random_state

IGNORED = -100  # the label that torch's losses leave out
TOGETHER = 64  # inputs whose class is predicted at once


@contextmanager
def bound(
    model: nn.Module,
    inputs: Any,
    classes: Any,
    target: str,
    forward: Callable[..., Any] | None,
    given: Mapping[str, Any] | None,
    amp: Any,
) -> Iterator["Network"]:
    """Hold a network in evaluation mode; only `Network.gradient` makes graphs."""
    if amp is not None and not isinstance(amp, torch.dtype):
        raise ValueError(f"amp must be a dtype of torch or None, got {amp!r}")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(same_random_state())
        stack.enter_context(evaluating(model))
        stack.enter_context(_frozen(list(model.parameters())))
        yield Network(model, inputs, classes, target, forward, given, amp)


class Network(Explained):
    """A network and a target, bound to inputs."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        classes: Any,
        target: str,
        forward: Callable[..., Any] | None,
        given: Mapping[str, Any] | None,
        amp: Any,
    ) -> None:
        self.model, self.target, self.amp = model, target, amp
        self.forward = model if forward is None else forward
        self.device = device_of(model)
        x = _tensor(inputs, self.device)
        floats = [p.dtype for p in model.parameters() if p.is_floating_point()]
        own = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        self.dtype = floats[0] if floats else own
        # copied: what was made in inference mode cannot be differentiated
        self.inputs = x.to(_wide(self.dtype)).detach().clone()
        self.n = len(x)
        self.given = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in (given or {}).items()
        }
        self.labels = self._labels(classes)

    def value(self, points: Tensor, owners: Ints) -> Tensor:
        return self.outcome(points, owners)[0]

    def gradient(self, points: Tensor, owners: Ints) -> Tensor:
        leaf = points.to(self.dtype).detach().requires_grad_(True)
        with torch.enable_grad():
            value, _ = self._target(self._run(leaf, owners), owners)
            found = None
            if value.requires_grad:
                (found,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if found is None:
            raise ValueError(
                "the model must be differentiable: its outputs do not depend on its "
                "inputs by operations that torch can differentiate (integers, .item(), "
                ".detach(), argmax and NumPy cut the way back)"
            )
        return found.to(self.inputs.dtype)

    def outcome(self, points: Tensor, owners: Ints) -> tuple[Tensor, Tensor | None]:
        value, logits = self._target(self._run(points, owners), owners)
        known = self.target == "softmax" and logits.ndim == 2
        return value, torch.log_softmax(logits, 1) if known else None

    def point_bytes(self) -> int:
        """Return what autograd keeps for one point, and the point itself."""
        own = {t.untyped_storage().data_ptr() for t in self.model.parameters()}
        own |= {t.untyped_storage().data_ptr() for t in self.model.buffers()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        leaf = self.inputs[:1].to(self.dtype).detach().requires_grad_(True)
        first = np.zeros(1, np.int64)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
        with torch.enable_grad(), hooks:
            output = self._target(self._run(leaf, first), first)
        del output  # until here its graph keeps addresses apart
        activations = sum(size for place, size in kept.items() if place not in own)
        return activations + COPIES * int(self.inputs[0].nbytes)

    def _run(self, points: Tensor, owners: Ints) -> Tensor:
        """Return logits; the model gets a copy, since some write into their inputs."""
        rows = torch.as_tensor(owners, device=self.device)
        given = {
            name: value[rows]
            if isinstance(value, Tensor) and value.ndim and len(value) == self.n
            else value
            for name, value in self.given.items()
        }
        x = points.to(self.dtype).clone()
        if self.amp is None:
            output = _logits(self.forward(x, **given))
        else:
            with torch.autocast(self.device.type, dtype=self.amp):
                output = _logits(self.forward(x, **given))
        if output.ndim == 0 or len(output) != len(points):
            raise ValueError(
                "the model must return one row of outputs for each row of its "
                f"argument, {len(points)} rows, got shape {tuple(output.shape)}"
            )
        if not bool(torch.isfinite(output).all()):
            raise ValueError("the outputs of the model are not finite at some point")
        return output.to(_wide(output.dtype))

    def _labels(self, classes: Any) -> Tensor | None:
        if classes is None:
            if self.target == "loss":
                raise ValueError('target="loss" needs classes, got None')
            return self._predicted()
        given = _tensor(classes, self.device)
        if given.ndim == 0:
            given = given.expand(self.n)
        if len(given) != self.n:
            raise ValueError(
                f"classes must have one entry for each of the {self.n} inputs, got "
                f"shape {tuple(given.shape)}"
            )
        if given.is_floating_point():
            if self.target != "loss":
                raise ValueError(
                    "classes must be integers, unless target is 'loss', got dtype "
                    f"{given.dtype}"
                )
            return given
        return given.long()

    def _predicted(self) -> Tensor | None:
        """Class of each input; none where a single output is explained as it is."""
        found = []
        for start in range(0, self.n, TOGETHER):
            owners = np.arange(start, min(start + TOGETHER, self.n))
            logits = self._run(self.inputs[start : start + TOGETHER], owners)
            if _single(logits):
                if self.target == "logit":
                    return None
                found.append((logits.reshape(-1) > 0).long())
            else:
                found.append(logits.argmax(-1))
        return torch.cat(found)

    def _target(self, logits: Tensor, owners: Ints) -> tuple[Tensor, Tensor]:
        """Return the target at each point, and logits of all classes."""
        m = len(logits)
        labels = self.labels
        if labels is None:
            return logits.reshape(m), logits
        label = labels[torch.as_tensor(owners, device=self.device)]
        if label.is_floating_point():
            if label.numel() != logits.numel():
                raise ValueError(
                    "classes must have the shape of the outputs of the model, "
                    f"{tuple(logits.shape)} for {m} points, got {tuple(label.shape)}"
                )
            error = logits - label.reshape(logits.shape).to(logits.dtype)
            return -error.square().reshape(m, -1).mean(1), logits
        if _single(logits):  # the logit of class 1 against class 0
            _check_labels(label, label.shape, (m,), 2)
            half = logits.reshape(m, 1) / 2
            logits = torch.cat((-half, half), 1)
            own = margin = torch.where(label == 1, 2 * half[:, 0], -2 * half[:, 0])
        else:
            _check_labels(label, label.shape, logits.shape[:-1], logits.shape[-1])
            place = label.clamp(min=0)[..., None]
            own = logits.gather(-1, place)[..., 0]
            # against all others together: exact where the softmax is saturated
            margin = own - logits.scatter(-1, place, -torch.inf).logsumexp(-1)
        if self.target == "logit":
            each = own
        elif self.target == "softmax":
            each = functional.logsigmoid(margin).exp()
        else:
            each = functional.logsigmoid(margin)
        if each.ndim == 1:
            return each, logits
        counted = (label != IGNORED).reshape(m, -1)
        sums = torch.where(counted, each.reshape(m, -1), 0.0).sum(1)
        return sums / counted.sum(1).clamp(min=1), logits


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Ask for no gradients of parameters: autograd then keeps less."""
    before = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(False)
        yield
    finally:
        for p, asked in zip(parameters, before, strict=True):
            p.requires_grad_(asked)


def _single(logits: Tensor) -> bool:
    return bool(logits.ndim == 1 or tuple(logits.shape[1:]) == (1,))


def _check_labels(
    label: Tensor, got: Sequence[int], wanted: Sequence[int], n_classes: int
) -> None:
    if tuple(got) != tuple(wanted):
        raise ValueError(
            "classes must have one entry for each prediction of the model, shape "
            f"(n, {', '.join(map(str, wanted[1:]))}), got (n, "
            f"{', '.join(map(str, got[1:]))})"
        )
    left_out = (label == IGNORED) & (label.ndim > 1)
    wrong = ((label < 0) | (label >= n_classes)) & ~left_out
    if bool(wrong.any()):
        raise ValueError(
            f"classes must be from 0 to {n_classes - 1}, got {int(label[wrong][0])}"
        )


def _tensor(values: Any, device: torch.device) -> Tensor:
    if isinstance(values, Tensor):
        return values.to(device)
    return torch.as_tensor(np.array(values), device=device)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _logits(output: Any) -> Tensor:
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the model returned {type(output).__name__}, in which no logits were "
            "found: give forward=..., a function that returns a tensor of them"
        )
    return found
