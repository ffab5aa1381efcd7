"""Data sets: what generators plant, and which files `load` accepts."""

import gzip
import hashlib
import os

import numpy as np
import pytest

from vitalfew import datasets
from vitalfew.datasets import _load
from vitalfew.exceptions import DataError


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty data folder with its own table of facts."""
    monkeypatch.setenv("VITALFEW_DATA", str(tmp_path))
    facts = {}
    monkeypatch.setattr(_load, "FACTS", facts)

    def add(name, file, content):
        folder = tmp_path / name
        folder.mkdir()
        path = folder / file
        content(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        facts[name] = datasets.Facts(file, digest, "a test")
        return path

    return add


def test_arrays_of_an_npz(shelf):
    shelf("toy", "toy.npz", lambda path: np.savez(path, X=np.eye(3), y=np.arange(3)))
    data = datasets.load("toy")
    assert data.name == "toy"
    assert data.task == "a test"
    np.testing.assert_array_equal(data.arrays["X"], np.eye(3))
    assert data.arrays is data.arrays  # read once


def test_columns_of_a_parquet(shelf):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"a": [1, None, 3], "b": ["x", None, "z"]})
    shelf("toy", "toy.parquet", lambda path: pq.write_table(table, path))
    columns = datasets.load("toy").columns
    np.testing.assert_array_equal(columns["a"], [1, np.nan, 3])
    assert columns["b"].tolist() == ["x", None, "z"]


def test_text_of_a_gz(shelf):
    shelf("toy", "toy.txt.gz", lambda p: p.write_bytes(gzip.compress(b"h\xc3\xa9")))
    assert datasets.load("toy").text == "hé"


def test_nothing_is_unpickled(shelf):
    def write(path):
        np.savez(path, X=np.array([{"a": 1}], dtype=object))

    shelf("toy", "toy.npz", write)
    with pytest.raises(ValueError, match="allow_pickle"):
        datasets.load("toy").arrays  # noqa: B018


def test_the_wrong_kind_names_the_right_one(shelf):
    shelf("toy", "toy.npz", lambda path: np.savez(path, X=np.eye(3)))
    with pytest.raises(DataError, match=r"use load\('toy'\)\.arrays"):
        datasets.load("toy").columns  # noqa: B018


def test_another_file_is_refused(shelf):
    path = shelf("toy", "toy.npz", lambda path: np.savez(path, X=np.eye(3)))
    np.savez(path, X=np.zeros(3))
    with pytest.raises(DataError, match="SHA-256"):
        datasets.load("toy")


def test_a_missing_file_is_named(shelf):
    path = shelf("toy", "toy.npz", lambda path: np.savez(path, X=np.eye(3)))
    path.unlink()
    with pytest.raises(DataError, match=r"toy\.npz is not there"):
        datasets.load("toy")


def test_an_unset_variable_is_named(monkeypatch):
    monkeypatch.delenv("VITALFEW_DATA", raising=False)
    with pytest.raises(DataError, match="VITALFEW_DATA"):
        datasets.load("riboflavin")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(DataError, match="did you mean riboflavin"):
        datasets.load("ribflavin")


@pytest.mark.skipif(
    not os.environ.get("VITALFEW_DATA"), reason="VITALFEW_DATA is not set"
)
@pytest.mark.parametrize("name", sorted(datasets.FACTS))
def test_every_known_file_is_the_one_it_should_be(name):
    data = datasets.load(name)
    kind = {".npz": "arrays", ".parquet": "columns", ".gz": "text"}[data.path.suffix]
    if data.path.stat().st_size < 3_000_000:
        assert len(getattr(data, kind))


# -- generators ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        datasets.make_sparse_regression,
        datasets.make_sparse_classification,
        datasets.make_sparse_survival,
    ],
)
def test_planted_models_are_as_asked_for(make, seed):
    data = make(300, 40, 6, rng=seed)
    assert data.X.shape == (300, 40)
    assert len(data.support) == 6
    np.testing.assert_array_equal(data.support, np.flatnonzero(data.coef))
    # chained columns keep unit variance; 300 rows estimate it within 5 sigma
    assert np.all(np.abs(data.X.std(axis=0) - 1) < 5 / np.sqrt(600))
    again = make(300, 40, 6, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(data.X, again.X)


def test_signal_to_noise_is_as_asked_for(rng):
    data = datasets.make_sparse_regression(20_000, 10, 3, snr=4.0, rng=rng)
    signal = data.X @ data.coef
    # the variance of 20,000 normal numbers is known within 5 percent
    assert np.var(signal) / np.var(data.y - signal) == pytest.approx(4.0, rel=0.05)


def test_neighbours_are_correlated_as_asked_for(rng):
    data = datasets.make_sparse_regression(20_000, 4, 1, correlation=0.7, rng=rng)
    found = np.corrcoef(data.X.T)
    # a correlation of 20,000 rows is known within 0.02
    assert found[0, 1] == pytest.approx(0.7, abs=0.02)
    assert found[0, 2] == pytest.approx(0.49, abs=0.02)


def test_blocks_hide_what_counts(seed):
    data = datasets.make_correlated_blocks(4000, 100, 3, rng=seed)
    assert len(data.support) == 9
    blocks, sizes = np.unique(data.support // 10, return_counts=True)
    assert len(blocks) == 3
    assert np.all(sizes == 3)
    for block in blocks:
        assert sorted(np.sign(data.coef[block * 10 : block * 10 + 10])).count(-1) == 1
    inside = np.corrcoef(data.X[:, :10].T)[0, 1:]
    np.testing.assert_allclose(inside, 0.95, atol=0.02)  # of 4000 rows


def test_blocks_must_fit():
    with pytest.raises(ValueError, match="block_size"):
        datasets.make_correlated_blocks(50, 101, 3)


def test_a_group_counts_whole(seed):
    data = datasets.make_group_regression(200, 30, 4, group_size=3, rng=seed)
    assert data.X.shape == (200, 90)
    np.testing.assert_array_equal(np.bincount(data.groups), np.full(30, 3))
    used = np.unique(data.groups[data.coef != 0])
    np.testing.assert_array_equal(used, data.support)
    assert np.all(data.coef[np.isin(data.groups, data.support)] != 0)


def test_classes_and_events_are_both_there(seed):
    classes = datasets.make_sparse_classification(400, 20, 3, rng=seed)
    assert set(np.unique(classes.y)) == {0, 1}
    survival = datasets.make_sparse_survival(400, 20, 3, rng=seed)
    assert np.all(survival.time > 0)
    assert 0 < survival.event.sum() < 400


def test_no_active_columns_leave_noise(seed):
    data = datasets.make_sparse_regression(50, 5, 0, rng=seed)
    assert len(data.support) == 0
    assert np.std(data.y) > 0


def test_too_many_active_columns_are_refused():
    with pytest.raises(ValueError, match="n_nonzero"):
        datasets.make_sparse_regression(50, 5, 6)
