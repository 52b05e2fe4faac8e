"""One door to the data of training and evaluation: a CSV, JSON, Parquet or a dataset of the Hugging Face hub.

Whatever form the rows came in, they become the :class:`~contracts.table.Table` that a CSV becomes, checked by the same
rules: a row that cannot be taken is rejected with its number and the reason, and the same rows have the same digest.
A file is of one form. The first accepted row says which, and rows of another form are rejected.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from contracts.encoding import CONTROL, decode
from contracts.errors import InvalidInput
from contracts.table import (
    MAX_CELL_CHARS,
    MAX_FILE_BYTES,
    QA_COLUMNS,
    Table,
    parse_table,
    read_bytes,
    require_rows,
    take_row,
)

MAX_LINE_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_DIGITS = 308
"""Of an integer; as many as a float64 can hold."""
MAX_TEXT_CHARS = 5 * MAX_FILE_BYTES
"""Of a whole source. Parquet is compressed, and a dataset of the hub has no size before it was read."""
NO_ANSWER = "No Answer Present."
"""What MS MARCO says in the place of an answer."""
_JSON = (".json", ".jsonl", ".ndjson")
_HUB = re.compile(r"hf:(?P<id>\w[\w.-]*/\w[\w.-]*)(/(?P<config>\w[^/@:]*))?(@(?P<revision>[^\s:]+))?(:(?P<split>\S+))?")
# What datasets says where no config or none of those that are there is named, with Python's list of them.
_CONFIGS = re.compile(r"(?:available configs|not found\. Available): \['(.*)'\]")
_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
_BATCH_ROWS = 100

Record = dict[str, Any]
Item = TypeVar("Item")


@dataclass(slots=True)
class Dataset(Table):
    """A table that was not read from a CSV. ``encoding`` says from what, ``delimiter`` is empty.

    The served prompt has the system message, and training is on single questions: of each accepted row one question
    and its answer were taken, and the other messages are counted here.
    """

    form: str = ""
    """``"question-answer"``, ``"prompt-completion"``, ``"alpaca"``, ``"messages"``, ``"sharegpt"``, ``"MS MARCO"``."""
    system_messages: int = 0
    other_messages: int = 0

    def summary(self) -> str:
        """Return the one line that is always printed after reading."""
        left_out = [
            f"{count} {kind} messages"
            for kind, count in (("system", self.system_messages), ("other", self.other_messages))
            if count
        ]
        return (
            f"{self.name}: {self.read} rows read = {len(self.rows)} accepted + {self.rejected} rejected"
            f" + {self.duplicates} duplicates ({self.encoding}, {self.form}"
            f"{'; left out: ' if left_out else ''}{' and '.join(left_out)})"
        )


class _Rejected(Exception):
    """Why one row is not taken."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What was found in one record. ``values`` lacks the columns that the record has not; they may be of any type."""

    values: dict[str, Any]
    system_messages: int = 0
    other_messages: int = 0


