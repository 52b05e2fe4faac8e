"""AskTwice's search as a LlamaIndex retriever.

pip install llama-index-core httpx
asktwice serve                      # in another terminal
python examples/llamaindex_retriever.py "Сколько длится курс по GPT?"
"""

import argparse
import sys

import httpx
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode


class AskTwiceRetriever(BaseRetriever):
    """Use it wherever LlamaIndex takes a retriever: ``AskTwiceRetriever().retrieve("...")``."""

    def __init__(self, url: str = "http://127.0.0.1:8000", top_k: int = 3):
        super().__init__()
        self._url = url
        self._top_k = top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            return _nodes(http.post("/search", json={"query": query_bundle.query_str, "top_k": self._top_k}))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as http:
            return _nodes(await http.post("/search", json={"query": query_bundle.query_str, "top_k": self._top_k}))


def _nodes(response: httpx.Response) -> list[NodeWithScore]:
    nodes = []
    for found in response.raise_for_status().json()["results"]:
        score, text, id_ = (found.pop(name) for name in ("score", "text", "id"))
        nodes.append(NodeWithScore(node=TextNode(id_=id_, text=text, metadata=found), score=score))
    return nodes


def main() -> None:
    """Find passages for one query."""
    parser = argparse.ArgumentParser(description="Search AskTwice through a LlamaIndex retriever.")
    parser.add_argument("query")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()
    try:
        for found in AskTwiceRetriever(args.url).retrieve(args.query):
            print(f"{found.score:.2f}  {found.metadata['title']}\n      {found.text}")
    except httpx.HTTPStatusError as error:
        sys.exit(f"{args.url} refuses the query: {error.response.text}")
    except httpx.TransportError as error:
        sys.exit(f"Nobody answers at {args.url} ({error}). Start it: asktwice serve")


if __name__ == "__main__":
    main()
