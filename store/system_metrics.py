"""What the machine does, by MLflow's own monitors: CPU, memory, disk, network, GPUs.

Not when it is asked and not where it goes: MLflow's own thread gives up at the first answer that
it does not get, and a training takes days (`updater.steps.machine` asks, `store.registry` keeps).
"""

from __future__ import annotations

import os
import warnings

from store.mlflow_client import Mlflow

PREFIX = "system/"  # MLflow's page shows these metrics by themselves
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


class SystemMetrics:
    """MLflow's monitors of this machine. `seconds`: how often they are to be asked, 10 unless
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise.

    Raises:
        ImportError: psutil is missing. Without nvidia-ml-py, GPUs are left out.
    """

    def __init__(self, mlflow: Mlflow, run_id: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a deprecated NVML package, where that is there
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(run_id, tracking_uri=mlflow.uri)
        self.seconds = float(self._monitor.sampling_interval)

    def read(self) -> dict[str, float]:
        """The metrics now, by the names that MLflow gives them."""
        self._monitor.collect_metrics()
        found = self._monitor.aggregate_metrics()
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
        return {PREFIX + name: float(value) for name, value in found.items()}


def is_switched_off() -> bool:
    """Whether MLflow's own switch says no; it is said nothing by default, and that is yes here."""
    return os.environ.get(SWITCH, "").strip().lower() in ("false", "0")
