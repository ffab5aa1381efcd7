"""Layer-by-layer methods on transformers: errors of layers, and what becomes of models.

``python -m benchmarks.pruning.transformer`` prunes the 36 linear layers of the
pretrained all-MiniLM-L6-v2, each by itself with the inputs of the dense model, and
compares the errors of the layers; then the whole model, and a small GPT trained on
characters of Shakespeare, layer after layer, and measures embeddings and perplexity.
A seed is that of the calibration data.
"""

import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks._runs import (
    Clock,
    Row,
    add_choices,
    arguments,
    conduct,
    parse,
)
from benchmarks.pruning import _data, _train, _transformer_report
from benchmarks.pruning._models import lost, minilm
from vitalfew.exceptions import IncompatibleError
from vitalfew.neural import Layer, Statistics, collect, prunable_layers
from vitalfew.pruning import prune
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning._methods import find_method, fits
from vitalfew.pruning.reconstruction._layer import objective, refit
from vitalfew.structures import NM, Blocks, Cardinality

KINDS = ("layers", "gpt", "minilm")
METHODS = ("magnitude", "wanda", "obs", "admm", "iht", "local-search")
PATTERNS = ("unstructured", "2:4", "4:8", "16x1")
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
SEEDS = (0, 1, 2)
CHOICES: dict[str, tuple[Any, ...]] = {
    "kind": KINDS,
    "pattern": PATTERNS,
    "sparsity": SPARSITIES,
    "method": METHODS,
    "seed": SEEDS,
}
N_SEQUENCES, LENGTH, BATCH = 128, 128, 16
N_TEST = 64  # sequences of other articles
N_TEXTS, TEXT_LENGTH = 1_000, 64  # headlines; the first half trains the probe


def structure(pattern: str, sparsity: float) -> Any:
    """Return what may stay."""
    if pattern == "2:4":
        return NM(2, 4)
    if pattern == "4:8":
        return NM(4, 8)
    density = round(1 - sparsity, 6)
    if pattern == "16x1":
        return Blocks((16, 1), density=density)
    return Cardinality(density=density)


def settings() -> Iterator[tuple[str, float]]:
    """Yield patterns and sparsities."""
    for sparsity in SPARSITIES:
        yield "unstructured", sparsity
    for pattern in ("2:4", "4:8"):
        yield pattern, 0.5
    for sparsity in SPARSITIES:
        yield "16x1", sparsity


def cells(seeds: tuple[int, ...]) -> Iterator[Row]:
    """Yield all runs: quick methods before slow ones, a seed before the next."""
    for methods in (METHODS[:4], METHODS[4:]):
        for seed in seeds:
            for kind in KINDS:
                for pattern, sparsity in settings():
                    for method in methods:
                        yield {
                            "kind": kind,
                            "pattern": pattern,
                            "sparsity": sparsity,
                            "method": method,
                            "seed": seed,
                        }


@cache
def _encoder() -> tuple[Any, Any]:
    return minilm()


@cache
def _sequences() -> torch.Tensor:
    return _data.sequences(_encoder()[1], _data.wikitext(), LENGTH)


def calibration(seed: int, toy: bool) -> tuple[list[Any], list[Any]]:
    """Return batches to calibrate with, from the first half of the text, and others.

    Parameters
    ----------
    seed : int
        Which sequences are drawn.
    toy : bool
        Few.

    Returns
    -------
    tuple of (list of tensors, list of tensors)
        Of shape (`BATCH`, `LENGTH`); the second from the second half of the articles.
    """
    tokens = _sequences()
    half = len(tokens) // 2
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(half, generator=generator)
    rest = half + torch.randperm(len(tokens) - half, generator=generator)
    n, n_test = (16, 8) if toy else (N_SEQUENCES, N_TEST)
    return (
        list(tokens[first[:n]].split(BATCH)),
        list(tokens[rest[:n_test]].split(BATCH)),
    )


@cache
def _layers(
    seed: int, toy: bool
) -> tuple[list[Layer], dict[str, Statistics], dict[str, Statistics]]:
    """Linear layers of the encoder, with Hessians to calibrate and to test with."""
    model, _ = _encoder()
    layers, _ = prunable_layers(model, include="encoder.*")
    if toy:
        layers = layers[:6]
    train, test = calibration(seed, toy)
    return (
        layers,
        collect(model, layers, train, {"hessian", "input_square"}),
        collect(model, layers, test, {"hessian"}),
    )


def _answer(
    method: Any, weight: Any, known: Statistics, bound: Any, rng: Any
) -> torch.Tensor:
    """Prune one matrix as `prune` does."""
    if not isinstance(method, Criterion):
        return method.reconstruct(weight, known, bound, rng)
    score = method.score(weight, known, rng)
    if method.within_outputs and isinstance(bound, Cardinality):
        order = score.argsort(dim=1).argsort(dim=1)
        score = (order + 1).to(score.dtype)
    support = bound.largest(score.sqrt())
    return support.embed(support.restrict(weight))


