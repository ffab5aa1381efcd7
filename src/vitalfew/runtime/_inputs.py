"""Inputs that a compiled network takes, drawn at random."""

from typing import Any

import numpy as np
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from vitalfew.exceptions import IncompatibleError
from vitalfew.runtime._graph import Shape, constant
from vitalfew.runtime._model import CompiledModel

__all__ = ["random_inputs"]

# operators that pass numbers on as they are
_SAME = {
    *("_to_copy", "_unsafe_view", "alias", "clone", "detach", "expand"),
    *("permute", "reshape", "select", "slice", "squeeze", "transpose", "unsqueeze"),
    "view",
}


def random_inputs(
    model: CompiledModel,
    batch: int,
    tokens: int,
    image: tuple[int, int, int] | None,
    seed: int,
) -> tuple[Any, ...] | dict[str, Any]:
    """Draw what a compiled network is called with.

    Parameters
    ----------
    model : CompiledModel
        Compiled as a whole.
    batch : int
        Examples.
    tokens : int
        Of each, where their number may vary.
    image : tuple of int, optional
        Channels, height and width of images whose sizes may vary.
    seed : int
        Of the numbers.

    Returns
    -------
    tuple or dict of array
        By position or by name, as the network was compiled: indices of embeddings are
        below their number, masks are one, other names that end in ``_ids`` are zero,
        and all else is normal.

    Raises
    ------
    ValueError
        If a size is fixed to another value, or missing.
    IncompatibleError
        If the network was compiled by parts: nothing tells what it takes.
    """
    graph, call = model.graph, model._call
    if call is None or not isinstance(graph, GraphModule):
        raise IncompatibleError(
            "only a network that is compiled as a whole tells what it takes"
        )
    rng = np.random.default_rng(seed)
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    args, kwargs = pytree.tree_unflatten(list(range(len(call.leaves))), call.inputs)
    lengths: dict[str, int] = {}

    def drawn(name: str, i: int) -> Any:
        shape = call.leaves[i]
        if not isinstance(shape, Shape):
            return shape
        below = _below(graph, places[i])
        wanted = _wanted(len(shape.lengths), below is not None, batch, tokens, image)
        sizes = []
        for axis, (size, here) in enumerate(zip(shape.lengths, wanted, strict=True)):
            if isinstance(size, str):
                if here is None and size not in lengths:
                    raise ValueError(f"the size of images must be given for {name!r}")
                size = lengths.setdefault(size, here or 1)
            if axis == 0 and size != batch:
                raise ValueError(f"batch must be {size}, which is compiled in")
            sizes.append(size)
        if below is not None:
            return rng.integers(0, below, sizes)
        if "mask" in name:
            return np.ones(sizes, np.int64)
        if name.endswith("_ids"):
            return np.zeros(sizes, np.int64)
        return rng.standard_normal(sizes).astype(np.float32)

    def filled(name: str, part: Any) -> Any:
        return pytree.tree_map(lambda i: drawn(name, i), part)

    if kwargs:
        return {name: filled(name, part) for name, part in kwargs.items()}
    return tuple(filled(n, part) for n, part in zip(call.names, args, strict=True))


def _wanted(
    n_dims: int,
    ids: bool,
    batch: int,
    tokens: int,
    image: tuple[int, int, int] | None,
) -> list[int | None]:
    """Return the lengths for the dimensions of an input, None for those not told."""
    if n_dims == 4 and not ids:
        return [batch, *(image or (None, None, None))]
    return [batch, *[tokens] * (n_dims - 1)] if n_dims else []


def _below(graph: GraphModule, place: Node) -> int | None:
    """Return how many embeddings an input chooses from; None if it does not."""
    found, waiting, seen = [], [place], {place}
    while waiting:
        node = waiting.pop()
        for user in node.users:
            name = getattr(user.target, "__name__", "").split(".")[0]
            if name == "embedding" and user.args[1] is node:
                weight = constant(graph, user.args[0])
                if weight is not None:
                    found.append(len(weight))
            elif name in _SAME and user not in seen:
                seen.add(user)
                waiting.append(user)
    return min(found, default=None)
