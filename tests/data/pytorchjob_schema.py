"""Writes pytorchjob.schema.json.gz: the PyTorchJob of the models that kubeflow-training ships.

    pip install kubeflow-training==1.9.4 kubernetes==35.0.0
    python tests/data/pytorchjob_schema.py

Both are Apache-2.0, and generated from the OpenAPI documents of Kubeflow's training operator 1.9
and of Kubernetes. What they know no field of is refused, as the API server refuses it under strict
validation.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any

from kubeflow.training import models
from kubernetes import client

TARGET = Path(__file__).with_name("pytorchjob.schema.json.gz")
PLAIN = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "object": {},
    "Quantity": {"type": ["string", "number"]},
    "IntOrString": {"type": ["string", "integer"]},
    "Time": {"type": "string", "format": "date-time"},
    "MicroTime": {"type": "string", "format": "date-time"},
    "FieldsV1": {"type": "object"},
}
GROUP = re.compile(r"^K8sIoApi(machineryPkg(Apis|Api|Util))?[A-Z][a-z]+(?=[A-Z])")
"""kubeflow-training writes the models of Kubernetes with their groups."""


def class_of(name: str) -> type:
    """The model of that name, of either package."""
    return getattr(models, name, None) or getattr(client, name)


def schema_of(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    """Of one type as the models write it; what it refers to is in `found` then."""
    kind = GROUP.sub("", kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        return {"type": "array", "items": schema_of(listed[1], found)}
    if mapped := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {"type": "object", "additionalProperties": schema_of(mapped[1], found)}
    if kind not in found:
        found[kind] = {}
        found[kind] = model(class_of(kind), found)
    return {"$ref": f"#/$defs/{kind}"}


def model(cls: Any, found: dict[str, Any]) -> dict[str, Any]:
    """One object."""
    fields = {cls.attribute_map[name]: kind for name, kind in cls.openapi_types.items()}
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: schema_of(kind, found) for name, kind in fields.items()},
    }
    required = [cls.attribute_map[name] for name in cls.openapi_types if refuses_none(cls, name)]
    return schema | ({"required": required} if required else {})


def refuses_none(cls: Any, name: str) -> bool:
    """Whether the field must be given: its setter says so."""
    made = cls.__new__(cls)
    made.local_vars_configuration = client.Configuration()
    try:
        setattr(made, name, None)
    except ValueError:
        return True
    return False


if __name__ == "__main__":
    definitions: dict[str, Any] = {}
    whole = schema_of("KubeflowOrgV1PyTorchJob", definitions)
    text = json.dumps(whole | {"$defs": definitions}, sort_keys=True, separators=(",", ":"))
    TARGET.write_bytes(gzip.compress(text.encode(), mtime=0))
