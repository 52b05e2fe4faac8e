"""The bench asks and grades for real: a server that is slow, a loop, and the evaluator's own way."""

import pytest

from services.evaluator import concurrency_bench
from services.evaluator.concurrency_bench import concurrency_ratio


def test_what_waits_at_once_takes_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency_bench, "QUESTIONS", 96)
    monkeypatch.setattr(concurrency_bench, "SEQUENTIAL", 3)
    assert 4 < concurrency_ratio(1, lambda done, total, note: None)["concurrency_ratio"] < 33
