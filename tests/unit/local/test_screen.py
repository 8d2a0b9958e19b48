"""Lines of children, as they are shown."""

import io

from rich.console import Console
from seam_local.screen import Screen

LINE = "a bell \a, [bold]brackets[/bold] and 3 numbers"
SHOWN = "a bell , [bold]brackets[/bold] and 3 numbers"


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    log = Console(file=out, force_terminal=terminal, color_system="standard" if terminal else None)
    Screen(log=log).child_line("business", LINE)
    return out.getvalue()


def test_a_line_is_shown_as_it_was_written_after_its_writers_name() -> None:
    assert shown(terminal=False) == f"business     {SHOWN}\n"


def test_on_a_terminal_names_have_colours_and_lines_stand_back() -> None:
    assert shown(terminal=True) == f"\x1b[36mbusiness     \x1b[0m\x1b[2m{SHOWN}\x1b[0m\n"


def test_a_line_beside_a_spinner_says_the_same() -> None:
    out = io.StringIO()
    screen = Screen(log=Console(file=out, force_terminal=True, color_system=None, width=200))
    with screen.progress("starting"):
        screen.child_line("business", LINE)
    assert f"business     {SHOWN}" in out.getvalue()
