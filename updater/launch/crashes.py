"""What is said of processes that crashed: each time that all start again, and when none does.

Called by `updater.launch.processes`.
"""

import logging
import re
from collections import Counter
from pathlib import Path

from updater.launch import answer, ends, task
from updater.settings import TrainingSettings

log = logging.getLogger("updater")

_ERROR = re.compile(r"^\w[\w.]*(?:Error|Exception): .*$", re.MULTILINE)


class Crashes:
    """What ended processes of one run before their time, told as it happens and in the end."""

    def __init__(self, folder: Path, *, max_restarts: int) -> None:
        self._folder, self._logs = folder, ends.Logs(folder)
        self._max_restarts = max_restarts
        self._ends: list[ends.End] = []
        self._restarts = Counter[str]()

    def look(self) -> None:
        """That all start again is told, each time that they do.

        Raises:
            InputError, UpdateError: as of `answer.read_refusal`: nothing is to start again.
        """
        found = list(self._logs.new())
        # Asked after the logs: who refuses writes why, and ends then.
        answer.read_refusal(self._folder)
        self._ends += found
        for end in found:
            self._restarts[end.machine] += 1
            if self._restarts[end.machine] > self._max_restarts:
                continue  # `told` says why
            if not end.machine:
                times = f"{self._restarts['']} of at most {self._max_restarts} times"
                log.warning("%s; all start again%s, %s", self._why(end), self._from(), times)
                answer.forget_crash(self._folder)  # the next one is to say so itself
            elif end.killed:  # else it says so itself, or has lost one of which is told
                log.warning("%s; all start again%s", end, self._from())

    def _why(self, end: ends.End) -> str:
        return str(end) if end.killed else answer.read_crash(self._folder) or str(end)

    def _from(self) -> str:
        return " from the last saved state" if task.saves_state(self._folder) else ""

    def told(self, code: int, training: TrainingSettings) -> str:
        """All that is to be said once torchrun has ended with this exit code. Who was killed comes
        first: the others say no more than that they have lost it."""
        self._ends += self._logs.new()
        said, own = self._logs.said(), [end for end in self._ends if not end.machine]
        killed = ends.kills(self._ends)
        if code < 0:
            killed = f"torchrun was killed by {ends.signal_name(-code)}"
        why = answer.read_crash(self._folder)
        if not why and not killed and "RendezvousTimeoutError" in said:
            return (
                f"fewer machines than training.nodes = {training.nodes} came to "
                f"{training.rendezvous} in time: run `updater join` on the others, or set "
                "training.nodes"
            )
        if killed:
            whys = [killed] if not own or own[-1].killed or not why else [killed, why]
            cure = ". Run the same command again"
            if start := self._from():
                cure += f": it goes on{start}"
        else:
            whys, cure = [why or _last_words(said)], ""
        return (
            f"the processes ended with exit code {code}, after at most {self._max_restarts} "
            f"restarts: {'. Then '.join(whys)}{cure}. {self._folder / ends.LOG} has all of what "
            "they said"
        )


def _last_words(said: str) -> str:
    """Of processes that ended before they could say so themselves."""
    errors = _ERROR.findall(said)
    return f"one ended by {errors[0]}" if errors else "one was killed, or never began"
