"""``asktwice serve --winner``: an evaluation's winner, served once its measured answers are found again."""

import random
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from asktwice.judging import finished
from contracts.artifacts import Home
from contracts.errors import AskTwiceError, NotReady, error_from_problem
from contracts.evaluation import EvaluationResult
from contracts.generation import Answer, AskRequest
from contracts.serving import Winner, keep_winner
from contracts.verdict import Outcome, Verdict
from services.evaluator.arms import parse_arms
from services.evaluator.summary import verdict_of

REPLAYED = 10
SAME = 0.9
"""Least share of replayed answers that must be the measured ones to the character. In bfloat16 a greedy answer may
depend on what else is in the batch."""


def winner_of(home: Home, id: str) -> tuple[EvaluationResult, str]:
    """Return an evaluation of this home and the arm that its verdict names; of equals the fastest.

    Raises:
        InvalidInput: there is no such evaluation.
        NotReady: its verdict names none, and why.
    """
    result = finished(home, id)
    verdict = verdict_of(result)
    arm = _named(result, verdict) if verdict else None
    if arm is None:
        said = f"its verdict is {verdict.outcome.value}" if verdict else "it has no verdict"
        raise NotReady(
            f"Evaluation {id} names no arm to serve: {said}. Only BETTER and EQUIVALENT do; ask more questions with"
            " reference answers, or serve a mode of your choice by /ask?mode=."
        )
    return result, arm


def serve_winner(home: Home, id: str) -> Callable[[str], str]:
    """Return what is to be done once the server is ready: confirm the winner, keep it, and say so.

    Raises:
        AskTwiceError: as :func:`winner_of`, before anything is started.
    """
    result, arm = winner_of(home, id)

    def confirmed(url: str) -> str:
        try:
            winner = confirm(url, result, arm)
        except AskTwiceError:
            home.winner.unlink(missing_ok=True)  # it is not what this home serves
            raise
        keep_winner(home, winner)
        return (
            f"/ask?mode=auto answers with {arm}: {winner.outcome} in {id}, {winner.same} of {winner.replayed} measured"
            " answers found again"
        )

    return confirmed


def confirm(url: str, result: EvaluationResult, arm: str) -> Winner:
    """Ask a sample of the measured questions again, through the running server, and compare the answers.

    Raises:
        NotReady: they are not the measured answers: another model, adapter, index or setting is served.
    """
    measured = [
        (question, given.answer)
        for question in result.asked
        if question.measures
        for given in question.answers
        if given.arm == arm and given.answer and given.metrics and given.metrics.correct is not None
    ]
    sample = random.Random(result.id).sample(measured, min(REPLAYED, len(measured)))
    mode, adapter = parse_arms([arm])[0].mode, sample[0][1].adapter
    other, same = "", 0
    with httpx.Client(base_url=url, timeout=600) as http:
        for question, answer in sample:
            body = AskRequest(question=question.question.question, adapter=adapter).model_dump(exclude_none=True)
            response = http.post("/ask", params={"mode": mode.value}, json=body)
            if not response.is_success:
                raise error_from_problem(response.json(), response.status_code)
            if (again := Answer.model_validate_json(response.content)).answer == answer.answer:
                same += 1
            else:
                other = other or f"{question.question.question!r} was {answer.answer!r} and is {again.answer!r}"
    if same < SAME * len(sample):
        raise NotReady(
            f"{arm} is not served as the winner of {result.id}: only {same} of {len(sample)} measured answers were"
            f" found again, such as {other[:500]}. Serve what was measured, or evaluate again."
        )
    verdict = verdict_of(result)
    return Winner(
        evaluation=result.id,
        outcome=verdict.outcome.value if verdict else "",
        arm=arm,
        mode=mode,
        adapter=adapter,
        model=result.model,
        replayed=len(sample),
        same=same,
        confirmed=datetime.now(UTC),
    )


def _named(result: EvaluationResult, verdict: Verdict) -> str | None:
    if verdict.outcome is Outcome.better:
        return verdict.winner
    if verdict.outcome is not Outcome.equivalent:
        return None
    arms = {arm.arm: arm for arm in result.measurement.arms} if result.measurement else {}
    timed = {arm: each.total_ms_p50 for arm in verdict.top if (each := arms[arm].operations)}
    return min(timed, key=lambda arm: timed[arm], default=None)
