"""A configuration for a command that has to work whatever is wrong in sections it doesn't use."""

import logging
from pathlib import Path

import pytest

from updater import config
from updater.errors import InputError

RIGHT = """
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
NEEDED = ("workspace", "store")


def written(folder: Path, text: str) -> Path:
    (folder / "updater.toml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("[training]\nepochs = -1\n", "training] epochs = -1"),
        ('[training]\nepochs = "many"\n', "epochs"),
        ("[training]\nepoks = 3\n", "did you mean epochs"),
        ("[trainning]\nepochs = 3\n", "trainning"),
        ("[gate]\nconfidence = 7\n[rehearsal]\nfraction = 9\n", "2 things are wrong"),
        ('[rehearsal]\nstrata = "subject"\n', "rehearsal] strata"),  # between two sections
        ("training = 3\n", "it must be a table"),
    ],
)
def test_a_mistake_elsewhere_is_a_warning_that_names_it(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    named: str,
) -> None:
    folder = written(tmp_path, wrong + RIGHT if wrong.startswith("t") else RIGHT + wrong)
    with pytest.raises(InputError, match=r"updater\.toml"):
        config.load(folder, environ={})
    logger = logging.getLogger("updater")  # another test may have set up handlers of its own
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    settings = config.load_needed(folder, NEEDED, environ={})
    assert (settings.workspace.name, settings.store.url) == ("m", "sqlite:///store.db")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert named in record.getMessage()
    assert "needs only [workspace] and [store], and goes on" in record.getMessage()


def test_what_is_wrong_is_refused_once_it_is_used(tmp_path: Path) -> None:
    folder = written(tmp_path, f"{RIGHT}[training]\nepochs = -1\n")
    settings = config.load_needed(folder, NEEDED, environ={})
    assert settings.periods.order == ("a",)
    with pytest.raises(InputError, match="epochs = -1"):
        _ = settings.training


@pytest.mark.parametrize(
    "wrong",
    [
        '[store]\nurl = "mysql://x/y"\n',
        '[store]\nurll = "sqlite:///other.db"\n',
        '[stores]\nurl = "sqlite:///other.db"\n',
        '[database]\nurl = "sqlite:///other.db"\n',  # nobody can tell that no store is meant
        "[store]\nurl = 3\n",
        "[training]\nepochs = -1\n[store]\nurl = 3\n",
    ],
)
def test_a_mistake_in_a_section_that_is_needed_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InputError, match=r"url|store|database"):
        config.load_needed(written(tmp_path, RIGHT + wrong), NEEDED, environ={})


@pytest.mark.parametrize(
    "typed",
    ["training.epochs=-1", "training.epochs=x", "trainin.epochs=1", "rehearsal.strata=subject"],
)
def test_what_is_typed_is_obeyed_or_refused(tmp_path: Path, typed: str) -> None:
    with pytest.raises(InputError, match="--set"):
        config.load_needed(written(tmp_path, RIGHT), NEEDED, [typed], environ={})


def test_a_misspelt_variable_is_refused_where_its_section_is_needed(tmp_path: Path) -> None:
    folder = written(tmp_path, RIGHT)
    with pytest.raises(InputError, match="UPDATER_STORE_ULR"):
        config.load_needed(folder, NEEDED, environ={"UPDATER_STORE_ULR": "sqlite:///other.db"})
    config.load_needed(folder, NEEDED, environ={"UPDATER_TRAINING_EPOKS": "3"})


STORE = '[store]\nurl = "sqlite:///other.db"\n'
GIVEN = {
    "UPDATER_WORKSPACE_NAME": "m",
    "UPDATER_STORE_URL": "sqlite:///other.db",
    "UPDATER_STORE_MLFLOW_URI": "http://m",
    "UPDATER_STORE_CHECKPOINTS": "s3://b",
}


@pytest.mark.parametrize(
    "text",
    [
        f"{RIGHT}{STORE}[training]\nepochs = \n",
        f"{RIGHT}{STORE}[training]\nepochs = # as in the store before\n",
        f"{RIGHT}[training]\nepochs 3\n{STORE}[gate]\nconfidence = 7\n",
        f"{RIGHT}{STORE}[training]\nepochs = 3\n[training]\nepochs = 4\n",
        f"{RIGHT}[gate]\n<<<<<<< HEAD\n=======\n>>>>>>> theirs\n{STORE}",
        f'{RIGHT}[rehearsal]\npolicy = "none\n[ store ] # here\nurl = "sqlite:///other.db"\n',
    ],
)
def test_of_a_file_that_is_no_toml_what_is_needed_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    logger = logging.getLogger("updater")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    folder = written(tmp_path, text)
    with pytest.raises(InputError, match="is not TOML"):
        config.load(folder, environ={})
    settings = config.load_needed(folder, NEEDED, environ={})
    assert (settings.workspace.name, settings.store.url) == ("m", "sqlite:///other.db")
    (record,) = caplog.records
    assert "is not TOML" in record.getMessage()
    assert record.getMessage().endswith("needs only [workspace] and [store], and goes on")
    with pytest.raises(InputError, match="is not TOML"):
        _ = settings.periods  # it may not be what stands there


def test_a_store_that_no_torn_file_can_name_has_its_defaults(tmp_path: Path) -> None:
    folder = written(tmp_path, f"{RIGHT}[training]\nepochs = \n[gate]\n")
    assert config.load_needed(folder, NEEDED, environ={}).store.url == "sqlite:///store.db"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (f"{RIGHT}{STORE}mlflow_uri\n", ["store"]),
        (f"{RIGHT}{STORE.replace(']', '')}", ["store"]),
        (f"{RIGHT}[training]\nepochs =\n[sotre]\nurl = 'sqlite:///other.db'\n", ["store"]),
        (f"{RIGHT}{STORE}=======\n{STORE}", ["store"]),
        (f"{RIGHT}{STORE}{STORE}", ["store"]),
        (f"{RIGHT}[training]\nepo", ["store"]),  # cut short: what came after it?
        (f"= 3\n{RIGHT}", ["store"]),
        (f'store.url = "sqlite:///o.db\n{RIGHT}', ["store"]),
        (RIGHT.replace('"m"', '"m'), ["workspace"]),
        (RIGHT.replace("[workspace]", "[workspace"), ["workspace", "store"]),
        ("<html>\n", ["workspace", "store"]),
        ("\ufffe", ["workspace", "store"]),
    ],
)
def test_where_a_torn_file_may_name_another_store_it_has_to_be_given(
    tmp_path: Path, text: str, lost: list[str]
) -> None:
    folder = written(tmp_path, text)
    if text == "\ufffe":
        (folder / "updater.toml").write_bytes(RIGHT.encode("utf-16"))
    with pytest.raises(InputError, match=r"is not TOML|can't be read") as caught:
        config.load_needed(folder, NEEDED, environ={})
    message = str(caught.value)
    assert f"[{'] and ['.join(lost)}] can't be told" in message
    wanted = {name: value for name, value in GIVEN.items() if name.split("_")[1].lower() in lost}
    assert message.endswith(f"in the environment: {', '.join(wanted)}.")
    less = dict(list(wanted.items())[1:])
    with pytest.raises(InputError, match=next(iter(wanted))):
        config.load_needed(folder, NEEDED, environ=less)
    settings = config.load_needed(folder, NEEDED, environ=wanted)
    assert settings.workspace.name == "m"
    assert settings.store.url == ("sqlite:///other.db" if "store" in lost else "sqlite:///store.db")


def test_a_file_that_is_not_there_is_missing_whatever_is_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        config.load_needed(tmp_path, NEEDED, environ=GIVEN)


def test_the_name_above_all_sections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        config.load_needed(written(tmp_path, f'name = "other"\n{RIGHT}'), NEEDED, environ={})
