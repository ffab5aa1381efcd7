"""Pruning while a network trains: scores, schedules, and what drives them."""

from vitalfew.pruning.training._contracts import Curve, Phase, Schedule, Score
from vitalfew.pruning.training._history import Event, History
from vitalfew.pruning.training._methods import (
    Pair,
    training_methods,
    training_schedules,
    training_scores,
)
from vitalfew.pruning.training._pruner import Pruner
from vitalfew.pruning.training._soup import soup
from vitalfew.pruning.training.callbacks import (
    lightning_callback,
    transformers_callback,
)

__all__ = [
    "Curve",
    "Event",
    "History",
    "Pair",
    "Phase",
    "Pruner",
    "Schedule",
    "Score",
    "lightning_callback",
    "soup",
    "training_methods",
    "training_schedules",
    "training_scores",
    "transformers_callback",
]
