"""Settings: defaults, refusals in production, and one clear line for each wrong variable."""

import os
from pathlib import Path

import pytest

from app.core.settings import Environment, Settings, SettingsError

_PRODUCTION = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql+asyncpg://user:password@db:5432/experiments",
    "REDIS_URL": "redis://cache:6379/0",
    "CLICKHOUSE_HOST": "history",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "SECRET_KEY": "k7Q-9s2LxW4vT8zR1mB6nC3p",
    "BEARER_TOKENS": '["h5Jd82kQwPz7Ln3Vx9Tb4Ms6"]',
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No variable and no `.env` of the machine gets through."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str | None) -> None:
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_settings__empty_environment__has_the_documented_defaults() -> None:
    settings = Settings.from_environment()
    server, limits = settings.server, settings.rate_limit
    assert (server.host, server.port, server.data_dir) == ("127.0.0.1", 8000, Path(".data"))
    assert (server.environment, server.debug, server.bearer_tokens) == (Environment.DEVELOPMENT, False, ())
    assert (settings.database.url, settings.database.pool_size) == (None, 20)
    assert (settings.redis.url, settings.redis.pool_size) == (None, 10)
    assert (settings.clickhouse.host, settings.clickhouse.database) == (None, "experiments")
    assert settings.kafka.bootstrap_servers is None
    assert (limits.enabled, limits.requests, limits.period_s) == (True, 100, 60)
    assert (limits.traffic_requests, limits.traffic_period_s) == (60_000, 60)
    assert (settings.assignment.bucket_size, settings.assignment.cache_ttl_s) == (10_000, 604_800)
    observability = settings.observability
    assert (observability.prometheus_enabled, observability.timing_enabled) == (True, True)
    assert observability.slow_api_threshold_ms == 1000


def test_settings__every_variable__is_read(bare_environment: pytest.MonkeyPatch) -> None:
    _set(
        bare_environment,
        **_PRODUCTION,
        HOST="0.0.0.0",  # noqa: S104
        PORT="9000",
        DATABASE_POOL_SIZE="7",
        REDIS_POOL_SIZE="8",
        CLICKHOUSE_PORT="8124",
        CLICKHOUSE_DATABASE="other",
        RATE_LIMIT_ENABLED="false",
        RATE_LIMIT_REQUESTS="5",
        RATE_LIMIT_PERIOD="1.5",
        ASSIGNMENT_CACHE_TTL="60",
        PROMETHEUS_ENABLED="false",
        ENABLE_TIMING_MIDDLEWARE="false",
        SLOW_API_THRESHOLD_MS="50",
    )
    settings = Settings.from_environment()
    assert settings.server.environment is Environment.PRODUCTION
    assert [token.get_secret_value() for token in settings.server.bearer_tokens] == ["h5Jd82kQwPz7Ln3Vx9Tb4Ms6"]
    assert (settings.server.port, settings.database.pool_size, settings.redis.pool_size) == (9000, 7, 8)
    assert (settings.clickhouse.port, settings.clickhouse.database) == (8124, "other")
    assert (settings.rate_limit.enabled, settings.rate_limit.requests, settings.rate_limit.period_s) == (False, 5, 1.5)
    assert (settings.assignment.cache_ttl_s, settings.observability.slow_api_threshold_ms) == (60, 50)
    assert not settings.observability.prometheus_enabled
    assert not settings.observability.timing_enabled


