"""report.html: one file that works offline. The result is put into the page, and the page draws it."""

import json
from pathlib import Path

from contracts.evaluation import EvaluationResult
from services.evaluator.advice import advice_lines
from services.evaluator.report import result_text
from services.evaluator.summary import PROBES, REGIMES, model_name, notes
from services.evaluator.wording import arm_label, verdict_lines

TEMPLATE = Path(__file__).with_name("report.html")


def report_html(result: EvaluationResult) -> str:
    """Return the page. Whatever the answers hold, it cannot leave the JSON that it stands in."""
    verdict, lang = result.measurement.verdict if result.measurement else None, result.lang
    heads = max(1, len(verdict.trade_offs)) if verdict else 0
    said = list(verdict_lines(verdict, lang, lambda arm: arm_label(arm, lang)))[:heads] if verdict else []
    advice = result.measurement.advice if result.measurement else None
    shown = {
        "result": result.model_dump(mode="json"),
        "model": model_name(result),
        "labels": {arm: arm_label(arm, result.lang) for arm in result.arms},
        "kinds": {kind: names[lang] for kind, names in (*REGIMES.items(), *PROBES.items())},
        "probes": {probe: names[lang] for probe, names in PROBES.items()},
        "notes": list(notes(result)),
        "advice": list(advice_lines(advice, lang)) if advice else [],
        "verdict": said,
        "text": result_text(result),
    }
    data = json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    page = TEMPLATE.read_text(encoding="utf-8")
    return page.replace("__LANG__", result.lang).replace("__DATA__", data.replace("\u2029", "\\u2029"))
