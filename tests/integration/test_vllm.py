"""The backend ``openai`` against a real vLLM server, which ``make slow`` installs into a folder of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from contracts.artifacts import Home
from services.generator.app import create_app
from services.generator.settings import GeneratorSettings
from tests.integration.conftest import ROOT
from tests.services.generator.conftest import publish
from tests.services.generator.test_app import ask, retriever
from tests.serving import ready_client, serving

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = ROOT / "models" / "asktwice-tiny"
QUESTIONS = ["Сколько стоит курс?", "Привет! Кто ты?", "Как записаться на пробное занятие?", "Добрый день!"]
pytestmark = pytest.mark.slow


@contextmanager
def vllm(log: Path) -> Iterator[str]:
    """Run ``vllm serve`` on a free port; yield its API's URL once it is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--model", MODEL, "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "1024",
               "--enforce-eager", "--enable-lora", "--max-lora-rank", "32",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    environment = {
        **os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    with log.open("w") as out:
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", *options]
        server = subprocess.Popen(list(map(str, command)), env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 600
            while True:
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, "not healthy in time: " + log.read_text()[-3000:]
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def test_a_real_server_answers_as_our_engine_does(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is not there: make slow installs it (on {sys.platform} where it can)")
    home = Home(path=tmp_path / "home")
    settings = GeneratorSettings(home=home.path, base=str(MODEL), quantization="none", watch_s=0.1)
    adapter = publish(home, MODEL, "random", seed=1, quantization="none")
    with vllm(tmp_path / "vllm.log") as url:
        remote = settings.model_copy(update={"backend": "openai", "backend_url": url, "backend_model": "tiny"})
        with (
            serving(create_app(settings, retriever())) as own,
            serving(create_app(remote, retriever())) as other,
            ready_client(own) as ours,
            ready_client(other) as theirs,
        ):
            for mode in ("base", "rag", "ft"):
                for question in QUESTIONS:
                    asked = {"question": question, "max_new_tokens": 24}
                    here, there = (ask(client, mode, **asked).json() for client in (ours, theirs))
                    assert here["answer"].strip() == there["answer"].strip(), (mode, question)
                    assert here["usage"]["prompt_tokens"] == there["usage"]["prompt_tokens"]
                    assert here["adapter"] == there["adapter"] == (adapter.id if mode == "ft" else None)
            stream = theirs.post("/ask?mode=ft", json={"question": QUESTIONS[0], "stream": True})
            assert "event: done" in stream.text
            assert theirs.post(f"/adapters/{adapter.id}/unload").json()["state"] == "unloaded"
            assert ask(theirs, "ft").status_code == 409
