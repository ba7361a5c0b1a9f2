#!/usr/bin/env python
"""From DICOM to masks: `run.py predict`, beside the sum of its parts.

    python benchmarks/predict_command.py [-f tf] [--count 240] [--batch-size 8] [--repetitions 5] [--device
    cpu]
                                 [--json FILE]

On generated radiographs of 1024x1024, with the default network at 384x384, trained here for a moment; in one
run, taking turns:

    command    `python run.py predict`, from start to exit, for each file beyond a handful (start-up left out)
    read       `data.radiographs.reading.read_all` alone, on all cores
    network    `core.prediction.trained_models.Predictor.predict` alone
    conclude   probabilities to the original size, thresholds, encoding: alone, on all cores

Each part has the whole machine to itself, so their sum is what the command takes if nothing is lost and
nothing overlaps. Printed are ms an image, and the command's share of the sum, round by round: 1 or less is
the aim.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from paired_timings import ratios, seconds_in_turns, shown, spread  # noqa: E402

from core.backend.devices import choose_device  # noqa: E402
from core.backend.registry import load_backend  # noqa: E402
from core.base.system import available_cores  # noqa: E402
from core.commands.predict import results  # noqa: E402
from core.prediction.trained_models import Predictor, find_members, find_thresholds  # noqa: E402
from core.processes.pool import map_in_order  # noqa: E402
from data.phantoms.data_set import ANNOTATIONS, IMAGES, PhantomSettings, write_phantoms  # noqa: E402
from data.radiographs import dicom  # noqa: E402
from data.radiographs.reading import read_all  # noqa: E402

SIZE, HANDFUL = 384, 8


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-f", "--framework", default="tf", metavar="NAME")
    parser.add_argument("--count", type=int, default=240, help="radiographs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5, help="rounds that count")
    parser.add_argument("--device", default="cpu", metavar="auto|cpu|gpu|gpu:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name:
        rounds = measure(arguments, Path(name))
    parts = [
        sum(values)
        for values in zip(*(rounds[part] for part in ("read", "network", "conclude")), strict=True)
    ]
    rounds["sum of the parts"] = parts
    for part, values in rounds.items():
        middle, low, high = spread([1e3 * value for value in values])
        print(f"{part:<18}{middle:7.1f} ms an image ({low:.1f}, {high:.1f}), {1e3 / middle:6.1f} images/s")
    share = shown(ratios(rounds["command"], parts))
    print(f"{arguments.framework}: the command takes {share} of the sum of its parts")
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=1) + "\n")
    return 0


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds an image, of each part in every round."""
    print(f"drawing {arguments.count} radiographs and training for a moment …", flush=True)
    write_phantoms(PhantomSettings(folder, count=arguments.count, seed=1))
    images, model = folder / IMAGES, folder / f"{arguments.framework}_model"
    few = folder / "few"
    few.mkdir()
    for path in dicom.find(images)[:HANDFUL]:
        (few / path.name).symlink_to(path)
    command(
        *("preprocess.py", "--images", images, "--annotations", folder / ANNOTATIONS, "--size", SIZE),
        *("--out", folder / "data.h5"),
    )
    command("run.py", "-f", arguments.framework, "--data", folder / "data.h5", "--out", folder, "--epochs", 3)
    backend, implementation = load_backend(arguments.framework)
    device = choose_device(arguments.device, implementation.list_devices(), backend.title)
    predictor = Predictor(find_members([model]), implementation, device)
    thresholds = find_thresholds([model])
    if thresholds is None:
        raise SystemExit("training left no thresholds")
    files, cores = dicom.find(images), available_cores()
    readings = list(read_all(images, files, SIZE, SIZE, workers=cores))
    stack = np.stack([reading.image for reading in readings if reading.image is not None])[..., None]
    batches = [stack[n : n + arguments.batch_size] for n in range(0, len(stack), arguments.batch_size)]
    found = np.concatenate([predictor.predict(batch) for batch in batches])[..., 0]
    settings = results.OutputSettings(thresholds)
    tasks = [
        results.PredictedImage(reading.source, one) for reading, one in zip(readings, found, strict=True)
    ]

    def predict(folder_of_images: Path) -> None:
        command(
            *("run.py", "predict", "-f", arguments.framework, "--model", model, "--images", folder_of_images),
            *("--out", folder / "submission.csv", "--overwrite", "--device", arguments.device),
            *("--batch-size", arguments.batch_size),
        )

    def conclude() -> None:
        crashed = functools.partial(results.result_of_crash, settings=settings)
        prepare, facts = results.set_output_settings, (settings,)
        list(
            map_in_order(
                results.make_result, tasks, workers=cores, on_crash=crashed, prepare=prepare, arguments=facts
            )
        )

    work: dict[str, Callable[[], object]] = {
        "command": lambda: predict(images),
        "handful": lambda: predict(few),
        "read": lambda: list(read_all(images, files, SIZE, SIZE, workers=cores)),
        "network": lambda: [predictor.predict(batch) for batch in batches],
        "conclude": conclude,
    }
    seconds = seconds_in_turns(work, arguments.repetitions)
    handful = statistics.median(seconds.pop("handful"))
    beyond = arguments.count - HANDFUL
    rounds = {part: [value / arguments.count for value in values] for part, values in seconds.items()}
    rounds["command"] = [(value - handful) / beyond for value in seconds["command"]]
    return rounds


def command(*words: object) -> None:
    """Run one of the project's, which must succeed."""
    line = [sys.executable, str(ROOT / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with status {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
