"""On every backend, a run that is killed at random points ends bit for bit as an uninterrupted one.

A run is killed and resumed repeatedly, each time at a random point after its next epoch. `PNEUMOSEG_KILLS` is
the number of kills: two by default, since each start of a framework takes seconds. The moments between two
files are tested in `test_interrupted_training.py`.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from command_line import LAST, assert_same_run, history, prepare, succeed
from selected import BACKENDS
from test_interrupted_training import started, wait_for_line

from core.experiment.checkpoint import load_checkpoint

pytestmark = pytest.mark.turns(3)

KILLS = int(os.environ.get("PNEUMOSEG_KILLS", "2"))
IMAGES = 60


@pytest.mark.timeout(60 * max(KILLS, 5))
@pytest.mark.parametrize("backend", BACKENDS[:2])  # checkpoints are written and read by core
def test_killed_again_and_again_it_ends_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    prepare(tmp_path, images=IMAGES)
    model = f"{backend}_model"
    words = ["-f", backend, "--data", "data.h5"]
    begin = [*words, "--config", "network.yaml", "--epochs", str(6 * KILLS)]
    succeed(*begin, "--out", "whole", cwd=tmp_path)
    # Training alone: with scoring and checkpoint an epoch takes longer.
    speeds = sorted(record["images_per_second"] for record in history(tmp_path / "whole" / model))
    epoch_s = IMAGES / speeds[len(speeds) // 2]
    moments, killed, points = random.Random(backend), 0, set()
    while killed < KILLS:
        with started(tmp_path, [*words, "--resume"] if killed else begin) as process:
            wait_for_line(process, "epoch ")
            time.sleep(moments.uniform(0, 2 * epoch_s))
            process.kill()
            process.communicate()
        killed += 1
        points.add(load_checkpoint(tmp_path / model / LAST).progress.step)
    assert len(points) == KILLS, "every kill comes later than the one before"
    succeed(*words, "--resume", cwd=tmp_path)
    assert_same_run(tmp_path / "whole" / model, tmp_path / model)
