"""By what an update is held: terms of the base's line, estimated or recorded by its trainings."""

import dataclasses
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import answered

from regularizers import importance as weights
from regularizers.formats import Factored, whole
from updater import doctor, opening, verify
from updater.nemotron import checkpoint
from updater.steps import importance as importance_step
from updater.steps import verification
from updater.steps.terms import TRACE_FILE, terms_of
from updater.train import fit as fit_module
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

QUICK = ("training.epochs=1", "scratch.epochs=2", "gate.margin_fraction=0.99")


def settings(*more: str) -> list[str]:
    return [word for one in (*QUICK, *more) for word in ("--set", one)]


def take(folder: Path, period: str, *more: str) -> dict[str, Any]:
    """The update's candidate is deployed, whatever the gate says."""
    answer, _ = answered(folder, "update", period, *settings(*more))
    deployed, _ = answered(folder, "status")
    if deployed["deployed"] != answer["candidate"]:
        answered(folder, "promote", answer["candidate"], "--reason", "test", "--force")
    return answer


def opened(folder: Path, period: str, *more: str) -> tuple[dict[str, Any], Any, Any, Any]:
    """The result of step importance of an update of `period`, and by what it would be held."""
    chosen = settings(*more)
    update = answered(folder, "step", "ingest", "--period", period, *chosen)[0]["update"]
    answered(folder, "step", "rehearse", "--update", update, *chosen)
    found, _ = answered(folder, "step", "importance", "--update", update, *chosen)
    workspace = Workspace.open(folder, [*QUICK, *more])
    one = workspace.ledger.update(update)
    assert one.base is not None
    digest = workspace.ledger.model_version(one.base).digest
    model, _ = checkpoint.load(workspace.checkpoints.local(digest))
    memory = importance_step.memory(workspace, one, model)
    terms = terms_of(workspace, one)
    return found, memory.held, model, [(t, weights.load(t.file).tensors) for t in terms]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace that has learnt north from scratch and then east, both with SI."""
    folder = lay_out(tmp_path_factory.mktemp("held") / "ws")
    answered(folder, "init", str(folder))
    si = ("regularizer.method=si", "regularizer.strength=1")
    answered(folder, "scratch", "--periods", "north", "--deploy", *settings(*si))
    take(folder, "east", *si)
    return folder


def trace(folder: Path, version: str) -> tuple[str, Path]:
    """The name of what the version's training recorded, and its file in the checkpoint store."""
    workspace = Workspace.open(folder)
    update = workspace.ledger.model_version(version).update
    assert update is not None
    step = workspace.ledger.step(update, "train")
    assert step is not None
    kept = step.result["trace"]
    return kept["name"], workspace.checkpoints.local(kept["digest"]) / TRACE_FILE


def test_si_holds_by_what_every_training_recorded(line: Path) -> None:
    found, held, model, terms = opened(line, "south", "regularizer.method=si")
    assert (found["estimator"], found["num_terms"]) == ("si", 2)
    assert [term.version.id for term, _ in terms] == ["1", "2"]
    assert [("path-0.1", term.file) for term, _ in terms] == [trace(line, "1"), trace(line, "2")]
    assert found["digest"] == terms[1][0].digest
    for name, parameter in model.named_parameters():
        parts = [recorded[name] for _, recorded in terms if name in recorded]
        torch.testing.assert_close(held.importance[name], sum(parts))
        assert torch.equal(held.anchor[name], parameter.detach())
    # Trained from scratch with its routers, then with frozen ones.
    routers = [name for name in held.importance if ".gate." in name]
    assert routers
    assert not any(name in terms[1][1] for name in routers)


def test_routers_are_weighed_where_they_are_trained_alone(line: Path) -> None:
    """What can't move would have a part in the mean that `scale` divides by; a study weighs as
    the service does."""

    def routers(*more: str) -> list[str]:
        _, held, _, _ = opened(line, "south", *more)
        return [name for name in held.importance if ".gate." in name]

    assert routers("regularizer.num_examples=4") == []
    assert routers("regularizer.num_examples=4", "training.train_routers=true")


