"""torchvision, where Avalanche brought it, breaks no import of ours."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="the extra study is not installed"
)


def says(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_can_be_imported_whatever_torch_it_was_built_for() -> None:
    assert says(
        "import updater, torchvision, torch\n"
        "print(hasattr(torch.ops.torchvision, 'nms'), torchvision.ops.nms.__name__)"
    ) == ("True nms")


def test_the_guard_imports_nothing_and_stands_once() -> None:
    assert says(
        "import sys, updater\n"
        "updater.torchvision_guard.install()\n"
        "names = [type(finder).__name__ for finder in sys.meta_path]\n"
        "print(names.count('_Guard'), 'torch' in sys.modules)"
    ) == ("1 False")
