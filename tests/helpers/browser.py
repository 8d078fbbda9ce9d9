"""A headless Chromium, driven by Playwright, with a profile that nobody else has.

Playwright's own download is not used: Debian's chromium (`apt-get install chromium`), or whatever
UPDATER_TEST_CHROMIUM names.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1440, 900
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# MLflow's page asks on a first visit what somebody came for, and opens its assistant.
STORED = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


def missing() -> str:
    """Why there can be no browser here; "" where there can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (the extra `test`)"
    if not _executable():
        return "no chromium here (apt-get install chromium, or UPDATER_TEST_CHROMIUM=PATH)"
    return ""


def _executable() -> str:
    named = os.environ.get("UPDATER_TEST_CHROMIUM", "")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or ""


@contextlib.contextmanager
def opened(width: int = WIDTH, height: int = HEIGHT) -> Iterator["Page"]:
    """A page of a new browser."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            profile,
            executable_path=_executable(),
            headless=True,
            args=list(ARGUMENTS),
            viewport={"width": width, "height": height},
        )
        for name, value in STORED.items():
            context.add_init_script(
                f"localStorage.getItem({name!r}) ?? localStorage.setItem({name!r}, {value!r})"
            )
        try:
            yield context.pages[0]
        finally:
            context.close()