@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "REDIS_URL", "CLICKHOUSE_HOST", "KAFKA_BOOTSTRAP_SERVERS", "SECRET_KEY"]
)
@pytest.mark.parametrize("value", [None, ""])
def test_production__without_a_server_or_secret__is_refused_by_name(
    bare_environment: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    _set(bare_environment, **{**_PRODUCTION, name: value})
    with pytest.raises(SettingsError, match=rf"^{name}: [^\n]+$"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("SECRET_KEY", "change-me"), ("SECRET_KEY", "secret"), ("SECRET_KEY", "short"), ("DEBUG", "true")),
        *(("BEARER_TOKENS", '["test"]'), ("BEARER_TOKENS", '["CHANGE-ME"]'), ("BEARER_TOKENS", '["short"]')),
        ("BEARER_TOKENS", '["h5Jd82kQwPz7Ln3Vx9Tb4Ms6", "short"]'),
    ],
)
def test_production__laptop_setting__is_refused_by_name(
    bare_environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    _set(bare_environment, **{**_PRODUCTION, name: value})
    with pytest.raises(SettingsError, match=rf"^{name}: [^\n]+$") as caught:
        Settings.from_environment()
    assert "h5Jd82kQwPz7Ln3Vx9Tb4Ms6" not in str(caught.value)


def test_development__embedded_parts_and_no_secret__are_welcome(bare_environment: pytest.MonkeyPatch) -> None:
    for environment in ("development", "test"):
        _set(bare_environment, ENVIRONMENT=environment, DEBUG="true")
        assert Settings.from_environment().server.debug


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PORT", "http"), ("PORT", "65536"), ("PORT", "-1"), ("PORT", "80.5"), ("ENVIRONMENT", "staging")),
        *(("DEBUG", "maybe"), ("DATABASE_URL", "postgresql://db/x"), ("DATABASE_URL", "mysql://db/x")),
        *(
            ("DATABASE_POOL_SIZE", "0"),
            ("DATABASE_POOL_SIZE", "many"),
            ("REDIS_URL", "http://cache"),
            ("REDIS_URL", "x"),
        ),
        *(("REDIS_URL", "redis://h:x/0"), ("REDIS_URL", "redis://h:70000/0"), ("REDIS_URL", "redis://[::1/0")),
        *(("REDIS_URL", "redis://h/abc"), ("REDIS_URL", "redis://h/0?socket_timeout=abc")),
        ("DATABASE_URL", "postgresql+asyncpg://u:p@h:99999/db"),
        ("DATABASE_URL", "postgresql+asyncpg://u:p@h:x/db"),
        ("DATABASE_URL", "postgresql+asyncpg://u:p@h/db?sslmode=require"),
        ("DATABASE_URL", "postgresql+asyncpg://u:p@h/db?colour=blue"),
        *(("REDIS_POOL_SIZE", "0"), ("CLICKHOUSE_PORT", "0"), ("CLICKHOUSE_PORT", "x"), ("CLICKHOUSE_DATABASE", "a;b")),
        *(("RATE_LIMIT_ENABLED", "perhaps"), ("RATE_LIMIT_REQUESTS", "0"), ("RATE_LIMIT_REQUESTS", "1.5")),
        *(("RATE_LIMIT_PERIOD", "0"), ("RATE_LIMIT_PERIOD", "-1"), ("RATE_LIMIT_PERIOD", "nan")),
        *(("TRAFFIC_RATE_LIMIT_REQUESTS", "0"), ("TRAFFIC_RATE_LIMIT_PERIOD", "0"), ("ASSIGNMENT_CACHE_TTL", "0")),
        *(("ASSIGNMENT_BUCKET_SIZE", "1000"), ("ASSIGNMENT_BUCKET_SIZE", "x"), ("PROMETHEUS_ENABLED", "2")),
        *(("ENABLE_TIMING_MIDDLEWARE", "x"), ("SLOW_API_THRESHOLD_MS", "-1"), ("SLOW_API_THRESHOLD_MS", "fast")),
        *(("BEARER_TOKENS", '["a b"]'), ("BEARER_TOKENS", '[""]'), ("BEARER_TOKENS", "[1]"), ("BEARER_TOKENS", "{}")),
        *(("BEARER_TOKENS", "token"), ("BEARER_TOKENS", '["a"'), ("BEARER_TOKENS", '"token"')),
        ("CLICKHOUSE_CLUSTER", "c' SYNC; DROP"),
        ("CLICKHOUSE_CA_FILE", "nowhere.pem"),
        ("CLICKHOUSE_READ_TIMEOUT_SECONDS", "0"),
        ("HISTORY_RETENTION_DAYS", "30"),
    ],
)
def test_settings__wrong_variable__is_one_line_that_names_it(
    bare_environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    _set(bare_environment, **{name: value})
    with pytest.raises(SettingsError, match=rf"^[^\n]*{name}[^\n]*$"):
        Settings.from_environment()


def test_settings__file_that_is_not_text__is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DEBUG=\xff")
    with pytest.raises(SettingsError, match=r"^\.env: [^\n]*$"):
        Settings.from_environment()


def test_settings__printed__show_no_secret(bare_environment: pytest.MonkeyPatch) -> None:
    _set(bare_environment, SECRET_KEY="sesame-open-sesame", BEARER_TOKENS='["token-that-is-secret"]')
    shown = repr(Settings.from_environment())
    assert "sesame" not in shown
    assert "token-that-is-secret" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVENTS_RETENTION_DAYS", "1000000"),
        ("HISTORY_RETENTION_DAYS", "99999999999"),
        ("OUTBOX_RETENTION_DAYS", "99999999999"),
        ("CLICKHOUSE_HOST", "http://ch:8123"),
        ("CLICKHOUSE_HOST", "ch:8123"),
        ("KAFKA_BOOTSTRAP_SERVERS", ","),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("KAFKA_BOOTSTRAP_SERVERS", "http://kafka:9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:99999"),
        ("LOADER_GROUP_ID", " "),
    ],
)
def test_settings__value_that_cannot_work__is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    _set(monkeypatch, **{name: value})

    with pytest.raises(SettingsError, match=f"^{name}: "):
        Settings.from_environment()


@pytest.mark.parametrize("servers", ["kafka:9092", "kafka-1:9092, 10.0.0.1:9093", "[::1]:9092"])
def test_settings__kafka_addresses__are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    _set(monkeypatch, KAFKA_BOOTSTRAP_SERVERS=servers)

    assert Settings.from_environment().kafka.bootstrap_servers == servers
