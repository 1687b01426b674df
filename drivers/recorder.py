"""Hikvision recorders (NVR, DVR) and single cameras over ISAPI: what they tell of each channel, and
what they recorded of it.

We are the HTTP client.  A device of the settings is one channel; the channels of one recorder share
a connection, and recorder-wide facts (its clock, a full disk) are told of the first of them.

    request                                           answer
    GET  /ISAPI/System/deviceInfo                     model, serialNumber, firmwareVersion, MAC
    GET  /ISAPI/System/time                           localTime, timeZone
    GET  /ISAPI/Event/notification/alertStream        multipart that never ends: events, sooner
    GET  /ISAPI/ContentMgmt/InputProxy/channels/status    id, online: which cameras it reaches
    POST /ISAPI/ContentMgmt/search                    recordings of a track within a time span

    event (XML EventNotificationAlert or JSON)
    eventType          in any case, with or without ``detection`` or ``alarm`` at its end:
      videoloss        no signal of the channel: the camera is lost
      shelter, tamper  the picture is covered
      scenechange      it shows something else
      defocus          it is blurred
      leaveposition, leavepost    nobody is at the post
      diskfull, diskerror, recordexception    of the recorder
    eventState         active, inactive; ``videoloss`` ``inactive`` is the heartbeat
    channelID          from 1; where absent or 0: dynChannelID
    dateTime           2025-03-14T08:59:01+08:00, sometimes without or with broken offset
    activePostCount    0: a heartbeat

    CMSearchDescription      searchID (a GUID), trackList/trackID = 100 x channel + 1,
                             timeSpanList/timeSpan/startTime and endTime, maxResults,
                             searchResultPostion (spelt so; the right spelling is refused)
    CMSearchResult           responseStatusStrg OK, MORE or NO MATCHES, numOfMatches,
                             matchList/searchMatchItem/timeSpan/startTime and endTime

An event is repeated about every second while it lasts and often not cleared: ten seconds without
it clear it, once anything else was heard.  On connecting no current state is sent, so a post and a
picture are unknown until the first event about them.  What an event says is dated to its arrival,
because it is told live; one that is a minute old by the recorder's own clock is old news and
counted only.

Times in searches are the recorder's wall clock, though written with a Z.  The wall clock is read
beforehand, so a recorder that is wrong, or set to another zone, is asked for the right hours and
its answers are put right.

The search, the channel status and the names of events beyond those of attendance terminals follow
the vendor's guide and field notes from DS-7600 and DS-7200 recorders; some firmware wants the
search in another form (``trackIDList``, the searchID in braces), which is tried when it refuses.

Pictures are never kept.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import msgspec

from drivers.base import BadFrame, Context, Device, DeviceLost, DeviceRefused
from drivers.isapi import (
    ALERT_STREAM,
    DEVICE_INFO,
    SYSTEM_TIME,
    Busy,
    Document,
    Isapi,
    Multipart,
    NotAccepted,
    NotSupported,
    Part,
    Visit,
    WrongPassword,
    address_of,
    boundary_of,
    captured,
    check_reachable,
    chunks_of,
    document,
    inside,
    instant_of,
    is_heartbeat,
    printable,
    scrub,
    told_text,
    told_whole,
)
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    PICTURE_FAULTS,
    Body,
    ClockCheck,
    DeviceEvent,
    DeviceInfo,
    Instant,
    Link,
    Picture,
    Reading,
    Recorded,
    Seat,
    Unreadable,
    merge_intervals,
)

FAMILY = "recorder"

CHANNEL_STATUS = "/ISAPI/ContentMgmt/InputProxy/channels/status"
SEARCH = "/ISAPI/ContentMgmt/search"

EVENT = "EventNotificationAlert"
VIDEO_LOSS = "videoloss"
LEFT_POST = "leaveposition"
PICTURE_EVENTS = {
    "shelter": "covered",
    "tamper": "covered",
    "scenechange": "view_changed",
    "defocus": "blurred",
}
RECORDER_EVENTS = {
    "diskfull": "disk_full",
    "diskerror": "disk_error",
    "recordexception": "record_failed",
}
_SAME = {"leavepost": LEFT_POST}

# --------------------------------------------------------------------------------------------
# Pure functions: events
# --------------------------------------------------------------------------------------------


class Alarm(NamedTuple):
    """One event.  ``kind``: its type in lower case, without ``detection`` or ``alarm`` at the end.
    ``channel``: 0 where none was told.  ``shown``: the recorder's wall clock, none if unreadable.
    """

    kind: str
    channel: int
    active: bool
    shown: Instant | None = None
    heartbeat: bool = False


def alarm_of(told: Mapping[str, Any], zone: ZoneInfo) -> Alarm | None:
    """What a document of the stream tells; none where it is no event of a channel.

    Raises ``ValueError`` with a sentence.
    """
    told = inside(told, EVENT)
    name = told_text(told.get("eventType")).lower()
    if not name:
        return None
    if not re.fullmatch(r"[\x20-\x7e]{1,64}", name):
        raise ValueError("eventType: expected 1 to 64 visible ASCII signs")
    kind = re.sub(r"(?<=.)(detection|alarm)$", "", re.sub(r"[^a-z0-9]", "", name))
    kind = _SAME.get(kind, kind)
    numbers = [told_whole(told.get(field)) for field in ("channelID", "dynChannelID")]
    channel = next((number for number in numbers if number), 0)
    if channel > LAST_CHANNEL:
        raise ValueError(f"channelID {channel}: expected 1 to {LAST_CHANNEL}")
    state = told_text(told.get("eventState")).lower()
    try:
        shown = wall_of(told_text(told.get("dateTime")), zone)
    except ValueError:
        shown = None
    beat = is_heartbeat(told) and not told_whole(told.get("activePostCount"))
    return Alarm(kind, channel, state not in ("inactive", "stop", "end"), shown, beat)


def wall_of(text: str, zone: ZoneInfo) -> Instant:
    """A recorder's wall clock, read in ``zone`` whatever offset or Z stands behind it.

    Raises ``ValueError`` with a sentence.
    """
    return instant_of(text.strip()[:19], zone)


def body_of(alarm: Alarm, window: str = "") -> Body | None:
    """What one event says by itself; none for what is not kept."""
    if alarm.heartbeat:
        return None
    if alarm.kind == VIDEO_LOSS:
        return Link(not alarm.active, _loss(alarm.channel) if alarm.active else "")
    if alarm.kind == LEFT_POST:
        return Seat(window, "empty" if alarm.active else "occupied", ("vendor",))
    if fault := PICTURE_EVENTS.get(alarm.kind):
        return Picture((fault,) if alarm.active else ())
    if alarm.active and (name := RECORDER_EVENTS.get(alarm.kind)):
        return DeviceEvent(name, detail=f"channel={alarm.channel}" if alarm.channel else "")
    return None


def _loss(channel: int) -> str:
    return (
        f"录像机报告通道 {channel} 视频丢失 / the recorder reports video loss on channel {channel}"
    )


def channels_of(answer: Document) -> dict[int, str]:
    """The channels of an answer about their status: why one is offline, nothing if it is online.

    Raises ``ValueError`` with a sentence.
    """
    told = inside(answer, "InputProxyChannelStatusList")
    items = told.get("InputProxyChannelStatus", [])
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list):
        raise ValueError("channel status: InputProxyChannelStatus is no list")
    channels: dict[int, str] = {}
    for item in items[:LAST_CHANNEL]:
        number = told_whole(item.get("id")) if isinstance(item, dict) else None
        online = str(item.get("online")).strip().lower() if isinstance(item, dict) else ""
        if number is None or online not in ("true", "false"):
            continue
        why = printable(item.get("chanDetectResult"))
        channels[number] = "" if online == "true" else (
            f"录像机报告通道 {number} 离线 / the recorder does not reach channel {number} {why}"
        ).strip()  # fmt: skip
    return channels


# --------------------------------------------------------------------------------------------
# Pure functions: recordings
# --------------------------------------------------------------------------------------------

Span = tuple[Instant, Instant]
LAST_CHANNEL = 4096
PAGE = 40
"""Some firmware clips, or refuses, more than 40 or 50."""
TOGETHER = 2_000
"""Recordings at most so far apart (ms) are one: a recorder cuts its files."""


class Form(NamedTuple):
    """How a search is written."""

    list_name: str
    braces: bool


FORMS = (Form("trackList", True), Form("trackIDList", False), Form("trackList", False))


def search_of(
    form: Form, search_id: str, track: int, starts: str, ends: str, position: int
) -> bytes:
    """A request for one page.  ``starts`` and ``ends`` are the recorder's wall clock."""
    named = f"{{{search_id}}}" if form.braces else search_id
    return (
        '<CMSearchDescription version="1.0">'
        f"<searchID>{named}</searchID>"
        f"<{form.list_name}><trackID>{track}</trackID></{form.list_name}>"
        f"<timeSpanList><timeSpan><startTime>{starts}</startTime>"
        f"<endTime>{ends}</endTime></timeSpan></timeSpanList>"
        f"<maxResults>{PAGE}</maxResults>"
        f"<searchResultPostion>{position}</searchResultPostion>"
        "<metadataList><metadataDescriptor>//recordType.meta.std-cgi.com</metadataDescriptor>"
        "</metadataList></CMSearchDescription>"
    ).encode()


