"""The story: ask every question in both modes, say who answered, let the judge compare."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.errors import (
    AdapterMissing,
    AskTwiceError,
    DeadlineExceeded,
    IndexEmpty,
    InternalError,
    Overloaded,
    Unavailable,
)
from contracts.evaluation import (
    Analysis,
    AskedQuestion,
    EvaluationQuestion,
    EvaluationResult,
    ModeAnswer,
    QuestionsOrigin,
)
from contracts.generation import AdapterList, Answer, AskRequest, GeneratorInfo, Mode
from contracts.retrieval import IndexInfo
from services.evaluator.judge import Judge
from services.evaluator.lines import is_blank
from services.evaluator.patience import Patience
from services.evaluator.report import sections
from services.evaluator.settings import EvaluatorSettings

MODES = (Mode.rag, Mode.ft)
ASK_TRIES = 5
INFO_TIMEOUT_S = 5.0

Keep = Callable[[int, ModeAnswer], Awaitable[None]]
"""Called with a question's index and an answer to it as soon as it is there; the next question waits for it."""

log = logging.getLogger("asktwice")

_REASONS: dict[type[AskTwiceError], str] = {
    AdapterMissing: "нет дообученного адаптера",
    IndexEmpty: "индекс пуст",
    Overloaded: "очередь генератора переполнена",
    Unavailable: "сервис недоступен",
    DeadlineExceeded: "ответ не готов вовремя",
    InternalError: "внутренняя ошибка генератора",
}


class Comparison:
    """Asks both modes. One for the whole service: its bound holds over all evaluations that run at once."""

    def __init__(
        self, generator: GeneratorClient, retriever: RetrieverClient, judge: Judge, settings: EvaluatorSettings
    ):
        self._generator = generator
        self._retriever = retriever
        self._judge = judge
        self._settings = settings
        self._places = asyncio.Semaphore(settings.concurrency)

    async def run(
        self, id: str, questions: Sequence[EvaluationQuestion], origin: QuestionsOrigin, keep: Keep
    ) -> EvaluationResult:
        """Ask, describe, judge. A question that fails is part of the result and stops nothing.

        Raises:
            Unavailable: nothing was answered and the generator does not even say which model it runs.
        """
        created, begun = datetime.now(UTC), time.monotonic()
        asked = await self._ask_all(questions, keep)
        result = EvaluationResult(
            id=id,
            created=created,
            **await self._who_answered(asked),
            origin=origin,
            concurrency=self._settings.concurrency,
            asked=asked,
            analysis=Analysis(model=self._judge.model),
            seconds=0.0,
        )
        result.analysis = await self._judge.analyse(sections(result), sections(result, swapped=True))
        result.seconds = time.monotonic() - begun
        return result

    async def _ask_all(self, questions: Sequence[EvaluationQuestion], keep: Keep) -> list[AskedQuestion]:
        asked = [AskedQuestion(question=question, answers=[]) for question in questions]
        pending = iter([(index, mode) for index in range(len(asked)) for mode in MODES])
        asking = _Asking(self._generator, self._settings.question_deadline_s)

        async def work() -> None:
            for index, mode in pending:
                async with self._places:
                    answer = await asking.ask(asked[index].question.question, mode)
                await keep(index, answer)
                asked[index].answers.append(answer)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._settings.concurrency, len(asked) * len(MODES))):
                    group.create_task(work())
        except ExceptionGroup as failed:  # only keep() can fail: the disk
            raise failed.exceptions[0] from failed
        for question in asked:
            question.answers.sort(key=lambda answer: MODES.index(answer.mode))
        return asked

    async def _who_answered(self, asked: Sequence[AskedQuestion]) -> dict[str, Any]:
        """Return the fields of the result that name the engine: from the answers first, then from the services."""
        answers = [answer.answer for question in asked for answer in question.answers if answer.answer]
        told, index, known = await asyncio.gather(
            _told(self._generator.info()), _told(self._retriever.info()), _told(self._generator.adapters())
        )
        generator = told if isinstance(told, GeneratorInfo) else None
        speaker: Answer | GeneratorInfo | None = answers[0] if answers else generator
        if speaker is None:
            raise Unavailable(
                f"No question could be answered: {told.detail}. Wait until /readyz answers 200 and evaluate again.",
                retry_after=5,
            )
        adapters = sorted({answer.adapter for answer in answers if answer.adapter})
        quantization: Literal["nf4", "none"] = speaker.quantization
        return {
            "model": speaker.model,
            "quantization": quantization,
            "adapter": ", ".join(adapters) or None,
            "data_file": _trained_on(adapters, known) or self._settings.data.name,
            "profile": generator.profile if generator else None,
            "device": generator.device if generator else None,
            "store": index.store if isinstance(index, IndexInfo) else None,
            "embedding": index.embedding if isinstance(index, IndexInfo) else None,
        }


class _Asking:
    """Asks single questions for one evaluation; the adapter that answers first answers the rest, too."""

    def __init__(self, generator: GeneratorClient, deadline_s: float):
        self._generator = generator
        self._deadline_s = deadline_s
        self._adapter: str | None = None

    async def ask(self, question: str, mode: Mode) -> ModeAnswer:
        """Return the answer or the reason why there is none; never raises but when cancelled."""
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._ask_patiently(question, mode)
        except TimeoutError:
            return ModeAnswer(mode=mode, error=f"нет ответа за {self._deadline_s:g} с")
        except AskTwiceError as error:
            return ModeAnswer(mode=mode, error=_reason(error))
        except Exception as error:
            log.exception("a question failed")
            return ModeAnswer(mode=mode, error=f"внутренняя ошибка ({type(error).__name__})")
        if is_blank(answer.answer):
            return ModeAnswer(mode=mode, error="модель вернула пустой ответ")
        if mode.tuned and self._adapter is None:
            self._adapter = answer.adapter
        return ModeAnswer(mode=mode, answer=answer)

    async def _ask_patiently(self, question: str, mode: Mode) -> Answer:
        patience = Patience(ASK_TRIES, self._deadline_s)
        while True:
            try:
                request = AskRequest(question=question, adapter=self._adapter if mode.tuned else None)
                return await self._generator.ask(request, mode)
            except (Overloaded, Unavailable) as error:
                if not await patience.again(error.retry_after):
                    raise


def _reason(error: AskTwiceError) -> str:
    known = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), None)
    return f"{known} ({error.detail})" if known else error.detail


def _trained_on(adapters: Sequence[str], known: AdapterList | AskTwiceError) -> str | None:
    """Return the files that these adapters were trained on, as far as the generator knows them."""
    listed = known.adapters if isinstance(known, AdapterList) else []
    return ", ".join(sorted({info.data_file for info in listed if info.id in adapters and info.data_file})) or None


async def _told(info: Awaitable[Any]) -> Any:
    """Return what a service says of itself, or the error: a name is not worth an evaluation."""
    try:
        async with asyncio.timeout(INFO_TIMEOUT_S):
            return await info
    except AskTwiceError as error:
        return error
    except TimeoutError:
        return DeadlineExceeded("a service did not say in time what it is")
