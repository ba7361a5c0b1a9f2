"""A loss that is not finite ends the run with an error; no checkpoint of a broken network is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import BEST, LAST, history, run, run_here, train

from core.experiment.checkpoint import load_checkpoint

MODEL = "reference_model"
# With these, a step multiplies every weight by -99: 1 - learning rate * weight decay.
DECAY = ["--set", "training.optimizer.weight_decay=1"]
STEEP = ["--learning-rate", "100"]


def assert_finite(path: Path) -> int:
    """Assert that a checkpoint is readable and finite; return the number of its epochs."""
    checkpoint = load_checkpoint(path)
    for name, array in checkpoint.arrays.items():
        assert np.isfinite(array).all(), name
    return len(checkpoint.progress.history)


def test_the_last_good_checkpoint_is_kept_and_goes_on(folder: Path) -> None:
    plain = ["--set", "network.batch_norm=false"]
    train(*DECAY, *plain, "--epochs", "1", cwd=folder, how=run_here)
    done = run("-f", "reference", "--data", "data.h5", "--resume", "--epochs", "40", *STEEP, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: training diverged: the loss is "), message
    assert f"The last good checkpoint is kept: {MODEL}/{LAST}" in message
    assert "Lower --learning-rate (now 100)" in message
    records = history(folder / MODEL)
    assert 1 < len(records) < 40
    assert all(np.isfinite(record["loss"]) for record in records)
    assert assert_finite(folder / MODEL / LAST) == len(records)
    assert assert_finite(folder / MODEL / BEST) == 1
    train("--resume", "--epochs", str(len(records) + 1), "--learning-rate", "0.001", cwd=folder, how=run_here)
    assert len(history(folder / MODEL)) == len(records) + 1


@pytest.mark.parametrize("batch_norm", ["true", "false"])
def test_nothing_is_kept_of_a_run_that_diverges_at_once(folder: Path, batch_norm: str) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--batch-size", "1"]
    done = run_here(*words, *DECAY, *STEEP, "--set", f"network.batch_norm={batch_norm}", cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: training diverged: the loss is "), message
    assert "No checkpoint was written." in message
    assert not list((folder / MODEL).iterdir())


def test_the_error_is_all_that_is_said(folder: Path) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--batch-size", "1"]
    done = run(*words, *DECAY, *STEEP, cwd=folder)
    assert done.stderr.startswith("error: training diverged"), done.stderr
