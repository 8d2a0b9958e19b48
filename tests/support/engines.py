"""A running engine for the length of a test, which ends with every rule kept and every slot free."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inference_svc.engine.engine import Engine
from inference_svc.engine.settings import EngineSettings
from inference_svc.model import LoadedModel

from support.echo import EchoEncoder, EchoRunner


@contextmanager
def running(
    *models: LoadedModel,
    settings: EngineSettings | None = None,
    died: Callable[[str], None] = lambda reason: None,
) -> Iterator[Engine]:
    engine = Engine(models, settings=settings, died=died)
    engine.start()
    try:
        yield engine
    finally:
        for model in models:
            assert isinstance(model.runner, EchoRunner | EchoEncoder)
            model.runner.gate.open()
        assert engine.stop()
    for model in models:
        assert isinstance(model.runner, EchoRunner | EchoEncoder)
        assert model.runner.thread_names <= {"model"}
        if isinstance(model.runner, EchoRunner):
            assert model.runner.misuse == []
            assert engine.dead is not None or model.runner.open_slots == frozenset()
