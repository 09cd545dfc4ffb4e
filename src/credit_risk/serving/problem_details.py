"""Errors of the API as problem documents (RFC 9457): what is wrong, where, and nothing of the server's inside."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """One thing that is wrong with an application."""

    field: str = Field(description="Applicant field; empty when the application as a whole is wrong")
    value_type: str = Field(description="JSON type of the value that was sent, or missing")
    rule: str = Field(description="What the contract wants")


class ProblemDocument(BaseModel):
    """Body of every error; RFC 9457, with the request's id."""

    type: str = Field("about:blank", description="about:blank: the status says what kind of problem it is")
    title: str = Field(description="The status in words")
    status: int
    detail: str = Field(description="What is wrong, in one sentence")
    request_id: str = Field(description="Names the request in the log")
    errors: list[FieldProblem] | None = Field(None, description="With 422: everything that is wrong, by field")


class Problem(Exception):  # noqa: N818 (the RFC's name for it)
    """An error that a client may see."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[dict[str, str]] = (), headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, list(errors), list(headers)

    def document(self, request_id: str = "") -> dict[str, Any]:
        """The problem document."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        return document | {"errors": self.errors} if self.errors else document

    def body(self, request_id: str) -> bytes:
        """The problem document in JSON."""
        return json.dumps(self.document(request_id)).encode()


FAULT = Problem(500, "something went wrong on the server; its log has the details")


def invalid(errors: Sequence[dict[str, str]]) -> Problem:
    """An application that breaks the contract."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{first['field'] or 'the body'} {first['rule']}{more}", errors)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem document as OpenAPI's response of each status."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
