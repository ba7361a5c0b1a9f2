"""Learning rates, against lists written out by hand, closed forms and the rules as PyTorch counts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from core.base.errors import UserError
from core.experiment.checkpoint import EpochRecord
from core.experiment.configuration import Training, parse_configuration
from core.training.schedules import learning_rate

BLOCKS = [{"name": "mask", "kind": "output"}]


def settings(epochs: int = 4, rate: float = 0.1, **schedule: Any) -> Training:
    training: dict[str, Any] = {"epochs": epochs, "optimizer": {"learning_rate": rate}}
    if schedule:
        training["schedule"] = schedule
    return parse_configuration({"network": {"blocks": BLOCKS}, "training": training}).training


def rates(training: Training, batches: int, history: Sequence[EpochRecord] = ()) -> list[float]:
    """Of all updates of a run."""
    steps = range(1, training.epochs * batches + 1)
    return [learning_rate(training, step, batches, history) for step in steps]


def scored(*losses: float, positive: Sequence[float | None] | None = None) -> list[EpochRecord]:
    of_positives = positive or [None] * len(losses)
    return [
        EpochRecord(number, 1.0, loss, 0.5, 0.5, dice, 0.1, 1.0, "validation", number)
        for number, (loss, dice) in enumerate(zip(losses, of_positives, strict=True), start=1)
    ]


def test_without_a_schedule_the_rate_is_the_optimizer_s() -> None:
    assert rates(settings(rate=0.3), 3) == [0.3] * 12
    assert settings().schedule.name == "constant"


@pytest.mark.parametrize("schedule", [{"every": 2}, {"milestones": [2, 4]}])
def test_steps_come_after_whole_epochs(schedule: dict[str, Any]) -> None:
    expected = [0.1] * 6 + [0.05] * 6 + [0.025] * 3
    assert rates(settings(5, name="step", factor=0.5, **schedule), 3) == pytest.approx(expected, rel=1e-15)


def test_milestones_may_come_in_any_order_and_distance() -> None:
    training = settings(6, rate=1.0, name="step", factor=0.1, milestones=[4, 1])
    assert rates(training, 1) == pytest.approx([1, 0.1, 0.1, 0.1, 0.01, 0.01], rel=1e-15)


def test_a_cosine_at_its_known_angles() -> None:
    # Twelve updates: every second one is a multiple of 30 degrees.
    training = settings(4, rate=2.0, name="cosine")
    root = math.sqrt(3)
    assert rates(training, 3)[::2] == pytest.approx([2, 1 + root / 2, 1.5, 1, 0.5, 1 - root / 2], rel=1e-12)
    # After the last update the curve would be at its end.
    assert learning_rate(training, 13, 3) == pytest.approx(0, abs=1e-15)


def test_a_cosine_s_steps_are_those_of_the_recursion() -> None:
    """PyTorch's CosineAnnealingLR: eta += the quotient of neighbouring (1 + cos) times (eta - least)."""
    training, least = settings(5, rate=0.4, name="cosine", final=0.25), 0.1
    expected, total = [0.4], 35
    for step in range(1, total):
        quotient = (1 + math.cos(math.pi * step / total)) / (1 + math.cos(math.pi * (step - 1) / total))
        expected.append(quotient * (expected[-1] - least) + least)
    assert rates(training, 7) == pytest.approx(expected, rel=1e-12)


def test_warm_restarts_at_their_known_angles() -> None:
    """Cycles of 1, 2 and 4 epochs of two updates: angles 0, 90; 0, 45, 90, 135; 0, 22.5, ... degrees."""
    training = settings(6, rate=2.0, name="cosine", cycle_epochs=1, cycle_factor=2)
    root = math.sqrt(0.5)
    eighth = [1 + math.cos(math.radians(22.5 * n)) for n in range(6)]
    assert rates(training, 2) == pytest.approx([2, 1, 2, 1 + root, 1, 1 - root, *eighth], rel=1e-12)


def test_warm_restarts_follow_the_paper_s_formula() -> None:
    """Loshchilov and Hutter's equation 5, with T_cur counted up by hand, after a warm-up of half an epoch."""
    training = settings(7, rate=0.3, name="cosine", final=0.1, cycle_epochs=2, warmup_epochs=0.5)
    expected, current = [0.3 * t / 2 for t in (1, 2)], 0
    while len(expected) < 28:
        expected.append(0.03 + 0.5 * (0.3 - 0.03) * (1 + math.cos(current / 8 * math.pi)))
        current = 0 if current == 7 else current + 1
    assert rates(training, 4) == pytest.approx(expected, rel=1e-12)


