"""What is minimised: losses over the rows of a table, quadratics, any smooth function.

A data objective is a weighted mean of losses plus ``l2/2 |x|^2``; an intercept is
minimised out and never part of `x`. To add a loss of one predictor, subclass
`PointwiseGLM` (the loss of each row and two derivatives); to add anything else,
subclass `BaseObjective` (`shape`, `like`, `value_and_gradient`). Export it here:
contract tests find it through `__all__`.
"""

from vitalfew.objectives._base import BaseObjective
from vitalfew.objectives._data import DataObjective
from vitalfew.objectives._glm import GLM, PointwiseGLM
from vitalfew.objectives.cox import Cox
from vitalfew.objectives.fisher import Fisher
from vitalfew.objectives.gamma import Gamma
from vitalfew.objectives.huber import Huber
from vitalfew.objectives.least_squares import LeastSquares
from vitalfew.objectives.logistic import Logistic
from vitalfew.objectives.multinomial import Multinomial
from vitalfew.objectives.ordinal import Ordinal
from vitalfew.objectives.poisson import Poisson
from vitalfew.objectives.quadratic import Quadratic
from vitalfew.objectives.quantile import Quantile
from vitalfew.objectives.smooth import Smooth
from vitalfew.objectives.squared_hinge import SquaredHinge

__all__ = [
    "GLM",
    "BaseObjective",
    "Cox",
    "DataObjective",
    "Fisher",
    "Gamma",
    "Huber",
    "LeastSquares",
    "Logistic",
    "Multinomial",
    "Ordinal",
    "PointwiseGLM",
    "Poisson",
    "Quadratic",
    "Quantile",
    "Smooth",
    "SquaredHinge",
]
