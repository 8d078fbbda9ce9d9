"""The pictures of docs/mlflow.md, taken of a demo's workspace in a real browser.

updater demo demo-workspace
python tests/helpers/screenshots.py demo-workspace docs/images
"""

import os
import sys
from pathlib import Path

import browser
from mlflow_server import free_port, mlflow_server
from PIL import Image

from updater import links
from updater.workspace import Workspace

VERSION = "2"  # the demo's careful update
WAIT_MS = 2500  # until the page's own animations are over
COLOURS = 128  # of a picture: enough for text and lines, a third of the bytes


def main(workspace: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    os.environ["UPDATER_STORE_MLFLOW_PAGE"] = f"http://127.0.0.1:{port}"
    opened = Workspace.open(workspace)
    found, of_all = links.of_version(opened, VERSION), links.of_workspace(opened)
    with mlflow_server(workspace.resolve(), port=port), browser.opened(1440, 860) as page:
        page.set_default_timeout(60_000)

        def take(name: str) -> None:
            close = page.get_by_role("button", name="Close")
            if close.count():
                close.first.click()
            page.wait_for_timeout(WAIT_MS)
            path = folder / f"{name}.png"
            page.screenshot(path=path)
            _shrink(path)

        page.goto(of_all["updates"])
        page.get_by_text("worst_past_change").first.wait_for()
        take("updates")
        page.goto("about:blank")
        page.goto(of_all["versions"])
        page.get_by_text("average_accuracy vs worst_accuracy").first.wait_for()
        take("versions")
        page.goto(found["run"])
        page.get_by_text(": every version").first.click()
        page.get_by_role("tab", name="Model metrics").click()
        page.get_by_text("2026-01", exact=True).first.wait_for()
        take("life")
        page.goto(found["model"])
        page.get_by_role("heading", name=f"version {VERSION}").first.wait_for()
        take("version")
        page.goto(of_all["model"])
        page.get_by_text("Versions of").first.wait_for()
        take("model")
        page.goto(found["report"])
        page.frame_locator("iframe").first.get_by_role("heading", name="Score matrix").wait_for()
        take("report")
        page.goto(found["run"])
        page.get_by_role("tab", name="System metrics").click()
        page.get_by_text("cpu_utilization_percentage").first.wait_for()
        take("machine")


def _shrink(path: Path) -> None:
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
