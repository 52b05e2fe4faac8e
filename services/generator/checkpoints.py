"""Fully fine-tuned models: each has its own weights and its own engine, loaded when it is asked for.

They share nothing with the base, so they are few: together they keep to a budget of memory, and one that nobody has
asked for a while is let go. A folder ``home/checkpoints/NAME.<digest>`` holds the model as transformers saves it, and a
manifest.
"""

import asyncio
import gc
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from contracts.artifacts import Home, ServedManifest, checkpoint_digest, published_checkpoints, sha256_file
from contracts.errors import AdapterMissing, AskTwiceError, InvalidInput, NotFound, Unavailable
from contracts.generation import AdapterInfo, Mode
from services.generator.jobs import Backend

FILES = {".json", ".safetensors", ".jinja", ".txt", ".model"}
"""What a model's folder may hold; nothing that could be run."""
log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Checkpoint:
    """A published model and what became of it here."""

    manifest: ServedManifest
    bytes: int
    state: Literal["ready", "loading", "unloaded", "refused"] = "unloaded"
    reason: str | None = None
    engine: Backend | None = None
    used: float = 0.0
    asked: int = 0
    loading: "asyncio.Task[Backend] | None" = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    gone: bool = False
    """Its folder is no more: it answers those who have it, and then it is let go."""

    def info(self) -> AdapterInfo:
        return self.manifest.info(self.state, self.reason, kind="full")


@dataclass(slots=True)
class Lease:
    """A model that is not let go until it is given back."""

    engine: Backend
    _given_back: Callable[[], None]
    _open: bool = True

    def give_back(self) -> None:
        """Say that nobody waits for an answer of it any more; once or more often."""
        if self._open:
            self._open = False
            self._given_back()


class Checkpoints:
    """The fully fine-tuned models of one home. Used from the event loop only; heavy work goes to threads.

    Args:
        load: makes an engine of a model's folder.
        budget: bytes that all of them may take together.
        context: tokens that prompt and answer may have together: how many pages each sets aside.
        idle_s: after this long without a request one is let go.
        system_prompt: one that was trained with another is refused.
    """

    def __init__(
        self,
        home: Home,
        load: Callable[[Path], Backend],
        *,
        budget: float,
        idle_s: float,
        context: int,
        system_prompt: str,
    ):
        self._home, self._load = home, load
        self._budget, self._idle_s, self._context = budget, idle_s, context
        self._prompt = hashlib.sha256(system_prompt.encode()).hexdigest()
        self._known: dict[str, Checkpoint] = {}
        self._leaving: list[Checkpoint] = []
        self._making_room = asyncio.Lock()
        self._working: set[asyncio.Task[None]] = set()

    def engines(self) -> list[Backend]:
        """Those that are loaded."""
        return [known.engine for known in (*self._known.values(), *self._leaving) if known.engine is not None]

    def listing(self) -> list[AdapterInfo]:
        """Newest first."""
        known = sorted(self._known.values(), key=lambda each: each.manifest.published, reverse=True)
        return [each.info() for each in known]

    async def scan(self) -> None:
        """Look at the folder once; let go of what is gone, and of what has been idle for long."""
        published = {m.id: m for m in await asyncio.to_thread(published_checkpoints, self._home)}
        for id in [id for id in self._known if id not in published]:
            self._part_with(self._known.pop(id))
        for id, manifest in published.items():
            if id not in self._known:
                self._known[id] = await asyncio.to_thread(_looked_at, manifest, self._home, self._context)
            self._known[id].manifest = manifest
        for each in self._known.values():
            if each.engine and not each.asked and time.monotonic() - each.used > self._idle_s:
                await self._let_go(each)

    def find(self, mode: Mode, id: str) -> AdapterInfo | None:
        """Return the model of this id; None where there is none.

        Raises:
            InvalidInput: it was not trained for the mode.
            AdapterMissing: it was refused.
        """
        known = self._known.get(id)
        if known is None:
            return None
        if mode not in known.manifest.modes:
            trained = ", ".join(each.value for each in known.manifest.modes)
            raise InvalidInput(f"adapter: {id} was trained for mode={trained}, not for {mode.value}.")
        if known.state == "refused":
            raise AdapterMissing(f"The model {id} is refused: {known.reason}.")
        return known.info()

    async def borrow(self, id: str) -> Lease:
        """Return a model, loaded if it is not.

        Raises:
            NotFound: it is gone.
            Unavailable: there is no room beside the models that answer now.
            AdapterMissing: it was refused.
        """
        known = self._known.get(id)
        if known is None:
            raise NotFound(f"There is no adapter {id}. GET /adapters lists what there is.")
        if known.state == "refused":
            raise AdapterMissing(f"The model {id} is refused: {known.reason}.")
        known.asked += 1
        try:
            engine = known.engine
            if engine is None:
                # Goes on when the one who asked leaves: others may be waiting for it.
                known.loading = known.loading or asyncio.create_task(self._bring_in(known))
                engine = await asyncio.shield(known.loading)
        except BaseException:
            self._give_back(known)
            raise
        return Lease(engine, lambda: self._give_back(known))

    def _give_back(self, known: Checkpoint) -> None:
        known.asked -= 1
        known.used = time.monotonic()
        if known.gone and not known.asked:
            self._part_with(known)

    def _part_with(self, known: Checkpoint) -> None:
        """Let go of a model whose folder is gone, once those who have it are answered."""
        known.gone = True
        if known not in self._leaving:
            self._leaving.append(known)
        if not known.asked and known.loading is None:
            task = asyncio.create_task(self._let_go(known))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def close(self) -> None:
        """Let go of all."""
        everything = [*self._known.values(), *self._leaving]
        await asyncio.gather(*(each.loading for each in everything if each.loading), return_exceptions=True)
        await asyncio.gather(*(self._let_go(each, in_use=True) for each in everything), *self._working)

    async def _bring_in(self, known: Checkpoint) -> Backend:
        folder = self._home.checkpoints / known.manifest.id
        try:
            async with self._making_room:  # before the other lock: who makes room takes those of others
                await self._make_room(known)
                known.state = "loading"
            async with known.changing:
                await asyncio.to_thread(_check, folder, known.manifest, self._prompt)
                known.engine = await asyncio.to_thread(self._load, folder)
        except AskTwiceError:  # no room: it may pass
            known.state = "unloaded"
            raise
        except asyncio.CancelledError:
            known.state = "unloaded"
            raise
        except Exception as error:
            if _is_memory(error):  # that may pass
                known.state = "unloaded"
                raise Unavailable(f"There is no memory for {known.manifest.id} now.", retry_after=5) from error
            known.state, known.reason = "refused", str(error)[:500] or type(error).__name__
            log.warning("the model %s is refused: %s", known.manifest.id, known.reason)
            raise AdapterMissing(f"The model {known.manifest.id} is refused: {known.reason}.") from error
        finally:
            known.loading = None
        known.state, known.used = "ready", time.monotonic()
        log.info("the model %s is ready", known.manifest.id)
        return known.engine

    async def _make_room(self, wanted: Checkpoint) -> None:
        if wanted.bytes > self._budget:
            raise AdapterMissing(
                f"The model {wanted.manifest.id} needs {wanted.bytes / 1e9:.1f} GB, and {self._budget / 1e9:.1f} GB are"
                " allowed. Raise ASKTWICE_CHECKPOINTS_GB."
            )
        while True:
            there = [*self._known.values(), *self._leaving]
            here = [each for each in there if each.state in ("ready", "loading") and each is not wanted]
            if sum(each.bytes for each in here) + wanted.bytes <= self._budget:
                return
            idle = [each for each in here if each.engine and not each.asked]
            if not idle:
                raise Unavailable(
                    f"There is no room for {wanted.manifest.id} beside the models that answer now.", retry_after=5
                )
            await self._let_go(min(idle, key=lambda each: each.used))

    async def _let_go(self, known: Checkpoint, in_use: bool = False) -> None:
        async with known.changing:
            if known.asked and not in_use:  # meanwhile somebody has come
                return
            engine, known.engine = known.engine, None
            if engine is not None:
                await asyncio.to_thread(engine.stop)
                del engine
                await asyncio.to_thread(_clean_up)
                known.state = "unloaded"  # its room is free now, and not before
        if known in self._leaving:
            self._leaving.remove(known)


