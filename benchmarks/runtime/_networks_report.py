"""The page of `benchmarks.runtime.networks`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

NAME = "runtime_networks"
PRECISIONS = ("float32", "bfloat16", "int8")  # from high to low
TITLES = {
    "resnet-20": "ResNet-20",
    "mlps": "MLPs of the encoder",
    "encoder": "Encoder",
}
MASKS = {"network": "whole network", "layers": "each layer", "random": "at random"}
# network: sparsity, what it is set beside, how many times as fast it is to be
TARGETS = {
    "resnet-20": ("0.8", "OpenVINO float32", 2.5),
    "mlps": ("0.8", "", 2.0),
}
LOADED_MS, LOADED_WEIGHTS = 100, "10 million"
COLOURS = {
    "8x1": "#0b6e4f",
    "16x1": "#0b6e4f",
    "4x1": "#d98e04",
    "16x2": "#b5487f",
    "16x4": "#1f4e79",
}
STYLES = {"network": "-", "layers": "--", "random": ":"}

INTRODUCTION = """\
Networks are pruned, compiled by ``vitalfew.runtime.compile`` and called beside the
dense ones in other engines, all from Python in one process. The engines take turns and
keep their weights in the cache as far as it goes; times are of the process, the least
of fifteen rounds, with two threads of the clock. What an engine does once - tracing,
choosing kernels, packing or quantising weights - costs it nothing.

- *ResNet-20* is the residual network of three stages of three blocks, with 1x1
  convolutions as shortcuts, trained on 10,000 photographs of CIFAR-10; images are from
  its test part. Products of convolutions are always of single precision.
- *MLPs*: those of the six layers of all-MiniLM-L6-v2 (384-1536-384 with GELU, residual
  and layer norm), one after another without what lies between them; what goes in are
  hidden states that go into the first of them. *Encoder*: the whole of it, from words
  drawn at random to hidden states, its 36 linear layers pruned; embeddings, layer norms
  and attention are left to torch.
- Blocks that are removed are those of least norm *in the whole network* or in *each
  layer*, or some *at random* in each layer. Nothing is trained afterwards, and no
  accuracy is claimed here: zeros cost the same wherever accuracy is won back. Layers of
  very few blocks stay dense. Magnitude in the whole network leaves early convolutions
  nearly dense, which have few weights and many positions: what counts for the time are
  the multiply-adds that are left, told beside each network.
- The names of patterns are those of masks: 16x2 is compiled to bfloat16, 16x4 to int8,
  all others to single precision.
- Dense int8: by NNCF after training for OpenVINO; by ONNX Runtime's own tools, static
  for images and dynamic else; torch's dynamic quantisation of linear layers.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``runtime_networks.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if "sparse" in row]
    (folder / f"{NAME}.rst").write_text("\n".join(_page(results, rows)))
    if _where(rows, threads=1):
        _draw(_where(rows, threads=1), folder / f"{NAME}_speed.svg")


def precision(engine: str) -> str:
    """Return the precision that the name of an engine ends with."""
    return engine.rsplit(" ", 1)[-1]


def fastest(row: Row, lowest: str = "float32") -> tuple[float, str]:
    """Return microseconds and name of the fastest dense engine of a run.

    Parameters
    ----------
    row : dict
        A run.
    lowest : str, default="float32"
        The lowest precision that counts.
    """
    allowed = PRECISIONS[: PRECISIONS.index(lowest) + 1]
    found = [
        (facts["us"], name)
        for name, facts in row["dense"].items()
        if precision(name) in allowed
    ]
    return min(found, default=(float("nan"), ""))


def speed_up(row: Row, sparsity: str, over: str = "", lowest: str = "float32") -> float:
    """Return how many times as fast a pruned network is as a dense one.

    Parameters
    ----------
    row : dict
        A run.
    sparsity : str
        As its rows have it.
    over : str, default=""
        An engine; the fastest where empty.
    lowest : str, default="float32"
        The lowest precision of engines that count for that.
    """
    dense = row["dense"][over]["us"] if over else fastest(row, lowest)[0]
    return float(dense / row["sparse"][sparsity]["us"])


def _where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row["cell"][k] == v for k, v in wanted.items())]


def _values(rows: Iterable[Row], *keys: str) -> list[Any]:
    found = [tuple(row["cell"][key] for key in keys) for row in rows]
    return list(dict.fromkeys(found))


def _size(batch: int, tokens: int) -> str:
    return f"batch {batch}, {tokens} tokens" if tokens else f"batch {batch}"


def _cent(sparsity: str) -> str:
    return f"{100 * float(sparsity):g} %"


