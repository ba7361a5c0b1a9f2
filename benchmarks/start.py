#!/usr/bin/env python
"""Measure start-up times: until `--help` is shown, and until the first update is done.

    python benchmarks/start.py [-f tf -f mxnet ...] [--network fcn] [--batch-size 8] [--size 384]
                               [--repetitions 5] [--device cpu] [--json FILE]

    --help         `python run.py --help`, over `python -c "import numpy"`; target: within 3 times
    first step     `python run.py -f NAME` until its first update is done, over a process that imports the
                   framework, builds the same network by hand and makes one step; target: within 1.5 times
    compiled       for jax also: the same process over one that ends when `jax.jit` has compiled the step by
                   hand, which it does not make; target: within 2 times

The script measures the wall time of whole processes, which take turns. It prints medians (minimum, maximum)
and the ratios of the rounds. The first round, in which files are read from the disk, does not count.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from noise import write_noise  # noqa: E402  the line above finds the project
from paired_timings import ratios, seconds_in_turns, spread  # noqa: E402
from training import BY_HAND  # noqa: E402

MOST_HELP, MOST_FIRST, MOST_COMPILED = 3.0, 1.5, 2.0

FIRST_STEP = """
import os, sys
sys.path.insert(0, sys.argv[1])
from core.training.loop import Trainer
from core.training.observers import Observer
run = Trainer.run
class Leave(Observer):
    def batch_trained(self, loss):
        os._exit(0)
def short(self):
    self.observers = (*self.observers, Leave())
    step = self._train_step
    self._train_step = lambda *arguments: Settled(step(*arguments))
    return run(self)
class Settled:
    def __init__(self, loss):
        self._loss = float(loss)
        os._exit(0)
Trainer.run = short
sys.argv = ["run.py", *sys.argv[2:]]
import runpy
runpy.run_path(os.path.join(sys.path[0], "run.py"), run_name="__main__")
"""

ONE_STEP = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import importlib
class Turn:
    def ready(self, **facts):
        pass
    def step_done(self, settle):
        settle()
        os._exit(0)
module, function, network, batch_size, size, device = sys.argv[3:]
run = getattr(importlib.import_module("by_hand." + module), function)
run(Turn(), network, int(batch_size), int(size), device)
"""


def main() -> int:
    """Measure and print; return exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-f", "--framework", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--network", choices=("fcn", "unet"), default="fcn")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--repetitions", type=int, default=5, help="rounds that count")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name:
        folder = Path(name)
        write_noise(folder / "noise.h5", arguments.size, "float32", 4 * arguments.batch_size)
        commands = {
            "run.py --help": [python, str(ROOT / "run.py"), "--help"],
            "import numpy": [python, "-c", "import numpy"],
        }
        pairs = [("run.py --help", "import numpy", MOST_HELP)]
        for framework in dict.fromkeys(arguments.framework or ["tf", "mxnet"]):
            ours, hand = f"{framework}, first step", f"{framework}, by hand"
            commands[ours] = [
                *(python, "-c", FIRST_STEP, str(ROOT), "-f", framework, "--data", str(folder / "noise.h5")),
                *("--config", str(ROOT / f"configs/{arguments.network}.yaml")),
                *("--out", str(folder / framework)),
                *("--batch-size", str(arguments.batch_size), "--device", arguments.device),
            ]
            if framework in BY_HAND:
                facts = (arguments.network, str(arguments.batch_size), str(arguments.size), arguments.device)
                places = (str(ROOT / "benchmarks"), str(ROOT))
                by_hand = [python, "-c", ONE_STEP, *places, BY_HAND[framework]]
                commands[hand] = [*by_hand, "train", *facts]
                pairs.append((ours, hand, MOST_FIRST))
                if framework == "jax":
                    commands["jax, compiled"] = [*by_hand, "compile_step", *facts]
                    pairs.append((ours, "jax, compiled", MOST_COMPILED))
        work = {key: functools.partial(run, command) for key, command in commands.items()}
        seconds = seconds_in_turns(work, arguments.repetitions)
    for key, values in seconds.items():
        middle, low, high = spread(values)
        print(f"{key:<20}{middle:7.2f} s ({low:.2f}, {high:.2f})")
    met = True
    for one, other, most in pairs:
        middle, low, high = ratios(seconds[one], seconds[other])
        met = met and middle <= most
        print(f"{one} over {other}: {middle:.2f} ({low:.2f}, {high:.2f}); target: at most {most}")
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1) + "\n")
    return 0 if met else 1


def run(command: list[str]) -> None:
    """Run a process from start to end."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} … ended with status {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
