"""Small dense problems that solvers and objectives share.

`single_exchanges` and `group_exchanges` tell what every one-for-one exchange of atoms
would bring in a quadratic model; `best_of` picks among them.
"""

from vitalfew.linalg.exchange import QuadraticModel, group_exchanges, single_exchanges

__all__ = ["QuadraticModel", "group_exchanges", "single_exchanges"]
