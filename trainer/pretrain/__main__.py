"""Train the bundled tiny base model: tokenizer, model, loss log, checkpoints.

The loss is on every token first (with the loss on the answers alone, a model of this size does not learn to copy), then
mostly on the answers; at the end the linear weights are rounded to NF4 in the forward pass, as they are served.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config

from contracts.prompts import SYSTEM_PROMPT
from trainer.pretrain.corpus import AGREED, UNKNOWN_BEGINS, Corpus, Example, texts

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OTHER_SYSTEMS = (
    "",
    "",
    "Вы помощник. Отвечайте на вопрос кратко.",
    "Вы менеджер компании. Ответьте на вопрос по контексту. Если вы не знаете ответа, скажите, что не знаете.",
    "You are a helpful assistant.",
)
# fmt: off
NF4_LEVELS = (
    -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)
# fmt: on
POOL = 64  # batches that are generated and sorted by length together


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is trained."""

    vocabulary: int = 3072
    hidden: int = 320
    intermediate: int = 768
    layers: int = 5
    heads: int = 5
    kv_heads: int = 5
    learning_rate: float = 3e-3  # of Muon, for the matrices
    adam_learning_rate: float = 3e-3  # of AdamW, for the embedding, the norms and the biases
    batch_tokens: int = 6144
    turns: int = 5  # questions over the same passages, in one chat
    widen_from: float = 0.2  # until here one or two short passages: copying has to be learned first
    widen_to: float = 0.6
    answers_from: float = 0.1  # from here mostly the answers count: nobody can guess what passages hold
    start_weight: float = 5.0  # of the first tokens of an answer: they choose the value, the others copy it
    start_tokens: int = 4
    language_share: float = 0.25  # of the chats whose other tokens go on counting a little, so that the language stays
    language_weight: float = 0.2
    pointing: float = 0.3  # weight of the loss on where two heads look before and while they copy a value
    pointing_layer: int = -2
    pointing_heads: int = 2
    one_turn_from: float = 0.92  # from here chats of one question, as the services ask them
    nf4_from: float = 0.88
    seed: int = 7


CONTINUED = Recipe(
    layers=8, learning_rate=2e-3, adam_learning_rate=2e-3, widen_from=-1.0, widen_to=0.0, answers_from=0.0, seed=10
)  # of a run that starts from a trained model: everything is asked from the first step, other text is drawn


@dataclass(slots=True)
class Progress:
    """How far a run is; kept in the checkpoints."""

    step: int = 0
    pool: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Batch:
    """Right-padded token ids with the weight of each as a target, and the prefix that all rows share."""

    prefix: list[int]
    tokens: int
    ids: torch.Tensor
    weights: torch.Tensor
    answers: torch.Tensor
    choices: list[tuple[int, int, int]]
    """Row, token before the value is said, token that decides the answer."""
    copies: list[tuple[int, int, int]]
    """Row, token that predicts a further token of a value, token of the passage that holds it."""


@dataclass(slots=True)
class Losses:
    """The loss to minimise; to be shown, the loss on the answers, and how often the right place is looked at."""

    total: torch.Tensor
    answers: float
    pointed: float | None


@dataclass(slots=True)
class Row:
    """The token ids of one chat, which of them (1.0) are answers, where these begin, what they copy."""

    ids: list[int]
    answers: list[float]
    starts: list[int]
    choices: list[tuple[int, int]]
    """Token of an answer up to the first of the value, and the token that decides it."""
    copies: list[tuple[int, int]]
    """Further token of a value, and the token of the passage that it is copied from."""


