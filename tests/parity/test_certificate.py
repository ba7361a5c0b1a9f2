"""The certificate holds if backends agree; otherwise it names step, array and operation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selected import BACKENDS

from core.base.errors import UserError
from core.commands import main
from core.experiment.checkpoint import DataFacts
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.parity import KINDS, Certificate, certify
from core.parity.synthetic_batches import SyntheticBatches

pytestmark = pytest.mark.turns(7)

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = """
from core.backend.contract import Backend
from backends.reference.model import ReferenceModel, list_devices
import dataclasses

backend = Backend("foreign", "Foreign", None, ("numpy",), "-", "foreign")


class Foreign(ReferenceModel):
    def train_step(self, images, masks, scalars, keep=None):
        if scalars.step == 3:
            self._arrays["conv2/moving_mean"][0] += 1e-6
        return super().train_step(images, masks, scalars, keep)


def compile(plan, rules, device, precision):
    return Foreign(plan, rules, precision)
"""


NOISY = """
from core.backend.contract import Backend
from backends.reference.model import ReferenceModel, list_devices

backend = Backend("foreign", "Foreign", None, ("numpy",), "-", "foreign")


class Foreign(ReferenceModel):
    def _differentiate(self, images, masks, keep):
        found = super()._differentiate(images, masks, keep)
        return found._replace(
            gradients={name: array * array.dtype.type(1.001) for name, array in found.gradients.items()}
        )


def compile(plan, rules, device, precision):
    return Foreign(plan, rules, precision)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that installs a backend called "foreign" with the given source."""

    def install(source: str) -> None:
        (tmp_path / "foreign-1.0.dist-info").mkdir()
        (tmp_path / "foreign-1.0.dist-info" / "METADATA").write_text("Name: foreign\nVersion: 1.0\n")
        entry = "[pneumoseg.backends]\nforeign = foreign:backend\n"
        (tmp_path / "foreign-1.0.dist-info" / "entry_points.txt").write_text(entry)
        (tmp_path / "foreign.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    return install


ON_ITS_GPU = """
from core.backend.contract import Backend
from core.base.errors import UserError
from backends.reference.model import ReferenceModel

backend = Backend("foreign", "Foreign", None, ("numpy",), "-", "foreign")


def list_devices():
    return ["cpu", "gpu:0"]


def compile(plan, rules, device, precision):
    if device != "gpu:0":
        raise UserError(f"asked for {device}")
    return ReferenceModel(plan, rules, precision)
