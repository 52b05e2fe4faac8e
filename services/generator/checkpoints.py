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
from typing import Literal

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
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def info(self) -> AdapterInfo:
        return self.manifest.info(self.state, self.reason, kind="full")


class Checkpoints:
    """The fully fine-tuned models of one home. Used from the event loop only; heavy work goes to threads.

    Args:
        load: makes an engine of a model's folder.
        budget: bytes that all of them may take together.
        idle_s: after this long without a request one is let go.
        system_prompt: one that was trained with another is refused.
    """

    def __init__(
        self, home: Home, load: Callable[[Path], Backend], *, budget: float, idle_s: float, system_prompt: str
    ):
        self._home, self._load = home, load
        self._budget, self._idle_s = budget, idle_s
        self._prompt = hashlib.sha256(system_prompt.encode()).hexdigest()
        self._known: dict[str, Checkpoint] = {}
        self._making_room = asyncio.Lock()

    def listing(self) -> list[AdapterInfo]:
        """Newest first."""
        known = sorted(self._known.values(), key=lambda each: each.manifest.published, reverse=True)
        return [each.info() for each in known]

    async def scan(self) -> None:
        """Look at the folder once; let go of what is gone, and of what has been idle for long."""
        published = {m.id: m for m in await asyncio.to_thread(published_checkpoints, self._home)}
        for id in [id for id in self._known if id not in published]:
            await self._let_go(self._known.pop(id))
        for id, manifest in published.items():
            if id not in self._known:
                size = await asyncio.to_thread(_bytes, self._home.checkpoints / id)
                self._known[id] = Checkpoint(manifest, size)
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

    async def borrow(self, id: str) -> Backend:
        """Return the engine of a model, loaded if it is not; to be given back.

        Raises:
            NotFound: it is gone.
            Unavailable: there is no room beside the models that answer now.
            AdapterMissing: it was refused.
        """
        known = self._known.get(id)
        if known is None:
            raise NotFound(f"There is no adapter {id}. GET /adapters lists what there is.")
        known.asked += 1
        try:
            async with known.loading:
                if known.engine is None:
                    await self._bring_in(known)
        except BaseException:
            self.give_back(id)
            raise
        assert known.engine is not None
        return known.engine

    def give_back(self, id: str) -> None:
        """Say that a request has been answered."""
        known = self._known.get(id)
        if known is not None:
            known.asked -= 1
            known.used = time.monotonic()

    async def close(self) -> None:
        """Let go of all."""
        for known in self._known.values():
            await self._let_go(known)

    async def _bring_in(self, known: Checkpoint) -> None:
        folder = self._home.checkpoints / known.manifest.id
        async with self._making_room:
            await self._make_room(known)
            known.state = "loading"
        try:
            await asyncio.to_thread(_check, folder, known.manifest, self._prompt)
            known.engine = await asyncio.to_thread(self._load, folder)
        except AskTwiceError:  # no room: it may pass
            known.state = "unloaded"
            raise
        except MemoryError as error:
            known.state = "unloaded"
            raise Unavailable(f"There is no memory for {known.manifest.id} now.", retry_after=5) from error
        except asyncio.CancelledError:
            known.state = "unloaded"
            raise
        except Exception as error:
            known.state, known.reason = "refused", str(error)[:500] or type(error).__name__
            log.warning("the model %s is refused: %s", known.manifest.id, known.reason)
            raise AdapterMissing(f"The model {known.manifest.id} is refused: {known.reason}.") from error
        known.state, known.used = "ready", time.monotonic()
        log.info("the model %s is ready", known.manifest.id)

    async def _make_room(self, wanted: Checkpoint) -> None:
        if wanted.bytes > self._budget:
            raise AdapterMissing(
                f"The model {wanted.manifest.id} needs {wanted.bytes / 1e9:.1f} GB, and {self._budget / 1e9:.1f} GB are"
                " allowed. Raise ASKTWICE_CHECKPOINTS_GB."
            )
        here = [each for each in self._known.values() if each.state in ("ready", "loading") and each is not wanted]
        idle = sorted((each for each in here if each.engine and not each.asked), key=lambda each: each.used)
        taken = sum(each.bytes for each in here)
        while taken + wanted.bytes > self._budget:
            if not idle:
                raise Unavailable(
                    f"There is no room for {wanted.manifest.id} beside the models that answer now.", retry_after=5
                )
            taken -= idle[0].bytes
            await self._let_go(idle.pop(0))

    async def _let_go(self, known: Checkpoint) -> None:
        engine, known.engine = known.engine, None
        if engine is not None:
            known.state = "unloaded"
            await asyncio.to_thread(engine.stop)
            del engine
            await asyncio.to_thread(gc.collect)  # engine and pages know each other: without it the weights stay


def _bytes(folder: Path) -> int:
    """What a model takes at most: its weights once as they are stored, and once as they are computed with."""
    return 2 * sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _check(folder: Path, manifest: ServedManifest, prompt: str) -> None:
    """
    Raises:
        ValueError: it was changed, holds what could be run, or was trained with another prompt.
    """
    if manifest.system_prompt_sha256 not in (None, prompt):
        raise ValueError("it was trained with another system prompt (ASKTWICE_SYSTEM_PROMPT)")
    there = {path.name for path in folder.iterdir()} - {"manifest.json"}
    strange = [name for name in sorted(there) if (folder / name).is_symlink() or not (folder / name).is_file()]
    strange += [name for name in sorted(there) if Path(name).suffix not in FILES | {".md", ".png", ".jsonl"}]
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
