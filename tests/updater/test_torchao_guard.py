"""torchao is imported without a word, by whoever imports a model."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from updater import torchao_guard


def test_a_model_is_imported_in_silence(tmp_path: Path) -> None:
    """Also where Python may not keep what it compiles, and where all warnings are shown."""
    code = "import updater.nemotron.checkpoint, torchao.quantization, sys; sys.stdout.write('done')"
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    command = [sys.executable, "-W", "default::SyntaxWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert (done.stdout, done.stderr) == ("done", "")


def test_what_else_they_say_is_heard() -> None:
    torchao_guard.install()
    for name in ("torchao", "torch.utils._pytree"):
        logger = logging.getLogger(name)
        record = logger.makeRecord(name, logging.WARNING, "", 1, "another matter", (), None)
        assert logger.filter(record)


def test_twice_is_once() -> None:
    torchao_guard.install()
    before = list(logging.getLogger("torchao").filters)
    torchao_guard.install()
    assert logging.getLogger("torchao").filters == before
