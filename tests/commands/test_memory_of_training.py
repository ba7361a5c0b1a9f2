"""Training does not keep the arrays that a model was given: they are as large as the model's own.

The backend is one made here: the reference, which writes down how many of them are left in each forward pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import NETWORK, install_backend, succeed, write_data

PACKAGE = """
import os
import weakref
from pathlib import Path
from core.backend.contract import Backend
from backends.reference.model import ReferenceModel

backend = Backend("watched", "Watched", None, ("numpy",), "-", "watched_package")


class WatchingModel(ReferenceModel):
    def load_state(self, state):
        super().load_state(state)
        self._given = [weakref.ref(array) for array in state.values()]

    def _forward(self, images, keep=None):
        if keep is not None:  # in training
            with Path("left.txt").open("a") as file:
                print(os.getpid(), sum(one() is not None for one in self._given), file=file)
        return super()._forward(images, keep)


def list_devices():
    return ["cpu"]


def compile(plan, rules, device, precision):
    return WatchingModel(plan, rules, precision)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_kept_of_the_state_that_a_run_begins_or_goes_on_with(tmp_path: Path, workers: int) -> None:
    environment = install_backend(tmp_path / "site", "watched", PACKAGE)
    (tmp_path / "network.yaml").write_text(NETWORK)
    write_data(tmp_path / "data.h5", 24, 32, 0)
    given = ["-f", "watched", "--config", "network.yaml", "--data", "data.h5", "-j", str(workers), "-q"]
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        succeed(*given, "--set", "training.shards=4", *more, cwd=tmp_path, env=environment)
        lines = [line.split() for line in (tmp_path / "left.txt").read_text().splitlines()]
        (tmp_path / "left.txt").unlink()
        assert len({process for process, _ in lines}) == workers
        assert {left for _, left in lines} == {"0"}
