"""Configurations: complete and valid, or an error with the path of each bad key."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.backend.training_rules import AdamRule, LossScaleRule, SgdRule
from core.base.errors import UserError
from core.experiment.configuration import (
    Configuration,
    Training,
    load_configuration,
    parse_configuration,
)

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.yaml"))


def minimal() -> dict[str, Any]:
    blocks = [{"name": "a", "kind": "conv", "filters": 2}, {"name": "mask", "kind": "output"}]
    return {"network": {"blocks": blocks}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_shipped_is_valid_and_survives_a_round_trip(path: Path) -> None:
    configuration = load_configuration(path)
    assert Configuration.model_validate(configuration.model_dump(mode="json")) == configuration


@pytest.mark.parametrize("name", ["fcn", "configs/fcn.yaml"])
def test_shipped_configurations_are_found_from_anywhere(
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


def test_what_is_not_given_is_what_it_always_was() -> None:
    """Defaults must not change: a file without a key would then train another network."""
    found = parse_configuration(minimal()).model_dump(mode="json")
    conv, mask = found["network"].pop("blocks")
    assert conv == {
        **{"name": "a", "kind": "conv", "filters": 2, "kernel": 3, "stride": 2},
        **{"skip": None, "source": None, "batch_norm": None, "dropout": None, "bias": None, "order": None},
        **{"activation": None, "padding": None, "groups": 1, "dilation": 1},
    }
    plain = {"name": "mask", "kind": "output", "kernel": 3, "stride": 2, "transposed": True}
    assert mask == plain | {"skip": None, "source": None}
    assert found["network"] == {
        "input": {"channels": None, "mean": [0.0], "std": [1.0]},
        **{"encoder": None, "decoder": None, "bias": True, "order": "activation_norm", "existence": None},
        **{"activation": "relu", "padding": "same"},
        "batch_norm": True,
        "dropout": 0.0,
        "batch_norm_settings": {"momentum": 0.99, "epsilon": 1e-3},
    }
    training = found["training"]
    assert training.pop("optimizer") == {
        **{"name": "adam", "learning_rate": 1e-3, "weight_decay": 0.0},
        **{"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7},
    }
    assert training.pop("loss") == {
        **{"bce": 1.0, "dice": 1.0, "focal": 0.0, "focal_gamma": 2.0},
        **{"tversky": 0.0, "tversky_alpha": 0.3, "tversky_beta": 0.7, "lovasz": 0.0, "existence": None},
    }
    assert training.pop("augmentation") == {
        **dict.fromkeys(("horizontal_flip", "shift", "scale", "rotate"), 0.0),
        **dict.fromkeys(("brightness", "contrast", "gamma", "noise"), 0.0),
        **dict.fromkeys(("affine_probability", "intensity_probability", "noise_probability"), 1.0),
        **dict.fromkeys(("elastic_probability", "grid_probability", "clahe_probability"), 1.0),
        **{"elastic": 0.0, "elastic_smoothness": 0.1, "grid_distortion": 0.0, "grid_cells": 5},
        **{"clahe": 0.0, "clahe_tiles": 8},
    }
    assert training.pop("early_stop") == {
        **{"monitor": "validation_loss", "patience": 15, "min_delta": 0.0, "enabled": True},
    }
    assert (training.pop("freeze"), training.pop("rates"), training.pop("ema")) == ([], {}, None)
    assert training.pop("loss_scale") == {"initial": 65536.0, "factor": 2.0, "growth_interval": 2000}
    assert training.pop("schedule") == {"name": "constant", "warmup_epochs": 0.0}
    assert training == {
        **{"epochs": 100, "batch_size": 32, "shards": 1, "seed": 0, "precision": "float32", "threshold": 0.5},
        **{"validation_fraction": 0.2, "folds": None, "fold": None, "average_best": 0},
        **{"clip_norm": None, "sampling": None, "start_from": None, "dropout_masks": "host", "crop": None},
        **{"size": None, "stages": [], "stage": None},
    }


@pytest.mark.parametrize(
    ("schedule", "defaults"),
    [
        ("{name: step, every: 3}", {"factor": 0.1, "milestones": []}),
        ("{name: cosine}", {"final": 0.0, "cycle_epochs": None, "cycle_factor": 1}),
        ("{name: plateau}", {"factor": 0.5, "patience": 5, "min_rate": 0.0}),
    ],
)
def test_each_schedule_has_the_defaults_that_the_recipe_gives(
    schedule: str, defaults: dict[str, Any]
) -> None:
    found = parse_configuration(minimal(), [f"training.schedule={schedule}"]).training.schedule
    assert found.model_dump(mode="json").items() >= {**defaults, "warmup_epochs": 0.0}.items()


TINY, BIG = 1e-12, 1e12
SHARE, BELOW_ONE = (-TINY, 0.0, 1.0, 1 + 1e-9), (-TINY, 0.0, 1 - 1e-9, 1.0)
EPOCHS, SIZE, LARGE = (0, 1, 1_000_000, 1_000_001), (0, 1, 4096, 4097), (-TINY, 0.0, 1e6, 1e6 + 1)
BETA = (0.5 - 1e-9, 0.5, 1 - 1e-9, 1.0)
RATE, FACTOR, INSIDE = (0.0, TINY, 100.0, 100.1), (0.0, TINY, 1.0, 1 + 1e-9), (0.0, TINY, 1 - 1e-9, 1.0)

# For every number and both ends of its range: the last value that is refused and the first that is accepted.
RANGES: dict[str, tuple[float, float, float, float]] = {
    "network.dropout": BELOW_ONE,
    "network.blocks[0].dropout": BELOW_ONE,
    **{f"network.blocks[{block}].{key}": SIZE for block in (0, 3) for key in ("filters", "kernel", "stride")},
    **{f"network.blocks[7].{key}": SIZE for key in ("kernel", "stride")},
    **{f"network.blocks[0].{key}": SIZE for key in ("groups", "dilation")},
    "network.blocks[2].groups": SIZE,
    **{
        f"network.blocks[4].{key}": SIZE
        for key in ("filters", "kernel", "stride", "width", "groups", "squeeze")
    },
    **{f"network.blocks[5].{key}": SIZE for key in ("kernel", "stride")},
    "network.blocks[6].factor": (1, 2, 64, 65),
    "network.input.channels": (0, 1, 16, 17),
    "network.input.mean": (-1e6 - 1, -1e6, 1e6, 1e6 + 1),
    "network.input.std": (0.0, TINY, 1e6, 1e6 + 1),
    "network.decoder.filters": SIZE,
    "network.existence.dropout": BELOW_ONE,
    "network.blocks[2].filters": SIZE,
    "network.blocks[2].dropout": BELOW_ONE,
    "network.blocks[3].dropout": BELOW_ONE,
    "network.batch_norm_settings.momentum": BETA,
    "network.batch_norm_settings.epsilon": (1e-5 - TINY, 1e-5, 1.0, 1 + 1e-9),
    "training.size": (0, 1, 65535, 65536),
    "training{stages: [{}, {}, {}]}.stage": (0, 1, 3, 4),
    "training.epochs": EPOCHS,
    "training.batch_size": (0, 1, 65536, 65537),
    "training{batch_size: 65536}.shards": (0, 1, 65536, 65537),
    "training.seed": (-1, 0, 2**63 - 1, 2**63),
    "training.validation_fraction": (-TINY, 0.0, 0.9, 0.9 + 1e-9),
    "training.folds": (1, 2, 100, 101),
    "training{folds: 100}.fold": (-1, 0, 99, 100),
    "training.threshold": INSIDE,
    "training.clip_norm": (0.0, TINY, BIG, np.inf),
    "training.loss_scale.initial": (0.5, 1.0, 2.0**24, 2.0**25),
    "training.loss_scale.factor": (0.5, 1.0, 256.0, 512.0),
    "training.loss_scale.growth_interval": EPOCHS,
    "training.average_best": (-1, 0, 100, 101),
    "training.ema.decay": INSIDE,
    "training.rates": RATE,
    "training.optimizer{name: adam}.learning_rate": RATE,
    "training.optimizer{name: adam}.weight_decay": SHARE,
    "training.optimizer{name: adam}.beta1": BETA,
    "training.optimizer{name: adam}.beta2": BETA,
    "training.optimizer{name: adam}.epsilon": FACTOR,
    "training.optimizer{name: adamw}.learning_rate": RATE,
    "training.optimizer{name: adamw}.weight_decay": SHARE,
    "training.optimizer{name: adamw}.beta1": BETA,
    "training.optimizer{name: adamw}.beta2": BETA,
    "training.optimizer{name: adamw}.epsilon": FACTOR,
    "training.optimizer{name: sgd}.learning_rate": RATE,
    "training.optimizer{name: sgd}.weight_decay": SHARE,
    "training.optimizer{name: sgd}.momentum": BELOW_ONE,
    **{f"training.loss.{key}": LARGE for key in ("bce", "dice", "focal", "tversky", "lovasz")},
    **{f"training.loss.{key}": LARGE for key in ("tversky_alpha", "tversky_beta")},
    "training.loss.existence": (0.0, TINY, 1e6, 1e6 + 1),
    "training.loss.focal_gamma": (-TINY, 0.0, 10.0, 10.1),
    "training.early_stop.patience": (0, 1, BIG, np.inf),
    "training.early_stop.min_delta": (-TINY, 0.0, BIG, np.inf),
    "training.schedule{name: constant}.warmup_epochs": LARGE,
    "training.schedule{name: step, every: 2}.warmup_epochs": LARGE,
    "training.schedule{name: step, every: 2}.factor": FACTOR,
    "training.schedule{name: step}.every": EPOCHS,
    "training.schedule{name: step}.milestones": EPOCHS,
    "training.schedule{name: cosine}.warmup_epochs": LARGE,
    "training.schedule{name: cosine}.final": SHARE,
    "training.schedule{name: cosine}.cycle_epochs": EPOCHS,
    "training.schedule{name: cosine, cycle_epochs: 2}.cycle_factor": (0, 1, 100, 101),
    "training.schedule{name: plateau}.warmup_epochs": LARGE,
    "training.schedule{name: plateau}.factor": INSIDE,
    "training.schedule{name: plateau}.patience": (0, 1, BIG, np.inf),
    "training.schedule{name: plateau}.min_rate": (-TINY, 0.0, 100.0, 100.1),
    "training.crop.size": (0, 1, 8192, 8193),
    "training.crop{size: 64}.positives": SHARE,
    "training.sampling.positives": SHARE,
    "training.sampling{positives: 0.5}.final": SHARE,
    "training.sampling{positives: 0.5}.over_epochs": EPOCHS,
    **{f"training.augmentation.{key}": SHARE for key in ("horizontal_flip", "brightness", "contrast")},
    **{f"training.augmentation.{key}_probability": SHARE for key in ("affine", "intensity", "noise")},
    **{f"training.augmentation.{key}_probability": SHARE for key in ("elastic", "grid", "clahe")},
    **{f"training.augmentation.{key}": SHARE for key in ("elastic", "grid_distortion")},
    "training.augmentation.elastic_smoothness": FACTOR,
    "training.augmentation.grid_cells": (0, 1, 1000, 1001),
    "training.augmentation.clahe": (-TINY, 0.0, 255.0, 255.1),
    "training.augmentation.clahe_tiles": (0, 1, 256, 257),
    **{f"training.augmentation.{key}": BELOW_ONE for key in ("shift", "scale")},
    "training.augmentation.rotate": (-TINY, 0.0, 180.0, 180.1),
    "training.augmentation.gamma": (-TINY, 0.0, 10.0, 10.1),
    "training.augmentation.noise": SHARE,
}


def with_number(place: str, number: float) -> Configuration:
    """Return the configuration in which one number has this value."""
    blocks = [
        {"name": "a", "kind": "conv", "filters": 2},
        {"name": "b", "kind": "conv", "filters": 2},
        {"name": "c", "kind": "pointwise"},
        {"name": "d", "kind": "transpose", "filters": 2},
        {"name": "e", "kind": "residual", "form": "bottleneck", "filters": 2},
        {"name": "f", "kind": "pool"},
        {"name": "g", "kind": "upsample"},
        {"name": "mask", "kind": "output"},
    ]
    beside = re.search(r"\{(.*)\}", place)
    parent, key = re.sub(r"\{.*\}", "", place).rsplit(".", 1)
    is_list = key in ("milestones", "mean", "std") or place == "network.decoder.filters"
    content = {"a": number} if key == "rates" else [number] if is_list else number
    written = ".inf" if number == np.inf else json.dumps(content)
    overrides = (
        [f"{parent}={beside[0]}"]
        if beside
        else [f"{parent}={{}}"]
        if re.search("sampling|ema", parent)
        else []
    )
    network = {"blocks": blocks, "encoder": {"kind": "resnet18"}, "decoder": {}, "existence": {}}
    return parse_configuration({"network": network}, [*overrides, f"{parent}.{key}={written}"])


@pytest.mark.parametrize("place", RANGES)
def test_every_number_has_its_range(place: str) -> None:
    below, lowest, highest, above = RANGES[place]
    for taken in (lowest, highest):
        taken = int(taken) if isinstance(below, int) or taken == BIG else taken
        with_number(place, taken)
    plain = re.sub(r"\{.*\}", "", place)
    for refused in (below, above):
        with pytest.raises(UserError) as caught:
            with_number(place, refused)
        assert plain in str(caught.value)


def test_no_number_has_been_left_out_of_the_ranges() -> None:
    definitions = Configuration.model_json_schema()["$defs"]
    numbers = [
        (model, key)
        for model, definition in definitions.items()
        for key, said in definition["properties"].items()
        if re.search("'(number|integer)'", str(said))
    ]
    keys = {re.sub(r"\{.*\}", "", place).rsplit(".", 1)[1] for place in RANGES}
    assert {key for _, key in numbers} == keys
    assert len(numbers) == len(RANGES)


@pytest.mark.parametrize("alpha_and_beta", [(0.5, 0), (0, 0.5)])
def test_a_tversky_loss_may_leave_one_kind_of_error_out(alpha_and_beta: tuple[float, float]) -> None:
    loss = dict(zip(("tversky_alpha", "tversky_beta"), alpha_and_beta, strict=True)) | {"tversky": 1}
    found = parse_configuration(minimal() | {"training": {"loss": loss}}).training.loss
    assert (found.tversky_alpha, found.tversky_beta) == alpha_and_beta
    unused = {"tversky_alpha": 0, "tversky_beta": 0}  # without the Tversky part they have no effect
    assert parse_configuration(minimal() | {"training": {"loss": unused}}).training.loss.tversky == 0


@pytest.mark.parametrize("part", ["bce", "dice", "focal", "tversky", "lovasz"])
def test_any_part_of_the_loss_may_stand_alone(part: str) -> None:
    parts = {"bce": 0, "dice": 0} | {part: 1}
    assert getattr(parse_configuration(minimal() | {"training": {"loss": parts}}).training.loss, part) == 1


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
        ("training.epoch=3", "training.epoch: unknown key; did you mean 'training.epochs'?"),
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
        (
            "training.optimizer.bata1=0.9",
            "training.optimizer.bata1: unknown key; did you mean 'training.optimizer.beta1'?",
        ),
        ("training.optimizer=fast", "training.optimizer: "),
        ("network.blocks.0.kind=pole", "network.blocks[0].kind: received 'pole'; expected one of 'conv', "),
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
        for name, value in ({"dice": 1, "focal": 0, "focal_gamma": 2, "existence": 1} | wanted).items()
    }


def test_only_float16_scales_the_loss_and_a_number_alone_is_a_fixed_scale() -> None:
    for precision in ("float32", "float64", "tf32", "mixed_bfloat16"):
        settings = parse_configuration(minimal(), [f"training.precision={precision}"]).training
        assert settings.rules().loss_scale is None
    half = ["training.precision=mixed_float16"]
    usual = parse_configuration(minimal(), half).training.rules().loss_scale
    assert usual == LossScaleRule(65536.0, 2.0, 2000)
    fixed = parse_configuration(minimal(), [*half, "training.loss_scale=1024"])
    assert fixed.training.rules().loss_scale == LossScaleRule(1024.0, 1.0, 2000)
    assert Configuration.model_validate(fixed.model_dump(mode="json")) == fixed


@pytest.mark.parametrize("key", ["initial", "factor"])
def test_a_loss_scale_is_a_power_of_two(key: str) -> None:
    with pytest.raises(UserError, match=f"training.loss_scale.{key} must be a power of two; received 3"):
        parse_configuration(minimal(), [f"training.loss_scale.{key}=3"])
