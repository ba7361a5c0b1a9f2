"""Records of measurements: the numbers, with date, machine, versions and the sources that they describe.

A record is a JSON file with one row on each line, so `git diff` shows what was measured again. The version of
a pinned framework is compared with `constraints.txt`, so a new pin makes a fact old.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.facts.sources import fingerprint, matching
from core.base.errors import UserError
from core.base.system import available_cores
from core.files.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "docs/facts"

Row = Mapping[str, Any]
"""The numbers of one thing; numbers with a range are [median, minimum, maximum]."""


@dataclass(frozen=True)
class Software:
    """A framework's names: for people, and for pip (of several, the first that is installed)."""

    title: str
    distributions: tuple[str, ...]


SOFTWARE: Mapping[str, Software] = {
    "tf": Software("TensorFlow", ("tensorflow-cpu", "tensorflow")),
    "mxnet": Software("MXNet", ("mxnet", "mxnet-cu117")),
    "torch": Software("PyTorch", ("torch",)),
    "jax": Software("JAX", ("jax",)),
    "onnx": Software("ONNX Runtime", ("onnxruntime", "onnxruntime-gpu")),
    "keras": Software("Keras", ("keras",)),
    "numpy": Software("NumPy", ("numpy",)),
}
"""Software by its name, which is that of the backend if it is one. The reference is NumPy."""


@dataclass(frozen=True)
class Measurement:
    """The result of one measuring command.

    Args:
        command: The command.
        backends: The measured backends.
        date: The day, as 2026-11-28.
        commit: The project's commit, with "+changes" if the sources differed from it.
        processor: Its name; empty if it was not recorded.
        cores: The number of cores that could be used.
        python: Its version; empty if it was not recorded.
        versions: Of `SOFTWARE`.
        describes: Patterns of the source files that the numbers depend on.
        fingerprint: Of the contents of these files.
        rows: The numbers.
        quiet: Whether the machine did nothing else, as far as anybody knows.
        note: What else there is to know of it.
    """

    command: str
    backends: tuple[str, ...]
    date: str
    commit: str
    processor: str
    cores: int
    python: str
    versions: Mapping[str, str]
    describes: tuple[str, ...]
    fingerprint: str
    rows: tuple[Row, ...]
    quiet: bool = True
    note: str = ""

    @property
    def machine(self) -> str:
        """Processor and cores; empty if they were not recorded."""
        return _machine(self.processor, self.cores)

    def age(self, today: datetime.date) -> int:
        """Return the age in days."""
        return (today - datetime.date.fromisoformat(self.date)).days


Record = tuple[Measurement, ...]


def now(
    command: str,
    backends: Sequence[str],
    also: Sequence[str],
    describes: Sequence[str],
    rows: Iterable[Row],
    root: Path = ROOT,
) -> Measurement:
    """Return a measurement that was made just now on this machine.

    Args:
        command: The command that measured.
        backends: The measured backends.
        also: Other software of `SOFTWARE` whose version counts; NumPy's always does.
        describes: Patterns of the sources.
        rows: The numbers.
        root: Where the sources are.
    """
    return Measurement(
        command=command,
        backends=tuple(backends),
        date=datetime.date.today().isoformat(),
        commit=_commit(matching(describes, root), root),
        processor=processor(),
        cores=available_cores(),
        python=platform.python_version(),
        versions=_versions([name for name in (*backends, *also) if name in SOFTWARE]),
        describes=tuple(describes),
        fingerprint=fingerprint(describes, root),
        rows=tuple(rows),
    )


