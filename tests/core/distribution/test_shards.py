"""The arithmetic of a divided batch: places, weights, order of additions; and faults put in on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threads import ThreadExchange, run_threads

from backends.reference.model import ReferenceModel
from core.backend.contract import Array, State
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.state import LOSS_SCALE_ARRAYS
from core.backend.trained_part import trained_part
from core.backend.training_rules import LossScaleRule, StepScalars, TrainingRules
from core.base.errors import UserError
from core.conformance.cases import Case, make_case, with_loss_scale
from core.distribution.exchange import ALONE, Exchange
from core.distribution.host_engine import HostEngine
from core.distribution.shards import Node, Shards
from core.distribution.step import ShardedUpdate
from core.network.plan import Plan

BLOCKS = [
    {"name": "down", "kind": "conv", "filters": 4},
    {"name": "middle", "kind": "pointwise"},
    {"name": "mask", "kind": "output"},
]
SEED = 3


def case_of(*batches: int) -> Case:
    training = {"clip_norm": 0.05, "optimizer": {"name": "adamw"}, "seed": SEED}
    return make_case(BLOCKS, 10, 14, batches=batches, dropout=0.3, training=training)


def sharded(
    model: ReferenceModel, case: Case, division: Shards, exchange: Exchange, seed: int | None
) -> ShardedUpdate:
    engine = HostEngine(model, trained_part(case.plan, case.rules), "float64", exchange)
    return ShardedUpdate(model, case.plan, division, engine, exchange.worker, seed)


def trained(case: Case, shards: int, size: int, workers: int = 1, host: bool = True) -> list[State]:
    """Train on the case's batches; return the arrays of each worker."""

    def work(exchange: ThreadExchange) -> State:
        model = ReferenceModel(case.plan, case.rules, "float64")
        model.load_state(case.state)
        division = Shards(shards, size, workers)
        seed = SEED if host else None
        update = sharded(model, case, division, exchange, seed)
        for step, (images, masks) in enumerate(case.batches, start=1):
            own = division.rows_of_worker(exchange.worker, len(images))
            rows = slice(own.start, own.stop)
            update(images[rows], masks[rows], len(images), case.scalars(step))
        return model.state()

    return run_threads(workers, work)


