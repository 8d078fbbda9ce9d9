"""What MLflow keeps of a model: a few hundred bytes that lead to its checkpoint.

A pyfunc model without weights, pickles or an environment of its own; `LOADER` is the module that
reads it back (it belongs to the service, so it is named, never imported here). Called by
`store.registry`.
"""

import json
import sys
from pathlib import Path

LOADER = "updater.serving"
FOLDER = "model"
DATA = "checkpoint.json"
DEFAULT_NEW_TOKENS = 64


def write(folder: Path, *, uri: str, digest: str, run_id: str) -> None:
    """`folder` is an MLflow pyfunc model that points to the checkpoint `digest` at `uri`.

    The signature names the one parameter of `predict`: MLflow drops those it doesn't know.

    Raises:
        OSError: the disk refuses.
    """
    import mlflow
    import yaml

    version = sys.version_info
    parameter = {"name": "max_new_tokens", "type": "long", "default": DEFAULT_NEW_TOKENS}
    model = {
        "artifact_path": FOLDER,
        "run_id": run_id,
        "mlflow_version": mlflow.__version__,
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "data": DATA,
                "python_version": f"{version.major}.{version.minor}.{version.micro}",
                "env": {},
            }
        },
        "signature": {
            "inputs": None,
            "outputs": None,
            "params": json.dumps([{**parameter, "shape": None}]),
        },
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=False))
    (folder / DATA).write_text(json.dumps({"uri": uri, "digest": digest}, indent=1) + "\n")
