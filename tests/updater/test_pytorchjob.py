"""The PyTorchJob of an update: what Kubernetes accepts, and what its pods are told.

That the pods' commands train is tests/story/test_pytorchjob_trains.py. No cluster was there to try
it on: it is held to the schema that kubeflow-training ships (tests/data/README.md).
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from updater import config
from updater.errors import InputError
from updater.pytorchjob import job_name, pytorch_job
from updater.settings import PLACES, KubernetesSettings, Settings

DATA = Path(__file__).parents[1] / "data"
ROOT = Path("/workspaces/tickets")
UPDATE = "2026-04-1a2b3c4d"
FILE = """
[workspace]
name = "tickets"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{answer}"
period = "{region}"
[periods]
order = ["north"]
[training]
nodes = 3
devices = 8
[kubernetes]
image = "registry.example:5000/updater-gpu-worker:0.1.0"
"""
ALL = (
    "kubernetes.namespace=models",
    "kubernetes.image_pull_secret=registry",
    "kubernetes.memory=1Ti",
)


def settings(tmp_path: Path, *overrides: str, file: str = FILE) -> Settings:
    (tmp_path / "updater.toml").write_text(file)
    return config.load(tmp_path, overrides, {})


def rendered(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    return pytorch_job(settings(tmp_path, *overrides), root=ROOT, update=UPDATE)


def pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        yield replica["template"]["spec"]


def container(job: dict[str, Any], replica: str) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"][replica]["template"]["spec"][
        "containers"
    ][0]
    return found


def environment(job: dict[str, Any], replica: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(job, replica)["env"]}


def check(job: dict[str, Any]) -> None:
    schema = json.loads(gzip.decompress((DATA / "pytorchjob.schema.json.gz").read_bytes()))
    jsonschema.validate(job, schema)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.nodes=1",),
        ALL,
        ("kubernetes.gpu_resource=", "kubernetes.secret="),
    ],
)
def test_it_is_valid_by_its_schema(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    check(rendered(tmp_path, *overrides))


def test_the_schema_refuses_what_kubernetes_would(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    next(pods(job))["nodeSelectors"] = {}
    with pytest.raises(jsonschema.ValidationError, match="nodeSelectors"):
        check(job)
    job = rendered(tmp_path)
    job["spec"]["nprocPerNode"] = 8
    with pytest.raises(jsonschema.ValidationError, match="not of type 'string'"):
        check(job)


def test_there_are_as_many_pods_as_nodes_with_the_devices_of_each(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {name: one["replicas"] for name, one in replicas.items()} == {"Master": 1, "Worker": 2}
    assert job["spec"]["nprocPerNode"] == "8"
    for pod in pods(job):
        assert pod["containers"][0]["name"] == "pytorch"  # or the operator's webhook refuses it
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    alone = rendered(tmp_path, "training.nodes=1")
    assert list(alone["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_the_pods_meet_at_the_first(tmp_path: Path) -> None:
    """The operator names the pod JOB-master-0 and makes a service of that name."""
    job = rendered(tmp_path)
    meet = f"{job['metadata']['name']}-master-0:29400"
    assert environment(job, "Master")["UPDATER_TRAINING_RENDEZVOUS"] == meet
    assert f"--rdzv-endpoint={meet}" in container(job, "Worker")["command"]
    (port,) = container(job, "Master")["ports"]
    assert port == {"name": "pytorchjob-port", "containerPort": 29400}
    waits = {environment(job, replica)["PET_RDZV_CONF"] for replica in ("Master", "Worker")}
    assert waits == {"join_timeout=1800,read_timeout=1800"}


def test_the_first_pod_trains_where_the_manifest_says(tmp_path: Path) -> None:
    """Whatever the workspace's file says by then: its environment comes after the file."""
    wanted = settings(tmp_path, "training.strategy=ddp", "training.nodes=4")
    job = pytorch_job(wanted, root=ROOT, update=UPDATE)
    told = environment(job, "Master")
    (tmp_path / "updater.toml").write_text(FILE)
    found = config.load(tmp_path, (), {k: v for k, v in told.items() if k != "UPDATER_ACTOR"})
    for place in PLACES:
        if place != "rendezvous":
            assert getattr(found.training, place) == getattr(wanted.training, place)


