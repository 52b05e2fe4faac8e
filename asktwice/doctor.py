"""Look at the machine and the home: what is there, what is missing, how to mend it."""

import os
import platform
import shutil
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from asktwice.profiles import FIVE_QUESTIONS, Profile, remembered
from contracts.artifacts import Home, ServedManifest, published_adapters

State = Literal["ok", "warn", "fail"]
MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``fix`` is what to do, empty where nothing is to be done."""

    what: str
    state: State
    found: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(home: Home, profile: Profile, port: int) -> list[Finding]:
    """Look at everything once; a look that fails is a finding, never a crash."""
    looks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _device,
        _four_bit,
        lambda: _base(profile),
        lambda: _home(home),
        lambda: _adapters(home),
        lambda: _index(home),
        _questions,
        lambda: _port(port),
        _qdrant,
        _judge,
    ]
    return [_safely(look) for look in looks]


def show(findings: list[Finding]) -> None:
    """Print the findings as a table."""
    table = Table("", "what", "found", "what to do", show_lines=False)
    for finding in findings:
        table.add_row(MARKS[finding.state], finding.what, finding.found, finding.fix)
    Console(highlight=False).print(table)


def _safely(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:
        return Finding(getattr(look, "__name__", "check").strip("_"), "fail", f"{type(error).__name__}: {error}"[:200])


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("Python", "ok", found)


def _packages() -> Finding:
    found, missing = [], []
    for name in ("torch", "transformers", "peft", "trl", "bitsandbytes", "qdrant-client", "sentence-transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", "fail", f"missing: {', '.join(missing)}", "Run: make install")
    return Finding("packages", "ok", ", ".join(found))


def _device() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("device", "ok", f"CPU, {os.cpu_count()} cores; no CUDA GPU", "")
    gpu = torch.cuda.get_device_properties(0)
    return Finding("device", "ok", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")


def _four_bit() -> Finding:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
    packed, state = quantize_4bit(weights, quant_type="nf4")
    error = float((dequantize_4bit(packed, state) - weights).abs().max())
    if error > 0.2:
        return Finding("4-bit NF4", "fail", f"off by {error:.2f} after a round trip", "Reinstall bitsandbytes.")
    return Finding("4-bit NF4", "ok", f"works on the {device}")


def _base(profile: Profile) -> Finding:
    if Path(profile.base).is_dir():
        return Finding("base model", "ok", f"{profile.base} (profile {profile.name}: {profile.why})")
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(profile.base, "config.json"), str):
        return Finding("base model", "ok", f"{profile.base}, downloaded (profile {profile.name}: {profile.why})")
    fix = "It is downloaded at the first start; without a network use --profile demo."
    return Finding("base model", "warn", f"{profile.base} is not on this machine yet", fix)


def _home(home: Home) -> Finding:
    folder = home.path
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return Finding("home", "fail", f"{folder} cannot be written", "Choose another folder with --home.")
    state: State = "ok" if free > 5 else "warn"
    return Finding("home", state, f"{folder}, {free:.0f} GiB free", "" if free > 5 else "Free some disk space.")


def _adapters(home: Home) -> Finding:
    adapters = published_adapters(home, ServedManifest)
    if not adapters:
        return Finding("adapters", "warn", "none", "Train one: asktwice train --data FILE --name NAME (or make demo)")
    return Finding("adapters", "ok", f"{len(adapters)}, newest {adapters[0].id} on {adapters[0].base.model}")


def _index(home: Home) -> Finding:
    prepared = remembered(home)
    if not any(home.indexes.glob("*")):
        return Finding("index", "warn", "none", "Build one: asktwice index FILE (or make demo)")
    return Finding(
        "index", "ok", f"in {home.indexes}" + (f", from {prepared.data.name}" if prepared and prepared.data else "")
    )


def _questions() -> Finding:
    count = len([line for line in FIVE_QUESTIONS.read_text(encoding="utf-8").splitlines() if line.strip()])
    return Finding("questions", "ok", f"{count} in {FIVE_QUESTIONS.name}")


def _port(port: int) -> Finding:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return Finding("port", "warn", f"{port} is taken", "Serve on another: asktwice serve --port 0")
    return Finding("port", "ok", f"{port} is free")


def _qdrant() -> Finding:
    url = os.environ.get("QDRANT_URL")
    if not url:
        return Finding("Qdrant", "ok", "embedded engine in this process (set QDRANT_URL for a server)")
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/readyz", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        return Finding("Qdrant", "fail", f"{url}: {type(error).__name__}", "Start it, or unset QDRANT_URL.")
    return Finding("Qdrant", "ok", url)


def _judge() -> Finding:
    if os.environ.get("OPENAI_API_KEY"):
        return Finding("judge", "ok", "OPENAI_API_KEY is set")
    fix = "Optional: set OPENAI_API_KEY (and OPENAI_BASE_URL for a compatible server)."
    return Finding("judge", "warn", "no key: result.txt will have no analysis", fix)
