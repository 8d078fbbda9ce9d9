"""Saved views of an experiment: which runs, columns and charts MLflow's page shows. Pure.

MLflow 3.17 has no default columns that a server could set, but named views that its page keeps as
tags of the experiment and lists under "Views"; an address may name one. Their form is the page's
own (its savedViewEnvelope and ExperimentPageUIState) and no public contract: a page that
can't read one shows its default. Written by `updater.steps.life` through `store.pages`.
"""

import json
from collections.abc import Sequence
from typing import Any

TAG = "mlflow.sharedViewState."
PARAMETER = "viewStateShareKey"
UPDATES, VERSIONS = "updates", "versions"
MOST_PERIODS = 6  # lines in one chart: MLflow's page has as many dashes to tell them apart

COLUMNS = {
    "tags.`verdict`": 80,
    "tags.`decision`": 110,
    "params.`base`": 55,
    "metrics.`new_period_accuracy`": 145,
    "metrics.`worst_past_change`": 132,
    "metrics.`average_forgetting`": 138,
    "metrics.`minutes`": 75,
    "metrics.`gpu_hours`": 85,
}
"""What the view of updates shows beside the run's name and age, in this order, and how wide."""
FIRST_COLUMNS = {"attributes.`Run Name`": 200, "attributes.`Created`": 118}


def updates() -> tuple[str, str]:
    """A tag, its name and value: a table with a row for each update, the newest first.

    Not sorted by time of creation, because then MLflow folds the rows below their parent.
    """
    return _view(
        UPDATES,
        "Updates",
        {
            "selectedColumns": list(COLUMNS),
            "columnOrder": [*FIRST_COLUMNS, *COLUMNS],
            "columnWidths": {**FIRST_COLUMNS, **COLUMNS},
            "searchFilter": "tags.`updater.kind` != 'life'",
            "orderByKey": "tags.`updater.opened_at`",
        },
    )


def versions(periods: Sequence[str]) -> tuple[str, str]:
    """A tag, its name and value: charts of the parent run, whose steps are the versions' numbers:
    means, and the newest `MOST_PERIODS` of `periods` in one. MLflow adds one for every metric."""
    newest = [f"accuracy/{period}" for period in periods[-MOST_PERIODS:]]
    charts = [
        _line("means", ["average_accuracy", "worst_accuracy"]),
        _line("periods", newest),
    ]
    section = {"uuid": "updater", "name": "By version", "display": True, "isReordered": True}
    return _view(
        VERSIONS,
        "Accuracy by version",
        {
            "compareRunCharts": charts,
            "compareRunSections": [{**section, "columns": 2, "cardHeight": 400}],
            "isAccordionReordered": True,
            "runListHidden": True,
            "searchFilter": "tags.`updater.kind` = 'life'",
            "orderByKey": "attributes.start_time",
        },
    )


def is_untouched(view: str) -> bool:
    """Whether the saved view is one of ours, of any release, that nobody has overwritten since: the
    page writes the time when somebody does."""
    try:
        told = json.loads(view)
        return (told["createdAt"], told["updatedAt"]) == (0, 0)
    except (ValueError, TypeError, KeyError):
        return False


def _line(uuid: str, metrics: list[str]) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": "LINE",
        "metricSectionId": "updater",
        "metricKey": metrics[0],
        "selectedMetricKeys": metrics,
        "xAxisKey": "step",
        "displayPoints": True,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "selectedXAxisMetricKey": "",
        "useGlobalXaxisKey": False,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
    }


def _view(key: str, name: str, shown: dict[str, Any]) -> tuple[str, str]:
    """The view as MLflow's page writes it; what `shown` leaves out is as in the page's default."""
    state = {
        "runsHiddenMode": "FIRST_10_RUNS",
        "runsVisibilityMap": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "selectedColumns": [],
        "columnOrder": [],
        "columnWidths": {},
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        **shown,
    }
    # No time of its own, or saying it twice would say another thing.
    told = {"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    return f"{TAG}{key}", json.dumps(told)
