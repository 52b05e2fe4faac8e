"""The compose files, merged as compose does: who is reachable, who may do what, who gets the GPU and the data."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = {
    "gpu": ["docker-compose.yml"],
    "cpu": ["docker-compose.yml", "docker-compose.cpu.yml"],
    "offline": ["docker-compose.yml", "docker-compose.cpu.yml", "deploy/offline.yml"],
}
OURS = ["evaluator", "generator", "retriever", "trainer"]
SERVED = ["gateway", "evaluator", "generator", "retriever"]
DATA = "./data/selected_qa_full.csv"
RESET = object()

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^{}]*))?\}")


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!reset", lambda loader, node: RESET)


def stack(kind: str, values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the merged stack of a kind in FILES; services behind a profile are left out."""
    merged: dict[str, Any] = {}
    for name in FILES[kind]:
        text = VARIABLE.sub(lambda match: (values or {}).get(match[1]) or match[2] or "", read(name))
        merged = merge(merged, yaml.load(text, Loader))
    merged["services"] = {name: service for name, service in merged["services"].items() if "profiles" not in service}
    return merged


def variables(kind: str) -> set[str]:
    """Return the names of the variables that the files of a kind know."""
    return {match[1] for name in FILES[kind] for match in VARIABLE.finditer(read(name))}


