"""List of all facts: the sources that each describes, and the parts in which it is measured."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.facts import measures, records
from benchmarks.facts.agreement import agreement
from benchmarks.facts.measures import Measure, Part, Script
from benchmarks.facts.records import ROOT, Measurement, Record, Row
from benchmarks.facts.sources import fingerprint
from core.base.errors import UserError

MOST_DAYS = 90
"""The greatest age of a fact that needs a quiet machine, if its sources have changed."""

TRAINING = ("tf", "mxnet", "torch", "jax", "reference")
BACKENDS = (*TRAINING[:4], "onnx", "reference")

_COMPILED = (
    "core/backend/contract.py",
    "core/backend/dropout_masks.py",
    "core/network/lowering.py",
    "core/network/plan.py",
    "core/backend/training_rules.py",
)
_MEANT = (*_COMPILED, "core/backend/state.py", "core/network/specification.py", "backends/reference/**/*.py")
_STEP = (
    "core/training/loop.py",
    "core/training/validation.py",
    "core/network/lowering.py",
    "core/network/plan.py",
    "core/backend/training_rules.py",
    "core/training/schedules.py",
)
_LOADER = ("data/batches/loader.py", "data/hdf5/store.py", "data/batches/augmentation.py")

_ENCODERS = ("unet_resnet34", "unet_efficientnet_lite0")
"""Networks that are measured in a process each: what one leaves in memory would count for the next."""

_SIZE_OF_ENCODERS = "--size 256 --batch-size 4 --steps 3 --repetitions 5"


@dataclass(frozen=True)
class Old:
    """A measurement that is older than what it describes.

    Args:
        fact: The fact's name.
        measurement: The measurement.
        reasons: The changes since then.
        too_old: Whether this is an error.
    """

    fact: str
    measurement: Measurement
    reasons: tuple[str, ...]
    too_old: bool

    def __str__(self) -> str:
        one = self.measurement
        what = ", ".join(filter(None, [", ".join(one.backends), one.machine]))
        command = f"python -m benchmarks.facts write {self.fact}"
        return f"{self.fact} of {one.date} ({what}): {'; '.join(self.reasons)}. Write it anew: {command}"


@dataclass(frozen=True)
class Fact:
    """A fact, whose record is `docs/facts/NAME.json`.

    Args:
        name: Of the fact.
        measure: Measures a part and returns its rows.
        parts: Each is measured by one command, so that only the old parts are measured again.
        describes: Patterns of source files; "{backend}" stands for each backend of a part.
        keys: Fields that identify a row: a new row replaces the old one with the same values.
        strict: Whether an old fact is an error at once, since any machine can measure it in minutes. Other
            old facts are reported, and are an error only if they are older than `MOST_DAYS`.
        per_machine: Whether the numbers depend on the processor, so that each has its own.
        also: Software whose version counts, besides the backends'.
    """

    name: str
    measure: Measure
    parts: tuple[Part, ...]
    describes: tuple[str, ...]
    keys: tuple[str, ...]
    strict: bool = False
    per_machine: bool = True
    also: tuple[str, ...] = ()

    def sources(self, part: Part) -> tuple[str, ...]:
        """Return the patterns of the sources that a part describes."""
        patterns = [
            pattern.format(backend=name)
            for pattern in self.describes
            for name in (part.backends if "{backend}" in pattern else ("",))
        ]
        return tuple(dict.fromkeys(patterns))

    def command_of(self, part: Part) -> str:
        """Return the command that measures a part, as one would type it."""
        if isinstance(self.measure, Script):
            return f"python {self.measure.command} {part.arguments}".strip()
        return f"python -m benchmarks.facts write {self.name}"

    def take(self, part: Part, root: Path = ROOT) -> Measurement:
        """Measure a part on this machine.

        Raises:
            UserError: The sources changed meanwhile, so the numbers may be of either version.
        """
        before = fingerprint(self.sources(part), root)
        new = self.measured(part, self.measure(part), root)
        if new.fingerprint != before:
            raise UserError(f"{self.name}: the sources changed while they were measured", "Start again.")
        return new

    def measured(self, part: Part, rows: Sequence[Row], root: Path = ROOT) -> Measurement:
        """Return the measurement for rows that were measured just now on this machine."""
        return records.now(self.command_of(part), part.backends, self.also, self.sources(part), rows, root)

    def with_new(self, record: Record, new: Measurement) -> Record:
        """Return the record with a new measurement in place of those that it replaces."""
        return records.replaced(record, new, self.keys, per_machine=self.per_machine)

    def find_old(self, record: Record, today: datetime.date, root: Path = ROOT) -> list[Old]:
        """Return the old measurements of a record, in its order."""
        found = []
        for one in record:
            if reasons := self._reasons(one, root):
                too_old = self.strict or one.age(today) > MOST_DAYS
                found.append(Old(self.name, one, tuple(reasons), too_old))
        return found

    def old_parts(self, record: Record, root: Path = ROOT) -> list[Part]:
        """Return the parts without a current measurement (on this machine, if that counts)."""
        here = records.machine()
        current = {
            (one.command, one.backends)
            for one in record
            if (one.machine == here or not self.per_machine) and not self._reasons(one, root)
        }
        return [part for part in self.parts if (self.command_of(part), part.backends) not in current]

    def missing(self, record: Record) -> list[Part]:
        """Return the parts with a backend that no measurement has."""
        measured = {name for one in record for name in one.backends}
        return [part for part in self.parts if not measured.issuperset(part.backends)]

    def _reasons(self, measurement: Measurement, root: Path) -> list[str]:
        return records.reasons_it_is_old(measurement, self.sources(Part(measurement.backends)), root)


def _each(*names: str) -> tuple[Part, ...]:
    return tuple(Part((name,)) for name in names)


_ALL = (
    Fact(
        "lines",
        measures.lines,
        (Part(BACKENDS),),
        ("backends/{backend}/**/*.py", "benchmarks/facts/sources.py"),
        ("backend",),
        strict=True,
        per_machine=False,
    ),
    Fact(
        "capabilities",
        measures.capabilities,
        _each("reference", "tf", "mxnet", "torch", "jax", "onnx"),
        (
            "backends/{backend}/**/*.py",
            "core/conformance/**/*.py",
            "core/tolerance/budget.py",
            "core/tolerance/differences.py",
            "core/backend/kernel_switches.py",
            *_MEANT,
        ),
        ("backend", "subject"),
        per_machine=False,
    ),
    Fact(
        "certificates",
        Script("run.py parity", measures.certificate_rows),
        (
            Part(
                ("reference", "tf", "mxnet"),
                "-f reference -f tf -f mxnet --steps 100 --relay --set network.dropout=0.2",
                "float64, `fcn`, synthetic 64x96, six relays",
            ),
            Part(
                ("reference", "tf", "mxnet"),
                "-f reference -f tf -f mxnet --config configs/fcn_skip.yaml --steps 100 --relay"
                " --set network.dropout=0.2",
                "float64, `fcn_skip`, the same",
            ),
            Part(
                ("tf", "torch", "mxnet", "jax", "reference"),
                "-f tf -f torch -f mxnet -f jax -f reference --steps 100 --round --set network.dropout=0.2",
                "float64, `fcn`, the same images: TensorFlow, PyTorch, MXNet, JAX, and one run that goes"
                " round tf > torch > mxnet > jax > reference > tf",
            ),
        ),
        (
            "backends/{backend}/**/*.py",
            "core/parity/**/*.py",
            "core/tolerance/budget.py",
            "core/training/loop.py",
            *_MEANT,
        ),
        ("what",),
        per_machine=False,
    ),
    Fact(
        "agreement",
        agreement,
        (Part(("tf", "mxnet", "torch", "jax")),),
        (
            *("backends/{backend}/**/*.py", "core/tolerance/budget.py", "core/conformance/training.py"),
            *("core/conformance/cases.py", "configs/fcn*.yaml", "configs/demo.yaml", "configs/unet.yaml"),
            *_MEANT,
        ),
        ("backend", "network", "size", "batch", "steps", "input"),
    ),
    Fact(
        "speed_training",
        Script("benchmarks/training.py", measures.training_rows),
        (
            Part(("tf", "mxnet", "torch"), "-f tf -f mxnet -f torch --batch-size 8 --batch-size 32"),
            Part(("tf", "mxnet"), "-f tf -f mxnet --network unet --batch-size 8"),
            Part(
                ("tf", "torch"),
                "-f tf -f torch --precision mixed_bfloat16 --batch-size 8 --batch-size 32",
            ),
            Part(("tf",), "-f tf --network unet --precision mixed_bfloat16 --batch-size 8"),
            *(
                Part((name,), f"-f {name} --network {network} {_SIZE_OF_ENCODERS}")
                for name in ("tf", "mxnet", "torch", "jax")
                for network in _ENCODERS
            ),
        ),
        (
            *("backends/{backend}/**/*.py", "benchmarks/by_hand/*.py", "benchmarks/training.py"),
            *(*_STEP, *_LOADER),
        ),
        ("framework", "network", "precision", "batch_size"),
        also=("keras",),
    ),
    Fact(
        "speed_loader",
        Script("benchmarks/loader.py", measures.loader_rows),
        (Part((), ""),),
        (*_LOADER, "benchmarks/loader.py"),
        ("storage", "contender"),
        also=("tf", "torch"),
    ),
    Fact(
        "speed_prediction",
        Script("benchmarks/prediction.py", measures.prediction_rows),
        (Part(("tf", "mxnet", "onnx"), "-f tf -f mxnet -f onnx"),),
        (
            "backends/{backend}/**/*.py",
            "core/network/lowering.py",
            "core/network/plan.py",
            "benchmarks/prediction.py",
        ),
        ("framework", "network", "precision", "batch_size"),
    ),
    Fact(
        "speed_predict_command",
        Script("benchmarks/predict_command.py", measures.predict_command_rows),
        (Part(("tf",), "-f tf"),),
        (
            *(
                "backends/{backend}/**/*.py",
                "core/prediction/trained_models.py",
                "core/commands/predict/pipeline.py",
            ),
            *(
                "core/commands/predict/results.py",
                "core/processes/workers.py",
                "data/radiographs/reading.py",
                "data/radiographs/resize.py",
            ),
            *("data/radiographs/dicom.py", "data/pixel_data/decoders.py", "benchmarks/predict_command.py"),
        ),
        ("framework",),
    ),
    Fact(
        "speed_start",
        Script("benchmarks/start.py", measures.start_rows),
        (Part(("tf", "mxnet"), "-f tf -f mxnet"),),
        (
            *(
                "backends/{backend}/**/*.py",
                "run.py",
                "core/commands/__init__.py",
                "core/commands/train/__init__.py",
            ),
            *(
                "core/commands/train/training.py",
                "core/tasks/*.py",
                *_STEP,
                "benchmarks/by_hand/*.py",
                "benchmarks/start.py",
            ),
        ),
        ("what",),
    ),
    Fact(
        "speed_scaling",
        Script("benchmarks/scaling.py", measures.scaling_rows),
        (Part(("tf",), "-f tf"),),
        ("backends/{backend}/**/*.py", *_LOADER, *_STEP, "benchmarks/scaling.py"),
        ("what",),
    ),
    Fact(
        "speed_workers",
        Script("benchmarks/workers.py", measures.worker_rows),
        (
            Part(("tf", "torch"), "-f tf -f torch"),
            Part(("tf", "torch"), "-f tf -f torch --network unet --size 192"),
        ),
        ("backends/{backend}/**/*.py", "core/distribution/*.py", *_STEP, "benchmarks/workers.py"),
        ("framework", "network"),
    ),
    Fact(
        "speed_preprocessing",
        Script("benchmarks/preprocess.py", measures.preprocessing_rows),
        (Part((), ""),),
        (
            *(
                "data/preprocessing/preprocessing.py",
                "data/preprocessing/conversion.py",
                "data/radiographs/reading.py",
                "data/pixel_data/decoders.py",
                "data/radiographs/dicom.py",
            ),
            *(
                "data/radiographs/resize.py",
                "data/hdf5/file_writing.py",
                "data/preprocessing/staging.py",
                "core/processes/workers.py",
            ),
            "benchmarks/preprocess.py",
        ),
        ("storage",),
    ),
)
FACTS: Mapping[str, Fact] = {fact.name: fact for fact in _ALL}
"""Facts by their names."""


def read_all(root: Path = ROOT) -> dict[str, Record]:
    """Read every record; return them by the names of their facts."""
    return {name: records.read(name, root) for name in FACTS}
