"""Which adapters there are, which may be used, and which one answers.

The folder ``home/adapters`` is the truth: whatever is published there is checked, loaded and listed, without a restart.
Clients name adapters by id only, never by path.
"""

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from contracts.artifacts import MANIFEST, Home, ServedManifest, published_adapters
from contracts.errors import AdapterMissing, AskTwiceError, InvalidInput, NotFound
from contracts.generation import AdapterInfo, Mode
from services.generator.checking import Question, check_in_child
from services.generator.checkpoints import Checkpoints
from services.generator.jobs import Backend

log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Entry:
    """A published adapter and what became of it here."""

    manifest: ServedManifest
    state: Literal["ready", "loading", "unloaded", "refused"] = "loading"
    reason: str | None = None
    pinned: bool = False

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
        self._again = False
        self._working: set[asyncio.Task[None]] = set()

    def listing(self) -> list[AdapterInfo]:
        """Newest first."""
        full = self._checkpoints.listing() if self._checkpoints else []
        return [*(entry.info() for entry in self._newest_first()), *full]

    async def scan(self) -> None:
        """Look at the folder once: check and load what is new, forget and unload what is gone.

        Goes on when the one who asked is cancelled: others may be waiting for the same adapter.
        """
        await self._to_its_end(self._scan())

    async def _scan(self) -> None:
        async with self._scanning:
            if self._checkpoints:
                await self._checkpoints.scan()
            seen = await asyncio.to_thread(_look, self._home.adapters)
            if seen == self._seen and not self._again:
                return
            self._again = False
            manifests = {m.id: m for m in await asyncio.to_thread(published_adapters, self._home, ServedManifest)}
            for gone in [id for id in self._entries if id not in manifests]:
                del self._entries[gone]
                await asyncio.wrap_future(self._engine.unload(gone))
            for id, manifest in manifests.items():
                entry = self._entries.get(id)
                renewed = entry is not None and entry.manifest.published != manifest.published
                if entry is None:
                    entry = self._entries[id] = Entry(manifest)
                    await self._bring_in(entry)
                entry.manifest = manifest
                waits = entry.state == "loading" and entry.reason is not None
                if waits or (renewed and entry.state == "refused"):  # what stood in the way may have passed
                    await self._bring_in(entry)
            self._seen = seen

    async def _to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        await asyncio.shield(task)

    async def watch(self, every_s: float) -> None:
        """Scan again and again until cancelled."""
        while True:
            try:
                await self.scan()
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
        await self.scan()  # one may have been published this moment
        found = self._find(mode, asked)
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
        if found.state != "ready":
            raise AdapterMissing(
                f"The adapter {found.manifest.id} is {found.state}: {found.reason or 'load it first'}."
            )
        return found.info()

    async def load(self, id: str) -> AdapterInfo:
        """Check an adapter again and load it."""
        await self.scan()
        entry = self._entry(id)
        if entry.state != "ready":
            await self._to_its_end(self._bring_in(entry))
        return entry.info()

    async def unload(self, id: str) -> AdapterInfo:
        """Take an adapter out of the model; it stays on disk and is not used until it is loaded again."""
        entry = self._entry(id)
        if entry.state == "ready":
            await self._to_its_end(self._take_out(entry))
        return entry.info()

    async def pin(self, id: str, pinned: bool) -> AdapterInfo:
        """Keep an adapter in the model whatever else is asked for, or no longer so.

        Raises:
            NotFound: there is no such adapter.
            AdapterMissing: it is not loaded.
        """
        entry = self._entry(id)
        if pinned and entry.state != "ready":
            raise AdapterMissing(f"The adapter {id} is {entry.state}: {entry.reason or 'load it first'}.")
        await asyncio.wrap_future(self._engine.pin(id, pinned))
        entry.pinned = pinned
        return entry.info()

    async def _take_out(self, entry: Entry) -> None:
        await asyncio.wrap_future(self._engine.unload(entry.manifest.id))
        entry.state, entry.reason, entry.pinned = "unloaded", None, False

    def _entry(self, id: str) -> Entry:
        if id not in self._entries:
            raise NotFound(f"There is no adapter {id}. GET /adapters lists what there is.")
        return self._entries[id]

    def _find(self, mode: Mode, asked: str | None) -> Entry | None:
        if asked is not None:
            return self._entries.get(asked)
        candidates = [entry for entry in self._newest_first() if mode in entry.manifest.modes]
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
        folder = self._home.adapters / entry.manifest.id
        entry.state, entry.reason = "loading", None
        try:
            await asyncio.to_thread(check_in_child, self._question(entry))
            await asyncio.wrap_future(self._engine.load(entry.manifest.id, folder, entry.manifest.files))
        except AskTwiceError as error:  # no room, no server: it may pass
            entry.state, entry.reason = "loading", error.detail
            self._again = True
            log.warning("adapter %s cannot be loaded yet: %s", entry.manifest.id, entry.reason)
        except Exception as error:
            entry.state, entry.reason = "refused", str(error)[:500] or type(error).__name__
            log.warning("adapter %s refused: %s", entry.manifest.id, entry.reason)
        else:
            entry.state = "ready"
            log.info("adapter %s is ready", entry.manifest.id)


def _look(folder: Path) -> list[tuple[str, int]]:
    """Return the names and manifest times in the folder: equal lists mean that nothing was published or renewed."""
    try:
        return sorted((path.parent.name, path.stat().st_mtime_ns) for path in folder.glob(f"*/{MANIFEST}"))
    except FileNotFoundError:  # removed while we looked; the next look is right
        return []
