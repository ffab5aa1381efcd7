"""Criteria: one score of the weights per file.

To add one: its file, and one line here. `prune`, the table of methods and the contract
tests find it through `__all__`.
"""

from vitalfew.pruning.criteria.dass import DaSS
from vitalfew.pruning.criteria.fisher import Fisher
from vitalfew.pruning.criteria.gblm import GBLM
from vitalfew.pruning.criteria.lamp import LAMP
from vitalfew.pruning.criteria.magnitude import Magnitude
from vitalfew.pruning.criteria.movement import Movement
from vitalfew.pruning.criteria.random import Random
from vitalfew.pruning.criteria.spectrum import Spectrum
from vitalfew.pruning.criteria.taylor import Taylor
from vitalfew.pruning.criteria.wanda import Wanda

__all__ = [
    "GBLM",
    "LAMP",
    "DaSS",
    "Fisher",
    "Magnitude",
    "Movement",
    "Random",
    "Spectrum",
    "Taylor",
    "Wanda",
]