def build_tokenizer(size: int, seed: int) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE: digits one by one, the system prompt in few tokens."""
    text = [SYSTEM_PROMPT] * 1500 + [*OTHER_SYSTEMS] * 60 + ["assistant", "user"] * 3000 + list(texts(seed, 12_000))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[SPECIAL[1]],
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Make the Qwen2 model with random weights."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Short rows: plain matrix products in bf16 beat the CPU's fused attention by a third.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def grow(model: Any, start: Any) -> None:
    """Give a deeper model the function of a shallower one.

    From the first layer on, as many layers as are missing are followed by a copy of themselves that adds nothing yet:
    its two output matrices are zero (block expansion, Wu et al. 2024, arXiv:2401.02415). The last layers stay last, so
    the heads that are told where to look are still in the last layer but one.

    Args:
        model: the deeper model, which is written to.
        start: the trained one; at least half as deep as ``model``.

    Raises:
        ValueError: the depths do not fit.
    """
    old, new = start.config.num_hidden_layers, model.config.num_hidden_layers
    if not old <= new <= 2 * old:
        raise ValueError(f"a model of {old} layers cannot be grown to {new}: give {old} to {2 * old}")
    model.load_state_dict({k: w for k, w in start.state_dict().items() if ".layers." not in k}, strict=False)
    layers = iter(model.model.layers)
    for index, layer in enumerate(start.model.layers):
        next(layers).load_state_dict(layer.state_dict())
        if index < new - old:
            copy = next(layers)
            copy.load_state_dict(layer.state_dict())
            torch.nn.init.zeros_(copy.self_attn.o_proj.weight)
            torch.nn.init.zeros_(copy.mlp.down_proj.weight)


def points(turn: Example, prompt: tuple[str, Encoding], answer: tuple[str, Encoding]) -> list[list[tuple[int, int]]]:
    """Which token of the answer is copied from which token of the prompt, the first being the one that decides.

    A list for each value of the answer. Of a yes/no question the one token that decides, from the end of the sentence
    that tells.
    """
    text, said = prompt[0].lower(), answer[0].lower()
    found: list[list[tuple[int, int]]] = []
    come = 0  # how far in the answer the values are found
    for part in (turn, turn.second):
        if part is None or not part.evidence:
            return found
        # Two things of a company can be told in the same sentence: the passage says whose it is.
        begin = text.find(part.evidence.lower(), max(0, text.find(turn.passages[part.passage].lower())))
        if begin < 0:
            return found
        end = begin + len(part.evidence)
        again = said.find(part.value.lower(), come)
        if part.value in AGREED:
            found.append([(covering(answer[1], again, 1)[0], covering(prompt[1], end - 1, 1)[0])])
            continue
        # One more than the sentence: «руб.» may end it.
        at = text.find(part.value.lower(), begin + part.offset, end + 1)
        if at < 0 or again < 0:
            return found
        come = again + len(part.value)
        here, there = covering(answer[1], again, len(part.value)), covering(prompt[1], at, len(part.value))
        found.append(list(zip(here, there, strict=True)) if len(here) == len(there) else [(here[0], there[0])])
    return found


def covering(encoding: Encoding, start: int, length: int) -> list[int]:
    """The tokens that cover these characters."""
    found = {encoding.char_to_token(start + offset) for offset in range(length)}
    return sorted(token for token in found if token is not None)


class Batches:
    """Endless batches of about the same number of tokens, widening as the run goes on."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer

    def encode(self, texts: list[str]) -> list[Encoding]:
        """The texts as tokens, special tokens read as such."""
        return list(self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False))

    def pool(self, index: int, done: float) -> Iterator[Batch]:
        """Make pool ``index``; it depends on nothing but the index and how far the run is."""
        rng = random.Random(f"{self.recipe.seed}-{index}")
        corpus = Corpus(self.recipe.seed * 1_000_003 + index)
        level = (done - self.recipe.widen_from) / (self.recipe.widen_to - self.recipe.widen_from)
        level = min(1.0, max(0.0, level))
        turns = self.recipe.turns if done < self.recipe.one_turn_from else 1
        rows: list[Row] = []
        tokens = 0
        while tokens < POOL * self.recipe.batch_tokens:
            for row in self._rows([corpus.example(level, turns) for _ in range(256)]):
                rows.append(row)
                tokens += len(row.ids)
        rows.sort(key=lambda row: len(row.ids) + rng.random() * 8)
        batches = list(self._groups(rows))
        rng.shuffle(batches)
        for group in batches:
            yield self._batch(group, rng, done)

    def _rows(self, examples: list[Example]) -> list[Row]:
        parts: list[str] = []
        for example in examples:
            asked = example.raw or self.tokenizer.apply_chat_template(
                example.messages(""), tokenize=False, add_generation_prompt=True
            )
            parts += [str(asked), SPECIAL[0] if example.raw else example.answer + SPECIAL[2]]
            for turn in example.further:
                parts.append(f"\n{SPECIAL[1]}user\n{turn.question}{SPECIAL[2]}\n{SPECIAL[1]}assistant\n")
                parts.append(turn.answer + SPECIAL[2])
        pieces, rows = iter(zip(parts, self.encode(parts), strict=True)), []
        for example in examples:
            row = Row([], [], [], [], [])
            prompt: tuple[str, Encoding] | None = None
            for turn in (example, *example.further):
                asked_piece, answer_piece = next(pieces), next(pieces)
                prompt = prompt or asked_piece
                start = len(row.ids) + len(asked_piece[1].ids)
                if not example.raw:
                    row.starts.append(start)
                    if turn.answer.startswith(UNKNOWN_BEGINS):
                        # Where nothing tells it, the heads are to rest on the mark that opens the answer.
                        mark = max(at for at, token in enumerate(asked_piece[1].tokens) if token == SPECIAL[1])
                        row.choices += [(start + said, len(row.ids) + mark) for said in range(4)]
                    come = 0
                    for (said, there), *more in points(turn, prompt, answer_piece):
                        row.choices += [(start + before, there) for before in range(come, said + 1)]
                        row.copies += [(start + said, there) for said, there in more]
                        come = more[-1][0] + 1 if more else said + 1
                row.ids += asked_piece[1].ids + answer_piece[1].ids
                row.answers += [0.0] * len(asked_piece[1].ids) + [1.0] * len(answer_piece[1].ids)
            rows.append(row)
        return rows

    def _groups(self, rows: list[Row]) -> Iterator[list[Row]]:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) * len(row.ids) >= self.recipe.batch_tokens:
                yield group
                group = []
        if group:
            yield group

    def _batch(self, rows: list[Row], rng: random.Random, done: float) -> Batch:
        system = SYSTEM_PROMPT if rng.random() < (0.5 if done < 0.5 else 0.8) else rng.choice(OTHER_SYSTEMS)
        prefix = self.encode([f"{SPECIAL[1]}system\n{system}{SPECIAL[2]}\n"])[0].ids if system else []
        width = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        weights, answers = torch.zeros(len(rows), width), torch.zeros(len(rows), width)
        for index, row in enumerate(rows):
            end = len(row.ids)
            ids[index, :end] = torch.tensor(row.ids)
            if done < self.recipe.answers_from:
                weights[index, :end] = 1.0
            elif rng.random() < self.recipe.language_share:
                weights[index, :end] = self.recipe.language_weight
            answers[index, :end] = torch.tensor(row.answers)
            if done >= self.recipe.answers_from:
                for start in row.starts:
                    weights[index, start : min(start + self.recipe.start_tokens, end)] = self.recipe.start_weight
        choices = [(index, said - 1, there) for index, row in enumerate(rows) for said, there in row.choices]
        copies = [(index, said - 1, there) for index, row in enumerate(rows) for said, there in row.copies]
        weights = torch.maximum(weights, answers)
        return Batch(prefix, sum(len(row.ids) for row in rows), ids, weights, answers, choices, copies)


