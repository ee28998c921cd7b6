#!/usr/bin/env python3
"""Draws every secret of docker/compose.yaml into docker/secrets/: python3 docker/draw_secrets.py.

A folder that is there is left alone. No file ends with a newline, for Airflow would take it as a part of the secret.
The files can be read by everybody because compose mounts them as they are, for containers of other users; the folder
can be entered by its owner alone.
"""

import base64
import json
import os
import secrets
import sys
from pathlib import Path

WORK = ("ingest", "train", "score", "monitor", "erase")  # pipelines/roles.py: what a worker does, and no more
ROLES = (*WORK, "analyst")
DATABASES = {"airflow": "airflow", "mlflow": "mlflow", "nightjar": "nightjar_owner"}  # each with its owner
LOGINS = {"nightjar_worker": WORK, "nightjar_reader": ("analyst",)}
BUCKETS = ("nightjar", "mlflow")
# Logins of Redis for Feast's online store: keys end with the project's name, and those of Celery are none of them.
ONLINE = {"online_writer": "~*nightjar +@read +@write -@dangerous", "online_reader": "%R~*nightjar +@read -@dangerous"}


def draw(folder: Path) -> None:
    """Make the folder with one file per secret; FileExistsError where it is there."""
    folder.mkdir(mode=0o700)
    key = {name: secrets.token_urlsafe(32) for name in (*DATABASES.values(), *LOGINS, *BUCKETS, "redis", *ONLINE)}
    place = "@postgres:5432"
    drawn = {
        "databases.sql": _databases(key),
        "airflow_database_url": f"postgresql+psycopg2://airflow:{key['airflow']}{place}/airflow",
        "mlflow_database_url": f"postgresql+psycopg2://mlflow:{key['mlflow']}{place}/mlflow",
        **{
            f"warehouse_url_{user}": f"postgresql+psycopg://nightjar_{user}:{key[f'nightjar_{user}']}{place}/nightjar"
            for user in ("owner", "worker", "reader")
        },
        "redis.conf": f"requirepass {key['redis']}\nappendonly yes\ndir /data\n"
        + "".join(f"user {name} on >{key[name]} {rights} +@connection\n" for name, rights in ONLINE.items()),
        **{f"redis_url_{name}": f"redis://{name}:{key[name]}@redis:6379/2" for name in ONLINE},
        "celery_broker_url": f"redis://:{key['redis']}@redis:6379/0",
        "celery_result_backend": f"redis://:{key['redis']}@redis:6379/1",
        "s3_identities.json": json.dumps({"identities": [_identity(bucket, key[bucket]) for bucket in BUCKETS]}),
        **{
            f"s3_credentials_{bucket}": f"[default]\naws_access_key_id={bucket}\naws_secret_access_key={key[bucket]}"
            for bucket in BUCKETS
        },
    }
    alone = ("postgres_password", "airflow_jwt_secret", "airflow_api_key", "airflow_admin_password", "grafana_password")
    alone += ("nightjar_pseudonym_key", "nightjar_signing_key", "nightjar_serve_keys")
    drawn |= {name: secrets.token_urlsafe(32) for name in alone}
    drawn["airflow_fernet_key"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
    for name, content in drawn.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o444)


def _databases(key: dict[str, str]) -> str:
    """What PostgreSQL runs on its first start: databases, their owners, and logins that may do their work."""
    lines = [f"CREATE ROLE nightjar_{role} NOLOGIN;" for role in ROLES]
    for name, owner in DATABASES.items():
        lines += [f"CREATE ROLE {owner} LOGIN PASSWORD '{key[owner]}';", f"CREATE DATABASE {name} OWNER {owner};"]
        lines += [f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;"]
    for name, roles in LOGINS.items():
        granted = ", ".join(f"nightjar_{role}" for role in roles)
        lines += [f"CREATE ROLE {name} LOGIN PASSWORD '{key[name]}' IN ROLE {granted};"]
        lines += [f"GRANT CONNECT ON DATABASE nightjar TO {name};"]
    return "\n".join(lines)


def _identity(bucket: str, key: str) -> dict[str, object]:
    verbs = ("Read", "Write", "List", "Tagging")
    credentials = [{"accessKey": bucket, "secretKey": key}]
    return {"name": bucket, "credentials": credentials, "actions": [f"{verb}:{bucket}" for verb in verbs]}


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("secrets"))
