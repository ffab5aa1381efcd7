"""Statistics layer by layer, each collected with the layers before it as they now are.

Pruning a layer changes the inputs of those after it. `propagate` yields the layers in
running order with statistics of the inputs that the already changed layers give. Where
the model is a chain of blocks, as transformers are, the inputs of each block are kept
and only that block is run again; otherwise the model is run up to the layer.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural.batches import Batches, run, token_mask
from vitalfew.neural.layers import Layer, LinearLayer
from vitalfew.neural.modes import evaluating
from vitalfew.neural.statistics import RunningSums, Statistics
from vitalfew.neural.watching import watching


class _Stop(Exception):
    """What was wanted of a run has been seen."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Layers that see one and the same input."""

    layers: list[Layer]
    once: bool  # the layer is called once in a run, so that it may stop there


@dataclass(frozen=True, eq=False)
class _Chain:
    """Blocks that run one after the other, each on the output of the one before."""

    blocks: list[nn.Module]
    names: list[str]


def propagate(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    needs: Collection[str],
) -> Iterator[tuple[list[Layer], Statistics]]:
    """Yield layers in running order with statistics of their inputs as they now are.

    Parameters
    ----------
    model : Module
        Run in evaluation mode. Whoever iterates may change the weights of the layers
        that were yielded before asking for the next.
    layers : sequence of Layer
        Of which statistics are wanted; those that no batch reaches are not yielded.
    batches : list
        As `as_batches` returns them.
    needs : collection of str
        Among ``hessian``, ``input_square`` and ``inputs``.

    Yields
    ------
    layers : list of Layer
        That share one input: query, key and value projections, say.
    statistics : Statistics
        Of that input.

    Notes
    -----
    In a chain of blocks each block is run once for every different input inside it, and
    once more; the inputs of one block are held, n_tokens times the width. Otherwise the
    model is run up to every layer.
    """
    needs = set(needs)
    layers = [layer for layer in layers if layer.has_tokens]
    groups, order = _running_order(model, layers, batches[0])
    chain = _find_chain(model, groups, batches[0])
    if chain is None:
        for group in groups:
            yield group.layers, _seen(model, group, batches, needs)
        return
    inside, before, after = _divide(groups, chain, order)
    for group in before:
        yield group.layers, _seen(model, group, batches, needs)
    states = _block_inputs(model, chain, batches)
    for number, block in enumerate(chain.blocks):
        for group in inside[number]:
            yield (
                group.layers,
                _seen_in_block(model, block, group, states[number], needs),
            )
        if number + 1 < len(chain.blocks):
            _hand_on(model, block, states[number], states[number + 1])
        states[number].clear()
    for group in after:
        yield group.layers, _seen(model, group, batches, needs)


# -- in what order layers run -------------------------------------------------------


def _running_order(
    model: nn.Module, layers: Sequence[Layer], batch: Any
) -> tuple[list[_Group], list[str]]:
    """Layers in the order of their calls on a batch, those of one input together."""
    order: list[Layer] = []
    shares: list[bool] = []  # whether the call before had the same input
    last: list[Any] = [None, 0]

    def see(layer: Layer, x: Tensor) -> None:
        order.append(layer)
        # a tensor that was written into since is another input
        shares.append(x is last[0] and x._version == last[1])
        last[:] = x, x._version

    with watching(layers, inputs=see):
        _run(model, batch)
    counts = Counter(layer.name for layer in order)
    groups: list[_Group] = []
    done: set[str] = set()
    for layer, joins in zip(order, shares, strict=True):
        if layer.name in done:
            continue
        done.add(layer.name)
        once = counts[layer.name] == 1
        mates = groups and groups[-1].once and once and joins
        if mates and _plain(layer) and _plain(groups[-1].layers[-1]):
            groups[-1].layers.append(layer)
        else:
            groups.append(_Group([layer], once))
    return groups, [layer.name for layer in order]


def _plain(layer: Layer) -> bool:
    """Whether equal inputs make equal tokens."""
    return isinstance(layer, LinearLayer)


# -- chains of blocks ---------------------------------------------------------------


def _find_chain(
    model: nn.Module, groups: Sequence[_Group], batch: Any
) -> _Chain | None:
    """The children of one container that hold most layers, if they run in a chain."""
    if not all(group.once for group in groups):
        return None
    names = [layer.name for group in groups for layer in group.layers]
    best: tuple[int, _Chain] | None = None
    for prefix, container in model.named_modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential):
            continue
        children = [
            (f"{prefix}.{name}" if prefix else name, child)
            for name, child in container.named_children()
        ]
        held = sum(
            any(name == c or name.startswith(c + ".") for c, _ in children)
            for name in names
        )
        if len(children) > 1 and (best is None or held > best[0]):
            best = held, _Chain([m for _, m in children], [c for c, _ in children])
    if best is None or best[0] < len(names) / 2:
        return None
    chain = best[1]
    return chain if _runs_as_chain(model, chain, batch) else None


