"""The base of every model that comes in over HTTP: strict types, no unknown fields, no NaN."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A request body. ``"3"`` is not 3, an unknown field is an error that names it, NaN and Infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
