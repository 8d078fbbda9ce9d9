"""docker-compose.yml keeps its rules, and the check would notice if it did not."""

import copy
import os
import re
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compose_check import misshapen
from compose_file import COMPOSE, WITHOUT_GPU, MissingError, load, parsed
from compose_rules import defaults, devices, problems
from env_check import faults
from env_file import variables
from requirements_of import requirements
from secrets_file import asked, completed, made

DEPLOY = COMPOSE.parent / "deploy"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return load({name: made(name) for name in asked()})


def checked(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=DEPLOY
    )


def test_the_file_breaks_no_rule() -> None:
    done = checked("compose_check.py")
    assert (done.returncode, done.stderr) == (0, "docker-compose.yml: 13 services, no problem\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["redis"].update(image="redis"), "redis: image redis is not pinned"),
        (lambda s: s["redis"].update(image="redis:latest"), "is not pinned"),
        (lambda s: s["mlflow"].pop("user"), "mlflow: runs as root"),
        (lambda s: s["mlflow"].update(user="0:0"), "mlflow: runs as root"),
        (lambda s: s["cpu-worker"].update(read_only=False), "cpu-worker: its file system"),
        (lambda s: s["postgres"].pop("cap_drop"), "postgres: keeps capabilities"),
        (lambda s: s["postgres"].pop("healthcheck"), "postgres: has no health check"),
        (lambda s: s["postgres"].pop("healthcheck"), "setup: waits for the health of postgres"),
        (lambda s: s["mlflow"]["deploy"]["resources"].pop("limits"), "has no limit of memory"),
        (
            lambda s: s["mlflow"]["deploy"]["resources"]["limits"].pop("cpus"),
            "mlflow: has no limit of cpus",
        ),
        (lambda s: s["mlflow"].update(ports=["5000:5000"]), "is open beyond this machine"),
        (lambda s: s["mlflow"].update(ports=["0.0.0.0:5000:5000"]), "is open beyond this machine"),
        (lambda s: s["mlflow"]["build"].update(target="other"), "has no target other"),
        (
            lambda s: s["setup"]["depends_on"].update(x={"condition": "a"}),
            "waits for x, which is no",
        ),
        (lambda s: s["redis"].update(volumes=["lost:/data"]), "volume lost is not declared"),
        (
            lambda s: s["redis"].update(volumes=["./deploy/lost.sh:/a:ro"]),
            "redis: ./deploy/lost.sh does not exist",
        ),
        (
            lambda s: s["cpu-worker"]["volumes"].append("/var/run/docker.sock:/s:ro"),
            "cpu-worker: /var/run/docker.sock:/s:ro: of the machine only files of deploy/",
        ),
        (lambda s: s["redis"]["volumes"].append("./deploy:/a"), "./deploy:/a: of the machine only"),
        (
            lambda s: s["redis"]["volumes"].append("./deploy/../.env:/a:ro"),
            "./deploy/../.env:/a:ro: of the machine only",
        ),
        (
            lambda s: s["postgres"]["volumes"].pop(0),
            "postgres: has volumes at nowhere, not /var/lib/postgresql/data",
        ),
        (
            lambda s: s["cpu-worker"].pop("volumes"),
            "cpu-worker: has volumes at nowhere, not /logs and /workspaces",
        ),
        (
            lambda s: s["airflow-apiserver"]["volumes"].append("workspaces:/workspaces"),
            "airflow-apiserver: has volumes at /logs and /workspaces, not /logs",
        ),
        (
            lambda s: s["airflow-dag-processor"].update(
                volumes=["workspaces:/workspaces", "logs:/logs"]
            ),
            "airflow-dag-processor: has volumes at /logs and /workspaces, not /logs and /works",
        ),
        (lambda s: s["redis"].pop("security_opt"), "redis: may get more rights than it starts"),
        (
            lambda s: s["redis"].update(
                security_opt=["no-new-privileges:true", "seccomp:unconfined"]
            ),
            "redis: may get more rights than it starts",
        ),
        (lambda s: s["gpu-worker"].update(command=[]), "gpu-worker: has no command"),
        (lambda s: s["cpu-worker"].pop("command"), "cpu-worker: has no command"),
        (lambda s: s["updater"].pop("entrypoint"), "updater: has no entrypoint"),
        (lambda s: s["cpu-worker"].pop("restart"), "restart is None, not unless-stopped"),
        (lambda s: s["setup"].update(restart="unless-stopped"), "setup: restart is unless-stopped"),
        (lambda s: s["mlflow"].pop("depends_on"), "mlflow: needs postgres and does not wait"),
        (lambda s: s["setup"]["depends_on"].pop("mlflow"), "setup: needs mlflow and does not wait"),
        (lambda s: s["airflow-apiserver"].pop("depends_on"), "airflow-apiserver: needs setup and"),
        (
            lambda s: s["cpu-worker"].update(
                depends_on={"setup": {"condition": "service_completed_successfully"}}
            ),
            "cpu-worker: needs airflow-apiserver and does not wait",
        ),
        (
            lambda s: s["postgres"].update(depends_on={"setup": {"condition": "service_healthy"}}),
            "services wait for each other: ",
        ),
    ],
)
def test_a_broken_rule_is_named(whole: dict[str, Any], change: Change, said: str) -> None:
    changed = copy.deepcopy(whole)
    change(changed["services"])
    assert any(said in problem for problem in problems(changed))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s["redis"].update(healtcheck={}),
            r"services.redis: .*'healtcheck' was unexpected",
        ),
        (lambda s: s["redis"].update(tmpfs=3), "services.redis.tmpfs: 3 is not of type"),
        (
            lambda s: s["setup"]["depends_on"]["redis"].update(condition="healthy"),
            "services.setup.depends_on.redis.condition: 'healthy' is not one of",
        ),
        (
            lambda s: s["redis"]["deploy"]["resources"]["limits"].update(ram="1g"),
            "services.redis.deploy.resources.limits: .*'ram' was unexpected",
        ),
    ],
)
def test_what_is_not_of_the_format_is_named(
    whole: dict[str, Any], change: Change, said: str
) -> None:
    assert list(misshapen(whole)) == []
    changed = copy.deepcopy(whole)
    change(changed["services"])
    assert any(re.search(said, problem) for problem in misshapen(changed))


