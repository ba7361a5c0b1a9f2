"""Tests of the estimate of memory for training, against the memory that frameworks take on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from selected import BACKENDS

from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.training.memory_estimate import MemoryEstimate, estimate_training

pytestmark = pytest.mark.turns(7)

ROOT = Path(__file__).resolve().parents[2]

_PREPARE = """
import sys
from pathlib import Path
import numpy as np
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.backend.registry import load_backend
from core.backend.training_rules import StepScalars
from core.backend.state import initial_state

_, name, configuration, batch, height, width = sys.argv
shape = (int(batch), int(height), int(width), 1)
settings = load_configuration(Path(configuration))
plan, rules = lower(settings.network, *shape[1:3]), settings.training.rules()
implementation = load_backend(name)[1]
implementation.list_devices()
images = np.random.default_rng(0).random(shape, dtype=np.float32)
masks = (images > 0.9).astype(np.uint8)

def status(key):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{key}:")[1].split()[0])

before = status("VmRSS")
model = implementation.compile(plan, rules, "cpu", "float32")
model.load_state(initial_state(plan, rules, 0))
float(model.train_step(images, masks, StepScalars(1, 1e-3)))
"""
_PEAK_OF_PROCESS = """
for step in (2, 3):
    float(model.train_step(images, masks, StepScalars(step, 1e-3)))
print("found", status("VmHWM") - before)
"""
_PEAK_OF_ALLOCATOR = """
from torch.profiler import ProfilerActivity, profile
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
    float(model.train_step(images, masks, StepScalars(2, 1e-3)))
events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
print("found", int(np.cumsum(sizes).max()))
"""


def measured(code: str, *words: object) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PREPARE + code, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("found ")[1])


def estimate(configuration: str, batch: int, height: int, width: int) -> MemoryEstimate:
    settings = load_configuration(Path(configuration))
    plan = lower(settings.network, height, width)
    return estimate_training(plan, settings.training.rules(), batch, "float32")


@pytest.mark.skipif("torch" not in BACKENDS, reason="PyTorch's allocator is the only one that tells all")
@pytest.mark.parametrize("case", [("demo", 24, 96, 160), ("unet", 6, 128, 160)])
def test_the_arrays_of_a_step_are_those_that_an_allocator_hands_out(case: tuple[str, int, int, int]) -> None:
    found, expected = measured(_PEAK_OF_ALLOCATOR, "torch", *case), estimate(*case)
    # The state and the batch were allocated before the step, so they are not part of what was measured.
    of_a_step = expected.activations + expected.transient
    assert 0.9 * found < of_a_step + expected.gradients < 1.25 * found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's peak of memory")
@pytest.mark.parametrize("name", [name for name in BACKENDS if name in ("tf", "torch")])
@pytest.mark.parametrize("case", [("demo", 48, 128, 128), ("unet", 5, 192, 160)])
def test_a_process_takes_about_what_is_estimated(name: str, case: tuple[str, int, int, int]) -> None:
    found = measured(_PEAK_OF_PROCESS, name, *case)
    assert 0.6 < estimate(*case).process / found < 1.6
