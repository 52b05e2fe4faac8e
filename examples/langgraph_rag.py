"""A LangGraph graph over AskTwice: retrieve -> generate.

AskTwice finds the passages (``POST /search``) and answers with them (``POST /v1/chat/completions``, by OpenAI's
client), so each node can be replaced by another without touching the other one.

    pip install langgraph openai httpx
    asktwice serve                      # in another terminal
    python examples/langgraph_rag.py "Сколько длится курс по GPT?"
"""

import argparse
import sys
from typing import Any, TypedDict

import httpx
from langgraph.graph import END, START, StateGraph
from openai import OpenAI, OpenAIError


class RagState(TypedDict, total=False):
    """What the nodes hand on."""

    query: str
    retrieved: list[dict[str, Any]]
    context: str
    answer: str


def create_rag_graph(url: str, model: str = "base", top_k: int = 3) -> Any:
    """Return a compiled graph; ``graph.invoke({"query": ...})`` gives the whole state.

    Args:
        url: where AskTwice serves.
        model: who answers: ``base``, ``ft`` or ``ft:<adapter>``. The passages come from the graph's own first node.
        top_k: how many passages are retrieved.
    """
    http = httpx.Client(base_url=url, timeout=60)
    client = OpenAI(base_url=f"{url}/v1", api_key="none")

    def retrieve(state: RagState) -> RagState:
        response = http.post("/search", json={"query": state["query"], "top_k": top_k}).raise_for_status()
        retrieved = response.json()["results"]
        numbered = [f"[{n}] {passage['text']}" for n, passage in enumerate(retrieved, start=1)]
        return {"retrieved": retrieved, "context": "\n".join(numbered)}

    def generate(state: RagState) -> RagState:
        asked = f"Контекст:\n{state['context']}\n\nВопрос: {state['query']}"
        completion = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": asked}], temperature=0
        )
        return {"answer": completion.choices[0].message.content or ""}

    graph = StateGraph(RagState)
    graph.add_node("retrieve", retrieve)
    graph.add_node("generate", generate)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "generate")
    graph.add_edge("generate", END)
    return graph.compile()


def main() -> None:
    """Ask one question."""
    parser = argparse.ArgumentParser(description="Ask AskTwice through a LangGraph graph.")
    parser.add_argument("query")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="base", help="base, ft or ft:<adapter> (default: %(default)s)")
    args = parser.parse_args()
    try:
        print(create_rag_graph(args.url, args.model).invoke({"query": args.query})["answer"])
    except httpx.HTTPStatusError as error:
        sys.exit(f"{args.url} refuses the question: {error.response.text}")
    except OpenAIError as error:
        sys.exit(f"{args.url} does not answer: {error}")
    except httpx.TransportError as error:
        sys.exit(f"Nobody answers at {args.url} ({error}). Start it: asktwice serve")


if __name__ == "__main__":
    main()
