"""The subcommands of `seam`: what each asks, and in which shape the answer is shown."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from seam_client.answers import Embeddings, Scores
from seam_client.asking import ChatSettings, ScoreText
from seam_client.command import (
    chatting,
    conversing,
    failing,
    loading,
    portioning,
    reading,
    scripting,
    showing,
    status_view,
    watching,
)
from seam_client.command.asking import Asking, asks, takes_flags
from seam_client.command.pointing import Flags, UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=failing.HELP,
)
Model = Annotated[str, typer.Option(metavar="NAME", help="Its name in `seam models`.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut a text over the model's limit instead of refusing it.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seam {version('seam-client')}")
        raise typer.Exit


@takes_flags
def _seam(
    flags: Flags,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask a Seam server: chats, predictions, vectors, scores."""


@asks
def chat(
    asking: Asking,
    text: Annotated[
        str | None, typer.Argument(help="What to say; `-` reads standard input. None at a terminal: a conversation.")
    ] = None,
    model: Model = "",
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system message.")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0 is greedy. (default greedy)")] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Keep the K likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(metavar="P", help="Keep tokens up to this probability.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="At most this many tokens of answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Ends the answer; may be repeated.")] = None,
) -> None:
    """Stream an answer, or hold a conversation.

    With --json one event a line: started, text, citation, finished.
    """
    settings = ChatSettings(
        model=model,
        system=system,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        max_output_tokens=max_tokens,
        stop_strings=stop or [],
    )
    if text is None and sys.stdin.isatty() and not asking.json:
        conversing.converse(asking, settings)
        return
    with asking.seam.chat(reading.one_text(text), **settings) as stream:
        if asking.json:
            chatting.stream_events(stream)
        else:
            chatting.stream_text(asking, stream)


@asks
def predict(
    asking: Asking,
    text: Annotated[str | None, typer.Argument(help="The text; `-` reads standard input.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="At most this many tokens of answer.")] = None,
) -> None:
    """One text in, one whole answer out, under the server's own prompt."""
    asked = reading.one_text(text)
    with asking.waiting("waiting for the answer"):
        answer = asking.seam.predict(asked, max_output_tokens=max_tokens)
    if asking.json:
        typer.echo(scripting.as_json(answer))
        return
    asking.note(answer.notice)
    typer.echo(showing.harmless(answer.text) if asking.out.is_terminal else answer.text)
    asking.note(showing.ending(answer))
    if asking.err.is_terminal:
        asking.note(showing.footer(answer.usage, answer.timings))


@asks
def embed(
    asking: Asking,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; `-` reads lines from standard input.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="One text a line.")] = None,
    model: Model = "",
    dimensions: Annotated[int | None, typer.Option(metavar="N", help="Keep the first N numbers.")] = None,
    prompt_name: Annotated[str, typer.Option(metavar="NAME", help="A named prompt of the model.")] = "",
    truncate: Truncate = False,
) -> None:
    """Vectors of texts, in parts where they are too many for one request.

    The table shows their first numbers, --json all of them.
    """
    asked = reading.texts(texts or [], file)

    def ask(part: list[str]) -> Embeddings:
        return asking.seam.embed(
            part, model=model, truncate=truncate, dimension_count=dimensions, prompt_name=prompt_name
        )

    answer = portioning.one_embeddings(portioning.ask_in_parts(asking, ask, asked, model or "embed"))
    if asking.json:
        typer.echo(scripting.as_json(answer))
        return
    asking.out.print(showing.embeddings_table(asked, answer))
    if asking.err.is_terminal:
        asking.note(showing.footer(answer.usage, answer.timings))


@asks
def score(
    asking: Asking,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; `-` reads lines from standard input.")] = None,
    pair: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Compare the one TEXT with this; may be repeated.")
    ] = None,
    model: Model = "",
    truncate: Truncate = False,
) -> None:
    """Labels of texts, or how well each --pair fits the text."""
    asked = reading.texts(texts or [], None)
    if pair and len(asked) != 1:
        raise UsageError(f"--pair wants one TEXT to compare with, there are {len(asked)}")
    inputs: list[ScoreText] = [(asked[0], other) for other in pair] if pair else list(asked)

    def ask(part: list[ScoreText]) -> Scores:
        return asking.seam.score(part, model=model, truncate=truncate)

    answer = portioning.one_scores(portioning.ask_in_parts(asking, ask, inputs, model or "score"))
    if asking.json:
        typer.echo(scripting.as_json(answer))
        return
    asking.out.print(showing.scores_table(inputs, answer))
    if asking.err.is_terminal:
        asking.note(showing.footer(answer.usage, answer.timings))


@asks
def models(asking: Asking) -> None:
    """What is served, under the names used in requests."""
    with asking.waiting("asking"):
        found = asking.seam.models()
    if asking.json:
        typer.echo(scripting.as_json(found))
    else:
        asking.out.print(showing.models_table(found))


@asks
def status(
    asking: Asking,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Ask again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks of --watch.")] = 1.0,
) -> None:
    """The server's replicas, and how busy they are."""
    if watch:
        watching.watch(asking, interval)
    with asking.waiting("asking"):
        told = asking.seam.status()
    if asking.json:
        typer.echo(scripting.as_json(told))
    else:
        asking.out.print(status_view.StatusView(told, asking.target))


app.callback()(_seam)
for subcommand in (chat, predict, embed, score, models, status, loading.load):
    app.command()(subcommand)