def read_dataset(source: str | Path, required: Sequence[str] = QA_COLUMNS, optional: Sequence[str] = ()) -> Table:
    """Read rows of question, answer and context in any of the supported forms.

    * ``.json``, ``.jsonl``, ``.ndjson``: one object a line, or one array of objects. The objects are
      ``{"question", "answer", "context"?}``; ``{"prompt", "completion"}`` of strings or lists of one message (TRL);
      ``{"instruction", "input"?, "output"}`` (Alpaca); ``{"messages": [{"role", "content"}]}`` (OpenAI);
      ``{"conversations": [{"from", "value"}]}`` (ShareGPT); or rows of MS MARCO. Capitals in their keys do not count.
    * ``.parquet``: the same objects as columns; MS MARCO as it is published.
    * ``hf:owner/name[/config][@revision][:split]``: a dataset of the hub, its split ``train`` where none is named. A
      config, which the hub calls a subset too, has to be named where there are several and none is the default.
    * anything else: a CSV, see :func:`contracts.table.parse_table`.

    Of a conversation the first question and the answer right after it are taken.

    Args:
        source: a file, or ``hf:`` and the id of a dataset.
        required: columns, of ``QA_COLUMNS``, that must be filled in every accepted row.
        optional: columns that are taken along. Every row has their cells, empty where the source has nothing.

    Raises:
        InvalidInput: the source cannot be read, or is refused for a reason that the message names.
    """
    name = str(source)
    if name.startswith("hf:"):
        return _collect(Dataset(name, "hub", ""), _hub_rows(name), _object, required, optional)
    path = Path(source)
    content = read_bytes(path)
    suffix = path.suffix.lower()
    if suffix in _JSON:
        text, encoding = decode(content, path.name)
        array = _array(text, path.name, refuse=suffix == ".json")
        items = _lines(text) if array is None else array
        return _collect(Dataset(path.name, encoding, ""), items, _from_json, required, optional)
    if suffix == ".parquet":
        rows = _parquet_rows(content, path.name)
        return _collect(Dataset(path.name, "parquet", ""), rows, _object, required, optional)
    table = parse_table(content, path.name, required, optional)
    for row in table.rows:
        for column in optional:
            row.cells.setdefault(column, "")
    return table


def knowledge_rows(content: bytes, name: str, encoding: str | None = None) -> Iterator[list[str] | str]:
    """Yield the texts of each row of a JSON or Parquet file that are knowledge, or why the row has none.

    They are in its ``context`` or ``text``, or, as in MS MARCO, in ``passages.passage_text``.

    Args:
        content: the file's bytes.
        name: what messages call it; its suffix tells the type.
        encoding: of JSON; None finds out.

    Raises:
        InvalidInput: the file cannot be read.
    """
    items: Iterable[Any]
    parse: Callable[[Any], Record] = _from_json
    if name.lower().endswith(".parquet"):
        items, parse = _parquet_rows(content, name, {"context", "text", "passages"}), _object
    else:
        text, _ = decode(content, name, encoding)
        array = _array(text, name, refuse=name.lower().endswith(".json"))
        items = _lines(text) if array is None else array
    chars = 0
    for item in items:
        try:
            record = parse(item)
            chars += _chars(record)
            texts = _knowledge(record)
        except _Rejected as reason:
            yield str(reason)
            continue
        if chars > MAX_TEXT_CHARS:
            raise _too_much(name)
        yield texts


def _knowledge(record: Record) -> list[str]:
    for key in ("context", "text"):
        if record.get(key) is not None:
            texts = [_text(record[key], key).strip()]
            break
    else:
        passages = record.get("passages")
        found = passages.get("passage_text") if isinstance(passages, dict) else None
        if not isinstance(found, list):
            raise _Rejected(
                f"no context, text or passages.passage_text: its keys are {', '.join(record)[:200] or 'none'}"
            )
        texts = list(dict.fromkeys(_text(text, "passage").strip() for text in found))
    texts = [text for text in texts if text]
    if not texts:
        raise _Rejected("empty context")
    if any(map(CONTROL.search, texts)):
        raise _Rejected("a control character, as binary data has")
    return texts


def _collect(
    table: Dataset,
    items: Iterable[Item],
    parse: Callable[[Item], Record],
    required: Sequence[str],
    optional: Sequence[str],
) -> Dataset:
    """Sort every item into accepted, rejected or duplicate."""
    wanted = [*required, *optional]
    seen: set[tuple[str, ...]] = set()
    lacking = ""
    chars = 0
    for item in items:
        table.read += 1
        try:
            record = parse(item)
            chars += _chars(record)
            form = _form(record, table.form)
            taken = form.take(record)
            missing = [column for column in required if column not in taken.values]
            if missing:
                lacking = (
                    lacking or f"It is {form.name} without {', '.join(missing)}, required here. Add it to the rows."
                )
                raise _Rejected(f"no {', '.join(missing)}")
            cells = {column: _text(taken.values.get(column), column) for column in wanted}
        except _Rejected as reason:
            table.reject(table.read, str(reason))
            continue
        if chars > MAX_TEXT_CHARS:
            raise _too_much(table.name)
        if take_row(table, cells, required, seen):
            table.form = form.name
            table.system_messages += taken.system_messages
            table.other_messages += taken.other_messages
    require_rows(table, lacking)
    return table


