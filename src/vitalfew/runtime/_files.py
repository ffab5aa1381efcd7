"""Compiled networks in files: one of tensors, one that says what is done with them.

``compiled.json`` holds the graph as a list of calls of ATen operators and segments,
``compiled.safetensors`` the tensors and the stored runs of the matrices. Nothing in
them is executed but operators without side effects, and all is checked when read.
"""

import json
import math
import operator
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from vitalfew._disk import write_together
from vitalfew.exceptions import DataError, IncompatibleError
from vitalfew.runtime._graph import FORMULAS, Call, Condition, Shape
from vitalfew.runtime._linear import SparseLinear
from vitalfew.runtime._model import (
    CompiledModel,
    Explanation,
    LayerChoice,
    thread_count,
)
from vitalfew.runtime._operator import SegmentModule
from vitalfew.runtime._segments import Segment
from vitalfew.runtime._steps import Add, Mean, Pool, Product

__all__ = ["load", "save"]

FORMAT, VERSION = "vitalfew.compiled", 1
GRAPH, TENSORS = "compiled.json", "compiled.safetensors"
STEPS: dict[str, Any] = {s.__name__.lower(): s for s in (Add, Mean, Pool, Product)}
KINDS = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
TYPES = ("ScalarType", "Layout", "MemoryFormat", "Device")  # as schemas name them
FUNCTIONS = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow"),
            *("getitem", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("sym_max", "sym_min", "sym_not", "sym_int", "sym_float", "sym_ite")
    },
}
FACTORIES = (
    *("arange", "empty", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"),
)
# operators for torch's own use trust their arguments; these of them do not
PRIVATE = {
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_log_softmax", "_safe_softmax"),
    *("_softmax", "_to_copy", "_unsafe_index", "_unsafe_view"),
    *("__and__", "__or__", "__xor__"),
}
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
CONTAINERS = (
    *("builtins.tuple", "builtins.list", "builtins.dict"),
    "collections.OrderedDict",
)
OUTPUTS = "transformers.modeling_outputs"
PARTS = ("starts", "columns", "values", "bias", "scales")


def save(model: CompiledModel, folder: Path) -> None:
    """Write a compiled network.

    Parameters
    ----------
    model : CompiledModel
        From `compile` or `load`.
    folder : Path
        Made if it is not there.

    Raises
    ------
    IncompatibleError
        If it holds what cannot be written.
    OSError
        If the folder cannot be written.
    """
    graph, call = model.graph, model._call
    if call is None or not isinstance(graph, GraphModule):
        raise IncompatibleError(
            f"only a network that is compiled as a whole can be written: "
            f"{model.explain().reason}"
        )
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}
    nodes = []
    for node in graph.graph.nodes:
        entry: dict[str, Any] = {"name": node.name, "op": node.op}
        if node.op == "get_attr":
            tensor = cast(torch.Tensor, _held(graph, str(node.target)))
            name = names.setdefault(id(tensor), f"tensor_{len(names)}")
            tensors[name] = tensor.detach().contiguous()
            entry["target"] = name
        elif node.op == "call_module":
            entry["target"] = node.target
        elif node.op == "call_function":
            entry["target"] = _function_name(node)
        if node.op not in ("placeholder", "get_attr"):
            entry["args"] = [_written(a) for a in node.args]
            entry["kwargs"] = {k: _written(v) for k, v in node.kwargs.items()}
        nodes.append(entry)
    segments = {}
    for name, module in graph.named_children():
        if isinstance(module, SegmentModule):
            segments[name] = _segment(name, module.segment, tensors)
    mark = secrets.token_hex(8)
    try:
        content = json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "mark": mark,
                "dtype": model.dtype,
                "threads": model.threads,
                "names": call.names,
                "inputs": _dumped(call.inputs),
                "outputs": _dumped(call.outputs),
                "leaves": [
                    {
                        "shape": leaf.lengths,
                        "dtype": str(leaf.dtype).removeprefix("torch."),
                    }
                    if isinstance(leaf, Shape)
                    else {"value": leaf}
                    for leaf in call.leaves
                ],
                "conditions": [asdict(c) for c in call.conditions],
                "nodes": nodes,
                "segments": segments,
                "explanation": asdict(model.explain()),
            }
        )
    except (TypeError, NotImplementedError, ValueError) as error:
        raise IncompatibleError(
            f"the network's call cannot be written: {error}"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    data = to_bytes(_unshared(tensors), {"mark": mark})
    write_together({folder / TENSORS: data, folder / GRAPH: content})


def _dumped(spec: Any) -> Any:
    held = json.loads(pytree.treespec_dumps(spec))
    _spec(held)  # which refuses what could not be read
    return held


def _held(module: GraphModule, target: str) -> Any:
    found: Any = module
    for name in target.split("."):
        found = getattr(found, name)
    return found


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that lie in memory of others, which the format does not hold."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        at = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if at in seen else tensor
        seen.add(at)
    return found


def _function_name(node: Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
        if _allowed(target):
            return name
        raise IncompatibleError(f"operator {name} cannot be written")
    for name, function in FUNCTIONS.items():
        if function is target:
            return name
    raise IncompatibleError(f"operator {target} cannot be written")


def _allowed(target: Any) -> bool:
    """Say whether an operator computes a value and does nothing else."""
    schema = target._schema
    name = schema.name.removeprefix("aten::")
    if target.namespace != "aten" or schema.is_mutable:
        return False
    if name.startswith("_") and name not in PRIVATE:
        return False
    if "backward" in name or name.startswith("native_batch_norm"):
        return False
    if any("Tensor" in str(a.type) for a in schema.arguments):
        return True
    return name in FACTORIES


def _written(value: Any) -> Any:
    """Return an argument as JSON holds it."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_written(v) for v in value]
    if isinstance(value, slice):
        return {"slice": [_written(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, known in KINDS.items():
        if isinstance(value, known):
            return {kind: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise IncompatibleError(f"an argument of type {type(value)} cannot be written")


def _segment(
    name: str, segment: Segment, tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    matrices = []
    for i, matrix in enumerate(segment.matrices):
        arrays = matrix.arrays()
        for part, array in arrays.items():
            tensors[f"{name}.{i}.{part}"] = torch.from_numpy(array)
        matrices.append(
            {
                "shape": [matrix.n_out, matrix.n_in],
                "activation": matrix.activation,
                "precision": matrix.precision,
                "parts": list(arrays),
            }
        )
    return {
        "kind": segment.kind,
        "channels": segment.channels,
        "matrices": matrices,
        "steps": [[type(s).__name__.lower(), s._asdict()] for s in segment.steps],
        "outputs": segment.outputs,
        "flat": segment.flat,
    }


def load(folder: str | Path, *, threads: int | None = None) -> CompiledModel:
    """Read a compiled network.

    Parameters
    ----------
    folder : path
        That `CompiledModel.save` wrote.
    threads : int, optional
        How many are used at most; by default what it was compiled for.

    Returns
    -------
    CompiledModel
        That computes what the one that was saved computes.

    Raises
    ------
    DataError
        If the files are damaged, do not belong together or hold what is not allowed.
    FileNotFoundError
        If there are none.
    ValueError
        If `threads` is not positive.

    Notes
    -----
    Kernels stay as they were chosen on the machine that compiled. Files from others may
    be read: nothing but operators without side effects is executed.
    """
    if threads is not None:
        thread_count(threads)  # which refuses others
    folder = Path(folder)
    text = (folder / GRAPH).read_text(encoding="utf-8")
    try:
        recipe = json.loads(text)
        if recipe["format"] != FORMAT or recipe["version"] != VERSION:
            raise DataError(
                f"{folder / GRAPH} must be of version {VERSION}: compile again"
            )
        with safe_open(folder / TENSORS, "pt") as file:
            if (file.metadata() or {}).get("mark") != recipe["mark"]:
                raise DataError(f"the files in {folder} do not belong together")
            return _built(recipe, file, threads)
    except (FileNotFoundError, DataError):
        raise
    except (
        *(SafetensorError, KeyError, ValueError, TypeError, AttributeError),
        *(IndexError, RuntimeError, OverflowError, AssertionError, SyntaxError),
        *(ImportError, MemoryError, ZeroDivisionError),
    ) as error:
        raise DataError(
            f"{folder} holds no compiled network: {type(error).__name__}: {error}"
        ) from error


def _built(recipe: Any, file: Any, threads: int | None) -> CompiledModel:
    threads = recipe["threads"] if threads is None else threads
    count = thread_count(threads)
    root = torch.nn.Module()
    for name, told in recipe["segments"].items():
        _check_name(name)
        root.add_module(name, SegmentModule(_read_segment(name, told, file), count))
    graph = Graph()
    values: dict[str, Node] = {}
    held: set[str] = set()
    for entry in recipe["nodes"]:
        name, op = entry["name"], entry["op"]
        _check_name(name)
        if op == "placeholder":
            values[name] = graph.placeholder(name)
            continue
        if op == "get_attr":
            target = entry["target"]
            _check_name(target)
            if target not in held:
                held.add(target)
                root.register_buffer(target, file.get_tensor(target))
            values[name] = graph.get_attr(target)
            continue
        args = tuple(_read(a, values) for a in entry["args"])
        for key in entry["kwargs"]:
            _check_name(key)
        kwargs = {k: _read(v, values) for k, v in entry["kwargs"].items()}
        if op == "output":
            graph.output(args[0])
        elif op == "call_module":
            if entry["target"] not in recipe["segments"]:
                raise ValueError(f"{entry['target']!r} is no segment")
            values[name] = graph.call_module(entry["target"], args, kwargs)
        else:
            function = _function(entry["target"])
            _check_kinds(function, args, kwargs)
            values[name] = graph.call_function(function, args, kwargs)
    graph.lint()
    call = Call(
        tuple(map(str, recipe["names"])),
        _spec(recipe["inputs"]),
        _spec(recipe["outputs"]),
        tuple(
            _shape(leaf) if "shape" in leaf else leaf["value"]
            for leaf in recipe["leaves"]
        ),
        tuple(
            Condition(str(c["text"]), _formula(c["formula"]))
            for c in recipe["conditions"]
        ),
    )
    explained = recipe["explanation"]
    layers = tuple(
        LayerChoice(**{**layer, "shape": tuple(layer["shape"])})
        for layer in explained["layers"]
    )
    return CompiledModel(
        GraphModule(root, graph),
        call,
        Explanation(**{**explained, "layers": layers}),
        recipe["dtype"],
        threads,
    )


def _shape(held: Any) -> Shape:
    lengths = tuple(held["shape"])
    if not all(isinstance(n, (int, str)) for n in lengths):
        raise ValueError(f"{lengths!r} is no shape")
    return Shape(lengths, _read({"dtype": held["dtype"]}, {}))


def _formula(held: Any) -> Any:
    if isinstance(held, (int, str)):
        return held
    if not isinstance(held, list) or held[0] not in FORMULAS:
        raise ValueError(f"{held!r} is no condition")
    return [held[0], *map(_formula, held[1:])]


def _check_name(name: Any) -> None:
    """Names become part of a program: nothing but an identifier will do."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name")


def _function(name: Any) -> Any:
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    space, operation, overload = name.split(".")
    if space != "aten" or not NAME.fullmatch(operation) or not NAME.fullmatch(overload):
        raise ValueError(f"{name!r} is no operator")
    found = getattr(getattr(torch.ops.aten, operation), overload)
    if not isinstance(found, torch._ops.OpOverload) or not _allowed(found):
        raise ValueError(f"{name!r} is not allowed")
    return found


def _check_kinds(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Refuse others for what has a type of its own: torch takes numbers unchecked."""
    if not isinstance(function, torch._ops.OpOverload):
        return
    arguments = function._schema.arguments
    given = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
    for argument in arguments:
        value = given.get(argument.name)
        if isinstance(value, (*KINDS.values(), torch.device, type(None))):
            continue
        if any(kind in str(argument.real_type) for kind in TYPES):
            raise ValueError(f"{value!r} is no {argument.name}")


def _read(value: Any, values: dict[str, Node]) -> Any:
    if isinstance(value, list):
        return [_read(v, values) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "node":
        return values[held]
    if kind == "slice":
        return slice(*(_read(v, values) for v in held))
    if kind == "device":
        return torch.device(held)
    found = getattr(torch, held)
    if not isinstance(found, KINDS[kind]):
        raise ValueError(f"{held!r} is no {kind}")
    return found


def _spec(held: Any) -> Any:
    """Return a structure of inputs or outputs: Python's types, or transformers'."""
    _, schema = held
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        known = part["type"] is None or part["type"] in CONTAINERS
        outputs = str(part["type"]).startswith(OUTPUTS + ".")
        if not (known or outputs) or "__enum__" in str(part["context"]):
            raise ValueError(f"{part['type']!r} is no structure that is known")
        if outputs:
            import_module(OUTPUTS)
        waiting += part["children_spec"]
    return pytree.treespec_loads(json.dumps(held))


def _read_segment(name: str, held: Any, file: Any) -> Segment:
    matrices = []
    for i, told in enumerate(held["matrices"]):
        arrays = {
            part: file.get_tensor(f"{name}.{i}.{part}").numpy()
            for part in PARTS
            if part in told["parts"]
        }
        n_out, n_in = told["shape"]
        matrices.append(
            SparseLinear.of(
                arrays,
                (int(n_out), int(n_in)),
                activation=told["activation"],
                precision=told["precision"],
            )
        )
    steps = tuple(STEPS[kind](**_pairs(values)) for kind, values in held["steps"])
    return Segment(
        held["kind"],
        tuple(map(int, held["channels"])),
        tuple(matrices),
        steps,
        tuple(map(int, held["outputs"])),
        tuple(map(bool, held["flat"])),
    )


def _pairs(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
