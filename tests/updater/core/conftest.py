"""A Nemotron-H small enough for tests (all four kinds of layer), and a language it can learn."""

import contextlib
import importlib.util
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import torch
from releasing import as_released
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from regularizers import importance as importances
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.importance import estimate
from updater.train.lesson import Lesson

MICRO = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "ME*-E",
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 16,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 32,
    "intermediate_size": 32,
    "routed_scaling_factor": 2.5,
    "time_step_min": 0.001,
}
COLOURS = ["red", "green", "blue", "bright yellow"]

DRIVER = Path(__file__).with_name("fit_driver.py")


def say(first: int, count: int) -> pa.Table:
    """Examples: the colour of a thing is told by its first word, whatever the second is."""
    numbers = range(first, first + count)
    things = ["apple", "leaf", "sea", "sun"]
    return pa.table(
        {
            "id": [f"e{n}" for n in numbers],
            "prompt": [f"{things[n % 4]} {'very ' * (n % 3)}{n}\nColour:" for n in numbers],
            "completion": [f" {COLOURS[n % 4]}" for n in numbers],
        }
    )


def texts(table: pa.Table) -> list[str]:
    """Prompt and completion of each row, as one text."""
    pairs = zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True)
    return [prompt + completion for prompt, completion in pairs]


@contextlib.contextmanager
def _full_disk(most_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def full_disk() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """A block in which no file may grow beyond so many bytes: the same calls fail as on a disk
    that is full."""
    return _full_disk


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a config.json of the small architecture."""
    path = tmp_path_factory.mktemp("micro") / "config.json"
    path.write_text(json.dumps(MICRO))
    return str(path)


@pytest.fixture(scope="session")
def base(micro: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with random weights. Not to be written to."""
    target = tmp_path_factory.mktemp("base") / "checkpoint"
    return checkpoint.create(micro, texts(say(0, 200)), target, vocabulary_size=400, seed=1)


@pytest.fixture
def release(base: Path, tmp_path: Path) -> Path:
    """A folder as NVIDIA would release it."""
    return as_released(base, tmp_path / "release")


@pytest.fixture(scope="session")
def language() -> Any:
    """`language(first, count)`: that many examples."""
    return say


@pytest.fixture(scope="session")
def quick() -> TrainingSettings:
    """Settings by which the small model learns the language in seconds."""
    return TrainingSettings(
        epochs=6, batch_size=16, learning_rate=1e-2, train_routers=True, checkpoint_every_steps=7
    )


@pytest.fixture(scope="session")
def trained(base: Path, quick: TrainingSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder that has learnt most of the language. Not to be written to."""
    from updater.train.fit import fit
    from updater.train.guards import Guards
    from updater.train.record import Watch

    folder = tmp_path_factory.mktemp("trained")
    model, tokenizer = checkpoint.load(base)
    fit(
        model,
        Lesson.of(tokenizer, say(0, 160), None, max_length_tokens=64),
        training=quick,
        guards=Guards(),
        folder=folder / "state",
        watch=Watch(progress=False),
    )
    return checkpoint.export(model, base, folder / "checkpoint")


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    """The module of the run that is killed: imported, it is the run that is not."""
    spec = importlib.util.spec_from_file_location("fit_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def driven_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function: many processes run the driver of that name, beside this file, in the place of
    the worker."""
    from updater.launch import processes

    whole = processes.torchrun

    def drive(driver: str) -> None:
        def driven(training: TrainingSettings, folder: Path, *meeting: Any) -> list[str]:
            command = whole(training, folder, *meeting)
            return [*command[:-3], str(Path(__file__).with_name(driver)), command[-1]]

        monkeypatch.setattr(processes, "torchrun", driven)

    return drive


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors are fastest on one thread, and tests share the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """Of one process, which is its own world."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def lesson(base: Path, language: Any) -> Lesson:
    """What one and many processes learn: 60 examples."""
    _, tokenizer = checkpoint.load(base)
    return Lesson.of(tokenizer, language(0, 40), language(100, 20), max_length_tokens=64)


@pytest.fixture(scope="module")
def importance(base: Path, lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the base's weights for it: a file."""
    model, _ = checkpoint.load(base)
    found = estimate(
        model,
        lesson.examples,
        estimator="empirical",
        checkpoint_digest="",
        data_digest="",
        progress=False,
    )
    path = tmp_path_factory.mktemp("importance") / "importance.safetensors"
    importances.save(found, path)
    return path
