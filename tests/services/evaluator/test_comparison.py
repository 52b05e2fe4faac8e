"""Asking: concurrently but bounded, patiently, and no failure stops the rest."""

import asyncio
import time
from collections import Counter

import pytest

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.errors import InternalError, Overloaded, Unavailable
from contracts.evaluation import EvaluationQuestion, EvaluationResult, ModeAnswer
from contracts.generation import Answer, Mode
from contracts.health import Readiness
from services.evaluator.comparison import Comparison
from services.evaluator.judge import Judge
from services.evaluator.report import result_text
from services.evaluator.settings import EvaluatorSettings
from tests.services.evaluator.fakes import (
    ADAPTER,
    FakeGenerator,
    client_of,
    make_adapter,
    make_answer,
    plan_of,
    retriever_app,
    turns,
)


def compare(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings, count: int, evaluations: int = 1
) -> tuple[EvaluationResult, list[tuple[int, Mode]]]:
    """Run evaluations of so many questions at once; return the last result and what was kept, in order."""
    kept: list[tuple[int, Mode]] = []

    async def keep(index: int, answer: ModeAnswer) -> None:
        kept.append((index, answer.mode))

    async def run() -> EvaluationResult:
        clients = GeneratorClient(client_of(generator.app())), RetrieverClient(client_of(retriever_app(index)))
        comparison = Comparison(*clients, Judge(settings), settings)
        questions = [EvaluationQuestion(question=f"Вопрос номер {n}?") for n in range(count)]
        results = await asyncio.gather(
            *(comparison.run(f"ev_{n}", plan_of(questions), keep) for n in range(evaluations))
        )
        return results[-1]

    return asyncio.run(run()), kept


