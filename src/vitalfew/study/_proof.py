"""How far the chosen columns can be from the best possible ones, proved."""

import math
from dataclasses import replace
from typing import Any

from vitalfew._certify import certify
from vitalfew.study._model import Model
from vitalfew.study._outcome import Outcome
from vitalfew.supports import Whole

LEAST_L2 = 1e-3  # strong convexity that the model's own loss must have
STATED_L2 = 0.01  # ridge that is put on the columns otherwise, and told
SECONDS = 10.0
FAR = 0.5  # gap from which a proof says little


def proved(model: Model, outcome: Outcome, seconds: float | None) -> dict[str, Any]:
    """Prove how far the choice can be from the best of as many columns.

    Parameters
    ----------
    model : Model
        Whose choice is judged, by its loss on the rows it was made of.
    outcome : Outcome
        What it predicts.
    seconds : float or None
        Limit; ten at most.

    Returns
    -------
    dict
        Plain data: value, lower bound, gap, the ridge of both, and what they say.
    """
    objective, solution = model.objective, model.solution
    l2, support = objective.l2, solution.fit.support
    if objective.convexity(Whole(objective.shape)) < LEAST_L2:
        l2 = STATED_L2
        objective = outcome.objective(objective.design, l2)
        fit = objective.refit(support)
        solution = replace(solution, x=fit.x, value=fit.value, fit=fit)
    limit = SECONDS if seconds is None else min(SECONDS, seconds)
    structure = model.structure.with_budget(len(support))
    judged = certify(objective, structure, solution, max_seconds=limit)
    assert judged.lower_bound is not None
    # of the model's own choice, though the proof may have come upon a better one
    own = replace(solution, lower_bound=min(judged.lower_bound, solution.value))
    assert own.gap is not None
    return {
        "value": own.value,
        "lower_bound": own.lower_bound,
        "gap": own.gap,
        "l2": l2,
        "sentence": _sentence(own.gap, len(support), l2, l2 != model.objective.l2),
    }


def _sentence(gap: float, n_chosen: int, l2: float, stated: bool) -> str:
    columns = f"{n_chosen} column" + ("s" if n_chosen != 1 else "")
    share = f"{_up(100 * gap):g} %"
    if gap >= FAR:
        said = f"the proof does not reach far: the best possible {columns} may have a "
        said += f"training loss up to {share} lower"
    else:
        said = "proved: the training loss is within "
        said += f"{share} of that of the best possible {columns}"
    return said + (f", both with a ridge of {l2:g} on the scaled columns" * stated)


def _up(percent: float) -> float:
    """Round up to two digits, and from 0.01 on."""
    if percent <= 0.01:
        return 0.01
    unit = 10.0 ** (math.floor(math.log10(percent)) - 1)
    return min(100.0, float(f"{math.ceil(percent / unit - 1e-6) * unit:.2g}"))
