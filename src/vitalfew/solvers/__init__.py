"""Solvers: one published method per file.

To add one: its file, and one line here. Contract tests, the list that
``vitalfew solvers`` prints and the documentation's table all read `__all__`.
"""

from vitalfew.solvers.grasp import GraSP
from vitalfew.solvers.htp import HTP
from vitalfew.solvers.iht import IHT
from vitalfew.solvers.local_search import LocalSearch
from vitalfew.solvers.omp import OMP
from vitalfew.solvers.ompr import OMPR
from vitalfew.solvers.proximal_gradient import ProximalGradient

__all__ = ["HTP", "IHT", "OMP", "OMPR", "GraSP", "LocalSearch", "ProximalGradient"]
