"""Locust users of Seam over gRPC and HTTP. Locust loads in a closed loop: for waiting that is counted, see `seam load`.

    locust -f deploy/load/locustfile.py --host http://localhost:8080

gRPC goes to SEAM_TARGET (localhost:50051), both with SEAM_API_KEY. Name a class (`GrpcChat`, `GrpcEmbed`, `HttpChat`)
to run users of that kind alone. What the server refuses because it is full counts as a failure of that name.
"""

import os
import random
import time
from collections.abc import Callable
from typing import Any

import grpc.experimental.gevent
from locust import HttpUser, User, between, task
from seam_client import Seam, SeamError

grpc.experimental.gevent.init_gevent()  # calls of gRPC then wait as greenlets do

TARGET = os.environ.get("SEAM_TARGET", "localhost:50051")
KEY = os.environ.get("SEAM_API_KEY")
OUTPUT_TOKENS = 32
WORDS = ("seam", "thread", "needle", "cloth", "stitch", "fold", "edge", "meet", "part", "join")


def question() -> str:
    """No two are alike, so that no cache makes them cheap."""
    return " ".join(random.choices(WORDS, k=random.randint(5, 40))) + f" {random.random()}"


class GrpcUser(User):
    """A client of its own for each user, as a real caller has."""

    abstract = True
    wait_time = between(0.1, 1.0)

    def on_start(self) -> None:
        self.seam = Seam(TARGET, api_key=KEY, timeout=30.0)

    def on_stop(self) -> None:
        self.seam.close()

    def measured(self, name: str, ask: Callable[[], int]) -> None:
        """`ask` returns how long the answer was; Locust shows it as its size."""
        began, length, error = time.perf_counter(), 0, None
        try:
            length = ask()
        except SeamError as failed:
            error = failed
        self.environment.events.request.fire(
            request_type="grpc",
            name=name if error is None else f"{name} {error.reason or error.code}",
            response_time=(time.perf_counter() - began) * 1000,
            response_length=length,
            exception=error,
            context={},
        )


class GrpcChat(GrpcUser):
    @task
    def chat(self) -> None:
        def ask() -> int:
            began, length = time.perf_counter(), 0
            with self.seam.chat(question(), max_output_tokens=OUTPUT_TOKENS) as answer:
                for number, piece in enumerate(answer):
                    if number == 0:
                        self._note_first(time.perf_counter() - began)
                    length += len(str(piece))
            return length

        self.measured("Chat", ask)

    def _note_first(self, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="grpc",
            name="Chat, first token",
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )


class GrpcEmbed(GrpcUser):
    @task
    def embed(self) -> None:
        self.measured("Embed", lambda: len(self.seam.embed(question(), truncate=True).embeddings[0].values))


class HttpChat(HttpUser):
    wait_time = between(0.1, 1.0)

    @task
    def chat(self) -> None:
        body: dict[str, Any] = {
            "model": "chat",
            "max_tokens": OUTPUT_TOKENS,
            "messages": [{"role": "user", "content": question()}],
        }
        self.client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
