"""The whole road once, as a newcomer should read it: check, index, train, serve, ask both ways, write result.txt."""

import time
from contextlib import ExitStack
from pathlib import Path

from asktwice.asking import Wish, check_out, run_evaluation
from asktwice.console import say, step
from asktwice.embedded import EmbeddedSettings
from asktwice.indexing import show_receipt
from asktwice.profiles import Profile
from asktwice.serving import served
from asktwice.training import adapter_name, train_adapter
from contracts.artifacts import Home
from contracts.table import read_table

HELD_OUT = 60
"""Rows that were not trained on, measured beside the five questions, so that the first result has a verdict."""


def run_demo(home: Home, profile: Profile, data: Path, questions: Path, out: Path) -> None:
    """Do all of it; what a former run has done already is found and kept, the questions are asked anew.

    Raises:
        InvalidInput: the data is refused; nothing was started.
    """
    begun = time.perf_counter()
    check_out(out)
    table = read_table(data)
    say(table.summary())
    for error in table.errors[:5]:
        say(f"  row {error.row}: {error.reason}")

    index_data(home, profile, data)
    train_adapter(home, profile, data, adapter_name(data), profile.recipe)
    settings = EmbeddedSettings(
        home=home.path,
        profile=profile.name,
        base=profile.base,
        embedding=profile.embedding,
        data=data,
        questions=questions,
    )
    with ExitStack() as open_until_asked:
        with step("Starting the services"):
            url = open_until_asked.enter_context(served(settings))
        run_evaluation(url, Wish(measure=HELD_OUT), out, home.path)
    where = "" if home.path == Path("artifacts") else f" HOME_DIR={home.path}"
    say(f"All of it took {time.perf_counter() - begun:.0f} s. Serve it: make serve{where}")


def index_data(home: Home, profile: Profile, data: Path) -> None:
    """Make the index hold this data file, unless it does."""
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    with step("Indexing the contexts") as advance:
        retriever = Retriever.open(RetrieverSettings(home=home.path, data=data, embedding=profile.embedding))
        try:
            receipt = retriever.ingest_data(lambda done, total: advance(done, total, ""))
        finally:
            retriever.close()
    if receipt is not None:
        show_receipt(receipt)
