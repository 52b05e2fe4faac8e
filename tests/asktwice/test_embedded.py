"""One process, one port: who answers which path, and that the compose gateway agrees."""

import re
from pathlib import Path

from asktwice.embedded import ROUTES


def test_the_gateway_of_the_compose_stack_routes_alike() -> None:
    caddy = Path("deploy/Caddyfile").read_text(encoding="utf-8")
    upstreams = {"retriever", "generator", "evaluator"}
    assert set(ROUTES.values()) == upstreams
    for first, service in ROUTES.items():
        assert re.search(rf"/{first}\b", caddy), first
        assert service in caddy
