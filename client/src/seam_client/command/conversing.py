"""A conversation at the terminal: turns go back and forth until its person leaves."""

from seam_client.asking import ChatSettings, Message
from seam_client.command import asking as telling
from seam_client.command import chatting
from seam_client.command.asking import Asking
from seam_client.errors import NotAuthenticated, SeamError

_HELP = "/reset starts afresh, /system TEXT sets the system message, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


def converse(asking: Asking, settings: ChatSettings) -> None:
    """Reads turns from the terminal. An interrupt during an answer ends that answer, at the prompt the conversation.

    Raises SeamError when there is nobody to talk with.
    """
    with asking.waiting("asking who is there"):
        asking.seam.models()
    _line_editing()
    asking.note(f"chatting with {settings.get('model') or 'chat'} at {asking.target}; {_HELP}")
    turns: list[Message] = []
    noticed = False
    while (said := _ask_person()) is not None:
        word, _, rest = said.partition(" ")
        match word:
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/reset":
                turns.clear()
                asking.note("a new conversation")
            case "/system":
                settings["system"] = rest.strip() or None
                asking.note("system message set" if rest.strip() else "system message removed")
            case "/help":
                asking.note(_HELP)
            case _ if word.startswith("/"):
                asking.note(f"no command {word}; {_HELP}")
            case _:
                answer = _answer(asking, [*turns, Message("user", said)], settings, noticed)
                if answer is not None:
                    noticed = True
                    turns += [Message("user", said), Message("assistant", answer)]


def _answer(asking: Asking, turns: list[Message], settings: ChatSettings, noticed: bool) -> str | None:
    """The answer, or what there is of one that was stopped; None when the turn is to be forgotten."""
    try:
        with asking.seam.chat(turns, **settings) as stream:
            try:
                chatting.stream_text(asking, stream, with_notice=not noticed)
            except KeyboardInterrupt:
                asking.note("stopped")
        return stream.so_far or None
    except NotAuthenticated:
        raise
    except SeamError as error:
        telling.tell(asking.err, error, as_json=False)
        return None


def _ask_person() -> str | None:
    """None when the person leaves. Raises KeyboardInterrupt."""
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        raise


def _line_editing() -> None:
    """Importing readline gives `input` history and editing; some builds of Python have none."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return
