"""``vitalfew methods`` lists what pruning while training offers."""

import importlib
import json

import pytest

testing = pytest.importorskip("typer.testing")
pytest.importorskip("torch")

from vitalfew.cli._app import app  # noqa: E402
from vitalfew.pruning.training import (  # noqa: E402
    training_methods,
    training_schedules,
    training_scores,
)


def listed(*options):
    result = testing.CliRunner().invoke(
        app, ["methods", *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_trains_along_is_listed():
    plain = json.loads(listed("--json"))["training"]
    told = {m["name"]: m for m in plain["methods"]}
    assert sorted(told) == sorted(training_methods())
    for name, pair in training_methods().items():
        for part, known in (
            ("score", training_scores()),
            ("schedule", training_schedules()),
        ):
            thing = getattr(pair, part)
            called, bracket, _ = told[name][part].partition("(")
            assert called == thing.name
            assert bool(bracket) == (thing != known[called])
    for kind, known in (
        ("scores", training_scores()),
        ("schedules", training_schedules()),
    ):
        assert [row["name"] for row in plain[kind]] == sorted(known)
        for row in plain[kind]:
            assert row["title"].endswith(".")
            assert row["use"] == known[row["name"]].use


def test_classes_can_be_imported_from_where_it_says():
    plain = json.loads(listed("--json"))["training"]
    for row in (*plain["scores"], *plain["schedules"]):
        package, _, name = row["class"].rpartition(".")
        assert getattr(importlib.import_module(package), name).name == row["name"]


def test_tables_name_everything():
    table = listed()
    for known in (training_methods(), training_scores(), training_schedules()):
        assert all(name in table for name in known)
