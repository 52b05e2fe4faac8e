"""The examples, as their readers run them, against a served demo."""

import importlib.util
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
