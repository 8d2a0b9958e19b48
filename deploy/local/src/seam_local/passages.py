"""Sentences of a Markdown text, as people would read them aloud."""

import re

SHORTEST, LONGEST = 40, 240
_FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^\s*(#|\||>|<|!\[|\[[^\]]+\]:)")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*\"])")
_LIST_MARK = re.compile(r"^\s*([-*]|\d+\.)\s+")


def sentences(markdown: str, most: int) -> list[str]:
    """The first `most` sentences of 40 to 240 characters; code, tables and headings are left out."""
    found: list[str] = []
    for paragraph in _paragraphs(_FENCE.sub("", markdown)):
        plain = _LINK.sub(r"\1", paragraph).replace("**", "").replace("`", "")
        found += [each for each in _END.split(plain) if SHORTEST <= len(each) <= LONGEST and each[-1] in ".!?"]
    return list(dict.fromkeys(found))[:most]


def _paragraphs(text: str) -> list[str]:
    """Lines that belong together; each entry of a list stands alone."""
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.strip() or _NOT_PROSE.match(line):
            paragraphs.append([])
        elif _LIST_MARK.match(line):
            paragraphs.append([_LIST_MARK.sub("", line)])
        else:
            paragraphs[-1].append(line.strip())
    return [" ".join(lines) for lines in paragraphs if lines]
