"""The last part of result.txt, Russian or English: what was measured, what follows, how to repeat it. Pure.

Nothing is said that the result does not hold; times and ids stand on lines of their own at the end.
"""

from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from contracts.artifacts import printed_model_name
from contracts.evaluation import ArmCounts, AskedQuestion, EvaluationResult, ModeAnswer
from contracts.generation import Mode
from contracts.measurement import ArmMeasured, JudgeFound, Measurement, Probe, ProbeFound, Regime
from contracts.verdict import Verdict
from services.evaluator.advice import advice_lines
from services.evaluator.lines import one_line
from services.evaluator.wording import Language, arm_label, number, verdict_lines

BUNDLED_MODEL = "asktwice-tiny"
QUANTIZATION = {"nf4": "(с INT4 квантизацией)", "none": "(без квантизации)"}
_ENGLISH_QUANTIZATION = {"nf4": "(INT4 quantization)", "none": "(no quantization)"}
REGIMES: dict[Regime, dict[Language, str]] = {
    "new question, known context": {"ru": "новых по известным контекстам", "en": "new on known contexts"},
    "new context": {"ru": "новых по новым контекстам", "en": "new on new contexts"},
    "no context": {"ru": "новых без контекста", "en": "new without a context"},
    "trained question": {"ru": "известных из обучения", "en": "known from training"},
    "not known": {"ru": "о которых неизвестно, были ли они в обучении", "en": "perhaps known from training"},
}
PROBES: dict[Probe, dict[Language, str]] = {
    "trained": {"ru": "обученные вопросы ещё раз, верно", "en": "trained questions again, right"},
    "changed": {
        "ru": "факт изменён после обучения, верно по-новому",
        "en": "a fact changed after the training, right as it is now",
    },
    "unknown": {"ru": "чего никто не знает, признано незнание", "en": "what nobody knows, abstained"},
    "distractors": {"ru": "свой контекст после чужих, верно", "en": "the own context behind others, right"},
    "general": {"ru": "общие знания, верно", "en": "general knowledge, right"},
}
_TEXT: dict[str, dict[Language, str]] = {
    "counts": {
        "ru": "{name}: ответов {given} из {asked}, ошибок {failed}",
        "en": "{name}: {given} answers to {asked} questions, {failed} failed",
    },
    "tokens": {
        "ru": "; токенов в запросах {prompt}, в ответах {completion}",
        "en": "; {prompt} tokens in prompts, {completion} in answers",
    },
    "sources": {"ru": "; источников на ответ в среднем {mean}", "en": "; {mean} sources an answer on average"},
    "model": {"ru": "Отвечала модель: {model} {quantization}{where}", "en": "The model: {model} {quantization}{where}"},
    "profile": {"ru": "профиль {profile}", "en": "profile {profile}"},
    "device": {"ru": "устройство {device}", "en": "device {device}"},
    "bundled": {
        "ru": ". Это маленькая модель из комплекта AskTwice, а не Qwen: о больших моделях её ответы не говорят.",
        "en": ". It is the small model that comes with AskTwice, not Qwen: its answers tell nothing of large models.",
    },
    "store": {"ru": "Хранилище: {store}", "en": "Store: {store}"},
    "embedding": {"ru": "Векторы поиска: {name}", "en": "Search vectors: {name}"},
    "hashed": {
        "ru": " (хешированные n-граммы символов: замена модели эмбеддингов, смысла слов не знает)",
        "en": " (hashed character n-grams: in place of an embedding model, they know no meanings)",
    },
    "questions": {"ru": "Вопросы: {count}, {origin}", "en": "Questions: {count}, {origin}"},
    "from file": {"ru": "из {name}", "en": "from {name}"},
    "from request": {"ru": "из запроса", "en": "from the request"},
    "table": {
        "ru": "Вопросы: {count}, из {name}: строк {read} = принято {accepted} + отклонено {rejected}"
        " + повторов {duplicates}",
        "en": "Questions: {count}, from {name}: {read} rows = {accepted} accepted + {rejected} rejected"
        " + {duplicates} duplicates",
    },
    "trained on": {
        "ru": "; из принятых не заданы {number}: на них модель обучалась",
        "en": "; of the accepted {number} are not asked: the model was trained on them",
    },
    "first error": {
        "ru": "; первая отклонённая: строка {row} ({reason})",
        "en": "; the first rejected: row {row} ({reason})",
    },
    "opinion": {
        "ru": "Анализ выше: мнение модели {judge} об этих ответах, в выводе не учтено.",
        "en": "The analysis above is the opinion of {judge} on these answers; it has no weight in the verdict.",
    },
    "measured on": {
        "ru": "Измерено на вопросах с эталонными ответами: {count}{file}; из них {regimes}",
        "en": "Measured on questions with reference answers: {count}{file}; of these {regimes}",
    },
    "held out": {
        "ru": " (из {file}, сверх показанных выше: {number})",
        "en": " (of {file}, beside those shown above: {number})",
    },
    "none held out": {
        "ru": "Отложенных строк нет (просили {wanted}): обучение не отложило ни одной (test_fraction рецепта), или все"
        " они уже заданы",
        "en": "There are no held-out rows ({wanted} were asked for): the training held none out (test_fraction of the"
        " recipe), or all of them are asked already",
    },
    "no leak": {
        "ru": "Утечка из обучения и индекса: найдено и исключено из вывода вопросов: {found}",
        "en": "Leakage from training and index: {found} questions found and left out of the verdict",
    },
    "leak": {"ru": "Утечка: {reason}", "en": "Leakage: {reason}"},
    "not compared": {"ru": "Не сравнивается: {why}", "en": "Not compared: {why}"},
    "judge": {
        "ru": "Судья {model}: прошёл проверку на {planted} ответах с известной оценкой; оценил ответов {graded}, без"
        " оценки {left}. Вывод сделан по его оценкам, без меток людей (asktwice labels)",
        "en": "The judge {model} passed its examination on {planted} answers of known grade; it graded {graded}"
        " answers, {left} have no grade. The verdict is made of its grades, without people's labels (asktwice labels)",
    },
    "judge silent": {
        "ru": "Судья {model}: проверку не прошёл, его оценки не учтены",
        "en": "The judge {model} did not pass its examination, its grades do not count",
    },
    "mismatches": {
        "ru": "Собственный вывод судьи расходится с его разбором в {percent} % оценок; учтён разбор",
        "en": "The judge's own verdict is not that of its claims in {percent}% of the grades; the claims count",
    },
    "marked": {
        "ru": "Ответов, похожих на указания судье: {number}; они отмечены в items.csv",
        "en": "Answers that seem to instruct the judge: {number}; they are marked in items.csv",
    },
    "tone": {
        "ru": "Тон, мнение судьи в обоих порядках: лучше {a} {wins_a}, лучше {b} {wins_b}, поровну {ties}",
        "en": "Tone, the judge's opinion in both orders: {a} better {wins_a}, {b} better {wins_b}, equal {ties}",
    },
    "persuasion": {
        "ru": "Убедительность, мнение судьи в обоих порядках: лучше {a} {wins_a}, лучше {b} {wins_b}, поровну {ties}",
        "en": "Persuasion, the judge's opinion in both orders: {a} better {wins_a}, {b} better {wins_b}, equal {ties}",
    },
    "pairs left out": {"ru": ", без сравнения {left}", "en": ", not compared {left}"},
    "no preferences": {
        "ru": "Тон и убедительность не сравниваются: {reason}",
        "en": "Tone and persuasion are not compared: {reason}",
    },
    "leniency": {
        "ru": "Чтобы вывод изменился, судья должен быть мягче к {arm} на {points} п. п., чем к остальным",
        "en": "For the verdict to change, the judge would have to be {points} pp milder to {arm} than to the others",
    },
    "far": {
        "ru": "Даже если бы судья был мягче к {arm} на полбалла из одного, чем к остальным, вывод бы не изменился",
        "en": "Were the judge milder to {arm} than to the others by half of its scale, the verdict would be the same",
    },
    "probe": {"ru": "Проба «{name}»: {told}", "en": 'Probe "{name}": {told}'},
    "probed": {
        "ru": "{arm} {right} из {answered} ({share} %; {low}–{high} %)",
        "en": "{arm} {right} of {answered} ({share}%; {low} to {high}%)",
    },
    "silent": {"ru": "пустой ответ дал {arm}: {silent}", "en": "{arm} said nothing: {silent}"},
    "stale": {"ru": "прежний факт назвал {arm}: {stale}", "en": "{arm} told the former fact: {stale}"},
    "answered": {"ru": "ответов {answered}, без ответа {failed}", "en": "{answered} answers, {failed} without"},
    "arm": {"ru": "{name}: {parts}", "en": "{name}: {parts}"},
    "no verdict": {"ru": "Вывод: сравнить нельзя: {why}.", "en": "Verdict: nothing can be compared: {why}."},
    "nothing": {
        "ru": "Вывод: ни на один вопрос нет ответа, сравнивать нечего. Причины стоят на месте ответов.",
        "en": "Verdict: no question was answered, there is nothing to compare. The reasons stand in place of answers.",
    },
    "one silent": {
        "ru": "Вывод: {name} не ответил ни на один вопрос, поэтому сравнения нет. Причины стоят на месте ответов.",
        "en": "Verdict: {name} answered no question, so nothing is compared. The reasons stand in place of answers.",
    },
    "no references": {
        "ru": "Вывод: {questions} без эталонных ответов нельзя сказать, какой подход точнее."
        " Прочитайте ответы рядом; для вывода о точности нужны вопросы с эталонными ответами.",
        "en": "Verdict: {questions} without reference answers do not tell which approach is more accurate. Read the"
        " answers side by side; a verdict on accuracy needs questions with reference answers.",
    },
    "repeat": {"ru": "Повторить запуск: {command}", "en": "To repeat the run: {command}"},
    "in folder": {"ru": " (файл лежит в папке запуска)", "en": " (the file lies in the run's folder)"},
    "adapter": {"ru": "Адаптер: {id}", "en": "Adapter: {id}"},
    "seconds": {
        "ru": "Время ответа, {name}: медиана {median} с, максимум {most} с"
        " (одновременных вопросов не более {most_at_once})",
        "en": "Time of an answer, {name}: median {median} s, maximum {most} s"
        " (at most {most_at_once} questions at once)",
    },
    "training": {"ru": "Обучение, {name}: {seconds} с", "en": "Training, {name}: {seconds} s"},
    "cost": {
        "ru": "Стоимость 1000 ответов по одному, {name}: {thousand}; одного верного: {right}",
        "en": "Cost of 1,000 answers, one at a time, {name}: {thousand}; of a right one: {right}",
    },
    "break even": {
        "ru": "Дообучение окупается относительно RAG через {number} вопросов",
        "en": "Fine-tuning has paid for itself beside RAG after {number} questions",
    },
    "memory": {
        "ru": "Пик памяти генератора с его запуска: {size} МиБ",
        "en": "Peak memory of the generator since its start: {size} MiB",
    },
    "run": {"ru": "Весь запуск: {seconds} с", "en": "The whole run: {seconds} s"},
    "begun": {"ru": "Начало: {time} UTC", "en": "Begun: {time} UTC"},
    "id": {"ru": "Номер запуска: {id}", "en": "Run: {id}"},
}
_METRICS: dict[str, dict[Language, str]] = {
    "token_f1": {"ru": "F1 слов {value}", "en": "token F1 {value}"},
    "chrf": {"ru": "chrF {value}", "en": "chrF {value}"},
    "rouge_l": {"ru": "ROUGE-L {value}", "en": "ROUGE-L {value}"},
    "bertscore": {"ru": "BERTScore F1 {value}", "en": "BERTScore F1 {value}"},
    "values_recall": {"ru": "найдено значений эталона {percent} %", "en": "{percent}% of the reference's values"},
    "faithfulness": {"ru": "верность найденному {percent} %", "en": "faithful to the passages {percent}%"},
    "judge": {"ru": "оценка судьи {percent} %", "en": "the judge's grade {percent}%"},
    "abstained": {"ru": "отказов {percent} %", "en": "abstained {percent}%"},
}
_RETRIEVAL: dict[str, dict[Language, str]] = {
    "hit_at_1": {"ru": "свой контекст найден первым в {percent} %", "en": "own context found first in {percent}%"},
    "hit_at_3": {"ru": "среди первых трёх в {percent} %", "en": "among the first three in {percent}%"},
}


