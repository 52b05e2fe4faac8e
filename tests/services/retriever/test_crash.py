"""A kill at any moment loses nothing that was acknowledged and shows nothing that was not."""

import csv
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import Unavailable
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings

CHILD = """
import os, signal, sys
from pathlib import Path
from services.retriever.edge_store import EdgeStore
from services.retriever.ledger import Ledger
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings

home, file, owner, method, call, when = sys.argv[1:]

def die_at(owner, method, call, when):
    real, seen = getattr(owner, method), 0
    def dying(*args):
        nonlocal seen
        seen += 1
        if seen == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args)
        if seen == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, method, dying)

retriever = Retriever.open(RetrieverSettings(home=home, qdrant_url=None))
die_at({"ledger": Ledger, "store": EdgeStore}[owner], method, int(call), when)
retriever.ingest("facts.csv", Path(file).read_bytes())
raise SystemExit("was not killed")
"""

HOLDER = """
import sys
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings

retriever = Retriever.open(RetrieverSettings(home=sys.argv[1], qdrant_url=None))
print("open", flush=True)
sys.stdin.read()
"""


def facts(numbers: range, word: str) -> dict[str, str]:
    """Return a query and the passage that it must find, by number."""
    return {f"{word}{n:04d}": f"Запись {word}{n:04d}: значение равно {n * 7919 % 1000}." for n in numbers}


OLD = facts(range(70), "запас") | facts(range(10), "общий")
NEW = facts(range(90), "партия") | facts(range(10), "общий")


def as_table(passages: dict[str, str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([["context"], *([passage] for passage in passages.values())])
    return text.getvalue().encode()


def holds_exactly(retriever: Retriever, passages: dict[str, str]) -> bool:
    """Every passage is found by its own word, nothing else is found, and the store has each once."""
    found = {passage.text for query in OLD | NEW for passage in retriever.search(query, 20)}
    first = all(retriever.search(query, 1)[0].text == text for query, text in passages.items())
    return found == set(passages.values()) and first and retriever._store.count() == len(passages)


@pytest.mark.parametrize(
    ("owner", "method", "call", "when", "acknowledged"),
    [
        ("ledger", "begin", 1, "before", False),
        ("ledger", "begin", 1, "after", False),
        ("store", "upsert", 2, "before", False),
        ("store", "upsert", 2, "after", False),
        ("store", "flush", 1, "after", False),
        ("ledger", "commit", 1, "before", False),
        ("ledger", "commit", 1, "after", True),
        ("store", "delete", 1, "after", True),
        ("ledger", "forget", 1, "before", True),
    ],
)
def test_sigkill_while_a_source_is_replaced(
    tmp_path: Path, owner: str, method: str, call: int, when: str, acknowledged: bool
) -> None:
    settings = RetrieverSettings(home=tmp_path / "home", qdrant_url=None)
    retriever = Retriever.open(settings)
    retriever.ingest("facts.csv", as_table(OLD))
    retriever.close()
    (tmp_path / "facts.csv").write_bytes(as_table(NEW))

    arguments = [str(settings.home), str(tmp_path / "facts.csv"), owner, method, str(call), when]
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr

    retriever = Retriever.open(settings)
    assert holds_exactly(retriever, NEW if acknowledged else OLD)
    receipt = retriever.ingest("facts.csv", as_table(NEW))
    assert receipt.unchanged == (100 if acknowledged else 10)
    assert holds_exactly(retriever, NEW)
    retriever.close()


def test_a_second_process_is_told_what_to_do_and_disturbs_nobody(tmp_path: Path) -> None:
    settings = RetrieverSettings(home=tmp_path / "home", qdrant_url=None)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(settings.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Unavailable, match=r"in use by another process.*--url URL.*stop it") as refused:
            Retriever.open(settings)
        assert str(settings.folder) in refused.value.detail
        holder.kill()
        holder.wait()
    Retriever.open(settings).close()
