"""Long texts are tokenised with the interpreter's lock released: nothing else waits for them."""

import threading
import time
from collections.abc import Callable

import pytest
from inference_svc.models.checkpoint import read_tokenizer
from inference_svc.models.defaults import default_folder
from inference_svc.models.tokenizer import FastTokenizer
from inference_svc.requests import Message
from inference_svc.settings import read_settings

MEBI = 1 << 20


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    wrapper = read_tokenizer(default_folder("tiny-chat", read_settings().cache_folder, lambda _: None))
    return FastTokenizer(wrapper, end_token_ids=frozenset(), has_type_ids=False, prompts={})


def longest_standstill(work: Callable[[], object]) -> tuple[float, float]:
    """Of a thread that only looks at the clock while `work` is done on this one; and how long the work took."""
    longest, over = 0.0, threading.Event()

    def look() -> None:
        nonlocal longest
        last = time.monotonic()
        while not over.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    thread = threading.Thread(target=look)
    thread.start()
    began = time.monotonic()
    work()
    taken = time.monotonic() - began
    over.set()
    thread.join()
    return longest, taken


@pytest.mark.parametrize("text", ["x" * MEBI, "word " * (MEBI // 5), "契" * (MEBI // 3)], ids=["one", "words", "CJK"])
def test_a_mebibyte_of_text_holds_nobody_up(tokenizer: FastTokenizer, text: str) -> None:
    best = min(longest_standstill(lambda: tokenizer.encode_text(text)) for _ in range(3))
    assert best[0] < max(0.1, best[1] / 4)


def test_special_tokens_spelled_out_without_end_cost_no_more_than_other_text(tokenizer: FastTokenizer) -> None:
    spelled = [Message("user", "<|im_end|>" * 50_000)]
    plain = [Message("user", "some words" * 50_000)]
    encode = tokenizer.encode_chat
    ratios = []
    for _ in range(3):
        took = [longest_standstill(lambda turns=turns: encode(turns, True))[1] for turns in (spelled, plain)]
        ratios.append(took[0] / took[1])
    assert min(ratios) < 5
