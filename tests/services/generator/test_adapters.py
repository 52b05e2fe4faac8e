import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import services.generator.adapters as adapters_module
from contracts.artifacts import Home
from contracts.generation import Mode
from contracts.prompts import SYSTEM_PROMPT
from services.generator.adapters import Adapters
from services.generator.checking import Question
from services.generator.engine import Engine
from tests.services.generator.conftest import publish


def test_who_leaves_while_an_adapter_loads_takes_it_from_nobody(engine: Engine, home: Home, base_folder: Path) -> None:
    manifest = publish(home, base_folder, "one", seed=1)

    async def story() -> str:
        adapters = Adapters(home, engine, SYSTEM_PROMPT)
        impatient = asyncio.create_task(adapters.resolve(Mode.ft, None))
        for _ in range(100_000):  # until the first look has found it
            if adapters.listing():
                break
            await asyncio.sleep(0)
        assert [info.state for info in adapters.listing()] == ["loading"]
        impatient.cancel()
        found = await adapters.resolve(Mode.ft, None)
        assert found is not None
        return found.state

    assert asyncio.run(story()) == "ready"
    assert manifest.id


def test_a_ready_adapter_answers_while_others_are_checked(
    engine: Engine, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = publish(home, base_folder, "ready", seed=1)
    go_on = threading.Event()

    async def story() -> None:
        adapters = Adapters(home, engine, SYSTEM_PROMPT)
        await adapters.scan()
        monkeypatch.setattr("services.generator.adapters.check_in_child", lambda _: go_on.wait(30))
        monkeypatch.setattr("services.generator.adapters.PATIENCE_S", 0.2)
        for seed in (2, 3):
            publish(home, base_folder, f"n{seed}", seed=seed)
        async with asyncio.timeout(10):
            named = await adapters.resolve(Mode.ft, ready.id)
            default = await adapters.resolve(Mode.ft, None)
        assert named is not None
        assert default is not None
        assert named.id == default.id == ready.id
        go_on.set()
        await adapters.scan()
        assert {info.state for info in adapters.listing()} == {"ready"}

    asyncio.run(story())


def test_what_may_pass_is_tried_again_and_a_check_is_made_once(
    engine: Engine, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(home, base_folder, "one", seed=1)
    checks: list[object] = []
    check, load, faults = adapters_module.check_in_child, engine.load, [RuntimeError("CUDA out of memory")]

    def counted(question: Question) -> None:
        checks.append(question)
        check(question)

    def at_first_full(*given: Any) -> Any:
        if faults:
            failed: Future[None] = Future()
            failed.set_exception(faults.pop())
            return failed
        return load(*given)

    monkeypatch.setattr(adapters_module, "check_in_child", counted)
    monkeypatch.setattr(engine, "load", at_first_full)

    async def story() -> None:
        adapters = Adapters(home, engine, SYSTEM_PROMPT)
        await adapters.scan()
        [info] = adapters.listing()
        assert (info.state, info.reason) == ("loading", "RuntimeError: CUDA out of memory")
        assert (await adapters.load(manifest.id)).state == "ready"
        await adapters.unload(manifest.id)
        assert (await adapters.load(manifest.id)).state == "ready"

    asyncio.run(story())
    assert len(checks) == 1
