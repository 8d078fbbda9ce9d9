"""The releasing commands where a store has lost something: exit code, one line, the ledger."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest

from store.checkpoints import Checkpoints
from store.errors import StoreError
from store.ledger import Ledger, migrate
from updater import release
from updater.cli import run
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "m"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{label}"
period = "{period}"
[periods]
order = ["a"]
"""
WHY = ("--reason", "drill")


@pytest.fixture
def workspace(tmp_path: Path, mlflow_tables, story_of: Callable) -> Workspace:
    """Versions 1 and 2 were deployed one after the other, and 3 waits for a person."""
    (tmp_path / "updater.toml").write_text(CONFIG)
    made = Workspace.open(tmp_path)
    migrate(made.ledger_url)
    story = story_of(made.ledger)
    for version, base, verdict in (
        ("1", None, "accepted"),
        ("2", "1", "accepted"),
        ("3", "2", "review"),
    ):
        (tmp_path / f"model-{version}").mkdir()
        (tmp_path / f"model-{version}" / "weights").write_text(version)
        digest = made.checkpoints.add(tmp_path / f"model-{version}")
        update = story.update(f"u-{version}", base).id
        story.version(version, base, update=update, digest=digest)
        story.judge(update, verdict)
        if verdict == "accepted":
            assert run(["--workspace", str(tmp_path), "promote", version, *WHY]) == 0
            story.step(update, "release", {"promoted": True, "awaiting": False})
    story.step("u-3", "release", {"promoted": False, "awaiting": True})
    return made


def kinds(ledger: Ledger) -> list[tuple[str, str | None]]:
    return [(event.kind, event.version) for event in ledger.events() if event.kind != "verified"]


def said(capfd: pytest.CaptureFixture[str], workspace: Workspace, *words: str, code: int) -> str:
    """The one line on stderr of a command that ends with this exit code."""
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), *words]) == code
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_no_release_waits_for_what_is_told_beside_it(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_ledger: object) -> list[str]:
        raise StoreError("it can't be told")

    monkeypatch.setattr(release, "awaiting_approval", refuse)
    assert run(["--workspace", str(workspace.root), "rollback", *WHY]) == 0
    assert "Version 1 is deployed" in capfd.readouterr().out


def test_a_lost_mlflow_does_not_say_that_nothing_was_changed(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / "mlflow.db").unlink()
    for words in (["rollback", *WHY], ["promote", "1", *WHY], ["status", "--repair"]):
        line = said(capfd, workspace, *words, code=1)
        assert "version 1 is deployed by the ledger" in line
        assert "restored from its backup" in line
    assert kinds(workspace.ledger)[-1] == ("rolled_back", "1")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1", ["rollback", *WHY]),
        ("1", ["rollback", "--dry-run", *WHY]),
        ("1", ["promote", "1", "--dry-run", "--force", *WHY]),
        ("1", ["rollback", "--to", "1", *WHY]),
        ("1", ["promote", "1", "--force", *WHY]),
        ("3", ["approve", "u-3", *WHY]),
    ],
)
@pytest.mark.parametrize("lost", ["folder", "weights"])
def test_what_has_no_checkpoint_is_not_deployed(
    workspace: Workspace,
    capfd: pytest.CaptureFixture[str],
    version: str,
    words: list[str],
    lost: str,
) -> None:
    before = kinds(workspace.ledger)
    digest = workspace.ledger.model_version(version).digest
    folder = workspace.root / "checkpoints" / digest
    if lost == "weights":
        (folder / "weights").unlink()
    else:
        rmtree(folder)
    line = said(capfd, workspace, *words, code=2)
    assert line.startswith(f"updater: the checkpoint of version {version}")
    assert f"restore {folder.as_uri()} from a copy" in line
    assert ("version 2 stays so; no other" in line) == (words[0] == "rollback")
    assert kinds(workspace.ledger) == before
    assert workspace.aliases.get("deployed") == "2"


