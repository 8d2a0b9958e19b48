"""What every subcommand shares: its flags, its client, its two consoles, and how it fails."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from seam_client.command import failing, scripting, showing
from seam_client.command.pointing import Flags, UsageError, client
from seam_client.errors import SeamError
from seam_client.sync_client import Seam

_PANEL = "Connection"


@dataclass(frozen=True, slots=True)
class Asking:
    """A subcommand at work. `out` is for the answer, `err` for everything else."""

    seam: Seam
    target: str
    json: bool
    out: Console
    err: Console

    def note(self, text: str) -> None:
        """Something beside the answer, dimmed; nothing when empty."""
        if text:
            showing.print_plain(self.err, text, "dim")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Shows that something is under way, where a person watches."""
        if self.json or not self.err.is_terminal:
            yield
        else:
            with self.err.status(f"[dim]{what}[/dim]", spinner="dots"):
                yield


def shared_flags(
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="HOST:PORT",
            rich_help_panel=_PANEL,
            help="The server; also unix:/path. (env SEAM_TARGET; default localhost:50051)",
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", rich_help_panel=_PANEL, help="The API key. (env SEAM_API_KEY)")
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_PANEL,
            help="The ready file of seam-up: target and key from there. (env SEAM_READY_FILE)",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", rich_help_panel=_PANEL, help="For the whole answer; inf for none. (default 60)"
        ),
    ] = None,
    json: Annotated[
        bool | None, typer.Option("--json", show_default=False, help="JSON on standard output, for scripts.")
    ] = None,
    plaintext: Annotated[
        bool | None,
        typer.Option(
            "--plaintext",
            show_default=False,
            rich_help_panel=_PANEL,
            help="No encryption, though the target is not this machine: the key can be read on the way.",
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls", show_default=False, rich_help_panel=_PANEL, help="Encryption, though it is this machine."
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(metavar="PEM", rich_help_panel=_PANEL, help="The authority that signed the server's certificate."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="PEM", rich_help_panel=_PANEL, help="This side's certificate; with --tls-key."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", rich_help_panel=_PANEL, help="Its key.")] = None,
) -> Flags:
    """The parameters of this function are the flags of every subcommand, and the fields of Flags in their order."""
    return Flags(
        target, api_key, ready_file, timeout, json, plaintext, tls, tls_ca, tls_certificate, tls_key
    )  # fmt: skip


def takes_flags(run: Callable[..., None]) -> Callable[..., None]:
    """Gives a function of Flags and its own parameters the shape that typer reads: all of them, and the context.

    Flags said before the subcommand wait in the context; those said after it win.
    """
    shared = inspect.signature(shared_flags).parameters
    own = list(inspect.signature(run).parameters.values())[1:]

    @functools.wraps(run)
    def command(ctx: typer.Context, **given: Any) -> None:
        here = shared_flags(**{name: given.pop(name) for name in shared})
        ctx.obj = here.over(ctx.obj)
        run(ctx.obj, **given)

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    # Keyword only, all of them: parameters with defaults may then stand before those without.
    parameters = [context, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *shared.values()])]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def asks(run: Callable[..., None]) -> Callable[..., None]:
    """A subcommand of Asking and its own parameters: it gets the client, and its failures become a line and a code."""

    @functools.wraps(run)
    def with_flags(flags: Flags, **own: Any) -> None:
        err = Console(stderr=True)
        with failures_told(err, as_json=bool(flags.json)):
            seam, target = client(flags, os.environ)
            with seam:
                run(Asking(seam, target, bool(flags.json), Console(), err), **own)

    return takes_flags(with_flags)


@contextmanager
def failures_told(err: Console, *, as_json: bool) -> Iterator[None]:
    """One clear line on standard error, and the exit code of the failure."""
    try:
        yield
        sys.stdout.flush()
    except SeamError as error:
        tell(err, error, as_json=as_json)
        raise typer.Exit(failing.exit_code(error)) from None
    except UsageError as wrong:
        _say(err, str(wrong))
        raise typer.Exit(failing.USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(failing.INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (`| head`) has gone; what Python still holds for it must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(failing.BROKEN_PIPE) from None


def tell(err: Console, error: SeamError, *, as_json: bool) -> None:
    if as_json:
        print(scripting.error_as_json(error), file=sys.stderr)
    else:
        _say(err, failing.line(error))


def _say(err: Console, line: str) -> None:
    err.print("[bold red]seam:[/bold red] ", end="")
    showing.print_plain(err, line)