def written_out(case: Case, shards: int, size: int) -> State:
    """Train by the formula of `core.distribution.shards`, without any of its code."""
    model = ReferenceModel(case.plan, case.rules, "float64")
    model.load_state(case.state)
    for step, (images, masks) in enumerate(case.batches, start=1):
        keep = draw_dropout_masks(case.plan, SEED, step, len(images))
        of_shard = [i * shards // size for i in range(len(images))]
        total: dict[str, Array] = {}
        for shard in sorted(set(of_shard)):
            chosen = [i for i, number in enumerate(of_shard) if number == shard]
            kept = {name: mask[chosen] for name, mask in keep.items()}
            found = model.differentiate(images[chosen], masks[chosen], kept)
            for name, array in {**found.gradients, **found.statistics}.items():
                total[name] = total.get(name, 0) + len(chosen) / len(images) * array
        gradients = {parameter.name: total[parameter.name] for parameter in case.plan.parameters}
        statistics = {statistic.name: total[statistic.name] for statistic in case.plan.statistics}
        model.update(gradients, statistics, case.scalars(step))
    return model.state()


def largest_difference(one: State, other: State) -> float:
    return max(float(np.max(np.abs(one[name] - other[name]))) for name in one)


def same_bits(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_each_image_has_the_shard_of_its_place_and_a_short_batch_fills_the_first() -> None:
    shards = Shards(4, 10)
    assert [list(shards.rows(shard, 10)) for shard in range(4)] == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]
    assert [list(shards.rows(shard, 4)) for shard in range(4)] == [[0, 1, 2], [3], [], []]
    for count, size in ((3, 3), (3, 8), (5, 7), (7, 64)):
        for images in range(1, size + 1):
            rows = [Shards(count, size).rows(shard, images) for shard in range(count)]
            assert [i for places in rows for i in places] == list(range(images))
            assert all(i * count // size == shard for shard, places in enumerate(rows) for i in places)


@pytest.mark.parametrize(
    ("shards", "images", "expected"),
    [
        (2, 12, "(0+1)"),
        (4, 12, "((0+1)+(2+3))"),
        (5, 15, "(((0+1)+(2+3))+4)"),
        (6, 12, "(((0+1)+(2+3))+(4+5))"),
        (7, 14, "(((0+1)+(2+3))+((4+5)+6))"),
    ],
)
def test_shards_are_added_as_neighbours_level_by_level(shards: int, images: int, expected: str) -> None:
    one = Shards(shards, images)

    def leaf(node: Node) -> str | None:
        return str(node.index) if node.level == 0 else None

    def add(left: str, right: str) -> str:
        return f"({left}+{right})"

    assert one.total(one.root, images, leaf, add) == expected
    for workers in (number for number in range(1, shards + 1) if shards % number == 0):
        several = Shards(shards, images, workers)
        pieces = {
            node: several.total(node, images, leaf, add)
            for worker in range(workers)
            for node in several.pieces(worker, images)
        }
        assert several.total(several.root, images, pieces.get, add) == expected


def test_an_empty_shard_counts_for_nothing() -> None:
    shards = Shards(8, 16)
    found = shards.total(
        shards.root, 5, lambda node: str(node.index) if node.level == 0 else None, lambda a, b: f"({a}+{b})"
    )
    assert found == "((0+1)+2)"


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_a_step_moves_twice_the_networks_size_whatever_the_number_of_workers(workers: int) -> None:
    case = case_of(8)

    def work(exchange: ThreadExchange) -> int:
        model = ReferenceModel(case.plan, case.rules, "float64")
        model.load_state(case.state)
        division = Shards(8, 8, workers)
        (images, masks), own = case.batches[0], division.rows_of_worker(exchange.worker, 8)
        update = sharded(model, case, division, exchange, SEED)
        update(images[own.start : own.stop], masks[own.start : own.stop], 8, case.scalars(1))
        return exchange.sent

    size = 1 + sum(int(np.prod(array.shape)) for array in case.plan.arrays)
    assert max(run_threads(workers, work)) <= 2 * size


def test_one_shard_is_the_arithmetic_of_a_batch_that_is_not_divided() -> None:
    case = case_of(5, 3)
    model = ReferenceModel(case.plan, case.rules, "float64")
    model.load_state(case.state)
    for step, (images, masks) in enumerate(case.batches, start=1):
        keep = draw_dropout_masks(case.plan, SEED, step, len(images))
        model.train_step(images, masks, case.scalars(step), keep)
    assert same_bits(trained(case, 1, 5)[0], model.state())


@pytest.mark.parametrize(("shards", "size"), [(2, 5), (3, 7), (6, 7), (7, 7)])
def test_shards_equal_the_written_out_sum(shards: int, size: int) -> None:
    case = case_of(size, size, 2, size)
    assert largest_difference(trained(case, shards, size)[0], written_out(case, shards, size)) < 1e-13


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize(("shards", "workers"), [(4, 2), (4, 4), (6, 2), (6, 3), (12, 4)])
def test_any_number_of_workers_gives_the_same_bits(shards: int, workers: int, host: bool) -> None:
    case = case_of(13, 13, 4, 1)
    (alone,) = trained(case, shards, 13, host=host)
    for state in trained(case, shards, 13, workers, host=host):
        assert same_bits(state, alone)


def test_an_overflow_in_one_shard_skips_the_update_of_all_workers() -> None:
    case = with_loss_scale(case_of(8, 8, 8), LossScaleRule(2.0**10))
    case.batches[1][0][-1, 3, 4] = np.inf
    (alone,) = trained(case, 8, 8)
    assert [float(alone[name][0]) for name in LOSS_SCALE_ARRAYS] == [2.0**9, 1, 1]
    assert all(np.isfinite(array).all() for array in alone.values())
    for state in trained(case, 8, 8, 4):
        assert same_bits(state, alone)


def test_workers_that_cannot_share_the_shards_are_refused() -> None:
    with pytest.raises(UserError, match="4, which 3 workers cannot share equally"):
        Shards(4, 8, 3)


ORIGINAL = HostEngine.derivatives


def unweighted(self: Any, images: Array, masks: Array, keep: Any, draw: int, weight: float) -> Array:
    del weight
    return ORIGINAL(self, images, masks, keep, draw, 1 / 3)  # as if all three shards had equally many images


def last_statistics(self: Any, images: Array, masks: Array, keep: Any, draw: int, weight: float) -> Array:
    flat = ORIGINAL(self, images, masks, keep, draw, weight)
    sizes = [
        sum(int(np.prod(shape)) for shape in shapes.values())
        for shapes in (self._gradients, self._statistics)
    ]
    statistics = slice(sizes[0], sum(sizes))
    flat[statistics] = flat[statistics] / weight if weight < 0.3 else 0
    return flat


def own_places(plan: Plan, seed: int, step: int, count: int, first: int = 0) -> dict[str, Any]:
    del first
    return dict(draw_dropout_masks(plan, seed, step, count))  # as if each shard began at place 0


@pytest.mark.parametrize(
    ("name", "place", "fault"),
    [
        ("short shards weigh as much as full ones", "host_engine.HostEngine.derivatives", unweighted),
        ("the statistics are the last shard's", "host_engine.HostEngine.derivatives", last_statistics),
        ("dropout is keyed by the place in the shard", "step.draw_dropout_masks", own_places),
    ],
)
def test_faults_put_in_on_purpose_are_seen(
    name: str, place: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(7, 5)
    expected = written_out(case, 3, 7)
    monkeypatch.setattr(f"core.distribution.{place}", fault)
    assert largest_difference(trained(case, 3, 7)[0], expected) > 1e-6, name


def test_another_order_of_additions_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(12, 12)

    def one_after_the_other(self: Shards, node: Node, images: int, part: Any, add: Any) -> Any:
        leaves = range(node.first, min(node.first + (1 << node.level), self.count))
        values = [part(Node(0, shard)) for shard in leaves if self.rows(shard, images)]
        total = values[0]
        for value in values[1:]:
            total = add(total, value)
        return total

    (alone,) = trained(case, 12, 12)
    monkeypatch.setattr(Shards, "total", one_after_the_other)
    assert not same_bits(trained(case, 12, 12)[0], alone)


def test_the_update_gets_the_scalars_of_its_step() -> None:
    case = case_of(4)
    seen: list[StepScalars] = []

    class Noting(ReferenceModel):
        def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
            seen.append(scalars)
            super().update(gradients, statistics, scalars)

    rules: TrainingRules = case.rules
    model = Noting(case.plan, rules, "float64")
    model.load_state(case.state)
    sharded(model, case, Shards(2, 4), ALONE, SEED)(*case.batches[0], 4, case.scalars(9))
    assert seen == [case.scalars(9)]