# ---- the forms ----


def _question_answer(record: Record) -> _Taken:
    return _Taken({column: record[column] for column in QA_COLUMNS if column in record})


def _prompt_completion(record: Record) -> _Taken:
    question, before = _only_message(record["prompt"], "user", "prompt")
    answer, after = _only_message(record["completion"], "assistant", "completion")
    return _Taken({"question": question, "answer": answer}, system_messages=before + after)


def _alpaca(record: Record) -> _Taken:
    """The input is part of the question: what the instruction is about, without which it often cannot be followed.

    A context is knowledge that answers may be looked up in, and in the mode ``ft`` the model is not shown it at all.
    """
    if record.get("history"):
        raise _Rejected("it goes on from a history, and single questions are trained")
    instruction, about = _text(record["instruction"], "instruction"), _text(record.get("input"), "input")
    question = f"{instruction}\n\n{about}" if about.strip() else instruction
    return _Taken({"question": question, "answer": record["output"]}, system_messages=int(bool(record.get("system"))))


def _conversation(messages: Any) -> _Taken:
    turns = _turns(messages, "the conversation")
    spoken = [turn for turn in turns if turn[0] != "system"]
    first = next((at for at, (role, _) in enumerate(spoken) if role == "user"), None)
    if first is None:
        raise _Rejected("no message is the user's")
    if first + 1 == len(spoken) or spoken[first + 1][0] != "assistant":
        raise _Rejected("no answer follows the first question")
    (_, question), (_, answer) = spoken[first : first + 2]
    return _Taken({"question": _joined(question), "answer": _joined(answer)}, len(turns) - len(spoken), len(spoken) - 2)


def _ms_marco(record: Record) -> _Taken:
    """``wellFormedAnswers`` is empty in most rows, so the answer is the first of ``answers``.

    The context is what the annotator marked as the source of the answer, or all that was shown where nothing is marked.
    """
    answers, passages = record["answers"], record["passages"]
    if not isinstance(answers, list) or not isinstance(passages, dict):
        raise _Rejected("answers is not a list or passages not an object")
    if not answers or answers[0] is None or _text(answers[0], "answer").strip() in ("", NO_ANSWER):
        raise _Rejected("no answer")
    texts, marks = passages.get("passage_text"), passages.get("is_selected")
    if not isinstance(texts, list) or not isinstance(marks, list) or len(texts) != len(marks):
        raise _Rejected("passages has not one is_selected for each passage_text")
    selected = [text for text, mark in zip(texts, marks, strict=True) if mark == 1] or texts
    context = "\n\n".join(_text(text, "passage").strip() for text in selected)
    return _Taken({"question": record["query"], "answer": answers[0], "context": context})


@dataclass(frozen=True, slots=True)
class _Form:
    """``keys`` tell the form of a record, ``also`` may be there."""

    name: str
    keys: tuple[str, ...]
    take: Callable[[Record], _Taken]
    also: tuple[str, ...] = ()


_FORMS = (
    _Form("question-answer", ("question", "answer"), _question_answer, also=("context",)),
    _Form("prompt-completion", ("prompt", "completion"), _prompt_completion),
    _Form("alpaca", ("instruction", "output"), _alpaca, also=("input", "system", "history")),
    _Form("messages", ("messages",), lambda record: _conversation(record["messages"])),
    _Form("sharegpt", ("conversations",), lambda record: _conversation(record["conversations"])),
    _Form("MS MARCO", ("query", "answers", "passages"), _ms_marco),
    _Form("question-answer", ("question",), _question_answer),  # last: other forms may have a question beside
)
_KEYS = {key for form in _FORMS for key in (*form.keys, *form.also)}


