"""How processes ended that could not say so themselves: what torchrun says of it in their logs.

Each machine has a log of its own in the task's folder. Read by `updater.launch.processes`.
"""

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LOG = "processes.log"
"""Of the machine that launches; `joined_log` of the others."""

_OTHERS = "processes-"
# Of all that ended together torchrun says this of the first, once all of them are gone.
_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_MEMORY = (
    "the kernel does so where main memory runs out (`dmesg` tells, `updater doctor` reckons what a "
    "training needs)"
)


def joined_log(folder: Path, name: str) -> Path:
    """The log of a machine of that name which has joined."""
    return folder / f"{_OTHERS}{name}.log"


@dataclass(frozen=True)
class End:
    """A process that ended too early, and had others end with it. `code`: of its exit; below zero
    the signal that killed it. `rank`: among those of its machine. `machine`: "" is this one."""

    rank: int
    code: int
    machine: str = ""

    @property
    def killed(self) -> bool:
        """It was ended from outside, and could say nothing."""
        return self.code < 0

    def __str__(self) -> str:
        who = f"process {self.rank}" + (f" of {self.machine}" if self.machine else "")
        if not self.killed:
            return f"{who} ended with exit code {self.code}"
        return f"{who} was killed by {signal_name(-self.code)}"


def signal_name(number: int) -> str:
    """As people know it: "signal 9 (SIGKILL)"."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # one of the real-time signals, most of which have no name
        return f"signal {number}"


def kills(ends: Sequence[End]) -> str:
    """Which of them were killed, each once and the last one first, with what may be behind it; ""
    where none was."""
    killed = [end for end in reversed(ends) if end.killed]
    told = ", and ".join(dict.fromkeys(map(str, killed)))
    return f"{told}; {_MEMORY}" if any(end.code == -signal.SIGKILL for end in killed) else told


class Logs:
    """The logs in a task's folder, from where they end now: earlier runs' words are not heard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in self._paths()}
        self._begin = self._read.get(folder / LOG, 0)

    def _paths(self) -> list[Path]:
        return [*self._folder.glob(LOG), *sorted(self._folder.glob(f"{_OTHERS}*.log"))]

    def new(self) -> Iterator[End]:
        """Those that ended since this was last asked, on whichever machine. A half line waits."""
        for path in self._paths():
            with path.open("rb") as file:
                file.seek(begin := self._read.get(path, 0))
                whole, end, _ = file.read().rpartition(b"\n")
            self._read[path] = begin + len(whole) + len(end)
            machine = "" if path.name == LOG else path.stem.removeprefix(_OTHERS)
            for code, rank in _FAILED.findall(whole.decode(errors="replace")):
                yield End(int(rank), int(code), machine)

    def said(self) -> str:
        """All that was said on this machine."""
        with (self._folder / LOG).open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")