def test_each_period_has_its_own_term_and_one_anchor_has_the_pull_of_all(line: Path) -> None:
    found, held, model, terms = opened(line, "south", "regularizer.terms=periods")
    assert (found["estimator"], found["num_terms"], found["num_examples"]) == ("empirical", 2, 32)
    assert [[c.period for c in term.sample.choices] for term, _ in terms] == [["north"], ["east"]]
    workspace = Workspace.open(line)
    weights_of = [
        dict(checkpoint.load(workspace.checkpoints.local(t.version.digest))[0].named_parameters())
        for t, _ in terms
    ]
    for name in held.importance:
        theta = model.get_parameter(name).detach().double() + 0.01
        separate = sum(
            fisher[name].double() * (theta - at[name].detach().double())
            for (_, fisher), at in zip(terms, weights_of, strict=True)
        )
        ours = held.importance[name].double() * (theta - held.anchor[name].double())
        torch.testing.assert_close(
            ours, separate, rtol=1e-3, atol=1e-6 * float(separate.abs().max())
        )


def test_online_ewc_decays_the_older_and_mas_does_not(line: Path) -> None:
    decayed = ("regularizer.method=online_ewc", "regularizer.decay=0.25")
    name = "lm_head.weight"
    _, held, _, ((_, first), (_, second)) = opened(line, "south", *decayed)
    torch.testing.assert_close(held.importance[name], 0.25 * first[name] + second[name])
    mas = ("regularizer.method=mas", "regularizer.decay=0.25")
    found, held, _, ((_, first), (_, second)) = opened(line, "south", *mas)
    assert found["estimator"] == "mas"
    torch.testing.assert_close(held.importance[name], first[name] + second[name])


def test_new_data_of_an_old_period_holds_nothing_of_its_old(line: Path) -> None:
    with (line / "rows.jsonl").open("a") as file:
        for n in range(12):
            row = {"id": f"new-{n}", "text": f"new tea {n}", "answer": "cup", "region": "east"}
            file.write(json.dumps(row) + "\n")
    chosen = ("regularizer.method=ewc", "regularizer.terms=periods")
    update = answered(line, "step", "ingest", "--period", "east", *settings(*chosen))[0]["update"]
    workspace = Workspace.open(line, [*QUICK, *chosen])
    terms = terms_of(workspace, workspace.ledger.update(update))
    assert [[c.period for c in term.sample.choices] for term in terms] == [["north"], []]


@pytest.mark.parametrize(
    "changed",
    [
        ("regularizer.method=online_ewc", "regularizer.estimator=optimizer"),
        ("regularizer.method=si", "regularizer.damping=0.2"),
    ],
    ids=" ".join,
)
def test_what_no_training_recorded_is_told_with_its_cure_and_then_recorded(
    line: Path, changed: tuple[str, ...]
) -> None:
    ledger = Workspace.open(line).ledger
    before = ledger.updates()
    _, said = answered(line, "update", "south", *settings(*changed), code=2)
    assert "version 2 has no importance" in said
    assert ledger.updates() == before  # nothing is begun
    assert "regularizer.strength = 0" in said
    answer, _ = answered(line, "update", "south", *settings(*changed, "regularizer.strength=0"))
    version = Workspace.open(line).ledger.model_version(answer["candidate"])
    recorded, file = trace(line, version.id)
    assert recorded in ("optimizer", "path-0.2")
    found = weights.load(file)
    assert found.checkpoint_digest == version.digest
    assert found.num_examples > 0
    assert bool(found.tensors["lm_head.weight"].any())


def test_a_broken_trace_is_told_and_not_estimated(line: Path) -> None:
    _, file = trace(line, "2")
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[:-50] + bytes(50))
    try:
        _, said = answered(line, "update", "west", *settings("regularizer.method=si"), code=2)
        file.write_bytes(whole[:-50])
        _, short = answered(line, "update", "west", *settings("regularizer.method=si"), code=2)
    finally:
        file.write_bytes(whole)
    assert "can't be estimated again" in said
    assert str(file) in said
    assert f"{file.name} should have {len(whole)} bytes" in short


def test_a_trace_that_was_deleted_is_as_if_it_had_not_been_recorded(line: Path) -> None:
    _, file = trace(line, "1")
    away = file.parent.rename(line / "away")
    try:
        _, held, _, terms = opened(line, "south", "regularizer.method=si")
    finally:
        away.rename(file.parent)
    ((term, recorded),) = terms
    assert term.version.id == "2"
    torch.testing.assert_close(dict(held.importance), dict(recorded))


