"""Models on disk: safetensors in which zeros take no room, and a recipe in JSON.

A folder holds `packed.safetensors` and `recipe.json`. A tensor with many zeros is
stored as two, ``<name>.bits`` and ``<name>.values`` (`vitalfew.packed`), every other
one as it is. The recipe has what the class of the model does not know: shapes, tied
tensors, and attributes of modules that compaction changed. Nothing is pickled.

Where no tensor is packed the file is `model.safetensors`, under the usual names. What
transformers' `from_pretrained` reads is written by `save(..., dense=True)`; a packed
folder is read by `load` alone, and `from_pretrained` says that it finds no weights.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import vitalfew
from vitalfew.exceptions import DataError
from vitalfew.neural import prunable_layers
from vitalfew.neural.layers import TransposedConvLayer, TransposedLinearLayer
from vitalfew.packed import Packed, best_block, pack
from vitalfew.pruning import _hf
from vitalfew.pruning._folder import whole
from vitalfew.pruning._recipe import (
    NAME,
    Attribute,
    Attributes,
    Entry,
    Recipe,
    is_attribute,
    read_text,
)

__all__ = ["load", "read", "read_tokenizer", "save"]

OVERHEAD = 256  # bytes that one more tensor takes in the header and in the recipe
MOST_EXPANSION = 4096  # how often the file a model of transformers may be in memory

_DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("bool", "complex64"),
    )
}
_PACKED = ("float64", "float32", "float16", "bfloat16")

# attributes that modules of torch and transformers keep beside the shapes of tensors
_SHAPE_ATTRIBUTES = (
    *("in_features", "out_features", "in1_features", "in2_features"),
    *("in_channels", "out_channels", "groups", "num_features", "normalized_shape"),
    *("num_groups", "num_channels", "num_embeddings", "embedding_dim"),
    *("num_parameters", "input_size", "hidden_size", "nf", "nx", "embed_dim", "kdim"),
    *("vdim", "num_heads", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("num_key_value_groups", "attention_head_size", "all_head_size", "split_size"),
)


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    report: Any = None,
    tokenizer: Any = None,
    dense: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a model to a folder; zeros of its weights take no room.

    Parameters
    ----------
    model : Module
        Any, on any device; it stays as it is. A model of transformers gets its
        configuration beside it.
    folder : path
        New, empty, or what an earlier `save` wrote.
    report : PruneReport or mapping, optional
        How it was pruned; kept in `recipe.json` for people to read.
    tokenizer : PreTrainedTokenizerBase, optional
        Written beside a model of transformers.
    dense : bool
        Store the zeros as well: an ordinary safetensors file, and for a model of
        transformers a folder that `from_pretrained` reads.
    overwrite : bool
        Replace what an earlier `save` wrote to this folder; other files in it stay.

    Raises
    ------
    ValueError
        If the folder may not be written to, or the model holds what cannot be stored:
        tensors without values, of unknown types or layouts, state that is no tensor, or
        gates of a `Pruner` that was not finalized.
    OSError
        If the disk refuses; the folder is then as it was before.

    See Also
    --------
    load : The way back.

    Notes
    -----
    The files are written into a folder beside, which takes the place of `folder` once
    it is complete: a killed process leaves no half-written one. Every bit of every
    tensor comes back, but for minus zeros in blocks of zeros, which lose their sign. A
    parameter that is registered in several places is stored once and shared again;
    tensors that share memory in other ways are stored one by one. Buffers that are not
    persistent are stored too, for compaction may have changed them.
    """
    folder = Path(folder)
    _check_finalized(model)
    plain_report, named = _plain(report), _named_tensors(model)
    ordinary = dense and _hf.is_pretrained(model)
    tensors: dict[str, Tensor] = {}
    recipe = Recipe(version=vitalfew.__version__, ordinary=ordinary)
    if not ordinary:
        recipe, tensors = _stored(model, named, dense)
    with whole(folder, overwrite) as new:
        if ordinary:
            _hf.write_ordinary(model, new)
        else:
            try:
                save_file(tensors, new / recipe.weights, metadata={"format": "pt"})
            except SafetensorError as error:  # of a full disk, say
                raise OSError(f"{folder}: {error}") from error
            if _hf.is_pretrained(model):
                _hf.write_config(model, new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        files = tuple(sorted(path.name for path in new.iterdir()))
        recipe = replace(recipe, files=files, report=plain_report)
        (new / NAME).write_text(recipe.to_json(), encoding="utf-8")


def _check_finalized(model: nn.Module) -> None:
    from vitalfew.pruning.training._gate import Gate

    if any(isinstance(module, Gate) for module in model.modules()):
        raise ValueError(
            "the model is still being pruned while it trains: call Pruner.finalize "
            "first, or save the state dicts of the model and the Pruner to go on later"
        )


def load(
    folder: str | os.PathLike[str], build: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Read a model that `save` wrote.

    Parameters
    ----------
    folder : path
        What `save` was given.
    build : callable, optional
        Returns a model of the original class in its original shapes, whose weights do
        not matter; they may be on the meta device. A model of transformers needs none:
        its class is found by name in transformers, and code in the folder is not run.

    Returns
    -------
    Module
        What `build` returned with the tensors of the folder, on the same device and in
        the same mode; a model of transformers on the CPU and in evaluation mode.

    Raises
    ------
    DataError
        If the files are damaged, or do not fit the model.
    ValueError
        If `build` is missing and needed, or returns no model.
    MissingDependencyError
        If the model is one of transformers and this is not installed.

    See Also
    --------
    save : Writes the folder.

    Notes
    -----
    A file is not trusted: no tensor becomes larger than the model that is built, and
    a recipe can only change positive integers that modules already have. A model that
    was built with more memory than its file explains is refused. The state of random
    number generators stays as it was.
    """
    folder = Path(folder)
    recipe = _recipe(folder)
    if build is None and recipe.ordinary:
        pretrained: nn.Module = _hf.read(folder)
        return pretrained
    if recipe.ordinary:
        raise ValueError(
            f"build must be None for {str(folder)!r}, which is a from_pretrained folder"
        )
    try:
        n_bytes = (folder / recipe.weights).stat().st_size
        with safe_open(folder / recipe.weights, framework="pt") as file:
            _check_names(recipe, set(file.keys()))
            model = _built(folder, build, n_bytes)
            _fill(model, recipe, file)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{recipe.weights} in {str(folder)!r} cannot be read: {error}"
        ) from error
    return model


def read(folder: str | os.PathLike[str]) -> Any:
    """Load a model of transformers from its folder, safely.

    Parameters
    ----------
    folder : path
        What `save` or transformers' own `save_pretrained` wrote.

    Returns
    -------
    PreTrainedModel
        On the CPU, in evaluation mode, in the type its weights are stored in.

    Raises
    ------
    DataError
        If there is no such model, its weights are pickled, or some are missing.
    MissingDependencyError
        If transformers is not installed.

    Notes
    -----
    Nothing is fetched and no code in the folder is run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder")
    if (folder / NAME).is_file():
        return load(folder)
    return _hf.read(folder)


def read_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Load the tokenizer that lies beside a model of transformers.

    Parameters
    ----------
    folder : path
        With the tokenizer's files.

    Returns
    -------
    PreTrainedTokenizerBase or None
        None where there are no such files.

    Raises
    ------
    DataError
        If the files cannot be used.
    """
    return _hf.read_tokenizer(Path(folder))


# -- writing ---------------------------------------------------------------------------


def _stored(
    model: nn.Module, named: dict[str, tuple[str, Tensor]], dense: bool
) -> tuple[Recipe, dict[str, Tensor]]:
    """Return the recipe of a model, and the tensors that go to the file."""
    columns = {
        id(layer.parameter)
        for layer in prunable_layers(model)[0]
        if isinstance(layer, TransposedLinearLayer | TransposedConvLayer)
    }
    first: dict[int, str] = {}
    entries: dict[str, Entry] = {}
    tied: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, (kind, tensor) in named.items():
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        value = tensor.detach()
        dtype = str(tensor.dtype).removeprefix("torch.")
        axis = int(id(tensor) in columns)
        packed = None if dense or value.ndim < 2 else _packed(value, dtype, axis)
        if packed is None:
            tensors[name] = value.cpu().contiguous().clone()
        else:
            tensors[f"{name}.bits"] = torch.from_numpy(packed.bits)
            tensors[f"{name}.values"] = _as_tensor(packed.values, dtype)
        entries[name] = Entry(
            kind=kind,
            shape=tuple(tensor.shape),
            dtype=dtype,
            block=packed.block if packed else None,
            axis=axis if packed else 0,
        )
    recipe = Recipe(
        version=vitalfew.__version__,
        tensors=entries,
        tied=tied,
        attributes=_attributes(model),
    )
    return recipe, tensors


def _named_tensors(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Return kind and tensor of every name, checked to be storable."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"model must not be scripted, but {name!r} is; save what it was made of"
            )
    derived = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    found: dict[str, tuple[str, Tensor]] = {
        name: ("parameter", p)
        for name, p in model.named_parameters(remove_duplicate=False)
    }
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found[name] = ("derived" if name in derived else "buffer", buffer)
    for name, (_, tensor) in found.items():
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise ValueError(
                f"model must be initialised, but {name!r} is not; run it once"
            )
        if tensor.is_meta:
            raise ValueError(f"model must have values, but {name!r} is on meta")
        plain = type(tensor.detach()) is Tensor and tensor.layout is torch.strided
        if not plain or tensor.dtype not in _DTYPES.values():
            raise ValueError(
                f"model must hold plain dense tensors, but {name!r} is a "
                f"{type(tensor).__name__} of {tensor.dtype} and {tensor.layout}"
            )
    lost = set(model.state_dict()) - set(found)
    if lost:
        raise ValueError(
            "model must keep its state in parameters and buffers, but these are none: "
            f"{_some(lost)}"
        )
    return found


def _packed(value: Tensor, dtype: str, axis: int) -> Packed | None:
    """Return the packed form of a tensor where it is the smaller one."""
    if dtype not in _PACKED or value.numel() == 0:
        return None
    matrix = value.movedim(axis, 0).reshape(value.shape[axis], -1).cpu().contiguous()
    name = dtype if dtype == "bfloat16" else None
    array = matrix.view(torch.uint16).numpy() if name else matrix.numpy()
    most = matrix.nbytes - OVERHEAD
    if int(torch.count_nonzero(matrix)) * matrix.itemsize > most:
        return None
    packed = pack(array, best_block(array, dtype=name), dtype=name)
    return packed if packed.nbytes <= most else None


def bytes_in_a_file(matrix: Tensor) -> int:
    """Return what `save` makes of a weight matrix, in bytes."""
    packed = _packed(matrix, str(matrix.dtype).removeprefix("torch."), 0)
    return matrix.numel() * matrix.element_size() if packed is None else packed.nbytes


def _as_tensor(values: NDArray[Any], dtype: str) -> Tensor:
    """View values of the packed form as a tensor of their type."""
    return torch.from_numpy(np.ascontiguousarray(values)).view(_DTYPES[dtype])


def _attributes(model: nn.Module) -> Attributes:
    """Return the attributes that go with shapes, and those that compaction changed."""
    changed: Attributes = getattr(model, "_vitalfew_attributes", {})
    found: Attributes = {}
    for prefix, module in model.named_modules():
        own = {
            name: _tuple(value)
            for name, value in vars(module).items()
            if name in _SHAPE_ATTRIBUTES and is_attribute(name, _tuple(value))
        }
        own |= {name: _tuple(value) for name, value in changed.get(prefix, {}).items()}
        for name, value in own.items():
            if not is_attribute(name, value):
                raise ValueError(
                    f"attribute {name!r} of module {prefix!r} must have a public name "
                    f"and positive integers below 2^31, got {value!r}"
                )
        if own:
            found[prefix] = own
    return found


def _tuple(value: Any) -> Any:
    """Return a `torch.Size`, or any other kind of tuple, as a plain one."""
    return tuple(value) if isinstance(value, tuple) else value


def _plain(report: Any) -> Any:
    """Return a report as JSON has it, with null for what is not finite."""
    record = report.to_record() if hasattr(report, "to_record") else report
    return json.loads(json.dumps(record), parse_constant=lambda _: None)


# -- reading ---------------------------------------------------------------------------


def _recipe(folder: Path) -> Recipe:
    return Recipe.from_json(read_text(folder / NAME, "that save wrote"))


def _check_names(recipe: Recipe, there: set[str]) -> None:
    wanted = set()
    for name, entry in recipe.tensors.items():
        packed = entry.block is not None
        wanted |= {f"{name}.bits", f"{name}.values"} if packed else {name}
    if there != wanted:
        raise DataError(
            f"{recipe.weights} and {NAME} do not belong together: "
            f"{_some(there ^ wanted)} stand in one of them only"
        )


def _built(
    folder: Path, build: Callable[[], nn.Module] | None, n_bytes: int
) -> nn.Module:
    if build is None and not (folder / _hf.CONFIG).is_file():
        raise ValueError(
            f"build must be given for {str(folder)!r}: a function that returns a model "
            "of the original class in its original shapes"
        )
    with _hf.random_state_kept():
        model = build() if build else _hf.build(folder, MOST_EXPANSION * n_bytes)
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"build must return a Module of Python, got {type(model).__name__}"
        )
    return model


def _fill(model: nn.Module, recipe: Recipe, file: Any) -> None:
    """Give a model the tensors of a file, and the attributes that go with them."""
    places = dict(_places(model))
    names = {*recipe.tensors, *recipe.tied}
    derived = {n for n, e in recipe.tensors.items() if e.kind == "derived"}
    derived |= {n for n, owner in recipe.tied.items() if owner in derived}
    missing = {
        name
        for name, (module, own, kind) in places.items()
        if kind != "derived" and _held(module, own) is not None
    } - names
    unknown = names - derived - set(places)
    if missing or unknown:
        why = f"it has no {_some(unknown)}" if unknown else f"{_some(missing)} are new"
        raise DataError(f"the model that was built is not the one saved here: {why}")
    claimed: set[int] = set()
    for name, entry in recipe.tensors.items():
        if name in places:  # a derived buffer may be one of an older class
            _check_place(name, entry, *places[name])
            _put(*places[name], _value(name, entry, file), claimed)
    for name, owner in recipe.tied.items():
        if name in places and owner in places:
            module, own, kind = places[name]
            _check_place(name, recipe.tensors[owner], module, own, kind)
            shared = _held(*places[owner][:2])
            holder = module._parameters if kind == "parameter" else module._buffers
            if holder[own] is not shared:
                _set(module, own, kind, shared)
    _set_attributes(model, recipe.attributes)


def _places(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str, str]]]:
    """Yield where tensors are held or may be: name, module, name there, kind."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for own in (*module._parameters, *module._buffers):
            kind = "parameter" if own in module._parameters else "buffer"
            if own in module._non_persistent_buffers_set:
                kind = "derived"
            yield f"{prefix}.{own}" if prefix else own, (module, own, kind)


def _held(module: nn.Module, own: str) -> Any:
    return module._parameters.get(own, module._buffers.get(own))


def _check_place(
    name: str, entry: Entry, module: nn.Module, own: str, kind: str
) -> None:
    """Raise unless a tensor may stand where the built model has one."""
    held = _held(module, own)
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None or (entry.block is not None and entry.dtype not in _PACKED):
        raise DataError(f"{NAME} gives {name!r} an unknown type {entry.dtype[:40]!r}")
    if (entry.kind == "parameter") != (kind == "parameter"):
        raise DataError(f"{name!r} is a {kind} of the model, but saved as {entry.kind}")
    if held is None:  # a bias, say, that compaction made
        most = max((p.numel() for p in module.parameters(recurse=False)), default=0)
        fits = np.prod(entry.shape, dtype=object) <= most
        same_kind = dtype.is_floating_point
    else:
        fits = len(entry.shape) == held.ndim and all(
            new <= old for new, old in zip(entry.shape, held.shape, strict=True)
        )
        same_kind = held.dtype == dtype or (
            held.dtype.is_floating_point and dtype.is_floating_point
        )
    if not fits or not same_kind:
        had = "nothing" if held is None else f"{tuple(held.shape)} of {held.dtype}"
        raise DataError(
            f"{name!r} was saved as {entry.shape} of {entry.dtype}, where the model "
            f"that was built has {had}; pruning only makes tensors smaller"
        )


def _value(name: str, entry: Entry, file: Any) -> Tensor:
    """Read a tensor, unpacked, in memory of its own."""
    dtype = _DTYPES[entry.dtype]
    if entry.block is None:
        value: Tensor = file.get_tensor(name)
        if tuple(value.shape) != entry.shape or value.dtype != dtype:
            raise DataError(
                f"{name!r} is {tuple(value.shape)} of {value.dtype} in the file, but "
                f"{entry.shape} of {entry.dtype} in {NAME}"
            )
        return value.clone()
    bits, values = file.get_tensor(f"{name}.bits"), file.get_tensor(f"{name}.values")
    if values.dtype != dtype or bits.dtype != torch.uint8:
        raise DataError(f"{name!r} is packed as {values.dtype}, not as {entry.dtype}")
    if entry.dtype == "bfloat16":
        values = values.view(torch.uint16)
    packed = Packed(
        entry.matrix_shape, entry.block, entry.dtype, bits.numpy(), values.numpy()
    )
    matrix = _as_tensor(packed.unpack(), entry.dtype)
    moved = list(entry.shape)
    moved.insert(0, moved.pop(entry.axis))
    return matrix.reshape(moved).movedim(0, entry.axis).contiguous()


def _put(
    module: nn.Module, own: str, kind: str, value: Tensor, claimed: set[int]
) -> None:
    """Give a place its tensor; a parameter that is there stays the same object."""
    held = _held(module, own)
    near = held if held is not None else next(module.parameters(recurse=False), None)
    if near is not None and not near.is_meta:
        value = value.to(near.device)
    if kind != "parameter":
        _set(module, own, kind, value)
    elif held is None or held.is_meta or id(held) in claimed:
        trained = held.requires_grad if held is not None else True
        _set(module, own, kind, nn.Parameter(value, requires_grad=trained))
    else:
        held.data = value
        held.grad = None
    claimed.add(id(_held(module, own)))


def _set(module: nn.Module, own: str, kind: str, value: Any) -> None:
    if kind == "parameter":
        setattr(module, own, value)  # recurrent layers keep lists of their weights
    else:
        module._buffers[own] = value


def _set_attributes(model: nn.Module, attributes: Attributes) -> None:
    """Set the attributes that differ, and note which, so that they are saved again."""
    modules = dict(model.named_modules())
    changed: Attributes = {}
    for prefix, values in attributes.items():
        if prefix not in modules:
            raise DataError(f"the model that was built has no module {prefix[:80]!r}")
        for name, value in values.items():
            if _set_attribute(prefix, modules[prefix], name, value):
                changed.setdefault(prefix, {})[name] = value
    if changed:
        model._vitalfew_attributes = changed


def _set_attribute(prefix: str, module: nn.Module, name: str, value: Attribute) -> bool:
    held = vars(module).get(name)
    whole_number = type(held) is int
    sizes = isinstance(held, tuple) and all(type(h) is int for h in held)
    alike = whole_number if isinstance(value, int) else sizes
    if not alike or (sizes and len(held) != len(value)):  # type: ignore[arg-type]
        raise DataError(
            f"module {prefix!r} ({type(module).__name__}) has no attribute "
            f"{name[:80]!r} like {value!r}"
        )
    if held == value:
        return False
    setattr(module, name, value)
    return True


def _some(names: set[str]) -> str:
    shown = ", ".join(repr(n[:80]) for n in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
