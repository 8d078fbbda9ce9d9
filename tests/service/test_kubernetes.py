"""deploy/kubernetes: sound YAML, no secret, hardened pods, names that agree, and the pods that
Airflow's own KubernetesExecutor makes of them. No cluster and no Helm chart was there in the tests;
docs/kubernetes.md tells what was tried by hand.
"""

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from updater.cli import app as frame
from updater.cli import main  # noqa: F401, loads the commands
from updater.config_keys import leaves, variable
from updater.settings import KubernetesSettings
from updater.settings.kubernetes import IMAGE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
PODS = ("pods/cpu", "pods/gpu", "pods/turn", "shell", "gpu-shell")
SECRET = re.compile(r"password|secret|token|key$", re.IGNORECASE)
PLAIN = {"HOME", "AIRFLOW_HOME", "GPU_SLOTS", "AIRFLOW_ADMIN_PASSWORD"}
"""No setting of ours or of Airflow's, and read: by the values' own commands, or by all."""
EXECUTOR = {"pod_template_file", "worker_container_repository", "worker_container_tag"}
DOCS = "".join((ROOT / "docs" / name).read_text() for name in ("airflow.md", "configuration.md"))


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


def leaves_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain value with the keys that lead to it."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves_of(one, (*path, str(key)))
    elif isinstance(value, list):
        for one in value:
            yield from leaves_of(one, path)
    else:
        yield path, value


def variables(value: Any) -> Iterator[dict[str, Any]]:
    """Every environment variable that is given."""
    if isinstance(value, dict):
        if value.get("kind") == "ConfigMap":
            yield from ({"name": name, "value": one} for name, one in value["data"].items())
        for key, one in value.items():
            if key == "env":
                yield from one
            yield from variables(one)
    elif isinstance(value, list):
        for one in value:
            yield from variables(one)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secret_stands_in_it(path: Path) -> None:
    whole = yaml.safe_load(path.read_text("utf-8"))
    for keys, value in leaves_of(whole):
        # The name of a Secret, or of a key in one, is none.
        if SECRET.search(keys[-1]) and keys[-1] not in ("secretName", "key"):
            assert isinstance(value, bool) or keys[-1].endswith("SecretName"), (keys, value)
    for one in variables(whole):
        if SECRET.search(one["name"]):
            assert set(one) == {"name", "valueFrom"}, one


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_one_that_something_reads(path: Path) -> None:
    settings = {variable(key) for key in leaves()}
    for one in variables(yaml.safe_load(path.read_text("utf-8"))):
        name = one["name"]
        known = name in PLAIN or name in settings or name.startswith("AWS_")
        assert known or f"`{name}`" in DOCS, name


def test_airflow_knows_every_option_that_the_values_set() -> None:
    found = importlib.util.find_spec("airflow")  # imported it would read this process's environment
    assert found is not None
    assert found.origin is not None
    described = Path(found.origin).parent / "config_templates" / "config.yml"
    options = yaml.safe_load(described.read_text("utf-8"))
    for section, values in read("airflow-values.yaml")["config"].items():
        known = EXECUTOR if section == "kubernetes_executor" else set(options[section]["options"])
        assert set(values) <= known, section


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_one_for_kubernetes(name: str) -> None:
    pod = read(f"{name}.yaml")
    packed = (ROOT / "tests" / "data" / "pytorchjob.schema.json.gz").read_bytes()
    schema = json.loads(gzip.decompress(packed))
    jsonschema.validate(pod["spec"], {"$ref": "#/$defs/V1PodSpec", "$defs": schema["$defs"]})
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    mounted = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_no_more_than_its_task(name: str) -> None:
    spec = read(f"{name}.yaml")["spec"]
    (container,) = spec["containers"]
    hardened(spec["securityContext"], container["securityContext"])
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["shareProcessNamespace"] is True
    assert container["name"] == "base"  # what Airflow's executor takes for the task's
    assert IMAGE.fullmatch(container["image"])
    assert container["resources"]["limits"]["memory"]
    assert not any("SQL_ALCHEMY" in one["name"] for one in container["env"])


def test_the_values_harden_every_container_of_airflow() -> None:
    values = read("airflow-values.yaml")
    hardened(values["securityContexts"]["pod"], values["securityContexts"]["containers"])
    image = f"{values['defaultAirflowRepository']}:{values['defaultAirflowTag']}"
    assert IMAGE.fullmatch(image)
    for part in ("scheduler", "dagProcessor", "triggerer", "apiServer"):
        assert values[part]["resources"]["limits"]["memory"]