@pytest.mark.parametrize("lost", ["folder", "weights", "manifest"])
@pytest.mark.parametrize("words", [("--to", "2"), (), ("--dry-run",)])
def test_a_rollback_onto_a_lost_checkpoint_names_a_way_back_that_is_whole(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], lost: str, words: tuple[str, ...]
) -> None:
    assert answer(capfd, workspace, "promote", "3", "--force", *WHY)["deployed"] == "3"
    folder = workspace.root / "checkpoints" / workspace.ledger.model_version("2").digest
    if lost == "folder":
        rmtree(folder)
    else:
        path = folder / {"weights": "weights", "manifest": "MANIFEST.json"}[lost]
        path.chmod(0o644)
        path.write_text("")
    line = said(capfd, workspace, "rollback", *words, *WHY, code=2)
    assert line.startswith("updater: the checkpoint of version 2")
    assert "version 3 stays so. `updater rollback --to 1 --reason TEXT` deploys" in line
    assert answer(capfd, workspace, "status")["deployed"] == "3"
    assert answer(capfd, workspace, "rollback", "--to", "1", *WHY)["deployed"] == "1"


def test_a_dry_rollback_names_its_target_and_changes_nothing(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    before = kinds(workspace.ledger)
    assert answer(capfd, workspace, "rollback", "--dry-run", *WHY) == {
        "deployed": "2",
        "target": "1",
        "after": workspace.ledger.last_release().id,
    }
    assert "never deployed" in said(
        capfd, workspace, "rollback", "--dry-run", "--to", "3", *WHY, code=2
    )
    assert kinds(workspace.ledger) == before
    assert workspace.aliases.get("deployed") == "2"


def test_going_to_the_dry_runs_target_twice_goes_no_further_back(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the DAG does whose task is tried again."""
    assert answer(capfd, workspace, "promote", "3", "--force", *WHY)["deployed"] == "3"
    target = answer(capfd, workspace, "rollback", "--dry-run", *WHY)["target"]
    assert target == "2"
    for _ in range(2):
        answer(capfd, workspace, "rollback", "--to", target, *WHY)
    assert kinds(workspace.ledger)[-2:] == [("promoted", "3"), ("rolled_back", "2")]


@pytest.mark.parametrize(
    "asked", [("rollback", "--to", "1"), ("promote", "1", "--force")], ids=lambda asked: asked[0]
)
def test_a_release_during_a_dry_run_is_not_undone_by_what_follows_it(
    workspace: Workspace,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str, ...],
) -> None:
    """Somebody promotes while the dry run looks at the target's checkpoint."""
    look = Checkpoints.quick_check

    def slow_look(checkpoints: Checkpoints, digest: str) -> None:
        look(checkpoints, digest)
        monkeypatch.undo()
        release.promote(
            workspace.ledger, workspace.aliases, "3", actor="ann", reason="mine", force=True
        )

    monkeypatch.setattr(Checkpoints, "quick_check", slow_look)
    after = answer(capfd, workspace, *asked, "--dry-run", *WHY)["after"]
    assert "ann has promoted version 3" in said(
        capfd, workspace, *asked, "--after", str(after), *WHY, code=1
    )
    assert release.deployed(workspace.ledger) == "3"


def test_a_rollback_that_was_cut_short_is_its_own_target(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its event is there, its alias has not followed: it is finished, not walked past."""
    workspace.ledger.append_release(
        "rolled_back", "1", expected_deployed="2", actor="a", reason="drill"
    )
    assert answer(capfd, workspace, "rollback", "--dry-run", *WHY)["target"] == "1"


def test_what_can_be_approved_no_more_is_named(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], story_of: Callable
) -> None:
    """Of several that wait on one base, whoever approves one has decided the others."""
    story = story_of(workspace.ledger)
    digest = workspace.ledger.model_version("3").digest
    for version in ("4", "5"):
        update = story.update(f"u-{version}", "2").id
        story.version(version, "2", update=update, digest=digest)
        story.judge(update, "review")
        story.step(update, "release", {"promoted": False, "awaiting": True})
    assert answer(capfd, workspace, "status")["awaiting_approval"] == ["u-3", "u-4", "u-5"]
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), "approve", "u-4", *WHY]) == 0
    first, told, *_ = capfd.readouterr().out.splitlines()
    assert first == "Version 4 is deployed (was 2)"
    assert told.startswith("2 updates that waited can be approved no more, as long as version 2 is")
    assert "u-3 (version 3), u-5 (version 5). Compare: `updater compare 4 VERSION`" in told
    assert answer(capfd, workspace, "approve", "u-4", *WHY)["lapsed"] == []
    assert answer(capfd, workspace, "rollback", *WHY)["lapsed"] == []
    assert answer(capfd, workspace, "status")["awaiting_approval"] == ["u-3", "u-5"]
    assert answer(capfd, workspace, "promote", "3", "--force", *WHY)["lapsed"] == ["u-5"]
    answer(capfd, workspace, "rollback", *WHY)
    assert answer(capfd, workspace, "rollback", *WHY)["lapsed"] == ["u-5"]


def test_status_says_by_which_release_the_deployed_version_came(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    answer(capfd, workspace, "rollback", *WHY)
    last = workspace.ledger.events()[-1]
    found = answer(capfd, workspace, "status")["release"]
    assert found["event"] == last.id
    assert (found["kind"], found["version"], found["previous"]) == ("rolled_back", "1", "2")
    assert (found["update"], found["period"], found["reason"]) == (None, None, "drill")
    assert run(["--workspace", str(workspace.root), "status"]) == 0
    line = next(x for x in capfd.readouterr().out.splitlines() if x.startswith("release"))
    at = str(found["at"]).replace("T", " ").removesuffix("+00:00")
    assert line.split(None, 1)[1].strip() == f"rolled back at {at} UTC by {last.actor}: drill"


def answer(
    capfd: pytest.CaptureFixture[str], workspace: Workspace, *words: str
) -> dict[str, object]:
    """The JSON of a command that is done."""
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), "--json", *words]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_what_is_deployed_already_is_said_and_nothing_changed(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """An alias that had not followed is moved all the same, and that is said too."""
    before = kinds(workspace.ledger)
    assert run(["--workspace", str(workspace.root), "status", "--repair"]) == 0
    words = ["--workspace", str(workspace.root), "promote", "2", *WHY]
    told = []
    for shown in ("2", "1", None):
        if shown is not None:
            workspace.aliases.set("deployed", shown)
        capfd.readouterr()
        assert run(words if shown is not None else [*words, "--json"]) == 0
        told.append(capfd.readouterr().out.splitlines()[-1])
    assert told == [
        "Version 2 is deployed already; nothing was changed",
        "Version 2 is deployed already; MLflow's aliases follow now",
        '{"deployed": "2", "previous": "1", "lapsed": [], "links": {}}',
    ]
    assert kinds(workspace.ledger) == before
    assert workspace.aliases.get("deployed") == "2"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1", ["rollback", *WHY]),
        ("3", ["promote", "3", "--force", *WHY]),
        ("3", ["approve", "u-3", *WHY]),
        ("3", ["reject", "u-3", *WHY]),
    ],
)
def test_mlflows_pages_of_the_version_are_named(
    workspace: Workspace,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    words: list[str],
) -> None:
    monkeypatch.setenv("UPDATER_STORE_MLFLOW_PAGE", "http://m")
    page = f"http://m/#/models/m/versions/{version}"
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), *words]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert f"MLflow, model: {page}" in shown[1:]
    if words[0] != "rollback":  # again, and it would walk further back
        links = answer(capfd, workspace, *words)["links"]
        assert isinstance(links, dict)
        assert links["model"] == page


def test_what_is_broken_in_the_configuration_elsewhere_stops_no_release(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """At 3 a.m. nobody should first have to mend what somebody else wrote about training."""
    path = workspace.root / "updater.toml"
    path.write_text(f"{CONFIG}[training]\nepochs = -1\n")
    broken = ["--workspace", str(workspace.root), "--json"]
    assert run([*broken, "due"]) == 2
    for words in (["rollback", *WHY], ["promote", "2", *WHY], ["history"], ["show", "2"]):
        capfd.readouterr()
        assert run([*broken, *words]) == 0, words
        (line,) = capfd.readouterr().err.splitlines()
        assert f"{path}: [training] epochs = -1. must" in line
        assert "goes on" in line
    assert kinds(workspace.ledger)[-2:] == [("rolled_back", "1"), ("promoted", "2")]
    assert workspace.aliases.get("deployed") == "2"


def test_a_file_that_is_no_toml_stops_no_release(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stores can be told from the rest of it, or are given in the environment."""
    path = workspace.root / "updater.toml"
    path.write_text(f"{CONFIG}[training]\nepochs =\n")
    said(capfd, workspace, "due", code=2)
    for words in (["rollback", *WHY], ["history"], ["show", "2"], ["status"]):
        line = said(capfd, workspace, *words, code=2 if words == ["status"] else 0)
        assert f"{path} is not TOML: " in line
        assert line.endswith("needs only [workspace] and [store], and goes on")
    assert kinds(workspace.ledger)[-1] == ("rolled_back", "1")
    path.write_text("<html>\n")
    line = said(capfd, workspace, "promote", "2", *WHY, code=2)
    names = line.removesuffix(".").rpartition("in the environment: ")[2].split(", ")
    values = ("m", "sqlite:///store.db", "sqlite:///mlflow.db", "checkpoints")
    for name, value in zip(names, values, strict=True):
        monkeypatch.setenv(name, value)
    said(capfd, workspace, "promote", "2", *WHY, code=0)
    assert kinds(workspace.ledger)[-1] == ("promoted", "2")
    assert workspace.aliases.get("deployed") == "2"


def test_what_is_wrong_is_said_once(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    path = workspace.root / "updater.toml"
    for wrong in ("[training]\nepochs = -1\n", "[gate]\nconfidence = 7\n[training]\nepoks = 3\n"):
        path.write_text(CONFIG.replace('order = ["a"]', "order = 3") + wrong)
        line = said(capfd, workspace, "status", code=2)
        assert line.count("[periods] order = 3") == 1


def test_the_status_is_shown_where_the_periods_are_wrong(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    path = workspace.root / "updater.toml"
    path.write_text(CONFIG.replace('order = ["a"]', 'order = ["a"]\nevery = "month"'))
    assert run(["--workspace", str(workspace.root), "status", "--json"]) == 2
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (found["deployed"], found["due"]) == ("2", None)
    assert run(["--workspace", str(workspace.root), "status"]) == 2
    assert "not known: mend the configuration" in capfd.readouterr().out
    assert "exactly one of the two" in said(capfd, workspace, "due", code=2)


def test_a_mistake_about_the_stores_is_refused(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    path = workspace.root / "updater.toml"
    path.write_text(f'{CONFIG}[training]\nepochs = -1\n[store]\nurll = "sqlite:///x.db"\n')
    before = kinds(workspace.ledger)
    line = said(capfd, workspace, "rollback", *WHY, code=2)
    assert "[store] urll is unknown" in line
    assert "epochs" not in line
    assert kinds(workspace.ledger) == before


def test_a_piped_history_is_not_as_wide_as_its_longest_reason(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = " ".join(f"word{n}" for n in range(60))
    answer(capfd, workspace, "rollback", "--reason", reason)
    assert run(["--workspace", str(workspace.root), "history"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    first = next(n for n, line in enumerate(lines) if "rolled_back" in line)
    told = " ".join(" ".join(lines[first:]).split())
    assert told.endswith(reason.split(" ", 20)[-1])
    assert all(word in told for word in reason.split())


def test_a_piped_status_has_a_line_for_each_that_waits_and_no_blanks_at_its_end(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], story_of: Callable
) -> None:
    story = story_of(workspace.ledger)
    update = story.update("u-4", "2").id
    story.version("4", "2", update=update, digest=workspace.ledger.model_version("3").digest)
    story.judge(update, "review")
    story.step(update, "release", {"promoted": False, "awaiting": True})
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), "status"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    at = next(n for n, line in enumerate(lines) if line.startswith("awaiting approval"))
    assert lines[at].endswith("  u-3 (version 3)")
    assert lines[at + 1].strip() == "u-4 (version 4)"


def test_a_dry_promotion_of_what_is_deployed_says_so(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert run(["--workspace", str(workspace.root), "promote", "2", "--dry-run", *WHY]) == 0
    told = capfd.readouterr().out
    assert told.startswith("Version 2 is deployed already; a promotion would change nothing but")


def test_what_was_deployed_before_comes_back_by_a_rollback(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(capfd, workspace, "promote", "1", *WHY, code=2)
    assert "version 1 was made from nothing, but version 2 is deployed" in line
    assert "it was deployed before: `updater rollback --to 1 --reason TEXT` deploys it" in line
    assert "`updater promote 1 --reason TEXT --force` overrides this" in line
    assert answer(capfd, workspace, "rollback", "--to", "1", *WHY)["deployed"] == "1"