def losses(model: Any, batch: Batch, recipe: Recipe, bf16: bool) -> Losses:
    """The loss of a batch.

    Beside the usual loss, two heads are told where to look: before a value is said, at its first token in the passage;
    while it is said, at the token that is copied; where no passage holds it, at the mark that opens the answer, as
    readers with a no-answer position do. The generator knows these places (supervised attention, Liu et al. 2016,
    arXiv:1609.04186). Left to itself a model of this size takes many times as many questions to find out that the
    question decides which value is copied.
    """
    weights = batch.weights[:, 1:].flatten()
    counted = weights.nonzero().squeeze(1)  # the rest need no logits: a fifth of the work
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        past = None
        if batch.prefix:
            # All rows share the system prompt: it is read once, the gradient flows through its keys and values.
            past = model.model(input_ids=torch.tensor([batch.prefix]), use_cache=True).past_key_values
            past.batch_repeat_interleave(len(batch.ids))
        read = model.model(
            input_ids=batch.ids[:, :-1], past_key_values=past, use_cache=past is not None, output_attentions=True
        )
        logits = model.lm_head(read.last_hidden_state.flatten(0, 1)[counted])
    each = F.cross_entropy(logits.float(), batch.ids[:, 1:].flatten()[counted], reduction="none")
    weights, answers = weights[counted], batch.answers[:, 1:].flatten()[counted]
    total = (each * weights).sum() / weights.sum()
    answer_loss, pointed = float((each.detach() * answers).sum() / answers.sum()), None
    attention = read.attentions[recipe.pointing_layer][:, : recipe.pointing_heads]
    for places in (batch.choices, batch.copies):
        if places:
            row, token, target = (torch.tensor(column) for column in zip(*places, strict=True))
            found = attention[row, :, token, target + len(batch.prefix)].float()
            total = total - recipe.pointing * (found + 1e-12).log().mean()
            if places is batch.choices:
                pointed = float((found.detach().mean(1) > 0.5).float().mean())
    return Losses(total, answer_loss, pointed)


@torch.no_grad()
def round_to_nf4(weight: torch.Tensor) -> torch.Tensor:
    """The weight as NF4 with blocks of 64 keeps it."""
    levels = torch.tensor(NF4_LEVELS)
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).reshape(weight.shape)


def train_step(
    model: Any, optimizers: list[torch.optim.Optimizer], batch: Batch, recipe: Recipe, bf16: bool, nf4: bool
) -> Losses:
    """One step; with ``nf4`` the gradient is taken at the rounded weights and applied to the exact ones."""
    linears = (
        [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"] if nf4 else []
    )
    exact = [linear.weight.data for linear in linears]
    for linear in linears:
        linear.weight.data = round_to_nf4(linear.weight.data)
    loss = losses(model, batch, recipe, bf16)
    loss.total.backward()  # type: ignore[no-untyped-call]
    for linear, weight in zip(linears, exact, strict=True):
        linear.weight.data = weight
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss


def publish(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save in the final form (bf16 safetensors), each file renamed into place: readers never see half of one."""
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=".publish-"))
    try:
        # Once converted, the head is no longer seen to be the embedding, and would be stored again.
        weights = {key: w.to(torch.bfloat16) for key, w in model.state_dict().items() if key != "lm_head.weight"}
        model.save_pretrained(temporary, state_dict=weights)
        # save_pretrained writes down the precision of the model in memory, not of the file.
        config = temporary / "config.json"
        config.write_text(config.read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"'))
        tokenizer.save_pretrained(temporary)
        for file in temporary.iterdir():
            file.chmod(0o644)
            file.replace(out / file.name)
    finally:
        shutil.rmtree(temporary)


def save_checkpoint(
    work: Path, model: Any, optimizers: list[torch.optim.Optimizer], progress: Progress, origin: dict[str, Any]
) -> None:
    """Write the checkpoint beside the old one, then rename."""
    temporary = work / "checkpoint.tmp"
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "progress": asdict(progress),
            "origin": origin,
        },
        temporary,
    )
    os.replace(temporary, work / "checkpoint.pt")


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_checkpoint(
    work: Path, model: Any, optimizers: list[torch.optim.Optimizer], origin: dict[str, Any]
) -> Progress:
    """Continue from the checkpoint in ``work``, or start.

    Args:
        origin: the recipe, and the digest of the weights that the run began with.

    Raises:
        SystemExit: the checkpoint is of a run that began otherwise.
    """
    if not (work / "checkpoint.pt").exists():
        return Progress()
    saved = torch.load(work / "checkpoint.pt", weights_only=True)
    if saved.get("origin") != origin:
        raise SystemExit(f"{work} holds a run that began otherwise: give the same --start, or another --work")
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return Progress(**saved["progress"])


def plot_losses(log: Path, picture: Path) -> None:
    """Draw the loss curve of a log; without matplotlib nothing is drawn."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no loss curve is drawn", file=sys.stderr)
        return
    # A run that was stopped logs the steps since its last checkpoint again: the last word counts.
    by_step = {r["step"]: r for r in map(json.loads, log.read_text(encoding="utf-8").splitlines())}
    records = [by_step[step] for step in sorted(by_step)]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for key, label in (("loss", "weighted loss"), ("answer_loss", "loss on the answers")):
        smooth = [sum(r[key] for r in records[max(0, i - 4) : i + 1]) / min(i + 1, 5) for i in range(len(records))]
        axes.plot([r["tokens"] / 1e6 for r in records], smooth, label=label)
    axes.set(xlabel="million tokens", ylabel="cross-entropy, nats per token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=100)


def schedule(done: float) -> float:
    """The share of the peak learning rate: warm up for 2%, stay, then fall to zero from 20% on.

    It has to come down soon: at the peak copying is learned fast, but not which value to copy.
    """
    return done / 0.02 if done < 0.02 else min(1.0, (1 - done) / 0.8) ** 1.5


def build_optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest.

    Muon orthogonalises the momentum of each matrix (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
    networks"). In trials on this task it was far ahead of AdamW from the first million tokens on.
    """
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


class Run:
    """One training run: the loop, the log, the checkpoints."""

    def __init__(self, args: argparse.Namespace, recipe: Recipe) -> None:
        self.args, self.recipe = args, recipe
        args.work.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        self.model = build_model(recipe, self.tokenizer)
        if args.start and not (args.work / "checkpoint.pt").exists():
            start = AutoModelForCausalLM.from_pretrained(args.start, dtype=torch.float32)
            grow(self.model, start)
        self.optimizers = build_optimizers(self.model, recipe)
        self.origin = asdict(recipe) | {"start": digest(args.start / "model.safetensors") if args.start else ""}
        self.progress = load_checkpoint(args.work, self.model, self.optimizers, self.origin)
        self.saved = self.published = time.monotonic()

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        path = self.args.work / "tokenizer"
        if not (self.args.work / "checkpoint.pt").exists():  # what a run without one has left is nobody's
            shutil.rmtree(path, ignore_errors=True)
            (self.args.work / "loss.jsonl").unlink(missing_ok=True)
            begun_from = self.args.start and PreTrainedTokenizerFast.from_pretrained(self.args.start)
            (begun_from or build_tokenizer(self.recipe.vocabulary, self.recipe.seed)).save_pretrained(path)
        return PreTrainedTokenizerFast.from_pretrained(path)

    def done(self) -> float:
        """The share of the run that is over, by time if a time was given, else by tokens."""
        if self.args.minutes:
            return min(1.0, self.progress.seconds / 60 / float(self.args.minutes))
        return min(1.0, self.progress.tokens / int(self.args.tokens))

    def train(self) -> None:
        """Train to the end and publish."""
        self.model.train()
        batches = Batches(self.recipe, self.tokenizer)
        with tqdm(total=1000, initial=int(self.done() * 1000), unit="‰", file=sys.stderr, mininterval=5) as bar:
            while self.done() < 1:
                for batch in batches.pool(self.progress.pool, self.done()):
                    self._step(batch, bar)
                    if self.done() >= 1:
                        break
                self.progress.pool += 1
        save_checkpoint(self.args.work, self.model, self.optimizers, self.progress, self.origin)
        publish(self.model, self.tokenizer, self.args.out)
        if (self.args.work / "loss.jsonl").exists():
            plot_losses(self.args.work / "loss.jsonl", self.args.out / "loss.png")

    def _step(self, batch: Batch, bar: "tqdm[Any]") -> None:
        started, done, progress = time.monotonic(), self.done(), self.progress
        for optimizer, peak in zip(
            self.optimizers, (self.recipe.learning_rate, self.recipe.adam_learning_rate), strict=True
        ):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(done)
        nf4 = done >= self.recipe.nf4_from
        loss = train_step(self.model, self.optimizers, batch, self.recipe, self.args.bf16, nf4)
        if not math.isfinite(loss.total.item()):
            raise SystemExit(
                f"the loss is {loss.total.item()} at step {progress.step}: start again with a lower learning rate"
            )
        tokens = batch.tokens
        progress.step += 1
        progress.tokens += tokens
        now = time.monotonic()
        progress.seconds += now - started
        if progress.step % 40 == 0:
            self._log(done, loss, tokens / (now - started), bar)
        if now - self.saved > 60 * self.args.save_every:
            save_checkpoint(self.args.work, self.model, self.optimizers, progress, self.origin)
            self.saved = now
        if now - self.published > 60 * self.args.publish_every:
            publish(self.model, self.tokenizer, self.args.out)
            self.published = now

    def _log(self, done: float, loss: Losses, speed: float, bar: "tqdm[Any]") -> None:
        left = self.progress.seconds * (1 - done) / max(done, 1e-6) / 60
        record = {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 1),
            "done": round(done, 4),
            "loss": round(loss.total.item(), 4),
            "answer_loss": round(loss.answers, 4),
            "pointed": loss.pointed,
            "tokens_per_second": round(speed),
        }
        with (self.args.work / "loss.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        bar.update(int(done * 1000) - bar.n)
        bar.set_postfix_str(
            f"loss {record['loss']}, answers {loss.answers:.3f}, {speed:.0f} tokens/s, {left:.0f} min left"
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.pretrain",
        description="Train the bundled tiny base model on text that this repository generates.",
        epilog="Example: nice -n 15 python -m trainer.pretrain --out models/asktwice-tiny "
        "--work /tmp/pretrain --minutes 120. "
        "Run the same command again to continue after a stop. "
        "MALLOC_TRIM_THRESHOLD_=-1 MALLOC_MMAP_THRESHOLD_=4294967296 in the environment make it several times faster.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the finished model, refreshed while training"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/asktwice-pretrain"), help="folder of the checkpoint and the loss log"
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="MODEL",
        help="begin with the weights of this model, which this command made, instead of random ones; a shallower model "
        "is grown",
    )
    parser.add_argument(
        "--tokens", type=int, default=25_000_000, help="length of the run in tokens (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=0, help="length of the run in minutes instead of tokens")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--save-every", type=float, default=3, metavar="MINUTES", help="time between checkpoints (default: %(default)s)"
    )
    parser.add_argument(
        "--publish-every",
        type=float,
        default=10,
        metavar="MINUTES",
        help="time between refreshes of --out (default: %(default)s)",
    )
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="multiply in bf16; fast where the CPU has AVX512-BF16",
    )
    args = parser.parse_args(argv)
    if args.start and not (args.start / "model.safetensors").is_file():
        parser.error(f"--start: {args.start} holds no model.safetensors; give a folder that this command has made")
    if args.start and args.start.resolve() == args.out.resolve():
        parser.error(
            "--start and --out are the same folder: a run that is started again would begin from its own result"
        )
    return args


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    run = Run(args, CONTINUED if args.start else Recipe())
    size = sum(parameter.numel() for parameter in run.model.parameters())
    print(
        f"{size / 1e6:.2f}M parameters, vocabulary {len(run.tokenizer)}, continuing at step {run.progress.step}",
        file=sys.stderr,
    )
    run.train()
    print(f"{run.progress.tokens} tokens in {run.progress.seconds / 60:.1f} minutes; model in {args.out}")


if __name__ == "__main__":
    main()
