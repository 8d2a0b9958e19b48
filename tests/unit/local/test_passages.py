"""Only what reads as a sentence is taken from a text."""

from pathlib import Path

from seam_local.demo import MOST_SENTENCES
from seam_local.passages import LONGEST, SHORTEST, sentences

README = Path(__file__).resolve().parents[3] / "README.md"

TEXT = """# A heading that is long enough to be a sentence.

The first sentence runs over
two lines of **the text**. The second one has a [link](https://example.org) and `code` in it.

```sh
this is a command that ends with a period and is long enough.
```

| a row of a table | that is long enough to be a sentence. |

- An entry of a list is a sentence of its own, too.
- And so is the next one, which is also long enough.
  It goes on in the next line with one sentence more.

Too short. A fragment that is long enough but has no end
"""


def test_prose_is_taken_and_code_tables_and_headings_are_not():
    assert sentences(TEXT, most=10) == [
        "The first sentence runs over two lines of the text.",
        "The second one has a link and code in it.",
        "An entry of a list is a sentence of its own, too.",
        "And so is the next one, which is also long enough.",
        "It goes on in the next line with one sentence more.",
    ]


def test_no_more_are_taken_than_asked_for():
    assert len(sentences(TEXT, most=2)) == 2


def test_the_readme_has_enough_to_search():
    found = sentences(README.read_text(encoding="utf-8"), MOST_SENTENCES)
    assert len(found) >= 12
    assert all(SHORTEST <= len(each) <= LONGEST for each in found)