def _page(results: Results, rows: list[Row]) -> Iterator[str]:
    yield _pages.heading("Pruned networks beside dense engines")
    yield INTRODUCTION
    yield _pages.machines(results)
    one, two = _where(rows, threads=1), _where(rows, threads=2)
    loading = [row for row in results.rows if "loading" in row]
    if one:
        versions = one[-1]["versions"]
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield f"Engines: {told}.\n"
    claims = [*_claims(one), *(line for row in loading for line in _loaded(row))]
    if claims:
        yield _pages.heading("What comes out", "-")
        yield "\n".join(f"- {line}" for line in claims) + "\n"
    if one:
        yield _pages.figure(NAME, "speed", "Speed-up against sparsity")
        yield _pages.heading("One thread", "-")
        yield (
            "Microseconds of a call, and in brackets how many times as fast it is as "
            "the fastest dense engine in single precision.\n"
        )
        yield from _networks(one)
    if two:
        yield _pages.heading("Two threads", "-")
        yield from _networks(two)
    for row in loading:
        yield _pages.heading("Loading", "-")
        yield _loading(row["loading"])
    if rows:
        yield _pages.heading("What was compiled", "-")
        yield _compiled(rows)
    failures = [row for row in results.rows if "error" in row]
    left_out = {
        f"{TITLES[row['cell']['network']]}, {name}: {reason}"
        for row in rows
        for name, reason in row["left_out"].items()
    }
    if failures or left_out:
        yield _pages.heading("What could not be run", "-")
        for row in failures:
            yield f"- {' '.join(str(v) for v in row['cell'].values())}: {row['error']}"
        for line in sorted(left_out):
            yield f"- {line}"
        yield ""


def _claims(rows: list[Row]) -> Iterator[str]:
    for network, (sparsity, over, wanted) in TARGETS.items():
        own = [
            row
            for row in _where(rows, network=network)
            if sparsity in row["sparse"] and row["cell"]["pattern"] in ("8x1", "16x1")
        ]
        for pattern, masks in _values(own, "pattern", "masks"):
            told = []
            for row in _where(own, pattern=pattern, masks=masks):
                cell, facts = row["cell"], row["sparse"][sparsity]
                size = _size(cell["batch"], cell["tokens"])
                part = 100 * facts["multiply_adds"]
                told.append(
                    f"{size} {speed_up(row, sparsity, over):.2f} "
                    f"({part:.0f} % of the multiply-adds are left)"
                )
            engine = over or "the fastest dense engine in single precision"
            yield (
                f"{TITLES[network]} with {_cent(sparsity)} of the {pattern} blocks "
                f"removed ({MASKS[masks]}), times as fast as {engine}: "
                f"{'; '.join(told)}. The target is {wanted:g}."
            )
    for network, batch, tokens in _values(rows, "network", "batch", "tokens"):
        own = _where(rows, network=network, batch=batch, tokens=tokens)
        own = _where(own, masks="network")
        told = []
        for row in own:
            ratios = ", ".join(
                f"{speed_up(row, s, lowest='int8'):.2f} at {_cent(s)}"
                for s in row["sparse"]
            )
            told.append(f"{_pattern(row)} {ratios}")
        if own:
            engine = fastest(own[0], "int8")[1]
            yield (
                f"{TITLES[network]}, {_size(batch, tokens)}, beside the fastest dense "
                f"engine of *any* precision ({engine}): {'; '.join(told)}. Below 1, "
                "quantising alone is faster."
            )
    for lowest in PRECISIONS:
        ours = [
            facts["difference"]
            for row in rows
            for facts in row["sparse"].values()
            if PATTERN_PRECISION[row["cell"]["pattern"]] == lowest
        ]
        theirs = [
            facts["difference"]
            for row in rows
            for name, facts in row["dense"].items()
            if precision(name) == lowest and name != "torch float32"
        ]
        if ours and theirs:
            yield (
                f"Results in {lowest} differ from those of torch in single precision, "
                f"of the same weights, by at most {number(max(ours), 2)} of the "
                f"largest; those of dense engines by {number(max(theirs), 2)}."
            )


PATTERN_PRECISION = {
    "8x1": "float32",
    "16x1": "float32",
    "4x1": "float32",
    "16x2": "bfloat16",
    "16x4": "int8",
}


def _pattern(row: Row) -> str:
    pattern = row["cell"]["pattern"]
    return f"{pattern} in {PATTERN_PRECISION[pattern]}"


def _loaded(row: Row) -> Iterator[str]:
    found: Mapping[str, Row] = row["loading"]
    told = ", ".join(
        f"{number(facts['ms'])} ms at {_cent(s)}" for s, facts in found.items()
    )
    memory = ", ".join(
        f"{100 * facts['array_bytes'] / facts['dense_bytes']:.0f} % at {_cent(s)}"
        for s, facts in found.items()
    )
    yield (
        f"A network of six linear layers, {LOADED_WEIGHTS} weights, is loaded in "
        f"{told} when torch is imported (the target is {LOADED_MS} ms), and takes "
        f"{memory} of the memory of dense weights."
    )


