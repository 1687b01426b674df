"""The HTTP API: which path is answered by what, and who may ask.

Everything under ``/v1`` and ``/metrics`` needs a bearer token; ``/healthz``, ``/readyz`` and the
documents are open.  ``/docs`` shows ``/openapi.json`` without anything from elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from api import shapes
from api.counter import Counter
from api.events import Events
from api.feed import Feed
from api.presence import Presence
from api.problems import Problem, on_defect, on_http_error
from api.reader import Metric, Reader, SnapshotFolder
from api.reads import Reads
from api.routing import JSON, Desk, Route, encode
from api.snapshots import JPEG, SnapshotRow, Snapshots
from api.writes import Writes

DESCRIPTION = """
政务服务大厅设备监测与考勤监督。 · What hallwatch knows of a service hall: punches as received,
attendance as judged, violations, alerts, windows and their queue, ratings and devices.

- **令牌 · Token**: `Authorization: Bearer SECRET`.
- **列表 · Lists**: `limit` (100, at most 500) and `cursor`; `next` is the following page's cursor.
- **时间 · Times**: RFC 3339 with offset. In a query write the plus sign as `%2B`.
- **重试 · Retries**: with an `Idempotency-Key` a write happens once and its repeats get the same
  answer; the same key with another request is refused (409).
