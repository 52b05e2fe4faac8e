"""What the API page says of bodies that are read or written by hand."""

from typing import Any

from pydantic import BaseModel

from contracts.errors import Problem
from contracts.evaluation import EvaluateRequest, Job
from services.kit import PROBLEM_JSON

Responses = dict[int | str, dict[str, Any]]


def _schema(model: type[BaseModel]) -> Any:
    """Return a model's JSON schema in one piece, without references."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(node: Any) -> Any:
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).removeprefix("#/$defs/")
            return whole(parts[name]) if name else {key: whole(value) for key, value in node.items()}
        return [whole(item) for item in node] if isinstance(node, list) else node

    return whole(schema)


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM_JSON: {"schema": _schema(Problem)}}}


_UPLOAD = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary", "description": "a CSV with the column question"}},
}
EVALUATE_BODY: dict[str, Any] = {
    "required": False,
    "content": {"application/json": {"schema": _schema(EvaluateRequest)}, "multipart/form-data": {"schema": _UPLOAD}},
}
EVALUATE_RESPONSES: Responses = {
    200: {"description": "result.txt; the header X-Evaluation-Id names the evaluation"},
    202: {
        "description": "begun; the header Location names the job",
        "content": {"application/json": {"schema": _schema(Job)}},
    },
    422: _problem("The questions are not valid."),
    429: _problem("Too many evaluations run."),
    503: _problem("Nothing was answered, and the generator does not even say which model it runs."),
}
NOT_FOUND: Responses = {404: _problem("There is no such evaluation.")}
