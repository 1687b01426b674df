"""The emulated camera, asked by a client that is not ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import cv2
import httpx
import numpy as np
import pytest

from drivers.emulators.camera import PICTURE, SHOWN, EmulatedCamera


def digest() -> httpx.DigestAuth:
    return httpx.DigestAuth("admin", "Abc12345")


def asked(
    camera: EmulatedCamera, ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
) -> httpx.Response:
    """What ``ask`` gets of a camera that runs meanwhile."""

    async def talk() -> httpx.Response:
        url = f"http://127.0.0.1:{await camera.start()}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=2) as client:
                return await ask(client)
        finally:
            await camera.stop()

    return asyncio.run(talk())


def luma(jpeg: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return picture


@pytest.mark.parametrize("path", [PICTURE, "/cgi-bin/snapshot.cgi?channel=1"])
def test_a_picture_comes_to_whoever_knows_the_password(path: str) -> None:
    camera = EmulatedCamera(lambda: 36_000_000)

    answer = asked(camera, lambda client: client.get(path, auth=digest()))

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert luma(answer.content).shape == (360, 640)
    assert len(camera.requests) == 2
    assert (camera.pictures, camera.wrong) == (1, 0)


def test_several_pictures_come_over_one_connection_and_one_nonce() -> None:
    camera = EmulatedCamera(iter(range(0, 99_000, 1000)).__next__)

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        client.auth = digest()
        pictures = {(await client.get(PICTURE)).content for _ in range(3)}
        assert len(pictures) == 3
        return await client.get(PICTURE)

    assert asked(camera, ask).status_code == 200
    assert len(camera.requests) == 5


@pytest.mark.parametrize(
    ("login", "auth", "expected"),
    [
        ("digest", None, 401),
        ("digest", httpx.DigestAuth("admin", "wrong"), 401),
        ("digest", httpx.DigestAuth("root", "Abc12345"), 401),
        ("digest", httpx.BasicAuth("admin", "Abc12345"), 401),
        ("basic", httpx.BasicAuth("admin", "Abc12345"), 200),
        ("basic", httpx.BasicAuth("admin", "wrong"), 401),
        ("", None, 200),
    ],
)
def test_whoever_does_not_is_refused(login: str, auth: httpx.Auth | None, expected: int) -> None:
    camera = EmulatedCamera(lambda: 0, login=login)

    answer = asked(camera, lambda client: client.get(PICTURE, auth=auth))

    assert answer.status_code == expected
    assert ("www-authenticate" in answer.headers) is (expected == 401)
    assert camera.wrong == int(expected == 401 and auth is not None)


def test_the_digest_is_that_of_the_standard() -> None:
    """The example of RFC 2617, 3.5."""
    camera = EmulatedCamera(lambda: 0, user="Mufasa", password="Circle Of Life")
    camera.realm = "testrealm@host.com"
    camera._nonces.add("dcd98b7102dd2f0e8b11d0f600bfb0c093")
    shown = (
        'username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",'
        ' uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", response="{}"'
    )

    assert camera._digest(shown.format("6629fae49393a05397450978507c4ef1"), "/dir/index.html")
    assert not camera._digest(shown.format("0" * 32), "/dir/index.html")


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_it_answers_as_it_is_told(status: int) -> None:
    camera = EmulatedCamera(lambda: 0)
    camera.status = status

    assert asked(camera, lambda client: client.get(PICTURE, auth=digest())).status_code == status


def test_only_pictures_are_fetched() -> None:
    assert asked(EmulatedCamera(lambda: 0), lambda client: client.put(PICTURE)).status_code == 405


def test_it_may_be_silent_until_nobody_waits_any_more() -> None:
    camera = EmulatedCamera(lambda: 0)
    camera.silent = True

    with pytest.raises(httpx.ReadTimeout):
        asked(camera, lambda client: client.get(PICTURE, timeout=0.2))


def test_a_slow_one_shows_what_is_there_when_it_answers() -> None:
    now = [0]

    async def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1000)

    camera = EmulatedCamera(lambda: now[0], [(0, 5000, "away")], login="", sleep=sleep)
    camera.takes = lambda: 10.0

    answer = asked(camera, lambda client: client.get(PICTURE))

    assert answer.content == camera.picture(10_000)
    assert camera.shows(10_000) == (0, "seated")


def test_half_a_picture_is_followed_by_the_end() -> None:
    camera = EmulatedCamera(lambda: 0, login="")
    camera.part = 0.5

    with pytest.raises(httpx.RemoteProtocolError):
        asked(camera, lambda client: client.get(PICTURE))


def test_garbage_is_no_picture() -> None:
    camera = EmulatedCamera(lambda: 0, login="")
    camera.garbage = True

    answer = asked(camera, lambda client: client.get(PICTURE))

    assert answer.status_code == 200
    assert not answer.content.startswith(b"\xff\xd8")


def test_the_script_says_what_is_there_and_its_later_lines_count() -> None:
    camera = EmulatedCamera(lambda: 0, [(100, 300, "away"), (200, 250, "covered")])

    assert [camera.shows(at)[1] for at in (99, 100, 200, 249, 250, 300)] == [
        "seated", "away", "covered", "covered", "away", "seated",
    ]  # fmt: skip


@pytest.mark.parametrize("what", SHOWN)
def test_everything_that_can_be_shown_is_drawn(what: str) -> None:
    camera = EmulatedCamera(lambda: 0, [(0, 60_000, what)])
    first, second = (luma(camera.picture(at)).astype(int) for at in (1000, 31_000))

    assert first.shape == (360, 640)
    assert bool((first == second).all()) is (what == "frozen")


def test_the_clerk_is_in_the_region_and_nowhere_else() -> None:
    camera = EmulatedCamera(lambda: 0)
    seated = luma(camera.picture(40_000_000)).astype(int)
    camera.usual = "away"
    away = luma(camera.picture(40_000_000)).astype(int)
    inside = np.zeros(away.shape, np.uint8)
    corners = np.array([(round(x * 640), round(y * 360)) for x, y in camera.region], np.int32)
    cv2.fillPoly(inside, [corners], (1,))
    differs = np.abs(seated - away) > 25

    assert differs[inside > 0].mean() > 0.35
    assert differs[inside == 0].mean() < 0.05


def test_a_black_picture_is_black_and_a_covered_one_has_no_edges() -> None:
    camera = EmulatedCamera(lambda: 0, usual="black")
    black = luma(camera.picture(1000))
    camera.usual = "covered"
    covered = luma(camera.picture(1000))

    assert np.median(black) < 24
    # Below the recorder's clock.
    assert cv2.Canny(covered[40:330], 60, 120).mean() < 0.1
