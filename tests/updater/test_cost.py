"""What an update cost, added up from what its steps recorded."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from store.ledger import Step
from updater.cost import Cost, cost_of, place
from updater.settings import TrainingSettings

AT = datetime(2026, 5, 1, tzinfo=UTC)


def step(name: str, seconds: float | None, state: str = "finished", **result: Any) -> Step:
    return Step(
        update="u",
        name=name,
        state=state,
        attempts=1,
        started_at=AT,
        finished_at=AT,
        seconds=seconds,
        result=result,
    )


def on(num: int, compute: float, **more: Any) -> dict[str, Any]:
    return {"compute_seconds": compute, "device": "cuda", "num_devices": num, **more}


def test_seconds_are_all_and_hours_what_computed_times_its_devices() -> None:
    steps = [
        step("ingest", 10.0, datasets={}),
        step("importance", 1000.0, **on(8, 900.0)),
        step("train", 4000.0, **on(16, 3600.0)),
        step("evaluate", 100.0, **on(8, 450.0)),
        step("gate", None, state="running"),
    ]
    assert cost_of(steps) == Cost(5110.0, "GPU", (8 * 900 + 16 * 3600 + 8 * 450) / 3600)


@pytest.mark.parametrize(("told", "num"), [({"num_devices": 2}, 2), ({}, 1)])
def test_a_drafting_head_has_devices_of_its_own(told: dict[str, int], num: int) -> None:
    """One, where a step of an older release does not say."""
    train = on(4, 1000.0, mtp={"compute_seconds": 200.0, **told})
    assert cost_of([step("train", 1000.0, **train)]).device_hours == (4 * 800 + num * 200) / 3600


def test_energy_is_told_where_it_was_measured_and_nowhere_else() -> None:
    assert cost_of([step("train", 1.0, **on(1, 1.0))]).energy_joules is None
    assert cost_of([step("train", 1.0, **on(1, 1.0, energy_joules=7.5))]).energy_joules == 7.5


def test_a_step_of_an_older_release_does_not_say_on_what_it_computed() -> None:
    found = cost_of([step("train", 9.0, compute_seconds=8.0)])
    assert (found.seconds, found.device, found.device_hours) == (9.0, "", None)


def test_steps_on_different_devices_have_hours_of_no_kind() -> None:
    steps = [step("train", 1.0, **on(1, 3600.0)), step("evaluate", 1.0, **on(1, 3600.0))]
    steps[1].result["device"] = "cpu"
    assert cost_of(steps) == Cost(2.0, "", 2.0)


def test_nothing_computed_is_no_hours() -> None:
    assert cost_of([step("importance", 0.1, compute_seconds=0.0)]).device_hours == 0.0


@pytest.mark.parametrize(("name", "num"), [("train", 8), ("evaluate", 4)])
def test_several_nodes_train_and_one_does_the_rest(name: str, num: int) -> None:
    training = TrainingSettings(devices=4, nodes=2, rendezvous="host:29500")
    assert place(name, {"compute_seconds": 1.0}, training) == {"device": "cpu", "num_devices": num}
    assert place(name, {"compute_seconds": 0.0}, training) == {}
    both = replace(training, nodes_for="all")
    assert place(name, {"compute_seconds": 1.0}, both) == {"device": "cpu", "num_devices": 8}