def _networks(rows: list[Row]) -> Iterator[str]:
    for (network,) in _values(rows, "network"):
        own = _where(rows, network=network)
        yield _pages.heading(TITLES[network], "~")
        sparsities = list(dict.fromkeys(s for row in own for s in row["sparse"]))
        lines = []
        for row in own:
            cell = row["cell"]
            line = [_size(cell["batch"], cell["tokens"])]
            line += [_pattern(row), MASKS[cell["masks"]]]
            for s in sparsities:
                us = number(row["sparse"][s]["us"])
                line.append(f"{us} ({speed_up(row, s):.2f})")
            lines.append(line)
        yield _pages.table(["", "pattern", "removed", *map(_cent, sparsities)], lines)
        yield "Dense engines, the least of all runs of a size:\n"
        sizes = _values(own, "batch", "tokens")
        names = list(dict.fromkeys(name for row in own for name in row["dense"]))
        dense = []
        for name in sorted(names, key=lambda n: PRECISIONS.index(precision(n))):
            line = [name]
            for batch, tokens in sizes:
                found = [
                    row["dense"][name]["us"]
                    for row in _where(own, batch=batch, tokens=tokens)
                    if name in row["dense"]
                ]
                line.append(number(min(found, default=None)))
            dense.append(line)
        yield _pages.table(["engine", *(_size(*size) for size in sizes)], dense)


def _loading(found: Mapping[str, Row]) -> str:
    lines = [
        [
            _cent(s),
            f"{facts['density']:.3f}",
            number(facts["ms"]),
            number(facts["cpu_ms"]),
            number(facts["first_call_ms"]),
            number(facts["file_bytes"] / 1e6),
            number(facts["array_bytes"] / 1e6),
            number(facts["grown_bytes"] / 1e6),
            number(facts["dense_bytes"] / 1e6),
        ]
        for s, facts in found.items()
    ]
    header = ["removed", "density", "ms", "CPU ms", "ms of the first call"]
    header += ["MB of the files", "MB of arrays", "MB of the process", "MB dense"]
    return (
        "The least of new processes, one for each loading, in which torch and "
        "vitalfew are imported already.\n\n" + _pages.table(header, lines)
    )


def _compiled(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        cell = row["cell"]
        for s, facts in row["sparse"].items():
            left = ", ".join(f"{n} {k}" for k, n in facts["left_to_torch"].items())
            kernels = ", ".join(f"{n} {k}" for k, n in facts["kernels"].items())
            lines.append(
                [
                    TITLES[cell["network"]],
                    _size(cell["batch"], cell["tokens"]),
                    f"{cell['pattern']}, {MASKS[cell['masks']]}, {_cent(s)}",
                    f"{100 * facts['density']:.0f} %",
                    f"{100 * facts['multiply_adds']:.0f} %",
                    str(facts["segments"]),
                    kernels,
                    left or "nothing",
                ]
            )
    header = ["network", "", "pruned", "weights left", "multiply-adds left"]
    header += ["segments", "layers by kernel", "left to torch"]
    return _pages.table(header, lines)


def _draw(rows: list[Row], file: Path) -> None:
    panels = _values(rows, "network", "batch", "tokens")
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure, axes = _pages.new_figure(lines, columns, width=3.4, height=2.8)
    handles: dict[str, Any] = {}
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (network, batch, tokens) in zip(axes.flat, panels, strict=False):
        for row in _where(rows, network=network, batch=batch, tokens=tokens):
            pattern, masks = row["cell"]["pattern"], row["cell"]["masks"]
            x = [100 * float(s) for s in row["sparse"]]
            y = [speed_up(row, s) for s in row["sparse"]]
            (line,) = ax.plot(
                x, y, marker="o", ms=3, ls=STYLES[masks], color=COLOURS[pattern]
            )
            handles.setdefault(f"{_pattern(row)}, {MASKS[masks]}", line)
            best = fastest(row)[0]
            for lowest, shade in (("bfloat16", "#b5487f"), ("int8", "#1f4e79")):
                dense = [
                    facts["us"]
                    for name, facts in row["dense"].items()
                    if precision(name) == lowest
                ]
                if dense:
                    level = ax.axhline(best / min(dense), color=shade, lw=0.6, ls="-.")
                    handles.setdefault(f"fastest dense {lowest}", level)
        ax.axhline(1, color="#bbbbbb", lw=0.8)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}")
        title = f"{TITLES[network]}, {_size(batch, tokens)}"
        ax.set_title(title, loc="left", fontsize=8)
        ax.set_xlabel("removed (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel("speed over dense float32")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=7,
    )
    _pages.save(figure, file)
