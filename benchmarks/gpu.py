#!/usr/bin/env python
"""Whether the toolkit is right and fast on a GPU, in a few minutes.

    python benchmarks/gpu.py [--minutes 8] [--device gpu|cpu] [-f NAME ...] [--only PART ...] [--json FILE]

The parts, the most important first:

    machine       the card, its driver and memory, the frameworks and the devices that they see
    conformance   the checks of `run.py conformance` on the card, as many as fit (quick_conformance.py)
    certificate   `run.py parity`: 50 steps on the card against the reference on the CPU, in float64, float32
                  and TF32
    training      images/s, memory and waiting, ours and by hand, in four precisions (training.py)
    prediction    images/s of the network (prediction.py), and of `run.py predict` from DICOM to masks, its
                  compilation included, beside ONNX Runtime
    workers       1 and 2 workers on the card give the same bits (`run.py parity --workers`)

Each part consists of tasks. A task is a process with a time limit: what is left of the whole time is shared
by the parts and tasks that are left. One that hangs or crashes ends no other; its results until then count. A
task that finds no time is listed as not run. The record is written whenever a task ends. Frameworks and
extras that are missing are left out. The package need not be installed. With `--device cpu` all sizes are
tiny, which shows that the script works and says nothing about speed. Exit status 1: something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from card import query  # noqa: E402  the line above finds it
from paired_timings import shown, spread  # noqa: E402

from core.files.atomic import write_text  # noqa: E402

PARTS = {"machine": 4, "conformance": 4, "certificate": 4, "training": 9, "prediction": 4, "workers": 2}
"""The parts in their order, with the weight by which they share the time."""

GRAPHS = {"PNEUMOSEG_CUDA_GRAPHS": "1"}  # backends/torch/graphs.py

TRAINERS = ("torch", "jax", "tf", "mxnet")
PRECISIONS = ("float32", "tf32", "mixed_bfloat16", "mixed_float16")
CARD = ("name", "driver_version", "memory.total", "compute_cap")
OVERTIME = 1.5  # a task may take so many times its share of the time before it is killed

PHANTOMS, IMAGES, ANNOTATIONS = "phantoms", "dicom-images-train", "train-rle.csv"  # preprocess.py phantoms
NO_TIME = "not run: no time was left"

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is done; the first of several is the most important."""

    networks: Sequence[str] = ("fcn", "unet")
    sizes: Sequence[int] = (384, 512)
    batches: Sequence[int] = (32, 8, 64, 16)
    turns: Sequence[str] = ("--seconds", "0.5", "--repetitions", "3")
    checks: int = 10_000
    steps: int = 50
    radiographs: int = 240
    radiograph_size: int = 1024
    predicted: int = 32
    certified: Sequence[str] = ("float64", "float32", "tf32")


TINY = Sizes(("fcn",), (64,), (2, 4), ("--steps", "2", "--repetitions", "1"), 12, 3, 12, 128, 2, ("float64",))


@dataclass(frozen=True)
class Task:
    """A process of a part.

    Args:
        part: The part.
        name: What it does; unique.
        words: Its command after the interpreter. `JSON` stands for the file of its record, `SECONDS` for the
            time after which it should begin nothing new.
        rows: Turns its record into rows of the table; a record is None if there is none.
        prints: Its output is the record.
        variables: Variables of its environment besides those of all tasks.
    """

    part: str
    name: str
    words: Sequence[str]
    rows: Callable[[Any], list[Row]] = lambda _: []
    prints: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a task ended; `error` is None if it ended well."""

    record: Any
    error: str | None
    seconds: float


def run_task(
    task: Task, share: float, limit: float, environment: dict[str, str], stop: threading.Event
) -> Outcome:
    """Run a task; end it and all its processes after `limit` seconds, or when `stop` is set."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pneumoseg-gpu-") as name:
        record, output, errors = (Path(name) / each for each in ("record.json", "output", "errors"))
        values = {"JSON": str(record), "SECONDS": f"{0.8 * share:.1f}"}
        command = [sys.executable, *(values.get(word, word) for word in task.words)]
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**environment, **task.variables},
                start_new_session=True,
            )
        while process.poll() is None and time.monotonic() < began + limit and not stop.wait(0.1):
            pass
        status, error = process.poll(), None
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if status is None:
            error = f"stopped after {time.monotonic() - began:.0f} s"
        elif status:
            error = _last_words(errors, output) or f"exit status {status}"
        found: Any = None
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((output if task.prints else record).read_text(errors="replace"))
        if found is None and error is None:
            found = output.read_text(errors="replace")
        return Outcome(found, error, time.monotonic() - began)


