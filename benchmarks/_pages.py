"""What the pages of results are made of: tables, numbers and figures."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._runs import Results

COLOURS = {
    "vitalfew": "#0b6e4f",
    "sklearn": "#c44536",
    "abess": "#1f4e79",
    "skscope": "#8d6a9f",
    "skglm": "#d98e04",
    "celer": "#3aafa9",
    "adelie": "#5c4033",
    "glmnet": "#777777",
}


def heading(text: str, line: str = "=") -> str:
    """Return a heading."""
    return f"{text}\n{line * len(text)}\n"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], widths: str = ""
) -> str:
    """Return a table in reStructuredText.

    Parameters
    ----------
    header : sequence of str
        One for each column.
    rows : iterable of sequences of str
        Cells, as many as in the header.
    widths : str, default=""
        For the directive; automatic where empty.

    Returns
    -------
    str
        A ``list-table``.
    """
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths or 'auto'}"]
    lines.append("")
    for row in [header, *rows]:
        for i, cell in enumerate(row):
            lines.append(f"   {'* -' if i == 0 else '  -'} {cell}".rstrip())
    return "\n".join(lines) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number to some significant digits, without powers where it can be."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if -4 <= places - digits + 1 <= 5:
        return f"{value:.{max(places, 0)}f}"
    return f"{value:.{digits - 1}e}"


def times(value: float) -> str:
    """Return a ratio in words: how many times as long."""
    if value >= 1:
        return f"{number(value, 2)} times as long"
    return f"1/{number(1 / value, 2)} of the time"


def machines(results: Results) -> str:
    """Return a sentence for each machine that results were made on."""
    told = []
    for facts in results.machines:
        versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
        count = "1 core" if facts["cores"] == 1 else f"{facts['cores']} cores"
        sentence = (
            f"{facts['cpu']}, {count}, {facts['system']}, Python {facts['python']}; "
            f"{versions}."
        )
        if sentence not in told:
            told.append(sentence)
    return "Measured on: " + " Also: ".join(told) + "\n"


def figure(page: str, name: str, text: str) -> str:
    """Return a figure of a page, with its alternative text."""
    return f".. image:: {page}_{name}.svg\n   :alt: {text}\n   :width: 100%\n"


def save(figure: Any, file: Path) -> None:
    """Write a figure as SVG, the same bytes for the same figure."""
    import matplotlib

    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": file.stem, "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
    text = file.read_text()  # matplotlib leaves blanks at line ends
    file.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def new_figure(rows: int, columns: int, **size: float) -> tuple[Any, Any]:
    """Return a figure that is drawn without a display, and its axes, row by row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width, height = size.get("width", 3.2), size.get("height", 2.6)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes
