"""BERTScore (Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020) of all arms in one pass.

The embeddings and the greedy matching are those of the package bert-score, so that its scores are ours. Around them:
the model is loaded once, and a reference that several arms answer to is embedded once. The only module of the
evaluator that reaches torch.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from contracts.errors import InvalidInput, Unavailable

CHUNK = 256
"""References whose embeddings, and those of their answers, are held in memory at a time."""
BATCH = 16
SHORT = 32
"""Words up to which a text makes a pair of a baseline, as in the package's own recipe."""

Report = Callable[[int, int, str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Encoder:
    """A model that turns a text into a vector for each token, cut off after ``layer``."""

    name: str
    layer: int
    model: Any
    tokenizer: Any
    device: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """What unrelated texts score: the mean precision, recall and F1 of ``pairs`` pairs, by one encoder and layer.

    The package brings baselines for some languages, and none for Russian. ``texts_sha256`` tells what this one was made
    from.
    """

    encoder: str
    layer: int
    precision: float
    recall: float
    f1: float
    pairs: int
    texts_sha256: str

    def sha256(self) -> str:
        """Return the digest of the file that :meth:`write` makes."""
        return hashlib.sha256(self._content()).hexdigest()

    def write(self, path: Path) -> str:
        """Keep the baseline as JSON and return the file's sha256, to be told beside every score that it rescaled."""
        path.write_bytes(self._content())
        return self.sha256()

    @classmethod
    def read(cls, path: Path) -> "Baseline":
        """Return a kept baseline.

        Raises:
            InvalidInput: the file is none.
        """
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise InvalidInput(f"{path.name} is no BERTScore baseline: {error}.") from error

    def _content(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()


@dataclass(frozen=True, slots=True)
class BertScore:
    """One answer's score, -1 to 1; in practice within a narrow range near the top, unless it was rescaled.

    ``truncated``: the answer or its reference was longer than the encoder reads, and its end was not compared.
    """

    precision: float
    recall: float
    f1: float
    truncated: bool


def load_encoder(name: str, layer: int | None = None, device: str = "auto") -> Encoder:
    """Load an encoder.

    Args:
        name: hub id or folder of any model that transformers reads.
        layer: whose output is compared. None takes the one that the paper's authors found best, where they tried.
        device: ``auto`` is the GPU where there is one.

    Raises:
        Unavailable: the model is neither in a folder nor to be had from the hub.
        InvalidInput: the model has no such layer, or none was named and none is known for it.
    """
    import torch
    from bert_score import utils

    if layer is None:
        layer = utils.model2layers.get(name)
    if layer is None:
        raise InvalidInput(f"No layer is known for {name}: name the one whose output is to be compared.")
    if name.startswith("scibert"):
        raise InvalidInput("scibert is an archive of its own kind that bert-score fetches by a shell: give a hub id.")
    try:
        tokenizer = utils.get_tokenizer(name)
        model = utils.get_model(name, layer)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise Unavailable(f"The encoder {name} cannot be loaded: {reason}", retry_after=10) from error
    except AssertionError as error:
        raise InvalidInput(f"{name}: {error}") from error
    # A tokenizer that does not know its limit lets a long text through, and the model then fails in mid-run.
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    counted_from_padding = model.config.model_type in ("roberta", "xlm-roberta", "camembert")
    reserved = (tokenizer.pad_token_id or 0) + 1 if counted_from_padding else 0
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions - reserved)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return Encoder(name, layer, model.to(chosen), tokenizer, chosen, int(tokenizer.model_max_length))


def bertscore(
    encoder: Encoder,
    references: Sequence[str | None],
    answers: Mapping[str, Sequence[str | None]],
    baseline: Baseline | None = None,
    report: Report = lambda done, total, note: None,
) -> dict[str, list[BertScore | None]]:
    """Score the answers of all arms against the same references.

    Args:
        encoder: see :func:`load_encoder`.
        references: one for each question; None or blank where there is none.
        answers: for each arm one for each question, None or blank where there is none.
        baseline: rescales each score ``x`` to ``(x - b) / (1 - b)``, so that unrelated texts are at 0.
        report: told how many references were done, of how many.

    Returns:
        for each arm one score for each question, None where there is no reference or no answer. Without a baseline
        they are those of ``bert_score.score`` without rescaling and idf.

    Raises:
        InvalidInput: an arm has not one answer for each reference, or the baseline is another encoder's.
    """
    for arm, given in answers.items():
        if len(given) != len(references):
            raise InvalidInput(f"{arm} has {len(given)} answers to {len(references)} references.")
    if baseline and (baseline.encoder, baseline.layer) != (encoder.name, encoder.layer):
        raise InvalidInput(
            f"The baseline is of {baseline.encoder}, layer {baseline.layer}; the encoder is {encoder.name}, layer"
            f" {encoder.layer}."
        )
    found: dict[str, list[BertScore | None]] = {arm: [None] * len(references) for arm in answers}
    # Texts of one length stand together, so that little is padded.
    told = [place for place, text in enumerate(references) if _told(text)]
    places = sorted(told, key=lambda place: _size(references[place]))
    for start in range(0, len(places), CHUNK):
        chunk = [
            (arm, place, reference, answer)
            for place in places[start : start + CHUNK]
            for arm, given in answers.items()
            if _told(reference := references[place]) and _told(answer := given[place])
        ]
        pairs = [(reference or "", answer or "") for _, _, reference, answer in chunk]
        for (arm, place, *_), pair, scores in zip(chunk, pairs, _scores(encoder, pairs), strict=True):
            precision, recall, f1 = _rescaled(scores, baseline)
            found[arm][place] = BertScore(precision, recall, f1, any(_is_cut(encoder, text) for text in pair))
        report(min(start + CHUNK, len(places)), len(places), "BERTScore")
    return found


def measure_baseline(
    encoder: Encoder,
    texts: Sequence[str],
    pairs: int = 2000,
    seed: int = 1,
) -> Baseline:
    """Measure what unrelated texts score, as the package's authors did: random pairs of short texts.

    Args:
        encoder: see :func:`load_encoder`.
        texts: in the language of the answers and about many things, each once; those of more than 32 words are left
            out. Texts about one thing are related, and would make too high a baseline.
        pairs: how many are drawn; 2,000 make an error of the mean below 0.002 for the usual encoders.
        seed: of the drawing.

    Raises:
        InvalidInput: there are fewer than 20 short texts.
    """
    short = sorted({text.strip() for text in texts if text.strip() and len(text.split()) <= SHORT})
    if len(short) < 20:
        raise InvalidInput(f"A baseline needs 20 different texts of up to {SHORT} words; there are {len(short)}.")
    drawn = random.Random(seed)
    chosen = [(one, other) for one, other in (drawn.sample(short, 2) for _ in range(pairs))]
    chosen.sort(key=lambda pair: _size(pair[0]))
    scores = [
        each for start in range(0, len(chosen), CHUNK) for each in _scores(encoder, chosen[start : start + CHUNK])
    ]
    precision, recall, f1 = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    digest = hashlib.sha256("\n".join(short).encode("utf-8", "surrogatepass")).hexdigest()
    return Baseline(encoder.name, encoder.layer, precision, recall, f1, len(scores), digest)


def classic_f1(encoder: Encoder, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return what one call of ``bert_score.score`` says, for the bench: it loads the encoder anew each time."""
    import bert_score

    _, _, f1 = bert_score.score(
        list(answers), list(references), model_type=encoder.name, num_layers=encoder.layer, device=encoder.device
    )
    return [float(score) for score in f1]


def random_encoder(
    folder: Path, texts: Sequence[str], layers: int = 6, width: int = 384, vocabulary: int = 119_547
) -> str:
    """Write a BERT of random weights, and a tokenizer made from the texts, into a folder, and return its name.

    For benches and tests, where speed and equality matter and not what the scores mean. The default is of MiniLM-L6's
    shape with as many tokens as multilingual BERT has, most of them unused: to read those is much of what loading an
    encoder for Russian takes.
    """
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    made = BertWordPieceTokenizer(lowercase=False)
    made.train_from_iterator(texts, vocab_size=min(vocabulary, 2000), min_frequency=1, show_progress=False)
    tokens = made.get_vocab()
    tokens |= {f"[unused{place}]": place for place in range(len(tokens), vocabulary)}
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=tokens, do_lower_case=False, model_max_length=512).save_pretrained(folder)
    return str(folder)


def _scores(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float, float]]:
    """Return precision, recall and F1 of pairs of reference and answer; each different text is embedded once.

    As ``bert_score.utils.bert_cos_score_idf`` does it, but with batches of texts of the same number of tokens: that one
    orders by words, and pads a quarter more of Russian.
    """
    import torch
    from bert_score.utils import get_bert_embedding, greedy_cos_idf

    tokenizer = encoder.tokenizer
    weights: dict[int, float] = defaultdict(lambda: 1.0)
    weights[tokenizer.sep_token_id] = weights[tokenizer.cls_token_id] = 0.0
    texts = sorted({text for pair in pairs for text in pair})
    lengths = [len(tokens) for tokens in tokenizer(texts, verbose=False)["input_ids"]]
    texts = [text for _, text in sorted(zip(lengths, texts, strict=True))]
    embedded: dict[str, tuple[Any, Any]] = {}
    for batch in _batches(texts):
        vectors, masks, idf = (
            part.cpu() for part in get_bert_embedding(batch, encoder.model, tokenizer, weights, device=encoder.device)
        )
        for place, (text, length) in enumerate(zip(batch, masks.sum(dim=1).tolist(), strict=True)):
            embedded[text] = vectors[place, :length], idf[place, :length]

    def side(texts: Sequence[str]) -> tuple[Any, Any, Any]:
        vectors, idf = ([embedded[text][part] for text in texts] for part in (0, 1))
        # Not zeros: a vector of zeros has no direction to compare.
        padded = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True, padding_value=2.0)
        lengths = torch.tensor([len(each) for each in vectors])
        mask = torch.arange(padded.shape[1]).expand(len(texts), -1) < lengths.unsqueeze(1)
        weight = torch.nn.utils.rnn.pad_sequence(idf, batch_first=True)
        return padded.to(encoder.device), mask.to(encoder.device), weight.to(encoder.device)

    found: list[tuple[float, float, float]] = []
    with torch.no_grad():
        for some in _batches(pairs):
            references, answers = ([pair[part] for pair in some] for part in (0, 1))
            scores = greedy_cos_idf(*side(references), *side(answers))
            found += zip(*(column.tolist() for column in scores), strict=True)
    return found


def _batches(of: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (of[start : start + BATCH] for start in range(0, len(of), BATCH))


def _rescaled(scores: tuple[float, float, float], baseline: Baseline | None) -> tuple[float, float, float]:
    if baseline is None:
        return scores
    precision, recall, f1 = (
        (score - base) / (1 - base)
        for score, base in zip(scores, (baseline.precision, baseline.recall, baseline.f1), strict=True)
    )
    return precision, recall, f1


def _is_cut(encoder: Encoder, text: str) -> bool:
    if len(text.encode("utf-8", "surrogatepass")) + 2 <= encoder.max_tokens:  # no token is less than a byte
        return False
    return len(encoder.tokenizer(text, verbose=False)["input_ids"]) > encoder.max_tokens


def _told(text: str | None) -> bool:
    return text is not None and bool(text.strip())


def _size(text: str | None) -> int:
    return len(text or "")