def test_every_question_is_asked_in_both_modes_and_kept_once(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    result, kept = compare(generator, index, settings, 5)
    assert Counter(kept) == Counter((n, mode) for n in range(5) for mode in (Mode.rag, Mode.ft))
    for n, asked in enumerate(result.asked):
        assert [answer.mode for answer in asked.answers] == [Mode.rag, Mode.ft]
        assert [answer.answer.answer for answer in asked.answers if answer.answer] == [
            f"rag: Вопрос номер {n}?",
            f"ft: Вопрос номер {n}?",
        ]
    assert (result.model, result.quantization, result.adapter) == ("models/asktwice-tiny", "nf4", ADAPTER)
    assert (result.profile, result.device, result.embedding) == ("demo", "cpu", "hashed-char-ngrams-2048")


@pytest.mark.parametrize(("limit", "evaluations"), [(1, 1), (4, 1), (4, 3)])
def test_as_many_questions_as_allowed_are_in_flight_and_no_more(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings, limit: int, evaluations: int
) -> None:
    """The gate opens only when ``limit`` requests wait at once, so a run that is less concurrent never ends."""
    most, gate = 0, asyncio.Event()

    async def gated(question: str, mode: Mode) -> Answer:
        nonlocal most
        most = max(most, generator.in_flight)
        if generator.in_flight >= limit:
            await turns()  # whoever would come in beyond the limit, comes now
            gate.set()
        try:
            async with asyncio.timeout(5):
                await gate.wait()
        finally:
            gate.set()  # one that waited in vain is enough
        most = max(most, generator.in_flight)
        return make_answer(question, mode)

    generator.answering = gated
    settings = settings.model_copy(update={"concurrency": limit})
    result, kept = compare(generator, index, settings, 6, evaluations)
    assert most == limit
    assert all(answer.answer for asked in result.asked for answer in asked.answers)
    assert len(kept) == 12 * evaluations


def test_one_failure_does_not_stop_the_rest(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    async def some_fail(question: str, mode: Mode) -> Answer:
        if "0" in question:
            raise InternalError("The log has the details.")
        if "1" in question:
            raise RuntimeError("a bug")
        return make_answer(question, mode, "" if "2" in question else "Да.")

    generator.answering = some_fail
    result, _ = compare(generator, index, settings, 4)
    errors = [asked.answers[0].error for asked in result.asked]
    assert errors[0] == "внутренняя ошибка генератора (The log has the details.)"
    assert errors[1] is not None
    assert "внутренняя ошибка генератора" in errors[1]
    assert errors[2:] == ["модель вернула пустой ответ", None]
    assert "Ответ 3: [ошибка: модель вернула пустой ответ]\n" in result_text(result)


def test_a_question_that_hangs_ends_at_its_deadline_alone(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    async def one_hangs(question: str, mode: Mode) -> Answer:
        if "1" in question and mode is Mode.rag:
            await asyncio.Event().wait()
        return make_answer(question, mode)

    generator.answering = one_hangs
    result, _ = compare(generator, index, settings.model_copy(update={"question_deadline_s": 0.3}), 3)
    errors = [answer.error for asked in result.asked for answer in asked.answers]
    assert errors == [None, None, "нет ответа за 0.3 с", None, None, None]


@pytest.mark.parametrize("error", [Overloaded("full", retry_after=1), Unavailable("starting", retry_after=1)])
def test_overload_is_waited_out_as_long_as_the_generator_asks(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings, error: Overloaded | Unavailable
) -> None:
    seen: Counter[str] = Counter()

    async def busy_at_first(question: str, mode: Mode) -> Answer:
        seen[question + mode] += 1
        if seen[question + mode] == 1:
            raise error
        return make_answer(question, mode)

    generator.answering = busy_at_first
    begun = time.monotonic()
    result, _ = compare(generator, index, settings, 2)
    assert [answer.error for asked in result.asked for answer in asked.answers] == [None] * 4
    assert time.monotonic() - begun >= 1
    assert set(seen.values()) == {2}


def test_overload_that_outlasts_the_deadline_is_shown(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    async def busy(question: str, mode: Mode) -> Answer:
        raise Overloaded("512 requests wait.", retry_after=60)

    generator.answering = busy
    result, _ = compare(generator, index, settings.model_copy(update={"question_deadline_s": 2.0}), 1)
    assert result.asked[0].answers[0].error == "очередь генератора переполнена (512 requests wait.)"
    assert len(generator.requests) == 2


def test_without_an_adapter_rag_is_answered_and_ft_says_what_to_run(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    generator.answering = generator.without_adapter
    result, _ = compare(generator, index, settings, 2)
    assert result.adapter is None
    text = result_text(result)
    assert "Ответ 2: rag: Вопрос номер 1?\n" in text
    line = "[ошибка: нет дообученного адаптера (Run: asktwice train --data FILE --name NAME)]"
    assert f"Ответ 2: {line}\n" in text


def test_an_adapter_published_in_the_middle_does_not_mix_into_the_rest(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    compare(generator, index, settings.model_copy(update={"concurrency": 1}), 3)
    asked_for = [request.adapter for request, mode in generator.requests if mode is Mode.ft]
    assert asked_for == [None, ADAPTER, ADAPTER]
    assert {request.adapter for request, mode in generator.requests if mode is Mode.rag} == {None}


FT_HEADING = "asktwice-tiny (с INT4 квантизацией) + Fine-tuning на дата сете {}\n"


def test_the_heading_names_the_file_that_the_answering_adapter_was_trained_on(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    generator.adapters = [make_adapter("new.ffffffffffff", "new.csv"), make_adapter(ADAPTER, "мои вопросы.csv")]
    result, _ = compare(generator, index, settings, 1)
    assert result.data_file == "мои вопросы.csv"
    assert FT_HEADING.format("мои вопросы.csv") in result_text(result)


def test_without_an_adapter_the_heading_names_the_file_of_the_settings(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    generator.adapters = [make_adapter(ADAPTER, "other.csv")]
    generator.answering = generator.without_adapter
    result, _ = compare(generator, index, settings, 1)
    assert FT_HEADING.format("selected_qa_full.csv") in result_text(result)


def test_when_nothing_was_answered_the_model_is_the_one_that_the_generator_names(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    async def broken(question: str, mode: Mode) -> Answer:
        raise InternalError("broken")

    generator.answering = broken
    result, _ = compare(generator, index, settings, 1)
    assert result.model == "models/asktwice-tiny"
    assert "Вывод: ни на один вопрос нет ответа" in result_text(result)


def test_when_nobody_says_which_model_runs_there_is_no_result(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    async def broken(question: str, mode: Mode) -> Answer:
        raise InternalError("broken")

    generator.answering, generator.ready = broken, Readiness.of({"model": "loading"})
    with pytest.raises(Unavailable, match="No question could be answered: the generator is not ready"):
        compare(generator, index, settings, 1)


def test_a_retriever_that_tells_nothing_leaves_its_names_out(
    generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    result, _ = compare(generator, Readiness.of({"index": "empty"}), settings, 1)
    assert (result.store, result.embedding) == (None, None)
