"""Add documents to the index: directly, or through a running server."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import typer

from asktwice.console import say, step
from asktwice.profiles import Prepared, Profile, remember, remembered
from contracts.artifacts import Home
from contracts.clients import RetrieverClient
from contracts.errors import DeadlineExceeded, InvalidInput, NotFound, TooLarge
from contracts.retrieval import Document, Receipt
from contracts.table import read_bytes


class _File(NamedTuple):
    name: str
    """What the document is called in the index: the file's name, under a folder its path from there."""
    path: Path
    size: int


Ingest = Callable[[str, bytes, Callable[[int, int], None]], Receipt]
"""Name, content, progress -> receipt."""


def add_to(home: Home, profile: Profile, paths: list[Path], encoding: str | None = None) -> None:
    """Index files, and those in folders, into the home's own index.

    Raises:
        InvalidInput: a file cannot be read or is refused; of several the others are indexed.
    """
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    files = _files(paths)
    retriever = Retriever.open(RetrieverSettings(home=home.path, embedding=profile.embedding))
    try:
        _add(files, lambda name, content, progress: retriever.ingest(name, content, "upload", progress, encoding))
    finally:
        retriever.close()
        before = remembered(home)
        data = before.data if before else None
        remember(home, Prepared(profile=profile.name, base=profile.base, embedding=profile.embedding, data=data))


def add_through(url: str, paths: list[Path], encoding: str | None = None) -> None:
    """Upload files, and those in folders, to a running server.

    Raises:
        InvalidInput: a file cannot be read or is refused; of several the others are uploaded.
    """

    async def upload(name: str, content: bytes) -> Receipt:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            return await RetrieverClient(http).add(name, content, encoding)

    _add(_files(paths), lambda name, content, _: asyncio.run(upload(name, content)))


def remove_from(home: Home, profile: Profile, names: list[str]) -> None:
    """Take documents out of the home's own index.

    Raises:
        NotFound: there is none of that name.
    """
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    retriever = Retriever.open(RetrieverSettings(home=home.path, embedding=profile.embedding))
    try:
        for name in names:
            retriever.remove(name)
            typer.echo(f"{name}: removed")
    finally:
        retriever.close()


def remove_through(url: str, names: list[str]) -> None:
    """Take documents out of a running server's index.

    Raises:
        NotFound: there is none of that name.
    """

    async def remove(name: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            await RetrieverClient(http).remove(name)

    for name in names:
        asyncio.run(remove(name))
        typer.echo(f"{name}: removed")


def list_of(home: Home, profile: Profile) -> None:
    """Print what is in the home's own index."""
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    retriever = Retriever.open(RetrieverSettings(home=home.path, embedding=profile.embedding))
    try:
        _show(retriever.documents())
    finally:
        retriever.close()


def build_again(home: Home, profile: Profile) -> None:
    """Build the home's own index again with the profile's embedding, of the passages that it holds.

    Until that is done it stays as it was; what is interrupted goes on where it was when it is begun again.

    Raises:
        NotFound: there is no index.
    """
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    settings = RetrieverSettings(home=home.path, embedding=profile.embedding, reindex=True)
    if not settings.folder.is_dir():
        raise NotFound(f"There is no index in {home.path}. Run: asktwice index FILE --home {home.path}")
    with step("Building the index again") as advance:
        retriever = Retriever.open(settings, lambda done, total: advance(done, total, ""))
    info = retriever.info()
    retriever.close()
    before = remembered(home)
    base, data = (before.base, before.data) if before else (profile.base, None)
    remember(home, Prepared(profile=profile.name, base=base, embedding=profile.embedding, data=data))
    typer.echo(f"{info.passages} passages are indexed with {info.embedding} ({info.dimension} numbers each)")


def list_through(url: str) -> None:
    """Print what is in a running server's index."""

    async def documents() -> list[Document]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            return await RetrieverClient(http).documents()

    _show(asyncio.run(documents()))


def show_receipt(receipt: Receipt) -> None:
    """Print what became of every unit, and the first reasons for refusals."""
    typer.echo(
        f"{receipt.source}: {receipt.read} {receipt.unit}s read = {receipt.accepted} accepted"
        f" + {receipt.rejected} rejected + {receipt.duplicates} duplicates + {receipt.unchanged} unchanged;"
        f" {receipt.passages} passages in the index"
    )
    for error in receipt.errors[:5]:
        say(f"  {receipt.unit} {error.row}: {error.reason}")
    if receipt.rejected > 5:
        say(f"  ... and {receipt.rejected - 5} more")


def _add(files: list[_File], ingest: Ingest) -> None:
    """Index one file after another; a refused one does not stop the others."""
    total, before, refused = sum(file.size for file in files), 0, 0
    title = f"Indexing {files[0].name}" if len(files) == 1 else f"Indexing {len(files)} files"
    with step(f"{title} (KB)") as advance:
        for file in files:

            def progress(done: int, of: int, before: int = before, file: _File = file) -> None:
                # Reading a file is the lesser part: it counts with the passages, not before them.
                advance((before + file.size * done // max(of, 1)) // 1000, total // 1000, file.name)

            progress(0, 1)
            try:
                show_receipt(ingest(file.name, read_bytes(file.path), progress))
            except (InvalidInput, TooLarge, DeadlineExceeded) as refusal:
                if len(files) == 1:
                    raise
                say(refusal.detail, style="red")
                refused += 1
            before += file.size
    if refused:
        raise InvalidInput(f"{refused} of {len(files)} files were not indexed; the reasons are above.")


def _files(paths: list[Path]) -> list[_File]:
    """Return the files, and those of a supported type in folders; say which of these are left out.

    Raises:
        InvalidInput: there is no such file, or none that could be indexed.
    """
    from services.retriever.source import TABLES, TEXTS

    found: list[_File] = []
    left_out: dict[str, int] = {}
    for path in paths:
        if not path.is_dir():
            found.append(_File(path.name, path, _size(path)))
            continue
        root = path.resolve()
        for each in sorted(root.rglob("*")):
            parts = each.relative_to(root).parts
            if not each.is_file() or any(part.startswith((".", "~$")) for part in parts):
                continue
            if each.suffix.lower() in (*TABLES, *TEXTS):
                found.append(_File("/".join((root.name, *parts)), each, _size(each)))
            else:
                left_out[each.suffix or each.name] = left_out.get(each.suffix or each.name, 0) + 1
    places: dict[str, Path] = {}
    for file in found:
        if (other := places.setdefault(file.name, file.path)).resolve() != file.path.resolve():
            raise InvalidInput(
                f"{other} and {file.path} would both be the document {file.name}, and the second would replace the"
                " first. Rename one, or index the folder that holds both."
            )
    if left_out:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(left_out.items())[:10])
        say(f"Left out, of types that are not read: {kinds}")
    if not found:
        raise InvalidInput(f"There is no file that could be indexed. Read are {', '.join((*TABLES, *TEXTS))}.")
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror or error}.") from error


def _show(documents: list[Document]) -> None:
    for document in documents:
        typer.echo(f"{document.name}: {document.read} {document.unit}s, {document.passages} passages")
    if not documents:
        say("Nothing is indexed yet. Run: asktwice index FILE.")
