"""Reading a record that may lack anything: what is not there becomes None or empty."""

import json
import math
from typing import Any

from vitalfew.report._numbers import NOTHING, count, general


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """Return a count, or None for anything that is not one."""
    found = number(value)
    return int(found) if found is not None and found >= 0 else None


def mapping(value: Any) -> dict[str, Any]:
    """Return the value if it is a mapping, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a list, empty for what is not one."""
    return list(value) if isinstance(value, (list, tuple)) else []


def mappings(value: Any) -> list[dict[str, Any]]:
    """Return the mappings of a list."""
    return [item for item in items(value) if isinstance(item, dict)]


def name(value: Any) -> str:
    """Return a name that is never empty."""
    found = "" if value is None else str(value)
    return found if found.strip() else "(no name)"


def words(value: Any) -> str:
    """Return any value of a record as text for a table of facts."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) < 10**15 else str(general(number(value)))
    if isinstance(value, float):
        return general(number(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(words(item) for item in value) or NOTHING
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
