"""What to ship. The measurements decide as far as they can tell, the circumstances rule arms out, and every reason
names its number. What would change the advice is found by asking again under other circumstances."""

from collections.abc import Iterator, Sequence

from contracts.advice import Advice, Choice, Circumstances, Flip, Reason
from contracts.generation import Mode
from contracts.measurement import ArmMeasured, Measurement, Probe
from contracts.verdict import Contrast, Outcome, TradeOff
from services.evaluator.wording import Language, arm_label, number

MONTH_S = 30 * 86400.0
MOST_TRAINING = 0.1
"""Share of a month that may go into training again where it runs by itself."""
_CHOICES: dict[Mode, Choice] = {Mode.rag: "rag", Mode.ft: "ft", Mode.rag_ft: "both", Mode.base: "neither"}
_TEXT: dict[str, dict[Language, str]] = {
    "rag": {"ru": "Совет: RAG.", "en": "Advice: RAG."},
    "ft": {"ru": "Совет: дообучение.", "en": "Advice: fine-tuning."},
    "both": {"ru": "Совет: дообучение вместе с поиском.", "en": "Advice: fine-tuning together with retrieval."},
    "neither": {
        "ru": "Совет: ни то ни другое: базовая модель не хуже.",
        "en": "Advice: neither: the base model is no worse.",
    },
    "not yet": {"ru": "Совет: пока ничего не внедрять.", "en": "Advice: ship nothing yet."},
    "no verdict": {"ru": "сравнения нет: {why}", "en": "there is no comparison: {why}"},
    "invalid": {
        "ru": "результат недействителен: вопросы известны из обучения или индекса",
        "en": "the result is invalid: questions are known from training or the index",
    },
    "sources": {"ru": "{arm} не показывает источников", "en": "{arm} shows no sources"},
    "changes": {
        "ru": "{arm}: факты меняются {changes} раз в месяц, а каждое изменение требует обучения заново"
        " ({seconds} с), которое само не запускается",
        "en": "{arm}: facts change {changes} times a month, and each change asks for a new training ({seconds} s) that"
        " does not run by itself",
    },
    "too much training": {
        "ru": "{arm}: {changes} обучений в месяц по {seconds} с занимают больше {most} % времени",
        "en": "{arm}: {changes} trainings a month of {seconds} s take more than {most}% of the time",
    },
    "slow": {
        "ru": "{arm}: 95 % ответов укладываются в {value} мс, а допустимо {most}",
        "en": "{arm}: 95% of the answers take up to {value} ms, and {most} are allowed",
    },
    "none left": {"ru": "условиям не отвечает ни один способ", "en": "no arm meets the conditions"},
    "only one": {"ru": "{arm}: только этот способ отвечает условиям", "en": "{arm} alone meets the conditions"},
    "better": {
        "ru": "{arm} лучше, чем {other}, на {value} п. п. ({low}…{high})",
        "en": "{arm} is better than {other} by {value} pp ({low} to {high})",
    },
    "equal": {
        "ru": "{arm} и {other} одинаково точны: разница наверняка меньше {margin} п. п.",
        "en": "{arm} and {other} are equally accurate: the difference is surely below {margin} pp",
    },
    "undecided": {
        "ru": "{arm} и {other} пока не различить; чтобы найти разницу в {margin} п. п., нужно вопросов: {needed}",
        "en": "{arm} and {other} cannot be told apart yet; to find {margin} pp, {needed} questions are needed",
    },
    "few": {
        "ru": "{arm} и {other} не сравнить: слишком мало групп вопросов",
        "en": "{arm} and {other} cannot be compared: too few groups of questions",
    },
    "trade off": {
        "ru": "но {arm} реже вводит в заблуждение: на {low}…{high} п. п.",
        "en": "but {arm} misleads less often: by {low} to {high} pp",
    },
    "poor": {
        "ru": "{arm}: средняя оценка {value} %, а нужно не меньше {least} %",
        "en": "{arm}: mean score {value}%, and {least}% are needed",
    },
    "probe changed": {
        "ru": "{arm}: после изменения факта верно ответил на {right} из {of} вопросов",
        "en": "{arm}: after a fact had changed {right} of {of} answers were right",
    },
    "probe unknown": {
        "ru": "{arm}: чего не знает, в том признался: {right} из {of}",
        "en": "{arm}: owned not to know what nobody knows in {right} of {of} cases",
    },
    "right": {"ru": "{arm}: средняя оценка {value} %", "en": "{arm}: mean score {value}%"},
    "joins": {
        "ru": "{arm} отвечает по данным, которых нет в модели",
        "en": "{arm} answers from data that is not in the model",
    },
    "style": {"ru": "{arm} усваивает термины и тон", "en": "{arm} takes on terms and tone"},
    "cheaper": {
        "ru": "{arm} дешевле при {volume} вопросах в месяц: {value}",
        "en": "{arm} is cheaper at {volume} questions a month: {value}",
    },
    "faster": {"ru": "{arm} отвечает быстрее: медиана {value} мс", "en": "{arm} answers faster: median {value} ms"},
    "flip": {"ru": "Совет сменится на «{choice}», если {what}.", "en": 'The advice becomes "{choice}" if {what}.'},
    "if sources": {"ru": "нужны источники", "en": "sources are needed"},
    "if no sources": {"ru": "источники не нужны", "en": "sources are not needed"},
    "if changes": {
        "ru": "факты меняются хотя бы раз в месяц, а обучение само не запускается",
        "en": "facts change once a month or more and training does not run by itself",
    },
    "if no changes": {"ru": "факты не меняются", "en": "facts do not change"},
    "if automated": {"ru": "обучение запускается само", "en": "training runs by itself"},
    "if style": {"ru": "важны свои термины и тон", "en": "terms and tone of one's own matter"},
    "if joins": {"ru": "нужны внешние данные", "en": "outside data is needed"},
    "if faster": {"ru": "допустимо меньше {value} мс", "en": "less than {value} ms is allowed"},
    "if slower": {"ru": "допустимо {value} мс", "en": "{value} ms are allowed"},
    "if less": {"ru": "достаточно средней оценки {value} %", "en": "a mean score of {value}% is enough"},
    "if more": {"ru": "нужна средняя оценка выше {value} %", "en": "a mean score above {value}% is needed"},
    "if volume": {"ru": "вопросов в месяц больше {value}", "en": "there are more than {value} questions a month"},
}
_SHORT: dict[Choice, dict[Language, str]] = {
    "rag": {"ru": "RAG", "en": "RAG"},
    "ft": {"ru": "дообучение", "en": "fine-tuning"},
    "both": {"ru": "дообучение вместе с поиском", "en": "fine-tuning with retrieval"},
    "neither": {"ru": "базовая модель", "en": "the base model"},
    "not yet": {"ru": "пока ничего", "en": "nothing yet"},
}


