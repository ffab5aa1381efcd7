"""The packed form of matrices against entries visited one by one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalfew.exceptions import DataError
from vitalfew.packed import Packed, best_block, pack, packed_bytes

DTYPES = ["float64", "float32", "float16", "int8", "bfloat16"]


def sparse(rng, shape, block, density, dtype="float32"):
    """A matrix with zeros in whole blocks, and its name of type for `pack`."""
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    kept = np.kron(rng.random(grid) < density, np.ones(block, bool))
    kept = kept[: shape[0], : shape[1]]
    if dtype == "bfloat16":
        full = rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16
        return (full * kept).astype(np.uint16), dtype
    if dtype == "int8":
        return (rng.integers(1, 100, shape) * kept).astype(dtype), None
    return (rng.standard_normal(shape) * kept).astype(dtype), None


def slowly(matrix, block):
    """Bits and values by the words of the module's docstring."""
    (n, m), (r, c) = matrix.shape, block
    bits, values = [], []
    for i in range(0, n, r):
        for j in range(0, m, c):
            entries = [
                matrix[a, b]
                for a in range(i, min(i + r, n))
                for b in range(j, min(j + c, m))
            ]
            stored = any(e != 0 for e in entries)
            bits.append(stored)
            values += entries if stored else []
    octets = [
        sum(int(bit) << k for k, bit in enumerate(bits[i : i + 8]))
        for i in range(0, len(bits), 8)
    ]
    return octets, values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [(1, 1), (4, 1), (1, 3), (2, 5), (16, 16)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 11), (8, 10), (16, 5), (3, 40)])
def test_the_form_is_as_documented_and_comes_back(rng, shape, block, dtype):
    matrix, name = sparse(rng, shape, block, 0.4, dtype)
    packed = pack(matrix, block, dtype=name)
    octets, values = slowly(matrix, block)
    assert packed.bits.tolist() == octets
    np.testing.assert_array_equal(packed.values, np.array(values, matrix.dtype))
    again = packed.unpack()
    assert again.dtype == matrix.dtype
    np.testing.assert_array_equal(again, matrix)
    assert packed.nbytes == len(octets) + len(values) * matrix.itemsize
    assert packed.dense_nbytes == matrix.nbytes


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_matrices(shape):
    matrix = np.zeros(shape, np.float32)
    packed = pack(matrix, best_block(matrix))
    assert packed.nbytes == 0
    assert packed.unpack().shape == shape


@pytest.mark.parametrize("filled", [False, True])
def test_all_or_nothing(filled):
    matrix = np.full((10, 7), 3.5 if filled else 0.0)
    packed = pack(matrix, (4, 3))
    assert packed.stored.all() == filled
    np.testing.assert_array_equal(packed.unpack(), matrix)


@pytest.mark.parametrize(
    ("block", "most"), [((16, 1), 0.103), ((1, 1), 0.132), ((4, 4), 0.103)]
)
def test_ninety_percent_pruned_takes_about_a_tenth(rng, block, most):
    shape = (512, 512)
    grid = (shape[0] // block[0], shape[1] // block[1])
    kept = np.zeros(math.prod(grid), bool)
    kept[rng.permutation(kept.size)[: kept.size // 10]] = True
    kept = np.kron(kept.reshape(grid), np.ones(block, bool))
    matrix = (rng.standard_normal(shape) * kept).astype(np.float32)
    packed = pack(matrix, best_block(matrix))
    assert packed.block == block
    assert packed.nbytes <= most * packed.dense_nbytes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(37, 29), (64, 64)])
def test_the_best_block_is_the_smallest(seed, shape):
    rng = np.random.default_rng(seed)
    blocks = [(1, 1), (2, 3), (16, 1), (4, 4), (6, 6), (1, 100), (7, 2)]
    for planted in blocks:
        matrix, _ = sparse(rng, shape, planted, 0.3)
        sizes = [pack(matrix, b).nbytes for b in blocks]
        chosen = best_block(matrix, blocks)
        assert pack(matrix, chosen).nbytes == min(sizes)
        assert chosen == blocks[sizes.index(min(sizes))]


@pytest.mark.parametrize("density", [0, 0.05, 0.5, 1])
def test_bytes_in_a_file(rng, density):
    matrix, _ = sparse(rng, (64, 48), (8, 1), density)
    packed = pack(matrix, best_block(matrix))
    least = min(packed.nbytes, matrix.nbytes)
    assert packed_bytes(matrix != 0, matrix.itemsize) == least


def test_which_values_are_zero():
    matrix = np.array([[-0.0, 0.0, 5e-324, np.nan, np.inf, 1.0]])
    packed = pack(matrix, (1, 1))
    assert packed.stored.tolist() == [[False, False, True, True, True, True]]
    assert not np.signbit(packed.unpack()).any()
    # inside a stored block every bit stays, also of a NaN
    odd = np.array([0x7FF8000000000123, 1 << 63], np.uint64).view(np.float64)
    again = pack(odd[None], (1, 2)).unpack()
    np.testing.assert_array_equal(again.view(np.uint64)[0], odd.view(np.uint64))


def test_zeros_of_bfloat16_have_signs():
    matrix = np.array([[0x8000, 0x0000, 0x0001, 0x7FC0]], np.uint16)
    packed = pack(matrix, (1, 1), dtype="bfloat16")
    assert packed.stored.tolist() == [[False, False, True, True]]


def test_views_and_foreign_byte_orders(rng):
    matrix, _ = sparse(rng, (40, 30), (1, 1), 0.3)
    for view in (matrix.T, matrix[::2, ::-1], matrix.astype(">f4")):
        np.testing.assert_array_equal(pack(view, (4, 2)).unpack(), view)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.zeros((2, 2), complex),
        np.zeros((2, 2), np.int32),
        np.zeros((2, 2), np.uint16),
        np.zeros((2, 2), object),
    ],
)
def test_what_cannot_be_packed(matrix):
    with pytest.raises(ValueError, match="matrix must"):
        pack(matrix, (1, 1))


