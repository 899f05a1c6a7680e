"""From a bearer token to an identity: memory, then Redis, then PostgreSQL."""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from app.access.caller import Identity
from app.access.errors import InvalidToken
from app.access.repository import TokenRepository
from app.access.scopes import Scope, granted_by
from app.access.values import StoredToken
from app.core.changes import Changes
from app.core.clock import Clock
from app.core.db import Database, StoreUnavailable
from app.core.metrics import Metrics
from app.core.redis import RedisAid

TOPIC = "tokens"
_CACHE_TTL_S = 300
_MOST_IN_MEMORY = 10_000
_TOKEN_BYTES = 32
_NOT_VALID = "The token is unknown, revoked or expired. Ask an administrator for a new one."
# The contract's bound: nobody is let in by memory alone for longer than this.
_LONGEST_TRUST_S = 3600.0


class _Cached(msgspec.Struct, frozen=True):
    """What Redis and memory hold about a valid token; never the token."""

    id: int
    name: str
    scopes: tuple[str, ...]
    project_id: int | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Known:
    identity: Identity
    expires_at: datetime | None


def new_secret() -> str:
    return f"exp_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def hash_of(token: str) -> bytes:
    """Hash a token. Tokens are 256 random bits, so a fast hash without salt gives nothing away."""
    return hashlib.sha256(token.encode()).digest()


class Authenticator:
    """Resolves tokens; what it remembers goes with the next change of any token."""

    def __init__(
        self,
        *,
        database: Database,
        redis: RedisAid,
        changes: Changes,
        clock: Clock,
        metrics: Metrics,
        installation: UUID,
        secret_key: str,
        bootstrap_tokens: Sequence[str],
    ) -> None:
        self._database = database
        self._redis = redis
        self._changes = changes
        self._clock = clock
        self._metrics = metrics
        self._namespace = f"exp:{installation}"
        self._secret_key = secret_key.encode()
        self._epoch = 0
        # Tells guesses apart without asking anybody.
        self._valid: frozenset[bytes] = frozenset()
        self._memory: OrderedDict[bytes, _Known] = OrderedDict()
        self._bootstrap = {
            hash_of(token): Identity(None, str(index), granted_by(Scope), None, self._client_key(hash_of(token)))
            for index, token in enumerate(bootstrap_tokens)
        }
        changes.subscribe(TOPIC, self._catch_up)

    async def _catch_up(self, epoch: int) -> None:
        async with self._database.read() as connection:
            valid = await TokenRepository(connection).valid_hashes()
        self._epoch = epoch
        self._valid = valid
        self._memory.clear()

    def _remembered(self, token_hash: bytes) -> Identity | None:
        known = self._memory.get(token_hash)
        return None if known is None or self._expired(known.expires_at) else known.identity

    async def identify(self, token: str) -> Identity:
        """Return who holds the token.

        Raises:
            InvalidToken: unknown, revoked or expired.
            StoreUnavailable: nobody remembers it and PostgreSQL is away, or has been for an hour.
        """
        token_hash = hash_of(token)
        await self._changes.ensure_fresh()
        if (identity := self._bootstrap.get(token_hash)) is not None:
            return identity
        if self._changes.unconfirmed_s > _LONGEST_TRUST_S:
            raise StoreUnavailable("PostgreSQL has been away for so long that tokens cannot be trusted any more.")
        if (identity := self._remembered(token_hash)) is not None:
            return identity
        if token_hash not in self._valid:
            raise InvalidToken(_NOT_VALID)
        epoch = self._epoch
        cached = await self._from_redis(token_hash, epoch) or await self._from_database(token_hash, epoch)
        if cached is None or self._expired(cached.expires_at):
            raise InvalidToken(_NOT_VALID)
        identity = Identity(
            cached.id,
            cached.name,
            granted_by(Scope(scope) for scope in cached.scopes),
            cached.project_id,
            self._client_key(token_hash),
        )
        if epoch == self._epoch:  # Otherwise a change came in between; the next request asks again.
            self._memory[token_hash] = _Known(identity, cached.expires_at)
            if len(self._memory) > _MOST_IN_MEMORY:
                self._memory.popitem(last=False)
        return identity

    def _expired(self, expires_at: datetime | None) -> bool:
        return expires_at is not None and expires_at <= self._clock()

    def _client_key(self, token_hash: bytes) -> str:
        """Name the token in Redis's keys in a way that cannot be matched with the database's hashes."""
        return hmac.new(self._secret_key, token_hash, "sha256").hexdigest()[:32]

    def _redis_key(self, token_hash: bytes, epoch: int) -> str:
        # The epoch is the generation: a revocation makes all older entries unreachable.
        return f"{self._namespace}:token:{epoch}:{self._client_key(token_hash)}"

    async def _from_redis(self, token_hash: bytes, epoch: int) -> _Cached | None:
        raw = await self._redis.attempt(lambda redis: redis.get(self._redis_key(token_hash, epoch)), None)
        try:
            found = msgspec.json.decode(raw, type=_Cached) if raw is not None else None
        except msgspec.DecodeError:
            found = None
        self._metrics.cache.labels("token", "miss" if found is None else "hit").inc()
        return found

    async def _from_database(self, token_hash: bytes, epoch: int) -> _Cached | None:
        async with self._database.read() as connection:
            stored = await TokenRepository(connection).find_valid(token_hash)
        if stored is None:
            return None
        cached = _cached(stored)
        key, value = self._redis_key(token_hash, epoch), msgspec.json.encode(cached)
        await self._redis.attempt(lambda redis: redis.set(key, value, ex=_CACHE_TTL_S), None)
        return cached


def _cached(token: StoredToken) -> _Cached:
    return _Cached(
        token.id, token.name, tuple(scope.value for scope in token.scopes), token.project_id, token.expires_at
    )