def advise(
    measurement: Measurement, circumstances: Circumstances | None = None, *, price_hour: float = 0.0,
    lang: Language = "ru",
) -> Advice:  # fmt: skip
    """Return what to ship, why, and what would change that.

    Args:
        measurement: of a run.
        circumstances: as the user states them.
        price_hour: of the machine, which makes a training's cost count at a stated volume.
        lang: of the texts.
    """
    circumstances = circumstances or Circumstances()
    asked = _Advisor(measurement, price_hour, lang)
    choice, arm, reasons = asked.choose(circumstances)
    flips = []
    for what, other in asked.others(circumstances):
        turned, named, _ = asked.choose(other)
        if (turned, named) != (choice, arm):
            flips.append(Flip(text=what, choice=turned, arm=named))
    return Advice(choice=choice, arm=arm, reasons=reasons, flips=flips, circumstances=circumstances)


def advice_lines(advice: Advice, lang: Language) -> Iterator[str]:
    """Yield the advice, its reasons and what would change it, a line each."""
    yield _TEXT[advice.choice][lang]
    for reason in advice.reasons:
        yield f"- {reason.text}"
    for choice in dict.fromkeys(flip.choice for flip in advice.flips):
        whats = dict.fromkeys(flip.text for flip in advice.flips if flip.choice == choice)
        what = {"ru": ", или если ", "en": ", or if "}[lang].join(whats)
        yield _TEXT["flip"][lang].format(choice=_SHORT[choice][lang], what=what)


def _mode(arm: str) -> Mode | None:
    head = arm.partition(":")[0]
    return Mode(head) if head in set(Mode) else None


