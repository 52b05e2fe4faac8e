"""Measure the tiny base model as it is served: 4-bit NF4, greedy, on names that training never showed."""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from contracts.prompts import SYSTEM_PROMPT
from trainer.pretrain.corpus import Corpus, Example

MAX_TOKENS = 60
SUITES = {
    "value, 1 passage": ("answer", (1,)),
    "value, 3-4 passages": ("answer", (3, 4)),
    "abstains, fact missing": ("missing", (1, 2, 3)),
    "abstains, no context": ("empty", (0,)),
}


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
        rivals = any(rival in self.answer for rival in self.example.rivals if rival not in self.example.value)
        return self.ended and self.example.value in self.answer and not rivals


@dataclass(slots=True)
class Score:
    """The measured figures of one suite."""

    suite: str
    cases: int
    right: float
    abstains: float
    ends_by_itself: float


def load(path: Path, four_bit: bool) -> tuple[Any, Any]:
    """Load the tokenizer and the model, in NF4 or in the precision of the file."""
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    if not four_bit:
        return tokenizer, AutoModelForCausalLM.from_pretrained(path).eval()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return tokenizer, AutoModelForCausalLM.from_pretrained(
        path, quantization_config=config, device_map="cpu", dtype=torch.float32
    ).eval()


@torch.no_grad()
def answer(model: Any, tokenizer: Any, examples: list[Example]) -> list[Outcome]:
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


def measure(model: Any, tokenizer: Any, suite: str, cases: int, seed: int) -> tuple[Score, list[Outcome]]:
    """Run one suite."""
    mode, passages = SUITES[suite]
    corpus = Corpus(seed, held_out=True)
    examples = [corpus.question(passages[index % len(passages)], mode) for index in range(cases)]
    outcomes: list[Outcome] = []
    for start in tqdm(range(0, cases, 10), desc=suite, file=sys.stderr):
        outcomes += answer(model, tokenizer, examples[start : start + 10])
    right, abstains, ended = (
        sum(flags) / cases for flags in zip(*((o.right, o.abstains, o.ended) for o in outcomes), strict=True)
    )
    return Score(suite, cases, right, abstains, ended), outcomes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.pretrain.evaluate",
        description="Measure the tiny base model in 4-bit NF4, greedy, on held-out names.",
        epilog="Example: python -m trainer.pretrain.evaluate models/asktwice-tiny --cases 100 --show 3",
    )
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--cases", type=int, default=100, help="cases in each suite (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=90210, help="seed of the cases (default: %(default)s)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N cases of each suite")
    parser.add_argument(
        "--bf16", action="store_true", help="measure the weights of the file, without 4-bit quantisation"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Measure every suite and print the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    tokenizer, model = load(args.model, not args.bf16)
    started = time.monotonic()
    for suite in SUITES:
        score, outcomes = measure(model, tokenizer, suite, args.cases, args.seed)
        if args.json:
            print(json.dumps(asdict(score)))
        else:
            print(
                f"{suite:<24} right {score.right:6.1%}   abstains {score.abstains:6.1%}"
                f"   ends by itself {score.ends_by_itself:6.1%}",
                flush=True,
            )
        for outcome in outcomes[: args.show]:
            print(
                f"--- {'right' if outcome.right else 'WRONG'} ({outcome.example.kind})\n"
                f"{outcome.example.messages('')[0]['content']}"
            )
            print(f"=> {outcome.answer}\n   wanted: {outcome.example.answer}")
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
