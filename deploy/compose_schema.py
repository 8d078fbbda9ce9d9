"""What docker-compose.yml uses of Compose's format, and as what: a JSON schema.

Not the whole format, so that a slip of the pen is found without a Docker engine. An environment's
values are texts: YAML would make a number of 1 and a truth value of no.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}
NAMED: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}


def _of(keys: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": keys, "additionalProperties": False}


LIMITS = _of({"cpus": TEXT, "memory": TEXT})
DEVICE = _of({"driver": TEXT, "count": {"const": "all"}, "capabilities": TEXTS})
SERVICE = _of(
    {
        **dict.fromkeys(("image", "user"), TEXT),
        **dict.fromkeys(("cap_drop", "command", "entrypoint", "ports", "profiles"), TEXTS),
        **dict.fromkeys(("security_opt", "tmpfs", "volumes"), TEXTS),
        **dict.fromkeys(("init", "read_only"), FLAG),
        "build": _of({**dict.fromkeys(("context", "dockerfile", "target"), TEXT), "args": NAMED}),
        "depends_on": {
            "type": "object",
            "additionalProperties": _of(
                {"condition": {"enum": ["service_healthy", "service_completed_successfully"]}}
            ),
        },
        "deploy": _of(
            {
                "resources": _of(
                    {
                        "limits": LIMITS,
                        "reservations": _of({"devices": {"type": "array", "items": DEVICE}}),
                    }
                )
            }
        ),
        "environment": NAMED,
        "healthcheck": _of(
            {
                "test": TEXTS,
                "retries": {"type": "integer"},
                **dict.fromkeys(("interval", "timeout", "start_period"), TEXT),
            }
        ),
        "logging": _of({"driver": TEXT, "options": {"additionalProperties": TEXT}}),
        "restart": {"enum": ["no", "unless-stopped"]},
        **dict.fromkeys(("shm_size", "stop_grace_period"), TEXT),
    }
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": TEXT,
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
    "additionalProperties": False,
}
