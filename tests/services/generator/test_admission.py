"""The door alone: who is let in, who is not, and that every place is given back."""

import asyncio
import contextlib
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.middleware import Middleware
from starlette.types import Message, Receive, Scope, Send

from contracts.health import Readiness
from services.generator.admission import Admission
from services.kit import create_service
from tests.serving import serving

App = Callable[[Scope, Receive, Send], object]


async def ask(door: Admission, path: str = "/ask", method: str = "POST") -> int:
    """The status that the door or the app behind it answers with."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await door({"type": "http", "path": path, "method": method, "headers": []}, receive, send)
    return int(sent[0]["status"])


def test_as_many_as_there_is_room_for_are_let_in_and_their_places_come_back() -> None:
    async def look() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        door = Admission(app, limit=2, at_most_s=60)
        inside = [asyncio.create_task(ask(door)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await ask(door) == await ask(door, "/v1/chat/completions") == 429
        others = [asyncio.create_task(ask(door, "/adapters")), asyncio.create_task(ask(door, "/ask", "GET"))]
        inside[0].cancel()  # a client that left
        await asyncio.sleep(0)
        inside.append(asyncio.create_task(ask(door)))
        await asyncio.sleep(0)
        assert await ask(door) == 429
        go_on.set()
        assert await asyncio.gather(*inside[1:], *others) == [200] * 4
        assert await ask(door) == 200

    asyncio.run(look())


def test_a_failure_gives_the_place_back_and_so_does_a_client_that_takes_nothing() -> None:
    async def look() -> None:
        async def fails(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError

        door = Admission(fails, limit=1, at_most_s=60)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await ask(door)

        async def stalls(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(60)

        door = Admission(stalls, limit=1, at_most_s=0.05)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await ask(door)

    asyncio.run(look())


def test_a_body_that_does_not_come_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.BODY_S", 0.5)

    async def readiness() -> Readiness:
        return Readiness.of({})

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield

    app = create_service("test", "", lifespan, readiness, Middleware(Admission, limit=2, at_most_s=60))

    @app.post("/ask")
    async def echo(request: Request, body: dict[str, int]) -> dict[str, int]:
        return body

    async def silent(port: int, length: int = 20) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{"
        writer.write(head % length)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer.split(b"\r\n")[0]

    async def look(url: str) -> list[bytes]:
        port = httpx.URL(url).port or 0
        stalled = [asyncio.create_task(silent(port)) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert b" 429 " in await silent(port)
        answers = await asyncio.gather(*stalled)
        assert b" 413 " in await silent(port, 50_000_000)  # what is dropped is not waited for either
        return answers

    with serving(app) as url:
        assert all(b" 408 " in answer for answer in asyncio.run(look(url)))
        with httpx.Client(base_url=url) as client:
            assert client.post("/ask", json={"a": 1}).json() == {"a": 1}
            # Refused or not, what comes after on the same connection is answered.
            assert [client.post("/ask", json={"a": n}).json() for n in range(5)] == [{"a": n} for n in range(5)]
