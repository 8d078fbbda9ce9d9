"""airflow-values.yaml sets only what the chart knows, each with a value of its kind.

Helm passes over a key that no template reads, so one that is misspelt would be silently lost. The
chart itself is not here: `KNOWN` is what its release 1.22.0 takes of what we set. Who sets more
adds it, after a look at the chart's values.schema.json and the template that reads it.
"""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

VALUES = Path(__file__).parents[2] / "deploy" / "kubernetes" / "airflow-values.yaml"
TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
FREE = {"type": "object"}  # of Kubernetes, or by Airflow's own names: test_kubernetes.py


def table(**known: Any) -> dict[str, Any]:
    return {"type": "object", "properties": known, "additionalProperties": False}


def several(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


ENV = several(table(name=TEXT, value=TEXT, valueFrom=FREE))
VOLUME = table(name=TEXT, emptyDir=FREE, configMap=FREE, persistentVolumeClaim=FREE)
MOUNT = table(name=TEXT, mountPath=TEXT, readOnly=FLAG)
PROBE = table(timeoutSeconds=NUMBER, failureThreshold=NUMBER, command=several(TEXT))
SWITCH = table(enabled=FLAG)
JOB = table(args=several(TEXT), env=ENV, resources=FREE)


def part(**more: Any) -> dict[str, Any]:
    """One of Airflow's programs."""
    return table(resources=FREE, **more)


MOUNTED = {"extraVolumes": several(VOLUME), "extraVolumeMounts": several(MOUNT)}
WATCHED = {"livenessProbe": PROBE, "logGroomerSidecar": SWITCH}
KNOWN = table(
    airflowVersion=TEXT,
    defaultAirflowRepository=TEXT,
    defaultAirflowTag=TEXT,
    executor=TEXT,
    uid=NUMBER,
    gid=NUMBER,
    securityContexts=table(pod=FREE, containers=FREE),
    volumes=several(VOLUME),
    volumeMounts=several(MOUNT),
    data=table(metadataSecretName=TEXT),
    fernetKeySecretName=TEXT,
    apiSecretKeySecretName=TEXT,
    jwtSecretName=TEXT,
    enableBuiltInSecretEnvVars=table(AIRFLOW_CONN_AIRFLOW_DB=FLAG),
    env=several(table(name=TEXT, value=TEXT)),
    extraEnvFrom=TEXT,  # by the chart's documentation and its _helpers.yaml, and not rendered yet
    config=table(core=FREE, kubernetes_executor=FREE, logging=FREE, scheduler=FREE),
    migrateDatabaseJob=JOB,
    createUserJob=JOB,
    scheduler=part(replicas=NUMBER, startupProbe=PROBE, **MOUNTED, **WATCHED),
    dagProcessor=part(**MOUNTED, **WATCHED),
    triggerer=part(env=ENV, persistence=SWITCH, **WATCHED),
    apiServer=part(replicas=NUMBER, env=ENV),
    postgresql=SWITCH,
    redis=SWITCH,
    statsd=SWITCH,
)


def values() -> Any:
    return yaml.safe_load(VALUES.read_text("utf-8"))


def test_every_key_is_one_that_the_chart_knows() -> None:
    jsonschema.validate(values(), KNOWN)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("schedular",), {}),
        (("scheduler", "replica"), 2),
        (("scheduler", "livenessProbe", "timeoutSecond"), 5),
        (("securityContexts", "container"), {}),
        (("scheduler", "replicas"), "2"),
        (("config", "workers"), {}),
        (("env",), {"HOME": "/tmp"}),
        (("extraEnvFrom",), [{"configMapRef": {"name": "updater-dags"}}]),
    ],
)
def test_a_key_that_is_misspelt_or_a_value_of_another_kind_is_found(
    keys: tuple[str, ...], value: Any
) -> None:
    wrong = copy.deepcopy(values())
    inner = wrong
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, KNOWN)
