"""From the structure a user asked for to one structure for each layer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitalfew.contracts import HasAtoms, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.neural import Layer
from vitalfew.structures import Channels, IndexStructure, Joint


@dataclass(frozen=True, eq=False)
class Target:
    """A layer and the structure on its matrix.

    Parameters
    ----------
    layer : Layer
        The layer.
    structure : IndexStructure
        On the matrix; its budget is all atoms unless `fixed`.
    fixed : bool
        Whether the structure itself says how much of each layer may stay (n:m, or a
        budget of cost), so that nothing is left to allocate.
    """

    layer: Layer
    structure: Any
    fixed: bool

    @property
    def least(self) -> int:
        """Atoms that the layer keeps in any case: one, or those of `keep`."""
        return max(1, len(self.structure.keep))

    def with_count(self, count: int) -> Any:
        """Return the structure with a number of atoms."""
        return self.structure if self.fixed else self.structure.with_budget(count)

    def loosened(self, count: int, t: float) -> Any:
        """Return the structure when a fraction t of what shall go has been removed.

        Parameters
        ----------
        count : int
            Atoms that stay in the end; without effect on a `fixed` structure.
        t : float
            From 0, where everything may stay, to 1.
        """
        bound = self.structure
        if not self.fixed:
            n = bound.n_atoms
            return self.with_count(count + int((1 - t) * (n - count) + 1e-9))
        if t == 1:
            return bound
        if not hasattr(bound, "m"):
            everything = float(bound.atom_costs.sum())
            allowed = everything - t * (everything - bound.budget)
            return bound.with_budget(max(bound.budget, allowed))
        return bound.widened((bound.m - t * (bound.m - bound.n) + 1e-9) / bound.n)

    def keeps_everything(self, asked: Any) -> bool:
        """Say whether what was asked for leaves nothing to remove."""
        if self.fixed:
            atoms = np.arange(self.structure.n_atoms)
            return bool(self.structure.allows(self.structure.support(atoms)))
        return asked.density == 1


def targets_of(
    structure: Any, layers: Sequence[Layer], min_blocks: int
) -> tuple[list[Target], dict[str, str]]:
    """Put a structure on every layer it fits.

    Parameters
    ----------
    structure : IndexStructure
        As the user made it.
    layers : sequence of Layer
        That can be pruned.
    min_blocks : int
        Layers with fewer atoms are left dense.

    Returns
    -------
    list of Target
        In the order of the layers.
    dict of str to str
        Layers left dense, with the reason.

    Raises
    ------
    IncompatibleError
        If the structure is not one over weights.
    ValueError
        If it fits no layer.
    """
    if not isinstance(structure, IndexStructure) or not follows(structure, HasAtoms):
        raise IncompatibleError(
            f"structure must choose weights, got {type(structure).__name__}; use "
            "Cardinality, Blocks, NM, Channels or Groups of vitalfew.structures"
        )
    if isinstance(structure, Joint):
        raise IncompatibleError(
            "structure must be that of one layer, got Joint: prune makes one budget of "
            "all layers itself (allocation='global')"
        )
    fixed = not structure.is_counted
    found: list[Target] = []
    left: dict[str, str] = {}
    for layer in layers:
        free = structure if fixed else _unbudgeted(structure)
        if isinstance(free, Channels) and free.axis == 1:
            kernel = layer.parameter.shape[2:] if layer.parameter.ndim > 2 else ()
            free = replace(free, width=int(np.prod(kernel, dtype=int)))
        try:
            bound = free.on(layer.shape)
        except ValueError as error:
            left[layer.name] = f"the structure does not fit: {error}"
            continue
        if bound.n_atoms < min_blocks:
            left[layer.name] = (
                f"it has {bound.n_atoms} {noun(structure, bound.n_atoms)}, fewer than "
                f"min_blocks={min_blocks}"
            )
            continue
        found.append(Target(layer, bound, fixed))
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3])
        raise ValueError(
            "no layer can be pruned"
            + (f" ({reasons})" if reasons else ": the model has no weights to choose")
        )
    return found, left


def _unbudgeted(structure: Any) -> Any:
    """Return a structure with room for everything."""
    return replace(structure, **{structure.count_name: None, "density": 1.0})


def total_count(structure: Any, targets: Sequence[Target]) -> int:
    """How many atoms all layers may keep together, with what each must keep.

    Raises
    ------
    ValueError
        If a count is asked for that is more than there is, or too few for one in each
        layer.
    """
    everything = sum(target.structure.n_atoms for target in targets)
    least = sum(target.least for target in targets)
    count = getattr(structure, structure.count_name)
    if count is None:
        floor = int(np.floor(structure.density * everything + 1e-9))
        return min(max(least, floor), everything)
    if count > everything:
        raise ValueError(
            f"{structure.count_name} must be at most the {everything} there are in the "
            f"{len(targets)} layers together, got {count}"
        )
    if count < least:
        raise ValueError(
            f"{structure.count_name} must leave one in each of the {len(targets)} "
            f"layers and those to keep, {least} together, got {count}; exclude layers "
            "or ask for more"
        )
    return int(count)


def noun(structure: Any, count: int = 2) -> str:
    """What atoms of a structure are called."""
    word = {"Blocks": "block", "Channels": "channel", "Groups": "group", "Rows": "row"}
    return word.get(type(structure).__name__, "weight") + ("s" if count != 1 else "")
