"""Errors and warnings of the library."""

__all__ = [
    "ConvergenceWarning",
    "DataError",
    "IncompatibleError",
    "MissingDependencyError",
]


class IncompatibleError(TypeError):
    """An objective, a structure and a solver that do not fit together."""


class MissingDependencyError(ImportError):
    """An optional package is needed; the message says which line installs it."""


class DataError(ValueError):
    """Data that cannot be used as they are: unreadable, leaking or empty."""


class ConvergenceWarning(UserWarning):
    """An estimator's solver stopped before its own criterion was met."""
