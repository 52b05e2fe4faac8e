"""Calls to a model behind an OpenAI-compatible API: tried again, bounded in time, number and money, and remembered."""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from services.evaluator.patience import Patience
from services.evaluator.settings import EvaluatorSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

TRIES = 3
_CHARS_A_TOKEN = 2  # fewer than any tokenizer needs for Russian or English, so that a budget is not passed

Message = dict[str, str]
Why = Literal["key", "quota", "request", "budget", "timeout", "connection", "overload", "server", "refusal", "garbage"]
"""Why there is no reply; ``garbage`` is a reply that cannot be read."""
T = TypeVar("T")

log = logging.getLogger("asktwice")


class Failed(Exception):
    """The model gave nothing. ``reason`` ends the sentence that begins with "Анализа нет:"."""

    def __init__(self, reason: str, why: Why, *, again: bool = False, retry_after: float | None = None):
        super().__init__(reason)
        self.reason = reason
        self.why = why
        self.again = again
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Reply:
    """``cut`` says that the reply ended at the limit of its length; ``model`` is what the server says that it is."""

    text: str
    model: str
    cut: bool = False


class Spending:
    """What calls cost, all that share it together. Never more than the bounds: a call that might pass them is not made.

    Args:
        max_calls: tries, those that fail included; None: no bound.
        max_cost: in the currency of the prices; None: no bound.
        price_in: of a million tokens of the prompts; without both prices there is no cost.
        price_out: of a million tokens of the replies.
    """

    def __init__(
        self,
        max_calls: int | None = None,
        max_cost: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ):
        self.calls = self.prompt_tokens = self.completion_tokens = self.untold = 0
        """``untold``: calls that ended without a word of what they took; the bound counts them at their estimate."""
        self._max_calls, self._max_cost = max_calls, max_cost
        self._prices = None if price_in is None or price_out is None else (price_in / 1e6, price_out / 1e6)
        self._held = 0.0

    @property
    def cost(self) -> float | None:
        """Of the tokens that the server told; None where the prices are not known."""
        return self._price(self.prompt_tokens, self.completion_tokens) if self._prices else None

    def begin(self, characters: int, max_tokens: int) -> float:
        """Take the place of one call and return its estimate.

        Raises:
            Failed: it might pass a bound.
        """
        if self._max_calls is not None and self.calls >= self._max_calls:
            raise Failed(f"исчерпан предел в {self._max_calls} вызовов.", "budget")
        estimate = self._price(characters // _CHARS_A_TOKEN, max_tokens)
        if self._max_cost is not None and (self.cost or 0.0) + self._held + estimate > self._max_cost:
            raise Failed(f"исчерпан предел расходов {self._max_cost:g}.", "budget")
        self.calls += 1
        self._held += estimate
        return estimate

    def end(self, estimate: float, completion: Any, refused: bool = False) -> None:
        """Put what the server told in the place of the estimate; without a word of it the estimate stays.

        What the server refused cost nothing.
        """
        if refused:
            self._held -= estimate
            return
        usage = getattr(completion, "usage", None)
        taken = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if not (isinstance(taken[0], int) and isinstance(taken[1], int)):
            self.untold += 1
            return
        self._held -= estimate
        self.prompt_tokens += taken[0]
        self.completion_tokens += taken[1]

    def _price(self, prompt: int, completion: int) -> float:
        return self._prices[0] * prompt + self._prices[1] * completion if self._prices else 0.0


class Cache:
    """Replies by the SHA-256 of their request, a JSON line each. A line that a kill cut short is passed over."""

    def __init__(self, path: Path):
        self._path = path
        self._replies: dict[str, Reply] = {}
        whole = True
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                whole = line.endswith(b"\n")
                try:
                    kept = json.loads(line)
                    self._replies[kept["key"]] = Reply(str(kept["text"]), str(kept["model"]))
                except (ValueError, KeyError, TypeError):
                    continue
        path.parent.mkdir(parents=True, exist_ok=True)
        self._begin = b"" if whole else b"\n"

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply.

        Raises:
            OSError: the disk does not take it.
        """
        line = json.dumps({"key": key, "text": reply.text, "model": reply.model}).encode() + b"\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(self._begin + line)
        self._begin = b""
        self._replies[key] = reply


@dataclass
class Completions:
    """Asks one server; a context manager, which holds the connections. Never prints the key."""

    settings: EvaluatorSettings
    spending: Spending = field(default_factory=Spending)
    cache: Cache | None = None
    cached: int = 0
    """Replies that were remembered."""

    def __post_init__(self) -> None:
        secret = self.settings.openai_api_key
        self._key = secret.get_secret_value().strip() if secret else ""
        self._client: AsyncOpenAI | None = None

    @classmethod
    def for_grading(cls, settings: EvaluatorSettings) -> "Completions":
        """Return calls within the bounds of the settings, whose replies are remembered in their home."""
        bounds = settings.judge_max_calls, settings.judge_max_cost
        spending = Spending(*bounds, settings.judge_price_in, settings.judge_price_out)
        return cls(settings, spending, Cache(settings.judge_cache))

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    async def __aenter__(self) -> "Completions":
        if self._key:
            self._connected()  # the library loads for a second, which is no time of the server's
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client:
            await self._client.close()
            self._client = None

    async def ask(
        self,
        messages: Sequence[Message],
        read: Callable[[Reply], T],
        *,
        model: str,
        patience: Patience | None = None,
        repeat: int = 0,
        **options: Any,
    ) -> T:
        """Return what ``read`` makes of the reply.

        Args:
            messages: of the chat.
            read: raises ValueError where the reply is not what was asked for; then it is asked for again. A reply that
                it takes is remembered.
            model: as the server knows it.
            patience: ``TRIES`` times the timeout of one call, where none is given.
            repeat: a request with another number is asked anew, though the same was asked before.
            options: of the request, such as ``seed`` and ``response_format``.

        Raises:
            Failed: there is no such reply.
        """
        request = {"model": model, "temperature": 0, "messages": list(messages), **options}
        key = _digest({"url": self.settings.openai_base_url, "repeat": repeat, "request": request})
        if self.cache and (known := self.cache.get(key)):
            with suppress(ValueError):
                value = read(known)
                self.cached += 1
                return value
        timeout_s = self.settings.judge_timeout_s
        patience = patience or Patience(TRIES, TRIES * timeout_s, longest_wait=timeout_s / 4)
        while True:
            try:
                client = self._connected()
                # the client's own timeout is per read: a server that drips bytes would never run into it
                async with asyncio.timeout(min(timeout_s, patience.left)):
                    reply = await self._once(client, request)
                value = read(reply)
            except Exception as error:
                failed = self._explained(error, model)
                if not failed.again or not await patience.again(failed.retry_after):
                    tries = f" Попыток: {patience.tried}." if patience.tried > 1 else ""
                    raise Failed(failed.reason + tries, failed.why, again=failed.again) from None
            else:
                if self.cache:
                    try:
                        self.cache.put(key, reply)
                    except OSError as error:
                        log.warning("a reply of the judge could not be kept: %s", error)
                return value

    async def _once(self, client: "AsyncOpenAI", request: dict[str, Any]) -> Reply:
        from openai import APIStatusError
        from openai.types.chat import ChatCompletion

        characters = sum(len(message["content"]) for message in request["messages"])
        estimate = self.spending.begin(characters, int(request.get("max_tokens", 0)))
        completion: Any = None
        refused = False
        try:
            # chat.completions.create() does the same after a walk through messages and schema, which takes as long at
            # every call as all the rest
            completion = await client.post("/chat/completions", body=request, cast_to=ChatCompletion)
        except APIStatusError:
            refused = True
            raise
        finally:
            self.spending.end(estimate, completion, refused)
        reply = _read(completion)
        return Reply(reply.text.replace(self._key, "[ключ]"), reply.model, reply.cut)

    def _connected(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        if not self._key:
            raise Failed("не задан ключ OPENAI_API_KEY.", "key")
        if self._client is None:
            timeout_s = self.settings.judge_timeout_s
            self._client = AsyncOpenAI(
                api_key=self._key,
                base_url=self.settings.openai_base_url,
                max_retries=0,
                timeout=timeout_s,
                http_client=DefaultAsyncHttpxClient(timeout=timeout_s, follow_redirects=False),
            )
        return self._client

    def _explained(self, error: Exception, model: str) -> Failed:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        if isinstance(error, Failed):
            return error
        if isinstance(error, (TimeoutError, APITimeoutError)):
            seconds = f"{self.settings.judge_timeout_s:g}"
            return Failed(f"модель {model} не ответила за {seconds} с.", "timeout", again=True)
        if isinstance(error, APIConnectionError):
            return Failed("сервер модели-судьи недоступен или оборвал соединение.", "connection", again=True)
        if isinstance(error, APIStatusError):
            return _refused(model, error.status_code, error.code, error.response.headers.get("retry-after", ""))
        if isinstance(error, json.JSONDecodeError):
            return Failed("сервер модели-судьи прислал не JSON.", "garbage", again=True)
        kind = type(error).__name__
        return Failed(f"ответ сервера модели-судьи не удалось прочитать ({kind}).", "garbage", again=True)


def _refused(model: str, status: int, code: str | None, retry_after: str) -> Failed:
    known = code if code and re.fullmatch(r"[a-z_]{1,40}", code) else None
    shown = f"HTTP {status}, {known}" if known else f"HTTP {status}"
    if status in (401, 403):
        return Failed(f"сервер модели-судьи не принял ключ ({shown}); проверьте OPENAI_API_KEY.", "key")
    if known == "insufficient_quota" or status == 402:
        return Failed(f"на счёте закончились средства ({shown}).", "quota")
    after = float(retry_after) if re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else None
    if status == 429:
        reason = f"сервер модели-судьи перегружен запросами ({shown})."
        return Failed(reason, "overload", again=True, retry_after=after)
    if status >= 500 or status in (408, 409):
        return Failed(f"ошибка на сервере модели-судьи ({shown}).", "server", again=True, retry_after=after)
    return Failed(f"сервер модели-судьи не принял запрос к {model} ({shown}).", "request")


def _read(completion: Any) -> Reply:
    """Return the reply of a completion; the openai client does not validate what it parsed."""
    try:
        choice = completion.choices[0]
        content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise Failed("в ответе сервера модели-судьи нет текста.", "garbage", again=True) from None
    if refusal or choice.finish_reason == "content_filter":
        raise Failed("модель-судья отказалась сравнивать эти ответы.", "refusal")
    if not isinstance(content, str) or not content.strip():
        raise Failed("модель-судья вернула пустой текст.", "garbage", again=True)
    model, cut = getattr(completion, "model", None), getattr(choice, "finish_reason", None) == "length"
    return Reply(content, model if isinstance(model, str) else "", cut)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
