"""Training does not keep the arrays that a model was given: they are as large as the model's own.

The backend is one made here: the reference, which writes down how many of them are left at each step.
"""

from __future__ import annotations

from pathlib import Path

from command_line import NETWORK, succeed, write_data

PACKAGE = """
import weakref
from pathlib import Path
from core.backend.contract import Backend
from backends.reference.model import ReferenceModel

backend = Backend("card", "Card", None, ("numpy",), "-", "card_package")


class WatchingModel(ReferenceModel):
    def load_state(self, state):
        super().load_state(state)
        self._given = [weakref.ref(array) for array in state.values()]

    def train_step(self, *given):
        with Path("left.txt").open("a") as file:
            print(sum(one() is not None for one in self._given), "of", len(self._given), file=file)
        return super().train_step(*given)


def list_devices():
    return ["cpu"]


def compile(plan, rules, device, precision):
    return WatchingModel(plan, rules, precision)
"""


def test_nothing_is_kept_of_the_state_that_a_run_begins_or_goes_on_with(tmp_path: Path) -> None:
    information = tmp_path / "site" / "card-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: card\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pneumoseg.backends]\ncard = card_package:backend\n")
    (information.parent / "card_package.py").write_text(PACKAGE)
    (tmp_path / "network.yaml").write_text(NETWORK)
    write_data(tmp_path / "data.h5", 24, 32, 0)
    given = ["-f", "card", "--config", "network.yaml", "--data", "data.h5", "-q"]
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        succeed(*given, *more, cwd=tmp_path, env={"PYTHONPATH": str(information.parent)})
        lines = (tmp_path / "left.txt").read_text().splitlines()
        (tmp_path / "left.txt").unlink()
        assert lines
        assert {line.split(" of ")[0] for line in lines} == {"0"}, lines
