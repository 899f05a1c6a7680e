"""All settings, read once from the environment in an entry point and passed down."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSetting

from app.core.urls import LAST_PORT, usable_database_url, usable_redis_url

_PLACEHOLDER_SECRETS = frozenset({"", "change-me", "changeme", "secret", "default", "development", "test"})
_MIN_SECRET_LENGTH = 16
# A hundred years; leaving a retention out means for ever.
_MOST_DAYS = 36_500
# A name or an address, without a scheme and without a port.
_HOST = r"^(\[[0-9A-Fa-f:.%]+\]|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+|[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?)$"
_ENV_FILE = ".env"
_FIELD_NAMED = re.compile(r'field "(\w+)"')


class Environment(StrEnum):
    """Where the service runs; production refuses whatever is only good on a laptop."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class SettingsError(Exception):
    """A setting is missing or wrong; the message names the variable and the way out."""


class _Group(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=_ENV_FILE, env_file_encoding="utf-8", env_ignore_empty=True
    )


class ServerSettings(_Group):
    """The process itself: where it listens and how it presents itself."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=LAST_PORT)] = 8000
    data_dir: Path = Path(".data")
    environment: Environment = Environment.DEVELOPMENT
    debug: bool = False
    secret_key: SecretStr = SecretStr("")
    bearer_tokens: tuple[SecretStr, ...] = ()

    @field_validator("bearer_tokens")
    @classmethod
    def _tokens_have_no_spaces(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for token in tokens:
            value = token.get_secret_value()
            if not value or any(character.isspace() for character in value):
                raise ValueError('each token must be a non-empty string without spaces, as in ["token-one"]')
        return tokens


class DatabaseSettings(_Group):
    """PostgreSQL, the truth."""

    url: str | None = Field(default=None, validation_alias="DATABASE_URL")
    pool_size: Annotated[int, Field(ge=2, le=500)] = Field(default=20, validation_alias="DATABASE_POOL_SIZE")

    @field_validator("url")
    @classmethod
    def _can_be_used(cls, url: str | None) -> str | None:
        return url if url is None else usable_database_url(url)


class RedisSettings(_Group):
    """Redis or Valkey, an aid that may be absent at any moment."""

    url: str | None = Field(default=None, validation_alias="REDIS_URL")
    pool_size: Annotated[int, Field(ge=1, le=1000)] = Field(default=10, validation_alias="REDIS_POOL_SIZE")

    @field_validator("url")
    @classmethod
    def _can_be_used(cls, url: str | None) -> str | None:
        return url if url is None else usable_redis_url(url)


class ClickHouseSettings(_Group):
    """ClickHouse, the history. Without a host the engine runs inside this process."""

    host: str | None = Field(default=None, pattern=_HOST, validation_alias="CLICKHOUSE_HOST")
    port: Annotated[int, Field(ge=1, le=LAST_PORT)] = Field(default=8123, validation_alias="CLICKHOUSE_PORT")
    database: str = Field(
        default="experiments",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
        validation_alias="CLICKHOUSE_DATABASE",
    )
    user: str = Field(default="default", validation_alias="CLICKHOUSE_USER")
    password: SecretStr = Field(default=SecretStr(""), validation_alias="CLICKHOUSE_PASSWORD")
    secure: bool = Field(default=False, validation_alias="CLICKHOUSE_SECURE")
    # The authorities that may have signed the server's certificate; unset: those that the system trusts.
    ca_file: FilePath | None = Field(default=None, validation_alias="CLICKHOUSE_CA_FILE")
    # The name of the cluster in the servers' configuration; unset: one node.
    cluster: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,63}$", validation_alias="CLICKHOUSE_CLUSTER")
    read_timeout_s: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=30, validation_alias="CLICKHOUSE_READ_TIMEOUT_SECONDS"
    )
    # Each statement that counts rollups; what takes longer is given up, and done again later.
    build_timeout_s: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=300, validation_alias="CLICKHOUSE_BUILD_TIMEOUT_SECONDS"
    )


class KafkaSettings(_Group):
    """Kafka, between the outbox and ClickHouse. Without it the relay reads the outbox itself."""

    bootstrap_servers: str | None = Field(default=None, validation_alias="KAFKA_BOOTSTRAP_SERVERS")

    @field_validator("bootstrap_servers")
    @classmethod
    def _hosts_and_ports(cls, servers: str | None) -> str | None:
        for server in () if servers is None else servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if re.match(_HOST, host) is None or not (port.isdecimal() and 0 < int(port) <= LAST_PORT):
                raise ValueError("must be host:port, or several with commas, as in kafka-1:9092,kafka-2:9092")
        return servers


class RateLimitSettings(_Group):
    """Token buckets per client: one for management and results, one for product traffic."""

    enabled: bool = Field(default=True, validation_alias="RATE_LIMIT_ENABLED")
    requests: Annotated[int, Field(ge=1)] = Field(default=100, validation_alias="RATE_LIMIT_REQUESTS")
    period_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=60, validation_alias="RATE_LIMIT_PERIOD"
    )
    traffic_requests: Annotated[int, Field(ge=1)] = Field(
        default=60_000, validation_alias="TRAFFIC_RATE_LIMIT_REQUESTS"
    )
    traffic_period_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=60, validation_alias="TRAFFIC_RATE_LIMIT_PERIOD"
    )


class AssignmentSettings(_Group):
    """Bucketing and the caches of stored assignments."""

    bucket_size: int = Field(default=10_000, validation_alias="ASSIGNMENT_BUCKET_SIZE")
    cache_ttl_s: Annotated[int, Field(ge=1)] = Field(default=604_800, validation_alias="ASSIGNMENT_CACHE_TTL")
    memory_entries: Annotated[int, Field(ge=0)] = Field(default=200_000, validation_alias="ASSIGNMENT_MEMORY_ENTRIES")

    @field_validator("bucket_size")
    @classmethod
    def _public_algorithm(cls, size: int) -> int:
        if size != 10_000:  # Other languages re-implement the algorithm with exactly this modulus.
            raise ValueError("must be 10000: the bucketing algorithm is public and fixed")
        return size


class ObservabilitySettings(_Group):
    """Metrics, timing and logs."""

    prometheus_enabled: bool = Field(default=True, validation_alias="PROMETHEUS_ENABLED")
    metrics_token: SecretStr | None = Field(default=None, validation_alias="METRICS_TOKEN")
    timing_enabled: bool = Field(default=True, validation_alias="ENABLE_TIMING_MIDDLEWARE")
    slow_api_threshold_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1000, validation_alias="SLOW_API_THRESHOLD_MS"
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", validation_alias="LOG_LEVEL")


class PipelineSettings(_Group):
    """The way from the outbox to ClickHouse, and how long PostgreSQL keeps what has gone there."""

    relay_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10_000, validation_alias="RELAY_BATCH_ROWS"
    )
    relay_idle_s: Annotated[float, Field(gt=0, le=60)] = Field(default=0.25, validation_alias="RELAY_IDLE_SECONDS")
    heartbeat_s: Annotated[float, Field(gt=0, le=60)] = Field(default=1.0, validation_alias="HEARTBEAT_SECONDS")
    outbox_retention_days: Annotated[int, Field(ge=1, le=_MOST_DAYS)] = Field(
        default=7, validation_alias="OUTBOX_RETENTION_DAYS"
    )
    reconcile_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=60, validation_alias="RECONCILE_SECONDS")
    # Unset: PostgreSQL keeps all events.
    events_retention_days: Annotated[int, Field(ge=1, le=_MOST_DAYS)] | None = Field(
        default=None, validation_alias="EVENTS_RETENTION_DAYS"
    )
    # Unset: ClickHouse keeps all events. It drops them by months.
    history_retention_days: Annotated[int, Field(ge=31, le=_MOST_DAYS)] | None = Field(
        default=None, validation_alias="HISTORY_RETENTION_DAYS"
    )
    # Whether results are counted ahead by hours and days, and how often it is looked whether another hour is over.
    rollups_enabled: bool = Field(default=True, validation_alias="ROLLUPS_ENABLED")
    rollup_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=60.0, validation_alias="ROLLUP_SECONDS")


class LoaderSettings(_Group):
    """The way from Kafka to ClickHouse: who consumes, and after how much is flushed."""

    group_id: str = Field(
        default="experiments-loader", pattern=r"^[A-Za-z0-9._-]{1,200}$", validation_alias="LOADER_GROUP_ID"
    )
    # A flush is one block of one insert in ClickHouse, which these bounds keep it to.
    flush_rows: Annotated[int, Field(ge=1, le=100_000)] = Field(default=20_000, validation_alias="LOADER_FLUSH_ROWS")
    flush_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = Field(
        default=16 * 1024 * 1024, validation_alias="LOADER_FLUSH_BYTES"
    )
    flush_s: Annotated[float, Field(gt=0, le=60)] = Field(default=0.4, validation_alias="LOADER_FLUSH_SECONDS")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, in small groups."""

    server: ServerSettings
    database: DatabaseSettings
    redis: RedisSettings
    clickhouse: ClickHouseSettings
    kafka: KafkaSettings
    rate_limit: RateLimitSettings
    assignment: AssignmentSettings
    observability: ObservabilitySettings
    pipeline: PipelineSettings
    loader: LoaderSettings

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check all variables.

        Raises:
            SettingsError: a variable has a value that cannot be used, or production lacks what it needs.
        """
        try:
            settings = cls(
                server=ServerSettings(),
                database=DatabaseSettings(),
                redis=RedisSettings(),
                clickhouse=ClickHouseSettings(),
                kafka=KafkaSettings(),
                rate_limit=RateLimitSettings(),
                assignment=AssignmentSettings(),
                observability=ObservabilitySettings(),
                pipeline=PipelineSettings(),
                loader=LoaderSettings(),
            )
        except ValidationError as error:
            raise SettingsError(_first_problem(error)) from error
        except UnreadableSetting as error:
            raise SettingsError(_unreadable(error)) from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{_ENV_FILE}: is not UTF-8: byte {error.start} cannot be decoded") from error
        _refuse_laptop_settings_in_production(settings)
        return settings


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    name = str(problem["loc"][0]).upper() if problem["loc"] else "settings"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"


def _unreadable(error: UnreadableSetting) -> str:
    """Name the variable whose text is not JSON: the library names the field, which is called like its variable."""
    found = _FIELD_NAMED.search(str(error))
    return f'{found[1].upper() if found else error}: must be JSON, as in ["one", "two"]'


def _refuse_laptop_settings_in_production(settings: Settings) -> None:
    if settings.server.environment is not Environment.PRODUCTION:
        return
    required = {
        "DATABASE_URL": settings.database.url,
        "REDIS_URL": settings.redis.url,
        "CLICKHOUSE_HOST": settings.clickhouse.host,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
    }
    for name, value in required.items():
        if value is None:
            raise SettingsError(f"{name}: must be set when ENVIRONMENT=production; embedded parts are refused")
    if settings.server.debug:
        raise SettingsError("DEBUG: must not be set when ENVIRONMENT=production")
    _refuse_weak_secret("SECRET_KEY", settings.server.secret_key.get_secret_value())
    for token in settings.server.bearer_tokens:
        _refuse_weak_secret("BEARER_TOKENS", token.get_secret_value())


def _refuse_weak_secret(name: str, secret: str) -> None:
    if secret.lower() in _PLACEHOLDER_SECRETS or len(secret) < _MIN_SECRET_LENGTH:
        raise SettingsError(
            f"{name}: a secret of at least {_MIN_SECRET_LENGTH} characters is required when"
            " ENVIRONMENT=production, and not a default one"
        )