def _clean_up() -> None:
    from services.generator.model import release_freed_memory

    gc.collect()  # engine and pages know each other: without it the weights stay
    release_freed_memory()


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in str(error)


def _looked_at(manifest: ServedManifest, home: Home, context: int) -> Checkpoint:
    """What is known of a model before it is asked for; one that cannot be understood is refused and harms no others."""
    try:
        return Checkpoint(manifest, _bytes(home.checkpoints / manifest.id, context))
    except Exception as error:
        reason = f"its size cannot be told ({type(error).__name__}: {str(error)[:200]})"
        log.warning("the model %s is refused: %s", manifest.id, reason)
        return Checkpoint(manifest, 0, state="refused", reason=reason)


def _bytes(folder: Path, context: int) -> int:
    """What a model takes: its weights once as they are stored and once as they are computed with, and its pages.

    The pages hold keys and values, in float32, of the tokens that an engine sets memory aside for.
    """
    from transformers import AutoConfig

    from services.generator.engine import PROMPTS_IN_PAGES

    weights = 2 * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens = PROMPTS_IN_PAGES * min(context, config.max_position_embeddings)
    return int(weights + 2 * 4 * tokens * config.num_hidden_layers * heads * width)


def _check(folder: Path, manifest: ServedManifest, prompt: str) -> None:
    """
    Raises:
        ValueError: it was changed, holds what could be run, or was trained with another prompt.
    """
    if manifest.system_prompt_sha256 not in (None, prompt):
        raise ValueError("it was trained with another system prompt (ASKTWICE_SYSTEM_PROMPT)")
    there = {path.name for path in folder.iterdir()} - {"manifest.json"}
    strange = [name for name in sorted(there) if (folder / name).is_symlink() or not (folder / name).is_file()]
    strange += [name for name in sorted(there) if Path(name).suffix not in FILES | {".md", ".png", ".jsonl", ".html"}]
    if strange:
        raise ValueError(f"{strange[0]} is not a file of a model")
    vouched = {name for name in there if Path(name).suffix in FILES}
    if vouched != set(manifest.files):
        raise ValueError("the manifest does not vouch for the files that are there")
    for name, digest in manifest.files.items():
        if sha256_file(folder / name) != digest:
            raise ValueError(f"{name} was changed after it was published")
    if not manifest.id.endswith(f".{checkpoint_digest(manifest.files)}"):
        raise ValueError("the id does not match the content")
