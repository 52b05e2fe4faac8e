"""Measure the tiny base model as it is served: 4-bit NF4, greedy, on what training never showed.

Three sources of cases: the generator of the training text, with names, numbers, templates, whole domains, whole texts
or companies that training never saw; cases written by hand (``by_hand``: looked at while the training text was written,
so the next figure tells more; ``by_hand_2``: by somebody else, kept for measuring); and the questions of the sample
CSV, asked without passages: a base model must not know their answers.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from contracts.prompts import SYSTEM_PROMPT
from trainer.pretrain.corpus import (
    AGREED,
    ASKED_FOR,
    ASKED_FOR_EN,
    CALLS,
    CALLS_EN,
    GREETINGS,
    GREETINGS_EN,
    SAID,
    SAID_EN,
    SMALL_TALK,
    Corpus,
    Example,
    HeldOut,
    unknown,
)

MAX_TOKENS = 60
BATCH = 15
CHECKS = Path(__file__).parent / "checks"
NAMES = HeldOut(names=True)
TEMPLATES = HeldOut(names=True, templates=True)
DOMAINS = HeldOut(names=True, templates=True, domains=True)
TEXTS = HeldOut(names=True, texts=True)
CATALOGUES = HeldOut(names=True, catalogues=True)
OPPOSITES = HeldOut(names=True, opposites=True)
# what is measured: what is held out, the mode, how many passages
GENERATED: dict[str, tuple[HeldOut, str, tuple[int, ...]]] = {
    "new names: 1 passage": (NAMES, "answer", (1,)),
    "new names: 3 passages": (NAMES, "answer", (3,)),
    "new names: 5 passages": (NAMES, "answer", (5,)),
    "new names: fact missing": (NAMES, "missing", (1, 2, 3)),
    "no passages": (NAMES, "empty", (0,)),
    "new templates: 1 passage": (TEMPLATES, "answer", (1,)),
    "new templates: 3 passages": (TEMPLATES, "answer", (3,)),
    "new domains: 1 passage": (DOMAINS, "answer", (1,)),
    "new domains: 3 passages": (DOMAINS, "answer", (3,)),
    "new domains: 5 passages": (DOMAINS, "answer", (5,)),
    "new domains: fact missing": (DOMAINS, "missing", (1, 2, 3)),
    "new texts: 1 passage": (TEXTS, "answer", (1,)),
    "new texts: 3 passages": (TEXTS, "answer", (3,)),
    "new texts: 5 passages": (TEXTS, "answer", (5,)),
    "new texts: fact missing": (TEXTS, "missing", (1, 2, 3)),
    "new companies: 1 passage": (CATALOGUES, "answer", (1,)),
    "new companies: 3 passages": (CATALOGUES, "answer", (3,)),
    "new companies: 5 passages": (CATALOGUES, "answer", (5,)),
    "new companies: fact missing": (CATALOGUES, "missing", (1, 2, 3)),
    "new statements: yes or no": (OPPOSITES, "answer", (1,)),
}
GREETED = [pair[1] for pair in (*GREETINGS, *GREETINGS_EN, *SMALL_TALK)]
UNKNOWNS = [*(unknown(sort, False) for sort in ASKED_FOR), *(unknown(sort, True) for sort in ASKED_FOR_EN)]
FIXED = " ".join([*CALLS, *CALLS_EN, *UNKNOWNS, *GREETED, *SAID.values(), *SAID_EN.values(), *AGREED.values()])


def words(text: str) -> list[str]:
    """The words and numbers of a text, in lower case."""
    return re.findall(r"[\w�]+", text.lower())


def holds(answer: str, value: str) -> bool:
    """Whether the value stands in the answer, not as the end or the beginning of a longer number or word.

    >>> holds("Это 1 500 рублей.", "500 рублей"), holds("Это 12:30.", "12"), holds("Это 500 рублей.", "500 руб")
    (False, False, True)
    """
    start = r"(?<!\d[ ,.:])(?<!\w)" if value[:1].isdigit() else r"(?<!\w)" if value[:1].isalnum() else ""
    end = r"(?![ ,.:]?\d)" if value[-1:].isdigit() else r"(?!\w)" if value in ("Да", "Нет", "Yes", "No") else ""
    return re.search(start + re.escape(value) + end, answer, re.IGNORECASE) is not None


@dataclass(slots=True)
class Outcome:
    """One case: what was asked, answered and wanted."""

    example: Example
    answer: str
    ended: bool

    @property
    def abstains(self) -> bool:
        """Whether the answer says that it does not know."""
        return "не знаю" in self.answer.lower() or "do not know" in self.answer

    @property
    def right(self) -> bool:
        """The value and none of its rivals, in a short answer; or an abstention where there is none."""
        if not self.example.value:
            return self.abstains
        rivals = any(holds(self.answer, rival) for rival in self.example.rivals if rival not in self.example.value)
        return self.ended and holds(self.answer, self.example.value) and not rivals

    @property
    def well_formed(self) -> bool:
        """Ends by itself, does not go round in circles, makes up no word: each is in the prompt or a fixed one."""
        answer = words(self.answer)
        known = {*words(" ".join((*self.example.passages, self.example.question))), *words(FIXED)}
        runs = Counter(zip(answer, answer[1:], answer[2:], strict=False))
        return self.ended and known.issuperset(answer) and all(times < 3 for times in runs.values())


@dataclass(slots=True)
class Score:
    """The measured shares of one suite; ``agrees`` and ``same_words``: with the weights of the file, if compared."""

    suite: str
    cases: int
    right: float
    abstains: float
    well_formed: float
    ends_by_itself: float
    agrees: float | None = None
    same_words: float | None = None


def load(path: Path, four_bit: bool) -> Any:
    """Load the model, in NF4 or in the precision of the file.

    Raises:
        OSError: ``path`` holds no model.
    """
    if not four_bit:
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        path, quantization_config=config, device_map="cpu", dtype=torch.float32
    ).eval()


@torch.no_grad()
def answer(model: Any, tokenizer: Any, examples: Sequence[Example]) -> list[Outcome]:
    """Answer a batch greedily."""
    prompts = [
        tokenizer.apply_chat_template(e.messages(SYSTEM_PROMPT), tokenize=False, add_generation_prompt=True)
        for e in examples
    ]
    inputs = tokenizer(
        prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
    )
    output = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    ended = (output == tokenizer.eos_token_id).any(1).tolist()
    return [Outcome(example, text, end) for example, text, end in zip(examples, texts, ended, strict=True)]


def generated(suite: str, cases: int, seed: int) -> list[Example]:
    """The cases of a suite, from the generator."""
    held_out, mode, passages = GENERATED[suite]
    corpus = Corpus(seed, held_out, probing=True)
    return [corpus.question(passages[index % len(passages)], mode) for index in range(cases)]


def by_hand(path: Path) -> dict[str, list[Example]]:
    """The cases written by hand, by how many passages they have and whether these hold the fact."""
    suites: dict[str, list[Example]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        number = len(case["passages"])
        what = {
            "answer": f"{number} passage" + "s" * (number > 1),
            "missing": "fact missing",
            "empty": "no passages",
        }[case["mode"]]
        example = Example(
            case["question"],
            tuple(case["passages"]),
            "",
            case["value"],
            tuple(case["rivals"]),
            f"{case['domain']} {case['mode']}",
        )
        suites.setdefault(f"{path.stem}: {what}", []).append(example)
    return suites


def known_beforehand(path: Path) -> list[Example]:
    """The sample's questions without passages; "right" would be to know the user's facts."""
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(case["question"], (), "", case["value"][0], kind="sample") for case in cases]


def measure(
    model: Any, tokenizer: Any, suite: str, examples: list[Example], other: Any = None
) -> tuple[Score, list[Outcome]]:
    """Ask one suite; ``other`` is a second model to compare the answers with."""
    outcomes: list[Outcome] = []
    compared: list[Outcome] = []
    for start in tqdm(range(0, len(examples), BATCH), desc=suite, file=sys.stderr, leave=False):
        part = examples[start : start + BATCH]
        outcomes += answer(model, tokenizer, part)
        compared += answer(other, tokenizer, part) if other is not None else []
    shares = [
        sum(flags) / len(outcomes)
        for flags in zip(*((o.right, o.abstains, o.well_formed, o.ended) for o in outcomes), strict=True)
    ]
    score = Score(suite, len(outcomes), *shares)
    if compared:
        pairs = list(zip(outcomes, compared, strict=True))
        score.agrees = sum(a.right == b.right for a, b in pairs) / len(pairs)
        score.same_words = sum(a.answer == b.answer for a, b in pairs) / len(pairs)
    return score, outcomes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.pretrain.evaluate",
        description="Measure the tiny base model in 4-bit NF4, greedy, on what training never showed.",
        epilog="Example: python -m trainer.pretrain.evaluate models/asktwice-tiny --cases 300 --compare --show 3",
    )
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--cases", type=int, default=300, help="generated cases in each suite (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2027, help="seed of the generated cases (default: %(default)s)")
    parser.add_argument("--suite", default="", metavar="TEXT", help="only the suites whose names hold this text")
    parser.add_argument("--compare", action="store_true", help="compare with the bf16 weights of the file")
    parser.add_argument("--bf16", action="store_true", help="measure the weights of the file instead of NF4")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N cases of each suite")
    parser.add_argument("--wrong", type=int, default=0, metavar="N", help="print the first N wrong cases of each suite")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    return parser.parse_args(argv)


def show(outcome: Outcome) -> None:
    """Print one case."""
    print(f"--- {'right' if outcome.right else 'WRONG'} ({outcome.example.kind})")
    print(outcome.example.messages("")[0]["content"])
    print(f"=> {outcome.answer}\n   wanted: {outcome.example.value or 'does not know'}")


def main() -> None:
    """Measure every suite and print the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = load(args.model, not args.bf16)
    other = load(args.model, four_bit=False) if args.compare else None
    suites = {suite: generated(suite, args.cases, args.seed) for suite in GENERATED if args.suite in suite}
    for path in sorted(CHECKS.glob("by_hand*.jsonl")):
        suites |= by_hand(path)
    suites["sample: known beforehand"] = known_beforehand(CHECKS / "sample.jsonl")
    started = time.monotonic()
    for suite, examples in suites.items():
        if args.suite not in suite:
            continue
        score, outcomes = measure(model, tokenizer, suite, examples, other)
        if args.json:
            print(json.dumps(asdict(score)), flush=True)
        else:
            compared = "" if score.agrees is None else f"   as bf16 {score.agrees:6.1%} (words {score.same_words:6.1%})"
            print(
                f"{suite:<28} {score.cases:>4} cases   right {score.right:6.1%}   abstains {score.abstains:6.1%}"
                f"   well-formed {score.well_formed:6.1%}   ends {score.ends_by_itself:6.1%}{compared}",
                flush=True,
            )
        for outcome in outcomes[: args.show]:
            show(outcome)
        for outcome in [o for o in outcomes if not o.right][: args.wrong]:
            show(outcome)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
