"""Schedules of pruning while training."""

from vitalfew.pruning.training.schedules.alternating import (
    ACDC,
    SequentialAttentionPlusPlus,
)
from vitalfew.pruning.training.schedules.gradual import Gradual
from vitalfew.pruning.training.schedules.one_shot import OneShot

__all__ = ["ACDC", "Gradual", "OneShot", "SequentialAttentionPlusPlus"]
