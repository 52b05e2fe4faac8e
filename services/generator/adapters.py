"""Which adapters there are, which may be used, and which one answers.

The folder ``home/adapters`` is the truth: whatever is published there is checked, loaded and listed, without a restart.
Clients name adapters by id only, never by path.
"""

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    AdapterManifest,
    Home,
    adapter_digest,
    published_adapters,
    sha256_file,
)
from contracts.errors import AdapterMissing, InvalidInput, NotFound
from contracts.generation import AdapterInfo, Mode
from services.generator.engine import Engine
from services.generator.model import Base

MAX_RANK = 256
NOT_SERVED = (
    "alpha_pattern",
    "auto_mapping",
    "exclude_modules",
    "layer_replication",
    "layers_to_transform",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
)
"""Settings of PEFT that would change what is checked here."""
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
            data_file=manifest.data.file,
        )


class Adapters:
    """The adapters of one home on one engine. Used from the event loop only; heavy work goes to threads."""

    def __init__(self, home: Home, engine: Engine, system_prompt: str):
        self._home = home
        self._system_prompt = system_prompt
        self._engine = engine
        self._entries: dict[str, Entry] = {}
        self._scanning = asyncio.Lock()
        self._seen: list[tuple[str, int]] | None = None
        self._working: set[asyncio.Task[None]] = set()

    def listing(self) -> list[AdapterInfo]:
        """Newest first."""
        return [entry.info() for entry in self._newest_first()]

    async def scan(self) -> None:
        """Look at the folder once: check and load what is new, forget and unload what is gone.

        Goes on when the one who asked is cancelled: others may be waiting for the same adapter.
        """
        await self._to_its_end(self._scan())

    async def _scan(self) -> None:
        async with self._scanning:
            seen = await asyncio.to_thread(_look, self._home.adapters)
            if seen == self._seen:
                return
            manifests = {m.id: m for m in await asyncio.to_thread(published_adapters, self._home)}
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
                if renewed and entry.state == "refused":  # what stood in the way may have passed
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

    async def _take_out(self, entry: Entry) -> None:
        await asyncio.wrap_future(self._engine.unload(entry.manifest.id))
        entry.state, entry.reason = "unloaded", None

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
            await asyncio.to_thread(check, folder, entry.manifest, self._engine.base, self._system_prompt)
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


def check(folder: Path, manifest: AdapterManifest, base: Base, system_prompt: str) -> None:
    """Check a published adapter before it comes near the model.

    Raises:
        ValueError: it does not belong to this base, was changed or cut, or would not compute; the message says which.
    """
    _check_base(manifest, base)
    if manifest.system_prompt_sha256 != hashlib.sha256(system_prompt.encode()).hexdigest():
        raise ValueError("it was trained with another system prompt (ASKTWICE_SYSTEM_PROMPT)")
    for name, digest in manifest.files.items():
        if name != Path(name).name or not (folder / name).is_file() or (folder / name).is_symlink():
            raise ValueError(f"{name} is missing")
        if sha256_file(folder / name) != digest:
            raise ValueError(f"{name} was changed after it was published")
    if not {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= manifest.files.keys():
        raise ValueError("the manifest does not vouch for the weights and their configuration")
    if not manifest.id.endswith("." + adapter_digest(folder)):
        raise ValueError("the id does not match the content")
    config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    _check_config(config)
    _check_tensors(folder / ADAPTER_WEIGHTS, _expected_tensors(config, base.linears))


def _check_base(manifest: AdapterManifest, base: Base) -> None:
    own, here = manifest.base, base.record
    if (own.model, own.revision) != (here.model, here.revision):
        raise ValueError(
            f"it was trained on {own.model} ({own.revision[:19]}), this is {here.model} ({here.revision[:19]})"
        )
    if own.quantization != here.quantization:
        raise ValueError(f"it was trained on a base with quantization {own.quantization}, this has {here.quantization}")


def _check_config(config: Any) -> None:
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if config.get("peft_type") != "LORA":
        raise ValueError(f"peft_type is {config.get('peft_type')!r}; only LORA is served")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"the rank {rank!r} is not between 1 and {MAX_RANK}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or not 0 < alpha / rank <= 64:
        raise ValueError(f"lora_alpha {alpha!r} is out of bounds for rank {rank}")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ValueError("target_modules is not a list of names")
    if config.get("bias", "none") != "none":
        raise ValueError("trained biases are not served")
    for key in NOT_SERVED:
        if config.get(key):
            raise ValueError(f"{key} is not served")


def _expected_tensors(config: Any, linears: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return the name and shape of every tensor that PEFT will look for: A is [rank, inputs], B [outputs, rank]."""
    rank, expected = config["r"], {}
    for name, (outputs, inputs) in linears.items():
        if any(name == target or name.endswith(f".{target}") for target in config["target_modules"]):
            expected[f"base_model.model.{name}.lora_A.weight"] = (rank, inputs)
            expected[f"base_model.model.{name}.lora_B.weight"] = (outputs, rank)
    return expected


def _check_tensors(weights: Path, expected: dict[str, tuple[int, int]]) -> None:
    """PEFT only warns of a tensor under another name, and then answers as if it were not there."""
    from safetensors.torch import load_file

    tensors = load_file(weights)
    if tensors.keys() != expected.keys() or not tensors:
        strange = next(iter(sorted(tensors.keys() ^ expected.keys())), "none at all")
        raise ValueError(f"the tensors are not those of this base and configuration (for one, {strange})")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, not {list(expected[name])}")
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite numbers")
