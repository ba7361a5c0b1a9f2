"""Configurations: complete and valid, or an error with the path of each bad key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.configuration import Configuration, Training, key_path, load_configuration, parse_configuration
from core.errors import UserError
from core.rules import AdamRule, SgdRule

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


def minimal() -> dict[str, Any]:
    blocks = [{"name": "a", "kind": "conv", "filters": 2}, {"name": "mask", "kind": "output"}]
    return {"network": {"blocks": blocks}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_shipped_is_valid_and_survives_a_round_trip(path: Path) -> None:
    configuration = load_configuration(path)
    assert Configuration.model_validate(configuration.model_dump(mode="json")) == configuration


@pytest.mark.parametrize("name", ["fcn", "configs/fcn.yaml"])
def test_own_configurations_are_found_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_configuration(Path(name)) == load_configuration(CONFIGS[0].with_name("fcn.yaml"))


def test_a_nearer_file_goes_before_the_own_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    near = tmp_path / "configs" / "fcn.yaml"
    near.write_text("network: {blocks: [{name: only, kind: output}]}\n")
    assert load_configuration(Path("configs/fcn.yaml")).network.blocks[0].name == "only"


def test_defaults_of_training_are_the_documented_ones() -> None:
    training = parse_configuration(minimal()).training
    assert (training.epochs, training.batch_size, training.seed) == (100, 32, 0)
    assert (training.optimizer.name, training.optimizer.learning_rate) == ("adam", 1e-3)
    assert (training.loss.bce, training.loss.dice, training.loss.focal) == (1, 1, 0)
    assert training.early_stop.enabled


def test_any_key_can_be_set() -> None:
    configuration = parse_configuration(
        minimal(),
        [
            "training.epochs=3",
            "network.blocks[0].filters=7",
            "network.blocks.1.kernel=5",
            "training.optimizer.learning_rate=1e-2",
            "training.clip_norm=null",
            "training.loss={bce: 0, dice: 2}",
            "training.early_stop.enabled=no",
        ],
    )
    assert configuration.training.epochs == 3
    assert configuration.network.blocks[0].model_dump()["filters"] == 7
    assert configuration.network.blocks[1].model_dump()["kernel"] == 5
    assert configuration.training.optimizer.learning_rate == 0.01
    assert configuration.training.clip_norm is None
    assert configuration.training.loss.dice == 2
    assert not configuration.training.early_stop.enabled


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("training.epoch=3", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("training.epochs=many", "training.epochs: "),
        ("training.epochs=0", "training.epochs: "),
        ("training.epochs=2.5", "training.epochs: "),
        ("training.epochs=[", "not valid YAML"),
        ("network.blocks[9].filters=3", "there is no network.blocks[9]"),
        ("network.blocks.first.filters=3", "network.blocks has no keys"),
        ("training.epochs.more=3", "training.epochs has no keys"),
        ("training.optimizer.beta1=0.3", "training.optimizer.beta1: "),
        (
            "training.optimizer.name=sgdd",
            "training.optimizer.name: received 'sgdd'; expected one of 'adam', 'adamw', 'sgd'",
        ),
        ("training.optimizer={name: sgd, beta1: 0.9}", "training.optimizer.beta1: not a key of 'sgd'"),
        ("training.optimizer={name: sgd, momentum: 1}", "training.optimizer.momentum: "),
        ("training.optimizer={momentum: 0.9}", "training.optimizer.momentum: not a key of 'adam'"),
        ("training.optimizer.bata1=0.9", "training.optimizer.bata1: unknown key; did you mean 'beta1'?"),
        ("training.optimizer=fast", "training.optimizer: "),
        ("network.blocks.0.kind=pool", "network.blocks[0].kind: received 'pool'; expected one of 'conv', "),
        ("network.blocks.1.filters=3", "network.blocks[1].filters: not a key of 'output'"),
        ("network.blocks.1={name: mask}", "network.blocks[1].kind: missing"),
        ("training.optimizer.learning_rate=.nan", "training.optimizer.learning_rate: "),
        ("training.optimizer.learning_rate=.inf", "training.optimizer.learning_rate: "),
        ("training.loss={bce: 0, dice: 0}", "training.loss: bce, dice, focal, tversky and lovasz are all 0"),
        (
            "training.loss={tversky: 1, tversky_alpha: 0, tversky_beta: 0}",
            "training.loss: with tversky_alpha and tversky_beta both 0",
        ),
        ("training.threshold=1", "training.threshold: "),
        ("training=fast", "training: "),
        ("network.blocks=null", "network.blocks: "),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    content = minimal() | {"training": {"epochs": 5}}
    with pytest.raises(UserError) as caught:
        parse_configuration(content, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: [", "not valid YAML"),
        ("", "expected the keys 'network' and 'training'; received None"),
        ("- 1\n- 2\n", "received [1, 2]"),
        ("just words", "received 'just words'"),
        ("training: {epochs: 3}", "network: missing"),
        ("network: {blocks: [{name: a, kind: output}]}\ntrainning: {}", "did you mean 'training'"),
        ("a: &a [*a]", ""),
        ("!!python/object/apply:os.system [exit]", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("[" * 1000, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_configuration(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_file_is_answered_with_the_own_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no configuration file .*nothing") as caught:
        load_configuration(tmp_path / "nothing.yaml")
    for path in CONFIGS:
        assert f"configs/{path.name}" in (caught.value.hint or "")


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfnetwork: {blocks: [{name: mask, kind: output}]}\r\n")
    assert load_configuration(path).network.blocks[0].name == "mask"


def test_rules_hold_float32_numbers() -> None:
    rules = parse_configuration(
        minimal(), ["training.optimizer.beta2=0.999", "training.clip_norm=0.1"]
    ).training.rules()
    assert isinstance(rules.optimizer, AdamRule)
    for number in (rules.optimizer.beta1, rules.optimizer.beta2, rules.optimizer.epsilon, rules.clip_norm):
        assert number is not None
        assert float(np.float32(number)) == number
    assert rules.optimizer.beta2 != 0.999


@pytest.mark.parametrize(
    ("optimizer", "rule", "defaults"),
    [
        ("{}", AdamRule, {"name": "adam", "learning_rate": 1e-3, "weight_decay": 0.0}),
        ("{name: adamw}", AdamRule, {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01}),
        ("{name: sgd}", SgdRule, {"name": "sgd", "learning_rate": 1e-2, "weight_decay": 0.0}),
    ],
)
def test_each_optimizer_has_its_rule_and_its_defaults(
    optimizer: str, rule: type, defaults: dict[str, Any]
) -> None:
    training = parse_configuration(minimal(), [f"training.optimizer={optimizer}"]).training
    assert isinstance(training.rules().optimizer, rule)
    assert training.optimizer.model_dump().items() >= defaults.items()
    again = training.model_dump(mode="json")
    assert Training.model_validate(again) == training


def test_the_constants_of_each_part_reach_the_rules() -> None:
    wanted = {"bce": 0, "tversky": 0.5, "tversky_alpha": 0.1, "tversky_beta": 3.0, "lovasz": 0.25}
    loss = parse_configuration(minimal() | {"training": {"loss": wanted}}).training.rules().loss
    assert dataclasses.asdict(loss) == {
        name: float(np.float32(value))
        for name, value in ({"dice": 1, "focal": 0, "focal_gamma": 2} | wanted).items()
    }


def test_key_paths_read_as_they_are_written() -> None:
    assert key_path(["network", "blocks", 3, "skip"]) == "network.blocks[3].skip"
    assert key_path([]) == ""