def _runs_as_chain(model: nn.Module, chain: _Chain, batch: Any) -> bool:
    """Whether every block is called once, in order, on what the one before returned."""
    called: list[int] = []
    broken: list[bool] = []
    previous: list[Any] = [None]
    with _hooks() as hooks:
        for number, block in enumerate(chain.blocks):

            def before(_: Any, args: Any, kwargs: Any, number: int = number) -> None:
                called.append(number)
                if number and (not args or args[0] is not previous[0]):
                    broken.append(True)
                if number == 0 and not (args and isinstance(args[0], Tensor)):
                    broken.append(True)
                rest = [*args[1:], *kwargs.values()]
                if number and any(value is previous[0] for value in rest):
                    broken.append(True)

            def after(_: Any, args: Any, output: Any) -> None:
                previous[0] = _first(output)

            hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))
            hooks.append(block.register_forward_hook(after))
        _run(model, batch)
    return not broken and called == list(range(len(chain.blocks)))


def _divide(
    groups: Sequence[_Group], chain: _Chain, order: Sequence[str]
) -> tuple[list[list[_Group]], list[_Group], list[_Group]]:
    """Groups inside each block, before the first and after the last."""
    inside: list[list[_Group]] = [[] for _ in chain.blocks]
    outside: list[_Group] = []
    for group in groups:
        at = _block_of(group.layers[0].name, chain)
        whole = all(_block_of(layer.name, chain) == at for layer in group.layers)
        if at is None or not whole:
            outside.append(group)
        else:
            inside[at].append(group)
    first = next(
        (n for n, name in enumerate(order) if _block_of(name, chain) is not None), 0
    )
    place = {name: n for n, name in reversed(list(enumerate(order)))}
    before = [g for g in outside if place[g.layers[0].name] < first]
    after = [g for g in outside if place[g.layers[0].name] >= first]
    return inside, before, after


def _block_of(name: str, chain: _Chain) -> int | None:
    for number, block in enumerate(chain.names):
        if name == block or name.startswith(block + "."):
            return number
    return None


_Inputs = list[list[Any]]  # for each batch: the first argument, others, names, mask


def _block_inputs(model: nn.Module, chain: _Chain, batches: Batches) -> list[_Inputs]:
    """Arguments of every block on every batch; the first one only for the first."""
    states: list[_Inputs] = [[] for _ in chain.blocks]
    mask: list[Tensor | None] = [None]
    with _hooks() as hooks:
        for number, block in enumerate(chain.blocks):

            def before(_: Any, args: Any, kwargs: Any, number: int = number) -> None:
                first = _copied(args[0]) if number == 0 else None
                states[number].append([first, args[1:], kwargs, mask[0]])
                if number == len(chain.blocks) - 1:
                    raise _Stop

            hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))
        for batch in batches:
            mask[0] = token_mask(batch)
            _run(model, batch)
    return states


def _hand_on(
    model: nn.Module, block: nn.Module, states: _Inputs, following: _Inputs
) -> None:
    """Run a block as it now is and give its outputs to the next."""
    with evaluating(model), torch.no_grad():
        for state, next_ in zip(states, following, strict=True):
            next_[0] = _first(block(state[0], *state[1], **state[2]))
            state[0] = None


# -- runs ---------------------------------------------------------------------------


def _seen(
    model: nn.Module, group: _Group, batches: Batches, needs: set[str]
) -> Statistics:
    """Statistics of the input of a group, over runs of the whole model."""
    sums = RunningSums(group.layers[0], needs)
    with _looking(group, sums) as mask:
        for batch in batches:
            mask[0] = token_mask(batch)
            _run(model, batch)
    return sums.statistics()


def _seen_in_block(
    model: nn.Module, block: nn.Module, group: _Group, states: _Inputs, needs: set[str]
) -> Statistics:
    """Statistics of the input of a group, over runs of its block alone."""
    sums = RunningSums(group.layers[0], needs)
    with _looking(group, sums) as mask, evaluating(model), torch.no_grad():
        for state in states:
            mask[0] = state[3]
            try:
                # a copy: the block runs again, and may write into it
                block(_copied(state[0]), *state[1], **state[2])
            except _Stop:
                continue
    return sums.statistics()


@contextmanager
def _looking(group: _Group, sums: RunningSums) -> Iterator[list[Tensor | None]]:
    """Add the inputs of a group to sums, and stop there if that is all."""
    mask: list[Tensor | None] = [None]

    def see(_: Layer, x: Tensor) -> None:
        sums.see(x, mask[0])
        if group.once:
            raise _Stop

    with watching(group.layers[:1], inputs=see):
        yield mask


def _run(model: nn.Module, batch: Any) -> None:
    with evaluating(model), torch.no_grad():
        try:
            run(model, batch)
        except _Stop:
            return


def _copied(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    """Collect handles of hooks, and remove them at the end."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
