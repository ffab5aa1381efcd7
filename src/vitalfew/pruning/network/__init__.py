"""Methods that prune all layers at once."""

from vitalfew.pruning.network.chita import CHITA
from vitalfew.pruning.network.mfac import MFAC

__all__ = ["CHITA", "MFAC"]
