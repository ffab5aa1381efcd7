"""Networks compiled for what their zeros are worth."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from vitalfew.exceptions import IncompatibleError
from vitalfew.runtime._choices import Choice, choose
from vitalfew.runtime._graph import (
    Call,
    difference,
    drop_unused,
    fresh,
    results,
    simplify,
    trace,
)
from vitalfew.runtime._latency import quickest
from vitalfew.runtime._linear import Precision
from vitalfew.runtime._partition import layers_of, segment

__all__ = ["CompiledModel", "Explanation", "LayerChoice", "compile"]

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1, "int8": 0.3}


@dataclass(frozen=True)
class LayerChoice:
    """What computes a layer of a compiled network.

    Attributes
    ----------
    name : str
        Of the module.
    shape : tuple of int
        Of its weights.
    pattern : str
        Blocks in which zeros lie, as rows x columns of the weights as a matrix.
    density : float
        Part of the weights that is not zero.
    kernel : str
        ``"torch"``, or rows, columns and precision of what is stored.
    before, after : float
        Microseconds of torch's layer and of the kernel by itself, on the example.
    """

    name: str
    shape: tuple[int, ...]
    pattern: str
    density: float
    kernel: str
    before: float
    after: float


@dataclass(frozen=True)
class Explanation:
    """What became of a network.

    Attributes
    ----------
    layers : tuple of LayerChoice
        In the order of the network.
    operators : dict of str to int
        What is left to torch, and how often.
    segments : int
        Calls that replace the others.
    before, after : float
        Microseconds of a call with the example, as given and compiled.
    difference : float
        Largest difference between both results, over the largest result.
    reason : str
        Why only parts of the network could be compiled; empty if all of it was.
    """

    layers: tuple[LayerChoice, ...]
    operators: Mapping[str, int]
    segments: int
    before: float
    after: float
    difference: float
    reason: str = ""

    def __str__(self) -> str:
        head = ("layer", "weights", "zeros in", "density", "kernel", "us", "us now")
        rows = [
            (
                layer.name,
                "x".join(map(str, layer.shape)),
                layer.pattern,
                f"{layer.density:.3f}",
                layer.kernel,
                f"{layer.before:.1f}",
                f"{layer.after:.1f}",
            )
            for layer in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i in (0, 1, 2, 4) else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        ]
        left = ", ".join(f"{n} {name}" for name, n in self.operators.items())
        return "\n".join(
            [
                *lines,
                f"{self.segments} segments; left to torch: {left or 'nothing'}",
                f"{self.before:.1f} us before, {self.after:.1f} us now, results differ "
                f"by {self.difference:.1e} of the largest",
                *([f"compiled by parts: {self.reason}"] if self.reason else []),
            ]
        )


class CompiledModel(torch.nn.Module):
    """A network that is called as the one it was compiled from.

    It computes without gradients, on the CPU and as in evaluation, whatever `train`
    and `torch.autocast` say. Calls may come from several threads.

    Parameters
    ----------
    graph : Module
        The compiled graph, over flat inputs and outputs, or the network with parts of
        it compiled.
    call : Call or None
        How inputs and outputs are structured, for a graph.
    explanation : Explanation
        What `explain` returns.
    dtype : str
        Precision of the linear layers.
    threads : int, optional
        How many are used at most; by default as many as torch uses.
    """

    def __init__(
        self,
        graph: torch.nn.Module,
        call: Call | None,
        explanation: Explanation,
        dtype: Precision,
        threads: int | None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.dtype, self.threads = dtype, threads
        self._call, self._explanation = call, explanation
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns.

        Parameters
        ----------
        *args, **kwargs
            As the example was given.

        Raises
        ------
        ValueError
            If they are not structured or shaped as what was compiled.
        """
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.forward(*args, **kwargs)
        with torch.no_grad():
            if self._call is None:
                return self.graph(*args, **kwargs)
            found = self.graph(*self._call.flatten(args, kwargs))
        return pytree.tree_unflatten(found, self._call.outputs)

    def train(self, mode: bool = True) -> "CompiledModel":
        """Stay in evaluation.

        Parameters
        ----------
        mode : bool
            Is of no matter.
        """
        super().train(False)
        return self

    def explain(self) -> Explanation:
        """Say what computes each layer, and how long it took when it was measured.

        Returns
        -------
        Explanation
            Prints as a table.
        """
        return self._explanation

    def save(self, folder: str | Path) -> None:
        """Write the compiled network, for `load`.

        Parameters
        ----------
        folder : path
            Made if it is not there; files of an earlier network are replaced.

        Raises
        ------
        IncompatibleError
            If the network holds what cannot be written without pickle.
        """
        from vitalfew.runtime._files import save

        save(self, Path(folder))


