"""A kill at a random moment of ingestion: no acknowledged document lost, none twice, no half one seen."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings

CHILD = """
import sys
from services.retriever import edge_store
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from tests.services.retriever.test_kills import changes, content

edge_store.MIN_GRAPH_BYTES = 100_000  # graphs are built, copied and swapped all the time
home, seed, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
retriever = Retriever.open(RetrieverSettings(home=home, qdrant_url=None))
print("open", flush=True)
for number, (name, version) in enumerate(changes(seed)):
    if number < first:
        continue
    print("begin", number, flush=True)
    if version is None:
        retriever.remove(name)
    else:
        retriever.ingest(name, content(name, version))
    print("done", number, flush=True)
"""
State = dict[str, int]
"""Document -> version."""


def changes(seed: int) -> list[tuple[str, int | None]]:
    """Return what happens to which document, always the same: a new version, or None where it is removed."""
    drawn = random.Random(seed)
    there: set[str] = set()
    found: list[tuple[str, int | None]] = []
    for number in range(2000):
        name = f"документ{drawn.randrange(6)}.csv"
        if name in there and drawn.random() < 0.2:
            there.discard(name)
            found.append((name, None))
        else:
            there.add(name)
            found.append((name, number))
    return found


def content(name: str, version: int) -> bytes:
    """Return a file of 5 to 60 passages: some of this version alone, some that all versions of all documents have."""
    number = random.Random(f"{name} {version}").randrange(5, 60)
    rows = [f"Запись {n} в{version}: {name} говорит {n * 7919 % 1000}." for n in range(number)]
    return "\n".join(["context", *rows, "Общая запись всех документов."]).encode()


def after(seed: int, count: int) -> State:
    """Return the state after so many changes."""
    state: State = {}
    for name, version in changes(seed)[:count]:
        state.pop(name, None)
        if version is not None:
            state[name] = version
    return state


def held(retriever: Retriever) -> State | None:
    """Return the state that an index is in; None where it is none that ever was: a half, a double, a loss."""
    state: State = {}
    texts: set[str] = set()
    ledger = retriever._ledger
    for document in retriever.documents():
        passages = ledger.passages(ledger.passages_of(document.name))
        versions = {match[1] for p in passages.values() if (match := re.search(r" в(\d+):", p.text))}
        if len(versions) != 1:
            return None
        state[document.name] = int(versions.pop())
        mine = {p.text for p in passages.values()}
        if mine != set(content(document.name, state[document.name]).decode().splitlines()[1:]):
            return None
        texts |= mine
    stored = retriever._store
    if not retriever.info().passages == stored.count() == len(texts) or stored.missing(ledger.all_ids()):
        return None
    return state


def kill_and_look(home: Path, seed: int, kills: int) -> None:
    drawn = random.Random(seed)
    reached = 0
    for _ in range(kills):
        command = [sys.executable, "-c", CHILD, str(home), str(seed), str(reached)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            said = child.stdout.readline()
            assert said == "open\n", child.stderr.read()
            time.sleep(drawn.expovariate(2))
            child.kill()
            lines = child.stdout.read().splitlines()
            assert child.wait() == -signal.SIGKILL, child.stderr.read()
        begun = max((int(line.split()[1]) for line in lines if line.startswith("begin")), default=reached - 1)
        done = max((int(line.split()[1]) for line in lines if line.startswith("done")), default=reached - 1)
        retriever = Retriever.open(RetrieverSettings(home=home, qdrant_url=None))
        state = held(retriever)
        acknowledged = after(seed, done + 1)
        assert state in (acknowledged, after(seed, begun + 1)), (done, begun)
        for name, version in acknowledged.items():
            if (state or {}).get(name) == version:
                found = retriever.search(f"Запись 1 в{version} {name}", 1)[0]
                assert f" в{version}: " in found.text
        retriever.close()
        reached = (begun if state == after(seed, begun + 1) else done) + 1


def test_five_kills(tmp_path: Path) -> None:
    kill_and_look(tmp_path / "home", seed=1, kills=5)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    for seed in range(5):
        kill_and_look(tmp_path / f"home-{seed}", seed=seed + 10, kills=20)
