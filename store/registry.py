"""Updates and model versions as MLflow shows them: runs, curves, scores, registered versions.

Not the truth about releases (the ledger's events are, and `store.aliases` projects them) and no
place for weights: a version is a pointer to a checkpoint. Everything may be said twice: a step
that was killed finds its run and its version again by the tag `updater.key`. Called by the steps
of an update.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store import pointer, points
from store.errors import ConflictError, NotFoundError
from store.mlflow_client import Mlflow
from store.pages import Pages
from store.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion

KEY = "updater.key"
# MLflow's own limits for one request (mlflow/utils/validation.py, 3.17.2).
METRICS_AT_ONCE = 1000
PARAMETERS_AT_ONCE = 100
PARAMETER_CHARACTERS = 6000
# MLflow's page guesses what an experiment is about; this is its view for trained models.
SHOWN_AS = {"mlflow.experimentKind": "custom_model_development"}
PARENT = "mlflow.parentRunId"  # MLflow's own tag; its page nests runs by it


class Registry:
    """The experiment and the registered model `name` in the MLflow at `uri`.

    `artifacts` is where a new experiment keeps its artifacts; "" lets the server decide.
    """

    def __init__(self, uri: str, artifacts: str, name: str) -> None:
        self._mlflow = Mlflow(uri)
        self._artifacts = artifacts
        self.name = name

    def create(self) -> None:
        """The tables, the experiment and the registered model exist. Safe to repeat.

        Raises:
            UnreachableError, StoreError: as all methods here.
        """

        def made(client: MlflowClient) -> None:
            if client.get_experiment_by_name(self.name) is None:
                client.create_experiment(
                    self.name, artifact_location=self._artifacts or None, tags=SHOWN_AS
                )
            if not client.search_registered_models(f"name = '{self.name}'"):
                client.create_registered_model(self.name)

        self._mlflow.ask(made)

    def check(self) -> None:
        """The experiment is there, so that runs can be opened.

        Raises:
            NotFoundError: there is none of that name, or it was deleted.
            UnreachableError, StoreError: as all methods here.
        """
        _ = self._experiment

    def open_run(
        self,
        key: str,
        *,
        run_name: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """The id of the one run with this `key`, which is RUNNING and has these parameters.

        A parameter that is too long for MLflow is cut, and then all of them, whole, are the
        artifact parameters.json.

        Raises:
            ConflictError: the run has another value for one of the parameters.
            UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        _require_plain(key)
        experiment = self._experiment

        def opened(client: MlflowClient) -> str:
            found = client.search_runs(
                [experiment], f"tags.`{KEY}` = '{key}'", order_by=["attributes.start_time"]
            )
            if found:
                run_id = str(found[0].info.run_id)
                client.update_run(run_id, status="RUNNING")
                return run_id
            every = {**(tags or {}), KEY: key}
            return str(client.create_run(experiment, tags=every, run_name=run_name).info.run_id)

        run_id = self._mlflow.ask(opened)
        self._log_parameters(run_id, {name: str(value) for name, value in parameters.items()})
        return run_id

    def standing_run(self, key: str, *, run_name: str, tags: Mapping[str, str]) -> str:
        """The id of the one run with this `key`, which is FINISHED between any two things that are
        said to it: a parent, which no step of its own ends.

        Raises: as `open_run`.
        """
        _require_plain(key)
        experiment = self._experiment

        def found_or_made(client: MlflowClient) -> str:
            found = client.search_runs(
                [experiment], f"tags.`{KEY}` = '{key}'", order_by=["attributes.start_time"]
            )
            if found:
                return str(found[0].info.run_id)
            made = client.create_run(experiment, tags={**tags, KEY: key}, run_name=run_name)
            client.set_terminated(made.info.run_id)
            return str(made.info.run_id)

        return self._mlflow.ask(found_or_made)

    def run_tags(self, run_id: str) -> dict[str, str]:
        """All tags of the run."""
        return dict(self._mlflow.ask(lambda client: client.get_run(run_id)).data.tags)

    def name_run(self, run_id: str, name: str) -> None:
        """The run is called `name`. Not by a tag in a batch, for which MLflow opens a session
        inside of another."""
        self._mlflow.ask(lambda client: client.update_run(run_id, name=name))

    def close_run(self, run_id: str) -> None:
        """The run is FINISHED, now."""
        self._mlflow.ask(lambda client: client.set_terminated(run_id))

    def stop_run(self, key: str, status: str) -> None:
        """The run with this `key`, if there is one, has ended with `status` (FAILED or KILLED).

        `open_run` makes it RUNNING again.
        """
        experiment = self._experiment

        def stopped(client: MlflowClient) -> None:
            for run in client.search_runs([experiment], f"tags.`{KEY}` = '{key}'"):
                client.set_terminated(run.info.run_id, status)

        self._mlflow.ask(stopped)

    def log_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        """The resolved configuration is the artifact config.json."""
        self._mlflow.ask(lambda client: client.log_dict(run_id, dict(config), "config.json"))

    def log_curve(self, run_id: str, curve: Sequence[points.Point]) -> None:
        """The points' metrics are on the curves, a thousand numbers a request.

        A point that is told twice is kept once. Not finite ones are left out with a warning: MLflow
        can't keep them (mlflow#26108), and a training that diverges is told elsewhere.

        Raises: UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        self._log(run_id, points.curve(curve))

    def log_scores(
        self, run_id: str, accuracy: Mapping[str, float], ordinals: Mapping[str, int]
    ) -> None:
        """`accuracy/PERIOD` for each period, and all of them as one curve over the periods.

        The curve `accuracy_by_period` has the period's ordinal as step, so that several runs laid
        over each other show what is forgotten. A score that stands already is not logged again;
        one that differs becomes the newer point.

        Raises:
            ValueError: an accuracy outside [0, 1] (leave a period out that has none), or a period
                without an ordinal of its own.
            UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        steps = points.steps_of(accuracy, ordinals)
        known = self._mlflow.ask(lambda client: client.get_run(run_id).data.metrics)
        drawn = self._mlflow.ask(lambda client: client.get_metric_history(run_id, points.BY_PERIOD))
        single = {f"accuracy/{period}": accuracy[period] for period in steps}
        now_ms = self._after(run_id, [points.BY_PERIOD, *_changed(single, known)])
        self._log(run_id, points.scores(accuracy, steps, known=known, drawn=drawn, now_ms=now_ms))

    def tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """The run has these tags, whatever it had under their names.

        Raises:
            UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        from mlflow.entities import RunTag

        every = [RunTag(name, str(value)) for name, value in tags.items()]
        self._mlflow.ask(lambda client: client.log_batch(run_id, tags=every))

    def log_summary(self, run_id: str, summary: Mapping[str, float | str | bool | None]) -> None:
        """Numbers of `summary` are metrics of the run, words and truths tags; None is absent.

        Raises:
            ValueError: a number that is not finite.
            UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        known = self._mlflow.ask(lambda client: client.get_run(run_id).data.metrics)
        metrics, tags = points.summary(
            summary, known, self._after(run_id, _changed(summary, known))
        )
        self._mlflow.ask(lambda client: client.log_batch(run_id, tags=tags))
        self._log(run_id, metrics)

    def log_dataset(self, run_id: str, *, name: str, digest: str, context: str, uri: str) -> None:
        """The run has the dataset as an input. MLflow keeps one context per (name, digest).

        Raises:
            ValueError: a digest of more than 36 characters, MLflow's limit.
            UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        if len(digest) > 36:
            raise ValueError(f"digest {digest}: MLflow keeps 36 characters, DVC's MD5 fits")
        from mlflow.data.http_dataset_source import HTTPDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        source = HTTPDatasetSource(uri)
        dataset = MetaDataset(source, name=name, digest=digest)  # type: ignore[abstract]
        tags = [InputTag("mlflow.data.context", context)]
        given = DatasetInput(dataset=dataset._to_mlflow_entity(), tags=tags)
        self._mlflow.ask(lambda client: client.log_inputs(run_id, datasets=[given]))

    def log_artifacts(self, run_id: str, folder: Path, path: str = "") -> None:
        """The files of `folder` are artifacts of the run, below `path`."""
        self._mlflow.ask(lambda client: client.log_artifacts(run_id, str(folder), path or None))

    def register(
        self,
        run_id: str,
        *,
        key: str,
        checkpoint_uri: str,
        checkpoint_digest: str,
        tags: Mapping[str, str],
        description: str,
    ) -> str:
        """The number of the one version with this `key`, which points to the checkpoint.

        Its source is the run's artifact `model`: see `store.pointer`. The tags come with the
        version in one transaction.

        Raises:
            ConflictError: a version with this key points to another checkpoint.
            UnreachableError, StoreError, NotFoundError: as all methods here.
        """
        _require_plain(key)
        own = {
            KEY: key,
            "checkpoint_digest": checkpoint_digest,
            "checkpoint_uri": checkpoint_uri,
        }

        def registered(client: MlflowClient) -> ModelVersion:
            found = client.search_model_versions(f"name = '{self.name}' and tags.`{KEY}` = '{key}'")
            if found:
                return min(found, key=lambda version: int(version.version))
            with tempfile.TemporaryDirectory() as folder:
                pointer.write(
                    Path(folder), uri=checkpoint_uri, digest=checkpoint_digest, run_id=run_id
                )
                client.log_artifacts(run_id, folder, pointer.FOLDER)
            return client.create_model_version(
                self.name,
                source=f"runs:/{run_id}/{pointer.FOLDER}",
                run_id=run_id,
                tags={**tags, **own},
                description=description,
            )

        version = self._mlflow.ask(registered)
        kept = version.tags.get("checkpoint_digest")
        if kept != checkpoint_digest:
            raise ConflictError(
                f"version {version.version} of {self.name} has the key {key} and the checkpoint "
                f"{kept}, not {checkpoint_digest}; a version never changes its checkpoint"
            )
        return str(version.version)

    def set_version_tags(self, version: str, tags: Mapping[str, str]) -> None:
        """The version has these tags, and keeps its others."""

        def tagged(client: MlflowClient) -> None:
            for name, value in tags.items():
                client.set_model_version_tag(self.name, version, name, value)

        self._mlflow.ask(tagged)

    def started_ms(self, run_id: str) -> int:
        """When the run began, in Unix milliseconds."""
        return int(self._mlflow.ask(lambda client: client.get_run(run_id)).info.start_time)

    def system_metrics(self, run_id: str) -> SystemMetrics:
        """MLflow's monitors of this machine. Raises: ImportError: psutil is missing."""
        return SystemMetrics(self._mlflow, run_id)

    @cached_property
    def pages(self) -> Pages:
        """What MLflow's pages of the experiment, the model and its versions say."""
        return Pages(self._mlflow, self.name, self._experiment)

    @property
    def experiment(self) -> str:
        """The experiment's id, by which addresses in MLflow's page name it. Raises: as `check`."""
        return self._experiment

    @cached_property
    def _experiment(self) -> str:
        found = self._mlflow.ask(lambda client: client.get_experiment_by_name(self.name))
        if found is None or found.lifecycle_stage != "active":
            raise NotFoundError(
                f"{self._mlflow.shown} has no active experiment {self.name}; run `updater init` "
                "on the workspace again, or restore the experiment there"
            )
        return str(found.experiment_id)

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        short = {name: value[:PARAMETER_CHARACTERS] for name, value in parameters.items()}
        if short != dict(parameters):
            self._mlflow.ask(lambda c: c.log_dict(run_id, dict(parameters), "parameters.json"))
        every = [Param(name, value) for name, value in short.items()]

        def logged(client: MlflowClient) -> None:
            for start in range(0, len(every), PARAMETERS_AT_ONCE):
                client.log_batch(run_id, params=every[start : start + PARAMETERS_AT_ONCE])

        self._mlflow.ask(logged)

    def _after(self, run_id: str, metrics: Sequence[str]) -> int:
        """Now, in Unix milliseconds, or later where a worker whose clock is ahead has told one of
        these metrics: MLflow shows the value that is newest by its time."""
        told = [
            point.timestamp
            for name in metrics
            for point in self._mlflow.ask(partial(_history, run_id, name))
        ]
        return max([_now(), *(at_ms + 1 for at_ms in told)])

    def _log(self, run_id: str, metrics: Sequence[Metric]) -> None:
        def logged(client: MlflowClient) -> None:
            for start in range(0, len(metrics), METRICS_AT_ONCE):
                client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])

        self._mlflow.ask(logged)


def _history(run_id: str, name: str, client: MlflowClient) -> list[Metric]:
    return list(client.get_metric_history(run_id, name))


def _changed(values: Mapping[str, Any], known: Mapping[str, float]) -> list[str]:
    """The metrics that have another value by now."""
    return [name for name, value in values.items() if name in known and known[name] != value]


def _now() -> int:
    return int(time.time() * 1000)


def _require_plain(key: str) -> None:
    if not key or re.search(r"['\"`\\]", key):
        raise ValueError(f"key {key!r}: must not be empty or hold quotes or backslashes")
