"""Keeps torchao's complaints at import from every command's stderr.

transformers imports torchao wherever it is installed, and so does every process that loads a
model. Of torchao we take arithmetic in Python (`updater.nemotron.unpack`) and none of its compiled
kernels, which its wheel has for GPUs alone: on a CPU it warns of each that can't be loaded. And
torch 2.13 warns of a way in which torchao 0.18 registers its enumerations. Python itself warns of
two of its texts, whenever it compiles them: once, or where it may not keep what it compiled in
every process.

`updater/__init__.py` installs the guard, the one place that every import of ours passes through.
"""

import logging
import warnings

_SAID = {
    "torchao": "Failed to load ",
    "torch.utils._pytree": "register_constant() on Enum subclasses is deprecated",
}


def _worth_saying(record: logging.LogRecord) -> bool:
    return _SAID[record.name] not in record.getMessage()


def install() -> None:
    """From now on torchao is imported in silence. Imports nothing itself; twice is once."""
    for name in _SAID:
        logging.getLogger(name).addFilter(_worth_saying)
    for category in (SyntaxWarning, DeprecationWarning):  # since Python 3.12, and before
        warnings.filterwarnings("ignore", ".*invalid escape sequence", category, ".*torchao.*")
