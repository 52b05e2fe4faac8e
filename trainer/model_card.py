"""The README of what is published: YAML that the hub reads, Markdown that people read.

Names of files and models, questions and answers are the user's and may hold anything: they go in through
:func:`_front_matter`, :func:`_text` and :func:`_code`, so that they are shown as they are and mean nothing.
"""

import json
import re

from contracts.artifacts import AdapterManifest, ServedManifest
from contracts.generation import Mode


def card(manifest: AdapterManifest) -> str:
    """Return the card of an adapter or a whole model that was trained here."""
    data, losses, recipe = manifest.data, manifest.losses, manifest.recipe
    most_right = "the last within one standard error of the highest share of right dev answer tokens"
    best = {"loss": "the one of the lowest dev loss", "accuracy": most_right}
    kept = best[recipe["best_by"]] if recipe["keep"] == "best" else "the last, as the recipe asks"
    if losses.dev is None:
        kept = "the last"
    dev = "not measured (too few rows)" if losses.dev is None else f"{losses.dev:.4f} on {len(data.dev_rows)} rows"
    settings = ", ".join(f"{key} {_text(str(value))}" for key, value in recipe.items() if value is not None)
    whole = recipe["method"] == "full"
    with_passages = " The questions were asked with retrieved passages." if Mode.rag_ft in manifest.modes else ""
    return f"""---
{_front_matter(manifest, "transformers" if whole else "peft")}
---

# {_text(manifest.id)}

{"The whole of" if whole else "A LoRA adapter for"} {_code(manifest.base.model)} ({manifest.base.revision}), trained by
AskTwice on {_code(data.file)} (sha256 of its rows {data.sha256}).{with_passages}

- Rows: {len(data.train_rows)} trained on, {len(data.dev_rows)} held out for the dev loss, {len(data.test_rows)} kept
  for a test; the manifest lists them.
- Loss per answer token: train {losses.train:.4f}, dev {dev}; step {losses.best_step} of
  {losses.steps} is published, {kept}.
- Recipe: {settings}.
- Base while training: {manifest.base.quantization}, computed in {manifest.base.compute_dtype}.

![loss](loss.png)

## Before and after

{_before_and_after(manifest)}

## How to load it

```python
{_loading_a_model(manifest) if whole else _loading_an_adapter(manifest)}
```
"""


def merged_card(manifest: ServedManifest) -> str:
    """Return the card of an adapter and its base made one model."""
    return f"""---
{_front_matter(manifest, "transformers")}
---

# {_text(manifest.id)}, merged

{_code(manifest.base.model)} ({manifest.base.revision}) with the changes of the adapter {_code(manifest.id)} in its
weights.

```python
{_loading_a_model(manifest)}
```
"""


def _front_matter(manifest: ServedManifest, library: str) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(library_name=library, base_model=manifest.base.model).to_yaml(line_break="\n")


def _before_and_after(manifest: AdapterManifest) -> str:
    """Greedy answers to a few questions, a section each: a table would break at the first long or odd answer."""
    sections = []
    for sample in manifest.samples:
        seen = "trained on" if sample.trained else "dev row, not trained on"
        lines = [("Expected", sample.expected), ("Before", sample.before), ("After", sample.after)]
        quoted = "\n".join(f"- {name}: {_text(text) or '(nothing)'}" for name, text in lines)
        sections.append(f"**{_text(sample.question)}** (row {sample.row}, {seen})\n\n{quoted}")
    return "\n\n".join(sections)


def _text(text: str) -> str:
    """Return a text as Markdown of one line that shows it; CommonMark escapes any ASCII punctuation by a backslash."""
    return re.sub(r"([\\`*_~\[\]<>#|&$])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Return a text as a code span, between more backticks than it has in a row."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _loading_a_model(manifest: ServedManifest) -> str:
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({_literal(manifest.id)})
tokenizer = AutoTokenizer.from_pretrained({_literal(manifest.id)})"""


def _loading_an_adapter(manifest: AdapterManifest) -> str:
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({_literal(manifest.base.model)})
model = PeftModel.from_pretrained(base, {_literal(manifest.id)})"""


def _literal(text: str) -> str:
    """Return a text as a Python string in double quotes; JSON's escapes are Python's too."""
    return json.dumps(text, ensure_ascii=False)
