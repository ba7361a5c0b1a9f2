"""`.ci/environment` with fake Pythons, pyenv and uv, on a PATH that has nothing else.

A fake Python is a script that reports another version. Its `-m venv` copies it, and its `-m pip` records the
packages to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("cat", "chmod", "cp", "dirname", "env", "ls", "mkdir", "rm", "sed", "sh", "tr")
SHIM = '#!/bin/sh\necho "pyenv: $0: command not found" >&2\nexit 127\n'

PYTHON = """\
#!/bin/sh
case $1 in
-c) exec {real} -c 'import sys, platform
sys.version_info, sys.base_prefix = (*{version}, "final", 0), "{base}"
platform.python_version = lambda: ".".join(map(str, {version}))
{more}
exec(sys.argv[1])' "$2" ;;
esac
case $2 in
venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
pip) shift && echo "{base} $*" >> "$LOG" ;;
esac
"""

UV = """\
#!/bin/sh
echo "uv $*" >> "$LOG"
for folder in "$@"; do :; done
mkdir -p "$folder/bin" && cp "$FETCHED" "$folder/bin/python"
"""


class Machine:
    """A checkout and a PATH.

    Args:
        folder: Where both are made.
    """

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.log = folder / "check out", folder / "my bin", folder / "log"
        (self.checkout / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / ".ci/environment", self.checkout / ".ci")
        shutil.copy(ROOT / "Makefile", self.checkout)
        for name in ("setup.py", "constraints.txt", "constraints-lowest.txt"):
            (self.checkout / name).write_text(f"# {name}\n")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)

    def program(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(
        self, name: str, *version: int, ensurepip: bool = True, base: str = "", more: str = ""
    ) -> Path:
        """Add a Python to PATH; `name` may be a path in it."""
        path = self.bin / name
        more = more if ensurepip else f'sys.modules["ensurepip"] = None; {more}'
        text = PYTHON.format(real=sys.executable, version=version, base=path.name, more=more)
        return self.program(path, text)

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.checkout / ".ci/environment"), *words]
        env = {"PATH": str(self.bin), "LOG": str(self.log), **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)

    def version(self, venv: str = ".venv") -> str:
        """Return the version of an environment's Python."""
        python = self.checkout / venv / "bin/python"
        code = "import platform; print(platform.python_version())"
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    def asked(self) -> list[str]:
        """Return and clear the requests to pip and uv."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def succeed(machine: Machine, *words: str, **variables: str) -> str:
    done = machine.run(*words, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def refused(machine: Machine, *says: str, **variables: str) -> None:
    done = machine.run("tf", **variables)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert done.stderr.startswith("error: ")
    for text in (*says, "apt install python3 python3-venv", "brew install", "pip install uv", "make PYTHON="):
        assert text in done.stderr
    assert not (machine.checkout / ".venv").exists()


def test_the_newest_is_taken_but_not_3_14(machine: Machine) -> None:
    for minor, patch in ((10, 9), (11, 8), (12, 7), (13, 6), (14, 5)):
        machine.python(f"python3.{minor}", 3, minor, patch)
    machine.python("python3", 3, 14, 5)
    output = succeed(machine, "tf,test")
    assert output == "installing into .venv (Python 3.13.6): tf,test (minutes at the first time)\n"
    (line,) = machine.asked()
    assert line.startswith("python3.13 pip install ")
    assert line.endswith(" -c constraints.txt -e .[tf,test]")


def test_nothing_is_done_twice_and_new_versions_are_installed(machine: Machine) -> None:
    machine.python("python3.12", 3, 12, 1)
    succeed(machine, "tf")
    machine.asked()
    assert succeed(machine, "tf") == ""
    assert machine.asked() == []
    machine.python("python3.13", 3, 13, 1)  # an environment that works is kept
    (machine.checkout / "setup.py").write_text("# another\n")
    assert "Python 3.12.1" in succeed(machine, "tf")
    assert len(machine.asked()) == 1


def test_what_python3_is_counts(machine: Machine) -> None:
    machine.python("python3", 3, 12, 4)
    succeed(machine, "tf")
    assert machine.version() == "3.12.4"


@pytest.mark.parametrize("how", ["environment", "program"])
def test_a_shim_that_does_not_answer_leads_to_pyenv_s_versions(machine: Machine, how: str) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        machine.program(machine.bin / name, SHIM)
    root = machine.bin.parent / "py env"
    machine.python(str(root / "versions/3.12.3/bin/python"), 3, 12, 3)
    machine.python(str(root / "versions/3.9.18/bin/python"), 3, 9, 18)
    if how == "program":
        machine.program(machine.bin / "pyenv", f'#!/bin/sh\n[ "$1" = root ] && echo "{root}"\n')
        succeed(machine, "tf")
    else:
        succeed(machine, "tf", PYENV_ROOT=str(root))
    assert machine.version() == "3.12.3"


def test_what_comes_behind_a_shim_on_the_path_is_found(machine: Machine) -> None:
    machine.program(machine.bin / "shims/python3.11", SHIM)
    machine.python("python3.11", 3, 11, 2)
    succeed(machine, "tf", PATH=f"{machine.bin}/shims:{machine.bin}")
    assert machine.version() == "3.11.2"


def test_a_python_without_a_global_lock_is_not_taken_by_itself(machine: Machine) -> None:
    more = "import sysconfig; sysconfig.get_config_var = lambda name: 1"
    machine.python("python3.13", 3, 13, 1, more=more)
    machine.python("python3.12", 3, 12, 1)
    succeed(machine, "tf")
    assert machine.version() == "3.12.1"


def test_one_that_cannot_make_environments_gives_way(machine: Machine) -> None:
    machine.python("python3.13", 3, 13, 5, ensurepip=False)
    machine.python("python3.11", 3, 11, 5)
    succeed(machine, "tf")
    assert machine.version() == "3.11.5"


def test_debian_without_python3_venv(machine: Machine) -> None:
    python = machine.python("python3", 3, 13, 5, ensurepip=False)
    refused(machine, f"{python} cannot make virtual environments")
    machine.program(machine.bin / "uv", UV)
    succeed(machine, "tf", FETCHED=str(python))
    assert machine.asked()[0] == f"uv venv --quiet --seed --python {python} .venv"
    assert machine.version() == "3.13.5"


def test_uv_alone_is_enough(machine: Machine) -> None:
    machine.program(machine.bin / "uv", UV)
    fetched = machine.python("fetched/python", 3, 13, 9)
    succeed(machine, "tf", FETCHED=str(fetched))
    made, installed = machine.asked()
    assert made == "uv venv --quiet --seed --python 3.13 .venv"
    assert installed.startswith("python pip install ")
    fetched = machine.python("fetched/python", 3, 12, 9)
    succeed(machine, "tf", FETCHED=str(fetched), PYTHON="python3.12")
    assert machine.asked()[0] == "uv venv --quiet --seed --python python3.12 .venv"
    succeed(machine, "tf", FETCHED=str(fetched), PYTHON="python3.12")
    assert machine.asked() == []  # it exists already


def test_without_any_one_message_says_what_to_do(machine: Machine) -> None:
    machine.python("python3", 3, 10, 12)
    machine.program(machine.bin / "python", SHIM)
    refused(machine, "Python 3.11, 3.12 or 3.13 is needed")
    refused(machine, "PYTHON=python3: no Python from 3.11 on", PYTHON="python3")
    refused(machine, "PYTHON=/no/where: no Python from 3.11 on", PYTHON="/no/where")


def test_a_python_that_is_named_is_taken(machine: Machine) -> None:
    machine.python("python3.13", 3, 13, 1)
    machine.python("python3.14", 3, 14, 0)
    named = machine.python("elsewhere/my python", 3, 12, 8)
    succeed(machine, "tf", PYTHON=str(named))
    assert machine.version() == "3.12.8"
    output = succeed(machine, "tf", PYTHON="python3.14")  # allowed if requested
    assert output.splitlines()[0] == (
        ".venv is of another Python (3.12.8) than PYTHON=python3.14: it is made anew"
    )
    assert machine.version() == "3.14.0"
    assert succeed(machine, "tf", PYTHON="python3.14") == ""
    assert succeed(machine, "tf") == ""


def test_a_mistake_in_the_name_costs_no_environment(machine: Machine) -> None:
    machine.python("python3.13", 3, 13, 1)
    succeed(machine, "tf")
    done = machine.run("tf", PYTHON="python3.21")
    assert done.returncode == 3
    assert machine.version() == "3.13.1"


def test_an_environment_of_a_python_that_is_too_old_is_made_anew(machine: Machine) -> None:
    machine.python("../check out/.venv/bin/python", 3, 10, 1)
    machine.python("python3.12", 3, 12, 1)
    succeed(machine, "tf")
    assert machine.version() == "3.12.1"


def test_a_second_environment_beside_the_first(machine: Machine) -> None:
    machine.python("python3.13", 3, 13, 1)
    machine.python("python3.11", 3, 11, 1)
    succeed(machine)
    lowest = {"VENV": ".venv-lowest", "CONSTRAINTS": "constraints-lowest.txt", "PYTHON": "python3.11"}
    succeed(machine, **lowest)
    assert (machine.version(), machine.version(".venv-lowest")) == ("3.13.1", "3.11.1")
    first, second = (line for line in machine.asked() if " -e " in line)
    assert first.endswith(" -c constraints.txt -e .[tf,mxnet,torch,jax,onnx,encoder,mpi,test]")
    assert second.endswith(" -c constraints-lowest.txt -e .[tf,mxnet,torch,jax,onnx,encoder,mpi,test]")


def test_mxnet_is_installed_without_what_its_metadata_ask_for(machine: Machine) -> None:
    machine.python("python3.13", 3, 13, 1)
    succeed(machine, "onnx,mxnet")
    _, second = machine.asked()
    assert second.endswith(" --no-deps mxnet==1.9.1")


def test_where_there_is_a_gpu_its_builds_are_taken(machine: Machine) -> None:
    machine.python("python3.13", 3, 13, 1)
    machine.program(machine.bin / "nvidia-smi", "#!/bin/sh\nexit 0\n")
    succeed(machine, "tf,jax,test")
    (line,) = machine.asked()
    assert line.endswith(" -e .[tf-gpu,jax-gpu,test]")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_hands_its_variables_on(machine: Machine) -> None:
    machine.python("python3.12", 3, 12, 1)
    machine.python("python3.13", 3, 13, 1)
    env = {"PATH": str(machine.bin), "LOG": str(machine.log), "HOME": os.environ.get("HOME", "/")}
    words = ["PYTHON=python3.12", "VENV=other", "CONSTRAINTS=constraints-lowest.txt", ".environment"]
    command = [shutil.which("make") or "make", "-C", str(machine.checkout), *words]
    subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert machine.version("other") == "3.12.1"
    (first, _) = machine.asked()
    assert " -c constraints-lowest.txt " in first
