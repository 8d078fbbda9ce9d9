"""What is so of all DAG files: they are thin, load anywhere and fast, have a set of DAGs for each
workspace, and one workspace that is broken takes no other's away."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import script

DAGS = Path(__file__).resolve().parents[2] / "dags"
FILES = sorted(DAGS.rglob("*.py"))
DOCS = (DAGS.parent / "docs" / "airflow.md").read_text("utf-8")
COMMANDS = re.findall(r"^ +(airflow .*)$", DOCS, re.MULTILINE)
KINDS = ("model_announcement", "model_promote", "model_rollback", "model_study", "model_update")
ON_DATA = ("model_data", "model_data_partition")
SOUND = '[workspace]\nname = "{}"\n[periods]\nevery = "month"\nschedule = "0 3 1 * *"\n'
# Name of a broken workspace -> its updater.toml, and what its DAGs say.
BROKEN = {
    "no_toml": ("[periods\n", "is not valid TOML"),
    "no_text": ("[periods]\nschedule = 5\n", "[periods] schedule = 5: must be a text"),
    "no_cron": ('[periods]\nschedule = "99 99 * * *"\n', "[periods] schedule = '99 99 * * *': "),
    "no_zone": ('[periods]\ntime_zone = "Mars/X"\n', "time_zone = 'Mars/X': no such time zone"),
    "no_table": ("gate = 5\n", "gate = 5: it must be a table"),
    "no_number": ("[gate]\napproval_timeout_seconds = true\n", "must be a whole number"),
    "no_file": (None, "can't be read"),
}
LISTED = {  # key -> its table in the list, and what its DAGs say
    "one": ('folder = "{0}/tickets"\ndata_asset = "tickets s3://lake/tickets"', ""),
    "other": ('folder = "{0}/news"', ""),
    "typo": ('folder = "{0}/news"\nnotfy = ""', "notfy is unknown"),
    "nowhere": ("", "folder is missing"),
    "wrong": ("folder = 5", "every value must be a text in quotes"),
    "late": ('folder = "{0}/news"\nstart = "May"', "start = 'May' is no date"),
}

PERIODS = ["2026-04", "juin-été", "juin-ete", "{{ x }}", "p" * 200]
STARTED = [
    [[{"period": period} for period in PERIODS], None],
    [[{}], "eu west|2026-04"],
    [[{}], "a..b"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Workspaces, sound and broken, and a list of some."""
    made = tmp_path_factory.mktemp("workspaces")
    texts = {"tickets": SOUND.format("tickets"), "news": SOUND.format("news")}
    for name, text in {**texts, **{name: text for name, (text, _) in BROKEN.items()}}.items():
        (made / name).mkdir()
        if text is not None:
            (made / name / "updater.toml").write_text(text)
    tables = [f"[{key}]\n{text.format(made)}\n" for key, (text, _) in LISTED.items()]
    (made / "list.toml").write_text("".join(tables))
    (made / "broken.toml").write_text("[a\n")
    (made / "twin").mkdir()
    shutil.copytree(made / "news", made / "twin" / "news")
    return made


@pytest.fixture(scope="module")
def seen(make_airflow, tmp_path_factory, folder):
    """The DAGs of a list of folders, of a list in TOML, of a broken list, of no workspace, and with
    numbers and notifiers that are none."""
    names = ["tickets", *BROKEN, "news", "twin/news"]
    environments = [
        {"UPDATER_WORKSPACES": ":".join(str(folder / name) for name in names)},
        {
            "UPDATER_WORKSPACES": str(folder / "list.toml"),
            "UPDATER_DAG_NOTIFY": "slack-webhook:hook",
        },
        {"UPDATER_WORKSPACES": str(folder / "broken.toml")},
        {"UPDATER_WORKSPACES": "", "UPDATER_DAG_RETRIES": "many", "UPDATER_DAG_NOTIFY": "smtp:x"},
        {
            "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "model_update.other",
            "UPDATER_WORKSPACES": str(folder / "list.toml"),
        },
    ]
    asked = {
        "commands": COMMANDS,
        "environments": environments,
        "cases": {"answers": [], "questions": [], "started": STARTED},
    }
    return make_airflow(tmp_path_factory.mktemp("seen")).ask("inspect_dag.py", asked)


