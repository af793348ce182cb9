"""The callers and their rights: bearer tokens with scopes, kept as hashes in a TOML file.

    [[tokens]]
    name = "team-a"
    sha256 = "..."                      # of the token; `midrib token team-a` makes both
    scopes = ["embed", "read"]
    max_in_flight_bytes = 67108864      # optional: of this tenant's requests
    max_in_flight_items = 256           # optional
    max_requests_per_s = 100            # optional: calls, and items of streams
    max_bytes_per_s = 10485760          # optional: of inputs, decoded, and embeddings

A token is 256 random bits, so one round of sha-256 keeps it: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import tomllib
from collections.abc import Sequence
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from midrib.server._admission.quotas import Limit, Quota
from midrib.server._admission.rates import Rate
from midrib.wire import PermissionDeniedError, UnauthenticatedError

UNBOUNDED = 2**62


class Scope(StrEnum):
    """A permission of a token.  read: lists and descriptions.  embed: embeddings and gradients.  admin: loading."""

    READ = "read"
    EMBED = "embed"
    ADMIN = "admin"


class TokenEntry(BaseModel):
    """One token of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope]
    max_in_flight_bytes: Annotated[int, Field(ge=1)] = UNBOUNDED
    max_in_flight_items: Annotated[int, Field(ge=1)] = UNBOUNDED
    max_requests_per_s: Annotated[float, Field(gt=0)] = UNBOUNDED
    max_bytes_per_s: Annotated[float, Field(gt=0)] = UNBOUNDED


class Tenant:
    """The holder of a token, and the amounts that its requests hold now."""

    def __init__(self, entry: TokenEntry) -> None:
        self.name = entry.name
        self.scopes = entry.scopes
        self.withdrawn = False
        self.in_flight_bytes = Quota(entry.max_in_flight_bytes, what=f"bytes of token {entry.name!r}")
        self.in_flight_items = Quota(entry.max_in_flight_items, what=f"items of token {entry.name!r}")
        self.requests = Rate(entry.max_requests_per_s, what=f"requests of token {entry.name!r}")
        self.bytes = Rate(entry.max_bytes_per_s, what=f"bytes of token {entry.name!r}")

    @property
    def sees_tenants(self) -> bool:
        """Whether it may see the names and the load of other tokens.

        This is so for administrators, and for tokens that cannot embed, which are for monitoring.
        """
        return Scope.ADMIN in self.scopes or Scope.EMBED not in self.scopes

    def amounts(self, size: int) -> list[tuple[Limit, int]]:
        """Return the limits that an item of `size` bytes uses, and how much of each.

        The rates come first, so that an item holds nothing while it waits for them.
        """
        return [(self.requests, 1), (self.bytes, size), (self.in_flight_items, 1), (self.in_flight_bytes, size)]

    def adopt(self, entry: TokenEntry) -> None:
        """Take the scopes and limits of a changed entry; requests in flight stay counted."""
        self.scopes, self.withdrawn = entry.scopes, False
        self.in_flight_bytes.limit = entry.max_in_flight_bytes
        self.in_flight_items.limit = entry.max_in_flight_items
        self.requests.limit, self.bytes.limit = entry.max_requests_per_s, entry.max_bytes_per_s

    def require(self, scope: Scope) -> None:
        """Raise UnauthenticatedError if the token is withdrawn, PermissionDeniedError if it lacks the scope.

        Checked at each call and at each item of a stream, because a token may be withdrawn while a stream is open.
        """
        if self.withdrawn:
            raise _unknown()
        if scope not in self.scopes:
            raise PermissionDeniedError(f"token {self.name!r} lacks the scope {scope.value!r} that this call needs")


# The tenant of the call that the current task serves; None on a server without tokens.
CURRENT_TENANT: ContextVar[Tenant | None] = ContextVar("midrib_tenant", default=None)

_MAKE_ENTRY: Final = "`midrib token NAME` makes an entry"

# An operator may write the token in place of its hash: errors do not quote the file.
_ENTRIES = TypeAdapter(list[TokenEntry], config=ConfigDict(hide_input_in_errors=True))


class AccessTokens:
    """The tokens of a file; after `reload`, calls are checked against the changed file.

    Raises OSError for a file that cannot be read, or ValueError for an invalid one, with its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tenants: dict[str, Tenant] = {}
        self._hashes: list[tuple[str, Tenant]] = []
        self.reload()

    def reload(self) -> None:
        """Read the file again. Raises OSError or ValueError for an invalid file, and keeps the tokens as they were."""
        entries = _read(self._path)
        hashes = []
        for entry in entries:
            tenant = self._tenants.setdefault(entry.name, Tenant(entry))
            tenant.adopt(entry)
            hashes.append((entry.sha256, tenant))
        self._hashes = hashes
        for name, tenant in self._tenants.items():
            tenant.withdrawn = all(name != entry.name for entry in entries)

    def tenant(self, authorization: Sequence[str], scope: Scope) -> Tenant:
        """Return the tenant of a call, by its `authorization` headers.

        More than one is refused, because a proxy may have checked another one than the server would.
        Raises UnauthenticatedError without a known token, PermissionDeniedError without the scope.
        """
        kind, _, token = (authorization[0] if len(authorization) == 1 else "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise UnauthenticatedError("this server wants a token: send `authorization: Bearer TOKEN`, once")
        # Bytes that are not UTF-8 arrive as lone surrogates, and are refused like any other wrong token.
        digest = hashlib.sha256(token.strip().encode(errors="surrogateescape")).hexdigest()
        caller = None
        for token_digest, tenant in self._hashes:  # all of them, so that the time does not depend on the token
            if hmac.compare_digest(token_digest, digest):
                caller = tenant
        if caller is None:
            raise _unknown()
        caller.require(scope)
        return caller


def _read(path: Path) -> list[TokenEntry]:
    """Return the entries of a file. Raises OSError or ValueError, with the file's name."""
    try:
        entries = _ENTRIES.validate_python(tomllib.loads(path.read_text(encoding="utf-8")).get("tokens", []))
    except OSError as error:
        raise OSError(
            f"the token file {path} cannot be read ({error.strerror}): check the setting `tokens` and your rights"
        ) from error
    except ValidationError as error:
        wrong = "; ".join(f"{_place(detail['loc'])}: {detail['msg']}" for detail in error.errors(include_input=False))
        raise ValueError(f"{path} is not a token file ({wrong}): {_MAKE_ENTRY}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML ({error}): {_MAKE_ENTRY}") from error
    if not entries:  # a file that is being written is empty for a moment, which withdraws no token
        raise ValueError(f"{path} holds no [[tokens]]: {_MAKE_ENTRY}")
    return entries


def _place(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, ("tokens", *path)))


def _unknown() -> UnauthenticatedError:
    return UnauthenticatedError("the token is not known here: it was mistyped, or it has been withdrawn")


def new_token(name: str, scopes: list[Scope]) -> tuple[str, str]:
    """Return a new token, and its entry for the file."""
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    listed = ", ".join(f'"{scope.value}"' for scope in scopes)
    # JSON's strings are TOML's.
    return token, f'[[tokens]]\nname = {json.dumps(name)}\nsha256 = "{digest}"\nscopes = [{listed}]\n'