def _last_words(*files: Path) -> str:
    """Return the last line of the first file that has one; the error, if a line begins with "error:"."""
    for path in files:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return next((line for line in lines if line.startswith("error:")), lines[-1])[:300]
    return ""


@dataclass
class Report:
    """The rows so far, printed as they come and kept in a file."""

    path: Path | None
    facts: dict[str, Any]
    until: float
    rows: list[Row] = field(default_factory=list)
    records: dict[str, Any] = field(default_factory=dict)

    def add(self, task: Task, outcome: Outcome) -> None:
        """Add what a task found."""
        self.records[task.name] = outcome.record
        rows: list[Row] = []
        try:
            rows = task.rows(outcome.record) if outcome.record is not None else []
        except Exception as error:  # a record that is cut off may lack anything
            rows = [{"what": task.name, "result": f"its record cannot be read: {error!r}", "failed": True}]
        if outcome.error is not None and not any(row.get("failed") for row in rows):
            failed = outcome.error != NO_TIME
            rows.append({"what": task.name, "result": outcome.error, "failed": failed})
        for row in rows:
            self.rows.append({"part": task.part, **row})
            print(_line(self.rows[-1]), flush=True)
        print(f"  ({task.name}: {outcome.seconds:.0f} s, {self.left:.0f} s left)", flush=True)
        self.write()

    def say(self, part: str, what: str, result: str, *, failed: bool = False) -> None:
        """Add a row that no task found."""
        self.rows.append({"part": part, "what": what, "result": result, "failed": failed})
        print(_line(self.rows[-1]), flush=True)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(self.until - time.monotonic(), 0.0)

    def write(self) -> None:
        """Write the record."""
        if self.path is not None:
            content = {**self.facts, "rows": self.rows, "records": self.records}
            write_text(self.path, json.dumps(content, indent=1) + "\n")

    def print_table(self) -> None:
        """Print all rows."""
        print("\n" + "\n".join(map(_line, self.rows)))


def _line(row: Row) -> str:
    return f"{row['part']:<12} {row['what']:<52} {'FAILED: ' if row.get('failed') else ''}{row['result']}"


