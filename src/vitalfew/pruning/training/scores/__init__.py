"""Scores that train along with the network."""

from vitalfew.pruning.training.scores.attention_refit import AttentionRefit
from vitalfew.pruning.training.scores.fisher_attention import FisherAttention
from vitalfew.pruning.training.scores.gated_decay import GatedDecay, HyperSparse
from vitalfew.pruning.training.scores.group_envelope import GroupEnvelope
from vitalfew.pruning.training.scores.power_propagation import PowerPropagation
from vitalfew.pruning.training.scores.sequential_attention import SequentialAttention
from vitalfew.pruning.training.scores.soft_threshold import SoftThreshold

__all__ = [
    "AttentionRefit",
    "FisherAttention",
    "GatedDecay",
    "GroupEnvelope",
    "HyperSparse",
    "PowerPropagation",
    "SequentialAttention",
    "SoftThreshold",
]
