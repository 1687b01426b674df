"""``GET /v1/devices/figures``: the cameras' month."""

from __future__ import annotations

from datetime import date
from typing import Any

import httpx
import pytest

from api import shapes
from api.reader import ConfiguredDevice
from rules.model import CameraMonth, Picture, Recorded, VideoMonth
from tests.api.conftest import FakeDaemon, ms

DAYS = ("2026-03-02", "2026-03-03")


def camera(device: str, *losses: tuple[str, str | None], **told: Any) -> CameraMonth:
    spans = tuple((ms(lost), None if back is None else ms(back), "") for lost, back in losses)
    return CameraMonth(device, spans, told.get("pictures", ()), told.get("recorded", ()))


@pytest.fixture
def filmed(daemon: FakeDaemon) -> FakeDaemon:
    """Two working days of four hours, of which the second is half over."""
    daemon.clock = ms("2026-03-03 10:00")
    daemon.terminals.append(ConfiguredDevice("cam-1", "1号摄像机", "video"))
    hours = tuple(((ms(f"{day} 08:00"), ms(f"{day} 12:00")),) for day in DAYS)
    asked = Recorded(
        ms("2026-03-02 08:00"),
        ms("2026-03-02 12:00"),
        ((ms("2026-03-02 08:00"), ms("2026-03-02 11:00")),),
    )
    daemon.months[date(2026, 3, 1)] = VideoMonth(
        cameras=(
            camera(
                "cam-2",
                pictures=((ms("2026-03-03 09:00"), Picture(("covered",))),),
            ),
            camera(
                "cam-1",
                ("2026-03-02 09:00", "2026-03-02 09:10"),
                recorded=((ms("2026-03-02 12:00"), asked),),
            ),
        ),
        first_seen=(("cam-1", ms("2026-02-01 08:00")), ("cam-2", ms("2026-03-03 08:00"))),
        hours=hours,
        as_of=daemon.clock,
    )
    return daemon


@pytest.mark.usefixtures("filmed")
@pytest.mark.parametrize("query", ["", "?month=2026-03"])
def test_each_camera_and_the_hall_are_told_with_numerator_and_denominator(
    client: httpx.Client, query: str
) -> None:
    told = client.get(f"/v1/devices/figures{query}").json()

    assert told == {
        "month": "2026-03",
        "as_of": "2026-03-03T10:00:00+08:00",
        "hall": {
            "cameras": 2,
            "online_rate": {"n": 470, "of": 480},
            "health_rate": {"n": 2, "of": 3},
            "recording_rate": {"n": 180, "of": 240},
        },
        "items": [
            {
                "device": "cam-1",
                "name": "1号摄像机",
                "online_rate": {"n": 350, "of": 360},
                "health_rate": {"n": 2, "of": 2},
                "recording_rate": {"n": 180, "of": 240},
            },
            {
                "device": "cam-2",
                "name": "",
                "online_rate": {"n": 120, "of": 120},
                "health_rate": {"n": 0, "of": 1},
                "recording_rate": {"n": 0, "of": 0},
            },
        ],
    }
    shapes.DeviceFigures.model_validate(told)
    assert list(told["items"][0]) == [*_in_order("device", "name")]
    assert list(told["hall"]) == [*_in_order("cameras")]


def _in_order(*first: str) -> tuple[str, ...]:
    return (*first, "online_rate", "health_rate", "recording_rate")


@pytest.mark.usefixtures("filmed")
def test_a_month_without_cameras_has_no_rates(client: httpx.Client) -> None:
    told = client.get("/v1/devices/figures?month=2026-02").json()

    assert told["month"] == "2026-02"
    assert told["items"] == []
    assert told["hall"]["health_rate"] == {"n": 0, "of": 0}


@pytest.mark.parametrize(
    "month", ["2026", "2026-13", "2026-00", "2026-03-01", "2100-01", "", "2026-3"]
)
def test_what_is_no_month_is_refused(client: httpx.Client, month: str) -> None:
    answer = client.get("/v1/devices/figures", params={"month": month})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "month"
