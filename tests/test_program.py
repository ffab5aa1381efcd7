"""Programs of several layers against double precision, and against broken steps."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erfc

from vitalfew import _native
from vitalfew._native import _blocksparse, _blocksparse_twins, _program, _program_twins
from vitalfew._native._program import ACTIVATIONS, NONE, Kind, Op, Pool


class Made(NamedTuple):
    """One of the implementations."""

    images: type
    tokens: type
    matrix: type
    level: str


TWIN = Made(
    _program_twins.ImageProgram,
    _program_twins.TokenProgram,
    _blocksparse_twins.BlockSparse,
    "numpy",
)
KINDS = [TWIN]
if _native.COMPILED:
    made = _program.ImageProgram, _program.TokenProgram, _blocksparse.BlockSparse
    KINDS += [Made(*made, level) for level in _blocksparse.levels()]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.level)
needs_compiled = pytest.mark.skipif(
    not _native.COMPILED, reason="installed without the compiled part"
)
HEIGHTS = [1, 2, 4, 8, 16]


def gelu(z):
    return z * erfc(-z / np.sqrt(2)) / 2


APPLIED = {
    "none": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "gelu": gelu,
    "silu": lambda z: z / (1 + np.exp(-z)),
}


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def pruned(rng, n_out, n_in, height, density=0.5):
    """A matrix of which runs of rows lack columns, of about unit gain."""
    kept = np.repeat(rng.random((-(-n_out // height), n_in)) < density, height, 0)
    return (normal(rng, n_out, n_in) / (1 + density * n_in) ** 0.5) * kept[:n_out]


def stored(W, height):
    """The parts of a matrix, from its entries that are not zero."""
    runs = -(-len(W) // height)
    tiles = np.zeros((runs * height, W.shape[1]), np.float32)
    tiles[: len(W)] = W
    tiles = tiles.reshape(runs, height, -1).swapaxes(1, 2)
    i, j = np.nonzero(tiles.any(2))
    starts = np.searchsorted(i, np.arange(runs + 1)).astype(np.int64)
    return starts, j.astype(np.int32), np.ascontiguousarray(tiles[i, j])


class Value(NamedTuple):
    kind: int
    index: int
    first: int
    plane: int
    pitch: int


class Plan:
    """Lays out what the steps of a network read and write."""

    def __init__(self, kind):
        self.kind = kind
        self.matrices, self.tables, self.buffers, self.steps = [], [], [], []
        self.inputs, self.outputs = [], []

    def make(self):
        return self.kind.images(
            self.matrices,
            self.tables,
            self.buffers,
            self.inputs,
            self.outputs,
            self.steps,
        )

    def outside(self, kind, *shape):
        arrays = self.inputs if kind == Kind.INPUT else self.outputs
        arrays.append(shape)
        return Value(kind, len(arrays) - 1, 0, shape[1] * shape[2], shape[2])

    def buffer(self, shape, before=(0, 0), behind=(0, 0), least=0):
        """Room with padding; that behind a row is that before the next."""
        c, h, w = shape
        pitch = max(w + max(before[1], behind[1]), least)
        plane = (before[0] + h + behind[0]) * pitch + before[1] + behind[1]
        self.buffers.append(c * plane)
        first = before[0] * pitch + before[1]
        return Value(Kind.BUFFER, len(self.buffers) - 1, first, plane, pitch)

    def copy(self, shape, source, to, step=1):
        self.steps.append([Op.COPY, *shape, *source, step, *to])

    def convolve(self, x, shape, layer, to, residual=NONE):
        """Copies the phases of the strides and multiplies."""
        (c, h, w), (kh, kw), (sy, sx) = shape, layer.kernel, layer.stride
        oh, ow = layer.size(shape)[1:]
        down = [i * layer.dilation[0] - layer.padding[0] for i in range(kh)]
        across = [i * layer.dilation[1] - layer.padding[1] for i in range(kw)]
        rows, columns = -(-h // sy), -(-w // sx)
        before = [
            max(0, *(-(u // s) for u in us))
            for us, s in zip((down, across), (sy, sx), strict=True)
        ]
        behind = [
            max(0, out + max(u // s for u in us) - n)
            for us, s, out, n in ((down, sy, oh, rows), (across, sx, ow, columns))
        ]
        v = self.buffer((c * sy * sx, rows, columns), before, behind, ow)
        for a in range(min(sy, h)):
            for b in range(min(sx, w)):
                size = c, -(-(h - a) // sy), -(-(w - b) // sx)
                first, plane = v.first + (a * sx + b) * v.plane, v.plane * sy * sx
                phase = x._replace(first=x.first + a * x.pitch + b, pitch=sy * x.pitch)
                self.copy(size, phase, v._replace(first=first, plane=plane), sx)
        W = layer.W.reshape(len(layer.W), -1)
        parts = stored(W, layer.height)
        channel, ky, kx = np.unravel_index(parts[1], (c, kh, kw))
        y, x = np.array(down)[ky], np.array(across)[kx]
        phase = (channel * sy + y % sy) * sx + x % sx
        table = v.first + phase * v.plane + y // sy * v.pitch + x // sx
        self.product(parts, layer, table, v.index, (v.pitch, oh, ow), to, residual)

    def product(self, parts, layer, table, source, grid, to, residual=NONE):
        n_out, n_in = len(layer.W), layer.W[0].size
        more = layer.bias, layer.activation, self.kind.level
        self.matrices.append(self.kind.matrix(*parts, n_out, n_in, *more))
        self.tables.append(np.asarray(table, np.int32))
        i = len(self.matrices) - 1
        self.steps.append([Op.PRODUCT, i, i, source, *grid, *to, *residual])


class Layer(NamedTuple):
    W: np.ndarray
    bias: np.ndarray
    height: int
    activation: str
    kernel: tuple = (1, 1)
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: tuple = (1, 1)

    @classmethod
    def draw(cls, rng, channels):
        kernel, stride, dilation = (
            tuple(rng.integers(1, n + 1, 2).tolist()) for n in (3, 3, 2)
        )
        padding = tuple(rng.integers(0, 3, 2).tolist())
        n_out, height = int(rng.integers(1, 40)), int(rng.choice(HEIGHTS))
        W = pruned(rng, n_out, channels * kernel[0] * kernel[1], height)
        return cls(
            W.reshape(n_out, channels, *kernel),
            normal(rng, n_out),
            height,
            str(rng.choice(ACTIVATIONS)),
            kernel,
            stride,
            padding,
            dilation,
        )

    def size(self, shape):
        parts = zip(
            shape[1:],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        )
        return len(self.W), *(
            (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in parts
        )

    def apply(self, x, residual=0):
        """Convolve in double precision, one position of the kernel after the other."""
        n, shape = len(x), self.size(x.shape[1:])
        (p, q), (sy, sx) = self.padding, self.stride
        x = np.pad(x, ((0, 0), (0, 0), (p, p), (q, q)))
        z = np.zeros((n, *shape)) + self.bias[:, None, None] + residual
        for a in range(self.kernel[0]):
            for b in range(self.kernel[1]):
                seen = x[:, :, a * self.dilation[0] :: sy, b * self.dilation[1] :: sx]
                seen = seen[:, :, : shape[1], : shape[2]]
                z += np.einsum("nchw,oc->nohw", seen, self.W[:, :, a, b].astype(float))
        return APPLIED[self.activation](z)


def pooled(x, most, padded, kernel, stride, padding, size):
    """Pool in double precision by the definition."""
    n, c, h, w = x.shape
    z = np.zeros((n, c, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            low = [i * stride[0] - padding[0], j * stride[1] - padding[1]]
            high = [a + k for a, k in zip(low, kernel, strict=True)]
            seen = x[:, :, max(low[0], 0) : high[0], max(low[1], 0) : high[1]]
            if most:
                z[:, :, i, j] = seen.max((2, 3))
                continue
            ends = [
                min(e, m + p) for e, m, p in zip(high, (h, w), padding, strict=True)
            ]
            whole = (ends[0] - low[0]) * (ends[1] - low[1])
            count = whole if padded else seen.shape[2] * seen.shape[3]
            z[:, :, i, j] = seen.sum((2, 3)) / count
    return z


def network(rng, kind):
    """A program of some layers and the same in double precision."""
    plan = Plan(kind)
    shape = tuple(rng.integers(1, (5, 20, 20)).tolist())
    given_shape = shape
    here = plan.outside(Kind.INPUT, *shape)
    functions = []
    for _ in range(rng.integers(1, 4)):
        what = rng.choice(["convolve", "residual", "pool", "add"])
        if what in ("convolve", "residual"):
            layer = Layer.draw(rng, shape[0])
            if min(layer.size(shape)) < 1:
                continue
            size = layer.size(shape)
            space = rng.integers(0, 3, 2)
            to = plan.buffer(size, space, space)
            if what == "residual":
                again = layer._replace(W=layer.W[::-1].copy(), height=1)
                plan.convolve(here, shape, again, to)
                plan.convolve(here, shape, layer, to, to)
                functions.append(lambda x, a=again, b=layer: b.apply(x, a.apply(x)))
            else:
                plan.convolve(here, shape, layer, to)
                functions.append(layer.apply)
            shape = size
        elif what == "pool":
            kernel, stride = (
                rng.integers(1, 4, 2).tolist(),
                rng.integers(1, 4, 2).tolist(),
            )
            padding = [int(rng.integers(0, k)) for k in kernel]
            up = int(rng.integers(0, 2))  # whether sizes are rounded up
            size = []
            for n, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True):
                m = (n + 2 * p - k + up * (s - 1)) // s + 1
                size.append(m - 1 if (m - 1) * s >= n + p else m)
            if min(size) < 1:
                continue
            how, padded = int(rng.integers(0, 2)), int(rng.integers(0, 2))
            to = plan.buffer((shape[0], *size))
            sides = zip(kernel, stride, padding, shape[1:], size, strict=True)
            numbers = [n for side in sides for n in side]
            plan.steps.append([Op.POOL, how, padded, shape[0], *numbers, *here, *to])
            how = how == Pool.MOST, padded, kernel, stride, padding, size
            functions.append(lambda x, how=how: pooled(x, *how))
            shape = shape[0], *size
        else:
            a, to = int(rng.integers(0, 4)), plan.buffer(shape, (1, 2))
            b = here if rng.random() < 0.5 else NONE
            plan.steps.append([Op.ADD, a, *shape, *here, *b, *to])
            twice = 1 if b is NONE else 2
            functions.append(
                lambda x, f=APPLIED[ACTIVATIONS[a]], twice=twice: f(twice * x)
            )
        here = to
    if rng.random() < 0.5:
        plan.copy(shape, here, plan.outside(Kind.OUTPUT, *shape))
    else:
        n_out, height = int(rng.integers(1, 40)), int(rng.choice(HEIGHTS))
        W = pruned(rng, n_out, shape[0], height)
        layer = Layer(W[:, :, None, None], normal(rng, n_out), height, "none")
        mean = plan.buffer((shape[0], 1, 1))
        plan.steps.append([Op.MEAN, *shape, *here, *mean])
        parts = stored(W, height)
        to = plan.outside(Kind.OUTPUT, n_out, 1, 1)
        table = parts[1] * mean.plane
        plan.product(parts, layer, table, mean.index, (1, 1, 1), to)
        functions.append(lambda x: layer.apply(x.mean((2, 3), keepdims=True)))

    def exact(x):
        for f in functions:
            x = f(x)
        return x

    return plan, given_shape, exact


@given(
    st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(0, 5), st.integers(1, 2)
)
def test_networks_are_those_of_double_precision(seed, kind, n, threads):
    rng = np.random.default_rng(seed)
    plan, shape, exact = network(rng, kind)
    program = plan.make()
    for images in (n, 1):  # the second time with buffers that are not new
        x = normal(rng, images, *shape)
        y = np.full((images, *plan.outputs[0]), np.nan, np.float32)
        program.run([x], [y], threads)
        z = exact(x.astype(float))
        scale = max(1, np.abs(z).max(initial=0))
        np.testing.assert_allclose(y, z, rtol=0, atol=2e-5 * scale)


def large(kind, rng):
    """A network with work for several threads, of few and of many positions."""
    plan = Plan(kind)
    shape = 24, 40, 33
    x, y = plan.outside(Kind.INPUT, *shape), plan.outside(Kind.OUTPUT, 300, 7, 6)
    layers = []
    for n_out, stride, padding in ((40, 1, 1), (64, 3, 1), (300, 2, 1)):
        W = pruned(rng, n_out, shape[0] * 9, 8).reshape(n_out, shape[0], 3, 3)
        more = "relu", (3, 3), (stride, stride), (padding, padding)
        layers.append(Layer(W, normal(rng, n_out), 8, *more))
        size = layers[-1].size(shape)
        to = plan.buffer(size, (1, 1), (1, 1)) if n_out < 300 else y
        plan.convolve(x, shape, layers[-1], to)
        x, shape = to, size
    return plan, layers


@each_kind
def test_threads_share_images_and_steps(rng, kind):
    plan, layers = large(kind, rng)
    program = plan.make()
    x = normal(rng, 5, *plan.inputs[0])
    z = x.astype(float)
    for layer in layers:
        z = layer.apply(z)
    found = []
    for n, threads in ((5, 1), (1, 2), (3, 4), (5, 3)):
        y = np.full((n, *plan.outputs[0]), np.nan, np.float32)
        program.run([x[:n]], [y], threads)
        np.testing.assert_allclose(y, z[:n], rtol=0, atol=1e-4)
        found.append(y)
    for y in found[1:]:
        np.testing.assert_array_equal(y, found[0][: len(y)])


@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 30), st.integers(1, 9), st.integers(1, 40)),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 4),
)
def test_layers_that_share_a_layout_need_no_copies(seed, kind, shape, side, n):
    """Residual blocks between two buffers, each layer with another width of runs."""
    rng = np.random.default_rng(seed)
    plan, half = Plan(kind), side // 2
    c, h, w = shape
    x, y = (plan.outside(k, *shape) for k in (Kind.INPUT, Kind.OUTPUT))
    here, there = (plan.buffer(shape, (half, half), (half, half)) for _ in range(2))
    plan.copy(shape, x, here)
    image = normal(rng, n, *shape)
    z, layers = image.astype(float), []
    for i in range(4):
        height, activation = int(rng.choice(HEIGHTS)), str(rng.choice(ACTIVATIONS))
        W = pruned(rng, c, c * side * side, height).reshape(c, c, side, side)
        more = activation, (side, side), (1, 1), (half, half)
        layer = Layer(W, normal(rng, c), height, *more)
        parts = stored(W.reshape(c, -1), height)
        channel, ky, kx = np.unravel_index(parts[1], (c, side, side))
        table = here.first + channel * here.plane
        table = table + (ky - half) * here.pitch + kx - half
        residual = there if i % 2 else NONE  # the very elements that are written
        grid = here.pitch, h, w
        plan.product(parts, layer, table, here.index, grid, there, residual)
        layers.append(layer)
        here, there = there, here
    plan.copy(shape, here, y)
    before = z
    for i, layer in enumerate(layers):
        before, z = z, layer.apply(z, before if i % 2 else 0)
    program, found = plan.make(), np.full((n, *shape), np.nan, np.float32)
    for threads in (1, 2):
        program.run([image], [found], threads)
        scale = max(1, np.abs(z).max())
        np.testing.assert_allclose(found, z, rtol=0, atol=3e-5 * scale)


@each_kind
def test_threads_share_what_is_no_product(rng, kind):
    plan, shape = Plan(kind), (700, 31, 30)
    x, y = plan.outside(Kind.INPUT, *shape), plan.outside(Kind.OUTPUT, *shape)
    most, mean = (plan.outside(Kind.OUTPUT, 700, *s) for s in ((15, 15), (1, 1)))
    here = plan.buffer(shape, (1, 1))
    plan.copy(shape, x, here)
    plan.steps.append([Op.ADD, 1, *shape, *here, *x, *y])
    sizes = [2, 2, 0, 31, 15, 2, 2, 0, 30, 15]
    plan.steps.append([Op.POOL, Pool.MOST, 0, 700, *sizes, *here, *most])
    plan.steps.append([Op.MEAN, *shape, *here, *mean])
    image = normal(rng, 1, *shape)
    found = [np.full((1, *s), np.nan, np.float32) for s in plan.outputs]
    plan.make().run([image], found, 3)
    np.testing.assert_array_equal(found[0], np.maximum(2 * image, 0))
    blocks = image[:, :, :30].reshape(1, 700, 15, 2, 15, 2)
    np.testing.assert_array_equal(found[1], blocks.max((3, 5)))
    np.testing.assert_allclose(found[2], image.mean((2, 3), keepdims=True), atol=1e-6)
    tokens = kind.tokens(
        [],
        [9001],
        [9001],
        [9001],
        [[Op.PACK, 0, 0], [Op.ADD, 0, 0, 0, 0, 0], [Op.UNPACK, 0, 0]],
    )
    for n in (1, 47):
        a = normal(rng, n, 9001)
        b = np.full_like(a, np.nan)
        tokens.run([a], [b], 3)
        np.testing.assert_array_equal(b, 2 * a)


@each_kind
def test_padding_stays_zero_whatever_an_image_holds(rng, kind):
    plan, _ = large(kind, rng)
    program = plan.make()
    x = normal(rng, 3, *plan.inputs[0])
    x[1] = np.nan
    y, alone = (np.zeros((n, *plan.outputs[0]), np.float32) for n in (3, 1))
    program.run([x], [y])
    assert np.isnan(y[1]).any()
    for i in (0, 2):
        plan.make().run([x[i : i + 1]], [alone])
        np.testing.assert_array_equal(y[i], alone[0])


@each_kind
def test_the_largest_of_a_window_with_nan_is_nan(rng, kind):
    plan = Plan(kind)
    x, y = plan.outside(Kind.INPUT, 1, 5, 40), plan.outside(Kind.OUTPUT, 1, 5, 40)
    side = 3, 1, 1
    sizes = [*side, 5, 5, *side, 40, 40]
    plan.steps.append([Op.POOL, Pool.MOST, 0, 1, *sizes, *x, *y])
    image = np.full((1, 1, 5, 40), -np.inf, np.float32)
    image[0, 0, 2, 20] = np.nan
    found = np.zeros_like(image)
    plan.make().run([image], [found])
    near = np.zeros((5, 40), bool)
    near[1:4, 19:22] = True
    np.testing.assert_array_equal(np.isnan(found[0, 0]), near)
    assert np.all(found[0, 0][~near] == -np.inf)


def perceptron(rng, kind, heights, sizes):
    """Layers of tokens with residuals, and the same in double precision."""
    matrices, weights = [], []
    for i, height in enumerate(heights):
        n_in, n_out = sizes[i], sizes[i + 1]
        W, bias = pruned(rng, n_out, n_in, height), normal(rng, n_out)
        activation = ACTIVATIONS[int(rng.integers(0, 4))]
        shape = n_out, n_in, bias, activation, kind.level
        matrices.append(kind.matrix(*stored(W, height), *shape))
        weights.append((W.astype(float), bias, APPLIED[activation]))
    buffers = [*sizes[:-1], sizes[1]]
    last, b = len(heights) - 1, len(heights)
    steps = [[Op.PACK, 0, 0], [Op.ADD, 1, 0, -1, 0, 0]]
    kept = rng.random() < 0.5  # whether the first buffer is but the input
    steps = [*steps[: 1 if kept else 2], [Op.PRODUCT, 0, 0, 0, 1, -1, 0]]
    steps += [[Op.PRODUCT, 0, 0, 0, b, 0, 1]]  # f(W x + f(W x))
    steps += [[Op.ADD, 3, 1, 0, b, 1], [Op.UNPACK, 1, 0]]
    steps += [[Op.PRODUCT, i, i, 0, i + 1, -1, 0] for i in range(1, last)]
    steps += [[Op.PRODUCT, last, last, 2, 1, 1, 1]]
    outputs = [sizes[1], sizes[-1]]

    def exact(x, residual):
        x = x if kept else np.maximum(x, 0)
        W, bias, f = weights[0]
        first = f(x @ W.T + bias)
        z = APPLIED["silu"](first + f(x @ W.T + bias + first))
        middle = z
        for W, bias, f in weights[1:-1]:
            z = f(z @ W.T + bias)
        W, bias, f = weights[-1]
        return middle, f(z @ W.T + bias + residual)

    inputs = [sizes[0], sizes[-1]]
    return kind.tokens(matrices, buffers, inputs, outputs, steps), exact


@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(HEIGHTS), min_size=2, max_size=4),
    st.integers(0, 9) | st.integers(0, 70),
    st.integers(1, 2),
)
def test_perceptrons_are_those_of_double_precision(seed, kind, heights, n, threads):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 90, len(heights) + 1).tolist()
    program, exact = perceptron(rng, kind, heights, sizes)
    widths = sizes[0], sizes[-1], sizes[1], sizes[-1]
    around = [np.full((n + 1, wide + 3), np.nan, np.float32) for wide in widths]
    x, residual, middle, y = (a[:n, 2:-1] for a in around)
    for _ in range(2):
        x[...], residual[...] = normal(rng, *x.shape), normal(rng, *residual.shape)
        program.run([x, residual], [middle, y], threads)
        exactly = exact(x.astype(float), residual.astype(float))
        for found, z in zip((middle, y), exactly, strict=True):
            scale = max(1, np.abs(z).max(initial=0))
            np.testing.assert_allclose(found, z, rtol=0, atol=2e-5 * scale)
    for a in around[2:]:
        a[:n, 2:-1] = np.nan
        assert np.isnan(a).all()


@each_kind
def test_threads_share_panels_and_steps(rng, kind):
    program, exact = perceptron(rng, kind, [16, 8, 8], [200, 300, 260, 280])
    for n, threads in ((1, 2), (7, 3), (60, 3), (300, 2), (20, 4)):
        x, residual = normal(rng, n, 200), normal(rng, n, 280)
        found = np.zeros((n, 300), np.float32), np.zeros((n, 280), np.float32)
        program.run([x, residual], list(found), threads)
        for y, z in zip(
            found, exact(x.astype(float), residual.astype(float)), strict=True
        ):
            np.testing.assert_allclose(y, z, rtol=0, atol=2e-5 * np.abs(z).max())


def image_parts(kind, rng):
    """Arguments of a small program with a step of each kind."""
    plan = Plan(kind)
    x, y = plan.outside(Kind.INPUT, 2, 6, 7), plan.outside(Kind.OUTPUT, 5, 1, 1)
    z = plan.outside(Kind.OUTPUT, 3, 6, 7)
    W = pruned(rng, 3, 18, 2, 0.9).reshape(3, 2, 3, 3)
    first = Layer(W, normal(rng, 3), 2, "relu", (3, 3), (1, 1), (1, 1))
    to, half = plan.buffer((3, 6, 7), (1, 1), (1, 1)), plan.buffer((3, 3, 4))
    plan.convolve(x, (2, 6, 7), first, to)
    plan.steps.append([Op.ADD, 1, 3, 6, 7, *to, *to, *z])
    plan.convolve(x, (2, 6, 7), first, to, z)
    side = 2, 2, 0
    sizes = [*side, 6, 3, *side, 7, 4]
    plan.steps.append([Op.POOL, Pool.AVERAGE, 0, 3, *sizes, *to, *half])
    mean = plan.buffer((3, 1, 1))
    plan.steps.append([Op.MEAN, 3, 3, 4, *half, *mean])
    last = Layer(pruned(rng, 5, 3, 4, 0.9)[:, :, None, None], None, 4, "silu")
    parts = stored(last.W[:, :, 0, 0], 4)
    plan.product(parts, last, parts[1] * mean.plane, mean.index, (1, 1, 1), y)
    arguments = [plan.matrices, plan.tables, plan.buffers, plan.inputs, plan.outputs]
    return [*arguments, [[int(n) for n in step] for step in plan.steps]]


def token_parts(kind, rng):
    """Arguments of a small program with a step of each kind."""
    A, B = (
        kind.matrix(
            *stored(pruned(rng, o, i, 4, 0.9), 4), o, i, None, "relu", kind.level
        )
        for o, i in ((6, 4), (4, 6))
    )
    steps = [
        [Op.PACK, 0, 0],
        [Op.PRODUCT, 0, 0, 0, 1, -1, 0],
        [Op.PRODUCT, 1, 1, 0, 2, 0, 2],
        [Op.ADD, 2, 2, 0, 0, 2],
        [Op.ADD, 0, 1, -1, 0, 1],
        [Op.PRODUCT, 1, 1, 2, 1, 1, 0],
        [Op.UNPACK, 2, 0],
    ]
    return [[A, B], [4, 6, 4], [4], [4, 4], [[int(n) for n in step] for step in steps]]


def wild(number):
    """Numbers that a broken planner might give instead."""
    near = {number - 1, number + 1, 2 * number, number // 2, 0, 1, 2, 7}
    far = {-1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**40, 2**62, -(2**62), 2**63 - 1}
    return sorted((near | far) - {number})


def variants(arguments, first):
    """Arguments with one number changed, from those lists of numbers on."""
    for place in range(first, len(arguments)):
        numbers = arguments[place]
        for i, entry in enumerate(numbers):
            whole = not isinstance(entry, list | tuple)
            for j, number in enumerate([entry] if whole else entry):
                for other in wild(number):
                    new = other if whole else [*entry[:j], other, *entry[j + 1 :]]
                    changed = [*numbers[:i], new, *numbers[i + 1 :]]
                    yield [*arguments[:place], changed, *arguments[place + 1 :]]
    steps = arguments[-1]
    for i, step in enumerate(steps):
        for new in ([], step[:-1], [*step, 0]):
            yield [*arguments[:-1], [*steps[:i], new, *steps[i + 1 :]]]
        yield [*arguments[:-1], steps[:i] + steps[i + 1 :]]
        yield [*arguments[:-1], [step, *steps]]


def built(made, arguments):
    """A program, or why there is none."""
    try:
        return made(*arguments)
    except ValueError as error:
        return str(error)


def inner(shapes):
    """Arrays of a program within others that tell what else was written."""
    around = [np.full(60 + 3 * int(np.prod(s)), 7.0, np.float32) for s in shapes]
    inside = [
        a[30:-30].reshape(3, *np.ravel(s)) for a, s in zip(around, shapes, strict=True)
    ]
    for a in inside:
        a[...] = 0.25
    return around, inside


@each_kind
@pytest.mark.parametrize("parts", [image_parts, token_parts])
def test_steps_that_are_wild_are_refused_or_do_no_harm(rng, kind, parts):
    arguments = parts(kind, rng)
    made = kind.images if parts is image_parts else kind.tokens
    made(*arguments)
    lists = 2 if parts is image_parts else 1
    accepted = refused = 0
    for i, changed in enumerate(variants(arguments, lists)):
        if kind is TWIN and i % 5:
            continue
        program = built(made, changed)
        if isinstance(program, str):
            assert "must" in program
            refused += 1
            continue
        accepted += 1
        ins, outs = changed[lists + 1], changed[lists + 2]
        sizes = [int(np.prod(s)) for s in (*changed[lists], *ins, *outs)]
        if max(sizes) > 10_000:
            continue  # too large to be tried
        (_, inputs), (around, outputs) = inner(ins), inner(outs)
        program.run(inputs, outputs)
        for a in around:
            assert np.all(a[:30] == 7)
            assert np.all(a[-30:] == 7)
    assert refused > accepted > 0


@needs_compiled
@pytest.mark.parametrize("parts", [image_parts, token_parts])
def test_wild_steps_are_refused_as_by_the_twin(parts):
    lists = 2 if parts is image_parts else 1
    pair = []
    for kind in (TWIN, KINDS[1]):
        arguments = parts(kind, np.random.default_rng(5))
        made = kind.images if parts is image_parts else kind.tokens
        pair.append((made, variants(arguments, lists)))
    (twin, twins), (compiled, others) = pair
    for ours, theirs in zip(others, twins, strict=True):
        told, expected = built(compiled, ours), built(twin, theirs)
        if isinstance(expected, str):
            assert told == expected
        else:
            assert not isinstance(told, str), told


@each_kind
def test_tables_that_leave_the_buffer_are_refused(rng, kind):
    arguments = image_parts(kind, rng)
    tables = arguments[1]
    for i, table in enumerate(tables):
        for wrong in (-1, 10**6, 2**31 - 1, -(2**31)):
            new = table.copy()
            new[len(new) // 2] = wrong
            changed = [*tables[:i], new, *tables[i + 1 :]]
            with pytest.raises(ValueError, match="must"):
                kind.images(arguments[0], changed, *arguments[2:])
        for new in (table[:-1], np.append(table, table[-1:])):
            changed = [*tables[:i], new, *tables[i + 1 :]]
            with pytest.raises(ValueError, match="must have an entry"):
                kind.images(arguments[0], changed, *arguments[2:])
        with pytest.raises(TypeError):
            kind.images(arguments[0], [table.astype(np.int64)], *arguments[2:])


@each_kind
def test_matrices_of_other_kinds_are_refused(rng, kind):
    halves = np.array([0, 1]), np.array([0], np.int32), np.ones((1, 4), np.uint32)
    pairs = kind.matrix(*halves, 4, 2, None, "none", kind.level)
    nothing = np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros((0, 4), np.float32)
    empty = kind.matrix(*nothing, 0, 3, None, "none", kind.level)
    for wrong in (pairs, empty, "A", None):
        with pytest.raises(ValueError, match="matrices must"):
            kind.images([wrong], [], [], [], [], [])
        with pytest.raises(ValueError, match="matrices must"):
            kind.tokens([wrong], [], [], [], [])


@each_kind
@pytest.mark.parametrize("parts", [image_parts, token_parts])
def test_arrays_that_do_not_fit_are_refused(rng, kind, parts):
    arguments = parts(kind, rng)
    images = parts is image_parts
    program = (kind.images if images else kind.tokens)(*arguments)
    shapes = [[tuple(np.ravel(s)) for s in a] for a in arguments[-3:-1]]
    x = [normal(rng, 2, *s) for s in shapes[0]]
    y = [np.zeros((2, *s), np.float32) for s in shapes[1]]
    program.run(x, y)
    program.run([a[:0] for a in x], [a[:0] for a in y])
    program.run(x, y, 2)
    wide = np.zeros((2, 2 * y[0].shape[1], *y[0].shape[2:]), np.float32)
    both = np.zeros((3, *y[1].shape[1:]), np.float32)
    fixed = y[0].copy()
    fixed.flags.writeable = False
    for inputs, outputs in (
        ([], y),
        (x, y[:1]),
        (x + x, y),
        ([x[0][:1]], y),
        (x, [y[0], y[1][:1]]),
        ([x[0][..., :-1]], y),
        ([x[0][:, :, None]], y),
        ([x[0].ravel()], y),
        (x, [wide[:, ::2], y[1]]),
        (x, [y[0], y[0]]),
        (x, [both[:2], both[1:]]),
        ([x[0].astype(float)], y),
        (x, [y[0].astype(float), y[1]]),
        (x, [fixed, y[1]]),
        ([None], y),
        (["x"], y),
    ):
        with pytest.raises((ValueError, TypeError)):
            program.run(inputs, outputs)
    same = np.zeros((2, *shapes[0][0]), np.float32)
    if not images:  # where shapes are the same
        with pytest.raises(ValueError, match="must not lie"):
            program.run([same], [same, y[1]])


@needs_compiled
@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2, 5, 8, 33]))
def test_programs_are_those_of_the_twin(seed, n):
    found = []
    for kind in (TWIN, KINDS[1]):
        rng = np.random.default_rng(seed)
        images = kind.images(*image_parts(kind, rng))
        tokens = kind.tokens(*token_parts(kind, rng))
        y = [np.zeros((n, *s), np.float32) for s in ((5, 1, 1), (3, 6, 7), (4,), (4,))]
        images.run([normal(rng, n, 2, 6, 7)], y[:2])
        tokens.run([normal(rng, n, 4)], y[2:])
        found.append(y)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@each_kind
def test_what_is_given_may_change_and_go(rng, kind):
    arguments = image_parts(kind, rng)
    x, y = (
        normal(rng, 2, 2, 6, 7),
        [np.zeros((2, *s), np.float32) for s in arguments[4]],
    )
    program = kind.images(*arguments)
    program.run([x], y)
    before = [a.copy() for a in y]
    for table in arguments[1]:
        table[...] = 10**6
    for numbers in arguments[:1] + arguments[2:]:
        numbers.clear()
    gc.collect()
    program.run([x], y)
    for a, b in zip(before, y, strict=True):
        np.testing.assert_array_equal(a, b)


@needs_compiled
def test_one_program_serves_several_threads(rng):
    plan, layers = large(KINDS[1], rng)
    images = plan.make()
    tokens, exact = perceptron(rng, KINDS[1], [16, 8], [100, 300, 90])

    def work(n):
        rng = np.random.default_rng(n)
        x = normal(rng, n % 3 + 1, *plan.inputs[0])
        z = x.astype(float)
        for layer in layers:
            z = layer.apply(z)
        y = np.zeros((len(x), *plan.outputs[0]), np.float32)
        a, b = normal(rng, n, 100), normal(rng, n, 90)
        c, d = np.zeros((n, 300), np.float32), np.zeros((n, 90), np.float32)
        worst = 0
        for _ in range(4):
            images.run([x], [y], 2)
            tokens.run([a, b], [c, d], 3)
            worst = max(worst, np.abs(y - z).max())
            for found, sure in zip((c, d), exact(a.astype(float), b), strict=True):
                worst = max(worst, np.abs(found - sure).max())
        return worst

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, [1, 3, 17, 60, 8, 130, 2, 48])) < 1e-3


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@needs_compiled
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_ten_thousand_calls_leave_nothing(rng):
    kind = KINDS[1]
    image, token = image_parts(kind, rng), token_parts(kind, rng)
    x, y = normal(rng, 2, 2, 6, 7), [np.zeros((2, *s), np.float32) for s in image[4]]
    a, b = normal(rng, 40, 4), [np.zeros((40, 4), np.float32) for _ in range(2)]

    def calls(count):
        for i in range(count):
            if i % 10 == 0:
                images, tokens = kind.images(*image), kind.tokens(*token)
            images.run([x], y)
            tokens.run([a[: i % 40]], [o[: i % 40] for o in b])
            if i % 10 == 7:
                with pytest.raises(ValueError, match="must"):
                    images.run([x[:1]], y)
                with pytest.raises(ValueError, match="must"):
                    kind.tokens(*token[:-1], [[Op.PACK, 0, 1]])
        gc.collect()

    calls(500)
    before = resident()
    calls(10_000)
    # one lost arena of the two thousand would be 4 kB
    assert resident() - before < 4e6
