"""Solvers: one published method per file.

To add one: its file, and one line here. Contract tests, the list that
``vitalfew solvers`` prints and the documentation's table all read `__all__`.
"""

from vitalfew.solvers.accelerated_iht import AcceleratedIHT
from vitalfew.solvers.arht import ARHT
from vitalfew.solvers.branch_and_bound import BranchAndBound
from vitalfew.solvers.coordinate_descent import CoordinateDescent
from vitalfew.solvers.cosamp import CoSaMP
from vitalfew.solvers.foba import FoBa
from vitalfew.solvers.frank_wolfe import FrankWolfe
from vitalfew.solvers.grasp import GraSP
from vitalfew.solvers.greedy_coordinate_descent import GreedyCoordinateDescent
from vitalfew.solvers.htp import HTP
from vitalfew.solvers.iht import IHT
from vitalfew.solvers.local_search import LocalSearch
from vitalfew.solvers.omp import OMP
from vitalfew.solvers.ompr import OMPR
from vitalfew.solvers.proximal_gradient import ProximalGradient
from vitalfew.solvers.regularized_iht import RegularizedIHT
from vitalfew.solvers.sequential_lasso import SequentialLasso
from vitalfew.solvers.splicing import Splicing
from vitalfew.solvers.variable_step_gradient import VariableStepGradient

__all__ = [
    "ARHT",
    "HTP",
    "IHT",
    "OMP",
    "OMPR",
    "AcceleratedIHT",
    "BranchAndBound",
    "CoSaMP",
    "CoordinateDescent",
    "FoBa",
    "FrankWolfe",
    "GraSP",
    "GreedyCoordinateDescent",
    "LocalSearch",
    "ProximalGradient",
    "RegularizedIHT",
    "SequentialLasso",
    "Splicing",
    "VariableStepGradient",
]
