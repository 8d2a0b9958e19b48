"""A model's place in the engine: its door, its driver, its load."""

from collections.abc import Callable

from inference_svc.engine.asleep import AsleepDriver
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.device_time import DeviceTime
from inference_svc.engine.door import Bounds, Door, Facts
from inference_svc.engine.driver import Driver, News
from inference_svc.engine.encoder_former import EncoderLimits
from inference_svc.engine.encoding_driver import EncodingDriver
from inference_svc.engine.generation_driver import GenerationDriver
from inference_svc.engine.plans import GenerationLimits
from inference_svc.engine.runner import BlockCache, EncoderRunner, GenerationRunner, SharedCache
from inference_svc.engine.settings import EngineSettings
from inference_svc.engine.step_tally import StepTally
from inference_svc.model import LoadedModel
from inference_svc.requests import ModelLoad, Task


class Chamber:
    """`door` is touched under the desk's lock, `driver` on the model thread."""

    def __init__(
        self, model: LoadedModel, settings: EngineSettings, clock: Callable[[], float], time: DeviceTime
    ) -> None:
        self._name = model.info.name
        self._settings = settings
        self._clock = clock
        self._time = time
        self._costs = StepCosts(prompt_tokens_of_a_step(model, settings))
        self.tally = StepTally()
        self.cache_token_count = 0
        self.driver, self.most_tokens = self._furnish(model)
        bounds = Bounds(settings.max_waiting_sequences, settings.max_waiting_tokens)
        self.door = Door(bounds, self._costs, self.driver.facts(), self.most_tokens)

    def _furnish(self, model: LoadedModel) -> tuple[Driver, int | None]:
        """The driver, and the most tokens that one sequence can hold."""
        settings = self._settings
        if model.info.task is Task.GENERATE:
            runner: GenerationRunner = model.runner  # type: ignore[assignment]  # by the task, as LoadedModel says
            self.cache_token_count = cache = _cache_tokens(runner)
            limits = GenerationLimits(
                slot_count=runner.slot_count,
                cache_token_count=cache,
                step_token_budget=model.step_token_budget,
                prompt_tokens_per_step=prompt_tokens_of_a_step(model, settings),
                aging_steps=settings.aging_steps,
                tenant_weights=settings.tenant_weights,
                cache_block_tokens=runner.cache_block_tokens if isinstance(runner, BlockCache) else 1,
            )
            generation = GenerationDriver(
                runner, model.tokenizer, limits, self._costs, self._clock, self._time, self.tally
            )
            return generation, min(cache, runner.max_context_tokens)
        encoder: EncoderRunner = model.runner  # type: ignore[assignment]  # by the task, as LoadedModel says
        passes = EncoderLimits(model.step_token_budget, settings.aging_steps, settings.tenant_weights)
        driver = EncodingDriver(encoder, model.info, passes, self._costs, self._clock, self._time, self.tally)
        return driver, None

    @property
    def sequence_count(self) -> int:
        return len(self.driver.keys)

    def sleep(self) -> Driver:
        """What comes from now on waits. Gives the driver, in which nothing lives, and with it the runner: to free a
        model takes a while, and is not for the model thread to do."""
        self.driver.tidy()
        left, self.driver = self.driver, AsleepDriver()
        return left

    def wake(self, model: LoadedModel) -> News:
        """The model was loaded again; what waited goes on to it."""
        waiting = self.driver
        self.driver, self.most_tokens = self._furnish(model)
        return waiting.hand_over(self.driver) if isinstance(waiting, AsleepDriver) else []

    def load(self, facts: Facts, predicted_wait: float) -> ModelLoad:
        return ModelLoad(
            model=self._name,
            running_sequence_count=facts.running,
            waiting_sequence_count=sum(facts.waiting.sequences),
            queued_token_count=facts.backlog_tokens + sum(facts.waiting.tokens),
            free_cache_token_count=facts.free_cache_tokens,
            step_duration=self._costs.step_seconds,
            predicted_wait=predicted_wait,
        )

    def end_all(self) -> tuple[int, ...]:
        """Forget every request; returns their keys."""
        keys = self.driver.keys
        for key in keys:
            self.driver.remove(key)
        self.driver.tidy()
        return keys


def prompt_tokens_of_a_step(model: LoadedModel, settings: EngineSettings) -> int:
    """The most that one step computes beside others' answers, which an encoder has not."""
    budget = model.step_token_budget
    if model.info.task is not Task.GENERATE:
        return budget
    bound = settings.prompt_tokens_per_step
    return max(1, budget // 2) if bound is None else min(bound, budget)


def _cache_tokens(runner: GenerationRunner) -> int:
    if isinstance(runner, SharedCache):
        return runner.cache_token_count
    return runner.slot_count * runner.max_context_tokens
