"""A verdict in words, Russian or English. No arm is called better where its interval holds zero."""

from collections.abc import Callable, Iterator
from typing import Literal

from contracts.verdict import Contrast, Outcome, Verdict

Language = Literal["ru", "en"]
_ARMS: dict[str, dict[Language, str]] = {
    "base": {"ru": "Без обучения и поиска", "en": "Base model"},
    "rag": {"ru": "RAG", "en": "RAG"},
    "ft": {"ru": "Fine-tuning", "en": "Fine-tuning"},
    "rag_ft": {"ru": "RAG + Fine-tuning", "en": "RAG + Fine-tuning"},
    "oracle": {"ru": "Контроль: верный контекст", "en": "Control: the right context"},
    "shuffled": {"ru": "Контроль: чужой контекст", "en": "Control: another context"},
}
_MEASURES: dict[str, dict[Language, str]] = {
    "harmless": {"ru": "ответы без ошибок, отказ не ошибка", "en": "answers that are not wrong, or abstain"},
}
_TEXT: dict[str, dict[Language, str]] = {
    "better": {
        "ru": "Вывод: лучше {winner}. Случайностью разницу с остальными не объяснить (риск ошибки не больше"
        " {alpha} %).",
        "en": "Verdict: {winner} is better. Chance does not explain its lead over the others (risk of error at most"
        " {alpha}%).",
    },
    "trade_off": {
        "ru": "Вывод: выбор за вами. Точнее {winner}, но {arm} лучше по показателю «{measure}» ({interval} п. п.).",
        "en": 'Verdict: a trade-off. {winner} is more accurate, but {arm} is better in "{measure}" ({interval} pp).',
    },
    "equivalent": {
        "ru": "Вывод: {top} равноценны: разница меньше {margin} п. п. (риск ошибки не больше"
        " {alpha} %). Берите то, что дешевле.",
        "en": "Verdict: {top} are equivalent: the difference is below {margin} pp (risk of error at most"
        " {alpha}%). Take the cheaper one.",
    },
    "not_enough_data": {
        "ru": "Вывод: данных мало, чтобы назвать лучшего.",
        "en": "Verdict: not enough data to name the better one.",
    },
    "invalid": {
        "ru": "Вывод: результат недействителен. {reasons}",
        "en": "Verdict: the result is invalid. {reasons}",
    },
    "top": {"ru": "Ни один способ не обошёл: {top}.", "en": "Nobody is surely better than: {top}."},
    "detect": {
        "ru": "{a} и {b}: такой прогон нашёл бы разницу от {detectable} п. п.; чтобы найти {margin} п. п., нужно"
        " вопросов {needed} (ещё {more}).",
        "en": "{a} and {b}: a run like this finds differences from {detectable} pp on; to find {margin} pp,"
        " {needed} questions are needed ({more} more).",
    },
    "clusters": {
        "ru": "Вопросов с общим источником слишком мало: групп {clusters}, нужно не меньше {min}.",
        "en": "Too few groups of questions: {clusters}, and {min} are needed at least.",
    },
    "unpaired": {
        "ru": "{a} и {b} не сравниваются: у {dropped} вопросов из {of} нет пары ответов.",
        "en": "{a} and {b} are not compared: {dropped} of {of} questions have no pair of answers.",
    },
    "mean": {
        "ru": "{arm}: средняя оценка {mean}{interval}, вопросов {items}",
        "en": "{arm}: mean score {mean}{interval}, {items} questions",
    },
    "unmeasured": {
        "ru": "{arm}: не измерено, ни у одного ответа нет оценки",
        "en": "{arm}: not measured, no answer has a score",
    },
    "contrast": {
        "ru": "{a} − {b}: {difference} п. п., 95-процентный интервал {interval}; вопросов {items}, групп {clusters},"
        " лучше {wins}, хуже {losses}, поровну {ties}{dropped}",
        "en": "{a} - {b}: {difference} pp, 95% interval {interval}; {items} questions in {clusters} groups, better"
        " {wins}, worse {losses}, equal {ties}{dropped}",
    },
    "dropped": {"ru": ", без пары {dropped}", "en": ", without a pair {dropped}"},
    "no interval": {"ru": "не определён", "en": "not determined"},
}


def arm_label(arm: str, language: Language) -> str:
    """Return an arm's name for people: of ``ft:<adapter>`` the adapter's digest, which tells it from all others."""
    head, colon, adapter = arm.partition(":")
    named = _ARMS.get(head, {"ru": head, "en": head})[language]
    return f"{named} {adapter.rpartition('.')[2]}" if colon else named


