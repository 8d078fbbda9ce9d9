"""Runs a command on so many GPUs that no other such command has.

    python gpus.py NUMBER FOLDER COMMAND...

Docker shows every container the same GPUs, so workers choose among them: the GPUs are those of
`nvidia-smi`, each is a file in FOLDER, which the workers share, and the command that has the GPU
holds the file's lock until it ends, however it ends. The command is told by CUDA_VISIBLE_DEVICES.
With 0 it runs on none. Standard library only.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

QUERY = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")


def every() -> list[str]:
    """The GPUs of this machine, in the driver's order.

    Raises:
        SystemExit: the driver does not say.
    """
    try:
        done = subprocess.run(QUERY, check=True, stdout=subprocess.PIPE, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"no GPU can be seen ({error}); GPUS_PER_WORKER=0 runs on none") from None
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def taken(number: int, gpus: Sequence[str], folder: Path) -> list[str]:
    """So many of the GPUs, which are this process's from now on, and its command's.

    Raises:
        SystemExit: fewer are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "choosing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # or two of them could each take half and have too few
        found: list[str] = []
        for gpu in gpus:
            if len(found) < number and _lock(folder / gpu):
                found.append(gpu)
    if len(found) < number:
        what = f"{number} GPUs are asked for, and {len(found)} of {len(gpus)} are free"
        cure = "stop a worker that has one, scale to fewer, or lower GPUS_PER_WORKER"
        raise SystemExit(f"{what}: {cure}")
    return found


def _lock(path: Path) -> bool:
    """Whether the file could be locked, for as long as this process lives and what it becomes."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    os.set_inheritable(file, True)
    return True


def main() -> None:
    """Becomes the command."""
    number, folder, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    mine = taken(number, every(), folder) if number else []
    sys.stderr.write(f"GPUs of this worker: {', '.join(mine) or 'none'}\n")
    os.execvpe(command[0], command, {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(mine)})


if __name__ == "__main__":
    main()
