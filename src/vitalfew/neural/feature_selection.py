"""Choosing inputs of a network while it trains: masks, rounds, and picks.

A run is one training: a warm-up in which every input counts in full, and rounds in
which a mask over the inputs that are not yet chosen trains along, the best of which are
picked. What a mask is and what it scores is said by a `Mask` of
`feature_masks`; to add one, subclass it.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from vitalfew._disk import write_atomically
from vitalfew.neural.feature_masks import LassoMask, Mask, SoftmaxMask
from vitalfew.neural.feature_networks import (
    Perceptron,
    default_loss,
    device_of_choice,
    first_layer,
    own_network,
    perceptron,
)
from vitalfew.neural.modes import evaluating, same_random_state

__all__ = [
    "LassoMask",
    "Mask",
    "Problem",
    "Progress",
    "Rows",
    "Selection",
    "Settings",
    "SoftmaxMask",
    "chunks",
    "default_loss",
    "device_of_choice",
    "first_layer",
    "own_network",
    "perceptron",
    "select",
    "stored_seed",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LOOKS = 5  # at the held-out loss in a round, and in the warm-up
PATIENCE = 2  # looks without a new low, after which a round ends
OVERFITTED = 1.1  # times its lowest, at which the held-out loss of the warm-up ended
DROPPED = 0.5  # share of the inputs dropped in training then
SMALL = 1_000_000  # entries of a batch and its widest layer: below, one thread is best
SECONDS_BETWEEN_CHECKPOINTS = 30.0


class NotFinite(ArithmeticError):
    """The loss stopped being finite."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run trains and when it picks.

    Attributes
    ----------
    n_picks : int
        Inputs, or fields of them, to choose.
    per_round : int
        Picked at a time.
    steps_per_round, warm_up_steps : int
        Steps of the optimizer.
    pick_first : bool
        Whether a round begins with its pick rather than ends with it.
    batch_size : int
        Rows of a step.
    learning_rate, mask_rate, weight_decay : float
        Of the network, of the mask, and of the network.
    dropout : float or None
        Share of the inputs dropped in training; None to let the warm-up tell.
    early_stopping : bool
        Whether rounds end once the held-out loss stops falling.
    amp : bool
        bfloat16 where the device is a GPU.
    seed : int
        Of all randomness.
    """

    n_picks: int
    per_round: int
    steps_per_round: int
    warm_up_steps: int
    pick_first: bool
    batch_size: int
    learning_rate: float
    mask_rate: float
    weight_decay: float
    dropout: float | None
    early_stopping: bool
    amp: bool
    seed: int


@dataclass(frozen=True)
class Progress:
    """What a callback is told after the warm-up and after each round.

    Attributes
    ----------
    step, n_steps : int
        Steps taken, and most that there will be.
    picked : tuple of int
        Columns, or fields, in the order of picking.
    n_picks : int
        How many there will be.
    loss : float
        Mean training loss of the round.
    held_out_loss : float or None
        The last one of the round.
    """

    step: int
    n_steps: int
    picked: tuple[int, ...]
    n_picks: int
    loss: float
    held_out_loss: float | None


@dataclass(frozen=True)
class Selection:
    """What a run found.

    Attributes
    ----------
    order : integer array of shape (n_picks,)
        Atoms in the order of picking.
    n_picked : int
        How many of them were picked as planned; the others scored highest when the run
        ended before its time.
    scores : array of shape (n_atoms,)
        Of each atom when it was picked, or at the end.
    ending : {"finished", "interrupted", "stopped", "not finite"}
        Why the run ended.
    n_steps : int
        Steps taken.
    """

    order: Ints
    n_picked: int
    scores: Floats
    ending: str
    n_steps: int


class Rows:
    """Rows of a table, scaled, on a device, and what is to be predicted from them.

    Parameters
    ----------
    X : array or CSR matrix of shape (n, p)
        Sparse ones become dense a batch at a time.
    targets : array of shape (n,) or (n, n_outputs)
        Class numbers or numbers.
    center, scale : array of shape (p,) or None
        Subtracted, and then divided by; None for neither.
    clip : float
        Most that a scaled entry may be, either way.
    device : device
        Where batches are.
    """

    def __init__(
        self,
        X: Any,
        targets: NDArray[Any],
        center: Floats | None,
        scale: Floats | None,
        clip: float,
        device: torch.device,
    ) -> None:
        self.center, self.scale, self.clip, self.device = center, scale, clip, device
        self.targets = torch.from_numpy(targets).to(device)
        self.sparse = X if hasattr(X, "toarray") else None
        self.dense = None if self.sparse is not None else self._tensor(X).to(device)

    def __len__(self) -> int:
        return len(self.targets)

    def _tensor(self, X: Any) -> Tensor:
        if self.center is None or self.scale is None:
            return torch.from_numpy(np.array(X, np.float32))
        scaled = np.empty(X.shape, np.float32)
        for rows in chunks(*X.shape):
            part = (X[rows].astype(np.float64) - self.center) / self.scale
            scaled[rows] = np.clip(part, -self.clip, self.clip)
        return torch.from_numpy(scaled)

    def batch(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some rows."""
        where = torch.from_numpy(rows).to(self.device)
        if self.dense is not None:
            return self.dense[where], self.targets[where]
        part = self._tensor(self.sparse[rows].toarray())  # type: ignore[index]
        return part.to(self.device), self.targets[where]


