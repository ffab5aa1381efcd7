"""Choose and re-fit the weights of one layer so that its outputs change least."""

from vitalfew.pruning.reconstruction.admm import ADMM
from vitalfew.pruning.reconstruction.obs import OBS

__all__ = ["ADMM", "OBS"]
