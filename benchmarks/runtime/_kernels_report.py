"""The page of `benchmarks.runtime.kernels`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row, median

NAME = "runtime_kernels"
MANY = 128  # tokens from which multiply-adds are the limit
ITEM = {"float32": 4, "bfloat16": 2, "int8": 4}  # bytes of a number of tokens, results
TITLES = {"memory": "weights from memory", "cache": "weights in cache"}
TARGET_PATTERN = {"float32": "16x1", "bfloat16": "16x2", "int8": "16x4"}
TARGETS = {  # by precision, medians at each sparsity
    "float32": {"0.5": 1.8, "0.7": 3.5, "0.8": 5.0, "0.9": 8.6},
    "bfloat16": {"0.5": 1.53, "0.7": 2.975, "0.8": 4.25, "0.9": 7.31},
    "int8": {"0.5": 1.0, "0.7": 1.0, "0.8": 1.0, "0.9": 1.0},
}
LEAST = 1.2  # of any cell in single precision
SHARE, SHARED = 0.7, ("0.5", "0.7", "0.8")  # of the peak, at these sparsities
COLOURS = {
    "16x1": "#0b6e4f",
    "8x1": "#3aafa9",
    "4x1": "#d98e04",
    "32x1": "#1f4e79",
    "4x4": "#c44536",
    "8x8": "#8d6a9f",
    "16x16": "#5c4033",
    "32x32": "#777777",
    "unstructured": "#000000",
    "16x2": "#b5487f",
    "16x4": "#2e86ab",
}
SHADES = {1: "#c44536", 8: "#d98e04", 16: "#1f4e79", 128: "#0b6e4f"}

INTRODUCTION = """\
A linear layer is applied to some tokens, pruned by ``SparseLinear`` and dense by other
engines, all called from Python in one process on one core. The engines take turns;
times are CPU seconds of the process, the least of nine rounds. Tokens and results are
token by token in memory, as networks have them; what an engine does once, such as
packing weights, costs it nothing. Speed-ups are over the fastest dense engine of the
same precision in the same turns, unless told otherwise.

- *Weights from memory*: a turn goes once through copies of the layer that take 32 MB
  together, 64 at most, and what other engines read comes in between, so that weights
  are in the cache of none. *Weights in cache*: one copy is called again and again, and
  stays in the level of the cache in which it fits; pruned weights are smaller, and may
  fit in a faster one.
- *Uniform masks*: blocks are removed at random from a matrix of normal numbers.
  *Uneven masks*: of a matrix of normal numbers, times a scale for each row and each
  column whose logarithms are normal with standard deviation 0.5, the blocks with the
  least sums of squares in the whole matrix are removed: rows then keep unequal
  numbers, as magnitude pruning leaves them in trained layers. *Encoder*: the same on
  the two layers of the third block of all-MiniLM-L6-v2, as it was trained.
- *int8*: torch and ONNX Runtime take weights by one scale for each output and find the
  scale of the tokens in every call; OpenVINO knows that scale before. *bfloat16*:
  tokens and results are of bfloat16 as well.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``runtime_kernels.rst`` and its figures from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if "sparse" in row]
    machine = next((row for row in results.rows if "peaks" in row["cell"]), {})
    (folder / f"{NAME}.rst").write_text("\n".join(_page(results, rows, machine)))
    if rows:
        _draw_speed(rows, folder / f"{NAME}_speed.svg")
        _draw_roofline(rows, machine, folder / f"{NAME}_roofline.svg")


def fastest(row: Row, precision: str) -> tuple[float, str]:
    """Return microseconds and name of the fastest dense engine of a precision."""
    found = [
        (facts["us"], name.removesuffix(f" {precision}"))
        for name, facts in row["dense"].items()
        if name.endswith(f" {precision}")
    ]
    return min(found, default=(float("nan"), ""))


