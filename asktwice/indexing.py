"""Add documents to the index: directly, or through a running server."""

import asyncio
from pathlib import Path

import httpx
import typer

from asktwice.console import say, step
from asktwice.profiles import Prepared, Profile, remember, remembered
from contracts.artifacts import Home
from contracts.clients import RetrieverClient
from contracts.errors import InvalidInput
from contracts.retrieval import Receipt


def add_to(home: Home, profile: Profile, paths: list[Path]) -> None:
    """Index files into the home's own index, with a bar for each."""
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    retriever = Retriever.open(RetrieverSettings(home=home.path, embedding=profile.embedding))
    try:
        for path in paths:
            with step(f"Indexing {path.name}") as advance:
                receipt = retriever.ingest(
                    path.name, _read(path), progress=lambda done, total: advance(done, total, "")
                )
            show_receipt(receipt)
    finally:
        retriever.close()
    before = remembered(home)
    data = before.data if before else None
    remember(home, Prepared(profile=profile.name, base=profile.base, embedding=profile.embedding, data=data))


def add_through(url: str, paths: list[Path]) -> None:
    """Upload files to a running server."""

    async def upload(path: Path) -> Receipt:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            return await RetrieverClient(http).add(path.name, _read(path))

    for path in paths:
        with step(f"Uploading {path.name}"):
            receipt = asyncio.run(upload(path))
        show_receipt(receipt)


def show_receipt(receipt: Receipt) -> None:
    """Print what became of every row, and the first reasons for refusals."""
    typer.echo(
        f"{receipt.source}: {receipt.read} rows read = {receipt.accepted} accepted + {receipt.rejected} rejected"
        f" + {receipt.duplicates} duplicates + {receipt.unchanged} unchanged; {receipt.passages} passages in the index"
    )
    for error in receipt.errors[:5]:
        say(f"  row {error.row}: {error.reason}")
    if receipt.rejected > 5:
        say(f"  ... and {receipt.rejected - 5} more")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror or error}.") from error
