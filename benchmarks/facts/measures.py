"""Functions that measure facts, each from a part of the work to rows of numbers.

A measure does what a user would, by the project's own commands and the scripts in `benchmarks/`. It returns
numbers as measured; tables round them. Ratios are [median, minimum, maximum] of the rounds.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.facts.records import ROOT, Row
from benchmarks.facts.sources import code_lines, matching
from benchmarks.paired_timings import ratios, spread
from core.base.errors import UserError


@dataclass(frozen=True)
class Part:
    """A part of a fact that is measured by one command.

    Args:
        backends: Names of the measured backends.
        arguments: Of the script or command, as one would type them.
        title: The table's name for the part, if the rows have none.
    """

    backends: tuple[str, ...]
    arguments: str = ""
    title: str = ""


Measure = Callable[[Part], list[Row]]


@dataclass(frozen=True)
class Script:
    """A measure that runs a script with `--json` and makes rows from its output.

    Args:
        command: The script, with the words before a part's arguments.
        rows_of: A function from the script's output to rows.
    """

    command: str
    rows_of: Callable[[Any, Part], list[Row]]

    def __call__(self, part: Part) -> list[Row]:
        """Run the script and show what it prints."""
        with tempfile.TemporaryDirectory(prefix="pneumoseg-fact-") as folder:
            path = Path(folder) / "record.json"
            words = [*shlex.split(f"{self.command} {part.arguments}"), "--json", str(path)]
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=False)
            # A missed target ends a script with status 1, a command with 3; the numbers are valid.
            if done.returncode not in (0, 1, 3) or not path.exists():
                raise UserError(
                    f"python {' '.join(words)} ended with status {done.returncode}, no record left"
                )
            return self.rows_of(json.loads(path.read_text(encoding="utf-8")), part)


def lines(part: Part) -> list[Row]:
    """Count the lines of code of each backend: {backend, lines}."""
    return [
        {
            "backend": name,
            "lines": sum(
                code_lines(path.read_text(encoding="utf-8"))
                for path in matching([f"backends/{name}/**/*.py"], ROOT)
            ),
        }
        for name in part.backends
    ]


def capabilities(part: Part) -> list[Row]:
    """Run the checks of `core.conformance`: {backend, subject, PRECISION: "yes", ..., checks}.

    The verdicts are those of `core.conformance.capabilities`; `checks` counts the row's by their status.
    """
    from core.backend.process import BackendProcess
    from core.conformance import all_checks, examine
    from core.conformance import capabilities as sum_up

    rows: list[Row] = []
    for name in part.backends:
        with BackendProcess(name) as backend:
            outcomes = [examine(check, backend) for check in all_checks()]
        for outcome in outcomes:
            if outcome.status == "failed":
                print(f"{name} failed: {outcome.check}: {outcome.detail}", file=sys.stderr)
        for subject, verdicts in sum_up(outcomes).items():
            statuses = [one.status for one in outcomes if one.check.subject == subject]
            counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
            rows.append({"backend": name, "subject": subject, **verdicts, "checks": counts})
    return rows


def certificate_rows(found: Mapping[str, Any], part: Part) -> list[Row]:
    """Return the row of a certificate: {what, steps, loss, loss_budget, array, share, holds}.

    Distances are the largest of all steps and runs. `loss_budget` is the budget of the loss's distance.
    `share` is the largest ratio of a distance to its budget.
    """
    runs = list(found["runs"].values())
    kinds = list(runs[0]["distances"])
    of_loss = [
        pair for run in runs for pair in zip(run["distances"]["loss"], run["budgets"]["loss"], strict=True)
    ]
    loss, loss_budget = max(of_loss)
    shares = [
        distance / budget
        for run in runs
        for kind in kinds
        for distance, budget in zip(run["distances"][kind], run["budgets"][kind], strict=True)
    ]
    return [
        {
            "what": part.title,
            "precision": found["precision"],
            "steps": found["steps"],
            "loss": loss,
            "loss_budget": loss_budget,
            "array": max(max(run["distances"][kind]) for run in runs for kind in kinds if kind != "loss"),
            "share": max(shares),
            "holds": found["holds"],
        }
    ]


def training_rows(record: Sequence[Mapping[str, Any]], part: Part) -> list[Row]:
    """Return from `benchmarks/training.py` a row for each framework, network and batch size."""
    del part

    def key(one: Mapping[str, Any]) -> tuple[str, str, str, int]:
        return one["framework"], one["contender"], one["network"], one["batch_size"]

    rates = {
        key(one): [one["batch_size"] * block["steps"] / block["seconds"] for block in one["blocks"]]
        for one in record
    }
    memory = {key(one): one["peak_memory"] for one in record}
    rows: list[Row] = []
    for one in record:
        if one["contender"] != "ours":
            continue
        name, of = one["framework"], (one["network"], one["batch_size"])
        ours, hand = (name, "ours", *of), (name, "by hand", *of)
        row = {field: one[field] for field in ("framework", "network", "precision", "size", "batch_size")}
        row["images_per_s"] = median(rates[ours])
        if hand in rates:
            row["over_by_hand"] = ratios(rates[ours], rates[hand])
            row["memory_over_by_hand"] = memory[ours] / memory[hand]
        if (keras := (name, "keras", *of)) in rates:
            row["over_keras"] = ratios(rates[ours], rates[keras])
        if name != "tf" and (tf := ("tf", "ours", *of)) in rates:
            row["over_tf"] = ratios(rates[ours], rates[tf])
        seconds, waiting = (sum(block[what] for block in one["blocks"]) for what in ("seconds", "waiting"))
        rows.append({**row, "waits": waiting / seconds})
    return rows


def loader_rows(record: Sequence[Mapping[str, Any]], part: Part) -> list[Row]:
    """Return from `benchmarks/loader.py` a row for each kind of file and contender.

    The script's record does not have the batch size: it is 32 unless the part says otherwise.
    """
    batch, count = _option(part, "--batch-size", 32), _option(part, "--count", 1024)
    rates = {
        (one["storage"], one["contender"]): [
            batch * block["steps"] / block["seconds"] for block in one["blocks"]
        ]
        for one in record
        if "blocks" in one
    }
    rows: list[Row] = []
    for one in record:
        storage, name = one["storage"], one["contender"]
        row: dict[str, Any] = {"storage": storage, "contender": name}
        if "blocks" not in one:
            rows.append({**row, "images_per_s": count / one["seconds"]})
            continue
        row["images_per_s"] = median(rates[storage, name])
        row["over_memory"] = ratios(rates[storage, name], rates[storage, "memory"])
        if name == "ours" and (storage, "torch") in rates:
            row["over_torch"] = ratios(rates[storage, name], rates[storage, "torch"])
        rows.append({**row, "memory_mb": one["peak_memory"] / 1e6})
    return rows


def prediction_rows(record: Mapping[str, Any], part: Part) -> list[Row]:
    """Return from `benchmarks/prediction.py` a row for each backend."""
    del part
    return [
        {
            "framework": name,
            "network": Path(record["config"]).stem,
            "precision": record["precision"],
            "batch_size": int(record["batch_size"]),
            "images_per_s": one["images_per_second"],
            **({} if name == "tf" else {"over_tf": spread(one["ratios"])}),
        }
        for name, one in record["backends"].items()
    ]


def predict_command_rows(record: Mapping[str, Sequence[float]], part: Part) -> list[Row]:
    """Return the row of `benchmarks/predict_command.py`."""
    kinds = ("read", "network", "conclude", "command")
    return [
        {
            "framework": part.backends[0],
            **{f"{kind}_ms": 1e3 * median(record[kind]) for kind in kinds},
            "over_sum": ratios(record["command"], record["sum of the parts"]),
        }
    ]


def start_rows(record: Mapping[str, Sequence[float]], part: Part) -> list[Row]:
    """Return from `benchmarks/start.py` a row for `--help`, and one for each framework's first update."""
    pairs = [("--help", "run.py --help", "import numpy")]
    pairs += [(name, f"{name}, first step", f"{name}, by hand") for name in part.backends]
    return [
        {
            "what": what,
            "seconds": median(record[ours]),
            **({"over": ratios(record[ours], record[other])} if other in record else {}),
        }
        for what, ours, other in pairs
    ]