def test_a_type_that_is_not_the_matrix_s():
    with pytest.raises(ValueError, match="matrix must"):
        pack(np.zeros((2, 2)), (1, 1), dtype="bfloat16")


@pytest.mark.parametrize("block", [(0, 1), (1,), (1, -1), (1.5, 1), (1, 1, 1)])
def test_bad_blocks(block):
    with pytest.raises(ValueError, match="block must"):
        pack(np.zeros((2, 2)), block)


def parts(**changes):
    """What makes a packed matrix of 5 x 6 in blocks of 2 x 4, with changes."""
    matrix = np.zeros((5, 6), np.float32)
    matrix[0, 5], matrix[4, 0] = 1, 2
    packed = pack(matrix, (2, 4))
    names = ("shape", "block", "dtype", "bits", "values")
    return {name: getattr(packed, name) for name in names} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (5, 7)},
        {"shape": (5,)},
        {"shape": [5, 6]},
        {"shape": (-5, 6)},
        {"shape": (5.0, 6)},
        {"shape": (True, 6)},
        {"shape": (2**40, 2**40)},
        {"shape": (2**31 - 1, 2**31 - 1)},
        {"block": (0, 4)},
        {"block": (2, -4)},
        {"block": (2**70, 4)},
        {"block": (1, 4)},
        {"block": (6, 6)},
        {"dtype": "float64"},
        {"dtype": "object"},
        {"dtype": None},
        {"bits": np.zeros(1, np.uint8)},
        {"bits": np.zeros(2, np.uint8)},
        {"bits": np.array([0b1010010], np.uint8)},
        {"bits": np.zeros((1, 1), np.uint8)},
        {"bits": np.zeros(1, np.int8)},
        {"bits": b"\0"},
        {"values": np.zeros(7, np.float32)},
        {"values": np.zeros((1, 8), np.float32)},
        {"values": np.zeros(8, np.float64)},
        {"values": np.zeros(8, ">f4")},
        {"values": None},
    ],
    ids=str,
)
def test_what_does_not_belong_together_is_refused(changes):
    assert Packed(**parts()).unpack()[0, 5] == 1
    with pytest.raises(DataError):
        Packed(**parts(**changes))


@given(
    shape=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    block=st.tuples(st.integers(1, 35), st.integers(1, 35)),
    bits=st.binary(max_size=8),
    n_values=st.integers(0, 60),
)
def test_what_is_accepted_unpacks_and_packs_to_the_same(shape, block, bits, n_values):
    try:
        packed = Packed(
            shape,
            block,
            "int8",
            np.frombuffer(bits, np.uint8),
            np.ones(n_values, np.int8),
        )
    except DataError:
        return
    again = pack(packed.unpack(), block)
    np.testing.assert_array_equal(again.bits, packed.bits)
    np.testing.assert_array_equal(again.values, packed.values)
