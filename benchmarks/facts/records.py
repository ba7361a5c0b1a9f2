"""Records: what was measured, when, where, with which versions, and of which sources.

Promises: a record is a file of JSON with one row a line, so `git diff` shows what was measured anew. Of a
pinned framework the version is compared with `constraints.txt`, so a new pin makes a fact old.
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
"""What was measured of one thing; numbers with a spread are [median, least, greatest]."""


@dataclass(frozen=True)
class Software:
    """How a framework is called, by people and by pip (the first that is installed)."""

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
"""By the name of the backend, where it is one. The reference is NumPy."""


@dataclass(frozen=True)
class Measurement:
    """What was measured at one go.

    Args:
        command: That measured it.
        backends: That were measured.
        date: On which day, as 2026-11-28.
        commit: The project's, with "+changes" where the sources differed from it.
        processor: Its name; empty where nobody noted it.
        cores: How many of it could be used.
        python: Its version; empty where nobody noted it.
        versions: Of `SOFTWARE`.
        describes: Patterns of the source files that the numbers depend on.
        fingerprint: Of these files, as they were.
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
        """Processor and cores; empty where nobody noted them."""
        return _machine(self.processor, self.cores)

    def age(self, today: datetime.date) -> int:
        """In days."""
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
    """What was measured just now, here.

    Args:
        command: That did it.
        backends: That were measured.
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
    """A record; empty where there is none."""
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
    """Put a record where `read` finds it."""
    write_text(_path(name, root), "[\n" + ",\n".join(map(_as_json, record)) + "\n]\n")


def replaced(record: Record, new: Measurement, keys: Sequence[str], *, per_machine: bool) -> Record:
    """The record with a new measurement, in the place of the first that it replaces; else at the end.

    It takes the place of what the same command measured of the same backends; its rows take the place of
    others that are alike in `keys`. What another machine measured stays where numbers are kept `per_machine`.
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
    """What has changed since it was measured; none where it still describes what is there.

    Args:
        measurement: To judge.
        describes: What such a measurement describes, as said today.
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
    """Dates (where wanted), machines, versions and commits of measurements, as words."""
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
    """This machine, as `Measurement.machine` has it."""
    return _machine(processor(), available_cores())


def processor(description: Path = Path("/proc/cpuinfo")) -> str:
    """The name that the processor gives itself, with family and model: clouds leave the rest out."""
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
                # Without the local part: which build of PyTorch it is, pip's index chooses.
                found[name] = metadata.version(distribution).partition("+")[0]
            except metadata.PackageNotFoundError:
                continue
            break
        else:
            raise UserError(f"{SOFTWARE[name].title} is not installed", "make test installs every framework.")
    return found


@functools.cache
def _pins(path: Path, python: str) -> Mapping[str, str]:
    """Versions that constraints.txt fixes for that Python, by the package's name."""
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