def _form(record: Record, name: str) -> _Form:
    """Return the form of a record; ``name`` is the form of the rows before it, if there were any."""
    fitting = [form for form in _FORMS if all(key in record for key in form.keys)]
    if not fitting:
        raise _Rejected(f"of no known form: its keys are {', '.join(record)[:200] or 'none'}")
    form = next((form for form in fitting if form.name == name), fitting[0])
    if name and form.name != name:
        raise _Rejected(f"another form: {form.name}, where the rows before are {name}")
    return form


def _turns(messages: Any, what: str) -> list[tuple[str, Any]]:
    """Return role and content of each message. OpenAI's keys and ShareGPT's are both met in lists of either name."""
    if not isinstance(messages, list):
        raise _Rejected(f"{what} is not a list of messages")
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise _Rejected("a message is not an object")
        role = message.get("role") or message.get("from")
        if not isinstance(role, str):
            raise _Rejected("a message does not say whose it is")
        content = message.get("content")
        turns.append((_ROLES.get(role, role), message.get("value") if content is None else content))
    return turns


def _only_message(value: Any, role: str, what: str) -> tuple[Any, int]:
    """Return the content of a prompt or completion, and how many system messages stand beside it."""
    if not isinstance(value, list):
        return value, 0
    turns = _turns(value, what)
    spoken = [turn for turn in turns if turn[0] != "system"]
    if [turn[0] for turn in spoken] != [role]:
        raise _Rejected(f"the {what} is not one message of the {role}")
    return _joined(spoken[0][1]), len(turns) - len(spoken)


def _joined(content: Any) -> Any:
    """Join the text parts of a message, each on lines of its own."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise _Rejected("a part of a message is not text")
    return "\n".join(_text(part.get("text"), "a part of a message") for part in content)


def _text(value: Any, what: str) -> str:
    """Return the value of a cell. Null is an empty cell; nothing else but text becomes text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Rejected(f"{what} is {_kind(value)}, not text")
    if len(value) > MAX_CELL_CHARS:
        raise _Rejected(f"{what} has over {MAX_CELL_CHARS:,} characters")
    return value


_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"of the type {type(value).__name__}")


def _object(value: Any) -> Record:
    """Return a row with its keys in small letters, as the columns of a CSV are read."""
    if not isinstance(value, dict):
        raise _Rejected(f"{_kind(value)}, not an object")
    record = {key.strip().lower(): item for key, item in value.items()}
    if len(record) != len(value):
        raise _Rejected("a key is there twice")
    return record


def _chars(value: Any, depth: int = 1) -> int:
    """Return how much text a value holds; what is not text counts as one character.

    Raises:
        _Rejected: nested too deeply, or a text that is half a character and cannot be written.
    """
    if depth > MAX_DEPTH:
        raise _Rejected(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Rejected("half a character (a lone surrogate)") from None
        return len(value)
    if isinstance(value, dict):
        return sum(_chars(key, depth) + _chars(item, depth + 1) for key, item in value.items())
    if isinstance(value, list):
        return sum(_chars(item, depth + 1) for item in value)
    return 1


# ---- JSON ----


def _lines(text: str) -> Iterator[str]:
    """Yield the lines that are not blank; of all that Python calls a line break only CR and LF are one in JSON."""
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None) if line.strip())


def _array(text: str, name: str, refuse: bool) -> list[str] | None:
    """Return the elements of a text that is one JSON array, unread; None where it is none.

    Raises:
        InvalidInput: it begins like one and is broken, and ``refuse``. Else it is left to be read as lines.
    """
    at = _skip(text, 0)
    if not text.startswith("[", at):
        return None
    elements: list[str] = []
    try:
        at = _skip(text, at + 1)
        while not text.startswith("]", at):
            if elements:
                if not text.startswith(",", at):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
                at = _skip(text, at + 1)
            end = _LOOSE.raw_decode(text, at)[1]
            elements.append(text[at:end])
            at = _skip(text, end)
        if (end := _skip(text, at + 1)) != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (json.JSONDecodeError, RecursionError) as error:
        if not refuse:
            return None
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise InvalidInput(
            f"{name} begins like a JSON array and is broken after element {len(elements)} ({where})."
            " Nothing was read. Write it anew, or one object a line as .jsonl."
        ) from error
    return elements