class Matches(NamedTuple):
    """One page: recordings by the recorder's wall clock, how many came, and whether more will."""

    spans: tuple[Span, ...]
    received: int
    more: bool


def matches_of(answer: Document, track: int, zone: ZoneInfo) -> Matches:
    """Raises ``ValueError`` with a sentence where any of it cannot be understood: a recording that
    is overlooked would look like a gap.  ``track`` 0 takes all."""
    told = inside(answer, "CMSearchResult")
    status = told_text(told.get("responseStatusStrg")).upper()
    if status not in ("OK", "MORE", "NO MATCHES", "NO MATCH"):
        raise ValueError(
            f"search: responseStatusStrg {printable(told.get('responseStatusStrg'))!r},"
            " expected OK, MORE or NO MATCHES"
        )
    listed = told.get("matchList") or {}
    if not isinstance(listed, dict):
        raise ValueError("search: matchList holds no searchMatchItem")
    items = listed.get("searchMatchItem") or []
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list):
        raise ValueError("search: searchMatchItem is no list")
    spans = []
    for place, item in enumerate(items):
        try:
            if span := _span(item, track, zone):
                spans.append(span)
        except ValueError as error:
            raise ValueError(f"searchMatchItem[{place}]: {error}") from None
    told_count = told_whole(told.get("numOfMatches"))
    if told_count is not None and told_count > len(items):
        raise ValueError(f"search: numOfMatches {told_count}, but {len(items)} searchMatchItem")
    return Matches(tuple(spans), len(items), status == "MORE" and len(items) > 0)


