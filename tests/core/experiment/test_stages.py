"""Stages of a training: what each inherits, and messages about wrong ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from core.base.errors import UserError
from core.experiment.configuration import Configuration, load_configuration, parse_configuration

BLOCKS = [{"name": "down", "kind": "conv", "filters": 2}, {"name": "mask", "kind": "output"}]
STAGES: list[dict[str, Any]] = [
    {"size": 64, "epochs": 2, "loss": {"bce": 3.0}},
    {"size": 96, "optimizer": {"name": "sgd", "momentum": 0.5}, "sampling": {"positives": 0.8}},
    {"loss": {"dice": 0.5}, "sampling": {"final": 0.25}, "schedule": {"name": "cosine"}},
    {"optimizer": {"learning_rate": 0.125}, "sampling": None, "schedule": {"final": 0.5}},
]


def configuration(stages: object = STAGES, overrides: tuple[str, ...] = (), **training: Any) -> Configuration:
    section = {"epochs": 7, "optimizer": {"beta1": 0.75}, "loss": {"dice": 2.0}, **training}
    section["stages"] = copy.deepcopy(stages)
    return parse_configuration({"network": {"blocks": BLOCKS}, "training": section}, overrides)


def test_each_stage_changes_what_it_names_and_keeps_the_rest_of_the_stage_before() -> None:
    one, two, three, four = (each.training for each in configuration().in_stages())
    assert [each.stage for each in (one, two, three, four)] == [1, 2, 3, 4]
    assert [each.size for each in (one, two, three, four)] == [64, 96, 96, 96]
    assert [each.epochs for each in (one, two, three, four)] == [2, 2, 2, 2]
    assert [each.loss.bce for each in (one, two, three, four)] == [3.0, 3.0, 3.0, 3.0]
    assert [each.loss.dice for each in (one, two, three, four)] == [2.0, 2.0, 0.5, 0.5]
    assert one.optimizer.model_dump() == {
        **{"name": "adam", "learning_rate": 1e-3, "weight_decay": 0.0},
        **{"beta1": 0.75, "beta2": 0.999, "epsilon": 1e-7},
    }
    sgd = {"name": "sgd", "learning_rate": 1e-2, "weight_decay": 0.0, "momentum": 0.5, "nesterov": False}
    assert two.optimizer.model_dump() == three.optimizer.model_dump() == sgd
    assert four.optimizer.model_dump() == {**sgd, "learning_rate": 0.125}
    assert two.sampling is not None
    assert three.sampling is not None
    assert (two.sampling.positives, two.sampling.final) == (0.8, None)
    assert (three.sampling.positives, three.sampling.final) == (0.8, 0.25)
    assert four.sampling is None
    cosine = {"name": "cosine", "warmup_epochs": 0.0, "cycle_epochs": None, "cycle_factor": 1}
    assert three.schedule.model_dump() == {**cosine, "final": 0.0}
    assert four.schedule.model_dump() == {**cosine, "final": 0.5}


def test_blocks_thaw_and_get_other_rates_from_stage_to_stage() -> None:
    stages = [
        {"freeze": ["down"], "rates": {"mask": 2.0}, "ema": {"decay": 0.9}},
        {"freeze": [], "rates": {"down": 0.1}},
        {"rates": {}, "ema": None},
    ]
    found = [each.training for each in configuration(stages).in_stages()]
    assert [each.freeze for each in found] == [("down",), (), ()]
    assert [each.rates for each in found] == [{"mask": 2.0}, {"down": 0.1}, {}]
    assert [each.rules().average_decay for each in found] == [0.9, 0.9, None]
    with pytest.raises(UserError, match=r"training\.stages\[1\]: training\.freeze: no block is called 'dwn'"):
        configuration([{"epochs": 1}, {"freeze": ["dwn"]}])


def test_the_stages_follow_from_the_first_ones_checkpoint() -> None:
    whole = configuration()
    first = whole.in_stages()[0].model_dump(mode="json")
    first["training"]["stage"] = None
    assert parse_configuration(first).in_stages() == whole.in_stages()


def test_images_are_drawn_and_dropped_otherwise_in_each_stage_and_as_ever_in_the_first() -> None:
    seeds = [each.training.draws_seed for each in configuration(seed=5).in_stages()]
    assert seeds[0] == 5
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert [each.training.rules().seed for each in configuration(seed=5).in_stages()] == seeds
    assert all(each.training.seed == 5 for each in configuration(seed=5).in_stages())


def test_a_training_without_stages_is_its_only_one() -> None:
    plain = configuration([])
    assert plain.in_stages() == (plain,)


@pytest.mark.parametrize(
    ("stages", "overrides", "says"),
    [
        ([{}, {"epochs": 0}], (), "training.stages[1].epochs: Input should be greater than or equal to 1"),
        (
            [{"epoch": 3}],
            (),
            "training.stages[0].epoch: unknown key; did you mean 'training.stages[0].epochs'?",
        ),
        (
            [{"optimizer": {"name": "sgd"}}, {"optimizer": {"beta1": 0.9}}],
            (),
            "[1].optimizer.beta1: not a key of",
        ),
        (
            [{"loss": {"bce": 0, "dice": 0}}],
            (),
            "training.stages[0]: training.loss: bce, dice, focal, tversky and",
        ),
        ([{"seed": 3}], (), "training.stages[0].seed: this key is the same in all stages"),
        ([{"folds": 3}], (), "training.stages[0].folds: this key is the same in all stages"),
        ([{"shards": 64}], (), "training.shards is 64, but a batch has 32 images"),
        (3, (), "training.stages: Input should be a list"),
        ([3], (), "training.stages[0]: Input should be keys and values"),
    ],
)
def test_what_is_wrong_is_named(stages: object, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError) as caught:
        configuration(stages, overrides)
    assert says in str(caught.value)


def test_a_key_of_a_stage_is_set() -> None:
    changed = configuration([{"epochs": 3}, {}], ("training.stages[1].epochs=4", "training.batch_size=8"))
    assert [(each.training.epochs, each.training.batch_size) for each in changed.in_stages()] == [
        (3, 8),
        (4, 8),
    ]


def test_an_override_holds_in_all_stages_but_where_a_stage_is_named() -> None:
    overrides = ("training.stages[3].epochs=5", "training.epochs=4", "training.optimizer.learning_rate=0.25")
    found = [each.training for each in configuration(STAGES, overrides).in_stages()]
    assert [each.epochs for each in found] == [4, 4, 4, 5]
    assert [each.optimizer.name for each in found] == ["adam", "sgd", "sgd", "sgd"]
    assert [each.optimizer.learning_rate for each in found] == [0.25, 0.25, 0.25, 0.25]
    assert STAGES[0]["epochs"] == 2


def test_the_number_of_the_stage_is_not_for_a_file(tmp_path: Any) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "network: {blocks: [{name: down, kind: conv, filters: 2}, {name: mask, kind: output}]}\n"
        "training: {stages: [{}, {}], stage: 2}\n"
    )
    with pytest.raises(UserError, match=r"training\.stage is set by the toolkit alone"):
        load_configuration(path)
