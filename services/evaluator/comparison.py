"""The story: ask every question of every arm, say who answered, measure, let the judge compare."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.errors import (
    AdapterMissing,
    AskTwiceError,
    DeadlineExceeded,
    IndexEmpty,
    InternalError,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from contracts.evaluation import (
    Analysis,
    AskedQuestion,
    EvaluationResult,
    ModeAnswer,
)
from contracts.generation import MAX_PASSAGE, AdapterInfo, AdapterList, Answer, AskRequest, GeneratorInfo, Mode
from contracts.measurement import Measurement
from contracts.retrieval import IndexInfo
from contracts.verdict import VerdictSettings
from services.evaluator.arms import Arm, passage_for
from services.evaluator.judge import Judge
from services.evaluator.judging import Judged, judge_run
from services.evaluator.leakage import Leakage
from services.evaluator.lines import EMPTY, is_blank
from services.evaluator.measuring import Scorer, has_references, look_for_leaks, measure_run
from services.evaluator.patience import STAGGER_S, Patience
from services.evaluator.plan import Plan, make_plan
from services.evaluator.probes import add_probes
from services.evaluator.questions import Questions
from services.evaluator.report import first_arm, sections
from services.evaluator.settings import EvaluatorSettings
from services.evaluator.wording import Language

ASK_TRIES = 5
INFO_TIMEOUT_S = 5.0

Grading = Callable[[int, int], None]
Keep = Callable[[int, ModeAnswer], Awaitable[None]]
"""Called with a question's index and an answer to it as soon as it is there; the next question waits for it."""

log = logging.getLogger("asktwice")

_REASONS: dict[type[AskTwiceError], dict[Language, str]] = {
    AdapterMissing: {"ru": "нет дообученного адаптера", "en": "there is no fine-tuned adapter"},
    IndexEmpty: {"ru": "индекс пуст", "en": "the index is empty"},
    Overloaded: {"ru": "очередь генератора переполнена", "en": "the generator's queue is full"},
    Unavailable: {"ru": "сервис недоступен", "en": "the service is not there"},
    DeadlineExceeded: {"ru": "ответ не готов вовремя", "en": "no answer in time"},
    InternalError: {"ru": "внутренняя ошибка генератора", "en": "an error inside the generator"},
}
_FAILED: dict[str, dict[Language, str]] = {
    "no context": {"ru": "у вопроса нет контекста", "en": "the question has no context"},
    "long context": {"ru": "контекст длиннее {most} знаков", "en": "the context is longer than {most} characters"},
    "deadline": {"ru": "нет ответа за {seconds} с", "en": "no answer within {seconds} s"},
    "inside": {"ru": "внутренняя ошибка ({kind})", "en": "an error inside ({kind})"},
}


class Comparison:
    """Asks every arm. One for the whole service: its bound holds over all evaluations that run at once."""

    def __init__(
        self, generator: GeneratorClient, retriever: RetrieverClient, judge: Judge, settings: EvaluatorSettings
    ):
        self._generator = generator
        self._retriever = retriever
        self._judge = judge
        self._settings = settings
        self._places = asyncio.Semaphore(settings.concurrency)

    async def run(
        self, id: str, plan: Plan, keep: Keep, grading: Grading = lambda done, total: None
    ) -> EvaluationResult:
        """Look for leaks, ask, describe, grade, measure, judge. A question that fails is part of the result and stops
        nothing.

        Args:
            grading: told how many of the judge's replies are there, of how many that are known to be needed.

        Raises:
            Unavailable: nothing was answered and the generator does not even say which model it runs.
        """
        created, begun = datetime.now(UTC), time.monotonic()
        leakage = await asyncio.to_thread(look_for_leaks, plan)
        await self.ask_all(plan, keep)
        result = EvaluationResult(
            id=id,
            created=created,
            **await self._who_answered(plan.asked),
            origin=plan.origin,
            concurrency=self._settings.concurrency,
            asked=plan.asked,
            arms=[arm.name for arm in plan.arms],
            lang=plan.lang,
            wanted=plan.wanted,
            analysis=Analysis(model=self._judge.model),
            seconds=0.0,
        )
        judged = await judge_run(plan, self._settings, grading) if plan.grade and has_references(plan) else None
        result.measurement = await asyncio.to_thread(self._measure, plan, leakage, judged)
        if all(first_arm(result, mode) in result.arms for mode in (Mode.rag, Mode.ft)):
            result.analysis = await self._judge.analyse(sections(result), sections(result, swapped=True))
        else:
            result.analysis.error = "Анализа нет: он сравнивает RAG и Fine-tuning, а опрошены не оба."
        result.seconds = time.monotonic() - begun
        return result

    async def plan(
        self, questions: Questions, arms: Sequence[Arm], measure: int = 0, lang: Language = "ru", *,
        grade: bool = False, probe: bool = False,
    ) -> Plan:  # fmt: skip
        """Fix what a run will ask.

        Raises:
            InvalidInput: an arm cannot be asked these questions, there is nothing to measure on, or no judge to grade.
            AskTwiceError: the retriever, which the probes need, does not answer.
        """
        if grade and not self._settings.openai_api_key:
            raise InvalidInput(
                "grade: no judge can be asked. Set OPENAI_API_KEY, and OPENAI_BASE_URL for another server."
            )
        served = await _told(self._generator.adapters()) if any(arm.mode.tuned for arm in arms) else None
        if isinstance(served, AdapterList):
            _check_adapters(arms, served.adapters)
        plan = await asyncio.to_thread(
            make_plan,
            questions,
            arms,
            served.adapters if isinstance(served, AdapterList) else [],
            home=self._settings.home_folder,
            data=self._settings.data,
            measure=measure,
            lang=lang,
            grade=grade,
            settings=VerdictSettings(margin=self._settings.margin),
        )
        if probe and not has_references(plan):
            raise InvalidInput("probe: no question has a reference answer. Send a CSV with answers, or --measure rows.")
        if grade and not has_references(plan):
            raise InvalidInput("grade: no question has a reference answer. Send a CSV with answers, or --measure rows.")
        plan.served = await self._served()
        if grade:
            told = self._settings
            plan.served["judge"] = {
                "model": told.grading_model,
                "seed": told.judge_seed,
                "examined": told.judge_examined,
            }
        if probe:
            await add_probes(plan, self._retriever)
        return plan

    async def _served(self) -> dict[str, Any]:
        """Return what the services say of themselves; nothing of one that does not."""
        told = await asyncio.gather(_told(self._generator.info()), _told(self._retriever.info()))
        names = ("generator", "index")
        return {
            name: each.model_dump(exclude={"memory_bytes"})
            for name, each in zip(names, told, strict=True)
            if isinstance(each, BaseModel)
        }

    def _measure(self, plan: Plan, leakage: Leakage, judged: Judged | None) -> Measurement | None:
        encoder = self._settings.bertscore
        scorer = self._bertscore(encoder) if encoder and has_references(plan) else None
        return measure_run(plan, leakage, self._settings.prices, scorer, encoder, judged)

    def _bertscore(self, name: str) -> Scorer:
        from services.evaluator.bertscore import bertscore, load_encoder

        encoder = load_encoder(name, self._settings.bertscore_layer)

        def score(
            references: Sequence[str | None], answers: dict[str, list[str | None]]
        ) -> dict[str, list[float | None]]:
            found = bertscore(encoder, references, answers)
            return {arm: [each.f1 if each else None for each in scores] for arm, scores in found.items()}

        return score

    async def ask_all(self, plan: Plan, keep: Keep) -> None:
        """Ask what has no answer yet, and put the answers into the plan."""
        asked = plan.asked
        order = {arm.name: place for place, arm in enumerate(plan.arms)}
        there = {(index, given.arm) for index, each in enumerate(asked) for given in each.answers}
        left = [
            (index, arm)
            for index, each in enumerate(asked)
            for arm in plan.asked_of(each)
            if (index, arm.name) not in there
        ]
        pending = iter(left)
        adapters = _adapters_of(asked)
        asking = _Asking(self._generator, self._settings.question_deadline_s, adapters, plan.lang)

        async def work(place: int) -> None:
            await asyncio.sleep(place * STAGGER_S)
            for index, arm in pending:
                passages = asked[index].passages if arm.mode.retrieves else None
                if arm.given:
                    passage = passage_for(arm, asked, index)
                    passages = [passage] if passage else []
                async with self._places:
                    answer = await asking.ask(asked[index].question.question, arm, passages)
                await keep(index, answer)
                asked[index].answers.append(answer)

        try:
            async with asyncio.TaskGroup() as group:
                for place in range(min(self._settings.concurrency, len(left))):
                    group.create_task(work(place))
        except ExceptionGroup as failed:  # only keep() can fail: the disk
            raise failed.exceptions[0] from failed
        for question in asked:
            question.answers.sort(key=lambda answer: order[answer.arm])

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
            "memory_bytes": generator.memory_bytes if generator else None,
            "store": index.store if isinstance(index, IndexInfo) else None,
            "embedding": index.embedding if isinstance(index, IndexInfo) else None,
        }


class _Asking:
    """Asks single questions for one evaluation; the adapter that answers first answers the rest, too."""

    def __init__(self, generator: GeneratorClient, deadline_s: float, adapters: dict[str, str], lang: Language = "ru"):
        self._lang: Language = lang
        self._generator = generator
        self._deadline_s = deadline_s
        self._adapters = adapters

    async def ask(self, question: str, arm: Arm, passages: Sequence[str] | None = None) -> ModeAnswer:
        """Return the answer or the reason why there is none; never raises but when cancelled.

        Args:
            passages: what it is answered from; None: what the arm finds, empty: there is nothing to answer it from.
        """
        answer, error = None, None
        if passages is not None and not passages:
            return ModeAnswer(mode=arm.mode, arm=arm.name, error=_FAILED["no context"][self._lang])
        if any(len(passage) > MAX_PASSAGE for passage in passages or ()):
            error = _FAILED["long context"][self._lang].format(most=MAX_PASSAGE)
            return ModeAnswer(mode=arm.mode, arm=arm.name, error=error)
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._ask_patiently(question, arm, passages)
        except TimeoutError:
            error = _FAILED["deadline"][self._lang].format(seconds=f"{self._deadline_s:g}")
        except AskTwiceError as refused:
            error = _reason(refused, self._lang)
        except Exception as failed:
            log.exception("a question failed")
            error = _FAILED["inside"][self._lang].format(kind=type(failed).__name__)
        if answer is not None and is_blank(answer.answer):
            answer, error = None, EMPTY[self._lang]
        if answer is not None and answer.adapter:
            self._adapters.setdefault(arm.name, answer.adapter)
        return ModeAnswer(mode=arm.mode, arm=arm.name, answer=answer, error=error)

    async def _ask_patiently(self, question: str, arm: Arm, passages: Sequence[str] | None) -> Answer:
        patience = Patience(ASK_TRIES, self._deadline_s)
        while True:
            try:
                request = AskRequest(
                    question=question,
                    adapter=arm.adapter or self._adapters.get(arm.name),
                    passages=list(passages) if passages else None,
                )
                return await self._generator.ask(request, arm.mode)
            except (Overloaded, Unavailable) as error:
                if not await patience.again(error.retry_after):
                    raise


def _check_adapters(arms: Sequence[Arm], served: Sequence[AdapterInfo]) -> None:
    """Refuse an adapter that cannot answer before anything is asked of it.

    Raises:
        InvalidInput: it is not there, was refused by the generator, or is none for this mode.
    """
    known = {info.id: info for info in served}
    for arm in arms:
        if not arm.adapter:
            continue
        info = known.get(arm.adapter)
        if info is None:
            there = ", ".join(known) or "there are none"
            raise InvalidInput(f"modes: the generator has no adapter {arm.adapter}. It has: {there[:500]}.")
        if info.state == "refused":
            raise InvalidInput(f"modes: the generator refuses {arm.adapter}: {info.reason or 'see GET /adapters'}.")
        if arm.mode not in info.modes:
            modes = ", ".join(info.modes)
            raise InvalidInput(f"modes: {arm.adapter} is no adapter for {arm.mode.value}; it answers in {modes}.")


def _adapters_of(asked: Sequence[AskedQuestion]) -> dict[str, str]:
    """Return the adapters that answered already, by arm: the rest is theirs, too."""
    given = [each for question in asked for each in question.answers]
    return {each.arm: each.answer.adapter for each in given if each.answer and each.answer.adapter}


def _reason(error: AskTwiceError, lang: Language) -> str:
    known = next((texts[lang] for kind, texts in _REASONS.items() if isinstance(error, kind)), None)
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
