"""Places in a list: where a page ended, as an opaque text that the next request gives back."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from api.problems import Offence, Problem

K = TypeVar("K", bound=tuple[Any, ...])


def seal(listing: str, place: tuple[Any, ...]) -> str:
    """The cursor of a place in a listing."""
    told = msgspec.json.encode(place)
    return _text(_check(listing, told) + told)


def unseal(listing: str, cursor: str, kind: type[K]) -> K:
    """The place a cursor stands for.  Raises the 422 problem for what this listing never gave.

    The check is against mistakes, not against malice: a place gives nothing away.
    """
    try:
        sealed = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        check, told = sealed[:4], sealed[4:]
        # The decoder overlooks foreign characters and spare bits; a cursor has one spelling only.
        if check == _check(listing, told) and _text(sealed) == cursor:
            place: K = msgspec.json.decode(told, type=kind)
            return place
    except (ValueError, msgspec.MsgspecError):
        pass
    detail = "is not a cursor of this list; take `next` of the page before as it is"
    raise Problem(422, f"cursor: {detail}.", [Offence("cursor", "query", detail)])


def _text(sealed: bytes) -> str:
    return urlsafe_b64encode(sealed).decode().rstrip("=")


def _check(listing: str, told: bytes) -> bytes:
    return blake2b(told, digest_size=4, key=listing.encode()).digest()