def compile(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    dtype: Precision = "float32",
    threads: int | None = None,
    dense_below: float | Literal["auto"] = "auto",
) -> CompiledModel:
    """Compile a pruned network so that its zeros save time, on the CPU.

    The network is traced by `torch.export`, or where that fails those parts of it that
    can be, batch norms are folded, and linear layers
    and convolutions become products with the blocks that are not zero wherever that
    is quicker than torch on the example. What follows them - activations, residual
    sums, pooling - runs in the same call; anything else is left to torch.

    Parameters
    ----------
    model : Module
        In single precision; it is not changed. It is compiled as in evaluation.
    example_inputs : tensor, tuple or dict
        What the network is called with: one tensor, positional or keyword arguments.
        Its sizes are those that kernels are chosen for; others may be given later.
    dtype : {"float32", "bfloat16", "int8"}, default="float32"
        Precision of products in linear layers; all else stays single.
    threads : int, optional
        How many are used at most; by default as many as torch uses.
    dense_below : float or "auto", default="auto"
        Layers with a smaller part of zeros are left to torch, all others are not;
        by default each layer takes what is quicker.

    Returns
    -------
    CompiledModel
        Whose `explain` says what was done.

    Raises
    ------
    ValueError
        If an argument is out of its range, the network is not in single precision, or
        the compiled one would compute something else.

    Notes
    -----
    Takes about the time of tracing and of some ten runs of each layer.

    Examples
    --------
    >>> import torch
    >>> from vitalfew.runtime import compile
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> model[0].weight.data[:, 8:] = 0
    >>> fast = compile(model, torch.ones(1, 64))
    >>> torch.allclose(fast(torch.ones(3, 64)), model(torch.ones(3, 64)), atol=1e-5)
    True
    """
    if dtype not in TOLERANCES:
        raise ValueError(f"dtype must be one of {sorted(TOLERANCES)}, got {dtype!r}")
    thread_count(threads)
    if dense_below != "auto" and not 0 <= dense_below <= 1:
        raise ValueError(
            f"dense_below must be in [0, 1] or 'auto', got {dense_below!r}"
        )
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if kinds and torch.float32 not in kinds:
        found = ", ".join(sorted(map(str, kinds)))
        raise ValueError(
            f"model must be in single precision, got {found}: give model.float()"
        )
    args, kwargs = fresh(example_call(example_inputs))
    model = copy.deepcopy(model).cpu().eval()
    asked = _Asked(dtype, dense_below, threads)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            fast = _whole(model, args, kwargs, asked)
        except IncompatibleError as error:
            fast = _by_parts(model, args, kwargs, asked, str(error))
    told = fast.explain()
    if not told.difference <= TOLERANCES[dtype]:
        raise ValueError(
            "model must compute the same when it is compiled, but results differ by "
            f"{told.difference:.1e} of the largest: give a sparser layer more "
            "precision with dtype, or report it for float32"
        )
    return fast


@dataclass(frozen=True)
class _Asked:
    """What the user wants."""

    dtype: Precision
    dense_below: float | Literal["auto"]
    threads: int | None


def _whole(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    asked: _Asked,
) -> CompiledModel:
    """Compile a network that can be traced from its inputs to its outputs."""
    threads = thread_count(asked.threads)
    graph, call = trace(model, args, kwargs)
    simplify(graph)
    leaves = call.flatten(args, kwargs)
    _Shapes(graph).run(*leaves)
    choices = {
        node: choose(layer, asked.dtype, asked.dense_below, threads())
        for node, layer in layers_of(graph).items()
    }
    forms = [_formed(graph, choices, threads)]
    own = {node: choice.without_torch() for node, choice in choices.items()}
    if own != choices and asked.dense_below == "auto":
        forms.append(_formed(graph, own, threads))
    calls = {str(i): _bound(form, leaves) for i, form in enumerate(forms)}
    calls["before"] = lambda: model(*args, **kwargs)
    most = max(threads(), torch.get_num_threads())
    seconds = quickest(calls, most)
    best = min(forms, key=lambda form: seconds[str(forms.index(form))])
    for node in best.graph.graph.nodes:
        node.meta = {}  # which holds the network as it was traced
    explanation = Explanation(
        tuple(map(_told, best.choices)),
        _left(best.graph),
        best.segments,
        1e6 * seconds["before"],
        1e6 * seconds[str(forms.index(best))],
        difference(list(best.graph(*leaves)), results(model, args, kwargs)),
    )
    return CompiledModel(best.graph, call, explanation, asked.dtype, asked.threads)


