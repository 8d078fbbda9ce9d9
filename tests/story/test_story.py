"""The main job, end to end, by the public command line alone, on a tiny checkpoint."""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import command, said

from updater.cli import run
from updater.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace with a first version of two periods, and a careful update with a third."""
    folder = lay_out(tmp_path_factory.mktemp("story") / "ws")
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "east", "--deploy")
    command(folder, "update", "south")
    return folder


def clean_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    main = "from updater.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", main, "--workspace", str(folder), "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_careful_update_is_accepted_and_promoted(story: Path) -> None:
    answer = command(story, "update", "south")
    assert (answer["verdict"], answer["promoted"]) == ("accepted", True)
    assert (answer["base"], answer["candidate"]) == ("1", "2")
    assert set(answer["scores"]) == {"north", "east", "south"}
    assert answer["scores"]["south"]["candidate"] > answer["scores"]["south"]["base"]
    assert set(answer["seconds"]) == {
        "ingest",
        "rehearse",
        "importance",
        "train",
        "evaluate",
        "gate",
        "release",
    }


def test_run_twice_is_run_once(story: Path) -> None:
    events = command(story, "history")["events"]
    assert command(story, "update", "south") == command(story, "update", "south")
    assert command(story, "history")["events"] == events


def test_status_is_whole(story: Path) -> None:
    status = command(story, "status")
    assert status["deployed"] == "2"
    assert status["learnt"] == ["north", "east", "south"]
    assert status["due"] == ["west"]
    assert status["unfinished"] == []
    assert status["awaiting_approval"] == []
    assert status["consistent"] is True


@pytest.mark.parametrize("words", [["status"], ["history"], ["scores"], ["show", "2"]])
def test_on_call_is_not_kept_waiting(story: Path, words: list[str]) -> None:
    before = os.times().children_user
    assert clean_process(story, *words).returncode == 0
    # CPU seconds of the whole process: wall time would measure the other tests on this machine.
    assert os.times().children_user - before < 3


def test_quiet_may_stand_after_the_command(story: Path) -> None:
    command(story, "status")
    assert logging.getLogger("updater").level == logging.INFO
    command(story, "status", "--quiet")
    assert logging.getLogger("updater").level == logging.WARNING


def test_a_terminal_without_the_letters_is_no_failure(story: Path) -> None:
    main = "from updater.cli import main; main()"
    asked = ["history", "--workspace", str(story)]
    done = subprocess.run(
        [sys.executable, "-c", main, *asked],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")


def test_the_score_matrix_has_a_cell_for_every_version_and_learnt_period(story: Path) -> None:
    answer = command(story, "scores")
    assert answer["periods"][:3] == ["north", "east", "south"]
    assert all(len(row) == len(answer["periods"]) for row in answer["accuracy"])
    assert None not in answer["accuracy"][1][:3]


def test_evaluate_and_compare_answer_with_intervals(story: Path) -> None:
    scores = command(story, "evaluate", "2", "--periods", "north..south")["scores"]
    assert all(s["low"] <= s["accuracy"] <= s["high"] for s in scores.values())
    rows = command(story, "compare", "1", "2")["periods"]
    assert rows["south"]["difference"] > 0
    assert rows["south"]["low"] <= rows["south"]["difference"] <= rows["south"]["high"]


def test_the_report_and_the_export_are_whole(story: Path, tmp_path: Path) -> None:
    command(story, "report", "2", "-o", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<svg" in page
    assert "accepted" in page.lower()
    command(story, "export", "2", str(tmp_path / "model"))
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".ckpt", ".pkl")) for name in names)
    command(story, "export", "2", str(tmp_path / "model"), code=2)


def test_the_deployed_model_answers_through_mlflow_in_a_clean_process(story: Path) -> None:
    code = (
        "import json, mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/story@deployed')\n"
        "print(json.dumps(list(model.predict(['the old sand ?', 'my ice ?']))))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "MLFLOW_TRACKING_URI": f"sqlite:///{story}/mlflow.db"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(json.loads(done.stdout.splitlines()[-1])) == 2


def test_a_careless_update_is_rejected_and_changes_nothing_deployed(story: Path) -> None:
    careless = ("--set", "rehearsal.policy=none", "--set", "regularizer.method=none")
    answer = command(story, "update", "west", *careless)
    assert (answer["verdict"], answer["promoted"]) == ("rejected", False)
    assert command(story, "status")["deployed"] == "2"
    command(story, "update", "west", *careless, "--fail-on-reject", code=3)
    rejected = answer["candidate"]
    command(story, "promote", rejected, code=2)
    command(story, "promote", rejected, "--reason", "try", code=2)
    assert command(story, "status")["deployed"] == "2"


def test_manual_approval_waits_for_a_person(story: Path) -> None:
    answer = command(story, "update", "west", "--set", "gate.approval=manual")
    assert answer["verdict"] == "accepted"
    assert answer["promoted"] is False
    status = command(story, "status")
    assert status["awaiting_approval"] == [answer["update"]]
    approved = command(story, "approve", answer["update"], "--reason", "looked at the flips")
    assert approved == {"deployed": answer["candidate"], "previous": "2", "lapsed": [], "links": {}}
    again, _ = said(story, "update", "west", "--set", "gate.approval=manual")
    assert "UTC by " in again
    assert ": looked at the flips" in again
    assert command(story, "status")["awaiting_approval"] == []


def test_rollback_walks_the_history(story: Path) -> None:
    deployed = command(story, "status")["deployed"]
    assert command(story, "rollback", "--reason", "drill")["deployed"] == "2"
    assert command(story, "rollback", "--reason", "drill")["deployed"] == "1"
    command(story, "rollback", "--reason", "drill", code=2)
    command(story, "promote", deployed, "--reason", "back again", "--force")
    assert command(story, "status")["deployed"] == deployed
    assert command(story, "status")["consistent"] is True


BAD = [
    (["update", "no-such-period"], "no-such-period"),
    (["step", "no-such-step", "--update", "x"], "rehearse"),
    (["step", "train"], "--update"),
    (["show", "99"], "99"),
    (["promote", "99", "--reason", "r"], "99"),
    (["rollback", "--to", "99", "--reason", "r"], "99"),
    (["approve", "nothing", "--reason", "r"], "nothing"),
    (["evaluate", "1", "--periods", "nowhere"], "nowhere"),
    (["adopt", "nowhere", "--periods", "north"], "nowhere"),
    (["status", "--set", "gate.margin_fraction=7"], "margin_fraction"),
    (["status", "--set", "training.epochs=many"], "epochs"),
    (["status", "--set", "traning.epochs=1"], "training"),
    (["ingest", "west", "--set", "source.uri=gone.jsonl"], "gone.jsonl"),
    (["report", "2", "-o", "nowhere/page.html"], "nowhere"),
    (["report", "2", "-o", ""], "--output"),
    (["status", "--set", "training.epochs=99999999999999999999"], "at most 2147483647"),
    (["statsu"], "status"),
    (["scratch", "--periods", "north", "--set", "model.architecture=nope"], "nope"),
    (["scratch", "--periods", "north", "--set", "model.tokenizer=gone"], "gone"),
    (["update", "west", "--set", "training.nodes=2"], "rendezvous"),
]


@pytest.mark.parametrize(("words", "named"), BAD, ids=lambda v: " ".join(v)[:40])
def test_bad_input_is_one_clear_line_and_exit_2(
    story: Path, words: list[str], named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = command(story, "history")["events"], command(story, "periods")
    assert run(["--workspace", str(story), *words]) == 2
    captured = capfd.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert named in lines[0]
    assert "Traceback" not in captured.err
    assert (command(story, "history")["events"], command(story, "periods")) == before


def test_all_steps_of_an_update_run_by_the_settings_that_it_was_opened_with(story: Path) -> None:
    command(story, "rollback", "--reason", "so that west is new again")
    opened = command(story, "step", "ingest", "--period", "west", "--set", "training.seed=7")
    command(story, "step", "rehearse", "--update", opened["update"], code=2)
    command(story, "step", "rehearse", "--update", opened["update"], "--set", "training.seed=7")


@pytest.fixture
def new_west(story: Path) -> Path:
    """The story's workspace with version 2 deployed, so that west is not learnt."""
    if command(story, "status")["deployed"] != "2":
        command(story, "promote", "2", "--reason", "west is to be new again", "--force")
    return story


