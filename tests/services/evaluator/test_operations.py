"""What answers cost, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.generation import Answer, Mode
from services.evaluator.operations import (
    Prices,
    break_even,
    cost_of_one,
    cost_per_right,
    operations,
    percentile,
)
from tests.services.evaluator.fakes import make_answer


def answer(total: float, generate: float, retrieve: float = 0.0, tokens: tuple[int, int] = (100, 20)) -> Answer:
    made = make_answer("Сколько?", Mode.rag, "29 900")
    usage = made.usage.model_copy(update={"prompt_tokens": tokens[0], "completion_tokens": tokens[1]})
    times = {"queue": total - generate - retrieve, "retrieve": retrieve, "generate": generate, "total": total}
    return made.model_copy(update={"usage": usage, "timings_ms": made.timings_ms.model_copy(update=times)})


def test_operations_are_medians_tails_and_means() -> None:
    found = operations([answer(100 * n, 80 * n, 10 * n, (100 * n, 10 * n)) for n in range(1, 6)])
    assert found is not None
    assert (found.answers, found.total_ms_p50, found.generate_ms_p50, found.retrieve_ms_p50) == (5, 300, 240, 30)
    assert found.total_ms_p95 == pytest.approx(480)
    assert (found.queue_ms_p50, found.prompt_tokens, found.completion_tokens) == (30, 300, 30)
    assert found.tokens_per_second == pytest.approx(150 / 1.2)


def test_nothing_is_said_of_no_answers_and_of_no_times() -> None:
    assert operations([]) is None
    timeless = operations([answer(0, 0)])
    assert timeless is not None
    assert timeless.tokens_per_second is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(numbers: list[float], share: float) -> None:
    assert percentile(numbers, share) == pytest.approx(float(np.percentile(numbers, share)), abs=1e-6)


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="of 0 numbers"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no percentile 101"):
        percentile([1.0], 101)


def test_cost_is_of_tokens_and_of_the_machines_time() -> None:
    answers = [answer(5000, 3000, 600, (1000, 100)), answer(3000, 1800, 1800, (3000, 300))]
    assert cost_of_one(answers, Prices(prompt=1.5, completion=6)) == pytest.approx((2000 * 1.5 + 200 * 6) / 1e6)
    assert cost_of_one(answers, Prices(hour=100)) == pytest.approx(100 * 3.6 / 3600)
    assert cost_of_one(answers, Prices()) is None
    assert cost_of_one([], Prices(hour=100)) is None


def test_a_right_answer_costs_the_wrong_ones_too() -> None:
    assert cost_per_right(0.02, 0.5) == 0.04
    assert cost_per_right(0.02, 0.0) is None
    assert cost_per_right(None, 0.5) is None
    assert cost_per_right(0.02, None) is None


def test_training_pays_for_itself_where_its_answers_are_cheaper() -> None:
    assert break_even(10, 0.003, 0.001) == 5000
    assert break_even(0, 0.003, 0.001) == 0
    assert break_even(10, 0.001, 0.001) is None
    assert break_even(None, 0.003, 0.001) is None