def test_on_a_machine_without_a_gpu_none_is_asked_for_and_all_else_is_the_same() -> None:
    given = {name: made(name) for name in asked()}
    with_gpu, without = load(given), load(given, over=WITHOUT_GPU)
    assert list(devices(with_gpu)) == ["gpu-worker: asks for a device"]
    assert list(devices(without)) == []
    had, has = (whole["services"]["gpu-worker"] for whole in (with_gpu, without))
    limits = had.pop("deploy")["resources"]["limits"]
    assert has.pop("deploy") == {"resources": {"limits": limits | {"cpus": "4"}}}
    number = had["entrypoint"].index("1")
    had["entrypoint"][number] = "0"
    assert with_gpu == without


@pytest.mark.parametrize("digits", ["1" * 40, "1f" * 20])
def test_a_login_is_no_address_of_a_service(digits: str) -> None:
    """`updater` is both."""
    given = {name: made(name) for name in asked()} | {"LEDGER_PASSWORD": digits}
    assert list(problems(load(given))) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("URL: redis://:secret@redis:6379/0", "URL: a password is written down in a URL"),
        ("URL: postgresql://airflow:secret@postgres/x", "URL: a password is written down in a URL"),
        ("PGPASSWORD: secret", "PGPASSWORD is written down, or may be empty"),
        ("API__SECRET_KEY: abc", "API__SECRET_KEY is written down, or may be empty"),
        ("TOKEN: abc", "TOKEN is written down, or may be empty"),
        ("TOKEN: 123", "TOKEN is written down, or may be empty"),
        ("REDISCLI_AUTH: abc", "REDISCLI_AUTH is written down, or may be empty"),
        ("a: {environment: {TOKEN: abc}}", "TOKEN is written down, or may be empty"),
        ("A_PASSWORD: ${A_PASSWORD}", "A_PASSWORD is written down, or may be empty"),
        ("A_PASSWORD: ${A_PASSWORD:-easy}", "A_PASSWORD has a default"),
        ("A_PASSWORD: ${A_PASSWORD-easy}", "A_PASSWORD has a default"),
        ("URL: redis://:${A_PASSWORD-easy}@redis:6379/0", "A_PASSWORD has a default"),
        ("A: $NAME", "A: a variable in a form that this check does not know"),
        ("A: ${NAME?}", "A: a variable in a form that this check does not know"),
    ],
)
def test_a_secret_that_is_written_down_or_has_a_default_is_named(line: str, said: str) -> None:
    assert said in list(defaults(parsed(line)))


