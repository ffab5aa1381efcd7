"""What happened while a network was pruned: as rows, a CSV file, or a plot."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vitalfew._disk import write_atomically
from vitalfew.solution import new_axes


@dataclass(frozen=True)
class Event:
    """A step that was recorded.

    Attributes
    ----------
    step : int
        Steps of the optimizer so far.
    phase : str
        Name of the phase.
    sparsity : float
        Fraction of the weights of the pruned layers that the network does not see.
    kept : int
        Atoms that are there, in all layers together.
    changed : int
        Atoms that came or went in this step.
    loss : float or None
        As it was told to `Pruner.step`.
    """

    step: int
    phase: str
    sparsity: float
    kept: int
    changed: int
    loss: float | None


class History:
    """Recorded steps: all in which masks or phases changed, and some between them.

    Parameters
    ----------
    callback : callable, optional
        Told every event.
    """

    def __init__(self, callback: Callable[[Event], None] | None = None) -> None:
        self.callback = callback
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        """Record an event; one of the same step is replaced."""
        if self.events and self.events[-1].step == event.step:
            before = self.events.pop()
            changed = before.changed + event.changed
            event = Event(**{**asdict(event), "changed": changed})
        self.events.append(event)
        if self.callback is not None:
            self.callback(event)

    def to_rows(self) -> list[list[Any]]:
        """Return plain data."""
        return [list(asdict(event).values()) for event in self.events]

    def from_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take over what `to_rows` returned."""
        self.events = [Event(*row) for row in rows]

    def to_csv(self, path: str | Path) -> None:
        """Write a table with a line for each event.

        Parameters
        ----------
        path : str or Path
            Replaced if it exists.
        """
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow([field.name for field in fields(Event)])
        table.writerows(self.to_rows())
        write_atomically(Path(path), text.getvalue())

    def to_tensorboard(self, writer: Any) -> None:
        """Write curves of all events.

        Parameters
        ----------
        writer : torch.utils.tensorboard.SummaryWriter
            Or anything with its `add_scalar`.
        """
        for event in self.events:
            for name in ("sparsity", "kept", "changed", "loss"):
                value = getattr(event, name)
                if value is not None:
                    writer.add_scalar(f"pruning/{name}", value, event.step)

    def plot(self, ax: Any = None) -> Any:
        """Draw sparsity, changes of masks and the loss over the steps.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            To draw into.

        Returns
        -------
        matplotlib Axes
            The one that was drawn into; the loss has an axis of its own on the right.
        """
        ax = new_axes() if ax is None else ax
        steps = [event.step for event in self.events]
        sparsity = [event.sparsity for event in self.events]
        ax.step(steps, sparsity, where="post", color="C0", label="sparsity")
        most = max((event.kept for event in self.events), default=1) or 1
        moved = [event for event in self.events if event.changed]
        ax.vlines(
            [event.step for event in moved],
            0,
            [min(1.0, event.changed / most) for event in moved],
            color="C2",
            alpha=0.5,
            label="mask changes / atoms",
        )
        ax.set(xlabel="step", ylabel="fraction", ylim=(0, 1.02))
        told = [event for event in self.events if event.loss is not None]
        if told:
            right = ax.twinx()
            losses = [event.loss for event in told]
            right.plot([e.step for e in told], losses, color="C1", alpha=0.7)
            right.set_ylabel("loss", color="C1")
        ax.legend(loc="upper left")
        return ax
