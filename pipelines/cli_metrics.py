"""`nightjar metrics`: the figures of the nights for Prometheus."""

from typing import Annotated

import typer

from pipelines.settings import load_settings
from pipelines.use_cases import load_use_cases


def metrics(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0: a free one")] = 9464,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    *,
    once: Annotated[bool, typer.Option("--once", help="Print the figures and end")] = False,
) -> None:
    """Serve figures of the nights to Prometheus at /metrics, read from the warehouse whenever it asks.

    Example: nightjar metrics --port 9464
    """
    from prometheus_client import generate_latest, start_http_server

    from pipelines.telemetry import open_registry

    settings = load_settings()
    registry = open_registry(settings, list(load_use_cases(settings).values()))
    if once:
        typer.echo(generate_latest(registry).decode(), nl=False)
        return
    server, thread = start_http_server(port, host, registry)
    typer.echo(f"http://{host}:{server.server_port}/metrics")
    thread.join()
