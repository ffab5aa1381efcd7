"""The commands together, and what becomes of errors: a message, a hint, a number."""

import io
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer
import typer.core

import vitalfew
from vitalfew.cli._printable import printable
from vitalfew.cli.bench import bench
from vitalfew.cli.methods import methods
from vitalfew.cli.prune import prune
from vitalfew.cli.select import select
from vitalfew.cli.solvers import solvers
from vitalfew.exceptions import MissingDependencyError

INTERRUPTED = 130  # what typer makes of Ctrl-C
HELP = "use --help to see what is understood"
# click's own, wherever typer keeps it
UsageError: type[Exception] = typer.BadParameter.__mro__[2]


class Commands(typer.core.TyperGroup):
    """A group of commands that exits 0, 1 or 2 and never shows users a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit."""
        kwargs["standalone_mode"] = False
        _forgiving_streams()
        run = super().main
        sys.exit(_guarded(lambda: run(*args, **kwargs)))


def _forgiving_streams() -> None:
    """Let output never fail for a character that its encoding does not know."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the program
            setattr(sys, name, io.StringIO())
        elif hasattr(stream, "reconfigure"):
            with suppress(OSError):  # what is wrong with it will be said later
                stream.reconfigure(errors="backslashreplace")


def _guarded(run: Callable[[], Any]) -> int:
    try:
        code = run()
    except UsageError as error:
        return _usage(error)
    except MissingDependencyError as error:
        return _fail(str(error), ["hint: pip install 'vitalfew[cli]'"])
    except (ValueError, OSError) as error:
        notes = getattr(error, "__notes__", [])
        return _fail(str(error), notes or ["hint: " + HELP])
    except MemoryError:
        return _fail(
            "there is not enough memory", ["hint: leave columns out with --drop"]
        )
    except typer.Abort:
        code = INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        return _fail(
            f"{type(error).__name__} in vitalfew itself: {error}",
            ["hint: this is a fault of the program; please report what is above"],
        )
    if code == INTERRUPTED:
        _fail(
            "interrupted before there was an answer; nothing was written",
            ["hint: with `--seconds` it stops by itself with the best answer so far"],
        )
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    """Tell of options that were not understood."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help() if context else message, err=True)
        return 2
    command = context.command_path if context else "vitalfew"
    return _fail(message, [f"hint: `{command} --help` shows what is understood"])


def _fail(message: str, notes: list[str]) -> int:
    typer.echo(printable(f"error: {message}"), err=True)
    for note in notes:
        typer.echo(printable(note), err=True)
    return 2


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vitalfew {vitalfew.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Choose the few that matter: columns of a table, weights of a network."""


app.command()(select)
app.command()(prune)
app.command()(bench)
app.command()(methods)
app.command()(solvers)
