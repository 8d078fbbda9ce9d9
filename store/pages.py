"""What MLflow's pages say of an experiment, a registered model and its versions.

Not the words themselves (`updater.steps.publish` has them made) and no runs (`store.registry`,
through which this is reached). Everything may be said twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from store import views
from store.mlflow_client import Mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What MLflow's database has room for (store/model_registry/dbmodels/models.py, 3.17.2).
DESCRIPTION_CHARACTERS = 5000


class Pages:
    """The pages of the registered model `name` and of its experiment.

    Every method raises UnreachableError, NotFoundError or StoreError, as `store.registry`'s.
    """

    def __init__(self, mlflow: Mlflow, name: str, experiment: str) -> None:
        self._mlflow = mlflow
        self._name = name
        self._experiment = experiment

    def describe_version(self, version: str, description: str) -> None:
        """The version's page shows this, which is Markdown.

        Raises:
            ValueError: it is longer than MLflow's database has room for.
        """
        _require_room(description)
        self._mlflow.ask(
            lambda client: client.update_model_version(self._name, version, description)
        )

    def describe_model(self, description: str, tags: Mapping[str, str]) -> None:
        """The model's page shows this, which is Markdown; it has these tags, and keeps its others.

        Raises: as `describe_version`.
        """
        _require_room(description)

        def described(client: MlflowClient) -> None:
            client.update_registered_model(self._name, description)
            for name, value in tags.items():
                client.set_registered_model_tag(self._name, name, value)

        self._mlflow.ask(described)

    def save_view(self, tag: str, view: str) -> None:
        """The experiment's page offers the view (`store.views`); one that a person has overwritten
        there stays as it is."""

        def saved(client: MlflowClient) -> None:
            known = client.get_experiment(self._experiment).tags.get(tag)
            if known is None or (known != view and views.is_untouched(known)):
                client.set_experiment_tag(self._experiment, tag, view)

        self._mlflow.ask(saved)


def _require_room(description: str) -> None:
    if len(description) > DESCRIPTION_CHARACTERS:
        raise ValueError(
            f"description of {len(description)} characters: MLflow has room for "
            f"{DESCRIPTION_CHARACTERS}"
        )