def measured_lines(result: EvaluationResult) -> Iterator[str]:
    """Yield what does not change from run to run while data, model and adapter stay."""
    lang, shown = result.lang, shown_questions(result)
    for counts in result.counts:
        yield _counts(counts, lang)
    yield _model_line(result)
    if result.store:
        yield _say("store", lang, store=one_line(result.store))
    if result.embedding:
        yield _say("embedding", lang, name=_embedding(result.embedding, lang))
    yield _origin(result, len(shown))
    if result.analysis.text:
        yield _say("opinion", lang, judge=one_line(result.analysis.model))
    if result.wanted and not _held_out(result):
        yield _say("none held out", lang, wanted=result.wanted)
    if result.measurement:
        yield from _measurement(result.measurement, result)
    else:
        yield _without_references(result, shown)
    yield _say("repeat", lang, command=_repeat(result))


def times_and_ids(result: EvaluationResult) -> Iterator[str]:
    """Yield what differs from run to run, a line each, so that two results can be compared without them."""
    lang = result.lang
    if result.adapter:
        yield _say("adapter", lang, id=one_line(result.adapter))
    for counts in result.counts:
        if counts.seconds_median is not None and counts.seconds_most is not None:
            yield _say(
                "seconds", lang, name=arm_label(counts.arm, lang), median=number(counts.seconds_median, lang),
                most=number(counts.seconds_most, lang), most_at_once=result.concurrency,
            )  # fmt: skip
    for measured in result.measurement.arms if result.measurement else []:
        yield from _costs(measured, lang)
    if result.measurement and result.measurement.break_even is not None:
        yield _say("break even", lang, number=result.measurement.break_even)
    if result.memory_bytes:
        yield _say("memory", lang, size=number(result.memory_bytes / 2**20, lang))
    yield _say("run", lang, seconds=number(result.seconds, lang))
    yield _say("begun", lang, time=f"{result.created:%Y-%m-%d %H:%M:%S}")
    yield _say("id", lang, id=result.id)