@pytest.mark.parametrize(
    "line",
    [
        "URL: postgresql://airflow:${X:?y}@postgres/x",
        "URL: http://objectstore:8333",
        "A_PASSWORD: ${A_PASSWORD:?run `make env`}",
        "A: ${NAME:-plain} $$(hostname)",
    ],
)
def test_what_is_no_secret_or_is_asked_for_is_none_of_them(line: str) -> None:
    assert list(defaults(parsed(line))) == []


WORKERS = {"cpu-worker", "release-worker", "gpu-worker"}
COMMANDS = {*WORKERS, "updater"}
AIRFLOWS = {f"airflow-{name}" for name in ("apiserver", "scheduler", "dag-processor", "triggerer")}
HOLDERS = {
    "POSTGRES_PASSWORD": {"postgres"},
    "LEDGER_PASSWORD": {"postgres", *COMMANDS},
    "MLFLOW_PASSWORD": {"setup", *COMMANDS},
    "OBJECT_STORE_PASSWORD": {"objectstore", "mlflow", "setup", *COMMANDS},
    "MLFLOW_DATABASE_PASSWORD": {"postgres", "mlflow"},
    "MLFLOW_ADMIN_PASSWORD": {"mlflow", "setup"},
    "MLFLOW_SECRET_KEY": {"mlflow"},
    "AIRFLOW_ADMIN_PASSWORD": {"setup"},
    "AIRFLOW_DATABASE_PASSWORD": {"postgres", "setup", *AIRFLOWS},
    "AIRFLOW_FERNET_KEY": {"setup", *AIRFLOWS},
    "AIRFLOW_JWT_SECRET": {"airflow-apiserver", "airflow-scheduler"},
    "AIRFLOW_SECRET_KEY": {"airflow-apiserver"},
    "CELERY_DATABASE_PASSWORD": {"postgres", "airflow-scheduler", *WORKERS},
    "REDIS_PASSWORD": {"redis", "airflow-scheduler", *WORKERS},
}
"""Of each secret, who needs it: docs/security.md."""


def test_a_service_has_the_secrets_that_it_needs_and_no_other(given: dict[str, str]) -> None:
    services = load(given)["services"]
    told = {name: str(service) for name, service in services.items()}
    assert {
        secret: {name for name, text in told.items() if value in text}
        for secret, value in given.items()
    } == HOLDERS


@pytest.mark.parametrize("name", asked())
def test_nothing_starts_without_each_secret(name: str) -> None:
    given = {other: made(other) for other in asked()} | {name: ""}
    with pytest.raises(MissingError, match=f"{name} is not set: run `make env`"):
        load(given)


