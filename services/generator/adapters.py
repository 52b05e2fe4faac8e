"""Which adapters there are, which may be used, and which one answers.

The folder ``home/adapters`` is the truth: whatever is published there is checked, loaded and listed, without a restart.
Clients name adapters by id only, never by path.
"""

import asyncio
import json
import logging
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    AdapterManifest,
    BaseModelRecord,
    Home,
    adapter_digest,
    published_adapters,
    sha256_file,
)
from contracts.errors import AdapterMissing, InvalidInput, NotFound
from contracts.generation import AdapterInfo, Mode
from services.generator.engine import Engine

MAX_RANK = 256
log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Entry:
    """A published adapter and what became of it here."""

    manifest: AdapterManifest
    state: Literal["ready", "loading", "unloaded", "refused"] = "loading"
    reason: str | None = None

    def info(self) -> AdapterInfo:
        manifest = self.manifest
        return AdapterInfo(
            id=manifest.id,
            name=manifest.name,
            state=self.state,
            base=manifest.base.model,
            created=manifest.created,
            modes=manifest.modes,
            reason=self.reason,
        )


class Adapters:
    """The adapters of one home on one engine. Used from the event loop only; heavy work goes to threads."""

    def __init__(self, home: Home, engine: Engine):
        self._home = home
        self._engine = engine
        self._entries: dict[str, Entry] = {}
        self._scanning = asyncio.Lock()
        self._seen: list[tuple[str, int]] | None = None

    def listing(self) -> list[AdapterInfo]:
        """Newest first."""
        return [entry.info() for entry in self._newest_first()]

    async def scan(self) -> None:
        """Look at the folder once: check and load what is new, forget and unload what is gone."""
        async with self._scanning:
            seen = await asyncio.to_thread(_look, self._home.adapters)
            if seen == self._seen:
                return
            manifests = {m.id: m for m in await asyncio.to_thread(published_adapters, self._home)}
            for gone in [id for id in self._entries if id not in manifests]:
                del self._entries[gone]
                await asyncio.wrap_future(self._engine.unload(gone))
            for id, manifest in manifests.items():
                if id in self._entries:
                    self._entries[id].manifest = manifest
                else:
                    entry = self._entries[id] = Entry(manifest)
                    await self._bring_in(entry)
            self._seen = seen

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
            await self._bring_in(entry)
        return entry.info()

    async def unload(self, id: str) -> AdapterInfo:
        """Take an adapter out of the model; it stays on disk and is not used until it is loaded again."""
        entry = self._entry(id)
        if entry.state == "ready":
            await asyncio.wrap_future(self._engine.unload(id))
            entry.state, entry.reason = "unloaded", None
        return entry.info()

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

    async def _bring_in(self, entry: Entry) -> None:
        folder = self._home.adapters / entry.manifest.id
        entry.state, entry.reason = "loading", None
        try:
            await asyncio.to_thread(check, folder, entry.manifest, self._engine.base.record)
            await asyncio.wrap_future(self._engine.load(entry.manifest.id, folder))
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


def check(folder: Path, manifest: AdapterManifest, base: BaseModelRecord) -> None:
    """Check a published adapter before it comes near the model.

    Raises:
        ValueError: it does not belong to this base, was changed or cut, or would not compute; the message says which.
    """
    own = manifest.base
    if (own.model, own.revision) != (base.model, base.revision):
        raise ValueError(
            f"it was trained on {own.model} ({own.revision[:19]}), this is {base.model} ({base.revision[:19]})"
        )
    if own.quantization != base.quantization:
        raise ValueError(f"it was trained on a base with quantization {own.quantization}, this has {base.quantization}")
    for name, digest in manifest.files.items():
        if name != Path(name).name or not (folder / name).is_file() or (folder / name).is_symlink():
            raise ValueError(f"{name} is missing")
        if sha256_file(folder / name) != digest:
            raise ValueError(f"{name} was changed after it was published")
    if not {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= manifest.files.keys():
        raise ValueError("the manifest does not vouch for the weights and their configuration")
    if not manifest.id.endswith("." + adapter_digest(folder)):
        raise ValueError("the id does not match the content")
    _check_config(json.loads((folder / ADAPTER_CONFIG).read_bytes()))
    _check_finite(folder / ADAPTER_WEIGHTS)


def _check_config(config: Any) -> None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA":
        raise ValueError(f"peft_type is {config.get('peft_type')!r}; only LORA is served")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"the rank {rank!r} is not between 1 and {MAX_RANK}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or not 0 < alpha / rank <= 64:
        raise ValueError(f"lora_alpha {alpha!r} is out of bounds for rank {rank}")
    for key in ("modules_to_save", "auto_mapping", "layer_replication", "use_dora", "trainable_token_indices"):
        if config.get(key):
            raise ValueError(f"{key} is not served")


def _check_finite(weights: Path) -> None:
    from safetensors.torch import load_file

    for name, tensor in load_file(weights).items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")
