"""Which adapters there are, which may be used, and which one answers.

The folder ``home/adapters`` is the truth: whatever is published there is checked, loaded and listed, without a restart.
Clients name adapters by id only, never by path.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from contracts.artifacts import MANIFEST, Home, ServedManifest, published_adapters
from contracts.errors import AdapterMissing, AskTwiceError, InvalidInput, NotFound
from contracts.generation import AdapterInfo, Mode
from services.generator.checking import Question, Refused, check_in_child
from services.generator.checkpoints import Checkpoints
from services.generator.jobs import Backend

PATIENCE_S = 5.0
"""How long a question waits for the newest adapter where an older one could answer."""
log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Entry:
    """A published adapter and what became of it here."""

    manifest: ServedManifest
    state: Literal["ready", "loading", "unloaded", "refused"] = "loading"
    reason: str | None = None
    pinned: bool = False
    task: "asyncio.Task[None] | None" = None
    """Checks and loads it."""
    tries: int = 0
    again_at: float = 0.0

    def info(self) -> AdapterInfo:
        return self.manifest.info(self.state, self.reason, pinned=self.pinned)


class Adapters:
    """The adapters of one home on one engine. Used from the event loop only; heavy work goes to threads."""

    def __init__(self, home: Home, engine: Backend, system_prompt: str, checkpoints: Checkpoints | None = None):
        self._checkpoints = checkpoints
        self._home = home
        self._system_prompt = system_prompt
        self._engine = engine
        self._entries: dict[str, Entry] = {}
        self._scanning = asyncio.Lock()
        self._seen: list[tuple[str, int]] | None = None
        self._passed: set[str] = set()
        self._one_check = asyncio.Lock()
        self._working: set[asyncio.Task[None]] = set()

    def listing(self) -> list[AdapterInfo]:
        """Newest first."""
        full = self._checkpoints.listing() if self._checkpoints else []
        return [*(entry.info() for entry in self._newest_first()), *full]

    async def scan(self) -> None:
        """Look at the folder once, and wait until what is new has been checked and loaded or refused."""
        await self._look()
        tasks = [entry.task for entry in self._entries.values() if entry.task]
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self) -> None:
        """Take note of what is new and forget what is gone. Goes on when the one who asked leaves."""
        await asyncio.shield(self._in_background(self._take_note()))

    async def _take_note(self) -> None:
        async with self._scanning:
            if self._checkpoints:
                await self._checkpoints.scan()
            seen = await asyncio.to_thread(_look, self._home.adapters)
            if seen != self._seen:
                manifests = {m.id: m for m in await asyncio.to_thread(published_adapters, self._home, ServedManifest)}
                for gone in [id for id in self._entries if id not in manifests]:
                    del self._entries[gone]
                    self._in_background(self._unload(gone))
                for id, manifest in manifests.items():
                    entry = self._entries.setdefault(id, Entry(manifest))
                    renewed = entry.manifest.published != manifest.published
                    entry.manifest = manifest
                    if entry.tries == 0 or (renewed and entry.state == "refused"):  # what stood in the way may be gone
                        self._begin(entry)
                self._seen = seen
            for entry in self._entries.values():
                if entry.state == "loading" and time.monotonic() > entry.again_at:
                    self._begin(entry)

    def _begin(self, entry: Entry) -> None:
        if entry.task is None:
            entry.state, entry.reason, entry.tries = "loading", None, entry.tries + 1
            entry.task = self._in_background(self._bring_in(entry))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task

    async def _unload(self, id: str) -> None:
        await asyncio.wrap_future(self._engine.unload(id))

    async def watch(self, every_s: float) -> None:
        """Scan again and again until cancelled."""
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("looking for adapters failed; trying again")
            await asyncio.sleep(every_s)

    async def resolve(self, mode: Mode, asked: str | None) -> AdapterInfo | None:
        """Return the adapter that answers in this mode; None for the modes without one.

        Raises:
            InvalidInput: an adapter was named for a mode that uses none, or one that was not trained for the mode.
            NotFound: the named adapter does not exist.
            AdapterMissing: there is none to use yet.
        """
        if not mode.tuned:
            if asked is not None:
                raise InvalidInput(f"adapter: mode={mode.value} uses none. Leave it out, or ask in ft or rag_ft.")
            return None
        await self._look()  # one may have been published this moment
        found = await self._find(mode, asked)
        if found is None:
            if asked is not None and self._checkpoints and (full := self._checkpoints.find(mode, asked)):
                return full
            if asked is not None:
                raise NotFound(f"There is no adapter {asked}. GET /adapters lists what there is.")
            raise AdapterMissing(
                f"mode={mode.value} needs an adapter trained for it, and there is none in {self._home.adapters.name}/."
                " Train one: asktwice train --data FILE --name NAME"
            )
        if mode not in found.manifest.modes:
            trained = ", ".join(m.value for m in found.manifest.modes)
            raise InvalidInput(f"adapter: {found.manifest.id} was trained for mode={trained}, not for {mode.value}.")
        self._must_be_ready(found)
        return found.info()

    def _must_be_ready(self, entry: Entry) -> None:
        if entry.state != "ready":
            raise AdapterMissing(
                f"The adapter {entry.manifest.id} is {entry.state}: {entry.reason or 'load it first'}."
            )

    async def load(self, id: str) -> AdapterInfo:
        """Check an adapter again and load it.

        Raises:
            NotFound: there is no such adapter.
            AdapterMissing: it cannot be loaded; the message says why.
        """
        await self._look()
        entry = self._entry(id)
        if entry.state != "ready":
            self._begin(entry)
            await _until_done(entry)
        self._must_be_ready(entry)
        return entry.info()

    async def unload(self, id: str) -> AdapterInfo:
        """Take an adapter out of the model; it stays on disk and is not used until it is loaded again."""
        entry = self._entry(id)
        await _until_done(entry)
        if entry.state == "ready":
            await asyncio.shield(self._in_background(self._take_out(entry)))
        return entry.info()

    async def pin(self, id: str, pinned: bool) -> AdapterInfo:
        """Keep an adapter in the model whatever else is asked for, or no longer so.

        Raises:
            NotFound: there is no such adapter.
            NotReady: it is not loaded, or those that are pinned leave it no room.
        """
        entry = self._entry(id)
        if pinned:
            await _until_done(entry)
            self._must_be_ready(entry)
        await asyncio.wrap_future(self._engine.pin(id, pinned))
        entry.pinned = pinned
        return entry.info()

    async def _take_out(self, entry: Entry) -> None:
        await asyncio.wrap_future(self._engine.unload(entry.manifest.id))
        entry.state, entry.reason, entry.pinned = "unloaded", None, False

    def _entry(self, id: str) -> Entry:
        if id in self._entries:
            return self._entries[id]
        if self._checkpoints and any(info.id == id for info in self._checkpoints.listing()):
            raise InvalidInput(f"{id} is a model of its own: it is loaded when it is asked for, and let go when idle.")
        raise NotFound(f"There is no adapter {id}. GET /adapters lists what there is.")

    async def _find(self, mode: Mode, asked: str | None) -> Entry | None:
        """The adapter that was asked for, or the newest that is ready.

        One that is still being looked at is waited for, but where an older one can answer only for so long.
        """
        if asked is not None:
            found = self._entries.get(asked)
            if found is not None:
                await _until_done(found)
            return found
        candidates = [entry for entry in self._newest_first() if mode in entry.manifest.modes]
        if candidates and candidates[0].task:
            can_answer = any(entry.state == "ready" for entry in candidates)
            await _until_done(candidates[0], PATIENCE_S if can_answer else None)
        waiting = [entry for entry in candidates if entry.task]
        if waiting and not any(entry.state == "ready" for entry in candidates):
            await asyncio.wait([entry.task for entry in waiting if entry.task], return_when=asyncio.ALL_COMPLETED)
        ready = [entry for entry in candidates if entry.state == "ready"]
        return next(iter(ready), next(iter(candidates), None))

    def _newest_first(self) -> list[Entry]:
        def published(entry: Entry) -> datetime:
            return entry.manifest.published

        return sorted(self._entries.values(), key=published, reverse=True)

    def _question(self, entry: Entry) -> Question:
        base = self._engine.base
        digest = hashlib.sha256(self._system_prompt.encode()).hexdigest()
        return Question(
            folder=self._home.adapters / entry.manifest.id,
            base=base.record,
            linears=base.linears,
            system_prompt_sha256=digest,
            files=entry.manifest.files,
        )

    async def _bring_in(self, entry: Entry) -> None:
        id, question = entry.manifest.id, self._question(entry)
        content = entry.manifest.model_dump_json(exclude={"published"})
        try:
            if content not in self._passed:
                async with self._one_check:
                    await asyncio.to_thread(check_in_child, question)
                self._passed.add(content)
            await asyncio.wrap_future(self._engine.load(id, question.folder, entry.manifest.files))
        except (Refused, ValueError) as error:
            entry.state, entry.reason = "refused", str(error)[:500] or type(error).__name__
            log.warning("adapter %s refused: %s", id, entry.reason)
        except Exception as error:  # no room, no memory, no server: it may pass
            reason = error.detail if isinstance(error, AskTwiceError) else f"{type(error).__name__}: {error}"
            entry.state, entry.reason = "loading", reason[:500]
            entry.again_at = time.monotonic() + min(60.0, 2.0 ** min(entry.tries, 6))
            log.warning("adapter %s cannot be loaded yet: %s", id, entry.reason)
        else:
            entry.state, entry.tries = "ready", 1
            log.info("adapter %s is ready", id)
            if self._entries.get(id) is not entry:  # its folder went while it was loaded
                await self._unload(id)
        finally:
            entry.task = None


async def _until_done(entry: Entry, seconds: float | None = None) -> None:
    """Wait while it is checked and loaded; it goes on when the one who waits leaves."""
    if entry.task is not None:
        await asyncio.wait([entry.task], timeout=seconds)


def _look(folder: Path) -> list[tuple[str, int]]:
    """Return the names and manifest times in the folder: equal lists mean that nothing was published or renewed."""
    try:
        return sorted((path.parent.name, path.stat().st_mtime_ns) for path in folder.glob(f"*/{MANIFEST}"))
    except FileNotFoundError:  # removed while we looked; the next look is right
        return []
