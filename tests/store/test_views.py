"""Saved views as MLflow's page takes them, and the pages' words, in a real MLflow."""

import itertools
import json
from pathlib import Path

import pytest

from store import views
from store.registry import Registry

_names = (f"tickets-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for the module: MLflow's tables take seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('views') / 'mlflow.db'}"


@pytest.fixture
def registry(database: str, tmp_path: Path) -> Registry:
    made = Registry(database, str(tmp_path), next(_names))
    made.create()
    return made


def tags_of(registry: Registry) -> dict[str, str]:
    client = registry._mlflow._client
    return dict(client.get_experiment(registry.experiment).tags)


def test_a_view_is_an_envelope_whose_state_is_json() -> None:
    name, value = views.updates()
    told = json.loads(value)
    state = json.loads(told["state"])
    assert name == "mlflow.sharedViewState.updates"
    assert told["name"] == "Updates"
    assert state["selectedColumns"][0] == "tags.`verdict`"
    assert state["columnOrder"][2:] == state["selectedColumns"]
    assert "start_time" not in state["orderByKey"], "MLflow would fold the rows"


def test_the_chart_has_the_newest_periods_and_fits_whatever_their_number() -> None:
    _, value = views.versions([f"2024-{n:03d}" for n in range(200)])
    charts = json.loads(json.loads(value)["state"])["compareRunCharts"]
    assert charts[1]["selectedMetricKeys"][-1] == "accuracy/2024-199"
    assert len(charts[1]["selectedMetricKeys"]) == views.MOST_PERIODS
    assert len(value) < 5000, "older MLflow has no more room in a tag of an experiment"


def test_a_view_is_kept_up_to_date_until_a_person_overwrites_it(registry: Registry) -> None:
    name, first = views.versions(["a"])
    registry.pages.save_view(name, first)
    _, second = views.versions(["a", "b"])
    registry.pages.save_view(name, second)
    assert tags_of(registry)[name] == second
    theirs = json.dumps({**json.loads(second), "updatedAt": 1700000000000})
    registry.pages.save_view(name, second)
    registry._mlflow._client.set_experiment_tag(registry.experiment, name, theirs)
    registry.pages.save_view(name, second)
    assert tags_of(registry)[name] == theirs


@pytest.mark.parametrize("text", ["", "deflate;abc", "[]", '{"name": "x"}'])
def test_what_is_no_view_of_ours_is_left_alone(text: str) -> None:
    assert not views.is_untouched(text)


def test_the_pages_say_what_they_are_told(registry: Registry) -> None:
    run_id = registry.open_run("u1", run_name="n", parameters={})
    version = registry.register(
        run_id, key="u1", checkpoint_uri="file:///x", checkpoint_digest="d", tags={}, description=""
    )
    for _ in range(2):
        registry.pages.describe_version(version, "# card")
        registry.pages.describe_model("what it is", {"made_by": "updater"})
    client = registry._mlflow._client
    assert client.get_model_version(registry.name, version).description == "# card"
    model = client.get_registered_model(registry.name)
    assert (model.description, model.tags) == ("what it is", {"made_by": "updater"})


def test_what_postgresql_has_no_room_for_is_refused_everywhere(registry: Registry) -> None:
    with pytest.raises(ValueError, match="5001 characters: MLflow has room for 5000"):
        registry.pages.describe_version("1", "x" * 5001)


def test_a_parent_run_is_one_and_never_left_running(registry: Registry) -> None:
    first = registry.standing_run("life", run_name="every version", tags={"a": "b"})
    assert registry.standing_run("life", run_name="every version", tags={"a": "b"}) == first
    run = registry._mlflow._client.get_run(first)
    assert (run.info.status, run.info.run_name, run.data.tags["a"]) == (
        "FINISHED",
        "every version",
        "b",
    )