def test_answers_are_held_without_any_importance(line: Path) -> None:
    chosen = settings("regularizer.method=der++", "regularizer.strength=1")
    answer, _ = answered(line, "update", "west", *chosen)
    found, _ = answered(line, "step", "importance", "--update", answer["update"], *chosen)
    assert found["estimator"] is None


def test_under_lora_and_factored_an_update_is_held_and_its_export_is_plain(line: Path) -> None:
    chosen = ("training.adapt=lora", "training.lora_experts=true", "regularizer.format=factored")
    answer, _ = answered(line, "update", "south", *settings(*chosen))
    workspace = Workspace.open(line)
    step = workspace.ledger.step(answer["update"], "importance")
    assert step is not None
    assert step.result["format"] == "factored"
    assert 0 < step.result["num_bytes"] < 0.3 * step.result["weights_bytes"]
    state: list[dict[str, torch.Tensor]] = []
    for version in (answer["base"], answer["candidate"]):
        digest = workspace.ledger.model_version(version).digest
        model, _ = checkpoint.load(workspace.checkpoints.local(digest))
        state.append(model.state_dict())
    before, after = state
    assert list(before) == list(after)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert any(".mixer.experts." in name for name in moved)
    assert "lm_head.weight" not in moved
    answered(line, "report", answer["candidate"], "-o", str(line / "lora.html"))
    assert "kept as factored" in (line / "lora.html").read_text("utf-8")


def test_a_trace_is_held_in_the_format_that_is_configured_now(line: Path) -> None:
    chosen = ("regularizer.method=si", "regularizer.format=factored")
    _, held, _, terms = opened(line, "south", *chosen)
    name = "lm_head.weight"
    assert isinstance(held.importance[name], Factored)
    total = sum(recorded[name] for _, recorded in terms)
    torch.testing.assert_close(whole(held.importance[name]).sum(1), total.sum(1))


def test_what_lora_can_not_record_is_refused_before_any_work(line: Path) -> None:
    chosen = settings("training.adapt=lora", "regularizer.method=si")
    _, said = answered(line, "update", "west", *chosen, code=2)
    assert "si sums each full weight's gradient" in said


def test_whatever_changes_an_importance_gives_it_another_name(line: Path) -> None:
    chosen = settings("regularizer.method=ewc")
    update = answered(line, "step", "ingest", "--period", "south", *chosen)[0]["update"]

    def name(*more: str) -> str:
        workspace = Workspace.open(line, [*QUICK, "regularizer.method=ewc", *more])
        return terms_of(workspace, workspace.ledger.update(update))[-1].digest

    messages = ("source.fields.messages={m}", "source.fields.prompt=", "source.fields.completion=")
    names = [
        name(),
        name("training.adapt=lora"),
        name("training.adapt=lora", "training.lora_experts=true"),
        name("training.precision=bf16-mixed"),
        name("training.train_routers=true"),
        name("regularizer.format=bfloat16"),
        name("regularizer.estimator=sampled"),
        name("regularizer.num_examples=99"),
        name(*messages, "training.train_thinking=true"),
    ]
    assert len(set(names)) == len(names)
    same = ("training.devices=2", "training.learning_rate=1e-4", "regularizer.offload=true")
    assert name(*same) == names[0]


def test_from_compressed_weights_the_line_begins_there(line: Path, tmp_path: Path) -> None:
    """Older weights have other shapes, and what a training recorded is of those of before."""
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    made, _ = answered(
        *(folder, "compress", "2", "--method", "magnitude", "--remove", "neurons"),
        *("--sparsity", "0.5", *settings()),
    )
    small = made["version"]
    answered(folder, "promote", small, "--reason", "test", "--force")
    start, si = "compression.start=compressed", "regularizer.method=si"
    mas, periods = "regularizer.method=mas", "regularizer.terms=periods"
    for method in (periods, mas, "regularizer.method=online_ewc"):
        _, held, model, ((term, found),) = opened(folder, "south", start, method)
        assert term.version.id == small
        assert [choice.period for choice in term.sample.choices] == ["north", "east"]
        for name, one in found.items():
            assert one.shape == held.anchor[name].shape == model.get_parameter(name).shape
    _, said = answered(folder, "update", "south", *settings(start, si), code=2)
    assert f"version {small} has no importance" in said
    assert 'compression.start = "uncompressed"' in said
    # The next one trains what is left, and records; whatever the settings are later, the line
    # after it goes back to the compressed weights and no further.
    new = take(folder, "south", start, si, "regularizer.strength=0")["candidate"]
    for chosen in ((start,), ()):
        _, held, model, terms = opened(folder, "west", periods, *chosen)
        assert [term.version.id for term, _ in terms] == [small, new]
        assert all(h.shape == model.get_parameter(n).shape for n, h in held.importance.items())
        _, _, _, ((term, _),) = opened(folder, "west", si, *chosen)
        assert (term.version.id, term.file) == (new, trace(folder, new)[1])


