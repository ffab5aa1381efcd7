"""Schedules of pruning while training."""

from vitalfew.pruning.training.schedules.alternating import (
    ACDC,
    SequentialAttentionPlusPlus,
)
from vitalfew.pruning.training.schedules.dynamic import SET, RigL
from vitalfew.pruning.training.schedules.gradual import Gradual
from vitalfew.pruning.training.schedules.iterative import SWAMP, Iterative
from vitalfew.pruning.training.schedules.one_shot import OneShot
from vitalfew.pruning.training.schedules.straight_through import (
    SRSTE,
    Decaying,
    StraightThrough,
)

__all__ = [
    "ACDC",
    "SET",
    "SRSTE",
    "SWAMP",
    "Decaying",
    "Gradual",
    "Iterative",
    "OneShot",
    "RigL",
    "SequentialAttentionPlusPlus",
    "StraightThrough",
]
