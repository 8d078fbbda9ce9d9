"""Training by many processes: the weights are those of one."""

import dataclasses
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from trained_together import (
    QUIET,
    alone,
    same_experts,
    same_weights,
    task,
    wait_until,
)
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError
from updater.launch import answer, processes, together
from updater.launch.task import Learning, TermFiles
from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings, SearchSettings, TrainingSettings
from updater.train.lesson import Lesson
from updater.train.objective import Likelihood, Objected
from updater.train.record import Watch
from updater.train.schedule import MicroBatch

NONE = RegularizerSettings(method="none")
LORA = {"adapt": "lora", "strategy": "fsdp"}
"""In shards, which "auto" does not take."""
LORA_EXPERTS = {**LORA, "lora_experts": True}
ONE_BY_ONE = 1e-9
"""GiB: pieces of one expert of each process."""


def both(first: nn.Module, second: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return list(first.parameters()), list(second.parameters())


def moved(base: Path, model: NemotronHForCausalLM) -> float:
    """The furthest that any weight went."""
    before, _ = checkpoint.load(base)
    return max(
        float((a - b).detach().abs().max()) for a, b in zip(*both(before, model), strict=True)
    )


def distance(first: nn.Module, second: nn.Module) -> float:
    """The norm of the difference of all weights."""
    apart = [(a - b).detach().square().sum() for a, b in zip(*both(first, second), strict=True)]
    return float(torch.stack(apart).sum().sqrt())


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (2, {"strategy": "ddp"}),
        (2, {"strategy": "fsdp"}),
        (4, {"strategy": "fsdp"}),  # of six experts the fourth process has none
        (4, {"gather_gib": ONE_BY_ONE, "activation_checkpointing": True}),
        (3, {**LORA, "learning_rate": 1e-2, "gather_gib": ONE_BY_ONE}),
        pytest.param(
            *(4, {**LORA, "learning_rate": 1e-2, "lora_experts": True, "gather_gib": ONE_BY_ONE}),
            marks=pytest.mark.torchrun,
        ),
        (2, {"train_routers": True, "router_bias_rate": 1e-3, "activation_checkpointing": True}),
        (2, {"adapt": "lora", "lora_experts": True, "learning_rate": 1e-2}),
        (2, {**LORA, "learning_rate": 1e-2, "activation_checkpointing": True}),
        (3, {**LORA, "learning_rate": 1e-2}),  # no part is like another
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_the_weights_are_those_of_one_process(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    devices: int,
    changes: dict[str, Any],
) -> None:
    model, one = alone(base, lesson, importance, tmp_path / "one", **changes)
    asked = task(base, importance, devices=devices, **changes)
    many = together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    same_weights(tmp_path / "many", model)
    assert moved(base, model) > 1e-3
    assert many.losses == pytest.approx(one.losses, abs=1e-5)
    for counted in ("num_steps", "num_examples", "num_tokens"):
        assert getattr(many, counted) == getattr(one, counted)
    same_experts(many, one)


class InParts(Likelihood):
    """The likelihood of a micro-batch as two processes have it: each part by itself, its gradient
    rounded by itself. Autocast would cast a weight once for both, and add their gradients up in
    bfloat16."""

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected:
        found = []
        for rank in range(2):
            torch.clear_autocast_cache()
            found.append(super().loss(model, batch.part(rank, 2)))
        torch.clear_autocast_cache()
        sums_b, counts_b = (
            torch.cat([getattr(part, name) for part in found]) for name in ("sums_b", "counts_b")
        )
        return Objected(found[0].loss + found[1].loss, sums_b, counts_b)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("ddp", {}),
        ("fsdp", {}),
        ("fsdp", {"activation_checkpointing": True}),
        ("fsdp", {"gather_gib": ONE_BY_ONE}),
    ],
    ids=["ddp", "fsdp", "fsdp checkpointed", "fsdp in pieces"],
)
def test_in_mixed_precision_too(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    strategy: str,
    more: dict[str, Any],
) -> None:
    """Nothing is added up in bfloat16: the weights are those of one process that goes through the
    same parts. Those of one that takes each batch whole are others by rounding alone, for there a
    batch's gradient is rounded once and not once for each part."""
    changes: dict[str, Any] = {"precision": "bf16-mixed"}
    model, one = alone(base, lesson, importance, tmp_path / "one", objective=InParts(), **changes)
    whole, _ = alone(base, lesson, importance, tmp_path / "whole", **changes)
    asked = task(
        *(base, importance),
        devices=2,
        strategy=strategy,
        **more,
        **changes,
    )
    many = together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    same_weights(tmp_path / "many", model)
    assert many.losses == pytest.approx(one.losses, abs=1e-5)
    assert 1e-5 < distance(whole, model) < 0.1 * distance(checkpoint.load(base)[0], model)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_factors_over_bfloat16_weights_are_float32_in_every_process(
    release: Path, lesson: Lesson, importance: Path, tmp_path: Path, strategy: str
) -> None:
    """Theirs are the parts' gradients added up in float32, at the least learning rate of NVIDIA's
    recipes."""
    changes: dict[str, Any] = {"adapt": "lora", "precision": "bf16-mixed", "learning_rate": 1e-5}
    changes["lora_experts"] = True
    one, many = tmp_path / "one", tmp_path / "many"
    alone(
        *(release, lesson, importance, one),
        objective=InParts(),
        dtype=torch.bfloat16,
        **changes,
    )
    asked = task(release, importance, devices=2, strategy=strategy, **changes)
    together.fit(asked, lesson, folder=many, watch=QUIET)
    states = [load_file(folder / "training.safetensors") for folder in (one, many)]
    factors = [{n: t for n, t in state.items() if ".lora_" in n} for state in states]
    assert {tensor.dtype for tensor in factors[1].values()} == {torch.float32}
    assert factors[0].keys() == factors[1].keys()
    apart, moved = 0.0, 0.0
    for name, tensor in factors[0].items():
        if name.startswith("parameter/") and ".lora_B." in name:  # which begins at zero
            apart += float((factors[1][name] - tensor).square().sum())
            moved += float(tensor.square().sum())
    assert apart < 1e-4 * moved


