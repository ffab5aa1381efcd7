"""Attention heads that can be taken out: where they are, and which are dead."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from vitalfew.pruning._surgery import (
    Indices,
    is_conv1d,
    matrix,
    shared_parameters,
    size,
    standard,
    take,
)

# query, key, value and output projections, by the names that architectures give them
_PROJECTIONS = (
    ("query", "key", "value", "output.dense"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
)
_HEAD_SIZES = ("head_dim", "attention_head_size")
_QUERY_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_KEY_COUNTS = ("num_key_value_heads", "num_kv_heads")
_WIDTHS = ("all_head_size", "split_size", "inner_dim")


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention layer whose heads are rows of query, key and value.

    Parameters
    ----------
    name : str
        Full name of the module.
    module : Module
        What holds the numbers of heads.
    rows : tuple of modules
        Query, key and value, or the one layer that holds all three end to end.
    output : Module
        The projection that takes the heads.
    head_size, n_queries, n_keys : int
        Columns of a head, and numbers of heads; several query heads may share a key
        and value head.
    """

    name: str
    module: Any
    rows: tuple[Any, ...]
    output: Any
    head_size: int
    n_queries: int
    n_keys: int

    def dead(self) -> tuple[Indices, str]:
        """Return the key and value heads that can go, and what else stays and why."""
        used = matrix(self.output).ne(0).any(dim=2).any(dim=0).cpu().numpy()
        idle = ~used.reshape(self.n_queries, self.head_size).any(axis=1)
        value = self.rows[-1]
        live = matrix(value).ne(0).any(dim=2).any(dim=1)
        bias = value.bias
        if bias is not None:
            live |= bias.detach().ne(0)
        n_rows = self.n_keys * self.head_size
        live = live.cpu().numpy()[-n_rows:].reshape(self.n_keys, self.head_size)
        idle = idle.reshape(self.n_keys, -1) | ~live.any(axis=1)[:, None]
        dead = np.flatnonzero(idle.all(axis=1))
        n_partly = int((idle.any(axis=1) & ~idle.all(axis=1)).sum())
        reason = (
            f"{n_partly} key and value heads serve dead and live query heads alike"
            if n_partly
            else ""
        )
        if len(dead) == self.n_keys:
            dead = dead[1:]
            reason = "its heads are all dead; one stays"
        return dead.astype(np.int64), reason

    def remove(self, dead: Indices) -> None:
        """Take key and value heads out, with the query heads they serve."""
        keys = np.setdiff1d(np.arange(self.n_keys), dead)
        each = self.n_queries // self.n_keys
        queries = (keys[:, None] * each + np.arange(each)).ravel()
        columns, key_rows = self._places(queries), self._places(keys)
        if len(self.rows) == 1:
            width = self.n_queries * self.head_size
            offsets = width * np.arange(3)
            take(self.rows[0], "out", (offsets[:, None] + columns).ravel())
        else:
            take(self.rows[0], "out", columns)
            take(self.rows[1], "out", key_rows)
            take(self.rows[2], "out", key_rows)
        take(self.output, "in", columns)
        width = self.n_queries * self.head_size
        self._change(_QUERY_COUNTS, self.n_queries, len(queries))
        self._change(_KEY_COUNTS, self.n_keys, len(keys))
        self._change(_WIDTHS, width, len(columns))

    def _places(self, heads: Indices) -> Indices:
        return (heads[:, None] * self.head_size + np.arange(self.head_size)).ravel()

    def _change(self, names: tuple[str, ...], before: int, now: int) -> None:
        for name in names:
            if vars(self.module).get(name) == before:
                setattr(self.module, name, now)


def attentions(model: nn.Module) -> tuple[list[Attention], dict[str, str]]:
    """Find the attention layers of a model.

    Parameters
    ----------
    model : Module
        Any; known are separate query, key and value projections with the names of
        BERT, Llama, BART and DistilBERT, and GPT-2's joint one.

    Returns
    -------
    list of Attention
        Those whose heads can be taken out.
    dict of str to str
        Those whose heads cannot though some are dead, with the reason.
    """
    shared = shared_parameters(model)
    found: list[Attention] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            used = module.out_proj.weight.detach().ne(0).any(dim=0)
            if not bool(used.reshape(module.num_heads, -1).any(dim=1).all()):
                left[name] = (
                    "has dead heads, but nn.MultiheadAttention ties their number to "
                    "the width of its inputs"
                )
            continue
        attention = _read(model, name, module)
        if attention is None:
            continue
        layers = (*attention.rows, attention.output)
        if not all(standard(layer) for layer in layers):
            left[name] = "has projections that are not plain linear layers"
        elif any(id(p) in shared for layer in layers for p in layer.parameters()):
            if len(attention.dead()[0]):
                left[name] = "has dead heads, but shares its weights with another layer"
        else:
            found.append(attention)
    return found, left


def _read(model: nn.Module, name: str, module: Any) -> Attention | None:
    sizes = [vars(module).get(a) for a in _HEAD_SIZES]
    head_size = next((s for s in sizes if type(s) is int and s > 0), None)
    if head_size is None:
        return None
    parent = model.get_submodule(name.rpartition(".")[0])
    for *names, output in _PROJECTIONS:
        rows = tuple(_linear(module, row) for row in names)
        last = _linear(module, output) or _linear(parent, output)
        if last is None or None in rows:
            continue
        n_queries, n_keys, n_values = (size(layer, "out") for layer in rows)
        if (
            n_queries == size(last, "in")
            and n_keys == n_values
            and n_keys % head_size == 0
            and n_queries % n_keys == 0
        ):
            n_queries, n_keys = n_queries // head_size, n_keys // head_size
            return Attention(name, module, rows, last, head_size, n_queries, n_keys)
    joint, last = getattr(module, "c_attn", None), getattr(module, "c_proj", None)
    if is_conv1d(joint) and is_conv1d(last):
        width = size(last, "in")
        if size(joint, "out") == 3 * width and width % head_size == 0:
            n = width // head_size
            return Attention(name, module, (joint,), last, head_size, n, n)
    return None


def _linear(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module if isinstance(module, nn.Linear) else None