def _span(item: object, track: int, zone: ZoneInfo) -> Span | None:
    if not isinstance(item, dict):
        raise ValueError("expected an element with timeSpan")
    if track and told_whole(item.get("trackID")) not in (None, track):
        return None
    time = item.get("timeSpan")
    if not isinstance(time, dict):
        raise ValueError("expected one timeSpan")
    starts, ends = (wall_of(told_text(time.get(name)), zone) for name in ("startTime", "endTime"))
    if ends < starts:
        raise ValueError("endTime is before startTime")
    return starts, ends


def joined(spans: Iterable[Span], since: Instant, until: Instant) -> tuple[Span, ...]:
    """What of ``[since, until]`` is covered, pieces that are next to each other in one."""
    clipped = merge_intervals((max(starts, since), min(ends, until)) for starts, ends in spans)
    together: list[Span] = []
    for starts, ends in clipped:
        if together and starts - together[-1][1] <= TOGETHER:
            together[-1] = (together[-1][0], ends)
        else:
            together.append((starts, ends))
    return tuple(together)


# --------------------------------------------------------------------------------------------
# Captures
# --------------------------------------------------------------------------------------------


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:
    """Readings in a capture: HTTP messages one after another, a bare stream, or one document.

    Each event by itself; recordings as the page has them, from the first to the last.
    """
    for part in captured(data):
        problem, raw = part.problem, part.raw
        try:
            if "eventType" in inside(part.told, EVENT):
                alarm = alarm_of(part.told, zone)
                if alarm is not None and (body := body_of(alarm)) is not None:
                    yield Reading("capture", alarm.shown or 0, body)
            elif "responseStatusStrg" in inside(part.told, "CMSearchResult"):
                spans = matches_of(part.told, 0, zone).spans
                if spans:
                    since, until = min(spans)[0], max(ends for _, ends in spans)
                    held = Recorded(since, until, joined(spans, since, until))
                    yield Reading("capture", until, held)
        except ValueError as error:
            problem, raw = str(error), scrub(json.dumps(part.told).encode())
        if problem:
            yield Reading("capture", 0, Unreadable(problem), raw)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """One channel of a recorder, or a camera that records by itself (``channel = 1``).

    ``password_file`` holds the password of ``user``.  ``serial``, if given, is the only recorder
    accepted at this address.  ``certificate_sha256`` pins the certificate (https); without it the
    first one seen is.  ``recordings_s``: how often it is asked what it recorded.
    """

    host: str
    password_file: str
    channel: int
    port: int = 0
    scheme: Literal["http", "https"] = "http"
    user: str = "admin"
    serial: str = ""
    certificate_sha256: str = ""
    recordings_s: float = 900

    def __post_init__(self) -> None:
        check_reachable(self)
        if not 1 <= self.channel <= LAST_CHANNEL:
            raise ValueError(f"channel {self.channel}: expected 1 to {LAST_CHANNEL}")
        if not 60 <= self.recordings_s <= 86_400:
            raise ValueError(f"recordings_s is {self.recordings_s}; expected 60 to 86400 seconds")

    def link(self) -> tuple[str, str, int, str]:
        return (self.scheme, *address_of(self), self.user)


