"""Our errors, the same on both sides of the wire.

A service raises one, the kit renders it as RFC 9457 ``application/problem+json``, and the client raises the same class
again from the stable ``code``::

    AskTwiceError
    ├── InvalidInput          422  invalid_input        the request or the file is wrong; the field or row is named
    ├── NotFound              404  not_found            no such route, job, adapter or document
    ├── TooLarge              413  too_large            the body is over the limit
    ├── NotReady              409  not_ready            the state does not allow it yet; says what to run
    │   ├── AdapterMissing    409  adapter_missing      a fine-tuned mode, and no adapter for it
    │   ├── IndexEmpty        409  index_empty          a retrieving mode, and nothing indexed
    │   └── IndexMismatch     409  index_mismatch       the index was built with another embedding
    ├── Overloaded            429  overloaded           the queue is full; try again after Retry-After
    ├── Unavailable           503  unavailable          a service that is needed does not answer (yet)
    ├── DeadlineExceeded      504  deadline_exceeded    the answer was not ready in time
    └── InternalError         500  internal_error       ours to mend; details are in the log, not in the answer
"""

from typing import Any, ClassVar

from pydantic import BaseModel


class FieldError(BaseModel):
    """One wrong field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """The body of every error answer (RFC 9457), with a stable ``code``."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []


class AskTwiceError(Exception):
    """Base of all errors that a user may see. ``detail`` says what is wrong and what to do next."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, errors: list[FieldError] | None = None, retry_after: float | None = None):
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after

    def problem(self) -> Problem:
        """Return the wire form."""
        return Problem(title=self.title, status=self.status, detail=self.detail, code=self.code, errors=self.errors)


class InvalidInput(AskTwiceError):
    status, code, title = 422, "invalid_input", "Invalid input"


class NotFound(AskTwiceError):
    status, code, title = 404, "not_found", "Not found"


class TooLarge(AskTwiceError):
    status, code, title = 413, "too_large", "Body too large"


class NotReady(AskTwiceError):
    status, code, title = 409, "not_ready", "Not ready"


class AdapterMissing(NotReady):
    code, title = "adapter_missing", "No adapter"


class IndexEmpty(NotReady):
    code, title = "index_empty", "The index is empty"


class IndexMismatch(NotReady):
    code, title = "index_mismatch", "The index was built with another embedding"


class Overloaded(AskTwiceError):
    status, code, title = 429, "overloaded", "Too many requests are waiting"


class Unavailable(AskTwiceError):
    status, code, title = 503, "unavailable", "Service unavailable"


class DeadlineExceeded(AskTwiceError):
    status, code, title = 504, "deadline_exceeded", "Not ready in time"


class InternalError(AskTwiceError):
    pass


_BY_CODE: dict[str, type[AskTwiceError]] = {
    error.code: error
    for error in (
        InvalidInput,
        NotFound,
        TooLarge,
        NotReady,
        AdapterMissing,
        IndexEmpty,
        IndexMismatch,
        Overloaded,
        Unavailable,
        DeadlineExceeded,
        InternalError,
    )
}


def error_from_problem(body: Any, status: int, retry_after: float | None = None) -> AskTwiceError:
    """Return the error that a service meant by an answer with this status and (maybe) problem body."""
    try:
        problem = Problem.model_validate(body)
    except ValueError:
        if status in (502, 503, 504):
            return Unavailable(f"the service answered {status}", retry_after=retry_after)
        return InternalError(f"the service answered {status} without an explanation")
    kind = _BY_CODE.get(problem.code, InternalError)
    return kind(problem.detail, errors=problem.errors, retry_after=retry_after)
