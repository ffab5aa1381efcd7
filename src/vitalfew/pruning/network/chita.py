"""All weights of a network at once, by hard thresholding on the Fisher quadratic."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from numpy.random import Generator
from torch import Tensor

from vitalfew import solve
from vitalfew._validation import check_count
from vitalfew.contracts import Solver
from vitalfew.neural.flat import FlatNetwork
from vitalfew.objectives import Fisher
from vitalfew.pruning._contracts import NetworkMethod
from vitalfew.pruning.network._stages import Stages
from vitalfew.solvers import IHT


@dataclass(frozen=True, kw_only=True)
class CHITA(NetworkMethod):
    r"""Combinatorial Hessian-free iterative thresholding, in several stages.

    Solves

    .. math:: \min_w \; g^T (w - \bar w)
       + \tfrac{1}{2 n} |A (w - \bar w)|^2 + \tfrac{\lambda}{2} |w - \bar w|^2

    over a structure by a solver of the engine, with the gradients A of n samples at
    :math:`\bar w`, one row each, and their mean g; then goes on from there with new
    gradients and a tighter budget, each stage keeping the same share of what the one
    before kept. The last stages keep the budget and only renew the quadratic. Far above
    magnitude where most weights go, and the quadratic at the trained weights would be
    wrong: one stage alone gains little there.

    Parameters
    ----------
    n_stages : int, default=20
        Stages in which weights are removed; 1 is one-shot.
    n_refits : int, default=10
        Stages after them.
    n_samples : int, default=1000
        Gradients of a quadratic, drawn anew for each; fewer where there are fewer.
    per_row : int, default=1
        Samples whose mean gradient makes one row of A.
    solver : Solver, default=IHT()
        One of `vitalfew.solvers`, for the quadratic of a stage.
    max_iter : int, default=10
        Most steps of it.

    Notes
    -----
    The damping :math:`\lambda` needs no setting: from that of the stage before, larger
    and smaller ones are tried, three or more, and the one whose answer has the least
    loss on 2,000 samples is taken; then the step is doubled while that loss falls.
    Where nothing lowers it, weights are only removed, and the answer is never above the
    projection of the trained weights. A stage costs n gradients, O(n^2 k) for k weights
    kept, and about 100 passes over A. Memory: n p numbers, and some 200 MB.

    Departures from [1]_: step sizes and refits are the engine's; damping and length of
    the step are chosen by the loss; stages after the last removal.

    References
    ----------
    .. [1] R. Benbaki, W. Chen, X. Meng, H. Hazimeh, N. Ponomareva, Z. Zhao,
       R. Mazumder, "Fast as CHITA: neural network pruning with combinatorial
       optimization", ICML, 2023; the stages are its CHITA++.
    .. [2] K. Levenberg, "A method for the solution of certain non-linear problems in
       least squares", Quart. Appl. Math., 1944 (the damping).
    """

    n_stages: int = 20
    n_refits: int = 10
    n_samples: int = 1000
    per_row: int = 1
    solver: Solver[Any] = field(default_factory=IHT)
    max_iter: int = 10

    name: ClassVar[str] = "chita"
    cost: ClassVar[str] = "30 times 1,000 gradients and refits of the whole network"
    use: ClassVar[str] = "most weights go, targets at hand, no training after it"

    def __post_init__(self) -> None:
        for setting in ("n_stages", "n_samples", "per_row"):
            check_count(setting, getattr(self, setting), 1)
        check_count("n_refits", self.n_refits, 0)
        check_count("max_iter", self.max_iter, 0)

    def prune_network(
        self,
        network: FlatNetwork,
        structure_at: Callable[[float], Any],
        rng: Generator,
        progress: Callable[[str, int, int], None],
    ) -> Tensor:
        """Return the pruned flat vector of all weights."""

        def propose(model: Fisher, structure: Any) -> Tensor:
            support = structure.largest(model.center)
            start = model.at(support, support.restrict(model.center))
            answer = solve(
                model,
                structure,
                self.solver,
                start=start,
                max_iter=self.max_iter,
                rng=rng,
            )
            x: Tensor = answer.x
            return x

        stages = Stages(network, propose, 1.0, self.n_samples, self.per_row, rng)
        return stages.run(
            structure_at,
            self.n_stages,
            self.n_refits,
            lambda number, total: progress(self.name, number, total),
        )
