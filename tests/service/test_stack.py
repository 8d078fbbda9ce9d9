"""The service of docker-compose.yml, driven as its users would, from the schedule to the rollback.

Its services run as processes (tests/helpers/stack.py). What is not ours is real: PostgreSQL, Redis,
Airflow with its logins, Celery, MLflow with its logins, S3's protocol.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from engine import Engine
from pages import script
from runbook import Section, shell
from stack import Api, Stack, missing_programs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

THIS_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
PAIRS = (
    {"snow": "ski", "frost": "coat", "ice": "skate"},
    {"sand": "towel", "palm": "shade", "wave": "board"},
)
CONFIG = """
[workspace]
name = "tickets"
[model]
architecture = "tiny.json"
vocabulary_size = 320
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text} ?"
completion = " {answer}"
date = "{date}"
[periods]
every = "month"
schedule = "0 0 1 * *"
holdout_fraction = 0.3
[rehearsal]
fraction = 0.5
[regularizer]
num_examples = 16
[training]
epochs = 60
batch_size = 16
learning_rate = 5e-3
checkpoint_every_steps = 20
[scratch]
epochs = 10
learning_rate = 5e-3
[gate]
margin_fraction = 0.2
approval = "manual"
"""


def month(ago: int) -> str:
    """The month that is so many before the present one."""
    day = THIS_MONTH
    for _ in range(ago):
        day = (day - timedelta(days=1)).replace(day=1)
    return day.strftime("%Y-%m")


def rows(num_per_month: int = 160) -> Iterator[dict[str, str]]:
    """Short texts around a keyword of their month; the answer is what goes with the keyword."""
    for ago, pairs in zip((2, 1), PAIRS, strict=True):
        for number in range(num_per_month):
            keyword = list(pairs)[number % 3]
            yield {
                "id": f"{ago}-{number}",
                "date": f"{month(ago)}-{1 + number % 28:02d}",
                "text": f"{keyword} number {number}",
                "answer": pairs[keyword],
            }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_json: str) -> Iterator[Stack]:
    """All services up but the GPU worker, with one workspace whose first model knows the month
    before last: by the first commands of docs/compose.md, in their order."""
    missing = missing_programs()
    if missing:
        said = f"needs {', '.join(missing)}"
        pytest.fail(said) if os.environ.get("CI") == "true" else pytest.skip(said)
    stack = Stack(
        tmp_path_factory.mktemp("stack"),
        environ={
            "UPDATER_DAG_RETRY_SECONDS": "1",
            "UPDATER_DAG_START": THIS_MONTH.date().isoformat(),
        },
        more={
            # Of what a person would wait minutes for, a test waits seconds.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        },
    )
    try:
        folder = stack.folder / "workspaces" / "model"
        folder.mkdir()
        (folder / "tiny.json").write_text(tiny_json)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        (stack.folder / "updater.toml").write_text(CONFIG)
        stores = ("postgres", "redis", "objectstore", "mlflow", "setup")
        # Airflow comes later, lest its schedule asks for an update before there is a model.
        engine = Engine(stack, (*stores, "gpu-worker"))
        secrets, check, start = script("compose.md", "Start it").splitlines()
        assert secrets.startswith("make env ")  # the stack has made its own
        assert check == "make compose-check"  # of .env, which the stack has not: tests/deploy
        engine.script(start, stack.folder)
        first = script("compose.md", "A workspace").replace("2026-01", month(2))
        engine.script(first, stack.folder)
        assert "gpu-worker" in stack.running
        stack.halt("gpu-worker")
        names = [n for n in stack.services if n.startswith("airflow-")]
        stack.up(*names, "cpu-worker", "release-worker")
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack)


def run_of(api: Api, dag: str) -> str:
    """The path of the DAG's one run, once there is one."""
    end = time.monotonic() + 120
    while not (found := api.ask("GET", f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]):
        assert time.monotonic() < end, "the scheduler has made no run"
        time.sleep(1)
    assert len(found) == 1
    return f"/api/v2/dags/{dag}/dagRuns/{found[0]['dag_run_id']}"