def _by_parts(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    asked: _Asked,
    reason: str,
) -> CompiledModel:
    """Compile what can be traced of a network that cannot, in its place."""
    wanted = results(model, args, kwargs)
    most = max(thread_count(asked.threads)(), torch.get_num_threads())
    timed, by_name = fresh((args, kwargs))  # which the network may change
    before = quickest({"before": lambda: model(*timed, **by_name)}, most)["before"]
    calls = _calls(model, *fresh((args, kwargs)))
    parts: list[tuple[str, Explanation]] = []

    def visit(module: torch.nn.Module, prefix: str) -> None:
        for name, child in list(module.named_children()):
            given = calls.get(child, ())
            if given and all(map(_is_plain, given)):
                try:
                    part = _whole(child, given[0][0], {}, asked)
                except IncompatibleError:
                    visit(child, f"{prefix}{name}.")
                    continue
                if not part.explain().segments:
                    continue
                setattr(module, name, part)
                try:
                    results(model, args, kwargs)
                except Exception:  # the network wants more of it than a call, or others
                    setattr(module, name, child)
                else:
                    parts.append((f"{prefix}{name}", part.explain()))
                    continue
            visit(child, f"{prefix}{name}.")

    visit(model, "")
    after = quickest({"after": lambda: model(*timed, **by_name)}, most)["after"]
    explanation = Explanation(
        tuple(
            replace(layer, name=f"{name}.{layer.name}".rstrip("."))
            for name, part in parts
            for layer in part.layers
        ),
        {"the network's own code": 1},
        sum(part.segments for _, part in parts),
        1e6 * before,
        1e6 * after,
        difference(results(model, args, kwargs), wanted),
        reason,
    )
    return CompiledModel(model, None, explanation, asked.dtype, asked.threads)


def _calls(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[torch.nn.Module, list[tuple[Any, Any]]]:
    """Return what each module was called with while the network ran once."""
    found: dict[torch.nn.Module, list[tuple[Any, Any]]] = {}

    def note(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        found.setdefault(module, []).append((args, kwargs))

    hooks = [
        m.register_forward_pre_hook(note, with_kwargs=True) for m in model.modules()
    ]
    try:
        model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_plain(call: tuple[Any, Any]) -> bool:
    args, kwargs = call
    return not kwargs and all(isinstance(a, torch.Tensor) for a in args)


@dataclass(frozen=True, eq=False)
class _Form:
    """A graph with its segments, and what was chosen for its layers."""

    graph: GraphModule
    choices: tuple[Choice, ...]
    segments: int


def _formed(
    module: GraphModule, choices: Mapping[Node, Choice], threads: Callable[[], int]
) -> _Form:
    """Return a copy of a graph with segments, on the same weights."""
    graph, copies = Graph(), dict[Node, Node]()
    output = graph.graph_copy(module.graph, copies)
    graph.output(output)
    for node, twin in copies.items():
        twin.meta = node.meta
    form = GraphModule(module, graph)
    calls = segment(form, {copies[n]: c for n, c in choices.items()}, threads)
    drop_unused(form)
    form.recompile()
    return _Form(form, tuple(choices.values()), len(calls))


def _bound(form: _Form, leaves: list[Any]) -> Callable[[], Any]:
    return lambda: form.graph(*leaves)


def example_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that an example of inputs stands for.

    Parameters
    ----------
    example : tensor, tuple or mapping
        One argument, several, or arguments by name.
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def thread_count(threads: int | None) -> Callable[[], int]:
    """Return what says how many threads a call may use.

    Parameters
    ----------
    threads : int or None
        A fixed number, or as many as torch uses.

    Raises
    ------
    ValueError
        If it is not positive.
    """
    if threads is None:
        return torch.get_num_threads
    if not isinstance(threads, int) or not 1 <= threads < 2**31:
        raise ValueError(f"threads must be at least 1, got {threads!r}")
    return _Constant(threads)


@dataclass(frozen=True)
class _Constant:
    threads: int

    def __call__(self) -> int:
        return self.threads


class _Shapes(Interpreter):
    """Runs a graph and notes the shape of each value."""

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, torch.Tensor):
            node.meta["example"] = tuple(value.shape)
        return value


def _told(choice: Choice) -> LayerChoice:
    layer = choice.layer
    return LayerChoice(
        layer.name,
        tuple(layer.weight.shape),
        "x".join(map(str, choice.pattern)) if choice.density < 1 else "none",
        choice.density,
        choice.kernel,
        1e6 * choice.before,
        1e6 * choice.after,
    )


def _left(graph: GraphModule) -> dict[str, int]:
    """Count the operators that torch computes."""
    found: dict[str, int] = {}
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            name = node.target.name().removeprefix("aten::").split(".")[0]
            found[name] = found.get(name, 0) + 1
    return found
