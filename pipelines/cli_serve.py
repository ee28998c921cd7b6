"""`nightjar serve`: published lists over HTTP; it reads the clock, to tell whether they are late."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic_core import to_json

from pipelines.settings import load_settings
from pipelines.use_cases import load_use_cases


def serve(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    *,
    contract: Annotated[bool, typer.Option("--contract", help="Print the contract (OpenAPI) and end")] = False,
) -> None:
    """Answer GET /v1/{use_case}/{entity} with the newest published list, fitted to the caller's context.

    Example: nightjar serve --port 8000
    """
    import uvicorn

    from pipelines.serving_app import create_app

    settings = load_settings()
    app = create_app(settings, list(load_use_cases(settings).values()), lambda: datetime.now(UTC))
    if contract:
        typer.echo(to_json(app.openapi(), indent=1))
        return
    typer.echo(f"http://{host}:{port}")
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