def chunks(n: int, p: int) -> Iterator[slice]:
    """Slices of rows of some million entries each."""
    size = max(1, 4_000_000 // max(1, p))
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


# -- the run ---------------------------------------------------------------------------


@dataclass
class Problem:
    """What is trained on what.

    Attributes
    ----------
    network : Module
        Trained in place. It takes (n, p); one with a method `embed` takes what that
        returns for (n, p), masked: (n, n_atoms, width), or a sequence of one tensor
        (n, width) for each atom.
    loss : callable
        Of outputs and targets; a mean over rows.
    train, held_out : Rows
        Rows; those held out may be none.
    labels : integer array of shape (p,)
        Atom of each column.
    constant : bool array of shape (n_atoms,)
        Atoms that tell nothing; picked when there are no others.
    mask : Mask
        Over the atoms.
    mark : str
        Hash of all this, to know a checkpoint by.
    """

    network: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Rows
    held_out: Rows
    labels: Ints
    constant: NDArray[np.bool_]
    mask: Mask
    mark: str


def select(
    problem: Problem,
    settings: Settings,
    callback: Callable[[Progress], Any] | None = None,
    checkpoint: Path | None = None,
) -> Selection:
    """Train, and pick on the way.

    Parameters
    ----------
    problem : Problem
        Its network and mask are trained in place.
    settings : Settings
        How.
    callback : callable, optional
        Told a `Progress` after the warm-up and each round; True ends the run.
    checkpoint : Path, optional
        Where the run is stored between rounds, every 30 seconds, and taken up from.

    Returns
    -------
    Selection
        Always `n_picks` atoms. Ctrl-C ends the run once a round has begun.

    Raises
    ------
    ValueError
        If the loss is not finite before a round is over, or the checkpoint
        cannot be used.
    KeyboardInterrupt
        If the warm-up is interrupted.
    """
    run = _Run(problem, settings, callback, checkpoint)
    with same_random_state(), _few_threads(problem, settings):
        return run.to_the_end()


@contextmanager
def _few_threads(problem: Problem, settings: Settings) -> Iterator[None]:
    """One thread where more would wait for each other."""
    before = torch.get_num_threads()
    largest = max((t.numel() for t in problem.network.parameters()), default=0)
    if settings.batch_size * len(problem.labels) < SMALL > largest:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Run:
    problem: Problem
    settings: Settings
    callback: Callable[[Progress], Any] | None
    checkpoint: Path | None
    order: list[int] = field(default_factory=list)
    part: int = 0  # 0 is the warm-up
    step: int = 0
    stored: float = -math.inf
    trained: bool = False  # whether a mask has been

    def __post_init__(self) -> None:
        given = self.settings
        network, mask = self.problem.network, self.problem.mask
        self.device = self.problem.train.device
        network.to(self.device)
        mask.to(self.device)
        self.labels = torch.from_numpy(self.problem.labels).to(self.device)
        # a softmax over many has small gradients
        own = {"lr": given.mask_rate, "weight_decay": 0.0, "eps": 1e-12}
        groups = [
            {"params": [t for t in network.parameters() if t.requires_grad]},
            {"params": list(mask.parameters()), **own},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=given.learning_rate, weight_decay=given.weight_decay
        )
        n_atoms = len(self.problem.constant)
        self.n_rounds = -(-given.n_picks // given.per_round)
        self.n_steps = given.warm_up_steps + self.n_rounds * given.steps_per_round
        self.dropout = given.dropout or 0.0
        self.scores: Floats = np.zeros(n_atoms)
        self.is_free = np.ones(n_atoms, bool)
        self.embeds = hasattr(network, "embed")

    # -- parts -------------------------------------------------------------------------

    def to_the_end(self) -> Selection:
        """Do the warm-up and the rounds, or what is left of them."""
        ending = "finished"
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)
        try:
            while self.part <= self.n_rounds:
                loss, held = self._warm_up() if not self.part else self._round()
                self.part += 1
                self._store(self.part > self.n_rounds)
                if self._told(loss, held):
                    ending = "stopped"
                    break
        except KeyboardInterrupt:
            if not self.trained:
                raise
            ending = "interrupted"
        except NotFinite:
            if self.part < 2:
                raise ValueError(
                    f"the loss is not finite after {self.step} steps: lower "
                    f"learning_rate, which is {self.settings.learning_rate:g}, or see "
                    "to it that the network and its loss are finite on this data"
                ) from None
            ending = "not finite"
        return self._answer(ending)

    def _warm_up(self) -> tuple[float, float | None]:
        """Train with all inputs in full; if that overfits, drop inputs from now on."""
        given, network = self.settings, self.problem.network
        torch.manual_seed(_seed(given.seed, 0))
        before = deepcopy(network.state_dict()) if given.dropout is None else {}
        loss, looks = self._train(given.warm_up_steps, False)
        if given.dropout is None and looks and looks[-1] > OVERFITTED * min(looks):
            self.dropout = DROPPED
            network.load_state_dict(before)
            self.optimizer.state.clear()
        return loss, looks[-1] if looks else None

    def _round(self) -> tuple[float, float | None]:
        given, mask = self.settings, self.problem.mask
        torch.manual_seed(_seed(given.seed, self.part))
        if given.pick_first:
            # as published: what is picked was trained in the round before, or not yet
            if self.part == 1:
                mask.reset()
            self._note()
            self._pick()
        if mask.reset():
            for parameter in mask.parameters():
                self.optimizer.state.pop(parameter, None)
        self.trained = True
        loss, looks = self._train(given.steps_per_round, True)
        self._note()
        if not given.pick_first:
            self._pick()
        return loss, looks[-1] if looks else None

    def _note(self) -> None:
        """Remember the scores of atoms that are free."""
        with torch.no_grad():
            found = self.problem.mask.scores().double().cpu().numpy()
        if not np.isfinite(found).all():
            raise NotFinite
        self.scores[self.is_free] = found[self.is_free]

    def _best(self, n: int) -> Ints:
        """Return the free atoms of highest score, constant ones last."""
        free = np.flatnonzero(self.is_free)
        keys = (-self.scores[free], self.problem.constant[free])
        return free[np.lexsort(keys)][:n]

    def _pick(self) -> None:
        left = self.settings.n_picks - len(self.order)
        best = self._best(min(self.settings.per_round, left))
        self.order.extend(best.tolist())
        self._mark_picked()

    def _mark_picked(self) -> None:
        self.is_free[self.order] = False
        self.problem.mask.free.copy_(torch.from_numpy(self.is_free))

    def _answer(self, ending: str) -> Selection:
        self._mark_picked()
        if ending in ("interrupted", "stopped"):
            try:
                self._note()
            except NotFinite:
                ending = "not finite"
        n_picked = len(self.order)
        rest = self._best(self.settings.n_picks - n_picked)
        order = np.concatenate((np.array(self.order, np.int64), rest))
        return Selection(order, n_picked, self.scores, ending, self.step)

    def _told(self, loss: float, held: float | None) -> bool:
        if self.callback is None:
            return False
        given = self.settings
        told = Progress(
            self.step, self.n_steps, tuple(self.order), given.n_picks, loss, held
        )
        return self.callback(told) is True

    # -- steps -------------------------------------------------------------------------

    def _train(self, n_steps: int, masked: bool) -> tuple[float, list[float]]:
        """Take steps; return the mean loss, and the held-out losses on the way."""
        given, watched = self.settings, len(self.problem.held_out) > 0
        apart = max(1, -(-n_steps // LOOKS))
        looks: list[float] = []
        total = torch.zeros((), device=self.device)
        batches = self._batches()
        self.problem.network.train()
        taken = 0
        for taken in range(1, n_steps + 1):
            total += self._step(next(batches), masked)
            self.step += 1
            if taken % apart and taken < n_steps:
                continue
            if not math.isfinite(float(total)):
                raise NotFinite
            if watched:
                looks.append(self._held_out_loss(masked))
            stale = len(looks) - 1 - int(np.argmin(looks)) if looks else 0
            if masked and given.early_stopping and stale >= PATIENCE:
                break
        return float(total) / max(1, taken), looks

    def _batches(self) -> Iterator[Ints]:
        """Rows of steps to come, epoch by epoch; every part begins a new one."""
        n, size = len(self.problem.train), self.settings.batch_size
        rng = np.random.default_rng([self.settings.seed, self.part])
        while True:
            rows = rng.permutation(n)
            for i in range(max(1, n // size)):
                yield rows[i * size : (i + 1) * size]

    def _step(self, rows: Ints, masked: bool) -> Tensor:
        x, targets = self.problem.train.batch(rows)
        self.optimizer.zero_grad()
        loss = self._loss(x, targets, masked)
        penalised = loss + self.problem.mask.penalty() if masked else loss
        if penalised.requires_grad:  # a frozen network has nothing to warm up
            penalised.backward()
            self.optimizer.step()
        return loss.detach()

    def _loss(self, x: Tensor, targets: Tensor, masked: bool) -> Tensor:
        network, weights = self.problem.network, None
        amp = self.settings.amp and self.device.type == "cuda"
        if masked:
            weights = self.problem.mask.weights()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            if self.embeds:
                outputs = network(self._masked_fields(network.embed(x), weights))
            else:
                if self.dropout and masked and network.training:
                    x = nn.functional.dropout(x, self.dropout)
                outputs = self._outputs(x, weights)
        return self.problem.loss(outputs.float(), targets)

    def _outputs(self, x: Tensor, weights: Tensor | None) -> Tensor:
        network = self.problem.network
        if weights is None:
            return network(x)
        if isinstance(network, Perceptron):
            return network.masked(x, weights[self.labels])
        return network(x * weights[self.labels])

    def _masked_fields(self, fields: Any, weights: Tensor | None) -> Any:
        n_atoms = len(self.scores)
        if isinstance(fields, Tensor):
            right = fields.ndim == 3 and fields.shape[1] == n_atoms
            got = f"a tensor of shape {tuple(fields.shape)}"
        else:
            right, got = len(fields) == n_atoms, f"{len(fields)} tensors"
        if not right:
            raise ValueError(
                f"embed must return (n, {n_atoms}, width), or one tensor for each of "
                f"the {n_atoms} fields, got {got}; groups= says which columns are one"
            )
        if weights is None:
            return fields
        if isinstance(fields, Tensor):
            return fields * weights[:, None]
        return [part * w for part, w in zip(fields, weights, strict=True)]

    def _held_out_loss(self, masked: bool) -> float:
        rows = self.problem.held_out
        total = 0.0
        with torch.no_grad(), evaluating(self.problem.network):
            for i in range(0, len(rows), 1024):
                some = np.arange(i, min(i + 1024, len(rows)))
                loss = self._loss(*rows.batch(some), masked)
                total += float(loss) * len(some)
        return total / len(rows)

    # -- checkpoints -------------------------------------------------------------------

    def _parts(self) -> dict[str, nn.Module]:
        return {"network": self.problem.network, "mask": self.problem.mask}

    def _parameters(self) -> list[Tensor]:
        return [t for group in self.optimizer.param_groups for t in group["params"]]

    def _store(self, last: bool) -> None:
        now = time.monotonic()
        if self.checkpoint is None:
            return
        if not last and now - self.stored < SECONDS_BETWEEN_CHECKPOINTS:
            return
        tensors = {
            f"{part}.{name}": tensor
            for part, module in self._parts().items()
            for name, tensor in module.state_dict().items()
        }
        for i, parameter in enumerate(self._parameters()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
        tensors["order"] = torch.tensor(self.order, dtype=torch.int64)
        tensors["scores"] = torch.from_numpy(self.scores)
        # copies: safetensors takes no two names of the same memory
        held = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
        numbers = {"part": self.part, "step": self.step, "dropout": self.dropout}
        facts = {
            "mark": self.problem.mark,
            "seed": str(self.settings.seed),
            "numbers": json.dumps(numbers),
        }
        write_atomically(self.checkpoint, write_tensors(held, facts))
        self.stored = now

    def _resume(self, path: Path) -> None:
        facts, tensors = _read(path)
        if facts.get("mark") != self.problem.mark:
            raise ValueError(
                f"checkpoint {str(path)!r} belongs to other data, another network or "
                "other settings; give another path, or remove it to start afresh"
            )
        try:
            self._take_over(json.loads(facts["numbers"]), tensors)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as e:
            raise ValueError(
                f"checkpoint {str(path)!r} is damaged; remove it to start afresh"
            ) from e

    def _take_over(
        self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        part, step, dropout = (numbers[name] for name in ("part", "step", "dropout"))
        in_range = 0 < part <= self.n_rounds + 1 and 0 <= step <= self.n_steps
        if type(part) is not int or type(step) is not int or not in_range:
            raise ValueError("part")
        order, scores = tensors["order"].tolist(), tensors["scores"].numpy()
        given, n_atoms = self.settings, len(self.scores)
        rounds = part - 1
        expected = min(rounds * given.per_round, given.n_picks)
        distinct = set(order) <= set(range(n_atoms)) and len(set(order)) == len(order)
        if not distinct or len(order) != expected or scores.shape != (n_atoms,):
            raise ValueError("order")
        if not 0 <= dropout < 1 or not np.isfinite(scores).all():
            raise ValueError("dropout")
        for name, module in self._parts().items():
            own = {
                key.removeprefix(f"{name}."): tensor
                for key, tensor in tensors.items()
                if key.startswith(f"{name}.")
            }
            module.load_state_dict(own)
        for i, parameter in enumerate(self._parameters()):
            state = {}
            for name in ("step", "exp_avg", "exp_avg_sq"):
                held = tensors.get(f"optimizer.{i}.{name}")
                if held is None:
                    continue
                shape = () if name == "step" else parameter.shape
                if held.shape != shape or not bool(torch.isfinite(held).all()):
                    raise ValueError(name)
                state[name] = held if name == "step" else held.to(parameter)
            if state:
                self.optimizer.state[parameter] = state
        self.part, self.step, self.dropout = part, step, float(dropout)
        self.order, self.scores = order, scores.astype(np.float64)
        self.trained = part > 1
        self._mark_picked()


def stored_seed(path: Path) -> int | None:
    """Return the seed of a stored run, None where there is none.

    Parameters
    ----------
    path : Path
        A checkpoint that may be there.

    Returns
    -------
    int or None
        From 0.

    Raises
    ------
    ValueError
        If there is a file that is none of ours.
    """
    if not path.exists():
        return None
    facts, _ = _read(path)
    if not facts.get("seed", "").isdecimal():
        raise _unreadable(path, "no seed")
    return int(facts["seed"])


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        content = path.read_bytes()
        tensors = read_tensors(content)
        n_bytes = int.from_bytes(content[:8], "little")
        facts = json.loads(content[8 : 8 + n_bytes]).get("__metadata__", {})
    except (OSError, SafetensorError, ValueError) as e:
        raise _unreadable(path, type(e).__name__) from e
    return facts, tensors


def _unreadable(path: Path, why: str) -> ValueError:
    return ValueError(
        f"checkpoint {os.fspath(path)!r} cannot be read ({why}); remove it to start "
        "afresh"
    )


def _seed(seed: int, part: int) -> int:
    """Return a seed of torch for one part of a run."""
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0])
