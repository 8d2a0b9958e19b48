"""What only threads and interrupts can do to a call."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from seam_client import Cancelled, Seam
from support.fake_business import KEY, FakeBusiness


def test_any_thread_may_close_a_stream_that_another_reads(business: FakeBusiness) -> None:
    with Seam(business.target, api_key=KEY) as seam, ThreadPoolExecutor(1) as pool:
        stream = seam.chat("hold")
        reading = pool.submit(stream.text)
        assert business.holding.wait(10)
        stream.close()
        with pytest.raises(Cancelled):
            reading.result(10)
        assert business.cancelled.wait(10)


def test_closing_the_client_ends_what_is_in_flight(business: FakeBusiness) -> None:
    seam = Seam(business.target, api_key=KEY)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(seam.predict, "hold")
        assert business.holding.wait(10)
        seam.close()
        with pytest.raises(Cancelled):
            asking.result(10)
    assert business.cancelled.wait(10)


def test_a_stream_that_is_forgotten_is_cancelled(business: FakeBusiness) -> None:
    with Seam(business.target, api_key=KEY) as seam:
        next(seam.chat("hold"))
        assert business.cancelled.wait(10)


def test_many_threads_share_one_client(business: FakeBusiness) -> None:
    with Seam(business.target, api_key=KEY) as seam, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: seam.chat(f"drip {n}").text(), range(1, 17)))
    assert [answer.split() for answer in answers] == [[str(i) for i in range(n)] for n in range(1, 17)]


def test_a_used_client_leaves_no_thread_when_it_is_closed(business: FakeBusiness) -> None:
    before = set(threading.enumerate())
    with Seam(business.target, api_key=KEY) as seam:
        seam.chat("hello").text()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


INTERRUPTED = """
import random, signal, sys
from seam_client import Seam

armed, random = [False], random.Random(1)

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

def disarm():
    armed.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)

signal.signal(signal.SIGALRM, interrupt)
with Seam(sys.argv[1], api_key=sys.argv[2], timeout=20) as seam:
    for _ in range(200):
        with seam.chat("hold") as answer:
            try:
                armed.append(True)
                for piece in answer:
                    # Again and again: what interrupts a destructor is told to nobody.
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 6e-4), 0.2)
            except KeyboardInterrupt:
                pass
            finally:
                disarm()
    print(seam.chat("at the end").text())
    print(seam.predict("still there").text)
"""


def test_interrupts_of_a_stream_leave_the_client_whole(business: FakeBusiness) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, business.target, KEY], capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["You said: at the end", "You said: still there"]
