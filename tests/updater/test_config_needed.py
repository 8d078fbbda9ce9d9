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


def test_the_name_above_all_sections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        config.load_needed(written(tmp_path, f'name = "other"\n{RIGHT}'), NEEDED, environ={})