@pytest.mark.usefixtures("forked")
def test_a_base_in_shards_answers_in_mixed_precision(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path
) -> None:
    """What der++ holds on to is asked before the training, in float32 as alone."""
    regularizer = RegularizerSettings(method="der++", strength=1.0, top_k=8)
    changes: dict[str, Any] = {"precision": "bf16-mixed"}
    model, one = alone(
        *(base, lesson, importance, tmp_path / "one"), regularizer=regularizer, **changes
    )
    asked = dataclasses.replace(
        task(base, importance, devices=2, **changes), regularizer=regularizer
    )
    many = together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    assert many.losses == pytest.approx(one.losses, abs=1e-3)
    learnt, _ = checkpoint.load(tmp_path / "many" / answer.LEARNT)
    assert distance(learnt, model) < 0.1 * distance(checkpoint.load(base)[0], model)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("held", "changes"),
    [
        ({"method": "l2", "strength": 0.1}, {}),
        ({"method": "der++", "strength": 1.0, "top_k": 8}, {}),
        ({"method": "ewc", "strength": 10.0, "format": "bfloat16"}, {}),
        ({"method": "ewc", "strength": 10.0, "format": "factored"}, {}),
        ({"method": "online_ewc", "strength": 10.0, "decay": 0.5}, {"terms": 2}),
        ({"method": "ewc", "strength": 10.0, "terms": "periods"}, {"terms": 2}),
        ({"method": "l2", "strength": 0.1}, LORA),
        ({"method": "lwf", "strength": 1.0}, LORA),
        ({"method": "ewc", "strength": 10.0, "format": "factored"}, LORA),
        ({"method": "ewc", "strength": 10.0, "format": "factored"}, LORA_EXPERTS),
        pytest.param(
            *({"method": "ewc", "strength": 10.0, "offload": True}, LORA_EXPERTS),
            marks=pytest.mark.torchrun,
        ),
        ({"method": "ewc", "strength": 10.0, "terms": "periods"}, {**LORA, "terms": 2}),
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
def test_whatever_holds_them(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    held: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    regularizer = RegularizerSettings(**held)
    number = changes.get("terms", 1)
    training = {name: value for name, value in changes.items() if name != "terms"}
    # What is centred at the newest weights asks for no older ones.
    older = base if regularizer.terms == "periods" else tmp_path / "gone"
    one, many = tmp_path / "one", tmp_path / "many"
    held_by: dict[str, Any] = {"regularizer": regularizer, "num_terms": number, **training}
    model, _ = alone(base, lesson, importance, one, **held_by)
    free, _ = alone(base, lesson, importance, tmp_path / "free", regularizer=NONE, **training)
    asked = dataclasses.replace(
        task(base, importance, devices=2, **training),
        regularizer=regularizer,
        terms=(TermFiles(older, importance),) * (number - 1) + (TermFiles(base, importance),),
    )
    together.fit(asked, lesson, folder=many, watch=QUIET)
    same_weights(many, model)
    differ = [not torch.equal(a, b) for a, b in zip(*both(model, free), strict=True)]
    assert any(differ), "what holds them has done nothing"


@pytest.mark.usefixtures("forked")
def test_logits_that_are_made_in_pieces(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    driven_by: Callable[[str], None],
) -> None:
    """Each process has to ask for the output head as often as the one with the most tokens."""
    model, _ = alone(base, lesson, importance, tmp_path / "one")
    driven_by("pieces_driver.py")
    asked = task(base, importance, devices=2)
    together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    same_weights(tmp_path / "many", model)


def test_the_variables_of_a_pod_are_not_those_of_its_own_processes(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PyTorchJob's: torchrun takes PET_NNODES for --nnodes, and would wait for the other pods."""
    for name, value in {"NNODES": "2", "NPROC_PER_NODE": "1", "NODE_RANK": "1"}.items():
        monkeypatch.setenv(f"PET_{name}", value)
    model, _ = alone(base, lesson, importance, tmp_path / "one")
    together.fit(task(base, importance, devices=2), lesson, folder=tmp_path / "many", watch=QUIET)
    same_weights(tmp_path / "many", model)


@pytest.mark.usefixtures("forked")
def test_no_process_waits_while_another_hashes_the_importance(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driven_by: Callable[[str], None],
) -> None:
    """Who starts them has verified it: `steps.importance.files`."""
    driven_by("waiting_driver.py")
    monkeypatch.setattr(processes, "MAX_RESTARTS", 0)
    asked = task(base, importance, devices=2, max_steps=1)
    assert together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET).num_steps == 1


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("trace", ["path", "optimizer"])
def test_what_a_training_recorded_is_that_of_one_process(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path, trace: str
) -> None:
    _, one = alone(base, lesson, importance, tmp_path / "one", trace=trace)
    asked = task(base, importance, trace=trace, devices=2)
    many = together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    assert one.trace.keys() == many.trace.keys()
    for name, tensor in one.trace.items():
        largest = float(tensor.abs().max())
        torch.testing.assert_close(many.trace[name], tensor, rtol=0, atol=1e-4 * largest + 1e-12)
    for name, tensor in one.moved.items():
        torch.testing.assert_close(many.moved[name], tensor, rtol=0, atol=1e-5)


def test_a_folder_of_our_name_in_the_current_one_is_no_module(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the folder in which a clone lies."""
    (tmp_path / "here" / "updater").mkdir(parents=True)
    (tmp_path / "here" / "updater" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path / "here")
    found = Path(checkpoint.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(found))
    asked = task(base, importance, devices=2)
    together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    assert (tmp_path / "many" / answer.LEARNT).exists()


def test_the_documented_command_does_a_task_and_the_update_goes_on_from_there(
    base: Path, lesson: Lesson, importance: Path, tmp_path: Path
) -> None:
    docs = (Path(__file__).parents[3] / "docs" / "parallel.md").read_text("utf-8")
    (line,) = [one for one in docs.splitlines() if "-m updater.launch.worker FOLDER" in one]
    python, *words = shlex.split(line.replace("FOLDER", shlex.quote(str(tmp_path / "many"))))
    assert python == "python"
    model, one = alone(base, lesson, importance, tmp_path / "one")
    asked = task(base, importance, devices=2)
    (tmp_path / "many").mkdir()
    asked.write(tmp_path / "many", lesson)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same_weights(tmp_path / "many", model)
    steps: list[int] = []
    watch = Watch(lambda step, _: steps.append(step), progress=False)
    many = together.fit(asked, lesson, folder=tmp_path / "many", watch=watch)
    assert steps == [], "nothing was left to do"
    assert many.num_steps == one.num_steps
    same_weights(tmp_path / "many", model)


def test_a_task_is_read_as_it_was_written(base: Path, lesson: Lesson, tmp_path: Path) -> None:
    search = SearchSettings(trials=3, learning_rate=(1e-4, 1e-2))
    asked = dataclasses.replace(
        task(base, tmp_path / "importance", search=search), trace="optimizer"
    )
    asked = dataclasses.replace(asked, terms=(*asked.terms, TermFiles(base, None)))
    asked.write(tmp_path, lesson)
    read, learnt = Learning.read(tmp_path)
    assert read == asked
    assert learnt.num_new == lesson.num_new
    assert learnt.examples.too_long == lesson.examples.too_long
    for name in ("tokens", "starts", "prompt_lengths", "rows"):
        assert (getattr(learnt.examples, name) == getattr(lesson.examples, name)).all()


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    processes.check(TrainingSettings(devices=2))
    with pytest.raises(InputError, match=r"training\.devices = 3\. this machine has 2 GPUs"):
        processes.check(TrainingSettings(devices=3))


@pytest.mark.parametrize("driver", ["", "dying_driver.py"])
def test_two_nodes_train_as_one(
    base: Path,
    lesson: Lesson,
    importance: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    driven_by: Callable[[str], None],
    driver: str,
) -> None:
    """Both on this machine: the second one runs what the first one logs. Where a process dies at
    the very end, both start again."""
    if driver:
        driven_by(driver)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model, _ = alone(base, lesson, importance, tmp_path / "one")
    asked = task(base, importance, nodes=2, rendezvous=f"127.0.0.1:{port}")
    folder = tmp_path / "many"
    others: list[subprocess.Popen[bytes]] = []

    def join() -> None:
        wait_until(lambda: "other nodes" in caplog.text, seconds=30)
        command = shlex.split(caplog.messages[-1].partition(": ")[2])
        others.append(subprocess.Popen(command))

    joining = threading.Thread(target=join)
    joining.start()
    try:
        together.fit(asked, lesson, folder=folder, watch=QUIET)
        joining.join()
        assert others[0].wait(30) == 0
    finally:
        for other in others:
            other.kill()
    same_weights(folder, model)