def verdict_lines(verdict: Verdict, language: Language = "ru", label: Callable[[str], str] = str) -> Iterator[str]:
    """Yield the verdict, then what it rests on, a line each.

    Args:
        label: how an arm is called.
    """
    verdict = _labelled(verdict, label)

    def say(name: str, **values: object) -> str:
        return _TEXT[name][language].format(**values)

    percent = " %" if language == "ru" else "%"
    margin = _points(verdict.settings.margin, language, signed=False)
    top = ", ".join(verdict.top)
    if verdict.outcome is Outcome.trade_off:
        for each in verdict.trade_offs:
            interval = _interval(each.contrast, language, turned=each.contrast.b == each.arm)
            measure = _MEASURES.get(each.measure, {}).get(language, each.measure)
            yield say("trade_off", winner=verdict.winner, arm=each.arm, measure=measure, interval=interval)
    else:
        reasons = "; ".join(verdict.reasons)
        yield say(
            verdict.outcome.name,
            winner=verdict.winner,
            top=top,
            margin=margin,
            reasons=reasons,
            alpha=f"{100 * verdict.settings.alpha:g}",
        )
    if verdict.outcome is Outcome.not_enough_data:
        if len(verdict.top) < len(verdict.arms):
            yield say("top", top=top)
        for contrast in verdict.contrasts:
            if contrast.clusters < verdict.settings.min_clusters:
                yield say("clusters", clusters=contrast.clusters, min=verdict.settings.min_clusters)
                break
        for contrast in verdict.contrasts:
            of = contrast.items + contrast.dropped
            if contrast.dropped > verdict.settings.max_dropped * of:
                yield say("unpaired", a=contrast.a, b=contrast.b, dropped=contrast.dropped, of=of)
        for contrast in verdict.contrasts:
            undecided = contrast.outcome is Outcome.not_enough_data and {contrast.a, contrast.b} <= set(verdict.top)
            if undecided and contrast.detectable is not None and contrast.needed_items is not None:
                yield say(
                    "detect", a=contrast.a, b=contrast.b, margin=margin, needed=contrast.needed_items,
                    detectable=_points(contrast.detectable, language, signed=False),
                    more=contrast.more_items,
                )  # fmt: skip
    for arm in verdict.arms:
        if arm.mean is None:
            yield say("unmeasured", arm=arm.arm)
            continue
        interval = ""
        if arm.low is not None and arm.high is not None:
            interval = f" ({number(100 * arm.low, language)}–{number(100 * arm.high, language)}{percent})"
        mean = f"{number(100 * arm.mean, language)}{percent}"
        yield say("mean", arm=arm.arm, mean=mean, interval=interval, items=arm.items)
    for contrast in verdict.contrasts:
        if contrast.difference is not None:
            yield say(
                "contrast", a=contrast.a, b=contrast.b, difference=_points(contrast.difference, language),
                interval=_interval(contrast, language), items=contrast.items, clusters=contrast.clusters,
                wins=contrast.wins, losses=contrast.losses, ties=contrast.ties,
                dropped=say("dropped", dropped=contrast.dropped) if contrast.dropped else "",
            )  # fmt: skip


def _labelled(verdict: Verdict, label: Callable[[str], str]) -> Verdict:
    def named(contrast: Contrast) -> Contrast:
        return contrast.model_copy(update={"a": label(contrast.a), "b": label(contrast.b)})

    return verdict.model_copy(
        update={
            "winner": verdict.winner and label(verdict.winner),
            "top": list(map(label, verdict.top)),
            "arms": [arm.model_copy(update={"arm": label(arm.arm)}) for arm in verdict.arms],
            "contrasts": list(map(named, verdict.contrasts)),
            "trade_offs": [
                each.model_copy(update={"arm": label(each.arm), "contrast": named(each.contrast)})
                for each in verdict.trade_offs
            ],
        }
    )


def _interval(contrast: Contrast, language: Language, turned: bool = False) -> str:
    if contrast.low is None or contrast.high is None:
        return _TEXT["no interval"][language]
    between = "…" if language == "ru" else " to "
    low, high = (-contrast.high, -contrast.low) if turned else (contrast.low, contrast.high)
    return f"{_points(low, language)}{between}{_points(high, language)}"


def _points(share: float, language: Language, signed: bool = True) -> str:
    """Return percentage points with one digit."""
    text = number(100 * share, language)
    if not signed:
        return text
    return f"+{text}" if round(100 * share, 1) > 0 else text.replace("-", "−")


def number(value: float, language: Language) -> str:
    """Return a number with one digit after the point, or the comma."""
    text = f"{value + 0.0:.1f}".replace("-0.0", "0.0")
    return text.replace(".", ",") if language == "ru" else text
