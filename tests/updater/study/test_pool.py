"""Tasks in processes of their own: results in order, deaths and errors named, nobody left over."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from updater.progress import Progress
from updater.study.pool import Failed, Places, Pool, Task

# What the workers do; a module that they can import.
WORK = """
import os, time
from updater.errors import InputError, UpdateError

def double(job, tell):
    tell()
    return 2 * job, os.environ["OMP_NUM_THREADS"]

def die(job, tell):
    os.kill(os.getpid(), 9)

def fail(job, tell):
    raise ValueError(job)

def refuse(job, tell):
    raise InputError("training.devices = 2", "there is one", "set it to 1")

def give_up(job, tell):
    raise UpdateError("it can't be done")

def sleep(job, tell):
    tell()
    time.sleep(600)
"""


# A study that is interrupted, and takes its time to end, as what it has imported may.
DRIVER = """
import time
from updater.progress import Progress
from updater.study.pool import Places, Pool, Task
import slow_work

def main():
    try:
        with Pool(Places(1, 1), Progress("study", 1, shown=False)) as pool:
            pool.run([Task("one", slow_work.show, 0)])
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("not interrupted")
    time.sleep(3)

if __name__ == "__main__":
    main()
"""
SLOW_WORK = """
import time
from tqdm import tqdm

print("importing", flush=True)
time.sleep(1.5)

def show(job, tell):
    with tqdm(total=1, disable=True):
        print("working", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "pool_work.py").write_text(WORK, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("pool_work", None)
    return importlib.import_module("pool_work")


def test_a_worker_that_dies_or_fails_is_named_and_the_others_go_on(work: ModuleType) -> None:
    tasks = [
        Task("one", work.double, 1),
        Task("dies", work.die, 0),
        Task("fails", work.fail, "no luck"),
        Task("two", work.double, 2),
        Task("refuses", work.refuse, 0),
        Task("gives up", work.give_up, 0),
    ]
    progress = Progress("study", 2, shown=False)
    with Pool(Places(2, 1), progress) as pool:
        one, died, failed, two, *ours = pool.run(tasks)
    assert (one, two) == ((2, "1"), (4, "1"))
    assert died == Failed("dies", "its process ended with signal SIGKILL")
    assert failed.title == "fails"
    assert failed.reason == "ValueError: no luck"
    assert [each.reason for each in ours] == [
        "training.devices = 2. there is one. set it to 1.",
        "it can't be done",
    ]
    assert all("Traceback" in each.why for each in (failed, *ours))


def test_ctrl_c_leaves_no_process(work: ModuleType) -> None:
    class Interrupted(Progress):
        def update(self, n: float | None = 1) -> bool | None:
            raise KeyboardInterrupt

    pool = Pool(Places(1, 1), Interrupted("study", 1, shown=False))
    with pytest.raises(KeyboardInterrupt), pool:
        pool.run([Task("sleeps", work.sleep, 0)])
    servers = [c for c in psutil.Process().children() if "forkserver" in " ".join(c.cmdline())]
    assert servers
    assert [worker for server in servers for worker in server.children()] == []


@pytest.mark.parametrize(
    "last",
    ["importing importing", "importing importing working"],
    ids=["while the server imports", "while a worker shows its progress"],
)
def test_ctrl_c_leaves_nothing_on_the_terminal(tmp_path: Path, last: str) -> None:
    """It goes to every process of the terminal; none but the study itself has to say anything."""
    (tmp_path / "slow_work.py").write_text(SLOW_WORK, "utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, "utf-8")
    driver = subprocess.Popen(
        [sys.executable, "driver.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout is not None
    assert [driver.stdout.readline().strip() for _ in last.split()] == last.split()
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=120)  # until no process has its stderr any more
    assert (driver.returncode, said) == (0, "")
