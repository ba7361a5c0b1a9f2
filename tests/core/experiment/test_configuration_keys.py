"""Paths of keys, and the keys that a message about an unknown key suggests."""

from __future__ import annotations

from typing import Any

import pytest

from core.base.errors import UserError
from core.experiment.configuration import parse_configuration
from core.experiment.configuration_keys import key_path

BLOCKS = [{"name": "a", "kind": "conv", "filters": 2}, {"name": "mask", "kind": "output"}]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        # The same name elsewhere: in a section below, beside or above.
        ("training.learning_rate", "'training.optimizer.learning_rate'"),
        ("learning_rate", "'training.optimizer.learning_rate'"),
        ("epochs", "'training.epochs'"),
        ("network.epochs", "'training.epochs'"),
        ("training.optimizer.batch_size", "'training.batch_size'"),
        ("training.early_stop.dice", "'training.loss.dice'"),
        ("training.horizontal_flip", "'training.augmentation.horizontal_flip'"),
        ("training.network.dropout", "'network'"),
        # Nearly the same name, in the same section first.
        ("training.epoch", "'training.epochs'"),
        ("training.optimiser.learning_rate", "'training.optimizer'"),
        ("training.optimizer.bata1", "'training.optimizer.beta1'"),
        ("training.leraning_rate", "'training.optimizer.learning_rate'"),
        ("training.loss.fokal", "'training.loss.focal'"),
        ("network.blocks[0].filtres", "'network.blocks[0].filters'"),
        ("network.kernle", "'network.blocks[N].kernel'"),
        ("network.filtres", "'network.blocks[N].filters' or 'network.decoder.filters'"),
        # What frameworks and people call it.
        ("lr", "'training.optimizer.learning_rate'"),
        ("training.lr", "'training.optimizer.learning_rate'"),
        # Several sections have it: both are named, in the order of the documentation.
        ("training.name", "'training.optimizer.name' or 'training.schedule.name'"),
        ("training.patience", "'training.schedule.patience' or 'training.early_stop.patience'"),
    ],
)
def test_the_whole_path(key: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_configuration({"network": {"blocks": BLOCKS}}, [f"{key}=0.1"])
    assert caught.value.message.endswith(f"unknown key; did you mean {meant}?")


@pytest.mark.parametrize("key", ["training.zzz", "qqq", "network.blocks[0].xyzzy"])
def test_nothing_is_guessed_where_nothing_is_near(key: str) -> None:
    content: dict[str, Any] = {"network": {"blocks": BLOCKS}}
    with pytest.raises(UserError, match=r"unknown key$"):
        parse_configuration(content, [f"{key}=0.1"])


def test_key_paths_read_as_they_are_written() -> None:
    assert key_path(["network", "blocks", 3, "skip"]) == "network.blocks[3].skip"
    assert key_path([]) == ""
