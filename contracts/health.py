"""What a service says of itself on ``/readyz``."""

from typing import Any

from pydantic import BaseModel


class Readiness(BaseModel):
    """``checks`` maps what must be there to ``"ok"`` or to what is missing; ``about`` describes the service."""

    ready: bool
    checks: dict[str, str]
    about: dict[str, Any] = {}

    @classmethod
    def of(cls, checks: dict[str, str], about: dict[str, Any] | None = None) -> "Readiness":
        """Ready when every check is ``"ok"``."""
        return cls(ready=all(state == "ok" for state in checks.values()), checks=checks, about=about or {})