# --------------------------------------------------------------------------------------------
# One recorder
# --------------------------------------------------------------------------------------------

CLEAR = 10_000
"""Milliseconds without an event after which it is over, and after which a stream that broke is
missed."""
TICK = 1.0
OLD_NEWS = MINUTE
KEEP_ALIVE = 60
SILENCE = 90.0
"""Seconds without a byte before a stream is doubted; three times the heartbeat if that is more."""
SHORT_STREAM = 5.0
"""A stream that ended sooner (s) is not opened again at once."""
LONGEST_PAUSE = 60.0
WRITTEN_LATE = 2 * MINUTE
"""What was recorded so recently is not asked for: it may not be in the index yet."""
BACK = 2 * DAY
BEGINNING = 946_656_000_000
"""2000: no recorder has older recordings, and some refuse earlier years."""
PAGES_LIMIT = 500
"""20 000 recordings a day."""
CLOCK_MOVED = 5_000
CLOCK_STEP = 2_000
"""An offset below is the answer's travel and the clock's whole seconds."""
UNREADABLE_AN_HOUR = 20

WAITING = "录像机不报当前状态，待下次事件 / the recorder tells no current state: no event yet"
NOT_LISTENING = "事件流中断 / the event stream is interrupted"


class Channel:
    """What is known of one channel."""

    def __init__(self, device: Device) -> None:
        options: RecorderOptions = device.options
        self.id = device.id
        self.window = device.window
        self.number = options.channel
        self.active: dict[str, Instant] = {}
        """What is going on there, by kind: when it was last told."""
        self.offline = ""
        """Why the recorder does not reach it, as it answered."""
        self.away = False
        self.told: dict[str, Body] = {}
        self._known: set[str] = set()

    @property
    def lost_because(self) -> str:
        return _loss(self.number) if VIDEO_LOSS in self.active else self.offline

    def heard(self, alarm: Alarm, now: Instant) -> None:
        if alarm.active:
            self.active[alarm.kind] = now
        else:
            self.active.pop(alarm.kind, None)
        if alarm.kind != VIDEO_LOSS:
            self._known.add("seat" if alarm.kind == LEFT_POST else "picture")

    def forget(self) -> None:
        """Nothing is known but that its signal was lost, which did not end by our not hearing."""
        self.active = {kind: at for kind, at in self.active.items() if kind == VIDEO_LOSS}
        self._known.clear()

    def states(self, listening: bool) -> dict[str, Body]:
        """What there is to tell of it at present."""
        faults = {PICTURE_EVENTS[kind] for kind in self.active if kind in PICTURE_EVENTS}
        listed = tuple(fault for fault in PICTURE_FAULTS if fault in faults)
        states: dict[str, Body] = {"picture": Picture(listed, "picture" in self._known)}
        if self.window:
            if "seat" in self._known:
                state = "empty" if LEFT_POST in self.active else "occupied"
                states["seat"] = Seat(self.window, state, ("vendor",))
            else:
                reason = WAITING if listening else NOT_LISTENING
                states["seat"] = Seat(self.window, "unknown", reason=reason)
        return states


class Budget:
    """How many unreadable documents may still be journalled this hour."""

    def __init__(self) -> None:
        self._since: Instant = 0
        self._told = 0

    def allows(self, now: Instant) -> bool:
        if now - self._since >= HOUR:
            self._since, self._told = now, 0
        self._told += 1
        return self._told <= UNREADABLE_AN_HOUR


