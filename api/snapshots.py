"""Evidence pictures: which there are, and each for whoever says why it is looked at.

Every look is journalled before the picture is given: who, when, what and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from datetime import timedelta
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from api.auth import Token
from api.pages import seal, unseal
from api.problems import Offence, Problem
from api.reader import SnapshotFolder
from api.reads import midnight, page
from api.routing import Desk
from api.shapes import _Dates
from api.views import instant_text
from rules.model import DeviceEvent, Instant, Reading

DEVICE = "api"
JPEG = "image/jpeg"

SnapshotName = Annotated[
    str, StringConstraints(max_length=120, pattern=r"^[A-Za-z0-9-]+_[a-z0-9-]+_[A-Za-z0-9-]+\.jpg$")
]


class SnapshotQuery(_Dates):
    device: str = Field("", max_length=64, description="设备 · device id")
    window: list[str] = Field(
        default_factory=list, max_length=500, description="窗口,可重复 · window id, repeatable"
    )


class LookQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = (
        Field("", description="查看原因,必填 · why; without a reason the picture is refused")
    )


class SnapshotRow(BaseModel):
    name: str
    device: str
    at: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    subject: str = Field(description="拍到什么 · what it shows; begins with the window, if any")
    bytes: int


class Snapshots:
    """The answers to ``GET`` about evidence pictures; ``folder`` is none where there are none."""

    def __init__(self, desk: Desk, folder: SnapshotFolder | None) -> None:
        self._desk = desk
        self._folder = folder
        self._looked: Instant = 0

    def _pictures(self) -> SnapshotFolder:
        if self._folder is None:
            raise Problem(404, "Evidence pictures are switched off in the settings ([snapshots]).")
        return self._folder

    async def snapshots(self, query: Annotated[SnapshotQuery, Query()]) -> Response:
        """证据截图: which pictures are kept, oldest first; the dates are those of the pictures."""
        kept = await asyncio.to_thread(self._pictures().all)
        zone = self._desk.zone
        first = midnight(query.from_, zone) if query.from_ else None
        ends = midnight(query.to + timedelta(days=1), zone) if query.to else None
        after = unseal("snapshots", query.cursor, tuple[str])[0] if query.cursor else ""
        known = self._desk.reader.windows()
        found = [
            one
            for one in kept
            if one.name > after
            and (first is None or one.at >= first)
            and (ends is None or one.at < ends)
            and (not query.device or one.device == query.device)
            and (not query.window or any(_of(one.subject, w, known) for w in query.window))
        ]
        items = [
            {
                "name": one.name,
                "device": one.device,
                "at": instant_text(one.at, zone),
                "subject": one.subject,
                "bytes": one.size,
            }
            for one in found[: query.limit]
        ]
        more = len(found) > query.limit
        return page(items, seal("snapshots", (found[query.limit - 1].name,)) if more else None)

    async def snapshot(
        self, request: Request, name: SnapshotName, query: Annotated[LookQuery, Query()]
    ) -> Response:
        """One picture, for a reason.

        Who looked, when and why is journalled first.  Without a reason there is no picture (400).
        """
        pictures = self._pictures()
        reason = query.reason.strip()
        if not reason:
            detail = "say why the picture is looked at"
            raise Problem(400, f"reason: {detail}.", [Offence("reason", "query", detail)])
        jpeg = await asyncio.to_thread(pictures.read, name)
        if jpeg is None:
            raise Problem(
                404, f"There is no picture '{name}'.", [Offence("name", "path", "not known")]
            )
        await self._journal(request.scope["token"], name, reason)
        return Response(jpeg, headers={"Cache-Control": "no-store"}, media_type=JPEG)

    async def _journal(self, token: Token, name: str, reason: str) -> None:
        # Equal facts of one instant are one fact, but two looks are two.
        self._looked = max(self._desk.reader.now(), self._looked + 1)
        detail = f"{name} by {token.name} ({token.id}): {reason}"
        event = DeviceEvent("snapshot_viewed", detail=detail)
        try:
            await self._desk.reader.record([Reading(DEVICE, self._looked, event)], None)
        except OSError as error:
            raise Problem(
                503,
                f"No picture without a record of who saw it, and none can be written: {error}.",
                headers={"Retry-After": "5"},
            ) from error


def _of(subject: str, window: str, windows: Container[str]) -> bool:
    """Whether a picture of this subject is of this window.  Ids may have hyphens too: ``a-1-empty``
    is of ``a-1`` where there is such a window, else of ``a``."""
    if subject != window and not subject.startswith(f"{window}-"):
        return False
    parts = subject.split("-")
    longer = ("-".join(parts[:count]) for count in range(window.count("-") + 2, len(parts) + 1))
    return not any(one in windows for one in longer)