def read(name: str, root: Path = ROOT) -> Record:
    """Read a record; return an empty one if there is none."""
    path = _path(name, root)
    if not path.exists():
        return ()
    try:
        return tuple(
            Measurement(**{**one, **{key: tuple(one[key]) for key in ("backends", "describes", "rows")}})
            for one in json.loads(path.read_text(encoding="utf-8"))
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no record of measurements: {error}") from error


def write(name: str, record: Record, root: Path = ROOT) -> None:
    """Write a record to the file that `read` reads."""
    write_text(_path(name, root), "[\n" + ",\n".join(map(_as_json, record)) + "\n]\n")


def replaced(record: Record, new: Measurement, keys: Sequence[str], *, per_machine: bool) -> Record:
    """Return the record with a new measurement, in the place of the first that it replaces, or at the end.

    It replaces a measurement by the same command of the same backends. Its rows replace others that are equal
    in `keys`. With `per_machine` the measurements of other machines stay.
    """
    identities = {_identity(row, keys) for row in new.rows}
    kept: list[Measurement] = []
    place: int | None = None
    for old in record:
        if per_machine and old.machine != new.machine:
            kept.append(old)
            continue
        same = (old.command, old.backends) == (new.command, new.backends)
        rows = () if same else tuple(row for row in old.rows if _identity(row, keys) not in identities)
        if rows:
            kept.append(dataclasses.replace(old, rows=rows))
        if place is None and len(rows) < len(old.rows):
            place = len(kept)
    kept.insert(len(kept) if place is None else place, new)
    return tuple(kept)


def reasons_it_is_old(measurement: Measurement, describes: Sequence[str], root: Path = ROOT) -> list[str]:
    """Return what has changed since a measurement; nothing if it still describes the sources.

    Args:
        measurement: The measurement to check.
        describes: The patterns of sources that such a measurement describes today.
        root: Where the sources are.
    """
    reasons = []
    if tuple(describes) != measurement.describes:
        reasons.append("other sources count today")
    elif fingerprint(describes, root) != measurement.fingerprint:
        reasons.append("its sources have changed")
    pinned = _pins(root / "constraints.txt", measurement.python)
    for name, version in measurement.versions.items():
        pins = [pinned[one] for one in SOFTWARE[name].distributions if one in pinned]
        if pins and version not in pins:
            reasons.append(f"{SOFTWARE[name].title} was {version}, constraints.txt has {pins[0]}")
    return reasons


def told(record: Iterable[Measurement], *, date: bool = True) -> str:
    """Return dates (if wanted), machines, versions and commits of measurements, as text."""
    record = list(record)
    days = sorted({one.date for one in record})
    machines = list(dict.fromkeys(one.machine for one in record if one.machine))
    versions = dict.fromkeys(
        f"{SOFTWARE[name].title} {one.versions[name]}"
        for name in SOFTWARE
        for one in record
        if name in one.versions
    )
    pythons = dict.fromkeys(f"Python {one.python}" for one in record if one.python)
    commits = list(dict.fromkeys(one.commit for one in record))
    parts = [
        *(["Measured " + (days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")] if date else []),
        *machines,
        ", ".join([*versions, *pythons]),
        f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}",
    ]
    return "; ".join(parts)


def machine() -> str:
    """Return this machine, in the form of `Measurement.machine`."""
    return _machine(processor(), available_cores())


def processor(description: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's own name, family and model, since cloud machines may give no full name."""
    try:
        text = description.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in text.splitlines())
    told = {key.strip(): value.strip() for key, _, value in reversed(list(lines))}
    name = told.get("model name") or platform.machine()
    if "cpu family" in told and "model" in told:
        return f"{name} (family {told['cpu family']}, model {told['model']})"
    return name


def _machine(name: str, cores: int) -> str:
    return f"{name}, {cores} cores" if name else ""


def _path(name: str, root: Path) -> Path:
    return root / FOLDER / f"{name}.json"


def _as_json(one: Measurement) -> str:
    fields = dataclasses.asdict(one)
    rows = ",\n".join("   " + json.dumps(row, ensure_ascii=False) for row in fields.pop("rows"))
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
    return " {\n" + ",\n".join([*lines, f'  "rows": [\n{rows}\n  ]']) + "\n }"


def _identity(row: Row, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in keys)


def _versions(software: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in dict.fromkeys([*software, "numpy"]):
        for distribution in SOFTWARE[name].distributions:
            try:
                # Without the local part, which names the build: pip's index chooses the build of PyTorch.
                found[name] = metadata.version(distribution).partition("+")[0]
            except metadata.PackageNotFoundError:
                continue
            break
        else:
            raise UserError(f"{SOFTWARE[name].title} is not installed", "make test installs every framework.")
    return found


@functools.cache
def _pins(path: Path, python: str) -> Mapping[str, str]:
    """Return the versions that constraints.txt pins for a version of Python, by the package's name."""
    minor = ".".join(python.split(".")[:2])
    environment = {"python_version": minor, "python_full_version": python} if python else {}
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].strip()
        if words:
            requirement = Requirement(words)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                pins[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    return pins


def _commit(sources: Iterable[Path], root: Path) -> str:
    try:
        commit = _git(root, "rev-parse", "--short=7", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--", *map(str, sources))
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"git does not tell this project's commit: {error}") from error
    return commit + ("+changes" if changed else "")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout
