"""Answers graded one by one by a model that sees the question, the reference and the context, and not who answered.

The judge takes reference and answer apart into claims; the verdict is made from the claims in code, and how often the
judge's own verdict is another is told. Grading by a reference: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and
Chatbot Arena", NeurIPS 2023. Before its grades count a judge is examined: :mod:`services.evaluator.examination`.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from contracts.groups import normalized
from services.evaluator.completions import Completions, Failed, Message, Reply, Why
from services.evaluator.judge_prompts import Lang, instructs, pairwise, plain, pointwise
from services.evaluator.patience import STAGGER_S

Verdict = Literal["correct", "partial", "incorrect"]
Choice = Literal["first", "second", "tie"]
Criterion = Literal["tone", "persuasion"]
NotGraded = Why | Literal["empty", "not asked"]
"""``empty``: there is no reference or no answer to grade; ``not asked``: the judge had failed too often by then."""

SCORES: dict[Verdict, float] = {"correct": 1.0, "partial": 0.5, "incorrect": 0.0}
CRITERIA: tuple[Criterion, ...] = ("tone", "persuasion")
GIVE_UP_AFTER = 5
"""So many items in a row without a reply, each tried again and again, and the judge is held for dead."""
_HOPELESS: frozenset[NotGraded] = frozenset({"key", "quota", "budget"})
Thing = TypeVar("Thing")
Made = TypeVar("Made")
Form = TypeVar("Form", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ReferenceClaim(_Strict):
    text: str
    status: Literal["supported", "missing", "contradicted"]


class ExtraClaim(_Strict):
    text: str
    status: Literal["in_context", "not_in_context", "contradicts"]


class Judged(_Strict):
    """What the judge replies. The claims come before the verdict, so that it is made from them."""

    claims_in_reference: list[ReferenceClaim] = Field(min_length=1)
    extra_claims: list[ExtraClaim]
    abstained: bool
    verdict: Verdict
    evidence_quote: str
    rationale: str


class _Compared(_Strict):
    rationale: str
    tone: Choice
    persuasion: Choice


@dataclass(frozen=True, slots=True)
class Item:
    """One answer to be graded. ``arm`` is never shown to the judge."""

    item: str
    arm: str
    question: str
    reference: str
    context: str
    answer: str


class Grade(BaseModel):
    """``verdict`` is made from the claims, ``judged.verdict`` is the judge's own; ``score`` is 1, 0.5 or 0.

    ``instructs``: the answer seems to instruct its judge, so look at it. ``capped``: only its beginning was graded.
    ``quote_found``: the evidence is a quotation of the answer.
    """

    of: Item
    verdict: Verdict
    score: float
    judged: Judged
    instructs: bool
    capped: bool
    quote_found: bool

    @property
    def item(self) -> str:
        return self.of.item

    @property
    def arm(self) -> str:
        return self.of.arm


class Ungraded(BaseModel):
    """An answer that has no grade, which is not a bad grade: it is left out and counted."""

    item: str
    arm: str
    why: NotGraded
    reason: str


class Preference(BaseModel):
    """Which of two arms' answers is better in tone or persuasion; a tie where the two orders disagree.

    ``choices`` are the judge's, of the order as given and of the other one.
    """

    item: str
    arms: tuple[str, str]
    winner: dict[Criterion, str | None]
    """The arm's name, None for a tie."""
    choices: dict[Criterion, tuple[Choice, Choice]]
    instructs: bool

    def consistent(self, criterion: Criterion) -> bool:
        """Tell whether both orders named the same answer."""
        one, other = self.choices[criterion]
        return _TURNED[one] == other


_TURNED: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass
class Grading:
    """Grades and what was left out."""

    grades: list[Grade] = field(default_factory=list)
    ungraded: list[Ungraded] = field(default_factory=list)

    @property
    def mismatches(self) -> float | None:
        """The share of grades whose verdict is not the judge's own; None where there is no grade."""
        if not self.grades:
            return None
        return sum(grade.verdict != grade.judged.verdict for grade in self.grades) / len(self.grades)

    @property
    def left_out(self) -> dict[NotGraded, int]:
        """How many answers have no grade, by why."""
        return dict(Counter(item.why for item in self.ungraded))


@dataclass(frozen=True, slots=True)
class _Reason:
    why: NotGraded
    reason: str


class _Empty(Exception):
    """There is nothing to grade."""


