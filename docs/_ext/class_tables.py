"""Tables built from classes, so that a new class needs no edit of the pages.

``.. solver-table::`` lists `vitalfew.solvers` with what their class attributes say;
``.. name-table:: vitalfew.objectives`` lists the public classes of a package with the
first line of their docstrings; ``.. status-table::`` lists `vitalfew.Status`;
``.. method-table::`` and ``.. allocation-table::`` list those of `vitalfew.pruning`,
``.. training-table:: KIND`` the methods, scores or schedules of pruning while training;
``.. field-table:: vitalfew.pruning.training.Phase`` the attributes of a class;
``.. option-table:: select`` the options of a command; ``.. page-list:: PATTERN`` links
the pages whose names match; ``.. changelog:: FILE FOLDER`` shows the changelog with its
fragments.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args, get_type_hints

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from vitalfew import Status, solvers
from vitalfew.contracts import Penalty

Row = Sequence[str]
TAKES = {str: "TEXT", Path: "PATH", int: "N", float: "NUMBER"}


def list_table(header: Row, rows: Iterable[Row], widths: Sequence[int]) -> list[str]:
    """Return the lines of a ``list-table``."""
    lines = [".. list-table::", "   :header-rows: 1"]
    lines += [f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (header, *rows):
        for i, cell in enumerate(row):
            lines.append(f"   {'*' if i == 0 else ' '} - {cell}")
    return [*lines, ""]


class _Table(Directive):
    """Parses the lines that a subclass gives."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the parsed table."""
        holder = nodes.container()
        self.state.nested_parse(StringList(self.lines(), "class_tables"), 0, holder)
        return holder.children


class SolverTable(_Table):
    """All solvers with cost, guarantee, use and what they need."""

    def lines(self) -> list[str]:
        rows = []
        for name in sorted(solvers.__all__, key=str.casefold):
            solver = getattr(solvers, name)
            accepts = "a penalty" if solver.accepts is Penalty else "any structure"
            needs = ", ".join(f"`{n.__name__}`" for n in solver.needs) or "nothing more"
            rows.append(
                (
                    f"`~vitalfew.solvers.{name}`",
                    accepts,
                    solver.cost,
                    solver.guarantee,
                    solver.use,
                    needs,
                )
            )
        header = ("Solver", "Accepts", "Cost of a step", "Guarantee", "Use it for")
        return list_table((*header, "Needs"), rows, (14, 10, 20, 22, 22, 12))


class MethodTable(_Table):
    """All methods of pruning with what they need, what they cost and their use."""

    def lines(self) -> list[str]:
        from vitalfew import pruning
        from vitalfew.cli.methods import facts

        rows = [
            (
                f"``{name}``, `~{cls.__module__.rpartition('.')[0]}.{cls.__name__}`",
                *(facts(name, cls)[key] for key in ("kind", "data", "cost", "use")),
            )
            for name, cls in sorted(pruning.methods().items())
        ]
        header = ("Method", "Kind", "Needs", "Cost", "Use it for")
        return list_table(header, rows, (24, 14, 14, 22, 26))


class AllocationTable(_Table):
    """All ways to divide a budget among layers."""

    def lines(self) -> list[str]:
        from vitalfew import pruning

        rows = [
            (
                f"``{name}``, `~{cls.__module__.rpartition('.')[0]}.{cls.__name__}`",
                (inspect.getdoc(cls) or "").partition("\n")[0],
                "yes" if cls.measures else "no",
            )
            for name, cls in sorted(pruning.allocations().items())
        ]
        header = ("Allocation", "How layers share a budget", "Measures losses")
        return list_table(header, rows, (30, 52, 18))


class TrainingTable(_Table):
    """All methods, scores or schedules of pruning while training."""

    required_arguments = 1

    def lines(self) -> list[str]:
        from vitalfew.cli.methods import training_facts

        kind = self.arguments[0]
        rows = training_facts()[kind]
        if kind == "methods":
            names = [
                (f"``{r['name']}``", f"``{r['score']}``", f"``{r['schedule']}``")
                for r in rows
            ]
            return list_table(("Method", "Score", "Schedule"), names, (30, 30, 40))
        cells = ("title", "use", "cost") if kind == "scores" else ("title", "use")
        widths = (24, 34, 20, 22) if kind == "scores" else (28, 44, 28)
        header = (kind.capitalize()[:-1], "What it is", "Use it for", "Cost")
        linked = [
            (f"``{r['name']}``, `~{r['class']}`", *(r[cell] for cell in cells))
            for r in rows
        ]
        return list_table(header[: len(widths)], linked, widths)