def shown_questions(result: EvaluationResult) -> list[AskedQuestion]:
    """Return the questions that stand in result.txt."""
    return [question for question in result.asked if not question.held_out]


def answer_of(question: AskedQuestion, arm: str) -> ModeAnswer | None:
    """Return what one arm answered to a question."""
    return next((answer for answer in question.answers if answer.arm == arm), None)


def model_name(result: EvaluationResult) -> str:
    """Return the model's name as people read it."""
    return one_line(printed_model_name(result.model))


def _say(name: str, lang: Language, /, **values: object) -> str:
    return _TEXT[name][lang].format(**values)


def _counts(told: ArmCounts, lang: Language) -> str:
    name = arm_label(told.arm, lang)
    line = _say("counts", lang, name=name, given=told.given, asked=told.asked, failed=told.failed)
    if not told.given:
        return line
    line += _say("tokens", lang, prompt=told.prompt_tokens, completion=told.completion_tokens)
    if told.sources is not None:
        line += _say("sources", lang, mean=number(told.sources, lang))
    return line


def _model_line(result: EvaluationResult) -> str:
    lang = result.lang
    where = [_say("profile", lang, profile=one_line(result.profile))] if result.profile else []
    where += [_say("device", lang, device=one_line(result.device))] if result.device else []
    quantization = (QUANTIZATION if lang == "ru" else _ENGLISH_QUANTIZATION)[result.quantization]
    told = f", {', '.join(where)}" if where else ""
    line = _say("model", lang, model=model_name(result), quantization=quantization, where=told)
    return line + _say("bundled", lang) if model_name(result) == BUNDLED_MODEL else line


