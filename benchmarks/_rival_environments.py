"""Environments of the other libraries, one each, so that they cannot hold one another.

``benchmarks/rivals/<library>.txt`` says what goes into it. They are made by ``python -m
benchmarks.solvers --install`` under ``benchmarks/.envs``, which git ignores.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks._runs import ROOT, say

REQUIREMENTS = ROOT / "benchmarks" / "rivals"
PLACE = ROOT / "benchmarks" / ".envs"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
MINUTES = 20  # for one environment
ENGINES = "engines"  # that run networks; see benchmarks.runtime

LIBRARIES = tuple(
    sorted(
        f.stem
        for f in REQUIREMENTS.glob("*.txt")
        if f != CONSTRAINTS and f.stem != ENGINES
    )
)


def python_of(library: str) -> Path | None:
    """Return the interpreter of a library, or None where it is not installed."""
    if library == "vitalfew":
        return Path(sys.executable)
    python = PLACE / library / "bin" / "python"
    return python if outcome(library).get("installed") else None


def outcome(library: str) -> dict[str, Any]:
    """Return how the installation went: the versions, or why there are none."""
    file = PLACE / library / "outcome.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def use(library: str) -> bool:
    """Let this process import a library, and say whether it is installed.

    What is installed in the environment of this process comes first.
    """
    python = python_of(library)
    if python is None:
        return False
    for place in (PLACE / library).glob("lib/python*/site-packages"):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    return True


def install(libraries: Iterable[str] = LIBRARIES) -> None:
    """Make every environment that is not there; a failure is noted and passed over."""
    for library in libraries:
        if outcome(library).get("installed"):
            continue
        say(f"installing {library}")
        found = _install(library)
        (PLACE / library).mkdir(parents=True, exist_ok=True)
        (PLACE / library / "outcome.json").write_text(json.dumps(found))
        say(f"{library}: {found.get('error') or 'installed'}")


def _install(library: str) -> dict[str, Any]:
    folder = PLACE / library
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    wanted = ["-c", str(CONSTRAINTS), "-r", str(REQUIREMENTS / f"{library}.txt")]
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([*pip, "install", "-q", *wanted])
        listed = json.loads(_run([*pip, "list", "--format=json"]))
    except subprocess.TimeoutExpired:
        return {"installed": False, "error": f"took more than {MINUTES} minutes"}
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "ERROR" in line.upper()]
        return {"installed": False, "error": (lines or ["no message"])[-1][:200]}
    versions = {item["name"]: item["version"] for item in listed}
    return {"installed": True, "packages": len(versions), "versions": versions}


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60 * MINUTES
    )
    return done.stdout