def speed_up(row: Row, sparsity: str, against: str = "") -> float:
    """Return how many times as fast a pruned layer is as the fastest dense engine.

    Parameters
    ----------
    row : dict
        A run.
    sparsity : str
        As its rows have it.
    against : str, default=""
        Precision of the engines; that of the run where empty.
    """
    dense, _ = fastest(row, against or row["cell"]["precision"])
    return float(dense / row["sparse"][sparsity]["us"])


def beside_torch(row: Row, sparsity: str) -> float:
    """Return how many times as fast a pruned layer is as torch's in its precision."""
    dense = row["dense"][f"torch {row['cell']['precision']}"]
    return float(dense["us"] / row["sparse"][sparsity]["us"])


def rate(row: Row, sparsity: str) -> float:
    """Return GFLOP/s on the weights that are stored."""
    facts = row["sparse"][sparsity]
    return float(2e-3 * facts["weights"] * row["cell"]["tokens"] / facts["us"])


def intensity(row: Row, sparsity: str) -> float:
    """Return operations for each byte of weights, indices, tokens and results."""
    facts, tokens = row["sparse"][sparsity], row["cell"]["tokens"]
    size = tokens * sum(map(int, row["cell"]["shape"].split("x")))
    nbytes = facts["nbytes"] + ITEM[row["cell"]["precision"]] * size
    return float(2 * facts["weights"] * tokens / nbytes)


def _values(rows: Iterable[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row["cell"][key] for row in rows))


def _where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row["cell"][k] == v for k, v in wanted.items())]


def _page(results: Results, rows: list[Row], machine: Row) -> Iterator[str]:
    yield _pages.heading("Pruned linear layers beside dense engines")
    yield INTRODUCTION
    yield _pages.machines(results)
    if "operations" in machine:
        yield _peaks(machine)
    if rows:
        yield from _told(rows, machine)
    failures = [row for row in results.rows if "error" in row]
    left_out = {
        f"{name}: {reason}" for row in rows for name, reason in row["left_out"].items()
    }
    if failures or left_out:
        yield _pages.heading("What could not be run", "-")
        for row in failures:
            yield f"- {' '.join(str(v) for v in row['cell'].values())}: {row['error']}"
        for line in sorted(left_out):
            yield f"- {line}"
        yield ""


def _told(rows: list[Row], machine: Row) -> Iterator[str]:
    versions = rows[-1]["versions"]
    engines = [
        f"{title} {versions[key]}"
        for title, key in (("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime"))
        if key in versions
    ]
    yield f"Other engines: torch, NumPy with OpenBLAS, {', '.join(engines)}.\n"
    yield _pages.heading("What comes out", "-")
    yield "\n".join(f"- {line}" for line in _claims(rows, machine)) + "\n"
    yield _pages.figure(NAME, "speed", "Speed-up against sparsity for each pattern")
    yield _pages.figure(NAME, "roofline", "Rates against operations for each byte")
    yield _pages.heading("All patterns", "-")
    yield ("The median over shapes and numbers of tokens, and in brackets the least.\n")
    yield _summary(rows)
    yield _pages.heading("Dense engines", "-")
    yield (
        "How many times as fast they are as the fastest in single precision: the "
        "median over shapes, at each number of tokens.\n"
    )
    yield _dense(rows)
    yield _pages.heading("Beside dense int8", "-")
    yield (
        "How many times as fast pruned layers are as the fastest dense engine of "
        "int8: the median over shapes and masks. Below 1, quantising alone is faster.\n"
    )
    yield _beside_int8(rows)
    for precision, pattern in TARGET_PATTERN.items():
        own = _where(rows, precision=precision, pattern=pattern)
        if own:
            yield _pages.heading(f"{pattern}, {precision}", "-")
            yield (
                "Microseconds of a call, and in brackets the speed-up over the fastest "
                "dense engine. Those of other patterns are in the file of results.\n"
            )
            yield _details(own)


