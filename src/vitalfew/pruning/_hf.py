"""Hugging Face folders: read from the disk alone, and nothing in them is executed.

The class of a model is looked up by its name among those of transformers itself; code
that lies in a folder, kernels that a folder names and pickled weights are refused.
"""

import copy
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from vitalfew.exceptions import DataError, MissingDependencyError
from vitalfew.pruning._recipe import parse, read_text

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_DENSE = 16  # how often an ordinary file of weights a model may be in memory
MOST_MODULES = 10_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_pretrained(model: torch.nn.Module) -> bool:
    """Whether a model is one of transformers', which is not imported for the answer."""
    transformers = sys.modules.get("transformers")
    base = getattr(transformers, "PreTrainedModel", None)
    return isinstance(base, type) and isinstance(model, base)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave torch's random numbers as they were; making a model draws many."""
    # devices that nobody used so far need no care, and asking would start them
    known = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if known else []
    with torch.random.fork_rng(devices=devices):
        yield


def write_config(model: Any, folder: Path) -> None:
    """Write what a model is made from beside its weights; the model keeps its own."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def write_ordinary(model: Any, folder: Path) -> None:
    """Write a folder that `from_pretrained` reads.

    Raises
    ------
    ValueError
        If the model's shapes are not those that its configuration makes.
    """
    with random_state_kept(), torch.device("meta"):
        made = dict(type(model)(copy.deepcopy(model.config)).named_parameters())
    for name, parameter in model.named_parameters():
        if name not in made or made[name].shape != parameter.shape:
            raise ValueError(
                "dense must be False for a model whose shapes were changed: "
                f"from_pretrained would make {name!r} in its old shape"
            )
    model.save_pretrained(folder)


def build(folder: Path, most_bytes: int) -> Any:
    """Make the model that a folder's `config.json` describes, with random weights.

    Parameters
    ----------
    folder : Path
        Where `config.json` lies.
    most_bytes : int
        How large the model may be.

    Returns
    -------
    PreTrainedModel
        In evaluation mode, on the CPU.

    Raises
    ------
    DataError
        If the folder describes no model of transformers, or a larger one.
    """
    cls, config = _described(folder)
    _check_size(cls, config, most_bytes)
    model = _made(cls, config)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = type(model.generation_config).from_pretrained(
            str(folder), local_files_only=True
        )
    return model.eval()


def read(folder: Path) -> Any:
    """Load a model from an ordinary `from_pretrained` folder.

    Parameters
    ----------
    folder : Path
        With `config.json` and weights as safetensors.

    Returns
    -------
    PreTrainedModel
        In evaluation mode, on the CPU, in the type its weights are stored in.

    Raises
    ------
    DataError
        If there is no such model, if its weights are pickled, or some are missing.
    """
    cls, config = _described(folder)
    _check_weights(folder)
    n_bytes = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    with random_state_kept():
        _check_size(cls, config, MOST_DENSE * n_bytes)
    version = _transformers().__version__
    dtype = "torch_dtype" if version.startswith("4.") else "dtype"
    try:
        with random_state_kept():
            model, said = cls.from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **{dtype: "auto"},
            )
    except Exception as error:  # safetensors, sizes, types: each in its own way
        raise DataError(f"{str(folder)!r} cannot be loaded: {error}") from error
    missing = sorted(said.get("missing_keys") or ())
    if missing or said.get("mismatched_keys"):
        raise DataError(
            f"the weights in {str(folder)!r} are not those of {cls.__name__}: "
            f"{', '.join(missing[:3]) or said['mismatched_keys']} would be random"
        )
    return model.eval()


def read_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder; None where there is none.

    Parameters
    ----------
    folder : Path
        With the tokenizer's files.

    Returns
    -------
    PreTrainedTokenizerBase or None
        Of a class of transformers itself.

    Raises
    ------
    DataError
        If its files cannot be used.
    """
    names = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        return _transformers().AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise DataError(
            f"the tokenizer in {str(folder)!r} cannot be loaded: {error}"
        ) from error


