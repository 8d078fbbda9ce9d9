"""Threads that would wait for busy cores are said, and nothing else is."""

import pytest
import torch

from updater import crowded


@pytest.mark.parametrize(
    ("percent", "threads", "environment", "said"),
    [
        (75.0, 4, None, True),
        (5.0, 4, None, False),
        (75.0, 1, None, False),  # one thread waits for nobody
        (75.0, 4, "4", False),  # somebody has decided
        (25.0, 2, None, False),  # two cores are left for two threads
    ],
)
def test_busy_cores_are_said(
    percent: float,
    threads: int,
    environment: str | None,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(crowded.psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(crowded.psutil, "cpu_percent", lambda _seconds: percent)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    crowded.warn.cache_clear()
    crowded.warn()
    crowded.warn()
    crowded.warn.cache_clear()
    assert len(caplog.messages) == said
    if said:
        assert "3.0 of this machine's 4 cores" in caplog.text
        assert "set OMP_NUM_THREADS=1" in caplog.text