- **错误 · Errors**: `application/problem+json` (RFC 9457) with the offending fields in `errors`.
"""

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
_MEANS = {
    400: "The body is no JSON, or a picture was asked for without a reason",
    401: "No token, or one that is not known",
    403: "The token lacks the scope",
    404: "There is no such thing",
    409: "In conflict with what is there, or the Idempotency-Key was used for another request",
    410: "The changes asked for are no longer kept",
    413: "The body is larger than 1 MiB",
    415: "The body is not application/json",
    422: "A parameter or field is wrong",
    503: "The state cannot be read or written now",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "重试时不变 · the same for each attempt",
}
_LAST = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    "description": "断线后从此继续 · go on after this event",
}


def create_app(
    reader: Reader,
    *,
    snapshots: SnapshotFolder | None = None,
    version: str = "0.1.0",
    heartbeat: float = 15.0,
) -> FastAPI:
    """The application over one daemon; to be served in one event loop.  ``snapshots``: none where
    evidence pictures are switched off.

    Opens its database connections at once and closes them when the server shuts down.
    """
    desk = Desk(reader)
    feed = Feed(desk, heartbeat)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="hallwatch",
        version=version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = desk
    app.router.route_class = Route
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_defect)
    _add_reads(app, Reads(desk), Counter(desk), Presence(desk), feed)
    _add_snapshots(app, Snapshots(desk, snapshots))
    _add_writes(app, Writes(desk), Events(desk))
    _add_health(app, desk, feed)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _add(
    app: FastAPI,
    method: str,
    path: str,
    answer: Callable[..., Any],
    *,
    tag: str,
    scope: str | None = None,
    rows: Any = None,
    statuses: tuple[int, ...] = (200,),
    says: tuple[int, ...] = (),
    parameters: tuple[dict[str, Any], ...] = (),
) -> None:
    """One path.  ``rows`` is the shape of the good answers and ``says`` are the refusals beside
    those that every such path has."""
    extra: dict[str, Any] = {}
    refusals = set(says)
    if scope:
        extra["security"] = [{"bearer": [scope]}]
        refusals |= {401, 403, 503}
    if method != "GET":
        parameters = (*parameters, _KEY)
        refusals |= {409, 413, 422}
        if method != "DELETE":
            refusals |= {400, 415}
    if parameters:
        extra["parameters"] = list(parameters)
    if "{" in path:
        refusals.add(422)
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        responses[status] = {"description": "新建 · new" if status == 201 else "好 · good"}
        if rows is not None:
            responses[status]["model"] = rows
    for refusal in sorted(refusals):
        responses[refusal] = {"description": _MEANS[refusal], "content": _PROBLEM}
    summary, _, rest = (answer.__doc__ or "").partition("\n")
    app.add_api_route(
        path,
        answer,
        methods=[method],
        status_code=statuses[0],
        response_model=None,
        response_class=Response,
        responses=responses,
        summary=summary.rstrip(".:"),
        description=rest.strip(),
        tags=[tag],
        openapi_extra=extra,
    )


def _add_reads(
    app: FastAPI, reads: Reads, counter: Counter, presence: Presence, feed: Feed
) -> None:
    listing, s = shapes.Listing, shapes

    def get(path: str, answer: Callable[..., Any], scope: str, rows: Any, *says: int) -> None:
        _add(app, "GET", path, answer, tag=path.split("/")[2], scope=scope, rows=rows, says=says)

    get("/v1/punches", reads.punches, "attendance:read", listing[s.PunchRow], 422)
    get("/v1/attendance/slots", reads.slots, "attendance:read", listing[s.SlotRow], 422)
    get("/v1/attendance/days", reads.days, "attendance:read", listing[s.DayRow], 422)
    get("/v1/absences", reads.absences, "attendance:read", listing[s.AbsenceRow], 422)
    get("/v1/violations", reads.violations, "supervision:read", listing[s.ViolationRow], 422)
    one = "/v1/violations/{violation_id}"
    get(one, reads.violation, "supervision:read", s.ViolationRow, 404)
    get(f"{one}/explanation", reads.explanation, "supervision:read", dict[str, Any], 404)
    get("/v1/alerts", reads.alerts, "supervision:read", listing[s.AlertRow], 422)
    get("/v1/queue", counter.queue, "supervision:read", s.QueueListing, 422)
    get("/v1/queue/services", counter.services, "supervision:read", listing[s.ServiceRow], 422)
    get("/v1/ratings", counter.ratings, "supervision:read", listing[s.RatingRow], 422)
    get("/v1/ratings/figures", counter.figures, "supervision:read", s.RatingFigures, 422)
    # Ids come from other systems and may have a slash in them.
    one = "/v1/ratings/{rating_id:path}"
    get(one, counter.rating, "supervision:read", s.RatingDetail, 404)
    get("/v1/presence", presence.presence, "supervision:read", listing[s.PostRow], 422)
    get("/v1/devices", reads.devices, "devices:read", s.DeviceListing, 422)
    get("/v1/devices/figures", reads.device_figures, "devices:read", s.DeviceFigures, 422)
    get("/v1/changes", feed.changes, "supervision:read", s.ChangeListing, 410, 422)
    _add(
        app, "GET", "/v1/stream", feed.stream, tag="changes", scope="supervision:read",
        says=(410, 422), parameters=(_LAST,),
    )  # fmt: skip


def _add_snapshots(app: FastAPI, snapshots: Snapshots) -> None:
    path, scope = "/v1/snapshots", "supervision:read"
    rows = shapes.Listing[SnapshotRow]
    _add(
        app, "GET", path, snapshots.snapshots, tag="snapshots", scope=scope, rows=rows,
        says=(404, 422),
    )  # fmt: skip
    one = f"{path}/{{name}}"
    _add(app, "GET", one, snapshots.snapshot, tag="snapshots", scope=scope, says=(400, 404))


def _add_writes(app: FastAPI, writes: Writes, events: Events) -> None:
    def add(
        method: str, path: str, answer: Callable[..., Any], scope: str, rows: Any,
        *says: int, statuses: tuple[int, ...] = (200,),
    ) -> None:  # fmt: skip
        _add(
            app, method, path, answer, tag=path.split("/")[2], scope=scope, rows=rows, says=says,
            statuses=statuses,
        )  # fmt: skip

    s = shapes
    alert = "/v1/alerts/{alert_id}"
    add(
        "POST", f"{alert}/acknowledge", writes.acknowledge, "supervision:write", s.AlertReceipt, 404
    )
    add("POST", f"{alert}/resolve", writes.resolve, "supervision:write", s.AlertReceipt, 404)
    add("POST", "/v1/absences", writes.absence, "absences:write", s.AbsenceRow, statuses=(201, 200))
    add("DELETE", "/v1/absences/{absence_id}", writes.revoke, "absences:write", s.AbsenceRow, 404)
    add("PUT", "/v1/people/{code}", writes.person, "admin", s.PersonRow, statuses=(200, 201))
    add("PUT", "/v1/rosters/{person}/{work_date}", writes.roster, "admin", s.RosterRow, 404)
    told = s.EventReceipt | s.ItemReceipts
    add("POST", "/v1/events", events.events, "events:write", told, statuses=(201, 200))


def _add_health(app: FastAPI, desk: Desk, feed: Feed) -> None:
    async def healthz() -> Response:
        """存活: hallwatch's own tasks run."""
        now = desk.reader.health()
        if not now.alive:
            raise Problem(503, "hallwatch does not work.", reasons=now.reasons)
        return Response(encode({"status": "ok"}), media_type=JSON)

    async def readyz() -> Response:
        """就绪: readings can be taken; or the reasons why not."""
        now = desk.reader.health()
        if not now.ready:
            raise Problem(503, "hallwatch cannot take readings.", reasons=now.reasons)
        return Response(encode({"ready": True, "reasons": now.reasons}), media_type=JSON)

    async def metrics() -> Response:
        """指标: Prometheus text."""
        samples = [
            ({"method": method, "path": path, "status": str(status)}, float(count))
            for (method, path, status), count in sorted(desk.requests.items())
        ]
        told = [
            *desk.reader.metrics(),
            Metric("http_requests_total", "counter", "Answers of the API.", samples),
            Metric("http_streams", "gauge", "Open event streams.", [({}, float(feed.streams))]),
        ]
        return Response(
            prometheus_text(told), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    page = (files("api") / "docs" / "index.html").read_text("utf-8")

    async def docs() -> Response:
        return HTMLResponse(
            page,
            headers={
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
                " script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none';"
                " form-action 'none'; frame-ancestors 'none'"
            },
        )

    _add(app, "GET", "/healthz", healthz, tag="health", rows=shapes.Alive, says=(503,))
    _add(app, "GET", "/readyz", readyz, tag="health", rows=shapes.Ready, says=(503,))
    _add(app, "GET", "/metrics", metrics, tag="health", scope="devices:read")
    app.add_api_route("/docs", docs, include_in_schema=False, response_model=None)


def prometheus_text(metrics: list[Metric]) -> str:
    """The metrics in Prometheus' text form, each name with the prefix ``hallwatch_``."""
    lines = []
    for metric in metrics:
        name = f"hallwatch_{metric.name}"
        lines += [f"# HELP {name} {_escape(metric.help)}", f"# TYPE {name} {metric.kind}"]
        for labels, value in metric.samples:
            told = ",".join(
                f'{label}="{_escape(text).replace(chr(34), chr(92) + chr(34))}"'
                for label, text in labels.items()
            )
            lines.append(f"{name}{{{told}}} {value:.17g}" if told else f"{name} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI as FastAPI makes it, with what it cannot know: the tokens, the problem bodies, and
    that a stream or a picture is no JSON."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        parts = document["components"]
        parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        parts["schemas"] |= shapes.problem_schemas()
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        paths = document["paths"]
        for path, kind in (
            ("/v1/stream", "text/event-stream"),
            ("/v1/snapshots/{name}", JPEG),
            ("/metrics", "text/plain"),
        ):
            paths[path]["get"]["responses"]["200"]["content"] = {
                kind: {"schema": {"type": "string"}}
            }
        app.openapi_schema = document
    return app.openapi_schema