def _peaks(machine: Row) -> str:
    operations = ", ".join(
        f"{number(value)} GFLOP/s in {name}"
        if name != "int8"
        else f"{number(value)} billion in int8"
        for name, value in machine["operations"].items()
    )
    reading = ", ".join(
        f"{number(value)} GB/s from {_size(int(kilobytes))}"
        for kilobytes, value in machine["reading"].items()
    )
    return (
        "The most that one core did in loops of C that do nothing else: multiply-adds "
        f"in registers, {operations}; reading an array again and again, {reading}. "
        f"Kernels for ``{machine['instructions']}`` were used.\n"
    )


def _size(kilobytes: int) -> str:
    return f"{kilobytes >> 10} MB" if kilobytes >= 1024 else f"{kilobytes} kB"


def _claims(rows: list[Row], machine: Row) -> Iterator[str]:
    for precision, pattern in TARGET_PATTERN.items():
        for weights, title in TITLES.items():
            own = _where(rows, precision=precision, pattern=pattern, weights=weights)
            if own:
                yield _claim(own, precision, f"{pattern} in {precision}, {title}")
    for weights, title in TITLES.items():
        own = _where(rows, precision="float32", pattern="16x1", weights=weights)
        if own:
            crossing = ", ".join(
                f"{median(speed_up(row, s, 'int8') for row in own):.2f} at {_cent(s)}"
                for s in own[0]["sparse"]
            )
            yield (
                f"16x1 in float32 beside the fastest dense engine of *int8*, {title}: "
                f"medians {crossing}."
            )
    for precision, pattern in (("float32", "8x1"), *TARGET_PATTERN.items()):
        own = _where(rows, precision=precision, pattern=pattern, tokens=MANY)
        peak = machine.get("operations", {}).get(precision)
        if own and peak:
            yield _share(own, peak, f"{pattern} in {precision}")
    own = _where(rows, pattern="16x1")
    if own:
        most = list(own[0]["sparse"])[-1]
        full = ", ".join(
            f"{_fullest(_where(own, masks=masks), most):.1f} times with {masks} masks"
            for masks in _values(own, "masks")
        )
        yield (
            f"With {_cent(most)} of the 16x1 blocks removed, the row of blocks that "
            f"keeps most keeps, of the mean of all rows, {full}."
        )
    for precision in _values(rows, "precision"):
        own = _where(rows, precision=precision)
        ours = max(f["difference"] for row in own for f in row["sparse"].values())
        theirs = max(
            facts["difference"]
            for row in own
            for name, facts in row["dense"].items()
            if name.endswith(precision)
        )
        yield (
            f"Results in {precision} differ from double precision by at most "
            f"{number(ours, 2)} of the largest result; those of dense engines, by "
            f"{number(theirs, 2)}."
        )


def _fullest(rows: list[Row], sparsity: str) -> float:
    return median(row["sparse"][sparsity]["fullest"] for row in rows)


def _cent(sparsity: str) -> str:
    return f"{100 * float(sparsity):g} %"


def _claim(own: list[Row], precision: str, title: str) -> str:
    targets = TARGETS[precision]
    told = []
    for masks in _values(own, "masks"):
        these = _where(own, masks=masks)
        medians = ", ".join(
            f"{median(speed_up(row, s) for row in these):.2f} at {_cent(s)}"
            for s in targets
        )
        told.append(f"{masks} masks {medians}")
    wanted = ", ".join(f"{value:g}" for value in targets.values())
    least, worst, at = min(
        ((speed_up(row, s), i, s) for i, row in enumerate(own) for s in targets),
    )
    cell = own[worst]["cell"]
    torch = ""
    if precision == "bfloat16":
        alone = ", ".join(
            f"{median(beside_torch(row, s) for row in own):.2f} at {_cent(s)}"
            for s in targets
        )
        torch = f"; it was set beside torch, beside which all medians are {alone}"
    asked = f", where at least {LEAST:g} was asked" if precision == "float32" else ""
    return (
        f"{title}: medians over shapes and numbers of tokens are, with "
        f"{'; with '.join(told)} (the target, of the first three shapes: {wanted}"
        f"{torch}). The least of all cells is "
        f"{least:.2f}{asked}: {cell['shape']}, {_tokens(cell['tokens'])}, "
        f"{cell['masks']} masks, {_cent(at)}."
    )


