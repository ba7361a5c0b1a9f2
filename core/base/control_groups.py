"""The processor quota that Linux's control groups give this process.

It is read from the kernel's files (cgroup v2's `cpu.max`, v1's `cpu.cfs_quota_us` and `cpu.cfs_period_us`) of
the process's group and of all visible groups above it. A file that is missing, says "unlimited" or cannot be
parsed is no limit, and never an error.

Sources: Linux, Documentation/admin-guide/cgroup-v2.rst ("cpu.max") and scheduler/sched-bwc.rst; proc(5) for
/proc/self/cgroup and /proc/self/mountinfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_STANDARD = (
    ("cgroup2", "/sys/fs/cgroup"),
    ("cgroup", "/sys/fs/cgroup/cpu"),
    ("cgroup", "/sys/fs/cgroup/cpu,cpuacct"),
)


def cores_of_quota(root: Path = Path("/")) -> int | None:
    """Return the smallest quota in cores, rounded up, at least 1; None if there is no quota.

    Args:
        root: The folder with `proc` and the mounted file systems.
    """
    groups = _groups(root)
    found = [
        cores
        for mount in _mounts(root)
        for folder in mount.folders(groups.get(mount.kind, "/"))
        if (cores := _cores(mount.kind, root / str(folder).lstrip("/"))) is not None
    ]
    return min(found, default=None)


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy of control groups that limits processors.

    Args:
        kind: "cgroup2", or "cgroup" for the first version.
        top: The uppermost visible group of the hierarchy.
        place: The folder of that group.
    """

    kind: str
    top: str
    place: str

    def folders(self, group: str) -> Iterator[PurePosixPath]:
        """Yield the folders of a group and of all visible groups above it, from the top."""
        place, path = PurePosixPath(self.place), PurePosixPath(group)
        yield place
        # In a container the group may have its outside name, or be outside the visible groups ("/../x").
        below = path.relative_to(self.top) if path.is_relative_to(self.top) else path.relative_to("/")
        if ".." not in below.parts:
            for part in below.parts:
                place /= part
                yield place


def _groups(root: Path) -> dict[str, str]:
    """Return this process's group in each kind of hierarchy."""
    groups = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if group.startswith("/"):
            if number == "0" and not controllers:
                groups["cgroup2"] = group
            elif "cpu" in controllers.split(","):
                groups["cgroup"] = group
    return groups


def _mounts(root: Path) -> list[_Mount]:
    """Return the mounts of groups that may limit processors; the usual ones if the system lists none."""
    found = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        places, kinds = before.split(" "), after.split(" ")
        if len(places) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")):
            top, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), p) for p in places[3:5])
            found.append(_Mount(kinds[0], top if top.startswith("/") else "/", place))
    return found or [_Mount(kind, "/", place) for kind, place in _STANDARD]


def _cores(kind: str, folder: Path) -> int | None:
    """Return the quota of one group in cores; None if it has none."""
    if kind == "cgroup2":
        words = _read(folder / "cpu.max").split()
    else:
        words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) != 2 or not all(re.fullmatch("[0-9]{1,18}", word) for word in words):
        return None  # "max", -1, or nothing
    quota, period = map(int, words)
    return max(1, -(-quota // period)) if quota and period else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except (OSError, ValueError):  # a null character in a name
        return ""
