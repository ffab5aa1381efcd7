"""Which inputs made a prediction, and curves that judge the answer.

A model is a torch network, or a function of NumPy arrays that returns values and
gradients; torch is imported only with networks. Each method is one file over one kernel
of path integrals.
"""

from vitalfew.attribution._curves import Curves, curves
from vitalfew.attribution._method import Attribution, Explanation
from vitalfew.attribution._representers import (
    Representers,
    high_dimensional_representers,
)
from vitalfew.attribution.blur_ig import BlurIG, blur
from vitalfew.attribution.gradient_times_input import GradientTimesInput
from vitalfew.attribution.greedy_pig import GreedyPIG
from vitalfew.attribution.guided_ig import GuidedIG
from vitalfew.attribution.integrated_gradients import IntegratedGradients

__all__ = [
    "Attribution",
    "BlurIG",
    "Curves",
    "Explanation",
    "GradientTimesInput",
    "GreedyPIG",
    "GuidedIG",
    "IntegratedGradients",
    "Representers",
    "blur",
    "curves",
    "high_dimensional_representers",
]