def run_part(
    tasks: Sequence[Task], seconds: float, at_once: int, report: Report, environment: dict[str, str]
) -> None:
    """Run the tasks of a part within some seconds, so many at once."""
    until = time.monotonic() + min(seconds, report.left)
    waiting, stop = list(tasks), threading.Event()

    def next_task(task: Task) -> Outcome:
        left = until - time.monotonic()
        share = left / max(-(-len(waiting) // at_once), 1)
        waiting.remove(task)
        if left < 1 or stop.is_set():
            return Outcome(None, NO_TIME, 0.0)
        return run_task(task, share, min(OVERTIME * share, left), environment, stop)

    with ThreadPoolExecutor(at_once) as pool:
        begun = {pool.submit(next_task, task): task for task in tasks}
        try:
            for one in as_completed(list(begun)):
                report.add(begun.pop(one), one.result())
        except KeyboardInterrupt:
            stop.set()
            for one, task in begun.items():
                report.add(task, one.result())
            raise


def script(name: str, *words: object) -> list[str]:
    """Return the words of a script of the project."""
    place = ROOT / name if name in ("run.py", "preprocess.py") else HERE / name
    return [str(place), *map(str, words)]


def conformance(names: Sequence[str], device: str, sizes: Sizes) -> Iterator[Task]:
    """Yield the checks of each framework."""
    for name in names:
        limits = ("--within", "SECONDS", "--most", sizes.checks)
        words = ("-f", name, "--device", device, *limits, "--json", "JSON")

        def rows(record: list[Row], name: str = name) -> list[Row]:
            found = []
            for precision in dict.fromkeys(one["precision"] for one in record):
                of_one = [one for one in record if one["precision"] == precision]
                counts = Counter(one["status"] for one in of_one)
                failed = [f"{one['subject']}: {one['name']}" for one in of_one if one["status"] == "failed"]
                text = ", ".join(f"{count} {status}" for status, count in counts.items())
                text += f" ({'; '.join(failed[:3])})" if failed else ""
                found.append({"what": f"{name}, {precision}", "result": text, "failed": bool(failed)})
            return found

        yield Task("conformance", f"conformance of {name}", script("quick_conformance.py", *words), rows)


def certificate(names: Sequence[str], device: str, sizes: Sizes) -> Iterator[Task]:
    """Yield the certificate of each framework; in TF32 not MXNet's, which has it on the CPU alone."""
    for name in names:
        for precision in sizes.certified:
            if (name, precision) == ("mxnet", "tf32"):
                continue
            words = (
                *("parity", "-f", "reference", "-f", name, "--config", "demo", "--steps", sizes.steps),
                *("--batch-size", 4, "--precision", precision, "--device", device),
                *("--json", "JSON", "-q", "--no-progress"),
            )

            def rows(record: Row, what: str = f"{name}, {precision}") -> list[Row]:
                series = [run for run_name, run in record["runs"].items() if run_name != record["base"]]
                shares = [
                    distance / budget if budget else 0.0
                    for run in series
                    for kind, distances in run["distances"].items()
                    for distance, budget in zip(distances, run["budgets"][kind], strict=True)
                ]
                held = "holds" if record["holds"] else "DOES NOT HOLD"
                text = (
                    f"{held} over {record['steps']} steps; at most {max(shares, default=0):.0%} of the budget"
                )
                return [{"what": what, "result": text, "failed": not record["holds"]}]

            yield Task("certificate", f"certificate of {name}, {precision}", script("run.py", *words), rows)


def files_of_phantoms(folder: Path, sizes: Sizes) -> Iterator[Task]:
    """Yield what makes the data files for training."""
    radiographs = folder / PHANTOMS
    drawn = ("--out", radiographs, "--count", sizes.radiographs, "--size", sizes.radiograph_size)
    yield Task("training", "phantoms", script("preprocess.py", "phantoms", *drawn, "--no-progress"))
    found = ("--images", radiographs / IMAGES, "--annotations", radiographs / ANNOTATIONS, "--no-progress")
    for size in sizes.sizes:
        words = (*found, "--size", size, "--out", folder / f"{size}.h5")
        yield Task("training", f"data file of {size}x{size}", script("preprocess.py", *words))


def training(names: Sequence[str], device: str, sizes: Sizes, folder: Path) -> Iterator[Task]:
    """Yield the training of each framework; on noise, if there are no data files."""
    files = [folder / f"{size}.h5" for size in sizes.sizes]
    data = [word for path in files for word in ("--data", path)]
    if not all(path.is_file() for path in files):
        data = [word for size in sizes.sizes for word in ("--size", size)] + ["--storage", "uint8"]
    for name in names:
        options = {"--network": sizes.networks, "--batch-size": sizes.batches, "--precision": PRECISIONS}
        words = [word for option, values in options.items() for value in values for word in (option, value)]
        words += ["-f", name, *data, *sizes.turns, "--same-precision", "--device", device]
        words += ["--within", "SECONDS", "--json", "JSON"]
        yield Task("training", f"training by {name}", script("training.py", *words), training_rows)
        if name == "torch" and device != "cpu":
            what = "training by torch with CUDA graphs"
            yield Task("training", what, script("training.py", *words), graph_rows, variables=GRAPHS)


def graph_rows(record: Sequence[Row]) -> list[Row]:
    """Return the rows of `training_rows` for our steps as CUDA graphs."""
    rows = training_rows(record)
    return [{**row, "what": f"CUDA graphs, {row['what']}"} for row in rows if "by hand" not in row["what"]]


def training_rows(record: Sequence[Row]) -> list[Row]:
    """Return a row for each contender and setting of `training.py`."""
    found: list[Row] = []
    keys = ("framework", "network", "size", "batch_size", "precision")
    by_hand = {
        tuple(one[key] for key in keys): _rates(one) for one in record if one["contender"] == "by hand"
    }
    for one in record:
        setting = tuple(one[key] for key in keys)
        what = "{framework} {contender}, {network} {size}, batch {batch_size}, {precision}".format(**one)
        if "error" in one:
            found.append({"what": what, "result": one["error"].splitlines()[0][:300], "failed": True})
            continue
        rates, seconds = _rates(one), sum(block["seconds"] for block in one["blocks"])
        text = f"{shown(spread(rates), '.0f')} images/s"
        text += f"; device {_or_dash(one['device_memory'], lambda value: f'{value / 1e6:.0f} MB')}"
        text += f", busy {_or_dash(one['card_busy'], lambda value: f'{value:.0%}')}"
        if one["contender"] == "ours":
            waiting = sum(block["waiting"] for block in one["blocks"]) / seconds
            inside = sum(block["inside"] for block in one["blocks"]) / seconds
            text += f"; waits for data {waiting:.1%}, host between steps {1 - waiting - inside:.1%}"
            if by_hand.get(setting):
                of_hand = [a / b for a, b in zip(rates, by_hand[setting], strict=True)]
                text += f"; {shown(spread(of_hand))} of by hand"
        found.append({"what": what, "result": text, "images_per_second": spread(rates)[0]})
    return found


def _rates(one: Row) -> list[float]:
    return [one["batch_size"] * block["steps"] / block["seconds"] for block in one["blocks"]]


def _or_dash(value: Any, form: Callable[[Any], str]) -> str:
    return "-" if value is None else form(value)


def prediction(names: Sequence[str], device: str, sizes: Sizes, onnx: str | None) -> Iterator[Task]:
    """Yield predictions by the networks alone; `onnx` is the device of ONNX Runtime, None without it."""
    beside = ["-f", "onnx"] if onnx == device else []
    for name in names:
        words = (*beside, "-f", name, "--size", sizes.sizes[0], "--batch-size", sizes.predicted)
        words = (*words, "--repetitions", 3, "--device", device, "--json", "JSON")

        def rows(record: Row) -> list[Row]:
            return [
                {
                    "what": f"{name}, the network alone",
                    "result": f"{shown(spread(one['rates']), '.0f')} images/s on {one['device']}; "
                    f"{one['ratio']:.2f} of the first, differs by {one['difference']:.1e}",
                }
                for name, one in record["backends"].items()
            ]

        yield Task("prediction", f"prediction by {name}", script("prediction.py", *words), rows)


def predict_commands(
    names: Sequence[str], device: str, sizes: Sizes, onnx: str | None, folder: Path
) -> Iterator[Task]:
    """Yield the training of a model for a moment, and predictions from DICOM files to masks with it."""
    trained = ("-f", names[0], "--config", sizes.networks[0], "--data", folder / f"{sizes.sizes[0]}.h5")
    trained = (*trained, "--epochs", 1, "--out", folder, "--device", device, "-q", "--no-progress")
    yield Task("prediction", "a model to predict with", script("run.py", *trained))
    places = [(name, device) for name in names] + ([("onnx", onnx)] if onnx else [])
    for name, place in places:
        words = ("predict", "-f", name, "--device", place, "--model", folder / f"{names[0]}_model")
        words = (
            *words,
            "--images",
            folder / PHANTOMS / IMAGES,
            "--out",
            folder / f"{name}.csv",
            "--no-progress",
        )

        def rows(record: str, what: str = f"{name}, from DICOM to masks, {place}") -> list[Row]:
            (rate,) = re.findall(r"[\d.]+ images/s", " ".join(record.split()))
            return [{"what": what, "result": rate}]

        yield Task("prediction", f"predict by {name}", script("run.py", *words), rows)


def workers(names: Sequence[str], device: str, sizes: Sizes) -> Iterator[Task]:
    """Yield runs by one and by two workers."""
    for name in names:
        words = (
            *("parity", "-f", name, "--workers", 1, "--workers", 2, "--set", "training.shards=2"),
            *(
                "--steps",
                min(sizes.steps, 10),
                "--batch-size",
                4,
                "--precision",
                "float32",
                "--device",
                device,
            ),
            *("--config", "demo", "--no-progress"),
        )

        def rows(record: Any, what: str = f"{name}, 1 and 2 workers") -> list[Row]:
            return [{"what": what, "result": str(record).strip().splitlines()[-1]}]

        yield Task("workers", f"workers of {name}", script("run.py", *words), rows)


def cards() -> list[tuple[str, str]]:
    """Return the name of each card in the table, and what is known of it."""
    return [
        (f"card {number}", ", ".join(f"{key} {value}" for key, value in card.items()))
        for number, card in enumerate(query(*CARD) or [])
    ] or [("card", "- (nvidia-smi tells nothing)")]


def frameworks() -> Iterator[Task]:
    """Yield what asks each framework for its version and devices, as `run.py backends` does."""
    code = (
        "import dataclasses, json, sys; from core.backend.availability import probe; "
        "print(json.dumps(dataclasses.asdict(probe(sys.argv[1]))))"
    )

    def rows(found: Row) -> list[Row]:
        text = f"{found['version'] or '-'}; {', '.join(found['devices']) or found['error']}"
        return [{"what": found["title"], "result": text}]

    for name in (*TRAINERS, "onnx"):
        yield Task("machine", name, ["-c", code, name], rows, prints=True)


def environment_for(folder: Path) -> dict[str, str]:
    """Return the variables of all tasks; where the package is not installed, its backends are registered."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not importlib.metadata.entry_points(group="pneumoseg.backends"):
        words = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
        subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
        paths.insert(1, str(folder))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads of one process do not slow another
    }


def main() -> int:
    """Run all parts; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="the whole time")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument(
        "-f",
        "--framework",
        action="append",
        metavar="NAME",
        help="default: all that see the device; may be repeated",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(PARTS),
        metavar="PART",
        help="run only this part; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    facts = {
        "command": sys.argv[1:],
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
    report = Report(arguments.json, facts, until)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found so far is written
    with tempfile.TemporaryDirectory(prefix="pneumoseg-gpu-") as name:
        try:
            run_all(arguments, report, Path(name))
        except KeyboardInterrupt:
            print("interrupted")
        report.write()
    report.print_table()
    return int(any(row.get("failed") for row in report.rows))


def run_all(arguments: argparse.Namespace, report: Report, folder: Path) -> None:
    """Run the parts in their order."""
    device, sizes = arguments.device, Sizes() if arguments.device == "gpu" else TINY
    wanted = [part for part in PARTS if part in (arguments.only or PARTS)]
    if "prediction" in wanted or not arguments.framework:  # they need to know what sees the device
        wanted = list(dict.fromkeys(["machine", *wanted]))
    environment = environment_for(folder)
    # Work that is not timed may share the card; each framework has a process, and the reference has two.
    together = max(report.facts["cores"] // 4, 1)

    def run(part: str, tasks: Sequence[Task], at_once: int = 1) -> None:
        ahead = sum(PARTS[one] for one in wanted[wanted.index(part) :])
        run_part(tasks, report.left * PARTS[part] / ahead, at_once, report, environment)

    if "machine" in wanted:
        for what, result in cards():
            report.say("machine", what, result)
        run("machine", list(frameworks()), len(TRAINERS) + 1)
    seen = {
        name: {one.partition(":")[0] for one in (report.records.get(name) or {"devices": ()})["devices"]}
        for name in (*TRAINERS, "onnx")
    }
    names = arguments.framework or [name for name in TRAINERS if device in seen[name]]
    onnx = next((place for place in (device, "cpu") if place in seen["onnx"]), None)
    if not names:
        report.say("machine", device, "no framework sees it", failed=True)
        return
    for_files, for_workers = absent("cv2", "pydicom"), absent("mpi4py")
    if "conformance" in wanted:
        run("conformance", list(conformance(names, device, sizes)), together)
    if "certificate" in wanted:
        run("certificate", list(certificate(names, device, sizes)), together)
    if for_files:
        for part in [one for one in ("training", "prediction") if one in wanted]:
            report.say(part, "files of phantoms", f"- ({for_files})")
    elif "training" in wanted or "prediction" in wanted:
        run_part(list(files_of_phantoms(folder, sizes)), report.left / 4, 1, report, environment)
    if "training" in wanted:
        run("training", list(training(names, device, sizes, folder)))
    if "prediction" in wanted:
        commands = [] if for_files else predict_commands(names, device, sizes, onnx, folder)
        run("prediction", [*prediction(names, device, sizes, onnx), *commands])
    if "workers" in wanted:
        if for_workers:
            report.say("workers", "all", f"- ({for_workers})")
        else:
            run("workers", list(workers(names, device, sizes)))


def absent(*modules: str) -> str | None:
    """Return which of some modules are not installed; None if all are."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


if __name__ == "__main__":
    sys.exit(main())
