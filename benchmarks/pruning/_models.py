"""The networks: an MLP, a residual network, a small GPT and a pretrained encoder."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class MLPNet(nn.Module):
    """Perceptron 784-40-20-10 without biases: every one of its 32,360 weights prunes.

    References
    ----------
    .. [1] R. Benbaki, W. Chen, X. Meng, H. Hazimeh, N. Ponomareva, Z. Zhao and
       R. Mazumder, "Fast as CHITA: Neural Network Pruning with Combinatorial
       Optimization", ICML 2023, section 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 40, bias=False)
        self.fc2 = nn.Linear(40, 20, bias=False)
        self.fc3 = nn.Linear(20, 10, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores of shape (n, 10) of images of shape (n, 784)."""
        hidden = torch.relu(self.fc1(images))
        return self.fc3(torch.relu(self.fc2(hidden)))


class _Block(nn.Module):
    """Two convolutions beside the identity, or beside a 1x1 convolution."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network of three stages of 16, 32 and 64 channels for 32x32 images.

    Parameters
    ----------
    n_blocks : int
        Blocks of a stage: 1, 2 and 3 are ResNet-8, ResNet-14 and ResNet-20.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image
       Recognition", CVPR 2016, section 4.2. Shortcuts that change the number of
       channels are 1x1 convolutions here (option B).
    """

    def __init__(self, n_blocks: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, n_in = [], 16
        for width in (16, 32, 64):
            for _ in range(n_blocks):
                blocks.append(_Block(n_in, width, 1 if n_in == width else 2))
                n_in = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return scores of shape (n, 10) of images of shape (n, 3, 32, 32)."""
        x = self.blocks(torch.relu(self.bn(self.conv(images))))
        return self.fc(x.mean((2, 3)))


class _Layer(nn.Module):
    """Attention, then a perceptron, each beside the identity."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        normed = self.norm1(x)
        q, k, v = (
            layer(normed).view(n, length, self.n_heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.proj(functional.gelu(self.fc(self.norm2(x))))


class GPT(nn.Module):
    """Decoder-only transformer; every product is an `nn.Linear` of its own.

    Parameters
    ----------
    n_tokens : int
        Size of the vocabulary.
    n_layers, width, n_heads : int
        Layers, channels, and heads they are cut into.
    context : int
        Longest sequence.

    References
    ----------
    .. [1] A. Radford, J. Wu, R. Child, D. Luan, D. Amodei and I. Sutskever, "Language
       Models are Unsupervised Multitask Learners", 2019, section 2.3.
    """

    def __init__(
        self, n_tokens: int, n_layers: int, width: int, n_heads: int, context: int
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(n_tokens, width)
        self.position = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(_Layer(width, n_heads) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_tokens, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                end = name.endswith(("o.weight", "proj.weight"))
                nn.init.normal_(weight, 0, 0.02 / (2 * n_layers) ** (end / 2))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of shape (n, length, n_tokens) of the tokens that follow."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.layers(self.token(tokens) + self.position(places))
        return self.head(self.norm(x))


@torch.no_grad()
def lost(before: Tensor, after: Tensor, hessian: Tensor) -> float:
    """Return the squared change of a layer's outputs over its squared outputs.

    Shares no code with the library, whose own reports it judges.

    Parameters
    ----------
    before, after : tensor of shape (n_out, n_in)
        Weights; `before` must be a copy that pruning cannot reach.
    hessian : tensor of shape (n_in, n_in)
        Sum or mean of ``x x^T`` over the inputs.

    Returns
    -------
    float
        From 0; 1 for a layer of zeros.

    Raises
    ------
    ValueError
        If there is nothing to compare with, or a weight was lost without a trace: such
        a number would pass for a perfect answer.
    """
    W, H = before.double(), hessian.double()
    D = W - after.double()
    all_of_it = float(((W @ H) * W).sum())
    share = float(((D @ H) * D).sum()) / all_of_it if all_of_it else math.nan
    if not math.isfinite(share):
        raise ValueError(f"the error of a layer is {share}, of outputs {all_of_it}")
    if torch.equal(before, after):
        raise ValueError("a pruned layer equals the dense one; was it a view?")
    return share


def minilm() -> tuple[Any, Any]:
    """Return the pretrained sentence encoder all-MiniLM-L6-v2 and its tokenizer.

    A BERT of 6 layers and 384 channels with 22.7 million weights, 10.6 million of them
    in 36 linear layers.

    Returns
    -------
    tuple of (transformers.BertModel, transformers.PreTrainedTokenizerFast)
        In evaluation mode; read from `benchmarks.pruning._pretrained`'s folder.

    Raises
    ------
    Skipped
        If the package that holds it cannot be fetched.

    References
    ----------
    .. [1] W. Wang, F. Wei, L. Dong, H. Bao, N. Yang and M. Zhou, "MiniLM: Deep
       Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
       Transformers", NeurIPS 2020.
    """
    from transformers import AutoTokenizer, BertModel

    from benchmarks.pruning._pretrained import folder

    place = folder()
    model = BertModel.from_pretrained(
        place, local_files_only=True, use_safetensors=True
    )
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    return model.eval(), tokenizer