MANUAL = ("update", "west", "--set", "gate.approval=manual")


def test_yes_promotes_what_is_accepted_where_a_person_would_be_asked(new_west: Path) -> None:
    answer = command(new_west, *MANUAL, "--set", "training.seed=1", "--yes")
    assert (answer["verdict"], answer["promoted"]) == ("accepted", True)
    status = command(new_west, "status")
    assert (status["deployed"], status["awaiting_approval"]) == (answer["candidate"], [])


def test_yes_promotes_an_accepted_update_that_waits_already(new_west: Path) -> None:
    words = (*MANUAL, "--set", "training.seed=2")
    waits = command(new_west, *words)
    assert (waits["verdict"], waits["promoted"]) == ("accepted", False)
    answer = command(new_west, *words, "--yes")
    assert answer["decision"].pop("reason") == "accepted by the gate; approved by --yes"
    assert answer == {**waits, "promoted": True, "decision": answer["decision"]}
    status = command(new_west, "status")
    assert (status["deployed"], status["awaiting_approval"]) == (answer["candidate"], [])


FORGETFUL = ("--set", "rehearsal.policy=none", "--set", "regularizer.method=none")
STRICT = ("--set", "gate.margin_fraction=0.001")  # on 50 examples nothing can be told so sharply


@pytest.mark.parametrize(
    ("words", "verdict"), [(FORGETFUL, "rejected"), (STRICT, "review")], ids=["rejected", "review"]
)
def test_yes_promotes_nothing_that_is_not_accepted(
    new_west: Path, words: tuple[str, ...], verdict: str
) -> None:
    for _ in range(2):  # an update that is judged now, and the same when it has been judged
        answer = command(new_west, *MANUAL, *words, "--yes")
        assert (answer["verdict"], answer["promoted"]) == (verdict, False)
        status = command(new_west, "status")
        assert status["deployed"] == "2"
        waits = answer["update"] in status["awaiting_approval"]
        assert waits == (verdict == "review")


