"""The ``vitalfew`` command: one file per command.

typer, rich, jinja2 and pyarrow come with the extra ``cli`` and are imported only here
and in the report.
"""

import signal
import sys

NEEDED = {"typer", "rich", "pyarrow", "jinja2", "click"}


def main() -> None:
    """Run the command line; the entry point of ``vitalfew``."""
    try:
        from vitalfew.cli._app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in NEEDED:
            raise
        sys.stderr.write(
            f"error: the command line needs {error.name}, which is not installed\n"
            "hint: pip install 'vitalfew[cli]'\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(
            "error: interrupted while it started; nothing was written\n"
            "hint: start it again\n"
        )
        sys.exit(1)
    try:
        app()
    finally:  # an impatient Ctrl-C must not change the exit code
        signal.signal(signal.SIGINT, signal.SIG_IGN)
