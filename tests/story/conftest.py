"""A workspace small enough to train in seconds, with everything in it real."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from updater.progress import Progress

PERIODS = ("north", "east", "south", "west")
WORDS = {
    "north": {"snow": "ski", "frost": "coat", "ice": "skate"},
    "east": {"rice": "bowl", "tea": "cup", "noodle": "wok"},
    "south": {"sand": "towel", "palm": "shade", "wave": "board"},
    "west": {"horse": "saddle", "cactus": "water", "canyon": "rope"},
}
FILLER = ("the", "a", "some", "my", "your", "this", "old", "new", "big", "small", "red", "blue")

CONFIG = """
[workspace]
name = "story"
[model]
architecture = "tiny.json"
vocabulary_size = 320
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text} ?"
completion = " {answer}"
period = "{region}"
[periods]
order = ["north", "east", "south", "west"]
holdout_fraction = 0.3
[rehearsal]
policy = "balanced"
fraction = 0.5
[regularizer]
method = "ewc"
num_examples = 16
[training]
epochs = 6
batch_size = 16
learning_rate = 5e-3
checkpoint_every_steps = 20
[scratch]
epochs = 10
learning_rate = 5e-3
[gate]
margin_fraction = 0.2
"""


def rows(num_per_period: int = 160, seed: int = 0) -> list[dict[str, str]]:
    """Short texts around a keyword of their period; the answer is what goes with the keyword."""
    rng = random.Random(seed)
    made = []
    for region in PERIODS:
        for number in range(num_per_period):
            keyword = rng.choice(list(WORDS[region]))
            words = [*rng.choices(FILLER, k=rng.randint(2, 4)), keyword]
            rng.shuffle(words)
            made.append(
                {
                    "id": f"{region}-{number}",
                    "text": " ".join([*words, str(number)]),
                    "answer": WORDS[region][keyword],
                    "region": region,
                }
            )
    return made


@pytest.fixture(scope="session")
def lay_out(tiny_json: str) -> Callable[[Path], Path]:
    """A function: the folder has source, architecture and configuration, ready for `init`."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.json").write_text(tiny_json)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        (folder / "updater.toml").write_text(CONFIG)
        return folder

    return make


@pytest.fixture
def folder(lay_out: Callable[[Path], Path], tmp_path: Path) -> Path:
    return lay_out(tmp_path / "ws")


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the bars of trainings are called, as they come."""
    titles: list[str] = []

    class Noted(Progress):
        def __init__(self, title: str, *args: Any, **kwargs: Any) -> None:
            titles.append(title)
            super().__init__(title, *args, **kwargs)

    for module in ("updater.train.fit", "updater.launch.together"):
        monkeypatch.setattr(f"{module}.Progress", Noted)
    return titles