def test_a_period_without_a_holdout_is_refused_and_opens_no_update(
    new_west: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [command(new_west, name) for name in ("status", "periods", "history")]
    words = ["update", "west", "--set", "periods.holdout_fraction=1e-9"]
    assert run(["--workspace", str(new_west), "--quiet", *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("updater: period west: ")
    assert "0 held out. a period must have holdout examples." in line
    assert line.endswith("raise periods.holdout_fraction, or take longer periods.")
    assert [command(new_west, name) for name in ("status", "periods", "history")] == before


def test_ctrl_c_in_training_is_one_line_and_the_same_command_goes_on(new_west: Path) -> None:
    words = ("update", "west", "--set", "training.seed=3", "--set", "training.epochs=12")
    unfinished = set(command(new_west, "status")["unfinished"])
    # Where the tests themselves run in a shell's background, Ctrl-C is ignored and stays so.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from updater.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--workspace", str(new_west), "--quiet", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not list(new_west.glob("runs/west-*/training/*")):  # the state after 20 steps
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    # The empty line is click's: a terminal shows ^C before it.
    assert err == "\nupdater: interrupted; run the same command to go on\n"
    status = command(new_west, "status")
    assert status["deployed"] == "2"
    (interrupted,) = set(status["unfinished"]) - unfinished
    # On more devices, as where another machine has to do.
    elsewhere = ("--set", "training.devices=2", "--set", "training.strategy=ddp")
    answer = command(new_west, *words, *elsewhere)
    assert answer["update"] == interrupted
    assert (answer["verdict"], answer["promoted"]) == ("accepted", True)
    import mlflow

    workspace = Workspace.open(new_west)
    version = workspace.ledger.model_version(answer["candidate"])
    run = mlflow.MlflowClient(workspace.mlflow_uri).get_run(version.run_id)
    assert run.data.tags["training/devices"] == "2"
    assert set(command(new_west, "status")["unfinished"]) == unfinished


def cut(path: Path) -> Path:
    """The file has lost its second half."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    return path


def test_outcomes_cut_short_are_measured_again_and_say_the_same(story: Path) -> None:
    before = command(story, "compare", "1", "2")
    digests = [command(story, "show", version)["digest"] for version in ("1", "2")]
    files = [story / "outcomes" / f"{digest[:16]}-south@v1.parquet" for digest in digests]
    whole = [path.read_bytes() for path in files]
    for path in files:
        cut(path)
    assert command(story, "compare", "1", "2") == before
    assert [path.read_bytes() for path in files] == whole
    cut(files[0])  # of a period that version 1 has not learnt, and that is not asked for
    command(story, "evaluate", "1", "--periods", "north")
    assert [path.read_bytes() for path in files] == whole


def test_files_cut_short_between_the_steps_stop_or_change_no_update(new_west: Path) -> None:
    """A cache is made again; data and outcomes are asked for, with a cure that works."""
    settings = ("--set", "training.seed=4")
    opened = command(new_west, "step", "ingest", "--period", "west", *settings)
    step = ("--update", opened["update"], *settings)
    command(new_west, "step", "rehearse", *step)
    name = command(new_west, "step", "importance", *step)["digest"]
    cache = new_west / "cache" / "importance" / f"{name}.safetensors"
    estimated = cache.read_bytes()

    cut(new_west / "data" / "north" / "train.parquet")
    err = complaint(new_west, "step", "train", *step, code=2)
    assert "the content of north@v1 is not whole" in err
    assert "ingest the period again" in err
    assert command(new_west, "ingest", "north")["dataset_version"] == "north@v1"
    cut(cache)
    assert "removed and estimated again" in complaint(new_west, "step", "train", *step, code=0)
    assert cache.read_bytes() == estimated
    candidate = command(new_west, "step", "train", *step)["version"]

    command(new_west, "step", "evaluate", *step)
    digest = command(new_west, "show", candidate)["digest"]
    cut(new_west / "outcomes" / f"{digest[:16]}-north@v1.parquet")
    err = complaint(new_west, "step", "gate", *step, code=1)
    assert f"`updater evaluate {candidate}` measures it again" in err
    command(new_west, "evaluate", candidate)
    assert command(new_west, "step", "gate", *step)["verdict"] == "accepted"


def complaint(folder: Path, *arguments: str, code: int) -> str:
    """What is on the stderr of a command that ends with this exit code, as one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run(["--workspace", str(folder), "--quiet", *arguments]) == code
    assert "Traceback" not in err.getvalue()
    assert "a defect" not in err.getvalue()
    return " ".join(err.getvalue().split())