class _Advisor:
    def __init__(self, measurement: Measurement, price_hour: float, lang: Language):
        self._measurement = measurement
        self._price_s = price_hour / 3600
        self._lang: Language = lang
        self._metric = measurement.metric
        compared = {mean.arm for mean in measurement.verdict.arms} if measurement.verdict else set()
        self._arms = {arm.arm: arm for arm in measurement.arms if arm.arm in compared}

    def choose(self, told: Circumstances) -> tuple[Choice, str | None, list[Reason]]:
        """Return the choice, its arm, and the reasons in the order in which they were met."""
        verdict = self._measurement.verdict
        if verdict is None:
            return "not yet", None, [self._reason("no verdict", why=self._measurement.why)]
        if verdict.outcome is Outcome.invalid:
            return "not yet", None, [self._reason("invalid")]
        ruled_out = {name: out for name, arm in self._arms.items() if (out := self._ruled_out(arm, told))}
        reasons = list(ruled_out.values())
        left = [name for name in self._arms if name not in ruled_out]
        if not left:
            return "not yet", None, [*reasons, self._reason("none left")]
        among = [c for c in verdict.contrasts if c.a in left and c.b in left]
        beaten = {c.b if (c.difference or 0) > 0 else c.a for c in among if c.outcome is Outcome.better}
        top = [name for name in left if name not in beaten]
        undecided = [c for c in among if c.a in top and c.b in top and c.outcome is not Outcome.equivalent]
        if undecided:
            leader = max(top, key=lambda name: self._arms[name].means.get(self._metric, 0.0))
            with_leader = [c for c in undecided if leader in (c.a, c.b)] or undecided
            return "not yet", None, [*reasons, *map(self._undecided, with_leader)]
        arm, why = self._preferred(top, told)
        reasons += [self._better(c, arm) for c in among if c.outcome is Outcome.better and arm in (c.a, c.b)]
        reasons += why
        reasons += [self._trade_off(each) for each in verdict.trade_offs if arm == verdict.winner and each.arm in left]
        if len(left) == 1 and len(self._arms) > 1:
            reasons.append(self._reason("only one", arm))
        reasons += self._probed(arm, told)
        mean = self._arms[arm].means.get(self._metric, 0.0)
        figure = f"measurement.arms.{arm}.means.{self._metric}"
        shown = number(100 * mean, self._lang)
        if mean < told.least_right:
            least = number(100 * told.least_right, self._lang)
            return "not yet", None, [*reasons, self._reason("poor", arm, figure, mean, value=shown, least=least)]
        mode = _mode(arm)
        reasons.append(self._reason("right", arm, figure, mean, value=shown))
        return (_CHOICES[mode] if mode else "not yet"), arm, reasons

    def others(self, told: Circumstances) -> Iterator[tuple[str, Circumstances]]:
        """Yield other circumstances, one thing changed in each, and what was changed."""

        def but(what: str, value: object = None, **changes: object) -> tuple[str, Circumstances]:
            return _TEXT[f"if {what}"][self._lang].format(value=value), told.model_copy(update=changes)

        yield but("no sources", sources=False) if told.sources else but("sources", sources=True)
        if told.changes_per_month:
            yield but("no changes", changes_per_month=0.0)
            if not told.automated:
                yield but("automated", automated=True)
        else:
            yield but("changes", changes_per_month=1.0, automated=False)
        if not told.style:
            yield but("style", style=True)
        if not told.joins:
            yield but("joins", joins=True)
        for arm in self._arms.values():
            if arm.operations:
                p95 = arm.operations.total_ms_p95
                allowed = told.max_latency_ms is None or p95 <= told.max_latency_ms
                most = p95 * 0.999 if allowed else p95
                yield but("faster" if allowed else "slower", f"{p95:.0f}", max_latency_ms=most)
        means = [arm.means[self._metric] for arm in self._arms.values() if self._metric in arm.means]
        for mean in sorted(means) if means and max(means) >= told.least_right else [max(means, default=0.0)]:
            shown = number(100 * mean, self._lang)
            enough = mean >= told.least_right
            if means and (enough or mean == max(means)):
                yield but("more" if enough else "less", shown, least_right=min(1.0, mean + 1e-9) if enough else mean)
        volume = self._measurement.break_even
        if volume and (told.questions_per_month is None or told.questions_per_month <= volume):
            yield but("volume", volume, questions_per_month=volume + 1)

    def _probed(self, arm: str, told: Circumstances) -> list[Reason]:
        """Return what the probes say of an arm, as far as the circumstances make it matter."""
        found = {each.probe: each for each in self._measurement.probes if each.arm == arm and each.share is not None}
        wanted: tuple[Probe, ...] = ("changed", "unknown") if told.changes_per_month else ("unknown",)
        return [
            self._reason(
                f"probe {probe}", arm, f"measurement.probes.{probe}.{arm}.share", found[probe].share,
                right=found[probe].right, of=found[probe].answered,
            )
            for probe in wanted
            if probe in found
        ]  # fmt: skip

    def _ruled_out(self, arm: ArmMeasured, told: Circumstances) -> Reason | None:
        mode, seconds = _mode(arm.arm), arm.training_seconds
        if told.sources and mode and not mode.retrieves:
            return self._reason("sources", arm.arm)
        if told.changes_per_month and mode is Mode.ft:
            figure = f"measurement.arms.{arm.arm}.training_seconds"
            shown = "?" if seconds is None else f"{seconds:.0f}"
            values = {"changes": f"{told.changes_per_month:g}", "seconds": shown}
            if not told.automated:
                return self._reason("changes", arm.arm, figure, seconds, **values)
            if seconds is not None and told.changes_per_month * seconds > MOST_TRAINING * MONTH_S:
                most = f"{100 * MOST_TRAINING:.0f}"
                return self._reason("too much training", arm.arm, figure, seconds, most=most, **values)
        if told.max_latency_ms and arm.operations and arm.operations.total_ms_p95 > told.max_latency_ms:
            p95 = arm.operations.total_ms_p95
            figure = f"measurement.arms.{arm.arm}.operations.total_ms_p95"
            return self._reason("slow", arm.arm, figure, p95, value=f"{p95:.0f}", most=f"{told.max_latency_ms:.0f}")
        return None

    def _preferred(self, top: Sequence[str], told: Circumstances) -> tuple[str, list[Reason]]:
        """Return one of the arms that are equally accurate, and why this one."""
        if len(top) == 1:
            return top[0], []
        margin = number(100 * self._settings_margin, self._lang)
        reasons = [
            self._reason("equal", top[0], other=arm_label(other, self._lang), margin=margin) for other in top[1:]
        ]
        for wanted, name in ((told.joins, "joins"), (told.style, "style")):
            fitting = [arm for arm in top if (m := _mode(arm)) and (m.retrieves if name == "joins" else m.tuned)]
            if wanted and fitting and len(fitting) < len(top):
                top = fitting
                reasons.append(self._reason(name, top[0]))
        costs = {arm: cost for arm in top if (cost := self._monthly(arm, told)) is not None}
        if len(top) > 1 and len(costs) == len(top):
            arm = min(top, key=lambda arm: costs[arm])
            values = {"volume": told.questions_per_month, "value": f"{costs[arm]:.4f}"}
            return arm, [*reasons, self._reason("cheaper", arm, None, costs[arm], **values)]
        timed = {arm: each.total_ms_p50 for arm in top if (each := self._arms[arm].operations)}
        arm = min(top, key=lambda arm: timed.get(arm, float("inf")))
        if len(top) > 1 and arm in timed:
            figure = f"measurement.arms.{arm}.operations.total_ms_p50"
            reasons.append(self._reason("faster", arm, figure, timed[arm], value=f"{timed[arm]:.0f}"))
        return arm, reasons

    def _monthly(self, name: str, told: Circumstances) -> float | None:
        """Return what a month costs: the questions, and a training for each change of the facts, once at least."""
        arm = self._arms[name]
        each = arm.operations.cost_per_thousand if arm.operations else None
        if each is None or told.questions_per_month is None:
            return None
        mode = _mode(name)
        trained = 0.0
        if mode and mode.tuned:
            if arm.training_seconds is None:
                return None
            trained = (
                arm.training_seconds * self._price_s * max(1.0, told.changes_per_month if mode is Mode.ft else 1.0)
            )
        return trained + told.questions_per_month * each / 1000

    @property
    def _settings_margin(self) -> float:
        return self._measurement.verdict.settings.margin if self._measurement.verdict else 0.0

    def _better(self, contrast: Contrast, arm: str) -> Reason:
        a_leads = (contrast.difference or 0) > 0
        better, worse = (contrast.a, contrast.b) if a_leads else (contrast.b, contrast.a)
        low, high = contrast.low or 0.0, contrast.high or 0.0
        if not a_leads:
            low, high = -high, -low
        value = abs(contrast.difference or 0.0)
        return self._reason(
            "better", better, f"measurement.verdict.contrasts.{contrast.a}.{contrast.b}.difference", value,
            other=arm_label(worse, self._lang),
            value=number(100 * value, self._lang), low=number(100 * low, self._lang),
            high=number(100 * high, self._lang),
        )  # fmt: skip

    def _trade_off(self, found: TradeOff) -> Reason:
        contrast = found.contrast
        a_leads = contrast.a == found.arm
        low, high = contrast.low or 0.0, contrast.high or 0.0
        if not a_leads:
            low, high = -high, -low
        return self._reason(
            "trade off", found.arm, f"measurement.verdict.trade_offs.{found.measure}.{found.arm}.difference",
            abs(contrast.difference or 0.0), low=number(100 * low, self._lang), high=number(100 * high, self._lang),
        )  # fmt: skip

    def _undecided(self, contrast: Contrast) -> Reason:
        figure = f"measurement.verdict.contrasts.{contrast.a}.{contrast.b}.needed_items"
        other = arm_label(contrast.b, self._lang)
        if contrast.needed_items is None:
            return self._reason("few", contrast.a, other=other)
        margin, needed = number(100 * self._settings_margin, self._lang), contrast.needed_items
        return self._reason("undecided", contrast.a, figure, needed, other=other, margin=margin, needed=needed)

    def _reason(
        self, name: str, arm: str | None = None, figure: str | None = None, number: float | None = None, /,
        **values: object,
    ) -> Reason:  # fmt: skip
        shown = arm_label(arm, self._lang) if arm else ""
        text = _TEXT[name][self._lang].format(arm=shown, **values)
        return Reason(arm=arm, text=text, figure=figure if number is not None else None, value=number)