def mounts(service: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return target -> (source, read-only) of a service's volumes, in the short and the long form."""
    found = {}
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *options = volume.split(":")
            volume = {"source": source, "target": target, "read_only": "ro" in options}
        found[os.path.normpath(volume["target"])] = (volume["source"], volume.get("read_only", False))
    return found


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def merge(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        merged = {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
        return {key: value for key, value in merged.items() if value is not RESET}
    if isinstance(base, list) and isinstance(over, list):
        return base + over
    return over


everywhere = pytest.mark.parametrize("kind", FILES)


@everywhere
def test_only_the_gateway_is_published_and_on_loopback_only(kind: str) -> None:
    published = {name: service["ports"] for name, service in stack(kind)["services"].items() if service.get("ports")}
    assert published == {"gateway": ["127.0.0.1:8000:8000"]}
    moved = stack(kind, {"ASKTWICE_PORT": "9123"})["services"]["gateway"]["ports"]
    assert moved == ["127.0.0.1:9123:8000"]


@everywhere
def test_every_container_runs_without_rights(kind: str) -> None:
    for name, service in stack(kind)["services"].items():
        user, _, group = service["user"].partition(":")
        assert int(user) > 0, name
        assert int(group) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert int(service["pids_limit"]) > 0, name
        assert service["mem_limit"], name
        for way_out in ("privileged", "network_mode", "pid", "ipc", "devices", "userns_mode"):
            assert way_out not in service, name
        assert not any("docker.sock" in source for source, _ in mounts(service).values()), name


def test_each_container_owns_its_volumes() -> None:
    users = {name: service["user"] for name, service in stack("gpu")["services"].items()}
    assert users.pop("qdrant") == "1000:1000", "the user that the unprivileged image made its storage for"
    assert set(users.values()) == {"10001:10001"}


def test_only_the_gateway_adds_a_capability() -> None:
    added = {name: service["cap_add"] for name, service in stack("gpu")["services"].items() if "cap_add" in service}
    assert added == {"gateway": ["NET_BIND_SERVICE"]}


def test_qdrant_is_reached_by_the_retriever_alone_and_reaches_nothing() -> None:
    merged = stack("gpu")
    networks = merged["services"]["qdrant"]["networks"]
    assert all(merged["networks"][network]["internal"] for network in networks)
    neighbours = {name for name, service in merged["services"].items() if set(service["networks"]) & set(networks)}
    assert neighbours == {"qdrant", "retriever"}


def test_the_published_network_holds_the_gateway_alone() -> None:
    merged = stack("gpu")["services"]
    assert [name for name, service in merged.items() if "edge" in service["networks"]] == ["gateway"]
    for name in ("evaluator", "generator", "retriever"):
        assert "services" in merged[name]["networks"]


def test_the_gpu_goes_to_generator_and_trainer_with_a_share_each() -> None:
    services = stack("gpu")["services"]
    reserved = {name: service["deploy"] for name, service in services.items() if "deploy" in service}
    assert set(reserved) == {"generator", "trainer"}
    for deploy in reserved.values():
        device = deploy["resources"]["reservations"]["devices"][0]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    shares = [float(services[name]["environment"]["ASKTWICE_GPU_MEMORY_SHARE"]) for name in reserved]
    assert all(share > 0 for share in shares)
    assert sum(shares) < 1, "both CUDA contexts need memory of their own"


@pytest.mark.parametrize("kind", ["cpu", "offline"])
def test_without_a_gpu_nothing_asks_for_one(kind: str) -> None:
    assert not any("deploy" in service for service in stack(kind)["services"].values())


def test_generator_and_trainer_use_the_same_base() -> None:
    for kind, expected in (("gpu", "Qwen/Qwen2.5-1.5B-Instruct"), ("cpu", "Qwen/Qwen2.5-0.5B-Instruct")):
        for chosen in ("", "org/another-model"):
            services = stack(kind, {"ASKTWICE_BASE": chosen})["services"]
            bases = {services[name]["environment"]["ASKTWICE_BASE"] for name in ("generator", "trainer")}
            assert bases == {chosen or expected}
    offline = stack("offline")["services"]
    for name in ("generator", "trainer"):
        base = offline[name]["environment"]["ASKTWICE_BASE"]
        assert mounts(offline[name])[base] == ("./models/asktwice-tiny", True)


@everywhere
@pytest.mark.parametrize("file", ["", "/srv/exports/sales 2026.csv", "../mine.csv"])
def test_one_variable_gives_the_data_file_to_all_who_read_it(kind: str, file: str) -> None:
    services = stack(kind, {"ASKTWICE_DATA_FILE": file})["services"]
    readers = {name: service for name, service in services.items() if "ASKTWICE_DATA" in service.get("environment", {})}
    assert set(readers) == {"evaluator", "retriever", "trainer"}
    for service in readers.values():
        path = service["environment"]["ASKTWICE_DATA"]
        assert mounts(service)[os.path.normpath(path)] == (file or DATA, True)
        assert os.path.basename(path) == os.path.basename(file or DATA), "result.txt names the file"


def test_a_missing_data_file_is_an_error_and_not_an_empty_folder() -> None:
    for name in ("evaluator", "retriever", "trainer"):
        (data,) = (v for v in stack("gpu")["services"][name]["volumes"] if isinstance(v, dict))
        assert data["bind"] == {"create_host_path": False}


@everywhere
def test_what_a_service_writes_is_in_a_volume_and_the_rest_is_read_only(kind: str) -> None:
    merged = stack(kind)
    for name, service in merged["services"].items():
        for target, (source, read_only) in mounts(service).items():
            assert read_only or source in merged["volumes"], f"{name} may write to {source} at {target}"
    for name in ("retriever", "evaluator", "trainer"):
        assert mounts(merged["services"][name])["/artifacts"] == ("artifacts", False)
    assert mounts(merged["services"]["generator"])["/artifacts"] == ("artifacts", True)
    for name in ("retriever", "generator", "trainer"):
        assert mounts(merged["services"][name])["/models"] == ("models", False)


@everywhere
def test_images_are_pinned(kind: str) -> None:
    for name, service in stack(kind)["services"].items():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), f"{name}: {service['image']}"
    assert all("build" in stack(kind)["services"][name] for name in OURS)


@everywhere
def test_the_key_of_the_judge_is_known_to_the_evaluator_alone(kind: str) -> None:
    services = stack(kind, {"OPENAI_API_KEY": "canary"})["services"]
    assert [name for name, service in services.items() if "canary" in str(service)] == ["evaluator"]


def test_servers_come_back_and_are_watched_and_the_trainer_ends() -> None:
    services = stack("gpu")["services"]
    for name in [*SERVED, "qdrant"]:
        assert services[name]["restart"] == "unless-stopped"
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services["trainer"]["restart"] == "on-failure:3"
    assert "healthcheck" not in services["trainer"]


def test_offline_needs_no_registry_and_no_hub() -> None:
    services = stack("offline")["services"]
    assert "qdrant" not in services
    assert services["retriever"]["environment"]["QDRANT_URL"] == ""
    for name, service in services.items():
        assert "build" in service, f"{name} would be pulled"
        if "HF_TOKEN" in service.get("environment", {}):
            assert service["environment"]["HF_HUB_OFFLINE"] == "1", name


def test_no_service_is_promised_an_order() -> None:
    assert not any("depends_on" in service for service in stack("gpu")["services"].values())


def test_the_example_lists_every_variable_with_its_default() -> None:
    example = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    files = "\n".join(read(name) for name in FILES["gpu"])
    assert set(example) == set().union(*(variables(kind) for kind in FILES))
    for name, default in example.items():
        assert {match[2] or "" for match in VARIABLE.finditer(files) if match[1] == name} == {default}, name
