"""What answers cost in time, tokens and money. Pure functions; money is in the currency that the prices are given in.

What cannot be said is None: a caller tells why, and never shows a zero for it.
"""

from collections.abc import Sequence
from math import ceil, floor
from typing import NamedTuple

from contracts.generation import Answer


class Prices(NamedTuple):
    """What tokens or the machine cost; the user states them, there are none by default.

    ``prompt`` and ``completion`` are per million tokens, ``hour`` is of the machine that answers.
    """

    prompt: float = 0.0
    completion: float = 0.0
    hour: float = 0.0


class Operations(NamedTuple):
    """What an arm's answers took.

    Milliseconds are of the whole answer and of its parts, as the generator timed them; tokens are means an answer.
    """

    answers: int
    total_ms_p50: float
    total_ms_p95: float
    generate_ms_p50: float
    retrieve_ms_p50: float
    queue_ms_p50: float
    prompt_tokens: float
    completion_tokens: float
    tokens_per_second: float | None
    """Completion tokens over seconds of generating, of one request; None where no time was told."""


def operations(answers: Sequence[Answer]) -> Operations | None:
    """Return what these answers took; None where there are none."""
    if not answers:
        return None
    totals = [answer.timings_ms.total for answer in answers]
    generating = sum(answer.timings_ms.generate for answer in answers) / 1000
    completion = sum(answer.usage.completion_tokens for answer in answers)
    return Operations(
        answers=len(answers),
        total_ms_p50=percentile(totals, 50),
        total_ms_p95=percentile(totals, 95),
        generate_ms_p50=percentile([answer.timings_ms.generate for answer in answers], 50),
        retrieve_ms_p50=percentile([answer.timings_ms.retrieve for answer in answers], 50),
        queue_ms_p50=percentile([answer.timings_ms.queue for answer in answers], 50),
        prompt_tokens=sum(answer.usage.prompt_tokens for answer in answers) / len(answers),
        completion_tokens=completion / len(answers),
        tokens_per_second=completion / generating if generating > 0 else None,
    )


def percentile(numbers: Sequence[float], share: float) -> float:
    """Return the percentile, 0 to 100, between the nearest two numbers, as numpy's default does.

    Raises:
        ValueError: there are no numbers, or the share is out of range.
    """
    if not numbers or not 0 <= share <= 100:
        raise ValueError(f"no percentile {share} of {len(numbers)} numbers")
    ordered = sorted(numbers)
    at = (len(ordered) - 1) * share / 100
    below, above = ordered[floor(at)], ordered[ceil(at)]
    return below + (above - below) * (at - floor(at))


def cost_of_one(answers: Sequence[Answer], prices: Prices) -> float | None:
    """Return what one of these answers costs on average; None where there are none, or all prices are zero.

    The machine is paid for the time of generating and retrieving as if it answered one question at a time: what it
    answers at once makes it cheaper.
    """
    if not answers or not any(prices):
        return None
    tokens = sum(
        answer.usage.prompt_tokens * prices.prompt + answer.usage.completion_tokens * prices.completion
        for answer in answers
    )
    hours = sum(answer.timings_ms.generate + answer.timings_ms.retrieve for answer in answers) / 3_600_000
    return (tokens / 1_000_000 + hours * prices.hour) / len(answers)


def cost_per_right(cost: float | None, share_right: float | None) -> float | None:
    """Return what a right answer costs: the wrong ones are paid for, too (Erol et al., "Cost-of-Pass", 2025).

    Args:
        cost: of an answer.
        share_right: of the answers, 0 to 1.

    Returns:
        None where either is not known, or nothing was right: then no sum of money buys a right answer.
    """
    if cost is None or not share_right:
        return None
    return cost / share_right


def break_even(training_cost: float | None, rag_cost: float | None, tuned_cost: float | None) -> int | None:
    """Return after how many questions fine-tuning has paid for itself beside RAG.

    Args:
        training_cost: of one training; each change of the facts costs it again.
        rag_cost: of an answer with passages.
        tuned_cost: of an answer of the fine-tuned model.

    Returns:
        None where a cost is not known, or an answer of the fine-tuned model costs no less: then it never does.
    """
    if training_cost is None or rag_cost is None or tuned_cost is None or tuned_cost >= rag_cost:
        return None
    return ceil(training_cost / (rag_cost - tuned_cost))
