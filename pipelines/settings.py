"""Everything that the environment must say, as `NIGHTJAR_*` variables."""

import difflib
import os
from datetime import date, time
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelines.errors import InvalidSetting
from pipelines.storage import Location

DEMO_KEY = "the demo's key, which everybody knows"
PREFIX = "NIGHTJAR_"
DASK = "dask"
_SHORTEST_KEY, SHORTEST_PASSWORD, _FEWEST_CHARACTERS = 32, 12, 6
_PRIVATE = ("pseudonym_key", "signing_key", "warehouse_url", "mlflow_tracking_uri", "redis_url")
_NEEDED = {
    "slack": ("slack_webhook_url",),
    "email": ("smtp_host", "mail_from", "mail_to"),
    "pagerduty": ("pagerduty_routing_key",),
}
PROJECT = Path(__file__).resolve().parents[1]


def is_guessable(secret: str, shortest: int) -> bool:
    """Whether a secret is empty, short, of few different characters, or the one that everybody knows."""
    return len(secret) < shortest or len(set(secret)) < _FEWEST_CHARACTERS or secret == DEMO_KEY


def _apart(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _days(default: int, what: str) -> Any:
    return Field(default, ge=0, le=36_500, description=f"{what}: days after their date that they are kept; 0: for ever")


class Settings(BaseSettings):
    """Where things are and how much of the machine may be used; nothing about a use case."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Path = Field(PROJECT / "var", description="Folder for everything that a run leaves")
    landing_uri: str = Field("", description="Landing: a folder or s3://bucket/prefix; empty: in the home folder")
    lake_uri: str = Field("", description="Lake: a folder or s3://bucket/prefix; empty: in the home folder")
    s3_endpoint_url: str = Field("", description="S3 server other than AWS, such as http://127.0.0.1:8333")
    s3_timeout_s: float = Field(10, gt=0, le=15, description="Seconds of an S3 server's silence before a retry")
    demo: bool = Field(False, description="Whether a key that everybody knows will do: for a look at public data")
    secrets_dir: Path | None = Field(
        None, description="Folder with a file per secret, such as nightjar_signing_key; a variable goes before its file"
    )
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
    warehouse_url: str = Field("", repr=False, description="SQLAlchemy URL; empty: SQLite in the home folder")
    warehouse_lock_timeout_s: float = Field(
        60, gt=0, le=3600, description="Seconds that a statement waits for somebody else's lock in the warehouse"
    )
    warehouse_statement_timeout_s: float = Field(
        900, gt=0, le=86_400, description="Seconds that a statement may take in a warehouse on PostgreSQL"
    )
    warehouse_patience_s: float = Field(
        30, ge=0, le=600, description="Seconds for which a warehouse that does not answer is asked again"
    )
    redis_url: str = Field(
        "",
        repr=False,
        pattern="^(rediss?://.+)?$",
        description="redis://…@host:port/number: Feast's online store; empty: SQLite in the home folder",
    )
    mlflow_tracking_uri: str = Field("", repr=False, description="MLflow store; empty: SQLite in the home folder")
    business_timezone: str = Field("America/New_York", description="The stores' time zone: splits the days")
    duckdb_memory_limit_mib: int = Field(768, ge=128, le=1_048_576, description="Memory DuckDB may use, MiB")
    engine: Literal["local", "dask"] = Field(
        "local", description="What computes features and scores, and grows trees: the step itself, or a Dask cluster"
    )
    dask_scheduler: str = Field(
        "",
        validate_default=True,
        pattern=r"^((tcp|tls)://[^/@\s]+:[0-9]+)?$",
        description="Address of its scheduler, such as tls://dask-scheduler:8786",
    )
    threads: int = Field(2, ge=1, le=256, description="Threads of DuckDB and LightGBM")
    ingest_chunk_days: int = Field(31, ge=1, le=366, description="Days of a range validated and written at once")
    keep_landing_days: int = _days(400, "Delivered files")
    keep_quarantine_days: int = _days(180, "Quarantined rows")
    keep_scores_days: int = _days(100, "Scores of every candidate, in the lake")
    keep_snapshots_days: int = _days(400, "Feature snapshots and labels")
    keep_published_days: int = _days(1100, "Published scores and their outcomes, in the warehouse")
    keep_logs_days: int = _days(30, "Log files")
    keep_pages_days: int = _days(90, "Data docs, profiles and nightly pages on model health")
    keep_versions_days: int = Field(30, ge=0, le=1100, description="Old versions of lake tables, days; 0: for ever")
    leftover_hours: int = Field(24, ge=0, description="Hours after which a file that was never finished is removed")
    use_cases: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules of further use cases, separated by commas, each with a USE_CASE"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Form of the log on standard error; auto: JSON unless it is a terminal"
    )
    euros_per_cpu_hour: float = Field(0.04, ge=0, description="Price of an hour of one processor that is used")
    euros_per_gib_hour: float = Field(0.005, ge=0, description="Price of an hour of one GiB of memory that is used")
    retries: int = Field(3, ge=0, le=20, description="Times that a task is tried again after a failure that may heal")
    retry_delay_s: float = Field(30, ge=0, le=600, description="Seconds before the first of them; each wait is doubled")
    publish_deadline: time = Field(time(7), description="Time of day by which readers have yesterday, HH:MM")
    slack_webhook_url: SecretStr = Field(
        SecretStr(""), description="Incoming webhook of Slack, or one that takes the same"
    )
    smtp_host: str = Field("", description="Mail server")
    smtp_port: int = Field(587, ge=1, le=65_535, description="Its port")
    smtp_starttls: bool = Field(True, description="Whether mail is only handed over encrypted")
    smtp_user: str = Field("", description="Login at the mail server; empty: none")
    smtp_password: SecretStr = Field(SecretStr(""), description="Its password")
    mail_from: str = Field("", description="Sender of pages by mail")
    mail_to: str = Field("", description="Who gets them, separated by commas")
    pagerduty_routing_key: SecretStr = Field(SecretStr(""), description="Integration key of PagerDuty's Events API v2")
    pagerduty_url: str = Field("https://events.pagerduty.com", description="Server of that interface")
    page_channels: Annotated[tuple[Literal["slack", "email", "pagerduty"], ...], NoDecode] = Field(
        (), description="Where pages go, separated by commas: slack, email, pagerduty"
    )
    runbook_url: str = Field("docs/running.md", description="Address of the runbook, for links in pages")
    airflow_url: str = Field("", description="Airflow's address, for nightjar watch; empty: it is not looked at")
    flood_pages: int = Field(5, ge=2, description="Pages within five minutes, after which further ones become one")
    silence_limit_s: int = Field(180, ge=30, description="Seconds without the scheduler's heartbeat that mean silence")
    crash_at: str = Field("", description="Name of a crash point at which the process ends: for tests of recovery")
    schedule_end_date: date | None = Field(None, description="Last date of the nightly schedule, YYYY-MM-DD")
    serve_keys: SecretStr = Field(
        SecretStr(""), description="Keys that nightjar serve takes, of 32 characters or more, separated by commas"
    )
    serve_limit: str = Field(
        "300/second",
        pattern="^[1-9][0-9]*/(second|minute|hour)$",
        description="Look-ups of one key, such as 300/second",
    )

    @field_validator("use_cases", "page_channels", mode="before")
    @classmethod
    def _split_on_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return _apart(value)
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
        if not info.data.get("demo") and not only_reads and is_guessable(key, _SHORTEST_KEY):
            raise ValueError(
                f"a secret of {_SHORTEST_KEY} random characters or more is needed; "
                f"{PREFIX}DEMO=true takes a known one, for a look at public data"
            )
        return value

    @field_validator("serve_keys")
    @classmethod
    def _are_secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        keys = _apart(value.get_secret_value())
        if not info.data.get("demo") and any(is_guessable(key, _SHORTEST_KEY) for key in keys):
            raise ValueError(f"each key needs {_SHORTEST_KEY} random characters or more")
        return value

    @field_validator("warehouse_url", "redis_url", "mlflow_tracking_uri")
    @classmethod
    def _has_no_weak_password(cls, value: str, info: ValidationInfo) -> str:
        password = urlsplit(value).password
        if password is not None and not info.data.get("demo") and is_guessable(password, SHORTEST_PASSWORD):
            raise ValueError(f"its password needs {SHORTEST_PASSWORD} random characters or more")
        return value

    @field_validator("dask_scheduler")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("engine") == DASK and not value:
            raise ValueError(f"{PREFIX}ENGINE={DASK} needs the address of a scheduler")
        return value

    @field_validator("page_channels")
    @classmethod
    def _are_complete(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in (name for channel in value for name in _NEEDED[channel]):
            if info.data.get(name) in ("", SecretStr("")):
                raise ValueError(f"{PREFIX}{name.upper()} is needed too")
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
    def serving_keys(self) -> tuple[bytes, ...]:
        """The keys of callers of `nightjar serve`; none, unless some are set or it is a demo."""
        keys = _apart(self.serve_keys.get_secret_value()) or ((DEMO_KEY,) if self.demo else ())
        return tuple(key.encode() for key in keys)

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
    """The settings from the environment; the files that this process makes from now on are its owner's alone.

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
    folder = os.environ.get(f"{PREFIX}SECRETS_DIR") or None
    if folder and not Path(folder).is_dir():
        raise InvalidSetting(
            "there is no such folder",
            where=f"environment variable {PREFIX}SECRETS_DIR",
            found=folder,
            remedy="mount the secrets there or unset the variable",
        )
    os.umask(0o077)
    try:
        return Settings(_secrets_dir=folder)
    except ValidationError as error:
        raise _named(error.errors()[0]) from error


def _named(problem: Any) -> InvalidSetting:
    field = str(problem["loc"][0]) if problem["loc"] else "?"
    description = Settings.model_fields[field].description if field in Settings.model_fields else ""
    shown = repr(problem.get("input"))
    if field in _PRIVATE or getattr(Settings.model_fields.get(field), "annotation", None) is SecretStr:
        shown = f"{len(problem['input'])} characters" if isinstance(problem["input"], str) else "no value"
    return InvalidSetting(
        str(problem["msg"]),
        where=f"environment variable {PREFIX}{field.upper()}",
        expected=description,
        found=shown,
        remedy="correct the value or unset the variable to take the default",
    )