class FieldTable(_Table):
    """The attributes of a class, as its docstring tells them."""

    required_arguments = 1

    def lines(self) -> list[str]:
        from numpydoc.docscrape import ClassDoc

        package, _, name = self.arguments[0].rpartition(".")
        fields = ClassDoc(getattr(importlib.import_module(package), name))["Attributes"]
        rows = [
            (
                ", ".join(f"``{part}``" for part in field.name.split(", ")),
                field.type,
                " ".join(line.strip() for line in field.desc),
            )
            for field in fields
        ]
        return list_table(("Field", "Type", "What it says"), rows, (20, 22, 58))


class PageList(_Table):
    """Links to the pages whose names match a pattern, or a word that there are none."""

    required_arguments = 1

    def lines(self) -> list[str]:
        env = self.state.document.settings.env
        found = sorted(n for n in env.found_docs if fnmatch(n, self.arguments[0]))
        return [f"* :doc:`/{name}`" for name in found] or [":doc:`/benchmarks`."]


class NameTable(_Table):
    """The public classes of a package and what they are."""

    required_arguments = 1

    def lines(self) -> list[str]:
        package = importlib.import_module(self.arguments[0])
        rows = []
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isclass(thing) and not inspect.isabstract(thing):
                first = (inspect.getdoc(thing) or "").partition("\n")[0]
                rows.append((f"`~{self.arguments[0]}.{name}`", first))
        return list_table(("Name", "What it is"), rows, (25, 75))


class StatusTable(_Table):
    """Why a run may stop."""

    def lines(self) -> list[str]:
        rows = [
            (f"``{status.name}``", "yes" if status.ok else "no", str(status))
            for status in Status
        ]
        return list_table(("Status", "``ok``", "What it says"), rows, (18, 8, 74))


class OptionTable(_Table):
    """The options of a command, as ``--help`` tells them."""

    required_arguments = 1

    def lines(self) -> list[str]:
        import typer.models

        name = self.arguments[0]
        command = getattr(importlib.import_module(f"vitalfew.cli.{name}"), name)
        hints = get_type_hints(command, include_extras=True)
        rows = []
        for name, parameter in inspect.signature(command).parameters.items():
            told, default = hints[name].__metadata__[0], parameter.default
            if not isinstance(told, typer.models.OptionInfo):
                continue
            kinds = [k for k in TAKES if k in _plain(hints[name].__origin__)]
            option = (told.param_decls or [f"--{name.replace('_', '-')}"])[0]
            takes = told.metavar or (TAKES[kinds[0]] if kinds else "")
            given = default is not None and default is not False
            rows.append(
                (
                    f"``{option} {takes}``" if takes else f"``{option}``",
                    told.help or "",
                    f"``{default}``" if given else "",
                )
            )
        return list_table(("Option", "What it does", "Default"), rows, (28, 56, 16))


def _plain(hint: Any) -> set[type]:
    """Return the classes that a hint allows, those within lists too."""
    inner = get_args(hint)
    return set().union(*map(_plain, inner)) if inner else {hint}


class Changelog(_Table):
    """A changelog in plain Markdown, the fragments under "Unreleased"."""

    required_arguments = 2

    def lines(self) -> list[str]:
        env = self.state.document.settings.env
        here = Path(env.doc2path(env.docname)).parent
        file, folder = (here / argument for argument in self.arguments)
        fragments: list[str] = []
        for kind, title in (
            ("feature", "New"),
            ("fix", "Fixed"),
            ("change", "Changed"),
        ):
            found = sorted(folder.glob(f"*.{kind}.md"))
            if found:
                fragments += [f"*{title}*", ""]
            for fragment in found:
                env.note_dependency(str(fragment))
                fragments += [*fragment.read_text().splitlines(), ""]
        env.note_dependency(str(file))
        lines: list[str] = []
        for line in file.read_text().splitlines()[1:]:
            if line.startswith("## "):
                lines += [f".. rubric:: {line[3:]}", ""]
                if line == "## Unreleased":
                    lines += fragments
            elif not line.startswith("Each change is a fragment"):
                lines.append(line)
        return [_as_rst(line) for line in lines]


def _as_rst(line: str) -> str:
    """Turn the code and the links of a line of Markdown into reStructuredText."""
    line = re.sub(r"`([^`]+)`", r"``\1``", line)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("solver-table", SolverTable)
    app.add_directive("method-table", MethodTable)
    app.add_directive("allocation-table", AllocationTable)
    app.add_directive("training-table", TrainingTable)
    app.add_directive("field-table", FieldTable)
    app.add_directive("page-list", PageList)
    app.add_directive("name-table", NameTable)
    app.add_directive("status-table", StatusTable)
    app.add_directive("option-table", OptionTable)
    app.add_directive("changelog", Changelog)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
