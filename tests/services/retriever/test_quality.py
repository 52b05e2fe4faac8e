"""XQuAD (en): 1,190 questions over 240 paragraphs, with the built-in vectors.

``ASKTWICE_TEST_DATA=FOLDER pytest -s tests/services/retriever/test_quality.py`` prints both figures.
"""

import csv
import os
from pathlib import Path

import pytest

from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from services.retriever.source import passage_id

DATA = os.environ.get("ASKTWICE_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="ASKTWICE_TEST_DATA does not name the folder that holds xquad_en.csv")
def test_hybrid_finds_the_paragraph_of_a_question(settings: RetrieverSettings) -> None:
    path = Path(DATA or "") / "xquad_en.csv"
    retriever = Retriever.open(settings.model_copy(update={"data": path}))
    receipt = retriever.ingest_data()
    assert receipt is not None
    assert (receipt.read, receipt.accepted + receipt.duplicates, receipt.passages) == (1190, 1190, 240)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    places = []
    for row in rows:
        ids = [passage.id for passage in retriever.search(row["question"], 3)]
        gold = passage_id(row["context"])
        places.append(ids.index(gold) if gold in ids else None)
    retriever.close()
    hit_at_1 = sum(place == 0 for place in places) / len(places)
    hit_at_3 = sum(place is not None for place in places) / len(places)
    print(f"hit@1 {hit_at_1:.4f}, hit@3 {hit_at_3:.4f}")
    assert hit_at_3 >= 0.97
    assert hit_at_1 >= 0.90
