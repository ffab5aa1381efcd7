"""Every block of Python on a page and in the README runs, and prints what it says.

The blocks of one page share a namespace. A block with prompts is a doctest. A block
without is run; where a block of plain text follows it directly, that is its output. A
console block is run where it shows what its commands print.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(
    r"^\.\. code-block:: (\w+)\n((?:[ ]+:.*\n)*)\n((?:(?:[ ]{3}.*)?\n)+)", re.MULTILINE
)
PROMPTS = re.compile(r"^>>> .*(?:\n(?!\n).*)*", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    start: int
    end: int


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page, in order."""
    text = page.read_text() + "\n"
    if page.suffix == ".md":
        found = [Block(m[1], m[2], m.start(), m.end()) for m in FENCE.finditer(text)]
    else:
        found = [
            Block(m[1], textwrap.dedent(m[3]), m.start(), m.end())
            for m in DIRECTIVE.finditer(text)
        ]
        inside = [(b.start, b.end) for b in found]
        found += [
            Block("python", m[0] + "\n", m.start(), m.end())
            for m in PROMPTS.finditer(text)
            if not any(start <= m.start() < end for start, end in inside)
        ]
    return sorted(found, key=lambda block: block.start)


def outputs(page: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield line, code and expected output of each block of Python."""
    text = page.read_text() + "\n"
    found = blocks(page)
    for block, after in zip_longest(found, found[1:]):
        if block.language not in ("python", "pycon"):
            continue
        follows = after is not None and not text[block.end : after.start].strip()
        expected = after.text if follows and after.language == "text" else None
        yield text.count("\n", 0, block.start), block.text, expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "MPLBACKEND", "Agg")
    names = {"__name__": "__main__"}
    checker = doctest.OutputChecker()
    for line, code, expected in outputs(page):
        where = f"{page.name}, line {line + 1}"
        if code.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(
                code, names, where, str(page), line
            )
            printed = io.StringIO()
            runner = doctest.DocTestRunner(checker, verbose=False, optionflags=FLAGS)
            failed = runner.run(test, out=printed.write, clear_globs=False).failed
            assert not failed, printed.getvalue()
            names = test.globs
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, where, "exec"), names)
        if expected is not None:
            assert checker.check_output(expected, printed.getvalue(), FLAGS), (
                f"{where} prints\n{printed.getvalue()}\nand not\n{expected}"
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_console_blocks(page, folder):
    shown = [block.text for block in blocks(page) if block.language == "console"]
    for text in shown:
        printed = [line for line in text.splitlines() if not line.startswith("$ ")]
        if not any(line.strip() for line in printed):
            continue
        for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            got = run_command(command.partition(" #")[0], folder)
            if expected.strip():
                assert got.split() == expected.split(), f"$ {command}\n{got}"


@cache  # pages may show one command
def run_command(command: str, folder: Path) -> str:
    """Return what a command prints: the answer, or the error where there is none."""
    pytest.importorskip("typer", reason="the command line is not installed")
    program, *arguments = shlex.split(command)
    known = {
        "vitalfew": [sys.executable, "-c", "from vitalfew.cli import main; main()"],
        "python": [sys.executable],
    }
    arguments = [str(ROOT / a) if a.startswith("examples/") else a for a in arguments]
    done = subprocess.run(
        [*known[program], *arguments],
        cwd=folder,
        env={
            **os.environ,
            "COLUMNS": "88",
            "NO_COLOR": "1",
            "PYTHONIOENCODING": "utf-8",
        },
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode < 2:
        return done.stdout
    return done.stderr[done.stderr.find("error:") :]


def test_pages_have_code():
    names = {page.name for page in PAGES if any(outputs(page))}
    assert {"README.md", "start_here.rst", "write_your_own_solver.rst"} <= names
