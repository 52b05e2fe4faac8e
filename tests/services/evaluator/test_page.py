"""report.html in a real browser: it draws, filters and opens answers, without a network and without an error."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from contracts.evaluation import EvaluationResult
from contracts.generation import Mode
from services.evaluator.page import report_html
from tests.services.evaluator.fakes import make_result
from tests.services.evaluator.test_measuring import asked_by, measured, right, sometimes, wrong

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ACT = """
<script>
"use strict";
{
const said = {};
const fire = (element, value) => { element.value = value; element.dispatchEvent(new Event("input")); };
said.rows = document.querySelectorAll("tr.q").length;
const [only] = [...document.querySelectorAll(".tools select")];
fire(only, "differ");
said.differ = document.querySelectorAll("tr.q").length;
fire(only, "");
fire(document.querySelector("input[type=search]"), "телевизор");
said.found = document.querySelectorAll("tr.q").length;
document.querySelector("tr.q").click();
said.cards = [...document.querySelectorAll(".cards .card b")].map((b) => b.textContent);
said.title = document.querySelector("h1").textContent;
said.notes = document.querySelectorAll("main > p").length;
said.advice = document.querySelector("#advice")?.textContent ?? "";
said.plots = document.querySelectorAll("svg").length;
document.body.append(Object.assign(document.createElement("i"), { id: "said", textContent: JSON.stringify(said) }));
}
</script>
"""


def looked_at(result: EvaluationResult, tmp_path: Path) -> dict[str, object]:
    """What a person would see after some clicks; a script that failed would leave nothing."""
    page = tmp_path / "report.html"
    page.write_text(report_html(result).replace("</html>", ACT + "</html>"), encoding="utf-8")
    assert BROWSER
    seen = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    said = re.search(r'<i id="said">(.*?)</i>', seen)
    assert said, seen[-2000:]
    found: dict[str, object] = json.loads(said.group(1).replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    return found


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: install it to look at the report for real")
def test_a_manager_sees_the_verdict_filters_questions_and_reads_answers_side_by_side(tmp_path: Path) -> None:
    result = measured(asked_by(60, {"rag": sometimes(0.9, 1), "ft": sometimes(0.3, 2), "base": wrong}))
    seen = looked_at(result, tmp_path)
    assert (
        seen["title"] == "Вывод: лучше RAG. Случайностью разницу с остальными не объяснить (риск ошибки не больше 5 %)."
    )
    grades = [{a.metrics.correct for a in each.answers if a.metrics} for each in result.asked]
    assert (seen["rows"], seen["differ"], seen["found"]) == (60, sum(len(g) > 1 for g in grades), 6)
    assert seen["cards"] == ["Эталон", "RAG", "Fine-tuning", "Без обучения и поиска"]
    assert seen["plots"] == 5
    assert seen["notes"] > 2
    assert seen["advice"].startswith("Совет: ")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: install it to look at the report for real")
def test_a_run_that_measured_nothing_and_one_that_failed_are_shown_too(tmp_path: Path) -> None:
    texts: dict[Mode, list[str | None]] = {Mode.rag: ["Да."], Mode.ft: [None]}
    assert looked_at(make_result(texts, ["Есть телевизор?"]), tmp_path)["plots"] == 0
    silent = looked_at(measured(asked_by(30, {"rag": right, "ft": lambda n: None}), lang="en"), tmp_path)
    assert silent["title"] == "Answers side by side"
    assert silent["rows"] == 30
