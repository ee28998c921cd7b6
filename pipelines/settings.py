"""Everything that the environment must say, as `NIGHTJAR_*` variables."""

import difflib
import os
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelines.errors import InvalidSetting
from pipelines.storage import Location

DEMO_KEY = "the demo's key, which everybody knows"
PREFIX = "NIGHTJAR_"
_SHORTEST_KEY = 32
PROJECT = Path(__file__).resolve().parents[1]


def _days(default: int, what: str) -> Any:
    return Field(default, ge=0, le=36_500, description=f"{what}: days after their date that they are kept; 0: for ever")


class Settings(BaseSettings):
    """Where things are and how much of the machine may be used; nothing about a use case."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    home: Path = Field(PROJECT / "var", description="Folder for everything that a run leaves")
    landing_uri: str = Field("", description="Landing: a folder or s3://bucket/prefix; empty: in the home folder")
    lake_uri: str = Field("", description="Lake: a folder or s3://bucket/prefix; empty: in the home folder")
    s3_endpoint_url: str = Field("", description="S3 server other than AWS, such as http://127.0.0.1:8333")
    s3_timeout_s: float = Field(10, gt=0, le=15, description="Seconds of an S3 server's silence before a retry")
    demo: bool = Field(False, description="Whether a key that everybody knows will do: for a look at public data")
    pseudonym_key: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        description="Secret of 32 characters or more; household ids are stored as its keyed hashes",
    )
    verify_key: str = Field(
        "", pattern="^([0-9a-f]{64})?$", description="Public key of signing_key, where models are only read"
    )
    signing_key: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        description="Secret of 32 characters or more; models are signed at registration with the key derived from it",
    )
    promotion: Literal["automatic", "approval"] = Field(
        "automatic", description="Whether a challenger that passes the gate is promoted at once or waits for a person"
    )
    approval_timeout_hours: float = Field(48, gt=0, le=720, description="Hours without an answer that mean no")
    warehouse_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the home folder")
    warehouse_lock_timeout_s: float = Field(
        60, gt=0, le=3600, description="Seconds that a statement waits for somebody else's lock in the warehouse"
    )
    warehouse_statement_timeout_s: float = Field(
        900, gt=0, le=86_400, description="Seconds that a statement may take in a warehouse on PostgreSQL"
    )
    warehouse_patience_s: float = Field(
        30, ge=0, le=600, description="Seconds for which a warehouse that does not answer is asked again"
    )
    mlflow_tracking_uri: str = Field("", description="MLflow store; empty: SQLite in the home folder")
    business_timezone: str = Field("America/New_York", description="The stores' time zone: splits the days")
    duckdb_memory_limit_mib: int = Field(768, ge=128, le=1_048_576, description="Memory DuckDB may use, MiB")
    threads: int = Field(2, ge=1, le=256, description="Threads of DuckDB and LightGBM")
    ingest_chunk_days: int = Field(31, ge=1, le=366, description="Days of a range validated and written at once")
    keep_landing_days: int = _days(400, "Delivered files")
    keep_quarantine_days: int = _days(180, "Quarantined rows")
    keep_scores_days: int = _days(100, "Scores of every candidate, in the lake")
    keep_snapshots_days: int = _days(400, "Feature snapshots and labels")
    keep_published_days: int = _days(1100, "Published scores and their outcomes, in the warehouse")
    keep_logs_days: int = _days(30, "Log files")
    keep_pages_days: int = _days(90, "Data docs and profiles")
    keep_versions_days: int = Field(30, ge=0, le=1100, description="Old versions of lake tables, days; 0: for ever")
    leftover_hours: int = Field(24, ge=0, description="Hours after which a file that was never finished is removed")
    use_cases: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules of further use cases, separated by commas, each with a USE_CASE"
    )
    crash_at: str = Field("", description="Name of a crash point at which the process ends: for tests of recovery")
    schedule_end_date: date | None = Field(None, description="Last date of the nightly schedule, YYYY-MM-DD")

    @field_validator("use_cases", mode="before")
    @classmethod
    def _split_on_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("business_timezone")
    @classmethod
    def _is_a_known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("not a name of the IANA time zone database, such as America/New_York")
        return value

    @field_validator("pseudonym_key", "signing_key")
    @classmethod
    def _is_secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        key = value.get_secret_value()
        only_reads = info.field_name == "signing_key" and not key and info.data.get("verify_key")
        if not info.data.get("demo") and not only_reads and (len(key) < _SHORTEST_KEY or key == DEMO_KEY):
            raise ValueError(
                f"a secret of {_SHORTEST_KEY} characters or more is needed; "
                f"{PREFIX}DEMO=true takes a known one, for a look at public data"
            )
        return value

    @field_validator("home")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone in which business days begin and end."""
        return ZoneInfo(self.business_timezone)

    @property
    def landing(self) -> Location:
        """Where the upstream system drops its files."""
        return self._location(self.landing_uri, "landing")

    @property
    def lake(self) -> Location:
        """Where the lake's tables are."""
        return self._location(self.lake_uri, "lake")

    @property
    def key(self) -> bytes:
        """The secret of the pseudonyms."""
        return (self.pseudonym_key.get_secret_value() or DEMO_KEY).encode()

    @property
    def signing_secret(self) -> bytes:
        """The secret of the models' signatures; empty where models are only read."""
        known = DEMO_KEY if self.demo and not self.verify_key else ""
        return (self.signing_key.get_secret_value() or known).encode()

    @property
    def feast_home(self) -> Path:
        """Folder of Feast's registry and online store."""
        return self.home / "feast"

    @property
    def warehouse(self) -> str:
        """SQLAlchemy URL of the warehouse that analysts read."""
        return self.warehouse_url or f"sqlite:///{self.home / 'warehouse.db'}"

    @property
    def mlflow_store(self) -> str:
        """URI of MLflow's tracking store and model registry."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder of MLflow's artefacts for the embedded store."""
        return self.home / "mlflow-artifacts"

    def _location(self, uri: str, name: str) -> Location:
        place = uri if uri.startswith("s3://") else str(Path(uri or self.home / name).expanduser().resolve())
        return Location(place, self.home / "cache" / name, self.s3_endpoint_url, self.s3_timeout_s)


def load_settings() -> Settings:
    """The settings from the environment.

    Raises:
        InvalidSetting: a variable with our prefix is unknown, of the wrong type or out of range.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable.upper() not in known:
            close = difflib.get_close_matches(variable, known, n=1)
            raise InvalidSetting(
                "unknown setting",
                where=f"environment variable {variable}",
                expected=f"did you mean {close[0]}?" if close else f"one of {', '.join(sorted(known))}",
                found=variable,
                remedy="correct the name or unset the variable",
            )
    try:
        return Settings()
    except ValidationError as error:
        raise _named(error.errors()[0]) from error


def _named(problem: Any) -> InvalidSetting:
    field = str(problem["loc"][0]) if problem["loc"] else "?"
    description = Settings.model_fields[field].description if field in Settings.model_fields else ""
    shown = repr(problem.get("input"))
    if field in ("pseudonym_key", "signing_key"):
        shown = f"{len(problem['input'])} characters" if isinstance(problem["input"], str) else "no value"
    return InvalidSetting(
        str(problem["msg"]),
        where=f"environment variable {PREFIX}{field.upper()}",
        expected=description,
        found=shown,
        remedy="correct the value or unset the variable to take the default",
    )
