"""Scores that train along with the network."""

from vitalfew.pruning.training.scores.sequential_attention import SequentialAttention

__all__ = ["SequentialAttention"]