class Conversation:
    """One connection to a recorder: what is asked of it, and what it tells."""

    def __init__(
        self,
        channels: Sequence[Channel],
        options: RecorderOptions,
        budget: Budget,
        context: Context,
    ) -> None:
        self._channels = channels
        self._options = options
        self._budget = budget
        self._context = context
        self._first = channels[0].id
        self._isapi: Isapi
        self._wall_offset: int | None = None
        """Milliseconds by which its wall clock is ahead of the hall's."""
        self._offset_told: tuple[int, Instant] | None = None
        self._rests: dict[str, Instant] = {}
        self._form = 0
        self._listening = False
        self._heard: Instant = 0
        self._beats = False
        """The stream has heartbeats, so that silence means something."""
        self._complaints: dict[tuple[str, int], Instant] = {}
        self._counts: Counter[str] = Counter()
        self._telling = asyncio.Lock()

    async def go_on(self) -> None:
        """Ask and listen until cancelled; raises ``DeviceLost`` or ``DeviceRefused``."""
        visit = Visit(self._first, self._options, self._context)
        self._isapi = await visit.open()
        self._note(state="connecting")
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._identify()
            if marks := visit.accepted(self._isapi):
                await self._keep(marks)
            await self._check_clock()
            await self._check_channels()
            await self._tell()
            self._note(state="live")
            tasks += map(
                asyncio.create_task,
                (self._follow_stream(), self._tick(), self._keep_alive(), self._ask_recordings()),
            )
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WrongPassword as error:
            await self._keep(visit.refused(error))
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._isapi.close()
            self._note(state="down")

    # -- what it is, and whether it is there

    async def _identify(self) -> None:
        """Raises ``DeviceRefused`` where another recorder answers at this address."""
        try:
            answer = await self._isapi.ask("GET", DEVICE_INFO)
            told = inside(document(answer.body), "DeviceInfo")
        except (NotSupported, NotAccepted, Busy, ValueError) as error:
            raise DeviceLost(
                f"录像机不报身份 / the recorder does not say who it is: {error}"
            ) from None
        named = {
            "serial": printable(told.get("serialNumber")),
            "model": printable(told.get("model")),
            "firmware": printable(told.get("firmwareVersion")),
            "mac": printable(told.get("macAddress")).lower(),
        }
        serial = named["serial"] or named["mac"]
        if not serial:
            raise DeviceLost("录像机不报身份 / deviceInfo has neither serialNumber nor macAddress")
        if self._options.serial and serial != self._options.serial:
            raise DeviceRefused(
                f"此地址上是另一台录像机 / the recorder at {self._options.host} has serial number"
                f" {serial}, expected {self._options.serial}"
            )
        before = self._context.mark(self._first, "serial")
        if before and before != serial:
            replaced = DeviceEvent("device_replaced", detail=f"{before} {serial}")
            await self._emit([self._reading(self._first, replaced)])
        if before != serial:
            await self._keep({"serial": serial})
        for channel in self._channels:
            facts: dict[str, str | int] = {name: told for name, told in named.items() if told}
            facts["channel"] = channel.number
            encoded = msgspec.json.encode(facts).decode()
            if encoded != self._context.mark(channel.id, "facts"):
                await self._emit(
                    [self._reading(channel.id, DeviceInfo(facts))],
                    {(channel.id, "facts"): encoded},
                )
        self._note(**{name: told or None for name, told in named.items() if name != "mac"})

    async def _keep_alive(self) -> None:
        while True:
            await self._context.sleep(KEEP_ALIVE)
            await self._check_clock()
            if not await self._check_channels():
                await self._probe()
            await self._tell()

    async def _probe(self) -> None:
        """Whether it is alive; raises ``DeviceLost`` if not."""
        try:
            await self._isapi.ask("GET", DEVICE_INFO)
        except (NotSupported, NotAccepted, Busy):
            pass  # an answer is a sign of life
        self._contact()

    async def _check_channels(self) -> bool:
        """Whether it said which cameras it reaches; a camera by itself cannot."""
        if self._rest_of("channel_status"):
            self._contact()
            return False
        try:
            answer = await self._isapi.ask("GET", CHANNEL_STATUS)
            told = channels_of(document(answer.body))
        except (NotSupported, NotAccepted, Busy) as error:
            self._rest("channel_status", error)
            self._contact()
            return False
        except ValueError as error:
            await self._cannot_read(str(error), b"")
            self._contact()
            return False
        for channel in self._channels:
            channel.offline = told.get(channel.number, "")
        self._contact()
        return True

    def _contact(self) -> None:
        """It is there, and so are the cameras that it does not report as lost."""
        for channel in self._channels:
            if because := channel.lost_because:
                self._context.lost(channel.id, because)
                channel.away = True
                channel.forget()
                channel.told.clear()
            else:
                self._context.contact(channel.id)
                channel.away = False

    # -- its clock

    async def _check_clock(self) -> None:
        context = self._context
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            answer = await self._isapi.ask("GET", SYSTEM_TIME)
            shown = told_text(inside(document(answer.body), "Time").get("localTime"))
            at, wall = instant_of(shown, context.zone), wall_of(shown, context.zone)
        except (NotSupported, NotAccepted, Busy, ValueError) as error:
            self._note(clock_error=str(error))
            return
        now = context.now()
        self._wall_offset = wall - now if abs(wall - now) >= CLOCK_STEP else 0
        offset = at - now
        self._note(clock_offset_s=round(offset / 1000), clock_error=None)
        # A slow answer looks like a slow clock.
        slow = (loop.time() - asked) * 1000
        before = self._offset_told
        if (
            before is None
            or now - before[1] >= HOUR
            or abs(offset - before[0]) - slow >= CLOCK_MOVED
        ) and await self._emit([Reading(self._first, at, ClockCheck())]):
            self._offset_told = (offset, now)

    # -- its stream

    async def _follow_stream(self) -> None:
        context = self._context
        pause = 1.0
        while True:
            if rest := self._rest_of("alert_stream"):
                await context.sleep(rest)
                continue
            opened = asyncio.get_running_loop().time()
            told = False
            try:
                async with self._isapi.stream(ALERT_STREAM) as response:
                    told = await self._listen(response)
            except (NotSupported, NotAccepted, Busy) as error:
                self._rest("alert_stream", error)
                continue
            finally:
                self._listening = False
            self._count("stream_closed")
            if told and asyncio.get_running_loop().time() - opened >= SHORT_STREAM:
                pause = 1.0
            else:
                await context.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)

    async def _listen(self, response: httpx.Response) -> bool:
        """Whether anything came before the stream ended."""
        parser = Multipart(boundary_of(response.headers.get("content-type", "")))
        loop = asyncio.get_running_loop()
        silence, beat, came = SILENCE, 0.0, False
        self._resume()
        async with aclosing(chunks_of(response, lambda: silence)) as incoming:
            async for chunk in incoming:
                if chunk is None:
                    if beat:
                        return came
                    await self._probe()
                    continue
                came = True
                self._heard = self._context.now()
                parts = parser.feed(chunk)
                if any(not part.problem for part in parts):
                    self._contact()
                if any(is_heartbeat(inside(part.told, EVENT)) for part in parts):
                    if beat:
                        silence = max(silence, min(3 * (loop.time() - beat), 600))
                    beat, self._beats = loop.time(), True
                await self._take(parts)
                if parser.pictures or parser.resyncs:
                    self._note(pictures_discarded=parser.pictures, stream_resyncs=parser.resyncs)
        await self._take(parser.finish())
        return came

    def _resume(self) -> None:
        """A stream that was away shortly goes on; what it would have cleared meanwhile is given
        its time again."""
        now = self._context.now()
        if now - self._heard >= CLEAR:
            self._forget()
        for channel in self._channels:
            channel.active = dict.fromkeys(channel.active, now)
        self._listening, self._heard, self._beats = True, now, False

    def _forget(self) -> None:
        for channel in self._channels:
            channel.forget()

    async def _take(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if part.problem:
                await self._cannot_read(part.problem, part.raw)
                continue
            try:
                alarm = alarm_of(part.told, self._context.zone)
            except ValueError as error:
                await self._cannot_read(str(error), scrub(json.dumps(part.told).encode()))
                continue
            if alarm is None:
                self._count("other_events")
            elif not alarm.heartbeat:
                await self._take_alarm(alarm)

    async def _take_alarm(self, alarm: Alarm) -> None:
        now = self._context.now()
        if self._is_old(alarm, now):
            self._count("old_events")
            return
        if alarm.kind in RECORDER_EVENTS:
            await self._complain(alarm, now)
            return
        # A camera by itself may leave out its only channel.
        number = alarm.channel or (self._channels[0].number if len(self._channels) == 1 else 0)
        channel = next((one for one in self._channels if one.number == number), None)
        watched = alarm.kind in PICTURE_EVENTS or alarm.kind == VIDEO_LOSS
        watched |= channel is not None and alarm.kind == LEFT_POST and channel.window != ""
        if channel is None or not watched:
            self._count("other_events")
            return
        channel.heard(alarm, now)
        if alarm.kind == VIDEO_LOSS:
            self._contact()
        await self._tell()

    def _is_old(self, alarm: Alarm, now: Instant) -> bool:
        """Replayed; 1970 is a known fault of devices whose clock is right."""
        if alarm.shown is None or alarm.shown < DAY or self._wall_offset is None:
            return False
        return now + self._wall_offset - alarm.shown > OLD_NEWS

    async def _complain(self, alarm: Alarm, now: Instant) -> None:
        """It repeats them; once an hour is enough."""
        about = (alarm.kind, alarm.channel)
        told = self._complaints.get(about)
        body = body_of(alarm)
        if body is None:
            self._complaints.pop(about, None)
        elif told is None or now - told >= HOUR:
            self._complaints[about] = now
            await self._emit([self._reading(self._first, body)])

    # -- what is over

    async def _tick(self) -> None:
        while True:
            await self._context.sleep(TICK)
            now = self._context.now()
            if self._listening:
                await self._clear_the_silent(now)
            elif now - self._heard >= CLEAR:
                self._forget()
                await self._tell()

    async def _clear_the_silent(self, now: Instant) -> None:
        for channel in self._channels:
            for kind, last in list(channel.active.items()):
                if now - last < CLEAR or (self._beats and self._heard <= last):
                    continue
                if kind == VIDEO_LOSS:
                    # Some tell it once only: whoever can say whether it lasts is asked.
                    await self._check_channels()
                if channel.active.get(kind) != last:
                    continue
                del channel.active[kind]
                if kind == VIDEO_LOSS:
                    self._contact()
                else:
                    # It was repeated every second, so it ended within the next one.
                    await self._tell([channel], last + 1000)
        await self._tell()

    async def _tell(
        self, channels: Sequence[Channel] | None = None, at: Instant | None = None
    ) -> None:
        """Journal what is not as it was told."""
        async with self._telling:
            readings: list[Reading] = []
            news: list[tuple[Channel, str, Body]] = []
            for channel in self._channels if channels is None else channels:
                if channel.away:
                    continue
                for name, body in channel.states(self._listening or not self._heard).items():
                    if channel.told.get(name) != body:
                        news.append((channel, name, body))
                        readings.append(self._reading(channel.id, body, at))
            if readings and await self._emit(readings):
                for channel, name, body in news:
                    if not channel.away:
                        channel.told[name] = body

    # -- its recordings

    async def _ask_recordings(self) -> None:
        while True:
            for channel in self._channels:
                if self._rest_of("recordings"):
                    break
                try:
                    await self._catch_up(channel)
                except (NotSupported, Busy) as error:
                    self._rest("recordings", error)
                except BadFrame as error:
                    self._count("searches_failed")
                    self._note(last_error=str(error))
                except DeviceLost as error:
                    # A search may take too long while the rest is well.
                    await self._probe()
                    self._rest("recordings", error)
            await self._context.sleep(self._options.recordings_s)

    async def _catch_up(self, channel: Channel) -> None:
        """Ask for what was recorded since the last answer, at most for two days back."""
        context = self._context
        until = (context.now() - WRITTEN_LATE) // 1000 * 1000
        since = until - BACK
        mark = context.mark(channel.id, "recorded") or ""
        if mark.isdigit() and since <= int(mark) <= until:
            since = int(mark)
        if since == until:
            return
        oldest = await self._oldest(channel, until)
        while since < until:
            ends = min(since + DAY, until)
            spans = joined(await self._spans(channel, since, ends), since, ends)
            recorded = self._reading(channel.id, Recorded(since, ends, spans, oldest))
            if not await self._emit([recorded], {(channel.id, "recorded"): str(ends)}):
                return
            since = ends

    async def _oldest(self, channel: Channel, until: Instant) -> Instant | None:
        """The first page of everything holds it: recordings come by time."""
        if self._rest_of("oldest"):
            return None
        try:
            page = await self._page(channel, BEGINNING, until, 0, str(uuid4()))
        except (NotSupported, Busy, BadFrame, DeviceLost) as error:
            # It is a lot to ask of a recorder that is well otherwise.
            if isinstance(error, DeviceLost):
                await self._probe()
            self._rest("oldest", error)
            return None
        return min((self._true(starts) for starts, _ in page.spans), default=None)

    async def _spans(self, channel: Channel, since: Instant, until: Instant) -> list[Span]:
        spans: list[Span] = []
        position, search_id = 0, str(uuid4())
        for _ in range(PAGES_LIMIT):
            page = await self._page(channel, since, until, position, search_id)
            if page.more and page.spans and page.spans[-1] in spans[-page.received :]:
                raise BadFrame("search: a page came twice, expected the next one")
            spans += page.spans
            if not page.more:
                return [(self._true(starts), self._true(ends)) for starts, ends in spans]
            position += page.received
        raise BadFrame(f"search: it did not end after {PAGES_LIMIT} pages")

    async def _page(
        self, channel: Channel, since: Instant, until: Instant, position: int, search_id: str
    ) -> Matches:
        """One page, asked for in the form that this recorder accepts."""
        track = 100 * channel.number + 1
        refused: NotAccepted | None = None
        for number in dict.fromkeys((self._form, *range(len(FORMS)))):
            wanted = search_of(
                FORMS[number], search_id, track, self._wall(since), self._wall(until), position
            )
            try:
                answer = await self._isapi.ask("POST", SEARCH, wanted)
            except NotAccepted as error:
                refused = refused or error
                continue
            self._form = number
            self._contact()
            try:
                return matches_of(document(answer.body), track, self._context.zone)
            except ValueError as error:
                await self._cannot_read(str(error), scrub(answer.body))
                raise BadFrame(str(error)) from None
        raise NotSupported(f"查询不被接受 / the recorder accepts no search: {refused}")

    def _wall(self, at: Instant) -> str:
        shown = (at + (self._wall_offset or 0)) // 1000
        wall = datetime.fromtimestamp(shown, self._context.zone)
        return wall.replace(tzinfo=None).isoformat() + "Z"

    def _true(self, shown: Instant) -> Instant:
        return max(0, shown - (self._wall_offset or 0))

    # -- words

    def _rest(self, part: str, error: Exception) -> None:
        self._rests[part] = self._context.now() + HOUR
        self._note(**{part: "resting", "last_error": str(error)})

    def _rest_of(self, part: str) -> float:
        """Seconds before it is asked for this again."""
        left = self._rests.get(part, 0) - self._context.now()
        if left <= 0 and part in self._rests:
            del self._rests[part]
            self._note(**{part: None})
        return max(0.0, left / 1000)

    def _reading(self, device: str, body: Body, at: Instant | None = None) -> Reading:
        return Reading(device, self._context.now() if at is None else at, body)

    def _count(self, name: str) -> None:
        self._counts[name] += 1
        self._note(**{name: self._counts[name]})

    def _note(self, **facts: Any) -> None:
        for channel in self._channels:
            self._context.note(channel.id, **facts)

    async def _cannot_read(self, sentence: str, raw: bytes) -> None:
        self._count("decode_errors")
        now = self._context.now()
        if self._budget.allows(now):
            await self._emit([Reading(self._first, now, Unreadable(sentence), raw)])

    async def _keep(self, marks: Mapping[str, str]) -> None:
        await self._emit([], {(self._first, name): value for name, value in marks.items()})

    async def _emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> bool:
        """False if they could not be stored."""
        try:
            await self._context.emit(readings, marks)
        except OSError as error:
            self._note(last_error=f"读数未能保存 / readings could not be stored: {error}")
            return False
        return True


# --------------------------------------------------------------------------------------------
# The driver
# --------------------------------------------------------------------------------------------


class Recorder:
    """One recorder and those of its channels that are in the settings."""

    options: ClassVar[type] = RecorderOptions
    attendance: ClassVar[bool] = False
    camera: ClassVar[bool] = True

    def __init__(self, devices: Sequence[Device]) -> None:
        self._options: RecorderOptions = devices[0].options
        for name in ("password_file", "serial", "certificate_sha256", "recordings_s"):
            if len({getattr(device.options, name) for device in devices}) > 1:
                raise ValueError(f"{name} differs between channels of {self._options.host}")
        for channel, times in Counter(device.options.channel for device in devices).items():
            if times > 1:
                raise ValueError(
                    f"channel {channel} of {self._options.host} is given to {times} devices"
                )
        self._devices = devices
        self._budget = Budget()

    async def run(self, context: Context) -> None:
        channels = [Channel(device) for device in self._devices]
        await Conversation(channels, self._options, self._budget, context).go_on()


DRIVER = Recorder