def _embedding(name: str, lang: Language) -> str:
    shown = one_line(name)
    return shown + _say("hashed", lang) if shown.startswith("hashed-") else shown


def _origin(result: EvaluationResult, count: int) -> str:
    origin, name, lang = result.origin, one_line(result.origin.file or ""), result.lang
    if origin.kind != "table":
        where = _say("from file", lang, name=name) if name else _say("from request", lang)
        return _say("questions", lang, count=count, origin=where)
    line = _say(
        "table", lang, count=count, name=name, read=origin.read, accepted=count + (origin.trained_on or 0),
        rejected=origin.rejected, duplicates=origin.duplicates,
    )  # fmt: skip
    if origin.trained_on:
        line += _say("trained on", lang, number=origin.trained_on)
    if origin.errors:
        line += _say("first error", lang, row=origin.errors[0].row, reason=one_line(origin.errors[0].reason))
    return line


def notes(result: EvaluationResult) -> Iterator[str]:
    """Yield what a verdict rests on: which questions, whether they leaked, what failed, what became of the judge."""
    measured, lang = result.measurement, result.lang
    if measured is None:
        return
    yield _measured_on(measured, result)
    yield from _leakage(measured, lang)
    for arm in measured.arms:
        if arm.failed:
            told = _say("answered", lang, answered=arm.answered, failed=arm.failed)
            yield _say("arm", lang, name=arm_label(arm.arm, lang), parts=told)
    if measured.judge:
        yield from _judge(measured.judge, lang)