class Grader:
    """Grades answers through one server. Never raises for what the server does.

    Args:
        completions: whose settings, bounds and cache hold.
        report: told how many are done, of how many.
    """

    def __init__(self, completions: Completions, report: Callable[[int, int], None] = lambda done, total: None):
        self._completions = completions
        self._settings = completions.settings
        self._report = report
        self.model = completions.settings.grading_model
        self.models: Counter[str] = Counter()
        """What the server said that it is, by replies: more than one means that the model changed in the run."""

    async def grade(self, items: Sequence[Item], lang: Lang = "ru", repeat: int = 0) -> Grading:
        """Grade answers, in an order drawn by the seed; grades come in the order of the items.

        Args:
            items: with a reference and an answer; those without are left out.
            lang: of the judge's instructions, not of the answers.
            repeat: another number asks again what was asked before.
        """

        async def one(item: Item) -> Grade:
            if not item.reference.strip() or not plain(item.answer):
                raise _Empty
            shown, capped = self._shown(item.answer)
            messages = pointwise(item.question, item.reference, item.context, shown, lang)
            judged = await self._ask(messages, Judged, repeat)
            verdict = verdict_of(judged)
            quote = normalized(judged.evidence_quote)
            return Grade(
                of=item,
                verdict=verdict,
                score=SCORES[verdict],
                judged=judged,
                instructs=instructs(item.answer),
                capped=capped,
                quote_found=bool(judged.evidence_quote.strip()) and quote in normalized(shown),
            )

        grading = Grading()
        for item, found in zip(items, await self._all(items, one), strict=True):
            if isinstance(found, Grade):
                grading.grades.append(found)
            else:
                grading.ungraded.append(Ungraded(item=item.item, arm=item.arm, why=found.why, reason=found.reason))
        return grading

    async def compare(
        self, pairs: Sequence[tuple[Item, Item]], lang: Lang = "ru"
    ) -> tuple[list[Preference], list[Ungraded]]:
        """Compare two arms' answers in tone and persuasion, never in correctness; each pair in both orders.

        Args:
            pairs: of answers to the same question; those of which one is empty are left out.
            lang: of the judge's instructions.
        """

        async def one(pair: tuple[Item, Item]) -> Preference:
            left, right = pair
            if not plain(left.answer) or not plain(right.answer):
                raise _Empty
            shown = self._shown(left.answer)[0], self._shown(right.answer)[0]
            straight = await self._ask(pairwise(left.question, *shown, lang), _Compared)
            turned = await self._ask(pairwise(left.question, *shown[::-1], lang), _Compared)
            choices = {name: (_choice(straight, name), _choice(turned, name)) for name in CRITERIA}
            preference = Preference(
                item=left.item,
                arms=(left.arm, right.arm),
                winner={},
                choices=choices,
                instructs=instructs(left.answer) or instructs(right.answer),
            )
            for name, (choice, _) in choices.items():
                won = preference.consistent(name) and choice != "tie"
                preference.winner[name] = (left.arm if choice == "first" else right.arm) if won else None
            return preference

        found = await self._all(pairs, one)
        preferences = [each for each in found if isinstance(each, Preference)]
        failed = [
            Ungraded(item=left.item, arm=f"{left.arm} | {right.arm}", why=each.why, reason=each.reason)
            for (left, right), each in zip(pairs, found, strict=True)
            if not isinstance(each, Preference)
        ]
        return preferences, failed

    async def _all(self, things: Sequence[Thing], one: Callable[[Thing], Awaitable[Made]]) -> "list[Made | _Reason]":
        """Do all, some at a time, in an order drawn by the seed; in the place of what failed stands the reason."""
        order = list(range(len(things)))
        random.Random(self._settings.judge_seed).shuffle(order)
        found: dict[int, Made | _Reason] = {}
        pending, done, in_a_row = iter(order), 0, 0
        closed: _Reason | None = None

        async def work(number: int) -> None:
            nonlocal done, in_a_row, closed
            await asyncio.sleep(number * STAGGER_S)
            for place in pending:
                if closed:
                    found[place] = closed
                else:
                    try:
                        found[place] = await one(things[place])
                        in_a_row = 0
                    except _Empty:
                        found[place] = _Reason("empty", "there is no reference or no answer")
                    except Failed as failed:
                        found[place] = reason = _Reason(failed.why, failed.reason)
                        in_a_row += failed.again
                        if failed.why in _HOPELESS:
                            closed = reason
                        elif in_a_row >= GIVE_UP_AFTER:
                            why = f"the judge failed {in_a_row} times in a row: {failed.reason}"
                            closed = _Reason("not asked", why)
                done += 1
                self._report(done, len(things))

        async with asyncio.TaskGroup() as group:
            for number in range(min(self._settings.judge_concurrency, len(things))):
                group.create_task(work(number))
        return [found[place] for place in range(len(things))]

    async def _ask(self, messages: Sequence[Message], form: type[Form], repeat: int = 0) -> Form:
        def read(reply: Reply) -> Form:
            if reply.cut:
                raise ValueError("the reply was cut")
            value = form.model_validate_json(reply.text)
            self.models[reply.model] += 1
            return value

        return await self._completions.ask(
            messages,
            read,
            model=self.model,
            repeat=repeat,
            seed=self._settings.judge_seed,
            max_tokens=self._settings.judge_max_tokens,
            response_format=_response_format(form),
        )

    def _shown(self, answer: str) -> tuple[str, bool]:
        text, most = plain(answer), self._settings.judge_answer_chars
        return (text, False) if len(text) <= most else (text[:most] + " […]", True)


@cache
def _response_format(form: type[BaseModel]) -> dict[str, object]:
    schema = {"name": form.__name__.strip("_").lower(), "strict": True, "schema": form.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}


def verdict_of(judged: Judged) -> Verdict:
    """Return the verdict that the claims make.

    An answer that says it does not know, contradicts anything, or supports nothing is incorrect; one that supports all
    of the reference is correct, whatever it adds that neither contradicts.
    """
    statuses = Counter(claim.status for claim in judged.claims_in_reference)
    contradicts = statuses["contradicted"] or any(claim.status == "contradicts" for claim in judged.extra_claims)
    if judged.abstained or contradicts or not statuses["supported"]:
        return "incorrect"
    return "partial" if statuses["missing"] else "correct"


def _choice(compared: _Compared, criterion: Criterion) -> Choice:
    return compared.tone if criterion == "tone" else compared.persuasion
