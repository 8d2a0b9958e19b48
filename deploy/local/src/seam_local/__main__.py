"""`seam-up`: Seam on this machine, as one process or as several."""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from seam_local.demo import Demo
from seam_local.keys import chosen_keys
from seam_local.plan import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT, BadPlan, Topology, checked_plan
from seam_local.ports import require_free
from seam_local.screen import Screen
from seam_local.serving import serve


def up(
    topology: Annotated[
        Topology, typer.Option(help="one process, several, or an engine here with replicas beside it")
    ] = (Topology.SPLIT),
    replicas: Annotated[
        int | None, typer.Option(help="inference processes to start (1, or 0 where addresses are given)")
    ] = None,
    replica_address: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="a replica that runs already; may be given several times"),
    ] = None,
    grpc_port: Annotated[int, typer.Option(help="0 takes a free one")] = DEFAULT_GRPC_PORT,
    http_port: Annotated[int, typer.Option(help="0 takes a free one")] = DEFAULT_HTTP_PORT,
    api_key: Annotated[
        str | None, typer.Option(help="what callers must present (a new one, unless SEAM_API_KEYS is set)")
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(help="written (JSON) when everything serves")] = None,
    grace: Annotated[float, typer.Option(help="seconds to finish what is being answered when stopped")] = 10.0,
    tls: Annotated[
        bool, typer.Option("--tls", help="mutual TLS between the processes, with certificates made for this run")
    ] = False,
    demo: Annotated[
        Path | None,
        typer.Option(metavar="TEXT_FILE", help="search this text, chat once, show where the time went, and stop"),
    ] = None,
) -> None:
    """Start Seam and keep it running until Ctrl-C."""
    started = time.monotonic()
    screen = Screen()
    try:
        plan = checked_plan(
            topology,
            replicas,
            tuple(replica_address or ()),
            grpc_port,
            http_port,
            chosen_keys(api_key, os.environ.get("SEAM_API_KEYS", "")),
            ready_file,
            grace,
            tls,
        )
        require_free(plan.grpc_port, "--grpc-port")
        require_free(plan.http_port, "--http-port")
        if demo and not demo.is_file():
            raise BadPlan(f"--demo {demo}: there is no such file")
        work = Demo(demo, screen.out, started).run if demo else None
        # A line for each request would stand in the middle of what the demonstration shows.
        environment = {"SEAM_LOG_REQUESTS": "off", **os.environ} if work else os.environ
        code = asyncio.run(serve(plan, environment, screen, work))
    except BadPlan as fault:
        screen.say(str(fault), style="bold red")
        raise typer.Exit(2) from None
    raise typer.Exit(code)


def main() -> None:
    """The command."""
    typer.run(up)


if __name__ == "__main__":
    main()
