"""Showing progress on stderr: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from vitalfew.study._study import ANSWERED, Progress

ANSWER = "there is an answer; Ctrl-C from now on keeps it"
BETWEEN = 0.1  # seconds between two drawings


@contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """Yield a function that shows progress.

    Parameters
    ----------
    quiet : bool
        Show nothing.

    Yields
    ------
    callable
        Takes the part at work, how much of it is done, and its total.
    """
    if quiet:
        yield lambda part, done, total: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield bar
    else:
        yield _Lines()


class _Lines:
    """One line for each part."""

    def __init__(self) -> None:
        self.part = ""

    def __call__(self, part: str, done: int, total: int) -> None:
        if part == ANSWERED:
            typer.echo(ANSWER, err=True)
        elif part != self.part:
            self.part = part
            typer.echo(f"{part} ...", err=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=1.0)
        shown_part, shown_at = "", 0.0

        def show(part: str, done: int, total: int) -> Any:
            nonlocal shown_part, shown_at
            if part == ANSWERED:
                progress.console.print(ANSWER)
                return
            now = time.perf_counter()
            if part == shown_part and now - shown_at < BETWEEN:
                return
            shown_part, shown_at = part, now
            progress.update(
                task, description=part, completed=done / max(total, 1), total=1.0
            )

        yield show
