"""A version is made smaller, judged beside its base on every period, deployed by a person; and the
next update begins at what it was made from."""

import dataclasses
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import answered, said
from mlflow import MlflowClient
from safetensors import safe_open
from safetensors.torch import save_file

from regularizers import importance as weights
from updater import doctor
from updater.nemotron import checkpoint
from updater.report.collect import collect
from updater.steps.start import start_at
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

QUICK = ("training.epochs=1", "scratch.epochs=10", "gate.margin_fraction=0.3")


def set_(*settings: str) -> tuple[str, ...]:
    return tuple(word for one in settings for word in ("--set", one))


NAMES = {"version", "base", "num_parameters", "nonzero_fraction", "bytes", "base_bytes", "scores"}


def settings(*more: str) -> list[str]:
    return [*set_(*QUICK, *more)]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace whose deployed version 1 has learnt north and east. Not to be written to."""
    folder = lay_out(tmp_path_factory.mktemp("learnt") / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "scratch", "--periods", "north", "east", "--deploy", *settings())
    return folder


@pytest.fixture(scope="module")
def line(learnt: Path) -> Path:
    """The same, with version 2: version 1 without a third of its weights, by OBD."""
    made = compressed(learnt, "1", "--method", "obd", "--sparsity", "0.3")
    assert made["version"] == "2"
    return learnt


def compressed(folder: Path, version: str, *options: str) -> dict[str, Any]:
    answer, _ = answered(folder, "compress", version, *options, *settings())
    return answer


def test_it_answers_by_the_contract(line: Path) -> None:
    answer = compressed(line, "1", "--method", "obd", "--sparsity", "0.3")
    assert answer.keys() >= NAMES
    assert (answer["version"], answer["base"]) == ("2", "1")
    assert answer["scores"].keys() == {"north", "east"}
    assert answer["compression"]["method"] == "obd"
    for score in answer["scores"].values():
        assert score.keys() == {"base", "candidate", "num_examples"}
        assert score["num_examples"] > 20
    assert answer["bytes"] == answer["base_bytes"]
    assert not answer["promoted"]
    assert answer["verdict"] in ("accepted", "review")
    shown, _ = answered(line, "show", "2")
    assert (shown["kind"], shown["base"], shown["learnt"]) == ("compress", "1", ["north", "east"])


def test_the_status_says_what_it_is_that_waits(line: Path) -> None:
    status, _ = answered(line, "status")
    (waiting,) = status["awaiting_approval"]
    assert status["updates"] == {
        waiting: {
            "kind": "compress",
            "period": "east",
            "base": "1",
            "candidate": "2",
            "compression": {
                "method": "obd",
                "remove": "weights",
                "sparsity": 0.3,
                "quantize": "none",
                "recovery": "none",
            },
        }
    }
    told = f"{waiting} (version 2, version 1 compressed: 30 % of the weights removed by obd)"
    assert told in said(line, "status")[0]


def test_the_status_says_what_it_is_that_is_not_finished(line: Path, tmp_path: Path) -> None:
    """Also before there is a version of it, and of an update that is to ship compressed."""
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    asked = ("compress", "1", "--quantize", "int8", *settings("compression.recovery=none"))
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr("updater.compress.engine.write", _refuse)
        answered(folder, *asked, code=1)
    chosen = settings("compression.method=magnitude", "compression.sparsity=0.25")
    update = answered(folder, "step", "ingest", "--period", "south", *chosen)[0]["update"]
    status, _ = answered(folder, "status")
    smaller, opened = status["unfinished"]
    assert opened == update
    assert status["updates"][smaller]["candidate"] is None
    shown, _ = said(folder, "status")
    assert f"{smaller} (version 1 compressed: kept as int8)\n" in shown
    assert f"{update} (compressed: 25 % of the weights removed by magnitude)" in shown
    _, err = said(folder, "approve", smaller, "--reason", "small enough", code=2)
    assert "finish it with `updater compress 1 --quantize int8`." in err
    _, err = said(folder, "step", "train", "--update", smaller, *settings(), code=2)
    assert "of [compression] it was opened by `updater compress 1 --quantize int8`." in err


def test_three_tenths_of_the_matrices_weights_are_gone(line: Path) -> None:
    from updater.compress.matrices import is_prunable
    from updater.nemotron.weights import released

    workspace = Workspace.open(line)
    models = {
        version: dict(
            released(
                checkpoint.load(
                    workspace.checkpoints.local(workspace.ledger.model_version(version).digest)
                )[0]
            )
        )
        for version in ("1", "2")
    }
    gone = whole = 0
    for name, weight in models["2"].items():
        before = models["1"][name]
        if is_prunable(name, attention=False):
            stays = weight != 0
            assert torch.equal(weight[stays], before[stays]), name
            gone, whole = gone + int((~stays).sum()), whole + weight.numel()
        else:
            assert torch.equal(weight, before), name
    assert gone == round(0.3 * whole)


def test_it_is_found_again_and_goes_on_as_any_update(line: Path) -> None:
    again = compressed(line, "1", "--method", "obd", "--sparsity", "0.3")
    assert again["version"] == "2"
    settings_of = Workspace.open(line).ledger.update(again["update"])
    assert settings_of.kind == "compress"
    assert settings_of.config["compression"]["sparsity"] == 0.3
    asked = ("--method", "magnitude", "--sparsity", "0.2", *settings("compression.rounds=2"))
    _, said = answered(line, "compress", "2", *asked, code=2)
    assert "version 2 is compressed" in said
    options = "--method magnitude --remove weights --sparsity 0.2 --set compression.rounds=2"
    assert f"`updater compress 1 {options}`" in said


def test_mlflow_and_the_card_say_what_was_taken_away(line: Path) -> None:
    workspace = Workspace.open(line)
    version = workspace.ledger.model_version("2")
    client = MlflowClient(workspace.mlflow_uri)
    run = client.get_run(version.run_id)
    assert run.data.params["compression/method"] == "obd"
    assert "training/epochs" not in run.data.params
    assert run.data.tags["updater.kind"] == "compress"
    path = client.download_artifacts(version.run_id, "model_card.md")
    card = Path(path).read_text()
    assert "made by compressing version 1" in card
    assert "Removed: 30% of the weights, chosen by `obd`." in card


@pytest.fixture(scope="module")
def deployed(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which a person has deployed version 2."""
    folder = tmp_path_factory.mktemp("deployed") / "ws"
    shutil.copytree(line, folder, symlinks=True)
    waiting = answered(folder, "status")[0]["awaiting_approval"]
    done, _ = answered(folder, "approve", waiting[0], "--reason", "small enough")
    assert done == done | {"deployed": "2", "previous": "1"}
    return folder


