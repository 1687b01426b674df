"""Why a camera cannot be opened, asked of cameras that answer byte by byte."""

from __future__ import annotations

import re
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.rtsp_probe import (
    Found,
    Login,
    Reply,
    authorization,
    cause_of,
    flows,
    probe,
    split,
    video_track,
)

SDP = (
    b"v=0\r\nm=audio 0 RTP/AVP 0\r\na=control:trackID=1\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=2\r\n"
)
DESCRIBED = (
    b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Type: application/sdp\r\n"
    b"Content-Base: rtsp://h/s/\r\nContent-Length: " + str(len(SDP)).encode() + b"\r\n\r\n" + SDP
)
OPTIONS = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n"
PACKET = b"$\x00\x00\x04abcd"
NO = b"RTSP/1.0 401 Unauthorized\r\nCSeq: 2\r\n"
DIGEST = b'WWW-Authenticate: Digest realm="IPC", nonce="n1", stale="FALSE"\r\n'
BASIC = b'WWW-Authenticate: Basic realm="IPC"\r\n'

Answer = Callable[[str, str], bytes]


class Camera:
    """Answers requests by a function of method and whole request; counts what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self.port}/s"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def tries(self) -> int:
        """Requests that came with a password."""
        return sum("Authorization:" in one for one in self.asked)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        data = b""
        try:
            while chunk := client.recv(4096):
                data += chunk
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    request = head.decode()
                    self.asked.append(request)
                    client.sendall(self._answer(request.split(" ")[0], request))
        except OSError:
            pass

    def close(self) -> None:
        self._listening.close()
        for client in self._open:
            client.close()


@contextmanager
def camera(answer: Answer) -> Iterator[Camera]:
    one = Camera(answer)
    try:
        yield one
    finally:
        one.close()


def usual(method: str, request: str) -> bytes:  # noqa: ARG001
    if method == "DESCRIBE":
        return DESCRIBED
    if method == "SETUP":
        return b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: 1234;timeout=60\r\n\r\n"
    if method == "PLAY":
        return b"RTSP/1.0 200 OK\r\nCSeq: 4\r\n\r\n" + 5 * PACKET
    return OPTIONS if method == "OPTIONS" else b""


# Bytes ---------------------------------------------------------------------------------------


def test_replies_and_packets_come_apart_whole_byte_by_byte_and_glued() -> None:
    wire = OPTIONS + PACKET + DESCRIBED + PACKET
    byte_by_byte, rest = [], b""
    for at in range(len(wire)):
        rest += wire[at : at + 1]
        one, rest = split(rest)
        if one is not None:
            byte_by_byte.append(one)
    glued, left = [], wire
    while left:
        one, left = split(left)
        assert one is not None
        glued.append(one)

    assert glued == byte_by_byte
    first, packet, described, _ = glued
    assert isinstance(first, Reply)
    assert isinstance(described, Reply)
    assert (first.status, first.one("public")) == (200, "OPTIONS, DESCRIBE, SETUP, PLAY")
    assert packet == PACKET
    assert (described.status, described.body) == (200, SDP)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", "expected RTSP/1.0"),
        (b"RTSP/1.0 abc\r\n\r\n", "expected RTSP/1.0, a status"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: 999999\r\n\r\n", "up to 65536"),
        (b"RTSP/1.0 200 OK\r\n" + b"x" * 20_000, "within 16384 bytes"),
    ],
)
def test_what_is_no_rtsp_is_said_to_be_none(data: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        split(data)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda more: b"RTSP/1.0 2" + more))
def test_any_bytes_are_a_reply_or_not_yet_or_refused(data: bytes) -> None:
    try:
        one, rest = split(data)
    except ValueError:
        return
    assert len(rest) <= len(data)
    if isinstance(one, Reply):
        video_track(one, "rtsp://h/s")


@pytest.mark.parametrize(
    ("headers", "sdp", "track"),
    [
        ({}, SDP, "rtsp://h/s?a=1/trackID=2"),
        ({"content-base": "rtsp://h/b/"}, SDP, "rtsp://h/b/trackID=2"),
        ({}, b"m=video 0 RTP/AVP 96\r\na=control:rtsp://h/t9\r\n", "rtsp://h/t9"),
        ({}, b"m=video 0 RTP/AVP 96\r\na=control:*\r\n", "rtsp://h/s?a=1"),
        ({}, b"m=video 0 RTP/AVP 96\r\n", "rtsp://h/s?a=1"),
        ({}, b"m=audio 0 RTP/AVP 0\r\na=control:t1\r\n", None),
    ],
)
def test_the_first_video_track_is_found(
    headers: dict[str, str], sdp: bytes, track: str | None
) -> None:
    reply = Reply(200, tuple(headers.items()), sdp)

    assert video_track(reply, "rtsp://h/s?a=1") == track


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (200, None), (401, "auth"), (403, "auth"), (404, "not_found"), (454, "not_found"),
        (453, "sessions"), (503, "sessions"), (500, "sessions"), (302, "not_found"),
    ],
)  # fmt: skip
def test_statuses_have_a_cause(status: int, cause: str | None) -> None:
    assert cause_of(status) == cause


def test_digest_goes_before_basic_and_is_what_the_standard_says() -> None:
    answer = authorization(
        ['Basic realm="IPC"', 'Digest realm="IPC", nonce="n1"'], "a", "p:%/", "DESCRIBE", "rtsp://h"
    )

    secret = md5(b"a:IPC:p:%/").hexdigest()
    response = md5(f"{secret}:n1:{md5(b'DESCRIBE:rtsp://h').hexdigest()}".encode()).hexdigest()
    assert answer is not None
    assert f'response="{response}"' in answer
    assert authorization(['Basic realm="IPC"'], "a", "密", "DESCRIBE", "rtsp://h") == (
        "Basic " + b64encode("a:密".encode()).decode()
    )
    assert authorization(["Negotiate"], "a", "p", "DESCRIBE", "rtsp://h") is None


# Conversations -------------------------------------------------------------------------------


def test_a_good_camera_has_nothing_against_it() -> None:
    with camera(usual) as one:
        assert probe(one.url, timeout=2) == Found(None, 200)
        assert probe(one.url, timeout=2, setup=True) == Found(None, 200)
        assert flows(one.url, timeout=2)

    methods = [request.split(" ")[0] for request in one.asked]
    assert methods[:2] == ["OPTIONS", "DESCRIBE"]
    assert "SETUP rtsp://h/s/trackID=2 RTSP/1.0" in "\n".join(one.asked)


@pytest.mark.parametrize("options", [OPTIONS, b""])
@pytest.mark.parametrize("challenge", [DIGEST, BASIC, BASIC + DIGEST])
def test_a_wrong_password_is_tried_once(challenge: bytes, options: bytes) -> None:
    """Whether or not a password is wanted for OPTIONS already."""
    no = NO + challenge + b"\r\n"
    with camera(lambda method, _: (method == "OPTIONS" and options) or no) as one:
        found = probe(one.url, "admin", "wrong", 2)

        assert found == Found("auth", 401)
        assert one.tries == 1
        assert "wrong" not in "\n".join(one.asked)


def test_a_camera_that_wants_a_password_for_options_gets_it_there() -> None:
    def answer(method: str, request: str) -> bytes:
        return (
            usual(method, request) if "Authorization: Digest" in request else NO + DIGEST + b"\r\n"
        )

    with camera(answer) as one:
        assert probe(one.url, "admin", "good", 2) == Found(None, 200)
        assert one.asked[0].startswith("OPTIONS")
        assert one.tries == 2


def test_without_a_user_no_password_is_tried() -> None:
    with camera(lambda *_: NO + DIGEST + b"\r\n") as one:
        assert probe(one.url, timeout=2) == Found("auth", 401)
        assert one.tries == 0


def test_too_many_viewers_show_only_when_a_session_is_wanted() -> None:
    def full(method: str, request: str) -> bytes:
        full = b"RTSP/1.0 453 Not Enough Bandwidth\r\nCSeq: 3\r\n\r\n"
        return full if method == "SETUP" else usual(method, request)

    with camera(full) as one:
        assert probe(one.url, timeout=2) == Found(None, 200)
        assert probe(one.url, timeout=2, setup=True) == Found("sessions", 453)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"", Found("timeout")),
        (b"RTSP/1.0 40", Found("timeout")),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Found("decode")),
        (b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n", Found("not_found", 404)),
        (b"RTSP/1.0 503 Service Unavailable\r\nCSeq: 1\r\n\r\n", Found("sessions", 503)),
    ],
)
def test_other_answers_have_their_cause(answer: bytes, found: Found) -> None:
    with camera(lambda *_: answer) as one:
        assert probe(one.url, timeout=0.3) == found
        assert not flows(one.url, timeout=0.3)


def test_nobody_there_is_refused_and_no_such_name_is_dns() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    assert probe(f"rtsp://127.0.0.1:{port}/s", timeout=1) == Found("refused")
    assert probe("rtsp://no-such-name.invalid/s", timeout=1) == Found("dns")


def test_a_camera_that_accepts_and_plays_nothing_does_not_flow() -> None:
    def dry(method: str, request: str) -> bytes:
        return b"RTSP/1.0 200 OK\r\nCSeq: 4\r\n\r\n" if method == "PLAY" else usual(method, request)

    with camera(dry) as one:
        assert not flows(one.url, timeout=0.3)


def test_rtsps_to_a_camera_without_tls_is_no_stream() -> None:
    with camera(lambda *_: b"x") as one:
        assert probe(one.url.replace("rtsp:", "rtsps:"), timeout=0.5).cause in ("timeout", "decode")


# Pictures by HTTP ----------------------------------------------------------------------------


def test_http_gets_the_password_when_asked_and_once_a_request() -> None:
    tried: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        given = request.headers.get("authorization", "")
        tried.append(given.split(" ")[0])
        if 'nonce="n2"' in given:
            return httpx.Response(200, content=b"ok")
        stale = ', stale="true"' if given else ""
        nonce = "n2" if given else "n1"
        return httpx.Response(
            401, headers={"www-authenticate": f'Digest realm="r", nonce="{nonce}"{stale}'}
        )

    client = httpx.Client(transport=httpx.MockTransport(answer), auth=Login("a", "b"))

    assert client.get("http://c/p").status_code == 401
    assert tried == ["", "Digest"]
    assert client.get("http://c/p").status_code == 200
    assert client.get("http://c/p").status_code == 200


def test_http_without_a_user_tries_nothing() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(401, headers={"www-authenticate": 'Basic realm="r"'})

    client = httpx.Client(transport=httpx.MockTransport(answer), auth=Login("", ""))

    assert client.get("http://c/p").status_code == 401
    assert [one.headers.get("authorization") for one in asked] == [None]


def test_http_answers_a_realm_that_is_not_ascii_with_its_own_bytes() -> None:
    given: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        told = dict(request.headers.raw).get(b"Authorization")
        if told is not None:
            given.append(told)
            return httpx.Response(200)
        field = 'Digest realm="摄像头", nonce="n1"'.encode()
        return httpx.Response(401, headers=[(b"WWW-Authenticate", field)])

    client = httpx.Client(transport=httpx.MockTransport(answer), auth=Login("管理员", "密"))

    assert client.get("http://c/p").status_code == 200
    assert 'username="管理员", realm="摄像头"'.encode() in given[0]


@pytest.mark.parametrize(("right", "expected"), [(True, [200] * 8), (False, [401] * 8)])
def test_a_nonce_that_ran_out_silently_is_no_refusal(right: bool, expected: list[int]) -> None:
    """A device whose nonces are good for three requests and which never says stale; of a wrong
    password it sees one answer a request."""
    uses, nonce = 0, 0
    answers = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal uses, nonce, answers
        given = request.headers.get("authorization", "")
        answers += bool(given)
        if right and f'nonce="n{nonce}"' in given and uses < 3:
            uses += 1
            return httpx.Response(200)
        nonce, uses = nonce + 1, 0
        return httpx.Response(
            401, headers={"www-authenticate": f'Digest realm="r", nonce="n{nonce}"'}
        )

    client = httpx.Client(transport=httpx.MockTransport(answer), auth=Login("a", "b"))

    assert [client.get("http://c/p").status_code for _ in range(8)] == expected
    assert right or answers == 8
