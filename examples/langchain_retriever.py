"""AskTwice's search as a LangChain retriever.

pip install langchain-core httpx
asktwice serve                      # in another terminal
python examples/langchain_retriever.py "Сколько длится курс по GPT?"
"""

import argparse
import sys

import httpx
from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever


class AskTwiceRetriever(BaseRetriever):
    """Use it wherever LangChain takes a retriever: ``AskTwiceRetriever().invoke("...")``."""

    url: str = "http://127.0.0.1:8000"
    top_k: int = 3

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            return _documents(http.post("/search", json={"query": query, "top_k": self.top_k}))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as http:
            return _documents(await http.post("/search", json={"query": query, "top_k": self.top_k}))


def _documents(response: httpx.Response) -> list[Document]:
    results = response.raise_for_status().json()["results"]
    return [Document(id=found["id"], page_content=found.pop("text"), metadata=found) for found in results]


def main() -> None:
    """Find passages for one query."""
    parser = argparse.ArgumentParser(description="Search AskTwice through a LangChain retriever.")
    parser.add_argument("query")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()
    try:
        for document in AskTwiceRetriever(url=args.url).invoke(args.query):
            print(f"{document.metadata['score']:.2f}  {document.metadata['title']}\n      {document.page_content}")
    except httpx.HTTPStatusError as error:
        sys.exit(f"{args.url} refuses the query: {error.response.text}")
    except httpx.TransportError as error:
        sys.exit(f"Nobody answers at {args.url} ({error}). Start it: asktwice serve")


if __name__ == "__main__":
    main()
