"""The engine alone on the whole way's work: `python -m load.offline embed|chat`; prints one line of JSON."""

import json
import sys
import threading
import time
from collections.abc import Sequence

import torch
from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.models.loading import load_model
from inference_svc.requests import (
    ChatPrompt,
    EmbedWork,
    Event,
    Failed,
    Finished,
    GenerateWork,
    Message,
    Request,
    StopConditions,
)
from inference_svc.settings import read_settings

from load.benchmark_models import texts
from load.report import Meter


class Countdown:
    """An outlet that counts tokens or vectors until every request has ended."""

    def __init__(self, requests: int) -> None:
        self.left = requests
        self.tokens = 0
        self.done = threading.Event()

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        for _, event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                self.tokens += event.usage.output_token_count
                self.left -= 1
        if self.left <= 0:
            self.done.set()


def requests_of(work: str, texts_count: int, prompts: int, output_tokens: int) -> list[Request]:
    if work == "embed":
        return [Request("embed", EmbedWork((text,))) for text in texts(texts_count)]
    stop = StopConditions(max_output_tokens=output_tokens, ignore_end_token=True)
    return [
        Request("chat", GenerateWork(ChatPrompt((Message("user", text),)), stop=stop))
        for text in texts(prompts, seed=1)
    ]


def main() -> None:
    from load.whole_way import OUTPUT_TOKENS, PROMPTS, TEXTS

    work = sys.argv[1]
    settings = read_settings(listen="")
    specs = [spec for spec in settings.model_specs() if spec.name == work]
    catalogue, engine = Catalogue(specs), Engine()
    torch.set_num_threads(settings.torch_threads or torch.get_num_threads())
    engine.start()
    model = load_model(specs[0], cache_folder=settings.cache_folder, progress=lambda _: None)
    engine.add(model)
    catalogue.ready(model)
    with Admission(catalogue, AdmissionLimits(), time.monotonic) as admission:
        ready = [admission.admit_now(request) for request in requests_of(work, TEXTS, PROMPTS, OUTPUT_TOKENS)]
        for count in (4, len(ready)):
            countdown = Countdown(count)
            with Meter() as meter:
                for request_id, one in enumerate(ready[:count]):
                    engine.submit(countdown, request_id, one)
                countdown.done.wait(600)
    engine.stop()
    units = countdown.tokens if work == "chat" else len(ready)
    print(json.dumps({"units": units, "seconds": meter.seconds, "others": meter.others}))


if __name__ == "__main__":
    main()
