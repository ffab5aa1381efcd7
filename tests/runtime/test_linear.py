"""Pruned matrices as linear maps, against double precision and torch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew._native._blocksparse_twins import narrow, widen
from vitalfew.packed import pack
from vitalfew.runtime import SparseConv2d, SparseLinear
from vitalfew.runtime._runs import quads_of, runs_of

BLOCKS = [(1, 1), (4, 1), (8, 1), (16, 1), (32, 1), (16, 2), (4, 4), (24, 3), (64, 64)]


def pruned(rng, n_out, n_in, block, density=0.4):
    grid = [-(-n // b) for n, b in zip((n_out, n_in), block, strict=True)]
    kept = np.kron(rng.random(grid) < density, np.ones(block, bool))[:n_out, :n_in]
    return (rng.standard_normal((n_out, n_in)) * kept).astype(np.float32)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@given(
    st.integers(0, 10**6),
    st.integers(0, 70),
    st.integers(0, 40),
    st.sampled_from(BLOCKS) | st.tuples(st.integers(1, 40), st.integers(1, 9)),
)
def test_runs_hold_the_stored_blocks(seed, n_out, n_in, block):
    rng = np.random.default_rng(seed)
    W = pruned(rng, n_out, n_in, block)
    packed = pack(W, block)
    starts, columns, values = runs_of(packed)
    height = values.shape[1]
    found, met = np.zeros((2, (len(starts) - 1) * height, n_in))
    for run in range(len(starts) - 1):
        rows = slice(run * height, (run + 1) * height)
        for e in range(starts[run], starts[run + 1]):
            found[rows, columns[e]] += values[e]
            met[rows, columns[e]] += 1
    np.testing.assert_array_equal(found[:n_out], W)
    assert not found[n_out:].any()
    r, c = packed.block
    stored = np.kron(packed.stored, np.ones((r, c)))[:n_out, :n_in]
    np.testing.assert_array_equal(met[:n_out], stored)


@pytest.mark.parametrize("block", BLOCKS)
def test_tokens_and_features(rng, block):
    W = pruned(rng, 50, 30, block)
    bias = normal(rng, 50)
    layer = SparseLinear(W, block=block, bias=bias, activation="relu", threads=2)
    assert 0 < layer.nbytes < 3 * W.nbytes
    for shape in ((), (1,), (7,), (3, 9), (2, 0), (2, 3, 20)):
        x, residual = normal(rng, *shape, 30), normal(rng, *shape, 50)
        z = np.maximum(x.astype(float) @ W.T.astype(float) + bias + residual, 0)
        out = np.zeros((*shape, 50), np.float32)
        assert layer(x, residual, out=out) is out
        np.testing.assert_allclose(out, z, atol=1e-4)
        if len(shape) == 1:
            y = layer.features(x.T, residual.T)
            np.testing.assert_allclose(y.T, z, atol=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("n_in", [30, 31])
def test_tokens_of_bfloat16(rng, block, n_in):
    W = widen(narrow(pruned(rng, 50, n_in, block)))
    bits = (W.view(np.uint32) >> 16).astype(np.uint16)
    for weights in (W, pack(bits, block, dtype="bfloat16")):
        layer = SparseLinear(weights, block=block, precision="bfloat16")
        for shape in ((), (7,), (3, 20)):
            x = narrow(normal(rng, *shape, n_in))
            residual = narrow(normal(rng, *shape, 50))
            z = widen(x).astype(float) @ W.T.astype(float) + widen(residual)
            y = widen(layer(x, residual))
            np.testing.assert_allclose(y, z, rtol=2.0**-8, atol=1e-4)
            wide = np.zeros((*shape, 50), np.float32)
            assert layer(widen(x), widen(residual), out=wide) is wide
            np.testing.assert_allclose(wide, z, atol=1e-4)
            for mixed in (
                {"x": x, "residual": widen(residual)},
                {"x": widen(x), "residual": residual},
                {"x": x, "out": wide},
                {"x": widen(x), "out": narrow(wide)},
            ):
                with pytest.raises(ValueError, match="must be"):
                    layer(**mixed)
    with pytest.raises(ValueError, match="precision"):
        layer.features(x.T)
    with pytest.raises(ValueError, match="uint16 or float32"):
        layer(widen(x).astype(float))
    with pytest.raises(ValueError, match="precision"):
        SparseLinear(W, precision="float16")


@pytest.mark.parametrize("block", [*BLOCKS, (16, 4), (8, 8)])
@pytest.mark.parametrize("n_in", [30, 31, 256])
def test_tokens_that_are_rounded_to_bytes(rng, block, n_in):
    """What is lost is at most half a unit of either factor of each product."""
    W = pruned(rng, 50, n_in, block) * np.exp(4 * normal(rng, 50, 1))
    W[7] = 0
    bias = normal(rng, 50)
    for weights in (W, pack(W, block)):
        layer = SparseLinear(
            weights, block=block, bias=bias, activation="relu", precision="int8"
        )
        for shape in ((), (0,), (1,), (7,), (3, 20)):
            x = normal(rng, *shape, n_in) * np.exp(4 * normal(rng, *shape, 1))
            residual = normal(rng, *shape, 50)
            z = x.astype(float) @ W.T.astype(float) + bias + residual
            y = layer(x, residual)
            assert y.dtype == np.float32
            s, rows = (np.abs(a).max(-1, keepdims=True) / 127 for a in (x, W))
            bound = rows[:, 0] / 2 * (np.abs(x) @ (W != 0).T)
            bound += s / 2 * np.abs(W).sum(1) + s / 4 * (rows[:, 0] * (W != 0).sum(1))
            wrong = np.abs(y - np.maximum(z, 0))
            assert np.all(wrong <= 1.001 * bound + 1e-6 * (1 + np.abs(z)))


@given(
    st.integers(0, 10**6),
    st.integers(0, 50),
    st.integers(0, 40),
    st.sampled_from(BLOCKS) | st.tuples(st.integers(1, 20), st.integers(1, 9)),
)
def test_quads_hold_the_weights_to_half_a_unit(seed, n_out, n_in, block):
    rng = np.random.default_rng(seed)
    W = pruned(rng, n_out, n_in, block) * np.exp(4 * normal(rng, n_out, 1))
    (starts, columns, words), scales = quads_of(runs_of(pack(W, block)), n_in, n_out)
    height = words.shape[1]
    found = np.zeros(((len(starts) - 1) * height, n_in + -n_in % 4))
    for run in range(len(starts) - 1):
        for e in range(starts[run], starts[run + 1]):
            at = slice(4 * columns[e], 4 * columns[e] + 4)
            found[run * height : (run + 1) * height, at] = (
                words[e].astype("<u4")[:, None].view(np.int8)
            )
    assert not found[n_out:].any()
    assert not found[:, n_in:].any()
    found = found[:n_out, :n_in]
    largest = np.abs(W).max(1, initial=0)
    tiny = np.finfo(np.float32).tiny
    np.testing.assert_allclose(scales, np.maximum(largest / 127, tiny), rtol=1e-6)
    assert np.all(np.abs(found).max(1, initial=0)[largest > 0] == 127)
    assert np.all(np.abs(found * scales[:, None] - W) <= 0.5001 * scales[:, None])


def test_what_bytes_cannot_hold(rng):
    W, x = pruned(rng, 16, 24, (8, 4), 1), normal(rng, 5, 24)
    W[3, 4], W[9, 20], W[1], W[2] = np.nan, -np.inf, 1e-41, 1e25
    rest = np.setdiff1d(np.arange(16), (3, 9, 2))
    layer = SparseLinear(W, block=(8, 4), precision="int8")
    y = layer(x)
    assert np.isnan(y[:, [3, 9]]).all()
    np.testing.assert_allclose(y[:, rest], x @ W[rest].T, atol=0.3)
    np.testing.assert_allclose(y[:, 2] / 1e25, x.sum(1), atol=0.3)
    bias = normal(rng, 16)
    layer = SparseLinear(np.zeros_like(W), bias=bias, precision="int8")
    np.testing.assert_array_equal(layer(x), np.tile(bias, (5, 1)))
    x[2, 3] = np.nan
    assert np.isnan(layer(x)[2]).all()
    with pytest.raises(ValueError, match="precision"):
        layer.features(x.T)
    for wrong in (x.astype(float), x.view(np.int32), x[:, :20]):
        with pytest.raises(ValueError, match="must"):
            layer(wrong)
    with pytest.raises(ValueError, match="65792"):
        SparseLinear(np.ones((1, 65793), np.float32), precision="int8")


def test_arrays_of_any_layout(rng):
    W = np.sign(pruned(rng, 20, 12, (4, 1)))
    x = rng.integers(-127, 128, (9, 12)).astype(np.float32)
    x[:, 5] = 127  # for bytes these are exact
    for precision in ("float32", "int8"):
        any_layout(SparseLinear(pack(W, (4, 1)), precision=precision), x, x @ W.T)


def any_layout(layer, x, z):
    octets = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = octets[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    spread = np.zeros((18, 24), np.float32)
    spread[::2, ::2] = x
    for same in (x, np.asfortranarray(x), x[::-1][::-1], unaligned, spread[::2, ::2]):
        np.testing.assert_allclose(layer(same), z, atol=1e-5)
    np.testing.assert_allclose(layer(x[::-1]), z[::-1], atol=1e-5)
    one = np.broadcast_to(x[0], (5, 12))
    np.testing.assert_allclose(layer(one), np.tile(z[0], (5, 1)), atol=1e-5)


def test_weights_of_other_precisions(rng):
    W = pruned(rng, 16, 8, (4, 1))
    bits = (W.view(np.uint32) >> 16).astype(np.uint16)
    coarse = (bits.astype(np.uint32) << 16).view(np.float32)
    x = normal(rng, 3, 8)
    for packed, same in (
        (pack(W.astype(float), (4, 1)), W),
        (pack(W.astype(np.float16), (4, 1)), W.astype(np.float16).astype(np.float32)),
        (pack(bits, (4, 1), dtype="bfloat16"), coarse),
    ):
        np.testing.assert_allclose(SparseLinear(packed)(x), x @ same.T, atol=1e-5)
    with pytest.raises(ValueError, match="scale"):
        SparseLinear(pack(np.ones((4, 4), np.int8), (4, 1)))


def test_what_torch_gives(rng):
    torch = pytest.importorskip("torch")
    W = pruned(rng, 24, 16, (8, 1))
    x = torch.from_numpy(normal(rng, 5, 16))
    y = SparseLinear(torch.from_numpy(W), bias=torch.ones(24))(x)
    np.testing.assert_allclose(y, x.numpy() @ W.T + 1, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_convolutions_are_those_of_torch(rng, size, stride):
    torch = pytest.importorskip("torch")
    W = pruned(rng, 20, 6 * size[0] * size[1], (4, 1)).reshape(20, 6, *size)
    bias = normal(rng, 20)
    x = normal(rng, 2, 6, 15, 11)
    where = {"stride": stride, "padding": (1, 2), "dilation": (1, 2)}
    z = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, W, bias)), **where)
    residual = normal(rng, *z.shape)
    z = np.maximum(z.numpy() + residual, 0)
    packed = pack(W.reshape(20, -1), (4, 1))
    for weights, kernel in ((W, None), (packed, size)):
        layer = SparseConv2d(
            weights, kernel=kernel, bias=bias, activation="relu", block=(4, 1), **where
        )
        np.testing.assert_allclose(layer(x, residual), z, atol=1e-4)
    out = np.zeros(z.shape, np.float32)
    assert layer(x[:, :, :, ::-1], out=out) is out


def test_what_does_not_fit_is_refused(rng):
    layer = SparseLinear(pruned(rng, 8, 6, (4, 1)))
    x = normal(rng, 3, 6)
    for arguments, out in (
        ((x[:, :5],), None),
        ((np.float32(1),), None),
        ((x.astype(float),), None),
        ((x, x), None),
        ((x,), np.zeros((3, 8))),
        ((x,), np.zeros((2, 8), np.float32)),
        ((x,), [1.0]),
        ((x,), np.zeros((3, 16), np.float32)[:, ::2]),
    ):
        with pytest.raises(ValueError, match="must"):
            layer(*arguments, out=out)
    apart = np.zeros((2, 4, 8), np.float32)[:, :3]
    with pytest.raises(ValueError, match="one piece"):
        layer(normal(rng, 2, 3, 6), out=apart)
    with pytest.raises(ValueError, match="must"):
        layer.features(x)
    for wrong in ({"bias": np.zeros(7, np.float32)}, {"threads": 0}, {"block": (0, 1)}):
        with pytest.raises(ValueError, match="must"):
            SparseLinear(pruned(rng, 8, 6, (4, 1)), **wrong)
    W = normal(rng, 8, 2, 3, 3)
    for weights, wrong in (
        (W[0], {}),
        (W, {"kernel": (2, 2)}),
        (W, {"stride": (0, 1)}),
        (W, {"padding": (-1, 1)}),
        (W, {"dilation": (1, 0)}),
        (pack(W.reshape(8, -1), (4, 1)), {}),
        (pack(W.reshape(8, -1), (4, 1)), {"kernel": (4, 3)}),
    ):
        with pytest.raises(ValueError, match="must"):
            SparseConv2d(weights, **wrong)
    convolution = SparseConv2d(W)
    for images in (x, normal(rng, 1, 3, 5, 5), normal(rng, 1, 2, 2, 5)):
        with pytest.raises(ValueError, match="must"):
            convolution(images)
