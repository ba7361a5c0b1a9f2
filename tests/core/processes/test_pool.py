"""Work in other processes: order, crashes, and the end of workers whose parent was killed."""

from __future__ import annotations

import ast
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from processes import interruptible, wait_until_ended

from core.processes.pool import map_in_order

ROOT = Path(__file__).parents[3]
Do = Callable[..., None]


def square(number: int) -> int:
    time.sleep(0.02 if number % 3 == 0 else 0)  # so that later ones finish first
    return number * number


def square_or_die(number: int) -> int:
    if number % 5 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def square_or_raise(number: int) -> int:
    if number == 3:
        raise KeyError(number)
    return number * number


def double_more(number: int) -> int:
    return 2 * number + 1


def lost(number: int) -> int:
    return -number


def die_first(item: tuple[Path, int]) -> int:
    """Die on the first item once another process is about to be started; return the number of other items."""
    folder, number = item
    if number == 0:
        (folder / "taken").touch()
        wait_for(folder / "die")
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_second(item: tuple[Path, int]) -> int:
    """Die on the second item; wait for a signal file on the first."""
    folder, number = item
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "taken").touch()
    wait_for(folder / "go on")
    return number


def lost_item(_: tuple[Path, int]) -> int:
    return -1


def nothing(*_: Any) -> None: ...


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    numbers = list(range(25))
    found = list(map_in_order(square, numbers, workers=workers, on_crash=lost))
    assert found == [number * number for number in numbers]


def test_items_are_taken_a_few_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    ahead = [
        len(taken) - done for done, _ in enumerate(map_in_order(square, items(), workers=2, on_crash=lost))
    ]
    assert max(ahead) <= 10
    assert taken == list(range(40))


def test_pools_feed_each_other() -> None:
    squares = map_in_order(double_more, iter(range(7)), workers=1, on_crash=lost)
    found = list(map_in_order(square_or_die, squares, workers=1, on_crash=lost))
    assert found == [-n if n % 5 == 3 else n * n for n in (1, 3, 5, 7, 9, 11, 13)]


def test_a_pool_ends_with_the_one_it_feeds() -> None:
    """A traceback may keep a generator alive, and this process would wait for its pool when it ends."""
    before = set(multiprocessing.active_children())  # other tests' backends
    inner = map_in_order(square, range(200), workers=2, on_crash=lost)
    outer = map_in_order(double_more, inner, workers=2, on_crash=lost)
    assert next(outer) == 1
    outer.close()
    assert inner.gi_frame is None
    assert set(multiprocessing.active_children()) <= before


def test_nothing_to_do() -> None:
    assert list(map_in_order(square, [], workers=2, on_crash=lost)) == []


def test_a_dying_worker_costs_its_item_alone() -> None:
    found = list(map_in_order(square_or_die, list(range(12)), workers=2, on_crash=lost))
    assert found == [-n if n % 5 == 3 else n * n for n in range(12)]


def slowly(monkeypatch: pytest.MonkeyPatch, taken: Path, before: Do, after: Do) -> None:
    """Call two functions while the second worker is started, after the first worker has taken its item.

    Each function gets the workers that exist then.
    """
    start, begun = ForkServerProcess._Popen, []  # type: ignore[attr-defined]

    def slow(process: BaseProcess) -> Any:
        if len(begun) == 1:
            wait_for(taken)
            before(*begun)
        begun.append(start(process))
        if len(begun) == 2:
            after(*begun)
        return begun[-1]

    monkeypatch.setattr(ForkServerProcess, "_Popen", staticmethod(slow))