"""


def certified(*names: str, config: str = "fcn", steps: int = 12, **options: Any) -> Certificate:
    precision, training = options.pop("precision", "float64"), options.pop("training", {})
    narrow = {"network.dropout": 0.2, "training.batch_size": 2, "training.precision": precision}
    settings = narrow | {f"training.{key}": value for key, value in dict(training).items()}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    path = Path(config)
    for index, block in enumerate(load_configuration(path).network.blocks):
        if getattr(block, "filters", None):
            overrides.append(f"network.blocks.{index}.filters={3 + index % 3}")
    configuration = load_configuration(path, overrides)
    plan = lower(configuration.network, 32, 48)
    batches = SyntheticBatches(32, 48, 2, seed=1)
    return certify(names, plan, configuration, batches, DataFacts(7, 4, 32, 48), steps, **options)


def test_every_backend_goes_on_from_every_others_checkpoint() -> None:
    """Two backends are relayed here; the test of the round trip relays all."""
    names = ("reference", *BACKENDS[:2])
    certificate = certified(*names, config="fcn_skip", relay=True)
    assert certificate.holds, certificate.violations
    assert certificate.steps == 12
    relays = [f"{a} > {b}" for a in names for b in names if a != b]
    assert sorted(certificate.runs) == sorted([*BACKENDS[:2], *relays])
    for name, series in certificate.runs.items():
        assert len(series.losses) == (6 if ">" in name else 12)
        assert max(series.distances["loss"]) < 1e-12
        assert all(max(series.distances[kind]) < 1e-9 for kind in KINDS)


def test_gradient_descent_on_tversky_and_lovasz_is_the_same_everywhere() -> None:
    training = {
        "optimizer": "{name: sgd, nesterov: true, weight_decay: 0.01}",
        "loss": "{bce: 0, dice: 0, tversky: 1, lovasz: 1}",
        "clip_norm": 1.0,
    }
    certificate = certified("reference", *BACKENDS, training=training)
    assert certificate.holds, certificate.violations


@pytest.mark.parametrize("precision", ["float32", "tf32", "mixed_bfloat16", "mixed_float16"])
def test_but_in_float64_all_are_compared_with_the_truth(precision: str) -> None:
    certificate = certified("reference", *BACKENDS[:2], precision=precision, steps=6, relay=True)
    assert certificate.holds, certificate.violations
    assert certificate.base == "truth"
    assert {"reference", *BACKENDS[:2]} <= set(certificate.runs)
    assert 0 < max(certificate.runs["reference"].distances["loss"]) < 0.01


def test_no_backends_noise_enters_the_budget(installed: Callable[[str], None]) -> None:
    """A backend that is off by a thousandth exceeds its budget; the budgets of the others do not change."""
    installed(NOISY)
    quiet = certified("reference", BACKENDS[0], precision="float32", steps=4)
    noisy = certified(BACKENDS[0], "foreign", precision="float32", steps=4)
    assert quiet.holds, quiet.violations
    assert [violation.run for violation in noisy.violations] == ["foreign"]
    for kind in KINDS:
        allowed, as_before = (each.runs[BACKENDS[0]].budgets[kind] for each in (noisy, quiet))
        assert allowed == as_before
        assert max(quiet.runs[BACKENDS[0]].shares(kind)) <= 1


def test_the_first_fault_is_named(installed: Callable[[str], None]) -> None:
    installed(FOREIGN)
    certificate = certified("foreign", "reference", steps=5)
    (violation,) = certificate.violations
    assert (violation.run, violation.step, violation.kind) == ("foreign", 3, "statistic")
    assert (violation.tensor, violation.operation) == ("conv2/moving_mean", "conv2/batch_norm")
    assert violation.distance > violation.budget


def test_all_backends_train_the_same_network_and_one_run_goes_round_them_and_comes_home() -> None:
    names = [*BACKENDS, "reference"]
    certificate = certified(*names, steps=12, round_trip=True)
    assert certificate.holds, certificate.violations
    assert certificate.round_steps == -(-12 // (len(names) + 1))
    assert sorted(certificate.runs) == sorted([*BACKENDS, " > ".join([*names, names[0]])])
    for series in certificate.runs.values():
        assert len(series.losses) == 12
        assert max(series.distances["loss"]) < 1e-12
        assert all(max(series.distances[kind]) < 1e-9 for kind in KINDS)
    with pytest.raises(UserError, match=f"--round visits {len(names)} backends .* --steps {len(names)}"):
        certified(*names, steps=len(names), round_trip=True)


def test_one_backend_is_no_comparison() -> None:
    with pytest.raises(UserError, match="two backends or more; received: reference"):
        certified("reference", "reference")


def test_the_command_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parity", "-f", "reference", "-f", BACKENDS[0], "--config", "demo", "--steps", "3"]
    files = ["--json", str(tmp_path / "c.json"), "--plot", str(tmp_path / "c.png")]
    assert main("run.py", "", ("train", "parity"), [*words, *files, "--batch-size", "2"]) == 0
    assert f"holds: {BACKENDS[0]} cannot be told from reference" in capsys.readouterr().out
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["holds"]
    assert len(content["runs"][BACKENDS[0]]["distances"]["gradient"]) == content["steps"] == 3
    assert Image.open(tmp_path / "c.png").size[0] > 500


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--plot", "x.txt"], ["--batch-size", "0"]])
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parity", "-f", "reference", "-f", BACKENDS[0], *wrong]
    assert main("run.py", "", ("train", "parity"), words) == 1
    assert capsys.readouterr().err.startswith(f"error: {wrong[0]}")


def test_the_backends_compute_on_the_device_and_the_reference_on_the_cpu(
    installed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed(ON_ITS_GPU)
    assert certified("reference", "foreign", steps=2, device="gpu").holds
    with pytest.raises(UserError, match="asked for cpu"):
        certified("reference", "foreign", steps=2)
    checks = ["conformance", "-f", "foreign", "--only", "determinism", "--device"]
    assert main("run.py", "", ("train", "conformance"), [*checks, "cuda:0"]) == 0
    assert main("run.py", "", ("train", "conformance"), [*checks, "gpu:1"]) == 1
    assert "Foreign sees no such device; it sees: cpu, gpu:0" in capsys.readouterr().err
