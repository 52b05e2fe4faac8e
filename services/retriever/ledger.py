"""What is acknowledged: which sources were taken, which passages each has, and their texts. SQLite.

The ledger is the truth and the vector store is derived from it. A passage that the ledger does not hold is never
shown, and one that the store lost is written again from here. The order that makes a kill at any moment harmless:

1. ``begin``: the ids of new passages are noted as pending;
2. their vectors are written and made durable in the store;
3. ``commit``: one transaction takes the source, its passages and its receipt. This is the acknowledgement;
4. what is pending and belongs to no source is removed from the store, then ``forget``.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Literal

from contracts.errors import AskTwiceError, IndexMismatch, Unavailable
from contracts.retrieval import Document, Receipt
from services.retriever.source import Source, SourcePassage

Role = Literal["data", "upload"]

_SCHEMA_VERSION = "1"
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, role TEXT NOT NULL, receipt TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passages (id TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS contents (
    source TEXT NOT NULL, passage TEXT NOT NULL, title TEXT NOT NULL, PRIMARY KEY (source, passage)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contents_by_passage ON contents (passage);
CREATE TABLE IF NOT EXISTS pending (id TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('schema', '{_SCHEMA_VERSION}');
COMMIT;
"""


class Ledger:
    """One open ledger. It holds a lock on its file, so that a folder has one process at a time; the lock ends with
    the process, however that ends.

    Raises:
        Unavailable: another process has it open, or it cannot be read.
        IndexMismatch: another version made it.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = Lock()
        self._commits = 0
        self._db = sqlite3.connect(folder / "ledger.sqlite", timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            if self.meta("schema") != _SCHEMA_VERSION:
                raise IndexMismatch(
                    f"The index in {folder} was made by another version of AskTwice. Delete the folder and run:"
                    " asktwice index FILE."
                )
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise self._unusable(error) from error
        except AskTwiceError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def meta(self, key: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", [key])
        return str(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def generation(self) -> int:
        """Which of the index's stores is searched; another embedding makes the next."""
        return int(self.meta("generation") or 1)

    def next_generation(self, embedding: str) -> bool:
        """Note that the next one is being built with this embedding; return whether what it holds is of use.

        A source that was taken or removed since it was begun, or another embedding, makes it begin anew.
        """
        if self.meta("building") == embedding:
            return True
        self.set_meta("building", embedding)
        return False

    def advance(self, embedding: str) -> None:
        """Let the next generation be the one that is searched."""
        number = self.generation + 1
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", [("generation", str(number)), ("embedding", embedding)]
            )
            db.execute("DELETE FROM meta WHERE key = 'building'")

    @property
    def commits(self) -> int:
        """How often a source was taken or removed since this was opened: what is read in between is of one moment."""
        return self._commits

    def is_empty(self) -> bool:
        return not self._rows("SELECT 1 FROM passages LIMIT 1")

    def count(self) -> int:
        return int(self._rows("SELECT count(*) FROM passages")[0][0])

    def receipt(self, name: str) -> Receipt | None:
        """Return the receipt that was last given for this source."""
        rows = self._rows("SELECT receipt FROM sources WHERE name = ?", [name])
        return Receipt.model_validate_json(rows[0][0]) if rows else None

    def documents(self) -> list[Document]:
        """Return the sources, by their names."""
        rows = self._rows("SELECT name, sha256, receipt FROM sources ORDER BY name")
        told = [(name, sha256, Receipt.model_validate_json(receipt)) for name, sha256, receipt in rows]
        return [
            Document(name=name, sha256=sha256, unit=receipt.unit, read=receipt.read, passages=receipt.passages)
            for name, sha256, receipt in told
        ]

    def passages_of(self, name: str) -> set[str]:
        return {id for (id,) in self._rows("SELECT passage FROM contents WHERE source = ?", [name])}

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids that are acknowledged."""
        query = "SELECT id FROM passages WHERE id IN (SELECT value FROM json_each(?))"
        return {id for (id,) in self._rows(query, [json.dumps(list(ids))])}

    def of_sources(self, ids: Iterable[str], sources: Sequence[str]) -> set[str]:
        """Return those of the ids that one of the sources has."""
        query = """
            SELECT passage FROM contents
            WHERE passage IN (SELECT value FROM json_each(?)) AND source IN (SELECT value FROM json_each(?))
        """
        return {id for (id,) in self._rows(query, [json.dumps(list(ids)), json.dumps(list(sources))])}

    def passages(self, ids: Iterable[str], sources: Sequence[str] | None = None) -> dict[str, SourcePassage]:
        """Return those of the passages that are acknowledged, where they stand in one of the sources, or in any."""
        query = """
            SELECT passages.id, contents.source, min(contents.title), passages.text
            FROM passages JOIN contents ON contents.passage = passages.id
            WHERE passages.id IN (SELECT value FROM json_each(?1))
            AND (?2 = 'null' OR contents.source IN (SELECT value FROM json_each(?2))) GROUP BY passages.id
        """  # the source is that of the row with the smallest title: https://sqlite.org/lang_select.html#bareagg
        named = json.dumps(None if sources is None else list(sources))
        return {
            id: SourcePassage(id, source, title.removeprefix(f"{source}, "), text)
            for id, source, title, text in self._rows(query, [json.dumps(list(ids)), named])
        }

    def all_ids(self) -> list[str]:
        return [id for (id,) in self._rows("SELECT id FROM passages ORDER BY rowid")]

    def garbage(self) -> list[str]:
        """Return the ids that may be in the store and belong to no source."""
        return [id for (id,) in self._rows("SELECT id FROM pending WHERE id NOT IN (SELECT id FROM passages)")]

    def begin(self, ids: Iterable[str]) -> None:
        """Note ids before they are written to the store."""
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO pending VALUES (?)", [(id,) for id in ids])

    def commit(self, source: Source, sha256: str, role: Role, receipt: Receipt) -> None:
        """Acknowledge a source in place of the one of that name. A data file replaces the former data file."""
        with self._transaction() as db:
            if role == "data":
                former = "SELECT name FROM sources WHERE role = 'data' AND name <> ?"
                for (name,) in db.execute(former, (source.name,)).fetchall():
                    _empty(db, name)
                db.execute("DELETE FROM sources WHERE role = 'data' AND name <> ?", (source.name,))
                db.execute("INSERT OR REPLACE INTO meta VALUES ('data', ?)", (data_mark(source.name, sha256),))
            else:  # a newer upload of the data file is still what the next data file replaces
                held = "SELECT name FROM sources WHERE name = ? AND role = 'data'"
                role = "data" if db.execute(held, (source.name,)).fetchone() else role
            values = (source.name, sha256, role, receipt.model_dump_json())
            db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)", values)
            _empty(db, source.name)
            db.executemany(
                "INSERT INTO contents VALUES (?, ?, ?)",
                [(source.name, p.id, f"{source.name}, {p.place}") for p in source.passages.values()],
            )
            db.executemany(
                "INSERT OR IGNORE INTO passages VALUES (?, ?)", [(p.id, p.text) for p in source.passages.values()]
            )
            _part_with_orphans(db)
            db.execute("DELETE FROM meta WHERE key = 'building'")
            self._commits += 1

    def remove(self, name: str) -> bool:
        """Take a source out; return whether it was there. A data file that is as it was is not indexed again."""
        with self._transaction() as db:
            there = db.execute("DELETE FROM sources WHERE name = ?", (name,)).rowcount > 0
            _empty(db, name)
            _part_with_orphans(db)
            db.execute("DELETE FROM meta WHERE key = 'building'")
            self._commits += 1
        return there

    def forget(self) -> None:
        """Clear what was pending, once its garbage is out of the store."""
        with self._transaction() as db:
            db.execute("DELETE FROM pending")

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[tuple[str, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> Unavailable:
        """Return what to do about an index that cannot be used."""
        if "locked" in str(error):
            what = "is in use by another process. Work through that one (--url URL of the running server), or stop it."
        elif isinstance(error, sqlite3.OperationalError):  # the place, not the content: full, read-only, gone
            what = f"cannot be used: {error}. See that its disk has room and that this user may write there."
        else:
            what = f"is damaged ({error}). Delete that folder and index again: asktwice index FILE."
        return Unavailable(f"The index in {self._folder} {what}", retry_after=5)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.DatabaseError):
                    raise self._unusable(error) from error
                raise


def _empty(db: sqlite3.Connection, source: str) -> None:
    """Take all passages from a source, and note them as pending: no other source may have them."""
    db.execute("INSERT OR IGNORE INTO pending SELECT passage FROM contents WHERE source = ?", (source,))
    db.execute("DELETE FROM contents WHERE source = ?", (source,))


def _part_with_orphans(db: sqlite3.Connection) -> None:
    """Take out those of the pending passages that no source has any more; pending, they are garbage of the store."""
    db.execute(
        "DELETE FROM passages WHERE id IN (SELECT id FROM pending) AND id NOT IN (SELECT passage FROM contents"
        " WHERE passage IN (SELECT id FROM pending))"
    )


def data_mark(name: str, sha256: str) -> str:
    """Return what the ledger remembers of the data file that was last indexed at start."""
    return f"{sha256} {name}"
