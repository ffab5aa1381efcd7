"""Torch code that several packages share: layers, batches, statistics of a network."""

from vitalfew.neural.batches import Batches, LossFunction, as_batches, loss_of, run
from vitalfew.neural.layers import Layer, prunable_layers
from vitalfew.neural.modes import evaluating, same_random_state
from vitalfew.neural.movement import MovementSums
from vitalfew.neural.statistics import Statistics, collect

__all__ = [
    "Batches",
    "Layer",
    "LossFunction",
    "MovementSums",
    "Statistics",
    "as_batches",
    "collect",
    "evaluating",
    "loss_of",
    "prunable_layers",
    "run",
    "same_random_state",
]
