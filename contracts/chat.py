"""The part of OpenAI's chat completions API that the generator speaks.

Names and shapes are OpenAI's (https://platform.openai.com/docs/api-reference/chat). Fields that we do not know are
ignored, as that API's servers do; what we know and cannot do is refused.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from contracts.generation import Mode, Usage

MAX_STOPS = 8
_CANNOT: dict[str, tuple[object, ...]] = {
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},),
    "frequency_penalty": (0,), "presence_penalty": (0,), "modalities": (["text"],), "audio": (), "prediction": (),
}  # fmt: skip
"""What would change the answer and is not done, with the values that ask for nothing."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextPart(_Lenient):
    type: Literal["text"]
    text: str


class ChatMessage(_Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None
    """None where an assistant said nothing."""

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    @model_validator(mode="after")
    def _is_text(self) -> "ChatMessage":
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half a character (a lone surrogate)") from error
        return self


class StreamOptions(_Lenient):
    include_usage: bool = False


def _listed(stop: object) -> object:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=MAX_STOPS), BeforeValidator(_listed)
]


class ChatRequest(_Lenient):
    """``model`` is a mode, or ``ft:<adapter>`` and ``rag_ft:<adapter>``. Without ``temperature`` answers are greedy."""

    model: str = Field(max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = []
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    top_k: int = Field(default=3, ge=1, le=20)
    """Ours: how many passages a retrieving mode looks up."""
    include_reasoning: bool = False
    """Ours: whether the answer tells what a reasoning model thought."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: object) -> object:
        if isinstance(body, dict):
            for name, harmless in _CANNOT.items():
                if body.get(name) not in (None, *harmless):
                    reason = PydanticCustomError("cannot", "this cannot be done here: leave it out")
                    raise ValidationError.from_exception_data("", [{"type": reason, "loc": (name,), "input": None}])
        return body

    @property
    def mode(self) -> Mode | None:
        """None where the model is none of ours."""
        name, colon, adapter = self.model.partition(":")
        mode = next((mode for mode in Mode if mode.value == name), None)
        return mode if mode is None or not colon or (adapter and mode.tuned) else None

    @property
    def adapter(self) -> str | None:
        return self.model.partition(":")[2] or None


class ChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "ChatUsage":
        total = usage.prompt_tokens + usage.completion_tokens
        return cls(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, total_tokens=total)


class ChatAnswerMessage(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: ChatAnswerMessage
    finish_reason: Literal["stop", "length"]


class ChatChunkChoice(BaseModel):
    index: int = 0
    delta: ChatAnswerMessage
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: ChatUsage | None = None


class ChatModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["asktwice"] = "asktwice"


class ChatModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ChatModel]


class ChatError(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ChatErrorBody(BaseModel):
    error: ChatError