@pytest.mark.parametrize("before", [True, False])
def test_a_worker_that_dies_while_another_is_started(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own pool fails on a closed pipe, or waits for ever for the worker that was started."""

    def die(first: Any, *_: Any) -> None:
        (tmp_path / "die").touch()
        first.wait()
        time.sleep(0.3)  # until its death is noticed

    slowly(monkeypatch, tmp_path / "taken", *(die, nothing) if before else (nothing, die))
    items = [(tmp_path, number) for number in range(3)]
    assert list(map_in_order(die_first, items, workers=2, on_crash=lost_item)) == [-1, 1, 2]


def test_a_worker_that_dies_before_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own pool does not watch it yet, and nothing wakes it up afterwards."""

    def go_on(_: Any, second: Any) -> None:
        second.wait()
        (tmp_path / "go on").touch()
        time.sleep(0.3)

    monkeypatch.setattr("core.processes.workers._POLL_S", 0.2)
    slowly(monkeypatch, tmp_path / "taken", nothing, go_on)
    items = [(tmp_path, number) for number in range(2)]
    assert list(map_in_order(die_second, items, workers=2, on_crash=lost_item)) == [0, -1]


def test_exceptions_are_the_callers() -> None:
    with pytest.raises(KeyError):
        list(map_in_order(square_or_raise, list(range(9)), workers=2, on_crash=lost))


IMPORTS = """
import os, sys
sys.path[:0] = [{root!r}, {folder!r}]
from core.processes.pool import map_in_order
import job
if __name__ == "__main__":
    print(*map_in_order(job.where, [0, 1], workers=1, on_crash=job.where))
"""


def test_workers_import_what_the_caller_imports_and_once_for_all(tmp_path: Path) -> None:
    """The interpreter's default path could lead to another, installed copy, or to none."""
    (tmp_path / "job.py").write_text(
        "import os\nimported = os.getpid()\ndef where(_): return imported, os.getpid()\n"
    )
    script = tmp_path / "script" / "imports.py"
    script.parent.mkdir()
    script.write_text(IMPORTS.format(root=str(ROOT), folder=str(tmp_path)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, str(script)]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=environment)
    (imported, worker), (again, _) = ast.literal_eval(told.stdout.replace(") (", "), ("))
    assert imported == again != worker


THREADS = """
import sys, threading
from pathlib import Path
sys.path[:0] = [{root!r}]
from core.processes.pool import map_in_order, warm_up
if __name__ == "__main__":
    warm_up("data.preprocessing.conversion")
    children = Path(f"/proc/self/task/{{threading.get_native_id()}}/children").read_text().split()
    most, done = 0, threading.Event()
    def work():
        list(map_in_order(abs, [0], workers=1, on_crash=abs))
        done.set()
    threading.Thread(target=work).start()
    while not done.is_set():
        most = max(most, *(len(list(Path(f"/proc/{{pid}}/task").iterdir())) for pid in children))
    print(len(children), most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as Linux tells of them")
def test_workers_are_forks_of_a_process_without_other_threads(tmp_path: Path) -> None:
    """They would inherit the threads' locks. NumPy's BLAS starts a thread for each core on import."""
    script = tmp_path / "threads.py"
    script.write_text(THREADS.format(root=str(ROOT)))
    told = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert told.stdout == "2 1\n", told.stderr  # the fork server and the resource tracker, one thread each


ORPHANS = """
import os, sys, time
sys.path[:0] = [{root!r}, *{tests!r}]
from core.processes.pool import map_in_order
from test_pool import lost, wait
if __name__ == "__main__":
    for _ in map_in_order(wait, [{folder!r}] * 4, workers=2, on_crash=lost):
        pass
"""


def wait(folder: str) -> int:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
    return 0


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Otherwise they would wait for work for ever, because they hold both ends of the pipe."""
    (tmp_path / "pids").mkdir()
    script = tmp_path / "orphans.py"
    tests = [str(folder) for folder in Path(__file__).parents[:3]]
    script.write_text(ORPHANS.format(root=str(ROOT), tests=tests, folder=str(tmp_path / "pids")))
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(file.name) for file in (tmp_path / "pids").iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    wait_until_ended(workers)


PLACES = """
import multiprocessing.util, os, sys
sys.path[:0] = [{root!r}, *{tests!r}]
from core.processes import pool
from test_pool import lost, square, wait
if __name__ == "__main__":
    if sys.argv[1] == "nowhere":
        pool._temporary_folders = lambda: iter([])
    function, items = (wait, [sys.argv[2]]) if sys.argv[1] == "wait" else (square, [1, 2, 3])
    found = pool.map_in_order(function, items, workers=2, on_crash=lost)
    print(multiprocessing.util.get_temp_dir() if pool._has_socket_folder() else "-", flush=True)
    print(*found)
"""


def with_tmpdir(folder: Path, tmpdir: str, *words: str) -> subprocess.Popen[str]:
    """Run the program above with another folder for temporary files; it prints the folder of its socket."""
    script = folder / "places.py"
    tests = [str(path) for path in Path(__file__).parents[:3]]
    script.write_text(PLACES.format(root=str(ROOT), tests=tests))
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=folder,
        env={**os.environ, "TMPDIR": tmpdir},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


LONG = "x" * 90

needs_forkserver = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="there no socket is made"
)


@needs_forkserver
@pytest.mark.parametrize("tmpdir", [LONG, "y/" * 60 + "y", "{folder}/" + LONG, "short", "none", "a file", ""])
def test_temporary_files_may_lie_anywhere(tmp_path: Path, tmpdir: str) -> None:
    """If the path is too long for a socket, or is no folder, the socket is elsewhere and is removed."""
    tmpdir = tmpdir.format(folder=tmp_path)
    if tmpdir == "a file":
        (tmp_path / tmpdir).touch()
    elif tmpdir not in ("none", ""):
        (tmp_path / tmpdir).mkdir(parents=True)
    process = with_tmpdir(tmp_path, tmpdir, "square")
    out, said = process.communicate(timeout=60)
    place, found = out.splitlines()
    assert (process.returncode, found, said) == (0, "1 4 9", "")
    assert len(os.fsencode(place)) <= 107 - len("/listener-12345678")
    assert not Path(place).exists()
    if tmpdir in (LONG, "short"):
        assert not list((tmp_path / tmpdir).iterdir())


@needs_forkserver
def test_ctrl_c_leaves_no_socket(tmp_path: Path) -> None:
    (tmp_path / LONG).mkdir()
    (tmp_path / "pids").mkdir()
    with interruptible():
        process = with_tmpdir(tmp_path, LONG, "wait", "pids")
    assert process.stdout is not None
    place = Path(process.stdout.readline().strip())
    deadline = time.monotonic() + 30
    while not list((tmp_path / "pids").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert place.is_dir()
    os.killpg(process.pid, signal.SIGINT)
    for pid in (tmp_path / "pids").iterdir():
        with contextlib.suppress(ProcessLookupError):  # the program may have ended it by now
            os.kill(int(pid.name), signal.SIGKILL)  # workers ignore Ctrl-C and would finish their work
    _, said = process.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt"), said  # it was the Ctrl-C that ended it
    assert not place.exists()


def test_work_is_done_where_no_socket_can_be(tmp_path: Path) -> None:
    process = with_tmpdir(tmp_path, str(tmp_path), "nowhere")
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines(), said) == (0, ["-", "1 4 9"], "")
