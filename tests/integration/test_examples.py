"""The examples, as their readers run them, against a served demo."""

import asyncio
import importlib.util
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.integration.conftest import ROOT

QUERY = "Сколько длится курс по GPT?"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_langgraph_graph_answers_as_mode_rag_does(client: httpx.Client, url: str) -> None:
    pytest.importorskip("langgraph")
    graph = example("langgraph_rag").create_rag_graph(url)
    state = graph.invoke({"query": QUERY})
    answer = client.post("/ask", params={"mode": "rag"}, json={"question": QUERY}).json()
    assert set(state) == {"query", "retrieved", "context", "answer"}
    assert [passage["id"] for passage in state["retrieved"]] == [source["id"] for source in answer["sources"]]
    assert state["answer"] == answer["answer"]
    nodes = set(graph.get_graph().nodes)
    assert {"retrieve", "generate"} <= nodes


def test_a_graph_can_ask_the_adapter(url: str) -> None:
    pytest.importorskip("langgraph")
    state = example("langgraph_rag").create_rag_graph(url, model="ft", top_k=1).invoke({"query": QUERY})
    assert len(state["retrieved"]) == 1
    assert state["answer"]


@pytest.fixture
def found(client: httpx.Client) -> list[dict[str, Any]]:
    return client.post("/search", json={"query": QUERY, "top_k": 3}).json()["results"]


def test_a_langchain_retriever_finds_what_search_finds(url: str, found: list[dict[str, Any]]) -> None:
    pytest.importorskip("langchain_core")
    retriever = example("langchain_retriever").AskTwiceRetriever(url=url)
    documents = retriever.invoke(QUERY)
    assert [document.page_content for document in documents] == [passage["text"] for passage in found]
    assert [document.metadata["score"] for document in documents] == [passage["score"] for passage in found]
    assert asyncio.run(retriever.ainvoke(QUERY)) == documents


def test_a_llamaindex_retriever_finds_what_search_finds(url: str, found: list[dict[str, Any]]) -> None:
    pytest.importorskip("llama_index.core")
    retriever = example("llamaindex_retriever").AskTwiceRetriever(url)
    nodes = retriever.retrieve(QUERY)
    assert [node.text for node in nodes] == [passage["text"] for passage in found]
    assert [(node.score, node.metadata["title"]) for node in nodes] == [(p["score"], p["title"]) for p in found]
    assert asyncio.run(retriever.aretrieve(QUERY)) == nodes


@pytest.mark.parametrize("name", ["langchain_retriever", "llamaindex_retriever"])
def test_an_example_is_run_as_it_says(url: str, found: list[dict[str, Any]], name: str) -> None:
    command = [sys.executable, f"examples/{name}.py", QUERY, "--url", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert found[0]["text"].splitlines()[0] in done.stdout
    nobody = subprocess.run(
        [*command[:-1], "http://127.0.0.1:9"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert nobody.returncode == 1
    assert "asktwice serve" in nobody.stderr
    assert "Traceback" not in nobody.stderr
