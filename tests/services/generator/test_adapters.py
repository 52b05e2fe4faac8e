import asyncio
from pathlib import Path

from contracts.artifacts import Home
from contracts.generation import Mode
from contracts.prompts import SYSTEM_PROMPT
from services.generator.adapters import Adapters
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
