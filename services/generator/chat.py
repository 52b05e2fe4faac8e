"""The OpenAI-compatible routes: ``GET /v1/models``, ``POST /v1/chat/completions``.

The model's name says the mode, and maybe the adapter: ``rag``, ``ft``, ``ft:sales.0123456789ab``.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from contracts.chat import (
    ChatAnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatModel,
    ChatModelList,
    ChatRequest,
    ChatUsage,
)
from contracts.errors import AskTwiceError, InternalError, NotFound
from contracts.generation import Answer, Mode
from services.kit import EventStream, openai_error, while_there

if TYPE_CHECKING:
    from services.generator.app import Generator
    from services.generator.asking import Asked

log = logging.getLogger("asktwice")


def chat_routes(current: Callable[[], "Generator"]) -> APIRouter:
    """Return the routes over the service's parts."""
    router, began = APIRouter(prefix="/v1", tags=["openai"]), int(time.time())

    @router.get("/models")
    async def models() -> ChatModelList:
        """The modes, and each adapter that is ready."""
        on_demand = ("unloaded", "loading")  # a fully fine-tuned model is loaded when it is asked for
        listing = [
            adapter
            for adapter in current().adapters.listing()
            if adapter.state == "ready" or (adapter.kind == "full" and adapter.state in on_demand)
        ]
        found = [ChatModel(id=mode.value, created=began) for mode in (Mode.base, Mode.rag)]
        for mode in (Mode.ft, Mode.rag_ft):
            trained = [adapter for adapter in listing if mode in adapter.modes]
            loras = [adapter for adapter in trained if adapter.kind == "lora"]
            if loras:  # newest first
                found.append(ChatModel(id=mode.value, created=int(loras[0].created.timestamp())))
            found += [
                ChatModel(id=f"{mode.value}:{adapter.id}", created=int(adapter.created.timestamp()))
                for adapter in trained
            ]
        return ChatModelList(data=found)

    @router.get("/models/{id}")
    async def model(id: str) -> ChatModel:
        """One of them."""
        for each in (await models()).data:
            if each.id == id:
                return each
        raise NotFound(f"There is no model {id!r}. GET /v1/models lists what there is.")

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def completions(request: Request, body: ChatRequest) -> Response:
        """Answer a chat; with ``stream`` as server-sent events."""
        from services.generator.asking import Wish

        if body.mode is None:
            raise NotFound(f"There is no model {body.model!r}. GET /v1/models lists what there is.")
        asking = current().asking
        asked = await while_there(request, asking.prepare(Wish.of_chat(body, body.mode, asking.system_prompt)))
        if body.stream:
            return EventStream(_events(body, asked, asking.stream(asked)), asked.close)
        try:
            answer = await while_there(request, asking.answer(asked))
        finally:
            asked.close()
        message = ChatAnswerMessage(role="assistant", content=answer.answer, reasoning_content=answer.reasoning)
        completion = ChatCompletion(
            id=asked.id,
            created=int(time.time()),
            model=body.model,
            choices=[ChatChoice(message=message, finish_reason="length" if asked.cut else "stop")],
            usage=ChatUsage.of(answer.usage),
        )
        return Response(completion.model_dump_json(exclude_none=True), media_type="application/json")

    return router


async def _events(body: ChatRequest, asked: "Asked", pieces: AsyncIterator[str | Answer]) -> AsyncIterator[str]:
    created, usage_wanted = int(time.time()), bool(body.stream_options and body.stream_options.include_usage)

    def chunk(choices: list[ChatChunkChoice], usage: ChatUsage | None = None) -> str:
        made = ChatChunk(id=asked.id, created=created, model=body.model, choices=choices, usage=usage)
        return f"data: {made.model_dump_json(exclude_none=True)}\n\n"

    yield chunk([ChatChunkChoice(delta=ChatAnswerMessage(role="assistant", content=""))])
    try:
        async for piece in pieces:
            if isinstance(piece, str):
                yield chunk([ChatChunkChoice(delta=ChatAnswerMessage(content=piece))])
                continue
            delta = ChatAnswerMessage(reasoning_content=piece.reasoning)
            yield chunk([ChatChunkChoice(delta=delta, finish_reason="length" if asked.cut else "stop")])
            if usage_wanted:
                yield chunk([], ChatUsage.of(piece.usage))
        yield "data: [DONE]\n\n"
    except AskTwiceError as error:
        yield f"data: {openai_error(error).model_dump_json()}\n\n"
    except Exception:
        log.exception("a stream failed")
        yield f"data: {openai_error(InternalError('The stream was broken off.')).model_dump_json()}\n\n"
