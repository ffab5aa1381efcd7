"""Methods and allocations by their names."""

import difflib
from typing import Any

from vitalfew.exceptions import IncompatibleError
from vitalfew.pruning import allocation, criteria, network, reconstruction
from vitalfew.pruning._contracts import (
    Allocation,
    Criterion,
    Method,
    NetworkMethod,
    Reconstruction,
)
from vitalfew.structures import Channels

BY_DATA = ("admm", "wanda")  # of "auto", the first that can


def methods() -> dict[str, type[Method]]:
    """Return all methods by name: criteria, reconstructions, network methods.

    Returns
    -------
    dict of str to type
        Each a frozen dataclass; its fields are its settings, `cost` and `use` say what
        it costs and when to use it.
    """
    found: dict[str, type[Method]] = {}
    for package in (criteria, reconstruction, network):
        for exported in package.__all__:
            cls = getattr(package, exported)
            found[cls.name] = cls
    return found


def allocations() -> dict[str, type[Allocation]]:
    """Return all allocations of the budget by name.

    Returns
    -------
    dict of str to type
        Each a frozen dataclass; its fields are its settings.
    """
    classes = [getattr(allocation, exported) for exported in allocation.__all__]
    return {cls.name: cls for cls in classes}


def find_method(
    asked: Any, structures: list[Any], calibrated: bool, informed: bool = False
) -> Method:
    """Return the method that a name or an object means, checked against structures.

    Parameters
    ----------
    asked : str or Method
        ``"auto"``, a name of `methods`, or an object.
    structures : list of Structure
        What each layer shall keep to.
    calibrated : bool
        Whether there are calibration data.
    informed : bool
        Whether statistics of layers were given.

    Raises
    ------
    TypeError
        If it is neither a name nor a method.
    ValueError
        If no method has this name, or it needs data and there are none.
    IncompatibleError
        If the method cannot keep to the structure.
    """
    known = methods()
    if asked == "auto":
        if not calibrated:
            return known["magnitude"]()
        # few atoms, many of them alike: swaps find what alternating does not
        few = all(isinstance(structure, Channels) for structure in structures)
        for name in ("local-search", *BY_DATA) if few else BY_DATA:
            method = known[name]()
            if fits(method, structures):
                return method
    if isinstance(asked, str):
        if asked not in known:
            near = difflib.get_close_matches(asked, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"method must be 'auto' or one of {', '.join(sorted(known))}, got "
                f"{asked!r}{'; ' if hint else ''}{hint}"
            )
        asked = known[asked]()
    if not isinstance(asked, Criterion | Reconstruction | NetworkMethod):
        raise TypeError(
            f"method must be a name or a method of vitalfew.pruning, got {asked!r}"
        )
    if "movement" in asked.needs and not informed:
        raise ValueError(
            "movement is summed while training: use MovementSums, and give "
            "statistics=sums.statistics()"
        )
    if (asked.needs or isinstance(asked, NetworkMethod)) and not (
        calibrated or informed
    ):
        raise ValueError(
            f"method {asked.name!r} needs data: give calibration=batches, or use "
            "'magnitude'"
        )
    if not fits(asked, structures):
        able = sorted(name for name, cls in known.items() if fits(cls(), structures))
        kind = type(structures[0]).__name__
        raise IncompatibleError(
            f"method {asked.name!r} cannot keep to {kind}; these can: {', '.join(able)}"
        )
    return asked


def fits(method: Any, structures: list[Any]) -> bool:
    """Say whether a method can keep to all structures."""
    if not isinstance(method, Reconstruction):
        return True
    return all(method.supports(structure) for structure in structures)


def find_allocation(asked: Any) -> Allocation:
    """Return the allocation that a name or an object means."""
    known = allocations()
    if isinstance(asked, str):
        if asked not in known:
            raise ValueError(
                f"allocation must be one of {', '.join(sorted(known))}, got {asked!r}"
            )
        return known[asked]()
    if not isinstance(asked, Allocation):
        raise TypeError(
            "allocation must be a name or an allocation of vitalfew.pruning, got "
            f"{asked!r}"
        )
    return asked