def _measured_on(measured: Measurement, result: EvaluationResult) -> str:
    lang, extra = result.lang, _held_out(result)
    file = _say("held out", lang, file=one_line(measured.file or ""), number=extra) if extra else ""
    regimes = ", ".join(f"{REGIMES[regime][lang]}: {count}" for regime, count in measured.regimes.items())
    return _say("measured on", lang, count=measured.questions, file=file, regimes=regimes)


def _leakage(measured: Measurement, lang: Language) -> Iterator[str]:
    leakage = measured.leakage
    if leakage.reason and not leakage.invalid:  # else the verdict says so
        yield _say("leak", lang, reason=one_line(leakage.reason))
    elif not leakage.invalid:
        yield _say("no leak", lang, found=len(leakage.rows))


def _measurement(measured: Measurement, result: EvaluationResult) -> Iterator[str]:
    lang = result.lang
    yield _measured_on(measured, result)
    yield from _leakage(measured, lang)
    for arm in measured.arms:
        parts = [
            _say("answered", lang, answered=arm.answered, failed=arm.failed),
            *_told(arm.means, _METRICS, lang),
            *_told(arm.retrieval, _RETRIEVAL, lang),
        ]
        yield _say("arm", lang, name=arm_label(arm.arm, lang), parts=", ".join(parts))
    if measured.judge:
        yield from _judge(measured.judge, lang)
    if measured.verdict is None:
        yield _say("no verdict", lang, why=measured.why)
        yield from _probes(measured.probes, lang)
        return
    if measured.why:
        yield _say("not compared", lang, why=measured.why)
    yield from verdict_lines(measured.verdict, lang, lambda arm: arm_label(arm, lang))
    if measured.metric == "judge":
        yield from _leniency(measured, measured.verdict, lang)
    yield from _probes(measured.probes, lang)
    if measured.advice:
        yield from advice_lines(measured.advice, lang)


def _held_out(result: EvaluationResult) -> int:
    return sum(question.held_out and not question.probe for question in result.asked)


def _judge(judge: JudgeFound, lang: Language) -> Iterator[str]:
    name = one_line(judge.model)
    if not judge.counts:
        yield one_line(judge.reason or _say("judge silent", lang, model=name))
        return
    yield _say("judge", lang, model=name, planted=judge.planted, graded=judge.graded, left=judge.ungraded)
    if judge.mismatches:
        yield _say("mismatches", lang, percent=number(100 * judge.mismatches, lang))
    if judge.marked:
        yield _say("marked", lang, number=judge.marked)
    for each in judge.preferences:
        a, b = arm_label(each.a, lang), arm_label(each.b, lang)
        line = _say(each.criterion, lang, a=a, b=b, wins_a=each.wins_a, wins_b=each.wins_b, ties=each.ties)
        yield line + (_say("pairs left out", lang, left=each.left_out) if each.left_out else "")
    if judge.preferences_reason:
        yield _say("no preferences", lang, reason=one_line(judge.preferences_reason))