def test_the_secrets_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert checked("secrets_file.py", str(path)).returncode == 0
    first = variables(path.read_text())
    assert list(first) == asked()
    assert len(set(first.values())) == len(first)
    assert all(len(value) >= 40 for value in first.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("LISTEN=0.0.0.0\n# mine\nLEDGER_PASSWORD=\nREDIS_PASSWORD=kept")
    assert "13 added, 1 kept" in checked("secrets_file.py", str(path)).stderr
    again = variables(path.read_text())
    assert again["REDIS_PASSWORD"] == "kept"
    assert again["LISTEN"] == "0.0.0.0"
    assert len(again) == len(first) + 1
    assert path.read_text().splitlines()[:2] == ["LISTEN=0.0.0.0", "# mine"]


@pytest.mark.parametrize("empty", ["", " ", '""', "''", " # later", "\nREDIS_PASSWORD="])
def test_a_secret_that_is_empty_is_made_on_its_own_line(empty: str) -> None:
    text, num_made = completed(f"# Redis's\nREDIS_PASSWORD={empty}\n# end\n")
    lines = text.splitlines()
    assert num_made == len(asked())
    assert (lines[0], lines[2]) == ("# Redis's", "# end")
    assert len([line for line in lines if line.startswith("REDIS_PASSWORD")]) == 1
    assert list(faults(variables(text))) == []
    assert completed(text) == (text, 0)


def test_a_secret_whose_last_line_is_empty_is_missing_as_it_is_for_compose() -> None:
    text, _ = completed("REDIS_PASSWORD=first-0123456789abcdef\nREDIS_PASSWORD=\n")
    assert "first" not in variables(text)["REDIS_PASSWORD"]


@pytest.fixture
def given() -> dict[str, str]:
    return {name: made(name) for name in asked()}


OWN = "correct.horse-battery_staple~7"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LEDGER_PASSWORD", "", "is missing or empty. Nothing starts without it. Run `make env`"),
        ("LEDGER_PASSWORD", "changeme-changeme-now", "is still a placeholder"),
        ("LEDGER_PASSWORD", "YOUR_PASSWORD_FOR_THE_LEDGER", "is still a placeholder"),
        ("LEDGER_PASSWORD", "x" * 48, "is still a placeholder"),
        ("LEDGER_PASSWORD", "Tr0ub4dor", "has 9 letters. It has to have 16 at least"),
        ("AIRFLOW_JWT_SECRET", OWN[:24], "has 24 letters. It has to have 32 at least"),
        ("AIRFLOW_FERNET_KEY", "ab" * 24, "is no Fernet key. It is 32 random bytes in URL-safe"),
        *(
            ("REDIS_PASSWORD", f"{OWN}{letter}", "has a letter that means something else in a URL")
            for letter in "@/:#%?$&+ \\é"
        ),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_with_its_cure_and_not_shown(
    given: dict[str, str], name: str, value: str, said: str
) -> None:
    (fault,) = faults(given | {name: value})
    assert fault.startswith(f"{name} {said}")
    assert "`make env`" in fault
    assert not value or value not in fault


def test_passwords_of_ones_own_and_a_fernet_key_with_its_old_one_are_taken(
    given: dict[str, str],
) -> None:
    pair = f"{made('AIRFLOW_FERNET_KEY')},{made('AIRFLOW_FERNET_KEY')}"
    assert list(faults(given | {"LEDGER_PASSWORD": OWN, "AIRFLOW_FERNET_KEY": pair})) == []


def test_the_check_looks_at_the_file_and_at_the_shell_as_compose_does(
    tmp_path: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    missing = checked("compose_check.py", str(path))
    assert missing.returncode == 1
    assert ".env: there is no such file" in missing.stderr
    text = "".join(f"{name}={value}\n" for name, value in given.items())
    path.write_text(text.replace("LEDGER_PASSWORD=", "LEDGER_PASSWORD=a@"))
    done = checked("compose_check.py", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith(".env: LEDGER_PASSWORD has a letter that means something else")
    assert given["LEDGER_PASSWORD"] not in done.stderr
    monkeypatch.setenv("LEDGER_PASSWORD", OWN)
    assert checked("compose_check.py", str(path)).returncode == 0
    monkeypatch.setenv("LEDGER_PASSWORD", "")
    assert "LEDGER_PASSWORD is missing" in checked("compose_check.py", str(path)).stderr


@pytest.mark.parametrize(
    ("file", "service"), [("service.Dockerfile", "cpu-worker"), ("gpu.Dockerfile", "gpu-worker")]
)
def test_a_search_can_be_run_and_more_be_asked_for(
    given: dict[str, str], file: str, service: str
) -> None:
    """In both: the GPU worker's image runs a search, and the other opens the update."""
    variable = {"cpu-worker": "SERVICE_EXTRAS", "gpu-worker": "GPU_EXTRAS"}[service]
    found = re.findall(r'^ARG EXTRAS="(.*)"$', (COMPOSE.parent / file).read_text(), re.MULTILINE)
    for environ, wanted in ((given, found), (given | {variable: "a b"}, ["a b"])):
        build = load(environ)["services"][service]["build"]
        assert build["dockerfile"] == file
        assert [build["args"]["EXTRAS"]] == wanted
    assert any(line.startswith("optuna") for line in requirements(found[0].split()))


def test_the_images_without_a_gpu_install_nothing_that_trains(whole: dict[str, Any]) -> None:
    extras = whole["services"]["cpu-worker"]["build"]["args"]["EXTRAS"].split()
    done = checked("requirements_of.py", *extras, "server")
    assert "apache-airflow==3.3.2" in done.stdout.splitlines()
    core = ("torch", "lightning", "transformers", "peft", "tokenizers", "safetensors", "mamba-ssm")
    assert not [line for line in done.stdout.splitlines() if line.startswith(core)]
    with pytest.raises(SystemExit, match="nothing is no extra"):
        requirements(["nothing"])


def test_every_pinned_version_that_is_repeated_is_the_same() -> None:
    """The GPU image installs by the lock without its torch, which it has to have itself."""
    root = COMPOSE.parent
    lock = (root / "requirements.lock").read_text().splitlines()
    torch = next(line for line in lock if line.startswith("torch=="))
    dockerfile = (root / "gpu.Dockerfile").read_text()
    assert f"pip install --no-cache-dir {torch}\n" in dockerfile
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    kernels = [line.partition(";")[0] for line in project["optional-dependencies"]["gpu"]]
    assert len(kernels) == 2
    assert [line for line in kernels if f"--no-build-isolation {line}" not in dockerfile] == []
    tags = re.findall(r"\$\{UPDATER_TAG:-([^}]*)\}", COMPOSE.read_text())
    assert set(tags) == {project["version"]}


def test_a_release_finds_room_beside_all_tasks_that_wait_for_a_gpu(whole: dict[str, Any]) -> None:
    """Airflow counts a task that was sent to Celery as one at work."""
    services = whole["services"]
    most = int(services["airflow-scheduler"]["environment"]["AIRFLOW__CORE__PARALLELISM"])
    assert most > int(services["setup"]["environment"]["GPU_SLOTS"]) + 100


def test_what_answers_and_what_does_not(unused_port: int) -> None:
    address = f"http://127.0.0.1:{unused_port}/"
    assert checked("answers.py", address).returncode == 1
    serve = [sys.executable, "-m", "http.server", str(unused_port), "--bind", "127.0.0.1"]
    with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 60
            while checked("answers.py", address).returncode:
                assert time.monotonic() < end
            assert checked("answers.py", f"{address}lost").returncode == 1
        finally:
            server.kill()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_scripts_can_be_run() -> None:
    for script in DEPLOY.glob("*.sh"):
        assert os.access(script, os.X_OK), script
        subprocess.run(["sh", "-n", str(script)], check=True)