def test_warm_restarts_do_not_depend_on_the_number_of_epochs() -> None:
    cycles: dict[str, Any] = {"name": "cosine", "cycle_epochs": 2, "cycle_factor": 3}
    assert rates(settings(4, **cycles), 3) == rates(settings(9, **cycles), 3)[:12]
    # Far beyond the first cycle too: a million cycles of two epochs, then three updates of the next.
    far = settings(4, rate=1.0, name="cosine", cycle_epochs=2)
    assert learning_rate(far, 6_000_000 + 4, 3) == rates(far, 3)[3]


def test_a_warm_up_rises_by_equal_steps_to_the_rate() -> None:
    assert rates(settings(2, rate=0.8, name="constant", warmup_epochs=1), 4) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8]
    )


def test_a_warm_up_may_be_a_part_of_an_epoch() -> None:
    # 0.5 epochs of 5 batches are 2.5 updates: the third is the first whole one.
    rising = rates(settings(1, rate=1.0, name="constant", warmup_epochs=0.5), 5)
    assert rising == pytest.approx([0.4, 0.8, 1, 1, 1])


def test_a_cosine_begins_where_the_warm_up_ends() -> None:
    training = settings(3, rate=1.0, name="cosine", warmup_epochs=1, final=0.5)
    falling = [0.5 + 0.25 * (1 + math.cos(math.pi * done / 8)) for done in range(8)]
    assert rates(training, 4) == pytest.approx([0.25, 0.5, 0.75, 1, *falling], rel=1e-12)


def test_a_warm_up_as_long_as_the_run_or_longer_only_rises() -> None:
    for epochs in (2, 3):
        rising = rates(settings(2, rate=1.0, name="cosine", warmup_epochs=epochs), 3)
        assert rising == pytest.approx([n / (3 * epochs) for n in range(1, 7)])


def test_a_step_in_the_warm_up_multiplies_it() -> None:
    training = settings(3, rate=1.0, name="step", factor=0.5, every=1, warmup_epochs=2)
    assert rates(training, 2) == pytest.approx([0.25, 0.5, 0.375, 0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((), 1.0),
        ((5, 4, 3, 2), 1.0),
        ((5, 6), 1.0),
        ((5, 6, 7), 0.5),
        ((5, 6, 4, 5), 1.0),
        ((5, 6, 4, 5, 4), 0.5),
        ((5, 6, 7, 8), 0.5),
        ((5, 6, 7, 8, 9), 0.25),
        ((5, 6, 7, 4, 3, 3, 3), 0.25),
        ((5, *range(6, 30)), 0.125),
    ],
)
def test_a_plateau_is_counted_anew_after_each(losses: tuple[float, ...], expected: float) -> None:
    training = settings(50, rate=1.0, name="plateau", factor=0.5, patience=2, min_rate=0.125)
    assert learning_rate(training, 1 + 4 * len(losses), 4, scored(*losses)) == expected


def test_a_plateau_follows_what_early_stop_monitors() -> None:
    content: dict[str, Any] = {
        "epochs": 9,
        "optimizer": {"learning_rate": 1.0},
        "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
        "early_stop": {"monitor": "dice_positive", "min_delta": 0.25, "enabled": False},
    }
    training = parse_configuration({"network": {"blocks": BLOCKS}, "training": content}).training
    # The loss falls all the time; of Dice only the third record is 0.25 better than one before it.
    history = scored(5, 4, 3, 2, positive=[0.0, 0.125, 0.5, 0.625])
    assert [learning_rate(training, n + 1, 1, history[:n]) for n in range(5)] == [1, 1, 0.5, 0.5, 0.25]


def test_a_plateau_s_least_rate_raises_no_rate() -> None:
    training = settings(50, rate=0.01, name="plateau", min_rate=0.5)
    assert learning_rate(training, 1, 4) == 0.01


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"name": "step"}, "training.schedule: a step schedule takes either every or milestones"),
        ({"name": "step", "every": 2, "milestones": [3]}, "received every=2, milestones=[3]"),
        ({"name": "step", "every": 0}, "training.schedule.every: "),
        ({"name": "cosine", "factor": 0.5}, "training.schedule.factor: "),
        (
            {"name": "cosine", "cycle_factor": 2},
            "training.schedule.cycle_factor: received 2, but",
        ),
        ({"name": "cosine", "cycle_epochs": 0}, "training.schedule.cycle_epochs: "),
        ({"name": "cosine", "final": 1.5}, "training.schedule.final: "),
        ({"name": "plateau", "factor": 1}, "training.schedule.factor: "),
        ({"name": "linear"}, "training.schedule"),
        ({"final": 0.5}, "training.schedule"),
        ({"name": "constant", "warmup_epochs": -1}, "training.schedule.warmup_epochs: "),
    ],
)
def test_what_is_no_schedule_is_named(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings(**schedule)
    assert message in str(caught.value)