def by_layers(cell: Row, toy: bool) -> Row:
    """Prune each layer by itself and refit all answers alike.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Few layers, little text.

    Returns
    -------
    dict
        Relative errors of every layer as returned and refitted, the latter on other
        text as well; CPU seconds of the method and of the refit.
    """
    layers, known, other = _layers(cell["seed"], toy)
    wanted = structure(cell["pattern"], cell["sparsity"])
    method = find_method(cell["method"], [], True)
    if not fits(method, [wanted]):
        return {"error": f"{method.name} cannot keep to {cell['pattern']}"}
    found: dict[str, list[Any]] = {"raw": [], "refitted": [], "other": []}
    clock, again, cpu, refit_cpu = Clock(), Clock(), 0.0, 0.0
    kept = allowed = 0
    feasible = True
    for layer in layers:
        weight, H = layer.weight.clone(), known[layer.name].get("hessian")
        before = weight.clone()
        bound = wanted.on(layer.shape)
        rng = np.random.default_rng(cell["seed"])
        with clock:
            new = _answer(method, weight, known[layer.name], bound, rng)
        cpu += clock.cpu
        with again:
            best = refit(objective(weight, known[layer.name]), bound, new)
        refit_cpu += again.cpu
        kept += int(torch.count_nonzero(new))
        allowed += int(bound.budget) if cell["pattern"] != "16x1" else 16 * bound.budget
        feasible = feasible and bool(bound.contains(best))
        found["raw"].append(lost(before, new, H))
        found["refitted"].append(lost(before, best, H))
        held_out = other[layer.name].get("hessian")
        found["other"].append(lost(before, best, held_out))
    short = {k: [float(f"{v:.5g}") for v in values] for k, values in found.items()}
    return {
        **short,
        "kept": kept,
        "allowed": allowed,
        "feasible": feasible,
        "cpu": round(cpu, 3),
        "refit_cpu": round(refit_cpu, 3),
    }


def by_gpt(cell: Row, toy: bool) -> Row:
    """Prune a trained GPT layer after layer and measure its perplexity.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        A network that is not trained.

    Returns
    -------
    dict
        Test perplexity of a character before and after, median error of the layers.
    """
    data = _train.data("gpt")
    if toy:
        torch.manual_seed(0)
        model = _train.build(_train.RECIPES["gpt"]).eval()
        data = _data.Data(
            data.x, data.y, data.x_test[:20], data.y_test[:20], data.n_classes
        )
    else:
        model = _train.trained("gpt", 0)
    samples = [x for x, _ in data.calibration(N_SEQUENCES, BATCH, cell["seed"])]
    dense = _train.perplexity(model, data.x_test, data.y_test)
    found = _pruned(model, cell, samples[: 2 if toy else None], "layers.*")
    perplexity = _train.perplexity(model, data.x_test, data.y_test)
    return {"dense": dense, "perplexity": perplexity, **found}


def _pruned(model: Any, cell: Row, samples: list[Any], include: str) -> Row:
    clock = Clock()
    with clock:
        report = prune(
            model,
            structure(cell["pattern"], cell["sparsity"]),
            method=cell["method"],
            allocation="uniform",
            calibration=samples,
            include=include,
            rng=cell["seed"],
        )
    errors = [layer.error for layer in report.layers if layer.error is not None]
    return {
        "reported_error": float(np.median(errors)) if errors else None,
        "asked": report.asked,
        "kept": report.kept,
        "density": report.density,
        "cpu": round(clock.cpu, 3),
    }


@torch.no_grad()
def embeddings(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Return the mean of a text's last hidden states, of length one, as it is used."""
    parts = []
    for start in range(0, len(texts), 50):
        batch = tokenizer(
            texts[start : start + 50],
            padding=True,
            truncation=True,
            max_length=TEXT_LENGTH,
            return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        parts.append(functional.normalize((hidden * mask).sum(1) / mask.sum(1)))
    return torch.cat(parts)


def probe(found: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the test accuracy in per cent of a linear classifier of embeddings."""
    from sklearn.linear_model import LogisticRegression

    half = len(found) // 2
    classifier = LogisticRegression(C=10.0, max_iter=1_000)
    classifier.fit(found[:half].numpy(), labels[:half].numpy())
    return 100 * float(classifier.score(found[half:].numpy(), labels[half:].numpy()))


@cache
def _headlines(toy: bool) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Texts, labels, and embeddings by the dense encoder."""
    texts, labels = _data.news()
    n = 60 if toy else N_TEXTS
    return texts[:n], labels[:n], embeddings(*_encoder(), texts[:n])


def by_minilm(cell: Row, toy: bool) -> Row:
    """Prune the encoder layer after layer and measure its embeddings of headlines.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Few texts.

    Returns
    -------
    dict
        Mean cosine with the dense embeddings, and the accuracy of a linear classifier
        of topics on dense and on pruned ones.
    """
    texts, labels, dense = _headlines(toy)
    encoder, tokenizer = _encoder()
    model = deepcopy(encoder)
    samples, _ = calibration(cell["seed"], toy)
    found = _pruned(model, cell, samples, "encoder.*")
    after = embeddings(model, tokenizer, texts)
    return {
        "cosine": float((after * dense).sum(1).mean()),
        "dense": probe(dense, labels),
        "accuracy": probe(after, labels),
        **found,
    }


def run(cell: Row, toy: bool = False) -> Row:
    """Make one run.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool, default=False
        Small.

    Returns
    -------
    dict
        As the function of its kind returns it, or the reason why it cannot be made.
    """
    kinds = {"layers": by_layers, "gpt": by_gpt, "minilm": by_minilm}
    try:
        return kinds[cell["kind"]](cell, toy)
    except IncompatibleError as error:
        return {"error": str(error)}


def main(given: list[str] | None = None) -> int:
    """Run the experiment and write its page.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0, or 1 when runs are left for another time.
    """
    parser = arguments(__doc__, "pruning_transformer.jsonl")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    return conduct(
        options,
        cells((0,) if options.toy else SEEDS),
        lambda cell: run(cell, options.toy),
        _transformer_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
