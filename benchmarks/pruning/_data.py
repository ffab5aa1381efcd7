"""Real images and text, ready to train on, to calibrate with and to test on.

They are read through `vitalfew.datasets.load`, so the environment variable
``VITALFEW_DATA`` must name the folder that holds them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from benchmarks._runs import Skipped
from vitalfew.datasets import Dataset, load
from vitalfew.exceptions import DataError, MissingDependencyError

Tensor = torch.Tensor
Batch = tuple[Tensor, Tensor]

MNIST = 0.1307, 0.3081  # mean and standard deviation of its pixels
FASHION_MNIST = 0.2860, 0.3530
TEST_SHARE = 0.1  # of the characters: the last ones


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and targets, cut into a part to train on and a part to test on.

    Attributes
    ----------
    x, y : tensors
        Training part; images are normalised float32, texts are int64 tokens.
    x_test, y_test : tensors
        The rest, normalised with what the training part says.
    n_classes : int
        Classes or tokens.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    n_classes: int

    def calibration(self, n: int, size: int, seed: int) -> list[Batch]:
        """Return batches of training examples drawn without replacement.

        Parameters
        ----------
        n : int
            Examples in all.
        size : int
            Examples of a batch.
        seed : int
            Randomness of the draw.

        Returns
        -------
        list of (tensor, tensor)
            Inputs and targets; the last batch may be smaller.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.x), generator=generator)[:n]
        return [(self.x[rows], self.y[rows]) for rows in chosen.split(size)]


@cache
def mnist() -> Data:
    """Return 60,000 and 5,000 digits as rows of 784 pixels."""
    return _greys("mnist", *MNIST)


@cache
def fashion_mnist() -> Data:
    """Return 20,000 and 5,000 pieces of clothing as rows of 784 pixels."""
    return _greys("fashion_mnist", *FASHION_MNIST)


@cache
def cifar10() -> Data:
    """Return 10,000 and 2,000 photographs of shape (3, 32, 32)."""
    arrays = _found("cifar10").arrays
    x, x_test = (
        torch.from_numpy(arrays[f"X_{part}"]).permute(0, 3, 1, 2).float() / 255
        for part in ("train", "test")
    )
    mean = x.mean((0, 2, 3), keepdim=True)
    std = x.std((0, 2, 3), keepdim=True)
    return _images(
        ((x - mean) / std).contiguous(), ((x_test - mean) / std).contiguous(), arrays
    )


@cache
def shakespeare(context: int) -> Data:
    """Return plays as sequences of characters, and the characters that follow.

    Parameters
    ----------
    context : int
        Length of a sequence. Training sequences begin at every character; test
        sequences follow one another without overlap.

    Returns
    -------
    Data
        The last tenth of the text is the test part.
    """
    text = _found("tinyshakespeare").text
    letters = sorted(set(text))
    number = {letter: i for i, letter in enumerate(letters)}
    tokens = torch.tensor([number[letter] for letter in text])
    cut = len(tokens) - round(TEST_SHARE * len(tokens))
    train, test = tokens[:cut].unfold(0, context + 1, 1), tokens[cut:]
    test = test.unfold(0, context + 1, context)
    return Data(train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:], len(letters))


def sequences(tokenizer: Any, text: str, length: int) -> Tensor:
    """Return a text cut into sequences of tokens, each between its two marks.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        Whose marks of beginning and end are used.
    text : str
        Anything; what does not fill the last sequence is left out.
    length : int
        Tokens of a sequence, the marks among them.

    Returns
    -------
    tensor of shape (n, length)
        Token numbers, none of them padding.
    """
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    inner = length - 2
    body = torch.tensor(tokens[: len(tokens) // inner * inner]).view(-1, inner)
    begin = torch.full((len(body), 1), tokenizer.cls_token_id)
    end = torch.full((len(body), 1), tokenizer.sep_token_id)
    return torch.cat([begin, body, end], 1)


def wikitext() -> str:
    """Return encyclopaedia articles: the validation part of WikiText-2."""
    return str(_found("wikitext2_valid").text).replace("<unk>", "[UNK]")


def news() -> tuple[list[str], Tensor]:
    """Return 3,800 headlines with what follows them, and which of 4 topics each has."""
    columns = _found("ag_news_half").columns
    pairs = zip(columns["title"], columns["description"], strict=True)
    return [f"{title}. {rest}" for title, rest in pairs], _labels(columns)


def reviews() -> tuple[list[str], Tensor]:
    """Return 7,792 sentences of film reviews, and whether each is favourable."""
    columns = _found("sst2").columns
    return list(columns["sentence"]), _labels(columns)


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[Batch]:
    """Yield consecutive batches; the last may be smaller."""
    for start in range(0, len(x), size):
        yield x[start : start + size], y[start : start + size]


def _found(name: str) -> Dataset:
    try:
        return load(name)
    except (DataError, MissingDependencyError) as error:
        raise Skipped(f"{name}: {error}") from error


def _labels(columns: dict[str, Any]) -> Tensor:
    return torch.from_numpy(columns["label"].astype("int64"))


def _greys(name: str, mean: float, std: float) -> Data:
    arrays = _found(name).arrays
    x, x_test = (
        (torch.from_numpy(arrays[f"X_{part}"]).flatten(1).float() / 255 - mean) / std
        for part in ("train", "test")
    )
    return _images(x, x_test, arrays)


def _images(x: Tensor, x_test: Tensor, arrays: dict[str, Any]) -> Data:
    y, y_test = (
        torch.from_numpy(arrays[f"y_{part}"]).long() for part in ("train", "test")
    )
    return Data(x, y, x_test, y_test, int(y.max()) + 1)
