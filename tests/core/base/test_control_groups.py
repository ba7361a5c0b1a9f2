"""Processor quotas, read from trees of files like those of Linux, Docker and Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.base.control_groups import cores_of_quota
from core.base.system import available_cores, limit_threads_to_quota

V2 = "25 24 0:22 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"
V1_CPU = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1_SET = "34 32 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
OTHER = "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"


def tree(root: Path, group: str, mounts: str, files: Mapping[str, str]) -> Path:
    """Create a root folder with these contents of /proc/self and these files, and return it."""
    whole = {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}
    for name, content in whole.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


CASES: dict[str, tuple[str, str, dict[str, str], int | None]] = {
    "docker --cpus=2": ("0::/\n", OTHER + V2, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "docker --cpus=1.5": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "docker --cpus=0.1": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "another period": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "75000 25000\n"}, 3),
    "no quota": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "the parent's is smaller": (
        "0::/kube.slice/pod7/app\n",
        V2,
        {
            "sys/fs/cgroup/kube.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kube.slice/pod7/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/kube.slice/pod7/app/cpu.max": "700000 100000\n",
        },
        3,
    ),
    "the own is smaller": (
        "0::/a/b\n",
        V2,
        {
            "sys/fs/cgroup/a/cpu.max": "900000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "410000 100000\n",
            "sys/fs/cgroup/c/cpu.max": "100000 100000\n",  # another's
        },
        5,
    ),
    "the host's names in a container": (
        "0::/system.slice/docker-5f.scope\n",
        "25 24 0:22 /system.slice/docker-5f.scope /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        {"sys/fs/cgroup/cpu.max": "200000 100000\n"},
        2,
    ),
    "outside of what is seen": (
        "0::/../../other\n",
        V2,
        {"sys/fs/cgroup/cpu.max": "200000 100000\n", "sys/other/cpu.max": "100000 100000\n"},
        2,
    ),
    "a group that is not shown": ("0::/gone/b\n", V2, {"sys/fs/cgroup/cpu.max": "600000 100000\n"}, 6),
    "a place with a space": (
        "0::/a\n",
        "25 24 0:22 / /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n",
        {"mnt/my groups/a/cpu.max": "400000 100000\n"},
        4,
    ),
    "first version": (
        "4:cpu,cpuacct:/docker/5f\n3:cpuset:/x\n0::/\n",
        V1_SET + V1_CPU,
        {
            **v1("sys/fs/cgroup/cpu,cpuacct", "-1"),
            **v1("sys/fs/cgroup/cpu,cpuacct/docker", "-1"),
            **v1("sys/fs/cgroup/cpu,cpuacct/docker/5f", "200000"),
        },
        2,
    ),
    "first version, in a container": (
        "4:cpu,cpuacct:/docker/5f\n",
        "33 32 0:29 /docker/5f /sys/fs/cgroup/cpu,cpuacct ro master:9 - cgroup cgroup rw,cpu,cpuacct\n",
        v1("sys/fs/cgroup/cpu,cpuacct", "150000"),
        2,
    ),
    "first version, the parent's is smaller": (
        "1:cpu:/a/b\n",
        "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n",
        {**v1("sys/fs/cgroup/cpu/a", "250000", "50000"), **v1("sys/fs/cgroup/cpu/a/b", "900000")},
        5,
    ),
    "both versions": (
        "1:cpu:/a\n0::/b\n",
        "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        {**v1("sys/fs/cgroup/cpu/a", "300000"), "sys/fs/cgroup/unified/b/cpu.max": "700000 100000\n"},
        3,
    ),
    "mounts are not told": ("0::/a\n", "", {"sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
    "the group is not told": ("", V2, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "nothing is told, first version": ("", "", v1("sys/fs/cgroup/cpu", "200000"), 2),
    "nothing at all": ("", "", {}, None),
    "half of it": ("1:cpu:/\n", V1_CPU, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n"}, None),
    "a period of nothing": ("1:cpu:/\n", V1_CPU, v1("sys/fs/cgroup/cpu,cpuacct", "200000", "0"), None),
    "a quota of nothing": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "0 100000\n"}, None),
    **{
        f"garbage {number}": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": content}, None)
        for number, content in enumerate(
            [
                "",
                "\n",
                "200000",
                "a b",
                "-5 100000",
                "1e5 1e5",
                "inf 1",
                "1 2 3",
                "9" * 5000 + " 1",
                "٣ ٣",
                "\0",
            ]
        )
    },
    "garbage in /proc": (
        "::\n0::\n\0\n1:cpu\n0::nowhere\n0::/a\0b\n",
        " - \nx - cgroup2\n1 2 3 / - cgroup2 a b\n1 2 3 x / rw - cgroup2 a b\n" + V2,
        {"sys/fs/cgroup/cpu.max": "200000 100000\n"},
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quotas(tmp_path: Path, case: str) -> None:
    group, mounts, files, expected = CASES[case]
    assert cores_of_quota(tree(tmp_path, group, mounts, files)) == expected


def test_files_that_are_no_text_or_no_files(tmp_path: Path) -> None:
    tree(tmp_path, "0::/\n", V2, {})
    (tmp_path / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
    assert cores_of_quota(tmp_path) is None
    (tmp_path / "proc/self/mountinfo").write_bytes(b"\xff\xfe - cgroup2 \xff")
    assert cores_of_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(100_000, 1), (250_000, 3), (640_000, 5), (None, 5)])
def test_the_smaller_of_quota_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: int | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    content = f"{quota or 'max'} 100000\n"
    assert available_cores(tree(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": content})) == cores


VARIABLES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC", "TF_NUM_INTRAOP_THREADS"]


@pytest.mark.parametrize(("quota", "expected"), [("300000", "3"), ("max", None), ("900000", None)])
def test_libraries_are_told_of_a_smaller_quota_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: str | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "OMP_NUM_THREADS": "7"})
    limit_threads_to_quota(tree(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}))
    told = {name: os.environ.get(name) for name in VARIABLES}
    assert told == {**dict.fromkeys(VARIABLES, expected), "OMP_NUM_THREADS": "7"}
