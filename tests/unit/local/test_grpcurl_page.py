"""What the page on grpcurl shows for grpcurl is what its `buf curl` twins ask, which another test runs."""

import json
import re
import shlex
from pathlib import Path

from support.documents import commands

PAGE = Path(__file__).resolve().parents[3] / "docs" / "grpcurl.md"
LOAD_PAGE = PAGE.with_name("load_testing.md")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lines(page: Path, language: str) -> list[list[str]]:
    found = [code for named, code in _BLOCK.findall(page.read_text(encoding="utf-8")) if named == language]
    return [shlex.split(command) for block in found for command in commands(block)]


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def asked(words: list[str]) -> tuple[str, str, object, str | None] | None:
    """Server, method, body and header of a call; None for what is no call of a method."""
    body = option(words, "-d")
    if body is None:
        return None
    if words[0] == "grpcurl":
        return words[-2], words[-1], json.loads(body), option(words, "-H")
    if words[0] == "ghz":
        headers = json.loads(option(words, "-m") or "{}")
        key = f"authorization: {headers['authorization'].replace('KEY', '$SEAM_API_KEY')}"
        return words[-1], option(words, "--call") or "", json.loads(body), key
    server, _, method = words[-1].removeprefix("http://").partition("/")
    return server, method, json.loads(body), option(words, "--header")


def test_every_call_of_grpcurl_has_its_checked_twin_and_there_are_no_others() -> None:
    shown = [call for words in lines(PAGE, "") if words[0] == "grpcurl" and (call := asked(words))]
    checked = [call for words in lines(PAGE, "sh") if (call := asked(words))]
    assert shown == checked
    assert len(shown) >= 10


def test_every_call_of_ghz_is_among_the_checked_ones() -> None:
    checked = [call for words in lines(PAGE, "sh") if (call := asked(words))]
    calls = [asked(words) for words in lines(LOAD_PAGE, "")]
    assert calls
    assert all(call in checked for call in calls)
