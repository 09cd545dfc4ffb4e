"""Errors of the API as problem documents (RFC 9457)."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with a row."""

    field: Annotated[str, Field(description="Name of the field; empty when the row as a whole is wrong")]
    value_type: Annotated[str, Field(description="JSON type of the value that was sent, or missing")]
    rule: Annotated[str, Field(description="What the contract requires")]


@dataclass(frozen=True, slots=True)
class ProblemDocument:
    """Body of every error: RFC 9457, with the request's id."""

    title: Annotated[str, Field(description="The status in words")]
    status: int
    detail: Annotated[str, Field(description="What is wrong, in one sentence")]
    request_id: Annotated[str, Field(description="Identifies the request in the log")]
    errors: Annotated[list[FieldProblem] | None, Field(description="With 422: all problems, by field")] = None
    type: Annotated[str, Field(description="about:blank: the status says what kind of problem it is")] = "about:blank"


_DOCUMENT = TypeAdapter(ProblemDocument)


class Problem(Exception):  # noqa: N818 (the RFC's name for it)
    """An error that a client may see."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[FieldProblem] = (), headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, list(errors), list(headers)

    def body(self, request_id: str) -> bytes:
        """The problem document as JSON."""
        title = HTTPStatus(self.status).phrase
        document = ProblemDocument(title, self.status, self.detail, request_id, self.errors or None)
        return _DOCUMENT.dump_json(document, exclude_none=True)


INTERNAL_ERROR = Problem(500, "something went wrong on the server; its log has the details")


def invalid_row(errors: Sequence[FieldProblem]) -> Problem:
    """The problem of a row that breaks the contract."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{first.field or 'the body'} {first.rule}{more}", errors)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of these statuses: a problem document each."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