def _leniency(measured: Measurement, verdict: Verdict, lang: Language) -> Iterator[str]:
    if verdict.winner and measured.outweighed_at:
        points = number(100 * measured.outweighed_at, lang)
        yield _say("leniency", lang, arm=arm_label(verdict.winner, lang), points=points)
    elif verdict.winner:
        yield _say("far", lang, arm=arm_label(verdict.winner, lang))


def _probes(probes: Sequence[ProbeFound], lang: Language) -> Iterator[str]:
    for probe, name in PROBES.items():
        of = [each for each in probes if each.probe == probe]
        told = [
            _say(
                "probed", lang, arm=arm_label(each.arm, lang), right=each.right, answered=each.answered,
                share=number(100 * each.share, lang), low=number(100 * each.low, lang),
                high=number(100 * each.high, lang),
            )
            for each in of
            if each.share is not None and each.low is not None and each.high is not None
        ]  # fmt: skip
        told += [_say("silent", lang, arm=arm_label(each.arm, lang), silent=each.silent) for each in of if each.silent]
        told += [
            _say("stale", lang, arm=arm_label(each.arm, lang), stale=each.stale)
            for each in of
            if each.stale and each.share is not None
        ]
        if told:
            yield _say("probe", lang, name=name[lang], told="; ".join(told))


def _told(values: dict[str, float], texts: dict[str, dict[Language, str]], lang: Language) -> Iterator[str]:
    for name, text in texts.items():
        if name in values:
            share = values[name]
            shown = f"{share:.2f}".replace(".", "," if lang == "ru" else ".")
            yield text[lang].format(value=shown, percent=number(100 * share, lang))


def _costs(arm: ArmMeasured, lang: Language) -> Iterator[str]:
    name = arm_label(arm.arm, lang)
    if arm.training_seconds is not None:
        yield _say("training", lang, name=name, seconds=number(arm.training_seconds, lang))
    told = arm.operations
    if told and told.cost_per_thousand is not None:
        right = "—" if told.cost_per_right is None else f"{told.cost_per_right:.6f}"
        yield _say("cost", lang, name=name, thousand=f"{told.cost_per_thousand:.4f}", right=right)


def _without_references(result: EvaluationResult, shown: Sequence[AskedQuestion]) -> str:
    """Without reference answers there is no winner to name, and it says so."""
    lang = result.lang
    silent = [counts.arm for counts in result.counts if not counts.given]
    if len(silent) == len(result.arms):
        return _say("nothing", lang)
    if silent:
        return _say("one silent", lang, name=arm_label(silent[0], lang))
    return _say("no references", lang, questions=_by_questions(len(shown), lang))


def _by_questions(count: int, lang: Language) -> str:
    if lang == "en":
        return f"{count} questions"
    return f"по {count} вопросу" if count % 10 == 1 and count % 100 != 11 else f"по {count} вопросам"


def _repeat(result: EvaluationResult) -> str:
    extra = _held_out(result)
    measured = result.measurement
    grade, probe = bool(measured and measured.judge), any(question.probe for question in result.asked)
    modes = "" if result.arms == [Mode.rag, Mode.ft] else ",".join(result.arms)
    if result.origin.kind == "default":
        options = [f"--modes {modes}"] * bool(modes) + [f"--measure {extra}"] * bool(extra)
        options += ["--grade"] * grade + ["--probes"] * probe + ["--lang en"] * (result.lang == "en")
        return " ".join(["asktwice evaluate", *options])
    how = "-H 'Content-Type: application/json' --data-binary @questions.json"
    if result.origin.kind == "table":  # a form may be larger than a body
        how = "-F file=@questions.csv"
    query = {"modes": modes, "measure": extra or "", "lang": "en" if result.lang == "en" else ""}
    query |= {"grade": "true" if grade else "", "probe": "true" if probe else ""}
    asked = urlencode({name: value for name, value in query.items() if value}, safe=",:")
    url = f"http://127.0.0.1:8000/evaluate{'?' + asked if asked else ''}"
    quoted = f"'{url}'" if "?" in url else url
    return f"curl -X POST {quoted} {how}{_say('in folder', result.lang)}"


def verdict_of(result: EvaluationResult) -> Verdict | None:
    """Return the verdict of a run; None where there is none."""
    return result.measurement.verdict if result.measurement else None
