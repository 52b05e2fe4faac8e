"""The evaluator around fakes that speak the contract."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.health import Readiness
from contracts.retrieval import IndexInfo
from services.evaluator.app import create_app
from services.evaluator.settings import EvaluatorSettings
from tests.services.evaluator.fakes import FIVE, FakeGenerator, client_of, retriever_app


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def index() -> Readiness:
    info = IndexInfo(passages=50, embedding="hashed-char-ngrams-2048", dimension=2048, store="Qdrant, в этом процессе")
    return Readiness.of({"index": "ok"}, info.model_dump())


@pytest.fixture
def settings(tmp_path: Path) -> EvaluatorSettings:
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(FIVE) + "\n", encoding="utf-8")
    return EvaluatorSettings(
        home=tmp_path / "artifacts",
        questions=questions,
        data=Path("data/selected_qa_full.csv"),
        judge_timeout_s=0.5,
        openai_api_key=None,
        openai_base_url="http://127.0.0.1:9/v1",
    )


@pytest.fixture
def evaluator(generator: FakeGenerator, index: Readiness) -> Callable[[EvaluatorSettings], FastAPI]:
    """Build the evaluator around the fakes."""

    def build(settings: EvaluatorSettings) -> FastAPI:
        return create_app(
            settings,
            GeneratorClient(client_of(generator.app())),
            RetrieverClient(client_of(retriever_app(index))),
        )

    return build