def _described(folder: Path) -> tuple[Any, Any]:
    """Return the class and the configuration that `config.json` names."""
    plain = _without_code(parse(read_text(folder / CONFIG, "of a model"), CONFIG))
    names = plain.get("architectures") if isinstance(plain, dict) else None
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise DataError(f"{CONFIG} must name one class in architectures, got {names!r}")
    for key, value in _everything(plain):
        _check_entry(key, value)
    transformers = _transformers()
    cls = _class(transformers, names[0])
    try:
        config = cls.config_class.from_dict(plain)
    except Exception as error:
        raise DataError(f"{CONFIG} is not one of {names[0]}: {error}") from error
    parts: list[Any] = [config, getattr(config, "backbone_config", None)]
    for part in parts:
        if getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False  # its weights are in the file as well
    return cls, config


def _without_code(plain: Any) -> Any:
    """Drop what parts of a configuration say of code in the folder: it is never run."""
    if isinstance(plain, dict):
        return {k: _without_code(v) for k, v in plain.items() if k != "auto_map"}
    return [_without_code(v) for v in plain] if isinstance(plain, list) else plain


def _check_entry(key: str, value: Any) -> None:
    """Refuse an entry by which transformers would fetch or run something, or stall."""
    kernels = "implementation" in key and "/" in str(value)
    # the second may give any entry the meaning of another
    odd = key in ("trust_remote_code", "attribute_map")
    if kernels or odd or (key == "backbone" and not _is_bare(value)):
        raise DataError(
            f"{CONFIG} asks for code or weights from elsewhere ({key}: {value!r}), "
            "which are never used; remove that entry"
        )
    if ("layer" in key or "expert" in key) and _is_many(value):
        raise DataError(f"{CONFIG} asks for more modules than any model has: {key}")
    if key == "quantization_config" and value is not None:
        raise DataError(
            f"{CONFIG} describes quantised weights, which cannot be pruned; start "
            "from the model in floating point"
        )


def _is_bare(name: Any) -> bool:
    """Whether a backbone is none, or one that timm knows by a bare name."""
    return name is None or re.fullmatch(r"\w[\w.]*", str(name)) is not None


def _is_many(value: Any) -> bool:
    return isinstance(value, int) and value > MOST_MODULES


def _check_size(cls: Any, config: Any, most_bytes: int) -> None:
    """Raise if a model would take more memory; this takes none."""
    with torch.device("meta"):
        outline = _made(cls, copy.deepcopy(config))
    n_bytes = sum(p.nbytes for p in outline.parameters())
    if n_bytes > most_bytes:
        raise DataError(
            f"{CONFIG} describes a model of {n_bytes:,} bytes, far more than the "
            "weights beside it can stand for"
        )


def _made(cls: Any, config: Any) -> Any:
    try:
        return cls(config)
    except Exception as error:  # every class of transformers has its own
        raise DataError(f"no model can be made from {CONFIG}: {error}") from error


def _class(transformers: Any, name: str) -> Any:
    found = None
    if name.isidentifier() and not name.startswith("_"):
        try:
            found = getattr(transformers, name, None)
        except Exception:  # a part of transformers that needs what is not installed
            found = None
    base = transformers.PreTrainedModel
    known = isinstance(found, type) and issubclass(found, base)
    if not known or getattr(found, "config_class", None) is None:
        raise DataError(
            f"{CONFIG} names {name[:80]!r}, which is no model of transformers "
            f"{transformers.__version__}; code from a folder is never run, so give the "
            "function that builds the model"
        )
    return found


def _everything(plain: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield key, value
            yield from _everything(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _everything(value)


def _check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are not safetensors that lie in it."""
    if (folder / "adapter_config.json").exists():
        raise DataError(
            f"{str(folder)!r} holds an adapter; merge it into its model and save that"
        )
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        index = parse(read_text(folder / INDEX, "of a model"), INDEX)
        parts = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(parts, dict) or not parts:
            raise DataError(f"{INDEX} must map names to files in weight_map")
        for part in map(str, parts.values()):
            if Path(part).name != part or not part.endswith(".safetensors"):
                raise DataError(f"{INDEX} names {part!r}, which is no file beside it")
        return
    _no_weights(folder)


def _no_weights(folder: Path) -> NoReturn:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise DataError(
            f"{str(folder)!r} holds its weights as {pickled[0]}, a pickle, which can "
            "run any code when it is read. Where you trust it, load it with "
            "from_pretrained and call save_pretrained(folder): this writes safetensors"
        )
    raise DataError(f"{str(folder)!r} has no {WEIGHTS}")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            "this needs transformers: pip install 'vitalfew[hf]'"
        ) from error
    return transformers
