"""Errors as RFC 9457 problems: a Chinese title for hall staff, an English detail for whoever wrote
the client, and the offending fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api.shapes import EVENT_KINDS

_encode = msgspec.json.Encoder().encode

TITLES = {
    400: "请求无法解析",
    401: "需要有效的访问令牌",
    403: "权限不足",
    404: "未找到",
    405: "不支持的请求方法",
    409: "请求冲突",
    410: "变更记录已清理",
    413: "请求体过大",
    415: "不支持的内容类型",
    422: "参数有误",
    500: "内部错误",
    503: "暂时不可用",
}


class Offence(msgspec.Struct, frozen=True):
    """One field that is wrong; ``location`` is ``query path header body``."""

    field: str
    location: str
    detail: str


class Problem(Exception):
    """An answer that says no."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Offence] = (),
        headers: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.reasons = reasons

    def body(self) -> bytes:
        told: dict[str, Any] = {
            "type": f"urn:hallwatch:problem:{self.status}",
            "title": TITLES.get(self.status, "请求失败"),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            told["errors"] = self.errors
        if self.reasons:
            told["reasons"] = self.reasons
        return _encode(told)

    def response(self) -> Response:
        return Response(
            self.body(), self.status, dict(self.headers), media_type="application/problem+json"
        )


def wrong(field: str, detail: str, location: str = "body") -> Problem:
    """422 for one field."""
    return Problem(422, f"{field}: {detail}.", [Offence(field, location, detail)])


def invalid(error: ValidationError, location: str) -> Problem:
    """What pydantic found, every field at once; 400 where the body is no JSON at all."""
    offences = []
    for found in error.errors(include_url=False, include_input=False):
        if found["type"] == "json_invalid":
            return Problem(400, f"The body is not valid JSON: {found['msg']}.")
        # The place of an error in an event also names the event's kind, which is no field.
        path = [str(part) for part in found["loc"] if part not in EVENT_KINDS]
        path += [field] if (field := found.get("ctx", {}).get("field")) else []
        offences.append(Offence(".".join(path), location, found["msg"]))
    first = offences[0]
    more = f" ({len(offences)} errors in all)" if len(offences) > 1 else ""
    return Problem(422, f"{first.field or 'body'}: {first.detail}{more}.", offences)


async def on_http_error(_request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    detail = {
        404: "There is nothing at this path.",
        405: "This path does not know this method.",
    }.get(error.status_code, str(error.detail))
    return Problem(error.status_code, detail, headers=error.headers).response()


async def on_defect(_request: Request, _error: Exception) -> Response:
    """A defect of ours: the traceback goes to the log, not to the client."""
    return Problem(500, "hallwatch failed to answer; its log says why.").response()