def _skip(text: str, at: int) -> int:
    """Return where the next token begins."""
    while text[at : at + 1] in _SPACES:
        at += 1
    return at


def _from_json(text: str) -> Record:
    """Read one object strictly."""
    if len(text.encode()) > MAX_LINE_BYTES:
        raise _Rejected(f"over {MAX_LINE_BYTES // 1_000_000} MB")
    try:
        return _object(_STRICT.decode(text))
    except RecursionError:
        raise _Rejected(f"nested deeper than {MAX_DEPTH}") from None
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip()):
            raise _Rejected("the JSON breaks off") from None
        raise _Rejected(f"not JSON: {error.msg} at character {error.pos + 1}") from None


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _Rejected("a key is there twice")
    return record


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Rejected(f"a number of over {MAX_DIGITS} digits")
    return int(digits)


def _constant(name: str) -> float:
    raise _Rejected(f"{name}, which JSON has not")


_SPACES = (" ", "\t", "\r", "\n")
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_constant=_constant)
# Only finds where an element of an array ends, so that what is wrong inside costs that element alone.
_LOOSE = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


# ---- Parquet and the hub ----


def _parquet_rows(content: bytes, name: str, keys: Set[str] | None = None) -> Iterator[Record]:
    """Yield the rows of a Parquet file, with the columns that are known; ``keys`` are those, else the forms'."""
    expected = ", ".join(sorted(keys) if keys else QA_COLUMNS)
    keys = keys or _KEYS
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InvalidInput(
            f"{name}: pyarrow is needed to read Parquet and is not installed. Run: pip install pyarrow"
        ) from error
    try:
        file = ParquetFile(arrow.BufferReader(content))
        columns = file.schema_arrow.names
        # Others are not even decoded: they may be large, as images are, or of types that Python cannot hold.
        known = [column for column in columns if column.strip().lower() in keys]
        if not known:
            raise InvalidInput(
                f"{name} has none of the columns that are read: it has {', '.join(columns)[:200] or 'nothing'}."
                f" Expected: {expected}, or what the documentation names."
            )
        if len({column.strip().lower() for column in known}) != len(known):
            raise InvalidInput(f"{name} has a column more than once: {', '.join(known)}.")
        # Of whole row groups: asking damaged metadata for its columns ends the process in pyarrow 26.
        if sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)) > MAX_TEXT_CHARS:
            raise _too_much(name)
        for batch in file.iter_batches(_BATCH_ROWS, columns=known):
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be read as Parquet: {_first_line(error)}. Nothing was read.") from error


def _hub_rows(source: str) -> Iterator[Record]:
    """Yield the rows of a dataset of the hub as they arrive."""
    match = _HUB.fullmatch(source)
    if match is None:
        raise InvalidInput(f"{source} is not hf:owner/name[/config][@revision][:split], with a part in [] or without.")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InvalidInput(
            f"{source}: the package datasets is needed to read from the hub. Run: pip install datasets"
        ) from error
    try:
        yield from load_dataset(
            match["id"],
            name=match["config"],
            split=match["split"] or "train",
            revision=match["revision"],
            streaming=True,
        )
    except Exception as error:  # the network, the hub's client and every file reader have errors of their own
        if configs := _CONFIGS.search(str(error)):
            names = configs[1].split("', '")
            wanted = f"hf:{match['id']}/{names[0]}{source[match.end('config' if match['config'] else 'id') :]}"
            raise InvalidInput(
                f"{source} has to name one of the dataset's configs (subsets): {', '.join(names)}."
                f" For example: {wanted}"
            ) from error
        raise InvalidInput(
            f"Cannot read {source} from the Hugging Face hub: {type(error).__name__}: {_first_line(error)}."
            " Check the id, the config, the split and the network, or download the file and give its path."
        ) from error


def _too_much(name: str) -> InvalidInput:
    return InvalidInput(f"{name} holds over {MAX_TEXT_CHARS:,} characters. Take a part of it.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
