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
import random, signal, sys, threading
from seam_client import Seam

armed, random = [], random.Random(1)

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

def interrupt_soon(most):
    # And again: what interrupts a destructor is told to nobody.
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, most), 2.0)

def until_interrupted(work):
    try:
        armed.append(True)
        work()
        armed.clear()
    except KeyboardInterrupt:
        armed.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)

def read(answer):
    for piece in answer:
        interrupt_soon(6e-4)

def ask():
    interrupt_soon(1e-3)
    seam.predict("short")

signal.signal(signal.SIGALRM, interrupt)
with Seam(sys.argv[1], api_key=sys.argv[2], timeout=20) as seam:
    for _ in range(200):
        with seam.chat("hold") as answer:
            until_interrupted(lambda: read(answer))
    for _ in range(300):
        until_interrupted(ask)
    # The main thread could enter again a lock that it had left held.
    other = threading.Thread(target=lambda: print(seam.chat("at the end").text()))
    other.start()
    other.join()
    print(seam.predict("still there").text)
"""


def test_interrupts_leave_the_client_whole(business: FakeBusiness) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, business.target, KEY], capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["You said: at the end", "You said: still there"]


SUSPENDED = """
import sys
from seam_client import Seam

seam = Seam(sys.argv[1], api_key=sys.argv[2])

def pieces():
    with seam.chat("hold") as answer:
        yield from answer

reading = pieces()
print(next(reading))
"""


def test_a_program_ends_in_the_middle_of_an_answer(business: FakeBusiness) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SUSPENDED, business.target, KEY], capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "You said: \n", "")
