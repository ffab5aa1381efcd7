"""Checks the docstring of every public name with numpydoc; run as a script."""

import dataclasses
import enum
import importlib
import inspect
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

from numpydoc.validate import validate

import vitalfew

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "attribution",
    "bounds",
    "contracts",
    "datasets",
    "designs",
    "estimators",
    "exceptions",
    "linalg",
    "neural",
    "objectives",
    "penalties",
    "pruning",
    "pruning.training",
    "pruning.training.schedules",
    "pruning.training.scores",
    "records",
    "report",
    "runtime",
    "solution",
    "solvers",
    "structures",
    "study",
    "supports",
)


def public_names() -> dict[str, Any]:
    """Return every public object by the path that imports it."""
    verbs = ("certify", "path", "solve")
    found: dict[str, Any] = {f"vitalfew.{v}": getattr(vitalfew, v) for v in verbs}
    for package in PACKAGES:
        module = importlib.import_module(f"vitalfew.{package}")
        names = getattr(module, "__all__", None) or _own(module)
        for name in names:
            thing = getattr(module, name)
            if name != "Array" and (
                inspect.isclass(thing) or inspect.isfunction(thing)
            ):
                found[f"{module.__name__}.{name}"] = thing
                found.update(_methods(f"{module.__name__}.{name}", thing))
    return found


def _own(module: ModuleType) -> list[str]:
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", None) == module.__name__
    ]


def _methods(path: str, thing: Any) -> dict[str, Any]:
    if not inspect.isclass(thing):
        return {}
    return {
        f"{path}.{name}": member
        for name, member in vars(thing).items()
        if not name.startswith("_")
        and inspect.isfunction(member)
        and member.__name__ == name
    }


def _is_record(thing: Any) -> bool:
    """Whether users meet instances of it and never make one: see its Attributes."""
    if not inspect.isclass(thing):
        return False
    described = "Attributes\n" in (thing.__doc__ or "")
    return (
        inspect.isabstract(thing)
        or getattr(thing, "_is_protocol", False)
        or issubclass(thing, (tuple, enum.Enum))
        or (described and dataclasses.is_dataclass(thing))
    )


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = set(settings["tool"]["numpydoc_validation"]["checks"])
    # methods of a documented contract need a summary; their parameters are told there
    for_methods = {"GL03", "GL08", "SS02", "SS03", "SS06"}
    problems = []
    names = public_names()
    for path, thing in names.items():
        method = inspect.isfunction(thing) and path.count(".") > 2
        checks = wanted & for_methods if method or _is_record(thing) else wanted
        problems += [
            f"{path}: {code} {text}"
            for code, text in validate(path)["errors"]
            if code in checks
        ]
    print("\n".join(problems) or f"{len(names)} public docstrings are fine")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
