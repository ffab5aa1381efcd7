"""Products with a matrix stored by blocks, on each instruction set and without."""

import gc
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew import _native
from vitalfew._native import _blocksparse, _blocksparse_twins
from vitalfew._native._blocksparse_twins import narrow, widen

KERNELS = [(_blocksparse_twins.BlockSparse, "numpy")]
if _native.COMPILED:
    KERNELS += [(_blocksparse.BlockSparse, level) for level in _blocksparse.levels()]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[1])
needs_compiled = pytest.mark.skipif(
    not _native.COMPILED, reason="installed without the compiled part"
)
HEIGHTS = [1, 2, 4, 8, 16]


def gelu(z):
    tail = np.vectorize(math.erfc, otypes=[float])(-z / math.sqrt(2))
    return z * tail / 2


def silu(z):
    with np.errstate(over="ignore"):
        return z / (1 + np.exp(-z))


ACTIVATIONS = {
    "none": lambda z: z,
    "relu": lambda z: np.where(z < 0, 0, z),
    "gelu": gelu,
    "silu": silu,
}


def matrix(rng, n_out, n_in, height, density):
    """Parts of a random matrix, and itself with zeros where nothing is stored."""
    stored = rng.random((-(-n_out // height), n_in)) < density
    W = np.zeros((len(stored) * height, n_in), np.float32)
    W[:n_out] = (
        rng.standard_normal((n_out, n_in)) * np.repeat(stored, height, 0)[:n_out]
    )
    i, j = np.nonzero(stored)
    starts = np.concatenate(([0], np.cumsum(stored.sum(1)))).astype(np.int64)
    tiles = W.reshape(len(stored), height, n_in).swapaxes(1, 2)
    return (starts, j.astype(np.int32), np.ascontiguousarray(tiles[i, j])), W[:n_out]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def halved(rng, n_out, n_in, height, density=0.5):
    """Parts of a random matrix of bfloat16 of which pairs are stored, and itself."""
    stored = rng.random((-(-n_out // height), -(-n_in // 2))) < density
    W = np.zeros((len(stored) * height, 2 * stored.shape[1]), np.uint16)
    W[:n_out, :n_in] = narrow(normal(rng, n_out, n_in))
    W[~np.kron(stored, np.ones((height, 2), bool))] = 0
    down, across = stored.shape
    words = W.view(np.uint32).reshape(down, height, across).swapaxes(1, 2)
    starts = np.concatenate(([0], np.cumsum(stored.sum(1)))).astype(np.int64)
    i, j = np.nonzero(stored)
    parts = starts, j.astype(np.int32), np.ascontiguousarray(words[i, j])
    return parts, widen(W[:n_out, :n_in])


def close(found, z, terms):
    """Within the error of sums of so many terms of about 1 in single precision."""
    scale = max(1.0, np.abs(z).max(initial=0))
    np.testing.assert_allclose(found, z, rtol=0, atol=1e-6 * scale * (1 + terms**0.5))


@given(
    st.integers(0, 10**6),
    st.sampled_from(KERNELS),
    st.sampled_from(HEIGHTS),
    st.integers(0, 150),
    st.integers(0, 100),
    st.integers(0, 150),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.sampled_from(list(ACTIVATIONS)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(1, 3),
)
def test_products_are_those_of_double_precision(
    seed, kernel, height, n_out, n_in, n, density, activation, has, threads
):
    rng = np.random.default_rng(seed)
    parts, W = matrix(rng, n_out, n_in, height, density)
    bias = normal(rng, n_out) if has[0] else None
    x, residual = normal(rng, n, n_in), normal(rng, n, n_out) if has[1] else None
    made, level = kernel
    A = made(*parts, n_out, n_in, bias, activation, level)
    z = x.astype(float) @ W.T.astype(float)
    z += 0 if bias is None else bias
    z += 0 if residual is None else residual
    z = ACTIVATIONS[activation](z)
    if has[2]:
        y = np.full((n, n_out), np.nan, np.float32)
        A.tokens(x, y, residual, threads)
    else:
        turned = np.full((n_out, n), np.nan, np.float32)
        residual = None if residual is None else np.ascontiguousarray(residual.T)
        A.features(np.ascontiguousarray(x.T), turned, residual, threads)
        y = turned.T
    close(y, z, n_in)


@given(
    st.integers(0, 10**6),
    st.sampled_from(KERNELS),
    st.sampled_from(HEIGHTS),
    st.integers(0, 90),
    st.integers(0, 60),
    st.integers(0, 9) | st.integers(0, 100),
    st.sampled_from(list(ACTIVATIONS)),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 3),
)
def test_products_of_halves_are_exact_but_for_the_result(
    seed, kernel, height, n_out, half, n, activation, has, threads
):
    rng = np.random.default_rng(seed)
    parts, W = halved(rng, n_out, 2 * half, height)
    bias = normal(rng, n_out) if has[0] else None
    made, level = kernel
    A = made(*parts, n_out, 2 * half, bias, activation, level)
    x = narrow(normal(rng, n, 2 * half))
    residual = narrow(normal(rng, n, n_out)) if has[1] else None
    z = widen(x).astype(float) @ W.T.astype(float)
    z += 0 if bias is None else bias
    z += 0 if residual is None else widen(residual)
    z = ACTIVATIONS[activation](z)
    y = np.zeros((n, n_out), np.uint16)
    A.tokens(x, y, residual, threads)
    # half a unit in the last of 8 bits, and the error of the sum
    np.testing.assert_allclose(widen(y), z, rtol=2.0**-8, atol=1e-5 * (1 + half**0.5))


@given(
    st.integers(0, 10**6),
    st.sampled_from(KERNELS),
    st.sampled_from(HEIGHTS),
    st.integers(0, 150),
    st.integers(0, 150) | st.integers(250, 300),
    st.integers(0, 9) | st.integers(0, 150),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.sampled_from(list(ACTIVATIONS)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(1, 3),
)
def test_products_of_halves_take_and_give_single_numbers(
    seed, kernel, height, n_out, n_in, n, density, activation, has, threads
):
    """Tokens are rounded; neither residual nor result is."""
    rng = np.random.default_rng(seed)
    parts, W = halved(rng, n_out, n_in, height, density)
    bias = normal(rng, n_out) if has[0] else None
    made, level = kernel
    A = made(*parts, n_out, n_in, bias, activation, level)
    around = normal(rng, n + 1, n_in + 3)
    x = around[1:, 2:-1]
    y = normal(rng, n, n_out)
    residual = (y if has[2] else normal(rng, n, n_out)) if has[1] else None
    z = widen(narrow(x)).astype(float) @ W.T.astype(float)
    z += 0 if bias is None else bias
    z += 0 if residual is None else residual
    A.tokens(x, y, residual, threads)
    close(y, ACTIVATIONS[activation](z), n_in)


@each_kernel
@pytest.mark.parametrize("height", HEIGHTS)
def test_single_numbers_meet_halves_in_any_number_of_tokens(rng, kernel, height):
    """They are rounded as by the twin; beside what is written nothing changes."""
    made, level = kernel
    n_out, n_in = 37, 23
    parts, W = halved(rng, n_out, n_in, height)
    A = made(*parts, n_out, n_in, None, "none", level)
    twin = _blocksparse_twins.BlockSparse(*parts, n_out, n_in)
    for n in range(1, 41):
        x = np.full((n + 2, n_in + 5), np.nan, np.float32)
        tokens = x[1:-1, 3:-2]
        tokens[...] = normal(rng, n, n_in)
        # ties, and what is next to them
        ties = normal(rng, n, n_in).view(np.uint32) & 0xFFFF0000 | 0x8000
        ties += rng.integers(-1, 2, ties.shape).astype(np.uint32)
        tokens[::2] = ties.view(np.float32)[::2]
        y, z = np.full((n + 2, n_out + 6), 7.0, np.float32), np.zeros((n, n_out))
        A.tokens(tokens, y[1:-1, 5:-1])
        z = z.astype(np.float32)
        twin.tokens(tokens, z)
        close(y[1:-1, 5:-1], z, n_in)
        exact = widen(narrow(tokens)).astype(float) @ W.T.astype(float)
        close(y[1:-1, 5:-1], exact, n_in)
        y[1:-1, 5:-1] = 7
        assert np.all(y == 7)


@each_kernel
@pytest.mark.parametrize("n", [1, 3, 20])
def test_single_numbers_become_the_nearest_halves(rng, kernel, n):
    """Of two the even, and infinity and NaN where they belong."""
    made, level = kernel
    bits = rng.integers(0, 2**32, 3001, dtype=np.uint32)
    bits[::3] &= 0xFFFF8000  # half of these lie in the middle
    bits[:4] = 0x7F7FFFFF, 0x7F7F7FFF, 0x7F800001, 0xFFFFFFFF
    bits[4:6] = 0x7F800000, 0xFF800000
    bits[bits & 0x7F800000 == 0] = 0  # which processors may take for zero
    numbers = bits.view(np.float32)
    one = np.zeros((3002, 2), np.uint16)
    i = np.arange(3001)
    one[i, i % 2] = 0x3F80
    words = one.view(np.uint32)[:3001]
    parts = np.arange(3002), (i // 2).astype(np.int32), words
    A = made(*parts, 3001, 3001, None, "none", level)
    finite = numbers.copy()
    finite[~np.isfinite(widen(narrow(numbers)))] = 3
    found = np.zeros((n, 3001), np.float32)
    A.tokens(np.tile(finite, (n, 1)), found)
    np.testing.assert_array_equal(found, np.tile(widen(narrow(finite)), (n, 1)))
    for k in range(6):
        x, y = np.ones((n, 3001), np.float32), np.zeros((n, 3001), np.float32)
        x[:, 10 + k] = numbers[k]
        A.tokens(x, y)
        np.testing.assert_array_equal(y[:, 10 + k], widen(narrow(numbers))[[k] * n])
        # it meets a weight of zero in the row of the other column of its pair
        others = np.delete(y, [10 + k, (10 + k) ^ 1], axis=1)
        assert np.all(others == 1)


def words_of(W, stored, height):
    """Parts of a matrix of signed bytes, of which quads are stored."""
    down, across = stored.shape
    tiles = np.zeros((down * height, across * 4), np.int8)
    tiles[: len(W), : W.shape[1]] = W
    tiles *= np.repeat(np.repeat(stored, height, 0), 4, 1)
    words = tiles.view("<u4").reshape(down, height, across).swapaxes(1, 2)
    starts = np.concatenate(([0], np.cumsum(stored.sum(1)))).astype(np.int64)
    i, j = np.nonzero(stored)
    parts = starts, j.astype(np.int32), np.ascontiguousarray(words[i, j])
    return parts, tiles[: len(W), : W.shape[1]].astype(int)


def random_bytes(rng, n_out, n_in, height, density=0.5):
    stored = rng.random((-(-n_out // height), -(-n_in // 4))) < density
    return words_of(rng.integers(-128, 128, (n_out, n_in)), stored, height)


@given(
    st.integers(0, 10**6),
    st.sampled_from(KERNELS),
    st.sampled_from(HEIGHTS),
    st.integers(0, 150),
    st.integers(0, 100) | st.integers(500, 600),
    st.integers(0, 9) | st.integers(0, 150),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.sampled_from(list(ACTIVATIONS)),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 3),
)
def test_products_of_bytes_are_those_of_rounded_tokens(
    seed, kernel, height, n_out, n_in, n, density, activation, has, threads
):
    rng = np.random.default_rng(seed)
    parts, W = random_bytes(rng, n_out, n_in, height, density)
    rows = np.exp(rng.standard_normal(n_out)).astype(np.float32) / 500
    bias = normal(rng, n_out) if has[0] else None
    residual = normal(rng, n, n_out) if has[1] else None
    around = normal(rng, n + 1, n_in + 3) * np.exp(4 * normal(rng, n + 1, 1))
    x = around[1:, 2:-1]
    made, level = kernel
    A = made(*parts, n_out, n_in, bias, activation, level, rows)
    largest = np.abs(x).max(1, keepdims=True, initial=1e-30)
    q = np.rint(x * (np.float32(127) / largest))
    z = (q @ W.T.astype(float)) * rows * (largest.astype(float) / 127)
    scale = np.abs(z)
    for add in (bias, residual):
        if add is not None:
            z, scale = z + add, scale + np.abs(add)
    y = np.full((n, n_out), np.nan, np.float32)
    A.tokens(x, y, residual, threads)
    wrong = np.abs(y - ACTIVATIONS[activation](z))
    assert np.all(wrong <= 2e-6 * scale + 1e-7)


@each_kernel
@pytest.mark.parametrize("height", HEIGHTS)
def test_sums_of_bytes_are_exact(rng, kernel, height):
    """Of the extremes too, for any number of tokens; beside them nothing changes."""
    made, level = kernel
    for n_out, n_in in ((37, 23), (20, 300)):
        stored = rng.random((-(-n_out // height), -(-n_in // 4))) < 0.8
        W = rng.choice([-128, -127, 127, 5], (n_out, n_in))
        parts, W = words_of(W, stored, height)
        A = made(*parts, n_out, n_in, None, "none", level, np.ones(n_out, np.float32))
        for n in range(1, 41) if n_in == 23 else (1, 4, 7, 16, 40):
            x = np.full((n + 2, n_in + 5), np.nan, np.float32)
            tokens = x[1:-1, 3:-2]
            tokens[...] = rng.integers(-127, 128, (n, n_in))
            tokens[::2] = rng.choice([-127, 127], (len(tokens[::2]), n_in))
            tokens[:, 7] = -127  # so that the scale is 1
            y = np.full((n + 2, n_out + 6), 7.0, np.float32)
            A.tokens(tokens, y[1:-1, 5:-1])
            np.testing.assert_array_equal(y[1:-1, 5:-1], tokens @ W.T)
            y[1:-1, 5:-1] = 7
            assert np.all(y == 7)


@each_kernel
@pytest.mark.parametrize("n", [1, 6, 20])
def test_tokens_that_bytes_cannot_hold(rng, kernel, n):
    made, level = kernel
    parts, W = random_bytes(rng, 40, 150, 8)
    rows, bias, residual = normal(rng, 40), normal(rng, 40), normal(rng, n, 40)
    A = made(*parts, 40, 150, bias, "silu", level, rows)
    B = made(*parts, 40, 150, None, "none", level, rows)
    x, y = normal(rng, n, 150), np.zeros((n, 40), np.float32)
    B.tokens(x, y)
    for column in (0, 70, 149):
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            odd, found = x.copy(), y.copy()
            odd[n // 2, column] = bad
            B.tokens(odd, found)
            assert np.isnan(found[n // 2]).all()
            others = np.arange(n) != n // 2
            np.testing.assert_array_equal(found[others], y[others])
    x[0] = 0
    A.tokens(x, y, residual)
    none, empty = (np.zeros(6, np.int64), np.zeros(0, np.int32)), np.zeros((0, 8))
    C = made(*none, empty.astype(np.float32), 40, 150, bias, "silu", level)
    alone = np.zeros((n, 40), np.float32)
    C.tokens(x, alone, residual)
    np.testing.assert_array_equal(y[0], alone[0])
    for size in (1e-45, 3e-44, 1e-41, 1e-38, 1e-36, 1e-30, 1e30, 3.4e38):
        x = rng.uniform(-1, 1, (n, 150)) * size
        x = x.astype(np.float32)
        unit = np.float32(max(np.abs(x).max() / 127, 1.2e-38))
        B = made(*parts, 40, 150, None, "none", level, np.full(40, 1e-9, np.float32))
        B.tokens(x, y)
        z = (x.astype(float) @ W.T) * 1e-9
        # half a unit for each feature; what is below 1e-45 is lost
        bound = 0.51 * unit.astype(float) * 1e-9 * np.abs(W).sum(1) + 1e-44
        assert np.all(np.abs(y - z) <= bound)


@each_kernel
def test_products_are_rounded_before_the_nearest_byte_is_taken(kernel):
    """A fused multiplication and addition would not see these ties."""
    made, level = kernel
    largest = np.float32(2.9)
    inverse = np.float32(127) / largest
    middle = (np.arange(127) + 0.5) / inverse.astype(float)
    x = (middle.astype(np.float32).view(np.int32) + np.arange(-2, 3)[:, None]).ravel()
    x = np.append(x.view(np.float32), largest)
    product = x * inverse
    q = np.rint(product)
    fused = np.rint(x.astype(float) * inverse.astype(float))
    assert (q != fused).sum() > 9
    n = len(x)
    one = (np.uint32(1) << 8 * (np.arange(n) % 4)).astype(np.uint32)[:, None]
    parts = np.arange(n + 1), (np.arange(n) // 4).astype(np.int32), one
    A = made(*parts, n, n, None, "none", level, np.ones(n, np.float32))
    for tokens in (1, 20):
        y = np.zeros((tokens, n), np.float32)
        A.tokens(np.tile(x, (tokens, 1)), y)
        np.testing.assert_array_equal(np.rint(y * inverse), np.tile(q, (tokens, 1)))


@needs_compiled
def test_products_of_bytes_are_the_same_on_all_levels(rng):
    for height in HEIGHTS:
        parts, _ = random_bytes(rng, 45, 203, height)
        rows = normal(rng, 45)
        for n in (1, 2, 5, 16, 33):
            x = normal(rng, n, 203) * np.exp(3 * normal(rng, n, 203))
            found = np.zeros((len(KERNELS), n, 45), np.float32)
            for y, (made, level) in zip(found, KERNELS, strict=True):
                made(*parts, 45, 203, None, "none", level, rows).tokens(x, y)
            np.testing.assert_array_equal(found, found[:1].repeat(len(found), 0))


@each_kernel
def test_bytes_that_do_not_fit_are_refused(rng, kernel):
    made, level = kernel
    parts, _ = random_bytes(rng, 6, 10, 4, 1.0)
    rows = np.ones(6, np.float32)
    A = made(*parts, 6, 10, None, "none", level, rows)
    x, y = normal(rng, 2, 10), np.zeros((2, 6), np.float32)
    A.tokens(x, y)
    assert A.nbytes == parts[1].nbytes + parts[2].nbytes + parts[0].nbytes + 8 * 6
    far = (parts[0], parts[1] + 1, parts[2])
    real = (*parts[:2], parts[2].view(np.float32))
    for arguments in (
        (*parts, 6, 8, None, "none", level, rows),
        (*far, 6, 10, None, "none", level, rows),
        (*parts, 6, 65793, None, "none", level, rows),
        (*parts, 6, 10, None, "none", level, rows[:5]),
        (*real, 6, 10, None, "none", level, rows),
    ):
        with pytest.raises(ValueError, match="must"):
            made(*arguments)
    made(*parts, 6, 65792, None, "none", level, rows)
    with pytest.raises(TypeError):
        made(*parts, 6, 10, None, "none", level, rows.astype(float))
    for bad in (normal(rng, 2, 12), normal(rng, 2, 3), normal(rng, 2, 20)[:, ::2]):
        with pytest.raises(ValueError, match="must"):
            A.tokens(bad, y)
    for kind in (np.int8, np.float64):
        with pytest.raises(TypeError):
            A.tokens(x.astype(kind), y)
    with pytest.raises((TypeError, ValueError)):
        A.tokens(x.astype(np.uint16), y.astype(np.uint16))
    with pytest.raises(ValueError, match="single precision"):
        A.features(np.ascontiguousarray(x.T), np.ascontiguousarray(y.T))
    images = x.reshape(2, 10, 1, 1)
    with pytest.raises(ValueError, match="single precision"):
        A.images(images, y.reshape(2, 6, 1, 1), kernel=(1, 1))


@each_kernel
def test_rounding_to_halves_takes_the_nearest_and_of_two_the_even(rng, kernel):
    made, level = kernel
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint32)
    bits[::3] &= 0xFFFF8000  # half of these lie in the middle
    numbers = bits.view(np.float32)
    none = np.zeros(188 + 1, np.int64), np.zeros(0, np.int32)
    bias_only = made(
        *none, np.zeros((0, 16), np.uint32), 3000, 2, numbers, "none", level
    )
    found = np.zeros((1, 3000), np.uint16)
    bias_only.tokens(np.zeros((1, 2), np.uint16), found)
    finite = np.isfinite(numbers)
    below = (bits >> 16).astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = numbers.astype(float)
        down = np.abs(widen(below).astype(float) - exact)
        up = np.abs(widen(below + np.uint16(1)).astype(float) - exact)
    nearest = below + ((up < down) | ((up == down) & (below % 2 == 1)))
    largest = (below & 0x7FFF) == 0x7F7F  # what lies above it is infinite
    kept = finite & ~largest
    for halves in (found[0], narrow(numbers)):
        np.testing.assert_array_equal(halves[kept], nearest[kept])
        assert np.isnan(widen(halves[np.isnan(numbers)])).all()


@each_kernel
def test_halves_that_do_not_fit_are_refused(rng, kernel):
    made, level = kernel
    parts = np.array([0, 2]), np.array([0, 2], np.int32), np.ones((2, 4), np.uint32)
    A = made(*parts, 3, 6, None, "none", level)
    x, y = np.zeros((2, 6), np.uint16), np.zeros((2, 3), np.uint16)
    A.tokens(x, y)
    odd = np.zeros((2, 7), np.uint16)
    with pytest.raises(ValueError, match="must"):
        made(*parts, 3, 4, None, "none", level)
    made(*parts, 3, 5, None, "none", level).tokens(x, y)
    for bad in (odd[:, :6], np.zeros(13, np.uint16)[1:].reshape(2, 6), x[:, :4].copy()):
        with pytest.raises(ValueError, match="must"):
            A.tokens(bad, y)
    singles = x.astype(np.float32), y.astype(np.float32)
    A.tokens(*singles)
    mixed = [(x, singles[1]), (singles[0], y), (x, y, singles[1]), (*singles, y)]
    for arguments in mixed:
        with pytest.raises(TypeError):
            A.tokens(*arguments)
    for bad in (np.zeros((2, 5), np.float32), np.zeros((2, 8), np.float32)):
        with pytest.raises(ValueError, match="must"):
            A.tokens(bad, singles[1])
    with pytest.raises((TypeError, ValueError)):
        A.features(x.T.astype(np.float32), y.T.astype(np.float32))


@each_kernel
@pytest.mark.parametrize("height", HEIGHTS)
def test_any_number_of_tokens(rng, kernel, height):
    """Beside what is written nothing changes, and what lies beside is not read."""
    made, level = kernel
    parts, W = matrix(rng, 37, 23, height, 0.5)
    A = made(*parts, 37, 23, None, "none", level)
    for n in range(1, 41):
        x = np.full((n + 2, 23 + 5), np.nan, np.float32)
        x[1:-1, 3:26] = normal(rng, n, 23)
        z = x[1:-1, 3:26].astype(float) @ W.T.astype(float)
        y = np.full((n + 2, 37 + 6), 7.0, np.float32)
        A.tokens(x[1:-1, 3:26], y[1:-1, 5:42])
        close(y[1:-1, 5:42], z, 23)
        y[1:-1, 5:42] = 7
        assert np.all(y == 7)
        xf = np.full((25, n + 3), np.nan, np.float32)
        xf[1:-1, 1:-2] = x[1:-1, 3:26].T
        yf = np.full((39, n + 3), 7.0, np.float32)
        A.features(xf[1:-1, 1:-2], yf[1:-1, 2:-1])
        close(yf[1:-1, 2:-1], z.T, 23)
        yf[1:-1, 2:-1] = 7
        assert np.all(yf == 7)


@each_kernel
@pytest.mark.parametrize("n", [1, 3, 7, 20])
def test_only_what_is_stored_is_looked_at(rng, kernel, n):
    made, level = kernel
    for height in HEIGHTS:
        parts, W = matrix(rng, 32, 24, height, 0.3)
        stored = np.zeros((32, 24), bool)
        starts, columns, _ = parts
        for run in range(len(starts) - 1):
            met = columns[starts[run] : starts[run + 1]]
            stored[run * height : (run + 1) * height, met] = True
        A = made(*parts, 32, 24, None, "none", level)
        for bad in (np.nan, np.inf):
            x = normal(rng, n, 24)
            x[:, 5] = bad
            for y in (np.zeros((n, 32), np.float32), np.zeros((32, n), np.float32)):
                if y.shape == (n, 32):
                    A.tokens(x, y)
                    found = y
                else:
                    A.features(np.ascontiguousarray(x.T), y)
                    found = y.T
                finite = np.isfinite(found)
                np.testing.assert_array_equal(finite, np.tile(~stored[:, 5], (n, 1)))
                rest = np.where(np.arange(24) == 5, 0, x).astype(float) @ W.T
                close(found[finite], rest[finite], 24)


@each_kernel
def test_small_numbers_are_not_flushed(kernel):
    made, level = kernel
    starts, columns = np.array([0, 1]), np.array([0], np.int32)
    tiny = np.float32(1e-42)
    A = made(starts, columns, np.ones((1, 4), np.float32), 4, 1, None, "none", level)
    for n in (1, 2, 5, 33):
        y = np.zeros((n, 4), np.float32)
        A.tokens(np.full((n, 1), tiny), y)
        assert np.all(y == tiny)


@each_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_their_definitions(kernel, activation):
    made, level = kernel
    x = np.concatenate((np.linspace(-30, 30, 6001), [-1e30, -200, 0, 200, 1e30]))
    x = x.astype(np.float32)[:, None]
    parts = np.array([0, 1]), np.array([0], np.int32), np.ones((1, 1), np.float32)
    A = made(*parts, 1, 1, None, activation, level)
    y = np.zeros_like(x)
    A.tokens(x, y)
    z = ACTIVATIONS[activation](x.astype(float))
    np.testing.assert_allclose(y, z, rtol=5e-7, atol=1e-7)
    with np.errstate(over="ignore"):
        far = np.where(np.abs(z) > 1e-30, z, np.nan)  # the tails keep their digits
    kept = np.isfinite(far) & (np.abs(x) < 9)
    np.testing.assert_allclose(y[kept], far[kept], rtol=1e-5)
    odd = np.array([[np.nan], [np.inf]], np.float32)
    y = np.zeros((2, 1), np.float32)
    A.tokens(odd, y)
    assert np.isnan(y[0, 0])
    assert y[1, 0] == np.inf


def convolved(x, W, stride, padding, dilation):
    """Convolution by its definition, in double precision."""
    n, c, h, w = x.shape
    o, _, kh, kw = W.shape
    wide = np.zeros((n, c, h + 2 * padding[0], w + 2 * padding[1]))
    wide[:, :, padding[0] : padding[0] + h, padding[1] : padding[1] + w] = x
    rows = (wide.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (wide.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    z = np.zeros((n, o, rows, columns))
    for i in range(rows):
        for j in range(columns):
            at = np.ix_(
                range(n),
                range(c),
                i * stride[0] + dilation[0] * np.arange(kh),
                j * stride[1] + dilation[1] * np.arange(kw),
            )
            z[:, :, i, j] = np.einsum("nchw,ochw->no", wide[at], W)
    return z


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    st.integers(0, 10**6),
    st.sampled_from(KERNELS),
    st.sampled_from(HEIGHTS),
    st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(1, 40)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    pairs,
    pairs,
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    pairs,
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 2),
)
def test_convolutions_are_those_of_double_precision(
    seed, kernel, height, sizes, image, size, stride, padding, dilation, has, threads
):
    rng = np.random.default_rng(seed)
    n, channels, n_out = sizes
    free = [image[i] + 2 * padding[i] - dilation[i] * (size[i] - 1) - 1 for i in (0, 1)]
    made, level = kernel
    n_in = channels * size[0] * size[1]
    parts, W = matrix(rng, n_out, n_in, height, 0.5)
    A = made(*parts, n_out, n_in, None, "relu", level)
    x = normal(rng, n, channels + 1, image[0] + 1, image[1] + 2)
    x = x[:, 1:, 1:, 1:-1]
    options = {"kernel": size, "stride": stride, "padding": padding}
    options["dilation"] = dilation
    if min(free) < 0:
        shape = [max(0, f // s + 1) for f, s in zip(free, stride, strict=True)]
        A.images(x, np.zeros((n, n_out, *shape), np.float32), **options)
        return
    z = convolved(x, W.reshape(n_out, channels, *size), stride, padding, dilation)
    residual = z.astype(np.float32)[..., ::-1].copy() if has[0] else None
    z = np.maximum(z + (0 if residual is None else residual), 0)
    around = np.full((n, n_out + 1, z.shape[2] + 1, z.shape[3] + 1), 7.0, np.float32)
    y = around[:, 1:, 1:, 1:] if has[1] else np.zeros(z.shape, np.float32)
    for _ in range(2):  # the second time with what the first has laid out
        A.images(x, y, residual, threads=threads, **options)
        close(y, z, n_in)
    around[:, 1:, 1:, 1:] = 7
    assert np.all(around == 7)


@each_kernel
def test_one_matrix_serves_images_of_many_sizes(rng, kernel):
    made, level = kernel
    parts, W = matrix(rng, 20, 18, 4, 0.5)
    A = made(*parts, 20, 18, None, "none", level)
    for h, w, stride in ((9, 9, 1), (4, 30, 2), (30, 4, 1), (3, 3, 2), (9, 9, 2)):
        x = normal(rng, 1, 2, h, w)
        z = convolved(x, W.reshape(20, 2, 3, 3), (stride,) * 2, (1, 1), (1, 1))
        y = np.zeros(z.shape, np.float32)
        A.images(x, y, kernel=(3, 3), stride=(stride,) * 2, padding=(1, 1))
        close(y, z, 18)


@needs_compiled
@given(st.integers(0, 10**6), st.sampled_from(HEIGHTS), st.integers(0, 20))
def test_products_are_those_of_the_twin(seed, height, n):
    rng = np.random.default_rng(seed)
    parts, _ = matrix(rng, 30, 18, height, 0.5)
    bias = normal(rng, 30)
    x, residual = normal(rng, n, 18), normal(rng, n, 30)
    images, kernel = normal(rng, n, 2, 4, 4), {"kernel": (3, 3)}
    found = []
    for made in (_blocksparse.BlockSparse, _blocksparse_twins.BlockSparse):
        A = made(*parts, 30, 18, bias, "gelu")
        y, yf = np.zeros((n, 30), np.float32), np.zeros((30, n), np.float32)
        yi = np.zeros((n, 30, 2, 2), np.float32)
        A.tokens(x, y, residual)
        A.features(np.ascontiguousarray(x.T), yf)
        A.images(images, yi, **kernel)
        found.append((y, yf, yi, A.nbytes))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@each_kernel
def test_the_residual_may_be_the_result(rng, kernel):
    made, level = kernel
    parts, W = matrix(rng, 40, 16, 8, 0.5)
    A = made(*parts, 40, 16, None, "none", level)
    for n in (1, 4, 50):
        x, y = normal(rng, n, 16), normal(rng, n, 40)
        z = x.astype(float) @ W.T.astype(float) + y
        A.tokens(x, y, y)
        close(y, z, 16)


def good(rng):
    parts, _ = matrix(rng, 10, 6, 4, 0.7)
    return dict(zip(("starts", "columns", "values"), parts, strict=True)) | {
        "n_out": 10,
        "n_in": 6,
        "bias": normal(rng, 10),
    }


@each_kernel
def test_broken_indices_are_refused(rng, kernel):
    made, level = kernel
    whole = good(rng)
    made(**whole, level=level)
    starts, columns, values = (whole[n] for n in ("starts", "columns", "values"))
    falling = starts.copy()
    falling[1] = starts[2] + 1
    negative = starts.copy()
    negative[1] = -1
    late, early = starts.copy(), starts.copy()
    late[-1] += 1
    early[0] = 1
    far, before, farthest = columns.copy(), columns.copy(), columns.copy()
    far[-1], before[0], farthest[1] = 6, -1, np.iinfo(np.int32).max
    wrong = [{"starts": s} for s in (falling, negative, late, early, starts[:-1])]
    wrong += [{"starts": starts[:0]}, {"starts": np.append(starts, starts[-1])}]
    wrong += [{"columns": c} for c in (far, before, farthest, columns[:-1])]
    wrong += [{"values": v} for v in (values[:-1], values[:, :3].copy())]
    wrong += [{"values": values[:, :0].copy()}, {"n_out": 5}, {"n_out": 13}]
    wrong += [{"n_in": int(columns.max())}, {"n_in": 2**31}, {"n_out": 2**31}]
    wrong += [{"bias": np.zeros(9, np.float32)}, {"activation": "tanh"}]
    wrong += [{"level": "sse9"}]
    for change in wrong:
        with pytest.raises(ValueError, match="must"):
            made(**({"level": level} | whole | change))
    for name, dtype in (
        ("starts", np.int32),
        ("columns", np.int64),
        ("values", np.float64),
        ("bias", np.float64),
    ):
        with pytest.raises(TypeError):
            made(**(whole | {name: whole[name].astype(dtype)}), level=level)


@each_kernel
def test_arrays_that_do_not_fit_are_refused(rng, kernel):
    made, level = kernel
    A = made(**good(rng), level=level)
    x, y = normal(rng, 5, 6), np.zeros((5, 10), np.float32)
    block = normal(rng, 20, 20)
    apart = np.lib.stride_tricks.as_strided
    crossing = apart(block, (5, 10), (20, 4))
    unaligned = np.zeros(5 * 6 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(5, 6)
    for arguments in (
        (x[:4], y),
        (x[:, :5].copy(), y),
        (x, y[:, :9].copy()),
        (x[0], y),
        (x[None], y),
        (normal(rng, 5, 12)[:, ::2], y),
        (x[::-1], y),
        (unaligned, y),
        (x, np.zeros((5, 20), np.float32)[:, ::2]),
        (x, crossing),
        (block[:5, :6], block[4:9, :10]),
        (x, y, np.zeros((4, 10), np.float32)),
        (x, y, np.zeros(10, np.float32)),
        (x, block[:5, :10], block[1:6, :10]),
    ):
        with pytest.raises(ValueError, match="must"):
            A.tokens(*arguments)
    wide = [np.ascontiguousarray(x.T), np.zeros((10, 5), np.float32)]
    A.features(*wide)
    for i, worse in ((0, wide[0][:5]), (1, wide[1][:9]), (1, wide[1][:, :4].copy())):
        with pytest.raises(ValueError, match="must"):
            A.features(*(worse if i == j else a for j, a in enumerate(wide)))
    fixed = y.copy()
    fixed.flags.writeable = False
    for arguments in (
        (x.astype(float), y),
        (x, y.astype(float)),
        (x, y, y.astype(float)),
        (x, fixed),
    ):
        with pytest.raises(TypeError):
            A.tokens(*arguments)


@each_kernel
def test_images_that_do_not_fit_are_refused(rng, kernel):
    made, level = kernel
    A = made(**good(rng), level=level)
    x, y = normal(rng, 2, 1, 5, 5), np.zeros((2, 10, 4, 3), np.float32)
    A.images(x, y, kernel=(2, 3))
    for change in (
        {"kernel": (3, 2)},
        {"kernel": (2, 2)},
        {"kernel": (-2, -3)},
        {"kernel": (2**20, 3)},
        {"stride": (0, 1)},
        {"stride": (2, 1)},
        {"padding": (-1, 0)},
        {"padding": (2**40, 2**40)},
        {"dilation": (0, 1)},
        {"dilation": (2, 1)},
        {"x": x[0]},
        {"x": x[:1]},
        {"y": y[:, :9]},
        {"x": x[:, :, :, ::-1]},
    ):
        options = {"x": x, "y": y, "kernel": (2, 3)} | change
        with pytest.raises(ValueError, match="must"):
            A.images(**options)


@needs_compiled
def test_what_is_given_may_change_afterwards(rng):
    parts, W = matrix(rng, 20, 10, 4, 0.6)
    A = _blocksparse.BlockSparse(*parts, 20, 10)
    for part in parts:
        part[...] = 10**6
    x, y = normal(rng, 3, 10), np.zeros((3, 20), np.float32)
    A.tokens(x, y)
    close(y, x.astype(float) @ W.T.astype(float), 10)


@needs_compiled
@pytest.mark.parametrize("level", _blocksparse.levels())
def test_large_products_on_many_threads_from_many_threads(rng, level):
    parts, W = matrix(rng, 700, 300, 8, 0.5)
    A = _blocksparse.BlockSparse(*parts, 700, 300, level=level)
    words, whole = random_bytes(rng, 700, 300, 8)
    rows = np.ones(700, np.float32)
    B = _blocksparse.BlockSparse(*words, 700, 300, level=level, scales=rows)
    pairs, rounded = halved(rng, 700, 300, 8)
    C = _blocksparse.BlockSparse(*pairs, 700, 300, level=level)
    sizes = [1, 3, 16, 100, 130, 17, 8, 64] * 2

    def work(n):
        x = np.random.default_rng(n).standard_normal((n, 300)).astype(np.float32)
        y = np.zeros((n, 700), np.float32)
        for _ in range(5):
            A.tokens(x, y, threads=4)
        numbers = np.rint(20 * x)
        numbers[:, 0] = 127
        z = np.zeros_like(y)
        for _ in range(5):
            B.tokens(numbers, z, threads=4)
        np.testing.assert_array_equal(z, numbers @ whole.T)
        for _ in range(5):
            C.tokens(x, z, threads=4)
        close(z, widen(narrow(x)).astype(float) @ rounded.T.astype(float), 300)
        return np.abs(y - x.astype(float) @ W.T.astype(float)).max()

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, sizes)) < 1e-4


CHILD = """
import os, numpy as np
from vitalfew._native._blocksparse import BlockSparse
W = np.ones((300, 8), np.float32)
A = BlockSparse(np.arange(0, 7501, 300 // 12), np.arange(7500, dtype=np.int32) % 300,
                np.ones((7500, 1), np.float32), 300, 300)
x, y = np.ones((200, 300), np.float32), np.zeros((200, 300), np.float32)
A.tokens(x, y, threads=3)
child = os.fork()
y[:] = 0
A.tokens(x, y, threads=3)
assert (y == 25).all()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("both")
"""


@needs_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
def test_a_forked_child_has_threads_of_its_own():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.strip() == "both", run.stderr


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@needs_compiled
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_a_hundred_thousand_calls_leave_nothing(rng):
    """With numbers of each kind, and with what is refused."""
    single, _ = matrix(rng, 16, 64, 8, 0.5)
    words, _ = random_bytes(rng, 16, 64, 8)
    rows = np.ones(16, np.float32)
    x, y = normal(rng, 40, 64), np.zeros((40, 16), np.float32)
    halves = np.zeros((40, 128), np.uint16), np.zeros((40, 16), np.uint16)
    images, done = normal(rng, 1, 16, 5, 5), np.zeros((1, 16, 4, 4), np.float32)
    kinds = [
        ((*single, 16, 64), x, y),
        ((*words, 16, 128), *halves),
        ((*words, 16, 128), normal(rng, 40, 128), y),
        ((*words, 16, 64, None, "gelu", None, rows), x, y),
    ]

    def calls(count):
        for i in range(count // 56):
            made, tokens, out = kinds[i % 4]
            A = _blocksparse.BlockSparse(*made)
            for n in (0, 1, 3, 8, 20) * 10 + (40,):
                A.tokens(tokens[:n], out[:n])
            for _ in range(9 * (i % 4 == 0)):
                A.images(images, done, kernel=(2, 2))
            with pytest.raises(ValueError, match="must"):
                A.tokens(tokens, out[:3])
        gc.collect()

    calls(5000)
    before = resident()
    calls(100_000)
    # one lost workspace of the 1,785 matrices would be 10 kB
    assert resident() - before < 5e6