def scaling_rows(record: Mapping[str, Sequence[Mapping[str, Any]]], part: Part) -> list[Row]:
    """Return rows with minimum and maximum of the slopes, which are equal on a straight line.

    The smallest image size has its own fields, since the memory of larger ones is compared with its.
    """
    images, (first, *sizes) = record["images"], record["sizes"]
    epochs = [1e6 * median(one["epochs"]) / one["count"] for one in images]
    memory = [one["peak_memory"] / 1e6 for one in images]
    steps = [1e3 * one["step"] / one["pixels"] for one in sizes]
    more = [
        (one["peak_memory"] - first["peak_memory"]) / (one["pixels"] - first["pixels"]) / 1e6 for one in sizes
    ]
    return [
        {
            "what": "images",
            "from": images[0]["count"],
            "to": images[-1]["count"],
            "ms": [min(epochs), max(epochs)],
            "memory_mb": [min(memory), max(memory)],
        },
        {
            "what": "size",
            "framework": part.backends[0],
            "from": sizes[0]["size"],
            "to": sizes[-1]["size"],
            "ms": [min(steps), max(steps)],
            "memory_mb": [min(more), max(more)],
            "smallest": first["size"],
            "smallest_ms": 1e3 * first["step"] / first["pixels"],
        },
    ]


def worker_rows(record: Sequence[Mapping[str, Any]], part: Part) -> list[Row]:
    """Return a row of `benchmarks/workers.py` for each framework."""
    del part
    ratios_of = ("workers", "exchange", "time_of_shards", "memory_of_shards")
    return [
        {
            "framework": one["framework"],
            "network": one["network"],
            **{name: [median(one[name]), min(one[name]), max(one[name])] for name in ratios_of},
            "expected": one["expected"],
        }
        for one in record
    ]


def preprocessing_rows(record: Mapping[str, Any], part: Part) -> list[Row]:
    """Return the row of `benchmarks/preprocess.py`."""
    del part
    return [
        {
            "storage": record["storage"],
            "count": record["count"],
            "over_limit": spread(record["ratios"]["of the limit, beyond start-up"]),
            "over_loop": spread(record["ratios"]["over the loop, beyond start-up"]),
        }
    ]


def _option(part: Part, name: str, default: int) -> int:
    words = shlex.split(part.arguments)
    return int(words[words.index(name) + 1]) if name in words else default