def hardened(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["runAsNonRoot"]
    assert pod["runAsUser"] == KubernetesSettings().user_id
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"]
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_images_are_those_that_the_dockerfiles_make() -> None:
    """One version of all of them, and Airflow's as pyproject.toml pins it."""
    values, project = read("airflow-values.yaml"), (ROOT / "pyproject.toml").read_text("utf-8")
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    assert version is not None
    images = {name: read(f"{name}.yaml")["spec"]["containers"][0]["image"] for name in PODS}
    service = f"{values['defaultAirflowRepository']}:{values['defaultAirflowTag']}"
    assert service == f"registry.example/updater-service:{version[1]}"
    assert images["pods/cpu"] == images["pods/turn"] == images["shell"] == service
    heavy = f"registry.example/updater-gpu-worker:{version[1]}"
    assert images["pods/gpu"] == images["gpu-shell"] == heavy
    assert f'"apache-airflow=={values["airflowVersion"]}"' in project


def test_the_files_agree_on_names() -> None:
    """Volume, Secrets, and where the scheduler finds the pods' templates."""
    values, claim = read("airflow-values.yaml"), read("workspaces.yaml")
    assert claim["metadata"]["name"] == KubernetesSettings().volume_claim
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    given = read("dags.yaml")["data"]
    (mount,) = values["scheduler"]["extraVolumeMounts"]
    folder = Path(mount["mountPath"])
    assert values["config"]["kubernetes_executor"]["pod_template_file"] == str(folder / "cpu.yaml")
    assert given["UPDATER_DAG_GPU_POD_TEMPLATE"] == str(folder / "gpu.yaml")
    assert given["UPDATER_DAG_TURN_POD_TEMPLATE"] == str(folder / "turn.yaml")
    for name in PODS:
        (container,) = read(f"{name}.yaml")["spec"]["containers"]
        *_, last = container["envFrom"]
        assert last == {"secretRef": {"name": KubernetesSettings().secret}}
    everything = [values, *(read(f"{name}.yaml") for name in PODS)]
    claims = {value for keys, value in leaves_of(everything) if keys[-1] == "claimName"}
    assert claims == {claim["metadata"]["name"]}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("turn", ("metadata.annotations", "container.resources")),
        (
            "gpu",
            (
                *("container.image", "container.resources", "nodeSelector", "tolerations"),
                *("volumeMounts.shm", "volumes.shm"),
            ),
        ),
    ],
)
def test_a_pod_differs_from_that_of_cpu_in_what_it_is_for_alone(
    name: str, own: tuple[str, ...]
) -> None:
    """Each template stands alone, since Airflow takes no second one for what they share."""
    pod, cpu = comparable(f"pods/{name}"), comparable("pods/cpu")
    differs = {key for key in pod.keys() | cpu.keys() if pod.get(key) != cpu.get(key)}
    assert differs == {"metadata.name", *own}


def test_the_shell_with_a_gpu_is_the_other_shell_on_the_node_of_a_heavy_task() -> None:
    shell, own, task = (comparable(name) for name in ("shell", "gpu-shell", "pods/gpu"))
    of_task = {key for key in own if own[key] != shell.get(key) and key != "metadata.name"}
    assert of_task == {
        *("metadata.annotations", "container.image", "container.resources", "nodeSelector"),
        *("tolerations", "volumeMounts.shm", "volumes.shm"),
    }
    assert {key: own[key] for key in of_task} == {key: task[key] for key in of_task}
    assert shell.keys() <= own.keys()


def test_the_pods_that_join_are_the_shell_with_a_gpu_without_the_secrets() -> None:
    """Beside it: as many as `replicas` says, by a Deployment, whose schema is not here."""
    whole = read("join.yaml")
    assert (whole["apiVersion"], whole["kind"]) == ("apps/v1", "Deployment")
    spec = whole["spec"]
    labels = spec["template"]["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"].items() <= labels
    packed = (ROOT / "tests" / "data" / "pytorchjob.schema.json.gz").read_bytes()
    schema = json.loads(gzip.decompress(packed))
    about = {"$ref": "#/$defs/V1PodSpec", "$defs": schema["$defs"]}
    jsonschema.validate(spec["template"]["spec"], about)
    joins, shell = parts_of(spec["template"]), comparable("gpu-shell")
    differs = {key for key in joins.keys() | shell.keys() if joins.get(key) != shell.get(key)}
    assert differs == {
        *("apiVersion", "kind", "metadata.name", "metadata.labels"),
        *("container.command", "container.envFrom", "terminationGracePeriodSeconds"),
    }
    assert joins["container.command"] == ["updater", "join"]
    assert joins["container.envFrom"] == [{"configMapRef": {"name": "updater-dags"}}]


def comparable(name: str) -> dict[str, Any]:
    """Its metadata, its spec and its container, part by part; volumes by their names."""
    return parts_of(read(f"{name}.yaml"))


def parts_of(pod: dict[str, Any]) -> dict[str, Any]:
    spec = pod.pop("spec")
    (container,) = spec.pop("containers")
    parts = {f"metadata.{key}": value for key, value in pod.pop("metadata").items()}
    for whole, key in ((container, "volumeMounts"), (spec, "volumes")):
        parts |= {f"{key}.{one['name'] + one.get('subPath', '')}": one for one in whole.pop(key)}
    return parts | {f"container.{key}": value for key, value in container.items()} | spec | pod


def told(env: list[dict[str, Any]], env_from: list[dict[str, Any]], maps: Any) -> dict[str, str]:
    """What of ours a container gets that no Secret has: of two of a name the one in `env`."""
    found = [maps[one["configMapRef"]["name"]] for one in env_from if "configMapRef" in one]
    plain = {one["name"]: one["value"] for one in env if "value" in one}
    whole = {**{name: value for data in found for name, value in data.items()}, **plain}
    return {name: value for name, value in whole.items() if name.startswith("UPDATER_")}


