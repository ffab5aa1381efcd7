"""The two doors of the report: a record becomes a page, a page becomes a file."""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitalfew._disk import write_atomically
from vitalfew.exceptions import MissingDependencyError
from vitalfew.records import RunRecord
from vitalfew.report._bench import page as bench_page
from vitalfew.report._prune import page as prune_page
from vitalfew.report._select import page as select_page

if TYPE_CHECKING:
    from jinja2 import Environment

# One entry per kind of record: its template, and what fills it.
_PAGES: dict[str, tuple[str, Callable[[RunRecord], Any]]] = {
    "bench": ("bench.html", bench_page),
    "prune": ("prune.html", prune_page),
    "select": ("select.html", select_page),
}

# What HTML may not hold, and half characters that no UTF-8 file can.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render(record: RunRecord) -> str:
    """Draw a record as one HTML page.

    The page needs no network, no script and no other file, and it is drawn from the
    record alone: the same record gives the same page. Whatever the record lacks, as
    that of an interrupted run does, the page says is missing.

    Parameters
    ----------
    record : RunRecord
        What a run was given and found; its kind must be ``"select"``,
        ``"prune"`` or ``"bench"``.

    Returns
    -------
    str
        The page. Every value of the record is escaped in it.

    Raises
    ------
    ValueError
        If there is no report for records of this kind.
    MissingDependencyError
        If Jinja2 is not installed.
    """
    if record.kind not in _PAGES:
        raise ValueError(
            f"record.kind must be one of {sorted(_PAGES)}, got {record.kind!r}"
        )
    template, page = _PAGES[record.kind]
    html = _environment().get_template(template).render(page=page(record))
    return _UNPRINTABLE.sub("\ufffd", html)


def write_report(record: RunRecord, path: Path) -> None:
    """Write the report of a record as one HTML file.

    The file is written under a temporary name and renamed, so that it is never half
    a page.

    Parameters
    ----------
    record : RunRecord
        What a run was given and found; its kind must be ``"select"``,
        ``"prune"`` or ``"bench"``.
    path : Path
        Where the page goes, as in ``report.html``; the folder must exist.

    Raises
    ------
    ValueError
        If there is no report for records of this kind.
    MissingDependencyError
        If Jinja2 is not installed.
    OSError
        If the file cannot be written; what stood there stays.
    """
    write_atomically(path, render(record))


def _environment() -> "Environment":
    """Jinja with autoescape on for every template, the SVG ones too."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError(
            "the report needs Jinja2: pip install 'vitalfew[cli]'"
        ) from error
    folder = files("vitalfew.report") / "templates"
    return Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