def test_the_next_update_begins_at_the_uncompressed_weights_and_is_held_by_their_fisher(
    deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OBD was shown is what EWC holds the update by: no gradient is taken for it again."""
    chosen = settings()
    update = answered(deployed, "step", "ingest", "--period", "south", *chosen)[0]["update"]
    answered(deployed, "step", "rehearse", "--update", update, *chosen)
    with monkeypatch.context() as without:
        without.setattr(torch.Tensor, "backward", _refuse)
        without.setattr(torch.autograd, "grad", _refuse)
        found, _ = answered(deployed, "step", "importance", "--update", update, *chosen)
    workspace = Workspace.open(deployed)
    first = workspace.ledger.model_version("1").digest
    assert start_at(workspace, "2").digest == first
    (file,) = (deployed / "cache" / "importance").glob("*.safetensors")
    assert file.stem == found["digest"]
    assert weights.load(file).checkpoint_digest == first
    opened = workspace.ledger.update(update)
    assert opened.base == "2"  # which is deployed, and what the candidate is compared with
    answer, _ = answered(deployed, "update", "south", *chosen)
    assert answer["update"] == update
    assert {s["base"] for s in answer["scores"].values()} != {None}


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a gradient was taken")


def test_obd_takes_the_fisher_of_an_update_and_no_gradient(
    learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(learnt, folder, symlinks=True)
    update = answered(folder, "step", "ingest", "--period", "south", *settings())[0]["update"]
    answered(folder, "step", "rehearse", "--update", update, *settings())
    answered(folder, "step", "importance", "--update", update, *settings())
    monkeypatch.setattr(torch.Tensor, "backward", _refuse)
    monkeypatch.setattr(torch.autograd, "grad", _refuse)
    answer = compressed(folder, "1", "--method", "obd", "--sparsity", "0.2")
    assert answer["nonzero_fraction"] < 0.95


def test_ewc_refuses_an_importance_of_other_weights(deployed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(deployed, folder, symlinks=True)
    (file,) = (folder / "cache" / "importance").glob("*.safetensors")
    found = weights.load(file)
    weights.save(dataclasses.replace(found, checkpoint_digest="f" * 64), file)
    _, said = answered(folder, "update", "west", *settings("training.seed=1"), code=2)
    assert "the importance of checkpoint ffffffffffffffff" in said
    assert "an anchor and its importance are of one checkpoint" in said


def _without_tokens(file: Path) -> None:
    """As an older release has left it."""
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        about = json.loads(stored.metadata()["importance"])
    del about["tokens"]
    save_file(tensors, file, {"importance": json.dumps(about)})


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize("harm", [_without_tokens, _cut_short])
def test_obd_estimates_again_what_it_can_t_use(
    line: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    (file,) = (folder / "cache" / "importance").glob("*.safetensors")
    before = file.read_bytes()
    harm(file)
    compressed(folder, "1", "--method", "obd", "--sparsity", "0.4")
    assert file.read_bytes() == before


def test_obd_refuses_an_importance_of_other_weights(line: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    (file,) = (folder / "cache" / "importance").glob("*.safetensors")
    weights.save(dataclasses.replace(weights.load(file), checkpoint_digest="f" * 64), file)
    asked = ("--method", "obd", "--sparsity", "0.4", *settings())
    _, said = answered(folder, "compress", "1", *asked, code=2)
    assert "the importance of checkpoint ffffffffffffffff" in said


def test_from_the_compressed_weights_only_where_that_is_asked_for(deployed: Path) -> None:
    workspace = Workspace.open(deployed, ["compression.start=compressed"])
    assert start_at(workspace, "2").digest == workspace.ledger.model_version("2").digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing is to be taken away"),
        (("--method", "obd", "--sparsity", "1"), "updater: --sparsity 1. "),
        (("--method", "obd", "--sparsity", "half"), "updater: --sparsity half. "),
        (
            ("--method", "wanda", "--remove", "neurons"),
            "--method wanda and --remove neurons. wanda",
        ),
        (("--method", "reap", "--remove", "experts", "--sparsity", "0.9"), "must stay"),
        (("--quantize", "int3"), "updater: --quantize int3. "),
        (("--quantize", "nvfp4", *set_("compression.keep=['nothing']")), "keep 'nothing'"),
        (
            ("--method", "random", "--remove", "neurons", "--quantize", "int8"),
            "compression.multiple_of = 32",
        ),
        (("--method", "obds"), "updater: --method obds. "),
        (set_("compression.method=obds"), "updater: --set compression.method=obds. "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_what_can_t_be_is_refused(line: Path, options: tuple[str, ...], words: str) -> None:
    """And nothing is begun that could not be finished."""
    _, err = answered(line, "compress", "1", *options, *settings(), code=2)
    assert words in err
    assert answered(line, "status")[0]["unfinished"] == []


def test_a_recovery_for_which_there_is_no_memory_is_refused_before_any_work(
    line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of 1 MiB, which has room for what needs no training."""
    small = doctor.Machine("cpu", (), 2**20, 1, kernels=False)
    monkeypatch.setattr(doctor, "this_machine", lambda: small)
    asked = ("compress", "1", "--method", "random", "--sparsity", "0.3")
    recovered = (*asked, *set_("compression.recovery=finetune"), *settings())
    _, err = answered(line, *recovered, code=2)
    assert "GiB of each device by these settings" in err
    assert answered(line, "status")[0]["unfinished"] == []
    assert compressed(line, *asked[1:])["nonzero_fraction"] < 0.95


def test_weights_that_are_gone_are_told_before_any_work(deployed: Path, tmp_path: Path) -> None:
    """What the deployed version was made of, whose own checkpoint is there."""
    folder = tmp_path / "ws"
    shutil.copytree(deployed, folder, symlinks=True)
    digest = Workspace.open(folder).ledger.model_version("1").digest
    shutil.move(folder / "checkpoints" / digest, tmp_path / "elsewhere")
    known = answered(folder, "status")[0]["unfinished"]
    for command in (("compress", "1", "--quantize", "int8"), ("update", "west")):
        _, err = answered(folder, *command, *settings("training.seed=3"), code=2)
        assert "are gone: no checkpoint" in err
        assert "restore them from the backup" in err
    assert "of version 2 before it was compressed are gone" in err
    assert 'compression.start = "compressed"' in err
    assert answered(folder, "status")[0]["unfinished"] == known


def test_an_update_of_quantized_weights_is_refused_and_of_those_before_it_is_not(
    learnt: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(learnt, folder, symlinks=True)
    forced = ("gate.margin_fraction=0.9", "gate.confidence=0.6")
    small = ("compress", "1", "--quantize", "int8", "--yes", *settings(*forced))
    made = answered(folder, *small)[0]["version"]
    assert answered(folder, "status")[0]["deployed"] == made
    asked = ("step", "ingest", "--period", "south")
    _, err = answered(folder, *asked, *settings("compression.start=compressed"), code=2)
    assert f'compression.start = "compressed": version {made} is quantized' in err
    assert 'set compression.start = "uncompressed"' in err
    assert answered(folder, "status")[0]["unfinished"] == []
    before = folder / "checkpoints" / Workspace.open(folder).ledger.model_version("1").digest
    shutil.move(before, tmp_path / "elsewhere")
    _, err = answered(folder, *asked, *settings(), code=2)
    assert f"of version {made} before it was compressed are gone" in err
    assert "compression.start" not in err  # for it can't begin there
    shutil.move(tmp_path / "elsewhere", before)
    answered(folder, *asked, *settings())


def test_what_is_adopted_learns_nothing_again(
    learnt: Path, tmp_path: Path, lay_out: Callable[[Path], Path]
) -> None:
    """And needs no kernels of a training."""
    folder = lay_out(tmp_path / "ws")
    answered(folder, "init", str(folder))
    whole = Workspace.open(learnt)
    model = whole.checkpoints.local(whole.ledger.model_version("1").digest)
    asked = ("compression.method=obd", "compression.recovery=finetune", "training.packing=true")
    answered(folder, "adopt", str(model), "--periods", "north", *settings(*asked))


def test_a_version_that_is_not_deployed_is_compressed_to_look_at(deployed: Path) -> None:
    asked = ("compress", "1", "--quantize", "int8", *settings())
    out, err = said(deployed, *asked)
    assert "version 2 is deployed: a smaller version 1 can be looked at" in err
    assert "Version 2 is deployed. It can be promoted once version 1 is" in out
    assert "% of before" in out
    assert "Decide" not in out


def test_its_step_is_called_what_it_does(line: Path, tmp_path: Path) -> None:
    """For people: programs call it by the name that it has in every update."""
    folder = tmp_path / "ws"
    shutil.copytree(line, folder, symlinks=True)
    asked = ("compress", "1", "--method", "magnitude", "--sparsity", "0.1", *settings())
    out, err = said(folder, *asked)
    assert "compress took" in err
    assert re.search(r"^compress \d+ s, evaluate \d+ s, gate", out, re.MULTILINE)
    assert "train" not in out + err
    answer, _ = answered(folder, *asked)
    assert list(answer["seconds"]) == ["train", "evaluate", "gate", "release"]
    told, _ = said(folder, "step", "train", "--update", answer["update"], *settings())
    assert told.startswith(f"{answer['update']}: compress is done")
    data = collect(Workspace.open(folder), answer["version"])
    assert [name for name, _ in data.step_seconds] == ["compress", "evaluate", "gate", "release"]


def test_yes_is_for_what_is_deployed(deployed: Path) -> None:
    _, err = answered(deployed, "compress", "1", "--method", "random", "--yes", *settings(), code=2)
    assert "--yes, and version 2 is deployed, not 1" in err
    options = "--method random --remove weights --sparsity 0.5 --yes"
    assert f"run `updater compress 2 {options}`" in err


def test_an_update_of_before_there_was_compression_goes_on(learnt: Path, tmp_path: Path) -> None:
    """What its configuration did not have is no difference, as long as nothing is asked for."""
    folder = tmp_path / "ws"
    shutil.copytree(learnt, folder, symlinks=True)
    update = answered(folder, "step", "ingest", "--period", "south", *settings())[0]["update"]
    with sqlite3.connect(folder / "store.db") as ledger:
        ((text,),) = ledger.execute("SELECT config FROM updates WHERE id = ?", [update])
        config = json.loads(text)
        del config["compression"], config["training"]["train_thinking"]
        ledger.execute("UPDATE updates SET config = ? WHERE id = ?", [json.dumps(config), update])
    asked = settings("compression.method=magnitude")
    _, err = answered(folder, "step", "rehearse", "--update", update, *asked, code=2)
    assert "opened with another configuration: compression.method" in err
    answered(folder, "step", "rehearse", "--update", update, *settings())


def test_an_update_ships_its_candidate_compressed(
    learnt: Path, tmp_path: Path, bars: list[str]
) -> None:
    """What the gate judges is the smaller one; the uncompressed weights are kept for the next."""
    folder = tmp_path / "ws"
    shutil.copytree(learnt, folder, symlinks=True)
    chosen = settings(
        "compression.method=reap",
        "compression.remove=experts",
        "compression.sparsity=0.25",
        "compression.recovery=distill",
        "compression.recovery_epochs=1",
        "gate.margin_fraction=0.99",
    )
    answer, _ = answered(folder, "update", "south", *chosen)
    assert bars == ["train", "recover"]
    workspace = Workspace.open(folder)
    version = workspace.ledger.model_version(answer["candidate"])
    step = workspace.ledger.step(answer["update"], "train")
    assert step is not None
    whole, small = (
        checkpoint.check(workspace.checkpoints.local(digest)).config["n_routed_experts"]
        for digest in (step.result["uncompressed"], version.digest)
    )
    assert small == 0.75 * whole
    assert start_at(workspace, version.id).digest == step.result["uncompressed"]
    answered(folder, "promote", version.id, "--reason", "test", "--force")
    again, _ = answered(folder, "update", "west", *chosen)
    assert again["base"] == answer["candidate"]
    small = checkpoint.check(
        workspace.checkpoints.local(workspace.ledger.model_version(again["candidate"]).digest)
    )
    assert small.config["n_routed_experts"] == 0.75 * whole  # of the whole again, not of the rest
