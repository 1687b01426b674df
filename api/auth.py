"""Bearer tokens and what they may do.

A token's secret is kept as its SHA-256 only.  A request without a token that is in the table and
not revoked is refused, so without any token in the table the whole API is.
"""

from __future__ import annotations

import sqlite3
from hashlib import sha256

from msgspec import Struct

from api.problems import Problem

SCOPES = (
    "attendance:read",
    "supervision:read",
    "supervision:write",
    "absences:write",
    "events:write",
    "devices:read",
    "admin",
)


class Token(Struct, frozen=True):
    """Who asks.  ``admin`` may do everything."""

    id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: str) -> None:
        """Raises the 403 problem that names the scope."""
        if not self.may(scope):
            raise Problem(
                403,
                f"This needs the scope {scope}; the token '{self.name}' has "
                f"{', '.join(sorted(self.scopes)) or 'none'}.",
                headers={
                    "WWW-Authenticate": 'Bearer realm="hallwatch", '
                    f'error="insufficient_scope", scope="{scope}"'
                },
            )


def authenticate(authorization: str | None, connection: sqlite3.Connection) -> Token:
    """The token of an ``Authorization`` header.

    Asked for at every request, so that a revoked token stops at once.  Raises the 401 problem.
    """
    if not authorization:
        raise _refusal("Send a token: 'Authorization: Bearer SECRET'.", "")
    method, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if method.lower() != "bearer" or not secret:
        raise _refusal("Only 'Authorization: Bearer SECRET' is understood.", "invalid_request")
    row = connection.execute(
        "SELECT id, name, scopes FROM token WHERE hash = ? AND revoked_at IS NULL",
        (sha256(secret.encode("latin-1")).digest(),),
    ).fetchone()
    if row is None:
        raise _refusal("This token is not known or was revoked.", "invalid_token")
    return Token(row[0], row[1], frozenset(row[2].split()))


def _refusal(detail: str, error: str) -> Problem:
    challenge = 'Bearer realm="hallwatch"' + (f', error="{error}"' if error else "")
    return Problem(401, detail, headers={"WWW-Authenticate": challenge})