def test_the_files_import_airflow_and_the_standard_library_only():
    roots = set()
    for node in (node for file in FILES for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(node.module.split(".")[0])
            if node.module.startswith("airflow"):
                assert node.module.startswith(("airflow.sdk", "airflow.providers.standard"))
    assert roots - set(sys.stdlib_module_names) == {"airflow", "updater_dags"}


def test_the_docs_name_every_variable_task_and_dag_and_only_commands_that_airflow_takes(seen):
    assert len(COMMANDS) >= 6  # that Airflow takes them, `seen` has found out
    text = "".join(file.read_text() for file in FILES)
    variables = set(re.findall(r"UPDATER_[A-Z_]+[A-Z]", text)) - {"UPDATER_DAG", "UPDATER"}
    assert len(variables) >= 11
    assert variables == {name for name in variables if f"| `{name}` |" in DOCS}
    dags = {name.partition(".")[0]: dag for name, dag in seen["parsed"][1].items()}
    del dags["errors"]
    assert set(dags) == {*KINDS, *ON_DATA}
    for name, dag in dags.items():
        assert f"`{name}`" in DOCS
        for task in dag["tasks"]:
            assert re.search(rf"^\| (.*, )?{task}\b|\*\*{task}\*\*", DOCS, re.MULTILINE), task


def test_no_torch_is_imported_to_parse_them(seen):
    assert seen["torch"] is False


def test_a_set_of_dags_for_each_folder_whatever_is_wrong_with_others(seen):
    parsed = seen["parsed"][0]
    assert parsed["errors"] == {}
    keys = ["tickets", *BROKEN, "news", "news_2"]
    assert set(parsed) == {"errors", *(f"{kind}.{key}" for kind in KINDS for key in keys)}
    for key in ("tickets", "news"):
        update = parsed[f"model_update.{key}"]
        assert update["cron"] == "0 3 1 * *"
        assert update["tags"] == sorted([key, "updater"])
        assert parsed[f"model_announcement.{key}"]["assets"] == [f"x-updater://{key}/deployed"]
    for key, (_, said) in BROKEN.items():
        for kind in KINDS:
            dag = parsed[f"{kind}.{key}"]
            assert said in dag["description"]
            assert "misconfigured" in dag["tags"]
    assert "are both called news" in parsed["model_update.news_2"]["description"]


def test_a_list_in_toml_gives_each_its_key_and_its_options(seen):
    parsed = seen["parsed"][1]
    assert parsed["errors"] == {}
    assert {f"{kind}.one" for kind in (*KINDS, *ON_DATA)} <= set(parsed)
    assert "model_data.other" not in parsed
    for key, (_, said) in LISTED.items():
        dag = parsed[f"model_update.{key}"]
        assert ("misconfigured" in dag["tags"]) is bool(said)
        assert said in dag["description"]
    (outlet,) = parsed["model_announcement.one"]["assets"]
    assert outlet == "x-updater://one/deployed"


def test_a_broken_list_leaves_one_set_that_says_so(seen):
    parsed = seen["parsed"][2]
    assert set(parsed) == {"errors", *KINDS}
    assert "broken.toml can't be read" in parsed["model_update"]["description"]


def test_a_wrong_number_or_notifier_takes_no_dag_away(seen):
    parsed = seen["parsed"][3]
    assert parsed["errors"] == {}
    dag = parsed["model_update"]
    assert "UPDATER_DAG_RETRIES=many: it must be a number" in dag["description"]
    assert "notifier smtp:x: it must be smtp:CONNECTION:TO" in dag["description"]
    assert dag["tasks"]["train"]["retries"] == 3
    assert dag["tasks"]["train"]["on_failure"] == []


def test_a_worker_makes_the_dag_of_its_task_alone(seen):
    assert set(seen["parsed"][4]) == {"errors", "model_update.other"}


def test_whatever_fails_is_told(seen):
    for kind in (*KINDS, *ON_DATA):
        for name, task in seen["parsed"][1][f"{kind}.one"]["tasks"].items():
            told = [] if name == "released" else ["SlackWebhookNotifier"]  # it does nothing itself
            assert task["on_failure"] == told, (kind, name)


def test_a_period_of_any_name_gives_a_run_an_id_that_airflow_takes(seen):
    named, *partitions = seen["functions"]["started"]
    assert [run["conf"] for run in named] == [{"period": period} for period in PERIODS]
    at = "2026-05-01T00:00:00+00:00"
    assert named[0]["id"] == f"data__2026-04__{at}"
    assert named[2]["id"] == f"data__juin-ete__{at}"
    assert len({run["id"] for run in named}) == len(PERIODS)
    assert max(len(run["id"]) for run in named) < 100
    keys = [run["conf"] for (run,) in partitions]
    assert keys == [{"partition": "eu west|2026-04"}, {"partition": "a..b"}]


def test_a_study_has_as_many_tasks_at_a_time_as_the_pool_has_slots(seen):
    parsed = seen["parsed"][1]
    for name in ("model_promote", "model_rollback", "model_study"):
        assert parsed[f"{name}.other"]["paused"] is False
    assert parsed["model_update.other"]["paused"] is None  # as Airflow is told
    assert parsed["model_study.other"]["max_active_tasks"] == 1024
    assert parsed["model_update.other"]["max_active_tasks"] == 16  # Airflow's default


def test_forms_ask_for_a_reason_and_gpu_tasks_are_on_the_pool(seen):
    parsed = seen["parsed"][1]
    for kind in ("model_promote", "model_rollback"):
        reason = parsed[f"{kind}.other"]["params"]["reason"]
        assert reason["schema"] == {**reason["schema"], "type": "string", "pattern": r"\S"}
        assert reason["value"] == "NOTSET"
    study = parsed["model_study.other"]["tasks"]
    assert study["arm"]["mapped"] is True
    assert {name: task["pool"] for name, task in study.items()} == {
        "plan": "default_pool",
        "first": "gpu",
        "arm": "gpu",
        "report": "gpu",
    }
    assert study["arm"]["queue"] == "gpu"
    settings = parsed["model_update.other"]["params"]["settings"]["schema"]["items"]["pattern"]
    assert re.search(settings, "training.epochs=2")
    assert not re.search(settings, "gate.margin_fraction=1")


def test_airflow_has_no_import_errors_wherever_the_folder_is_copied(airflow, folder, tmp_path):
    shutil.copytree(DAGS, tmp_path / "dags" / "models" / "updater")
    environ = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "UPDATER_WORKSPACES": f"{folder / 'tickets'}:{folder / 'no_cron'}",
    }
    airflow.run("dags", "reserialize", **environ)
    listed = airflow.run("dags", "list-import-errors", "-o", "json", **environ)
    assert listed.splitlines()[-1] == "[]", listed
    output = airflow.run("dags", "list", "-o", "json", **environ)
    found = json.loads(output[output.index("[{") :].splitlines()[0])
    assert {dag["dag_id"] for dag in found} == {
        f"{kind}.{key}" for kind in KINDS for key in ("tickets", "no_cron")
    }


@pytest.mark.parametrize("fault", ["", "import no_such_module"])
def test_the_check_of_the_docs_fails_where_a_dag_file_cannot_be_imported(airflow, tmp_path, fault):
    shutil.copytree(DAGS, tmp_path / "dags")
    if fault:
        path = tmp_path / "dags" / "model_update.py"
        path.write_text(f"{path.read_text()}\n{fault}\n")
    environ = {**airflow.environ, "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags")}
    airflow.run("pools", "set", "gpu", "1", "a test")
    done = subprocess.run(
        ["bash", "-c", script("install.md", "Check Airflow")],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (not fault), done.stderr
    assert not fault or "no_such_module" in done.stderr


def test_the_check_of_the_docs_fails_where_the_pool_is_missing(airflow):
    typed = script("install.md", "Check Airflow")
    done = subprocess.run(["bash", "-c", typed], env=airflow.environ, check=False)
    assert done.returncode == 1
