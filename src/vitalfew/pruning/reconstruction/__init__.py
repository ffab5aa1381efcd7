"""Choose and re-fit the weights of one layer so that its outputs change least.

To add one: its file, and one line here. `prune`, the table of methods and the tests
of `prune` find it through `__all__`.
"""

from vitalfew.pruning.reconstruction.admm import ADMM
from vitalfew.pruning.reconstruction.channel_lasso import ChannelLasso
from vitalfew.pruning.reconstruction.iht import IHT
from vitalfew.pruning.reconstruction.local_search import LocalSearch
from vitalfew.pruning.reconstruction.net_trim import NetTrim
from vitalfew.pruning.reconstruction.obs import OBS

__all__ = ["ADMM", "IHT", "OBS", "ChannelLasso", "LocalSearch", "NetTrim"]
