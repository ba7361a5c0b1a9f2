#!/usr/bin/env python
"""Measure training by several workers, and a batch in shards by one.

    python benchmarks/workers.py [-f NAME ...] [--network NAME] [--size 384] [--batch-size 8] [--shards 4]
                                 [--steps 6] [--rounds 3] [--json FILE]

Four things are measured, each in turns of whole runs, so that other work on the machine affects all alike:

    workers       2 workers of half of the cores each, over 1 worker of all cores, in images/s
    exchange      the share of a step of these 2 workers that the exchange takes, waiting included
    accumulation  a batch of B images in S shards, over a batch of B images that is not divided, in time; and
                  over a batch of B/S images that is not divided, in peak memory of the process
    expected      the efficiency of 8 and 64 cards at 10 and 100 Gbit/s, computed from measured parts

The last is an estimate. It assumes that a card computes as many images/s as `--card` says (default: 30 times
what all cores do here), that the arrays go through the host, whose copies and additions take as long for each
byte as measured here, that every card has a link of its own of that speed, and that nothing overlaps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.distribution.launch import connect, worker_command  # noqa: E402  the line above finds it

WARM_UP = 3


def main() -> int:
    """Measure and print."""
    if sys.argv[1:2] == ["--be-a-worker"]:
        be_a_worker(json.loads(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-f", "--framework", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--network", default="fcn")
    parser.add_argument("--size", type=int, default=384, help="rows and columns of the images")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--card", type=float, metavar="X", help="images/s that a card computes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    record = [measure(name, arguments) for name in arguments.framework or ["tf"]]
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one framework."""
    batch, shards, cores = arguments.batch_size, arguments.shards, len(os.sched_getaffinity(0))
    half = max(cores // 2, 1)

    def team(workers: int, threads: int, size: int, parts: int) -> Callable[[], dict[str, Any]]:
        work = {
            "framework": name,
            "network": arguments.network,
            "size": arguments.size,
            "batch": size,
            "shards": parts,
            "threads": threads,
            "steps": arguments.steps,
        }
        return lambda: run(workers, work)

    turns = {
        "one": team(1, cores, batch, 2),
        "two": team(2, half, batch, 2),
        "whole": team(1, cores, batch, 1),
        "parts": team(1, cores, batch, shards),
        "part": team(1, cores, batch // shards, 1),
    }
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in turns}
    for _ in range(arguments.rounds):
        for key, turn in turns.items():
            found[key].append(turn())

    def over(above: str, below: str, part: str) -> list[float]:
        return [one[part] / other[part] for one, other in zip(found[above], found[below], strict=True)]

    shares = [one["exchange"] / one["seconds"] for one in found["two"]]
    result = {
        "framework": name,
        "network": arguments.network,
        "workers": [1 / ratio for ratio in over("two", "one", "seconds")],
        "exchange": shares,
        "time_of_shards": over("parts", "whole", "seconds"),
        "memory_of_shards": over("parts", "part", "memory"),
        "bytes": found["two"][0]["bytes"],
    }
    print(
        f"{name}, {arguments.network}, {arguments.size}x{arguments.size}, batches of {batch}, {cores} cores"
    )
    print(f"  2 workers over 1, images/s         {shown(result['workers'])}")
    print(f"  share of the exchange in a step    {shown(shares)}")
    print(f"  {shards} shards over the whole batch, time {shown(result['time_of_shards'])}")
    print(f"  {shards} shards over one of them, memory   {shown(result['memory_of_shards'])}")
    rate = batch / statistics.median(one["seconds"] for one in found["whole"])
    result["expected"] = expected(arguments.card or 30 * rate, batch, found["two"])
    return result


def expected(rate: float, images: int, found: list[dict[str, Any]]) -> dict[str, float]:
    """Print and return the expected efficiency of several cards: see the module.

    Args:
        rate: Images/s of a card.
        images: Images of a card in a step.
        found: Measurements of two workers.
    """
    size = found[0]["bytes"]
    host = statistics.median(one["host"] for one in found)
    result = {}
    print(f"  expected efficiency, {rate:.0f} images/s and {images} images of a step for each card:")
    for cards in (8, 64):
        for gigabits in (10, 100):
            wire = 2 * size * (cards - 1) / cards / (gigabits * 1e9 / 8)
            computing = images / rate
            efficiency = computing / (computing + host + wire)
            result[f"{cards} cards, {gigabits} Gbit/s"] = efficiency
            print(f"    {cards:2} cards, {gigabits:3} Gbit/s: {efficiency:.2f}")
    return result


def shown(values: list[float]) -> str:
    """Return the median, the least and the greatest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def run(workers: int, work: dict[str, Any]) -> dict[str, Any]:
    """Start workers; return what worker 0 measured, for one step."""
    words = [sys.executable, str(Path(__file__).resolve()), "--be-a-worker", json.dumps(work)]
    ended = subprocess.run(worker_command([words] * workers), capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def be_a_worker(work: dict[str, Any]) -> None:
    """Train, and print measurements as JSON in worker 0."""
    with connect(600.0, work["threads"]) as exchange:
        import numpy as np

        from core.backend.registry import load_backend
        from core.backend.state import initial_state
        from core.backend.training_rules import step_scalars
        from core.distribution.shards import Shards
        from core.experiment.configuration import load_configuration
        from core.network.lowering import lower
        from core.training.team import Team

        configuration = load_configuration(
            Path(work["network"]),
            [
                f"training.batch_size={work['batch']}",
                f"training.shards={work['shards']}",
                "training.sampling=null",
                "training.augmentation={}",
                "network.dropout=0.0",
            ],
        )
        settings, rules = configuration.training, configuration.training.rules()
        plan = lower(configuration.network, work["size"], work["size"])
        model = load_backend(work["framework"])[1].compile(plan, rules, "cpu", settings.precision)
        division = Shards(settings.shards, settings.batch_size, len(exchange.hosts))
        own = division.rows_of_worker(exchange.worker, settings.batch_size)
        drawn = np.random.default_rng(exchange.worker)
        shape = (len(own), work["size"], work["size"], 1)
        images = drawn.random(shape, dtype=np.float32)
        masks = (drawn.random(shape) < 0.2).astype(np.uint8)

        rows = SimpleNamespace(images=images, masks=masks)

        class Source:
            images, batches = settings.batch_size * 10**6, 10**6

            def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[Any, None, None]:
                del epoch, start, every
                while True:
                    yield rows

        waited = 0.0

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                nonlocal waited
                began = time.perf_counter()
                try:
                    return function(*given)
                finally:
                    waited += time.perf_counter() - began

            return call

        for part in ("scatter", "join", "command"):
            setattr(exchange, part, timed(getattr(exchange, part)))
        team = Team(model, plan, settings, Source(), Source(), exchange)  # type: ignore[arg-type]
        if exchange.worker > 0:
            team.follow()
            return
        team.load_state(initial_state(plan, rules, 0))
        seconds, exchanging = [], []
        for step, batch in enumerate(team.epoch(1), start=1):
            before, waited_before = time.perf_counter(), waited
            float(team.train_step(batch, step_scalars(rules, step, 1e-3)))
            seconds.append(time.perf_counter() - before)
            exchanging.append(waited - waited_before)
            if step == WARM_UP + work["steps"]:
                break
        team.end()
        flat = np.ones(1 + sum(int(np.prod(array.shape)) for array in plan.arrays), np.float32)
        began = time.perf_counter()
        for _ in range(4):  # to the host and back, weighting, one addition
            flat = flat.copy() * np.float32(0.5) + flat
        print(
            json.dumps(
                {
                    "seconds": statistics.median(seconds[WARM_UP:]),
                    "exchange": statistics.median(exchanging[WARM_UP:]),
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                    "bytes": flat.nbytes,
                    "host": (time.perf_counter() - began) / 4,
                }
            )
        )


if __name__ == "__main__":
    sys.exit(main())