def test_a_trace_of_other_weights_is_told_with_a_cure_that_cures(
    line: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    _, file = trace(folder, "2")
    found = weights.load(file)
    file.chmod(0o644)
    size = file.stat().st_size
    weights.save(dataclasses.replace(found, checkpoint_digest="f" * 64), file)
    assert file.stat().st_size == size
    _, said = answered(folder, "update", "west", *settings("regularizer.method=si"), code=2)
    assert "the importance of checkpoint ffffffffffffffff" in said
    assert "an estimate is made again" not in said
    assert "bring it back from a copy; or delete its folder" in said


def test_nothing_is_in_memory_twice(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it trains an importance that was read whole into main memory is let go of, and before a
    new process loads the checkpoint once more, so is what this one holds of a GPU."""
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    said: list[str] = []
    made: list[weakref.ref[Any]] = []
    whole = {
        "memory": importance_step.memory,
        "fit": fit_module.fit,
        "verify": verification.verify,
        "room": verify.give_back,
    }

    def noted(name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            said.append(name)
            if name == "fit":
                assert [memory() for memory in made] == [None]
            found = whole[name](*given, **named)
            if name == "memory":
                made.append(weakref.ref(found))
            return found

        return call

    monkeypatch.setattr(importance_step, "memory", noted("memory"))
    monkeypatch.setattr(fit_module, "fit", noted("fit"))
    monkeypatch.setattr(verification, "verify", noted("verify"))
    monkeypatch.setattr(verify, "give_back", noted("room"))
    answered(folder, "update", "west", *settings("regularizer.num_examples=8"))
    assert said == ["memory", "fit", "verify", "room"]


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a model is loaded")


@pytest.mark.parametrize("method", ["ewc", "none"])
def test_a_base_that_is_too_large_for_the_machine_is_refused_before_it_is_loaded(
    line: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    small = doctor.Machine("cuda", ("a small one",), 2**20, 1, kernels=False)
    monkeypatch.setattr(doctor, "this_machine", lambda: small)
    monkeypatch.setattr(checkpoint, "load", refuse)
    chosen = settings(f"regularizer.method={method}", "regularizer.num_examples=98")
    _, said = answered(line, "update", "south", *chosen, code=2)
    assert "of each device by these settings" in said
    assert "updater doctor" in said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.packing=true", "training.packing = true. only the fused Mamba-2 kernels"),
        ("training.devices=3", "training.devices = 3. this machine has 1 GPUs"),
    ],
)
def test_what_this_machine_has_not_is_told_before_an_update_here_is_opened(
    line: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    """The kernels are missing indeed; a GPU is made up."""
    if "devices" in setting:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    known = answered(line, "status")[0]["unfinished"]
    monkeypatch.setattr(opening.ingest, "version_period", refuse)
    _, said = answered(line, "update", "south", *settings(setting), code=2)
    assert message in said
    assert answered(line, "status")[0]["unfinished"] == known


def test_steps_that_run_elsewhere_tell_of_their_own_machine(
    line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever opens the update need not have what trains it."""
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    asked = settings("training.packing=true")
    update = answered(folder, "step", "ingest", "--period", "south", *asked)[0]["update"]
    answered(folder, "step", "rehearse", "--update", update, *asked)
    monkeypatch.setattr(checkpoint, "load", refuse)
    _, said = answered(folder, "step", "importance", "--update", update, *asked, code=2)
    assert "training.packing = true. only the fused Mamba-2 kernels" in said
    assert "or take training.packing = false" in said