def test_only_the_first_pod_has_the_stores_secrets(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    assert container(job, "Master")["envFrom"] == [{"secretRef": {"name": "updater"}}]
    assert "envFrom" not in container(job, "Worker")
    assert not any("PASSWORD" in name for name in environment(job, "Master"))


def test_the_pods_may_do_no_more_than_train(tmp_path: Path) -> None:
    for pod in pods(rendered(tmp_path)):
        assert pod["securityContext"]["runAsNonRoot"]
        # With a number, because the operator adds an init container whose image says root.
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["automountServiceAccountToken"] is False
        inside = pod["containers"][0]["securityContext"]
        assert inside["readOnlyRootFilesystem"]
        assert inside["capabilities"] == {"drop": ["ALL"]}
        assert inside["allowPrivilegeEscalation"] is False


def test_where_pods_may_lie(tmp_path: Path) -> None:
    file = FILE + 'node_selector = ["pool=gpu"]\ntolerations = ["dedicated"]\n'
    job = pytorch_job(settings(tmp_path, file=file), root=ROOT, update=UPDATE)
    check(job)
    for pod in pods(job):
        assert pod["nodeSelector"] == {"pool": "gpu"}
        assert pod["tolerations"] == [
            {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
        ]


@pytest.mark.parametrize(
    "update",
    ["2026-04-1a2b3c4d", "Banking_and.Loans-1a2b3c4d", f"{'x' * 64}-1a2b3c4d", "-.--1a2b3c4d"],
)
def test_the_name_is_one_for_kubernetes(update: str) -> None:
    name = job_name(update)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-worker-999") <= 63
    assert name.endswith("-1a2b3c4d")


def test_without_an_image_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kubernetes\.image is not given"):
        rendered(tmp_path, "kubernetes.image=", "training.nodes=1")


def test_a_workspace_that_is_not_on_the_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/workspaces-old/a is not below kubernetes\.mount_path"):
        pytorch_job(settings(tmp_path), root=Path("/workspaces-old/a"), update=UPDATE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('image = "updater"', "image: must|must name a version"),
        ('image = "updater:latest"', "must name a version"),
        ('image = "host:5000/updater"', "must name a version"),
        ('image = "updater@sha256:12"', "must name a version"),
        ('namespace = "My Models"', "must be an object's name"),
        ('volume_claim = ""', "must be an object's name"),
        ('mount_path = "workspaces"', "must be an absolute path"),
        ('mount_path = "/../etc"', "must be an absolute path"),
        ('gpu_resource = "gpu"', "must be a resource's name"),
        ('node_selector = ["gpu"]', "label=value"),
        ('tolerations = ["a b"]', "taints' keys"),
        ('memory = "64 GB"', "must be a quantity"),
        ('cpu = "0"', "must be a quantity"),
        ("user_id = 0", "at least 1"),
        ("join_timeout_seconds = 0", "at least 1"),
        ('imgae = "a:1"', "did you mean image"),
    ],
)
def test_a_bad_setting_is_refused(tmp_path: Path, line: str, said: str) -> None:
    file = FILE.partition("[training]")[0] + f"[kubernetes]\n{line}\n"
    with pytest.raises(InputError, match=said) as refused:
        settings(tmp_path, file=file)
    assert "kubernetes" in str(refused.value)


@pytest.mark.parametrize(
    "image",
    [
        "updater:0.1.0",
        "registry.example/a/updater:v2",
        "localhost:5000/updater:1",
        f"updater@sha256:{'a' * 64}",
        f"host:1/updater:0.1.0@sha256:{'0' * 64}",
    ],
)
def test_an_image_with_a_version_is_taken(image: str) -> None:
    assert KubernetesSettings(image=image).image == image


def test_several_nodes_need_a_place_to_meet_or_a_cluster(tmp_path: Path) -> None:
    assert settings(tmp_path).training.nodes == 3
    with pytest.raises(InputError, match=r"training\.rendezvous"):
        settings(tmp_path, "kubernetes.image=")
    # A PyTorchJob's pods are there for the training alone.
    with pytest.raises(InputError, match=r"for \"all\" give a rendezvous"):
        settings(tmp_path, "training.nodes_for=all")
    joined = settings(tmp_path, "training.nodes_for=all", "training.rendezvous=auto").training
    assert joined.beside_training == joined
    assert settings(tmp_path).training.beside_training.nodes == 1


@pytest.mark.parametrize("place", ["first", "first:", ":29400", "first:0", "first:99999", "AUTO"])
def test_a_place_to_meet_that_is_none_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError, match=r"must be host:port, with a port of 1 to 65535, or .auto"):
        settings(tmp_path, f"training.rendezvous={place}")


@pytest.mark.parametrize("place", ["auto", "first.example:29400", "10.0.0.7:1", "[fd00::7]:29400"])
def test_a_place_to_meet_is_taken(tmp_path: Path, place: str) -> None:
    assert settings(tmp_path, f"training.rendezvous={place}").training.rendezvous == place


def test_factors_of_experts_are_trained_in_shards_where_that_is_asked_for(tmp_path: Path) -> None:
    asked = ("training.adapt=lora", "training.lora_experts=true")
    assert not settings(tmp_path, *asked).training.sharded
    assert settings(tmp_path, *asked, "training.strategy=fsdp").training.sharded


def test_what_a_cluster_is_told_makes_no_other_update(tmp_path: Path) -> None:
    here = settings(tmp_path)
    there = settings(tmp_path, *ALL, "training.nodes=1")
    assert config.digest(here) == config.digest(there)
    assert "kubernetes" not in here.as_dict()
