"""What the workers that set up Debezium need to know on top of the service's settings."""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from sqlalchemy import make_url

from app.core.settings import KafkaSettings, SettingsError
from app.core.urls import LAST_PORT, usable_database_url

_POSTGRES_PORT = 5432


@dataclass(frozen=True, slots=True)
class Source:
    """The database as Connect reaches it, and the account that Debezium uses there."""

    host: str
    port: int
    name: str
    user: str


class CdcSettings(KafkaSettings):
    """Kafka Connect and its way to PostgreSQL. What is not set about the database is as in `DATABASE_URL`."""

    connect_url: str = Field(default="http://127.0.0.1:8083", pattern="^https?://", validation_alias="CONNECT_URL")
    database_url: str | None = Field(default=None, validation_alias="DATABASE_URL")
    host: str | None = Field(default=None, validation_alias="CDC_DATABASE_HOST")
    port: Annotated[int, Field(ge=1, le=LAST_PORT)] | None = Field(default=None, validation_alias="CDC_DATABASE_PORT")
    name: str | None = Field(default=None, validation_alias="CDC_DATABASE_NAME")
    user: str = Field(default="experimentation_cdc", validation_alias="CDC_DATABASE_USER")
    password: SecretStr | None = Field(default=None, validation_alias="CDC_DATABASE_PASSWORD")

    @field_validator("database_url")
    @classmethod
    def _can_be_used(cls, url: str | None) -> str | None:
        return usable_database_url(url) if url else url

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check the variables.

        Raises:
            SettingsError: one has a value that cannot be used.
        """
        try:
            return cls()
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            said = problem["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{str(problem['loc'][0]).upper()}: {said}") from error

    def brokers(self) -> str:
        """Return Kafka's address.

        Raises:
            SettingsError: it is not set.
        """
        return _required("KAFKA_BOOTSTRAP_SERVERS", self.bootstrap_servers)

    def source(self) -> Source:
        """Return what Connect has to know about the database.

        Raises:
            SettingsError: neither its own variables nor `DATABASE_URL` say it.
        """
        known = make_url(self.database_url) if self.database_url else None
        return Source(
            host=_required("CDC_DATABASE_HOST", self.host or (known and known.host)),
            port=self.port or (known and known.port) or _POSTGRES_PORT,
            name=_required("CDC_DATABASE_NAME", self.name or (known and known.database)),
            user=self.user,
        )


def _required(name: str, value: str | None) -> str:
    if not value:
        raise SettingsError(f"{name}: must be set")
    return value
