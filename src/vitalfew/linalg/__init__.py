"""Small dense problems that objectives share.

`single_exchanges` and `group_exchanges` tell what every one-for-one exchange of atoms
would bring in a quadratic; `GroupModel` does so for one independent part of it.
"""

from vitalfew.linalg.exchange import (
    GroupModel,
    QuadraticModel,
    best_of,
    group_exchanges,
    single_exchanges,
)

__all__ = [
    "GroupModel",
    "QuadraticModel",
    "best_of",
    "group_exchanges",
    "single_exchanges",
]
