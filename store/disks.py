"""What an operating system's refusal of a file means, in words and with the cure.

The one place where an `OSError` of a full, read-only or closed disk becomes a sentence. Called by
the stores, and by the command line for whatever comes up to it.
"""

import errno
import os
import re
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM)
WRITABLE = "Mount it writable, or work in a copy elsewhere, and run the same again"


def told(error: OSError) -> str:
    """What is refused, where, and what to do about it; the system's own words for what is none of
    a disk's usual troubles."""
    if isinstance(error, shutil.Error):
        return told(_first(error))
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if error.errno in FULL:
        where = f"the disk of {place.parent}" if place else "a disk"
        return (
            f"{where} is full ({error.strerror}); `df` says how full each is. Free some space and "
            "run the same again"
        )
    if error.errno == errno.EROFS:
        where = f"the disk of {place.parent}" if place else "a disk"
        return f"{where} is read-only, and has to be written to. {WRITABLE}"
    if error.errno in CLOSED and place is not None:
        return (
            f"{place}: {error.strerror}. This is run by user {os.geteuid()}, who has to be allowed "
            "to use it. Change its owner or its mode (ls -ld says both), and run the same again"
        )
    return str(error)


def is_closed(folder: Path) -> bool:
    """Whether the folder is there and nothing can be written into it."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def _first(error: shutil.Error) -> OSError:
    """Of the files that could not be copied, the first, as the system said it: `shutil` keeps of
    each no more than the text."""
    faults = error.args[0] if error.args else ""
    if not isinstance(faults, list) or not faults:
        return OSError(str(error))
    _, target, why = faults[0]
    number = re.search(r"\[Errno (\d+)\]", str(why))
    if number is None:
        return OSError(f"{target} can't be written: {why}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(target))