def test_a_tasks_pod_is_told_of_the_dags_whatever_airflow_is() -> None:
    """Else it reads the DAG file by other settings, and finds no DAG of its task's name there."""
    values, dags = read("airflow-values.yaml"), read("dags.yaml")
    data = {
        **dags["data"],
        "UPDATER_WORKSPACES": "/workspaces/tickets:/workspaces/news",
        "UPDATER_DAG_NOTIFY": "slack-webhook:oncall",
        "UPDATER_DAG_GPU_STEP_HOURS": "24",
    }
    maps = {dags["metadata"]["name"]: data}
    assert told(values["env"], yaml.safe_load(values["extraEnvFrom"]), maps) == data
    for name in PODS:
        (container,) = read(f"{name}.yaml")["spec"]["containers"]
        assert told(container["env"], container["envFrom"], maps) == data
    for part in ("scheduler", "dagProcessor", "triggerer", "apiServer"):
        assert told(values[part].get("env", []), [], maps) == {}


def test_the_docs_name_only_commands_that_exist() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    found = re.findall(r"^    .*\bupdater(-gpu)?-shell -- updater ([a-z]+)", text, re.MULTILINE)
    plain, heavy = (
        {word for gpu, word in found if bool(gpu) is wanted} for wanted in (False, True)
    )
    assert {"init", "pytorchjob"} < plain <= set(frame.app.commands)
    assert {"scratch", "adopt"} == heavy <= set(frame.app.commands)
    for path in re.findall(r"deploy/kubernetes[\w./-]*", text):
        assert (ROOT / path).exists(), path
    lines = re.findall(r"^    (?:kubectl .+ -- )?(airflow .+)$", text, re.MULTILINE)
    assert any("dags clear" in line and "--run-id" in line for line in lines)
    assert not any("tasks clear" in line for line in lines)  # of every run, whatever was meant
    code = (
        "import shlex, sys; from airflow.cli.cli_parser import get_parser\n"
        "for line in sys.argv[1:]: get_parser().parse_args(shlex.split(line)[1:])"
    )
    subprocess.run([sys.executable, "-c", code, *lines], check=True, capture_output=True)


def test_the_guide_reaches_the_page_at_the_address_that_airflow_thinks_it_has() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    forward = re.search(r"port-forward service/(\S+) (\d+):(\d+)$", text, re.MULTILINE)
    assert forward is not None
    service, here, there = forward.groups()
    config = read("airflow-values.yaml")["config"]
    assert config["api"]["base_url"] == f"http://localhost:{here}"
    inside = f"http://{service}:{there}/execution/"
    assert config["core"]["execution_api_server_url"] == inside


def test_the_secret_that_the_guide_makes_has_only_variables_that_are_read() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    names = set(re.findall(r"^    ([A-Z_]+)=(?!\$)", text, re.MULTILINE))
    assert {"UPDATER_STORE_URL", "UPDATER_STORE_MLFLOW_PAGE"} < names
    settings = {variable(key) for key in leaves()}
    assert {name for name in names if name.startswith("UPDATER_")} <= settings


HAS_EXECUTOR = importlib.util.find_spec("airflow.providers.cncf") is not None


@pytest.mark.skipif(not HAS_EXECUTOR, reason="the extra `kubernetes` is not installed")
def test_airflows_executor_gives_heavy_tasks_a_gpu_and_turn_a_small_pod(tmp_path: Path) -> None:
    config = read("airflow-values.yaml")["config"]["kubernetes_executor"]
    given = {f"AIRFLOW__KUBERNETES_EXECUTOR__{key.upper()}": value for key, value in config.items()}
    given["AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE"] = str(FOLDER / "pods" / "cpu.yaml")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "UPDATER_"))}
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("executor_pods.py"),
            ROOT / "dags",
            "model_update",
        ],
        env={
            **kept,
            **given,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "UPDATER_DAG_GPU_POD_TEMPLATE": str(FOLDER / "pods" / "gpu.yaml"),
            "UPDATER_DAG_TURN_POD_TEMPLATE": str(FOLDER / "pods" / "turn.yaml"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pods = json.loads(done.stdout.splitlines()[-1])
    own = {**dict.fromkeys(("importance", "train", "evaluate"), "gpu"), "turn": "turn"}
    assert set(own) < set(pods)
    for name, pod in pods.items():
        wanted = read(f"pods/{own.get(name, 'cpu')}.yaml")["spec"]
        (container,) = pod["spec"]["containers"]
        for key in ("image", "resources", "securityContext", "volumeMounts", "envFrom"):
            assert container[key] == wanted["containers"][0][key], (name, key)
        assert pod["spec"].get("nodeSelector") == wanted.get("nodeSelector")
        assert pod["spec"].get("tolerations") == wanted.get("tolerations")
        assert pod["spec"]["shareProcessNamespace"] is True
        assert container["args"][:2] == ["python", "-m"]