def alias(stack: Stack, password: str = "") -> str:
    """The version that MLflow's alias `deployed` points to."""
    name, password = "updater", password or stack.environ["MLFLOW_PASSWORD"]
    request = urllib.request.Request(
        stack.url(5000, "/api/2.0/mlflow/registered-models/alias?name=tickets&alias=deployed"),
        headers={
            "Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        },
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return str(json.load(answer)["model_version"]["version"])


def test_there_is_no_import_error_and_only_gpu_workers_have_torch(stack: Stack, api: Api) -> None:
    assert api.ask("GET", "/api/v2/importErrors")["total_entries"] == 0
    assert "No module named 'torch'" in stack.execute(
        "cpu-worker", "python", "-c", "try:\n import torch\nexcept ImportError as e: print(e)"
    )
    stack.execute("gpu-worker", "python", "-c", "import torch")
    with pytest.raises(AssertionError, match="doctor can't run here: torch is not installed"):
        stack.execute("cpu-worker", "updater", "doctor", "--model", str(stack.folder))


def test_a_task_whose_message_is_lost_is_cleared_as_the_runbook_says(
    stack: Stack, api: Api
) -> None:
    """The message is what the GPU worker would have taken, and goes before there is a worker."""
    run = run_of(api, "model_update")
    api.wait(f"{run}/taskInstances/importance", "queued", seconds=240)
    redis = ("redis", "redis-cli", "-p", str(stack.ports[6379]))
    end = time.monotonic() + 60
    while stack.execute(*redis, "llen", "gpu") != "1\n":
        assert time.monotonic() < end, "the task was not sent"
        time.sleep(0.5)
    assert stack.execute(*redis, "del", "gpu") == "1\n"
    stack.start("gpu-worker")
    stack.wait("gpu-worker")
    time.sleep(3)
    assert api.ask("GET", f"{run}/taskInstances/importance")["state"] == "queued"
    with Section("A task stays queued", RUN=run.rpartition("/")[2], TASK="importance") as section:
        environ = {"AIRFLOW": stack.url(8080), "TOKEN": api.token, "NO_PROXY": "*"}
        cleared = json.loads(section.run("curl", stack.folder, environ=environ))
        assert [one["task_id"] for one in cleared["task_instances"]] == ["importance"]
    api.wait(f"{run}/taskInstances/importance", "success", seconds=240)


def test_a_worker_is_killed_in_mid_training_and_the_scheduled_update_still_completes(
    stack: Stack, api: Api
) -> None:
    run = run_of(api, "model_update")
    api.wait(f"{run}/taskInstances/train", "running", seconds=240)
    update = api.ask("GET", f"{run}/taskInstances/ingest/xcomEntries/return_value")["value"]
    update = (json.loads(update) if isinstance(update, str) else update)["update"]
    saved = stack.folder / "workspaces" / "model" / "runs" / update
    end = time.monotonic() + 60
    while not list(saved.rglob("training.safetensors")):
        assert time.monotonic() < end, sorted(saved.rglob("*"))
        time.sleep(0.05)
    stack.running["gpu-worker"].kill()
    assert api.ask("GET", f"{run}/taskInstances/train")["state"] == "running"
    stack.start("gpu-worker")  # as `restart: unless-stopped` does
    waiting = api.wait(f"{run}/taskInstances/approval", "awaiting_input", seconds=300)
    assert waiting["state"] == "awaiting_input"
    train = api.ask("GET", f"{run}/taskInstances/train")
    assert train["try_number"] >= 2
    first = stack.updater("status")
    assert first["awaiting_approval"] == [update]


def test_a_person_approves_and_the_alias_moves(stack: Stack, api: Api) -> None:
    run = run_of(api, "model_update")
    api.wait(f"{run}/taskInstances/approval", "awaiting_input", seconds=60)
    before = stack.updater("status")["deployed"]
    assert alias(stack) == before
    detail = f"{run}/taskInstances/approval/-1/hitlDetails"
    asked = api.ask("GET", detail)
    assert f"| {month(2)} |" in asked["body"]
    assert f"| {month(1)} |" in asked["body"]
    answer = {"chosen_options": ["Approve"], "params_input": {"reason": "looks good"}}
    api.ask("PATCH", detail, answer)
    api.wait(run, "success", seconds=120)
    status = stack.updater("status")
    assert status["deployed"] not in (before, None)
    assert status["consistent"]
    assert alias(stack) == status["deployed"]
    promoted = stack.updater("history")["events"][-1]
    assert promoted["kind"] == "promoted"
    assert promoted["actor"] == "admin"
    assert "looks good" in promoted["reason"]


def test_on_call_rolls_back_by_its_dag(stack: Stack, api: Api) -> None:
    """By the commands of docs/runbook.md: the API, later Airflow's command line."""
    before = stack.updater("status")["deployed"]
    runs = "/api/v2/dags/model_rollback/dagRuns"
    with Section("Roll back by Airflow") as section:
        asked = "\n".join([section.take("TOKEN="), section.take("curl")])
        login = {"NAME": "admin", "PASSWORD": stack.environ["AIRFLOW_ADMIN_PASSWORD"]}
        environ = {"AIRFLOW": stack.url(8080), "NO_PROXY": "*", **login}
        made = json.loads(shell(asked, stack.folder, environ=environ))
        by_hand = section.take("airflow")
    first = made["dag_run_id"]
    api.wait(f"{runs}/{first}", "success", seconds=180)
    status = stack.updater("status")
    assert status["deployed"] != before
    assert alias(stack) == status["deployed"]
    last = stack.updater("history")["events"][-1]
    assert (last["kind"], last["actor"]) == ("rolled_back", "admin")
    assert last["reason"] == "wrong answers since noon"
    back = ("promote", before, "--reason", "it was right after all", "--force")
    stack.updater(*back)
    assert alias(stack) == before
    stack.execute("airflow-dag-processor", "bash", "-c", by_hand)
    (second,) = {r["dag_run_id"] for r in api.ask("GET", runs)["dag_runs"]} - {first}
    api.wait(f"{runs}/{second}", "success", seconds=180)
    assert alias(stack) == status["deployed"]
    stack.updater(*back)
    assert alias(stack) == before


def test_what_was_learnt_is_in_the_object_store_and_not_in_the_workspace(stack: Stack) -> None:
    def keys(bucket: str) -> list[str]:
        import boto3

        store: Any = boto3.client(
            "s3",
            endpoint_url=stack.url(8333),
            aws_access_key_id="updater",
            aws_secret_access_key="any",
            region_name="us-east-1",
        )
        return [one["Key"] for one in store.list_objects_v2(Bucket=bucket)["Contents"]]

    assert any(key.endswith("model.safetensors") for key in keys("checkpoints"))
    assert all(key.startswith("tickets/") for key in keys("checkpoints") + keys("datasets"))
    assert any(key.endswith("report.html") for key in keys("artifacts"))
    kept = stack.folder / "workspaces" / "model" / "checkpoints"
    assert list(kept.rglob("*.safetensors")) == []


def test_a_wrong_password_is_a_clear_error_and_the_command_can_be_run_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        alias(stack, "wrong")
    before = stack.updater("status")["deployed"]
    with monkeypatch.context() as patched:
        environment = stack.services["updater"]["environment"]
        patched.setitem(environment, "MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(AssertionError, match="refused the sign-in"):
            stack.updater("rollback", "--reason", "a test")
    assert alias(stack) == before
    back = stack.updater("rollback", "--reason", "a test")
    assert back["previous"] == before
    status = stack.updater("status")
    assert status["deployed"] == back["deployed"] == alias(stack)
    assert status["consistent"]


def test_setup_may_run_again(stack: Stack, api: Api) -> None:
    stack.run("setup")
    assert Api(stack).ask("GET", "/api/v2/pools/gpu")["slots"] == 64


def test_mlflows_pages_may_ask_by_the_address_of_the_environment_and_no_others(
    stack: Stack,
) -> None:
    login = f"updater:{stack.environ['MLFLOW_PASSWORD']}"
    origins = {stack.services["mlflow"]["environment"]["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]: 200}
    for origin, wanted in (origins | {"https://elsewhere.example": 403}).items():
        words = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
        ask = ["--user", login, "--header", f"Origin: {origin}", "--header"]
        ask += ["Content-Type: application/json", "--data", '{"experiment_ids": ["0"]}']
        url = stack.url(5000, "/api/2.0/mlflow/runs/search")
        assert stack.execute("updater", "curl", *words, *ask, url) == str(wanted), origin


def test_secrets_are_changed_as_the_security_guide_says(stack: Stack) -> None:
    """The logins of people and of the service, and the databases' passwords; not those for which
    all of Airflow starts again, which takes a minute. And setup says no secret."""
    before = stack.updater("status")["deployed"]
    logins = ("MLFLOW_ADMIN_PASSWORD", "AIRFLOW_ADMIN_PASSWORD", "MLFLOW_PASSWORD")
    old = stack.change(*logins)
    new = [stack.environ[name] for name in logins]
    with pytest.raises(AssertionError, match="is not the one that it was first started") as refused:
        stack.run("setup")
    said = str(refused.value)
    assert [secret for secret in (*old.values(), *new) if secret in said] == []
    block = script("security.md", "Change a secret")
    asked = block.replace("http://localhost:5000", stack.url(5000))
    given = f"{old['MLFLOW_ADMIN_PASSWORD']}\n{stack.environ['MLFLOW_ADMIN_PASSWORD']}\n"
    said = stack.execute("updater", "bash", "-c", asked, given=given)
    assert said.strip() == "{}"
    said = stack.run("setup")
    assert [secret for secret in new if secret in said] == []
    assert Api(stack).ask("GET", "/api/v2/pools/gpu")["name"] == "gpu"
    assert alias(stack) == before
    with pytest.raises(urllib.error.HTTPError, match="401"):
        alias(stack, old["MLFLOW_PASSWORD"])

    databases = [name for name in stack.environ if name.endswith("_DATABASE_PASSWORD")]
    stack.change("LEDGER_PASSWORD", *databases, "MLFLOW_SECRET_KEY")
    with pytest.raises(AssertionError, match="password"):
        stack.updater("status")
    stack.make_databases()
    stack.halt("mlflow")  # as `docker compose up` does, which starts it with the new ones
    stack.up("mlflow")
    status = stack.updater("status")
    assert (status["deployed"], status["consistent"]) == (before, True)
    worker, scheduler = (
        stack.services[name]["environment"] for name in ("cpu-worker", "airflow-scheduler")
    )
    for url in (
        worker["AIRFLOW__CELERY__RESULT_BACKEND"].removeprefix("db+"),
        scheduler["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", ""),
    ):
        assert stack.execute("postgres", "psql", url, "-Atc", "select 1") == "1\n"