def _share(own: list[Row], peak: float, title: str) -> str:
    shares = [
        (rate(row, s) / peak, row["cell"], s)
        for row in own
        for s in SHARED
        if s in row["sparse"]
    ]
    met = sum(share >= SHARE for share, *_ in shares)
    least, cell, sparsity = min(shares, key=lambda item: item[0])
    return (
        f"{title} with {MANY} tokens and 50 to 80 % removed reaches "
        f"{100 * median(share for share, *_ in shares):.0f} % of the measured peak of "
        f"multiply-adds in the median, and at least {100 * SHARE:.0f} % in {met} of "
        f"{len(shares)} cells; the least is {100 * least:.0f} % ({cell['shape']}, "
        f"{TITLES[cell['weights']]}, {cell['masks']} masks, {_cent(sparsity)})."
    )


def _tokens(n: int) -> str:
    return "1 token" if n == 1 else f"{n} tokens"


def _summary(rows: list[Row]) -> str:
    sparsities = list(rows[0]["sparse"])
    lines = []
    for precision in _values(rows, "precision"):
        for pattern in _values(_where(rows, precision=precision), "pattern"):
            for weights in TITLES:
                for masks in ("uniform", "uneven", "encoder"):
                    own = _where(
                        rows,
                        precision=precision,
                        pattern=pattern,
                        weights=weights,
                        masks=masks,
                    )
                    if not own:
                        continue
                    line = [f"{pattern}, {precision}", weights, masks]
                    for s in sparsities:
                        values = [speed_up(row, s) for row in own]
                        line.append(f"{median(values):.2f} ({min(values):.2f})")
                    lines.append(line)
    header = ["pattern", "weights", "masks", *map(_cent, sparsities)]
    return _pages.table(header, lines)


def _dense(rows: list[Row]) -> str:
    counts = sorted(_values(rows, "tokens"))
    lines = []
    for weights in TITLES:
        own = _where(rows, weights=weights)
        names = dict.fromkeys(name for row in own for name in row["dense"])
        for name in sorted(names, key=lambda name: name.split()[::-1]):
            line = [name, weights]
            for tokens in counts:
                ratio = median(
                    fastest(row, "float32")[0] / row["dense"][name]["us"]
                    for row in _where(own, tokens=tokens)
                    if name in row["dense"]
                )
                line.append(f"{ratio:.2f}")
            lines.append(line)
    return _pages.table(["engine", "weights", *map(_tokens, counts)], lines)


def _beside_int8(rows: list[Row]) -> str:
    sparsities = list(rows[0]["sparse"])
    lines = []
    for precision, pattern in TARGET_PATTERN.items():
        for weights in TITLES:
            own = _where(rows, precision=precision, pattern=pattern, weights=weights)
            for tokens in sorted(_values(own, "tokens")):
                these = _where(own, tokens=tokens)
                ratios = [
                    f"{median(speed_up(row, s, 'int8') for row in these):.2f}"
                    for s in sparsities
                ]
                title = f"{pattern}, {precision}"
                lines.append([title, weights, _tokens(tokens), *ratios])
    header = ["pattern", "weights", "tokens", *map(_cent, sparsities)]
    return _pages.table(header, lines)


