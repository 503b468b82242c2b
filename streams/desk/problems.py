"""What the API says when it refuses: RFC 9457 problem details, in words, with nothing of the request in them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from streams.core.errors import BadRecord, Conflict, NotFound, StreamsError, Unavailable

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[Exception], int] = {
    BadRecord: HTTPStatus.UNPROCESSABLE_ENTITY,
    Conflict: HTTPStatus.CONFLICT,
    NotFound: HTTPStatus.NOT_FOUND,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    OperationalError: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Problem(BaseModel):
    """Why a request was refused; nothing was changed."""

    type: str = Field("about:blank", description="Always about:blank: the status tells the kind.")
    title: str = Field(description="The kind of problem.", examples=["Conflict"])
    status: int = Field(description="The HTTP status.", examples=[409])
    detail: str = Field(
        description="What is the matter, and what to do.",
        examples=["event 'e-17' is held by ann for 240 more seconds"],
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted(statuses)
    }


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A response that says what is the matter."""
    told = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)  # type: ignore[call-arg]  # type has a default
    return JSONResponse(told.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """One of ours, by whose fault it is."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    if isinstance(error, OperationalError):
        return problem(status, "the desk's database does not answer: try again in a moment")
    return problem(status, error.reason if isinstance(error, BadRecord) else str(error))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Refused by the framework, or by who checks the caller."""
    assert isinstance(error, HTTPException)  # noqa: S101  it is registered for this class
    headers = dict(error.headers or {})
    return problem(error.status_code, str(error.detail), headers)


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Not what the OpenAPI document asks for: by field, what was expected."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  it is registered for this class
    told = "; ".join(f"{_where(each['loc'])}: {each['msg']}" for each in error.errors())
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, told)


def _where(places: tuple[Any, ...]) -> str:
    # A key of the caller's may be no text that can be written.
    return ".".join(str(place) for place in places).encode(errors="replace").decode()


def install(app: FastAPI) -> None:
    """Makes an application answer so."""
    for kind in (StreamsError, OperationalError):
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
