"""Seeing what enters and leaves layers while a model runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vitalfew.neural.layers import Layer

Look = Callable[[Layer, Tensor], None]


@contextmanager
def watching(
    layers: Iterable[Layer], *, inputs: Look | None = None, outputs: Look | None = None
) -> Iterator[None]:
    """Show the inputs and outputs of layers, and of the modules that share weights.

    Parameters
    ----------
    layers : iterable of Layer
        To watch.
    inputs, outputs : callable, optional
        Told the layer and the tensor, before and after the layer runs. What they raise
        ends the run.

    Yields
    ------
    None
        While the hooks are there.
    """
    handles: list[Any] = []
    try:
        for layer in layers:
            for module in (layer.module, *layer.sharing):
                if inputs is not None:
                    handles.append(
                        module.register_forward_pre_hook(
                            _before(layer, inputs), with_kwargs=True
                        )
                    )
                if outputs is not None:
                    handles.append(module.register_forward_hook(_after(layer, outputs)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(layer: Layer, look: Look) -> Callable[..., None]:
    def before(_: Any, args: Any, named: Any) -> None:
        look(layer, args[0] if args else next(iter(named.values())))

    return before


def _after(layer: Layer, look: Look) -> Callable[..., None]:
    def after(_: Any, args: Any, output: Any) -> None:
        del args
        look(layer, output)

    return after