def _details(rows: list[Row]) -> str:
    sparsities = list(rows[0]["sparse"])
    lines = []
    for weights in TITLES:
        for shape in _values(rows, "shape"):
            for tokens in sorted(_values(rows, "tokens")):
                for row in _where(rows, weights=weights, shape=shape, tokens=tokens):
                    cell = row["cell"]
                    dense, engine = fastest(row, cell["precision"])
                    line = [shape, str(tokens), weights, cell["masks"]]
                    line.append(f"{number(dense)}, {engine}")
                    for s in sparsities:
                        us = row["sparse"][s]["us"]
                        line.append(f"{number(us)} ({speed_up(row, s):.2f})")
                    lines.append(line)
    header = ["shape", "tokens", "weights", "masks", "fastest dense"]
    return _pages.table([*header, *map(_cent, sparsities)], lines)


def _draw_speed(rows: list[Row], file: Path) -> None:
    precisions = _values(rows, "precision")
    counts = sorted(_values(rows, "tokens"))
    rows = _where(rows, weights="memory") or rows
    figure, axes = _pages.new_figure(len(precisions), len(counts), width=2.6)
    handles: dict[str, Any] = {}
    for i, precision in enumerate(precisions):
        for j, tokens in enumerate(counts):
            ax = axes[i, j]
            own = _where(rows, precision=precision, tokens=tokens)
            for pattern in _values(own, "pattern"):
                these = _where(own, pattern=pattern)
                sparsities = list(these[0]["sparse"])
                y = [median(speed_up(row, s) for row in these) for s in sparsities]
                x = [100 * float(s) for s in sparsities]
                (line,) = ax.plot(x, y, "o-", ms=3, color=COLOURS[pattern])
                handles.setdefault(pattern, line)
            ax.axhline(1, color="#bbbbbb", lw=0.8)
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter("{x:g}")
            ax.set_title(f"{precision}, {_tokens(tokens)}", loc="left", fontsize=9)
            ax.set_xlabel("removed (%)")
        axes[i, 0].set_ylabel("speed over dense")
    _legend(figure, handles, 6)
    _pages.save(figure, file)


def _draw_roofline(rows: list[Row], machine: Row, file: Path) -> None:
    precisions, kinds = _values(rows, "precision"), _values(rows, "weights")
    figure, axes = _pages.new_figure(len(precisions), len(kinds), width=4.2, height=3)
    handles: dict[str, Any] = {}
    for i, precision in enumerate(precisions):
        for j, weights in enumerate(kinds):
            ax = axes[i, j]
            own = _where(rows, precision=precision, weights=weights)
            for tokens in sorted(_values(own, "tokens")):
                these = _where(own, tokens=tokens)
                points = [
                    (intensity(row, s), rate(row, s))
                    for row in these
                    for s in row["sparse"]
                ]
                (line,) = ax.plot(
                    *zip(*points, strict=True), "o", ms=2.5, color=SHADES[tokens]
                )
                handles.setdefault(_tokens(tokens), line)
            ax.set_xscale("log")
            ax.set_yscale("log")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("")
            _roof(ax, machine, precision)
            ax.set_title(f"{precision}, {TITLES[weights]}", loc="left", fontsize=9)
            ax.set_xlabel("operations for each byte")
        axes[i, 0].set_ylabel("GFLOP/s on what is stored")
    _legend(figure, handles, 4)
    _pages.save(figure, file)


def _roof(ax: Any, machine: Row, precision: str) -> None:
    """Draw what reading and multiply-adds allow."""
    peak = machine.get("operations", {}).get(precision)
    if peak is None or not ax.lines:
        return
    left, right = ax.get_xlim()
    sizes = list(machine["reading"])
    for size in (sizes[1], sizes[-1]):
        speed = machine["reading"][size]
        knee = peak / speed
        x = [left, min(knee, right), right]
        y = [min(speed * at, peak) for at in x]
        ax.plot(x, y, color="#999999", lw=0.8)
        ax.annotate(_size(int(size)), (left, speed * left), fontsize=7, color="#777777")


def _legend(figure: Any, handles: dict[str, Any], columns: int) -> None:
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )
