"""The engine: owns the one model thread, and everything that runs on it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from inference_svc.engine.chamber import Chamber
from inference_svc.engine.desk import Cancel, Desk, Errand, Forget, Grant, Outlet, Submit
from inference_svc.engine.device_share import DeviceShare
from inference_svc.engine.device_time import Cause, DeviceTime
from inference_svc.engine.door import Facts
from inference_svc.engine.driver import News
from inference_svc.engine.settings import EngineSettings
from inference_svc.engine.step_tally import StepTally
from inference_svc.errors import Cancelled, Draining, EngineStopped, SeamError
from inference_svc.model import LoadedModel
from inference_svc.observing import UNOBSERVED, EngineObserver
from inference_svc.requests import Encoding, Failed, Generation, ModelLoad, ModelTotals

_STOPPED = "the engine has stopped"
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a model that the engine computes no more. Clear `held`, where it holds nobody up, to free it."""

    handed_back: int
    held: list[object]


class Engine:
    """Every method may be called from any thread, and none but `stop` and `wait_until_drained` waits for the model.

    Cancels, grants and submits reach a model before its next step is planned. A request that `submit` took ends in
    exactly one Finished or Failed, told to its outlet, unless the outlet is closed.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel] = (),
        *,
        settings: EngineSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        died: Callable[[str], None] = lambda reason: None,
        wanted: Callable[[str], None] = lambda name: None,
        observer: EngineObserver = UNOBSERVED,
    ) -> None:
        """`died` is called on the model thread, with the reason, when the engine can compute nothing any more; by
        then every request has been told. `wanted` is called, on the thread that submits, with the name of a sleeping
        model that a request came for."""
        self._settings = settings or EngineSettings()
        self._clock = clock
        self._died = died
        self._wanted = wanted
        self._observer = observer
        self._cancelled: list[tuple[str, float]] = []  # model and moment, of this turn
        self._facts: Mapping[str, Facts] = {}
        self._desk = Desk(clock)
        self._time = DeviceTime(Cause.NO_WORK, clock())
        self._share = DeviceShare()
        self._chambers: dict[str, Chamber] = {}
        self._loading = 0
        self._loads: tuple[ModelLoad, ...] = ()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._dead: str | None = None
        self._busy_since: float | None = None
        self._last_progress = clock()
        for model in models:
            self.add(model)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._thread is not None:
            raise RuntimeError("an engine starts once")
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Ends the model thread after the step that it is in; requests left fail with EngineStopped, to be resumed
        elsewhere. False where that step did not end in time: the thread is then left to itself."""
        self._desk.refuse_all(_takes_nothing(_STOPPED))  # before the thread can end: nobody would hear what came then
        self._stopping = True
        self._desk.nudge()
        if self._thread is None:
            self._desk.shut()
            self._fail_all(_STOPPED)
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def drain(self, hand_back: bool) -> None:
        """Take no new work. With `hand_back` what lives fails with Draining, to be resumed elsewhere at once; without,
        it is finished."""
        self._desk.refuse_all(_takes_nothing("the replica takes no new work"))
        if hand_back:
            self._desk.run(Errand(self._hand_back))

    def wait_until_drained(self, timeout: float | None) -> bool:
        """Blocks until nothing lives; False at the time-out."""
        return self._desk.wait_until_empty(timeout)

    @property
    def dead(self) -> str | None:
        """Why the engine can compute nothing any more; None while it can."""
        return self._dead

    @property
    def alive(self) -> bool:
        """Whether anything that is submitted may be computed. False before a request is told that the engine stopped:
        none comes back to be counted as one that died here twice."""
        return self._dead is None and not self._stopping and self._thread is not None and self._thread.is_alive()

    @property
    def last_progress(self) -> float:
        """The clock's time when the last step ended, or now where nothing is being computed."""
        return self._last_progress if self._busy_since is not None else self._clock()

    @property
    def live_request_count(self) -> int:
        return self._desk.live_count

    # --- models -----------------------------------------------------------------------------------------------------

    def add(self, model: LoadedModel) -> None:
        """Serve one more model, from now on. Raises ValueError where its name is taken."""
        chamber = Chamber(model, self._settings, self._clock, self._time)

        def put() -> News:
            self._chambers[model.info.name] = chamber
            return []

        self._desk.open_door(model.info.name, model.info.task, chamber.door, Errand(put))

    def remove(self, name: str) -> "Future[Remains]":
        """Serve a model no longer; its requests fail with Draining, to be resumed elsewhere. The future tells how many
        they were, and hands over what the engine held of the model."""
        future: Future[Remains] = Future()

        def take_away() -> News:
            chamber = self._chambers.pop(name, None)
            self._share.forget(name)
            ended = () if chamber is None else chamber.end_all()
            future.set_result(Remains(len(ended), [] if chamber is None else [chamber]))
            return [(key, Failed(_no_longer_served(name))) for key in ended]

        self._desk.close_door(name, Errand(take_away, lambda: future.set_result(Remains(0, []))))
        return future

    def unused(self, name: str) -> "Future[None]":
        """Done once no request of the model lives. Cancel it where that is no longer waited for."""
        return self._desk.unused(name)

    def unused_for(self, name: str) -> float | None:
        """Seconds since the model's last request ended, or since it was added; None while one lives."""
        return self._desk.unused_for(name)

    def sleep(self, name: str, wake_seconds: float) -> "Future[Remains]":
        """Hold nothing of a model but its place, and hand over the rest; requests for it wait, and are told to expect
        `wake_seconds` of it. Raises ModelNotFound, ModelBusy."""
        future: Future[Remains] = Future()

        def lie_down() -> News:
            chamber = self._chambers.get(name)
            self._share.forget(name)
            future.set_result(Remains(0, [] if chamber is None else [chamber.sleep()]))
            return []

        self._desk.fall_asleep(name, wake_seconds, Errand(lie_down, lambda: future.set_result(Remains(0, []))))
        return future

    def waking(self, name: str) -> None:
        """What a sleeping model needs is on its way: the wait for it grows shorter from now on."""
        self._desk.stir(name)

    def wake(self, model: LoadedModel) -> "Future[None]":
        """A sleeping model was loaded again; what waited for it goes on."""
        future: Future[None] = Future()
        name = model.info.name

        def get_up() -> News:
            chamber = self._chambers.get(name)
            news: News = []
            if chamber is not None:
                news = chamber.wake(model)
                self._desk.wake(name, chamber.driver.facts(), chamber.most_tokens)
            future.set_result(None)
            return news

        self._desk.run(Errand(get_up, lambda: future.set_result(None)))
        return future

    def call(self, work: Callable[[], Answer]) -> "Future[Answer]":
        """Run something that needs the device (put a model to sleep, wake it) between steps; charged to loading.
        The future fails with EngineStopped where the model thread ends before."""
        future: Future[Answer] = Future()

        def run() -> News:
            if future.set_running_or_notify_cancel():
                self._time.switch(Cause.LOADING, self._clock())
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)
                finally:
                    self._time.switch(Cause.HOST, self._clock())
            return []

        self._desk.run(Errand(run, lambda: _give_up(future)))
        return future

    def loading(self, now_loading: bool) -> None:
        """While anything loads, in whatever thread, an idle device is idle for that reason."""
        self._loading += 1 if now_loading else -1
        self._desk.nudge()

    # --- requests ---------------------------------------------------------------------------------------------------

    def submit(self, outlet: Outlet, request_id: int, work: Generation | Encoding) -> None:
        """Raises at once ModelNotFound, QueueFull, CacheTooSmall, DeadlineExpired, DeadlineInfeasible,
        DuplicateRequest, TaskNotSupported or Draining; the outlet then hears nothing of it. An engine that has stopped
        raises Draining as one that drains does: the request was not in flight when it stopped."""
        try:
            self._desk.submit(outlet, request_id, work, self._clock())
        finally:  # one refused for the time that waking takes wakes it too: the next will be luckier
            if self._desk.is_asleep(work.model):
                self._wanted(work.model)

    def cancel(self, outlet: Outlet, request_id: int) -> None:
        """The request ends with Failed(Cancelled), unless its end is on the way. Unknown ids are ignored."""
        self._desk.cancel(outlet, request_id)

    def grant(self, outlet: Outlet, request_id: int, credits: int) -> None:
        """More tokens that the reader can take. Ignored where the id is unknown or no credits are counted."""
        self._desk.grant(outlet, request_id, credits)

    def close_outlet(self, outlet: Outlet) -> None:
        """Cancel all of a lost session; it is told nothing more."""
        self._desk.close_outlet(outlet)

    # --- what may be read -------------------------------------------------------------------------------------------

    def loads(self) -> tuple[ModelLoad, ...]:
        """How busy each model is, in the order they were added; replaced whole at every step."""
        return self._loads

    def totals(self) -> tuple[ModelTotals, ...]:
        """What each model did since it came."""
        return self._desk.totals()

    def idle_seconds(self) -> Mapping[str, float]:
        """The model thread's time since the engine was made, by cause; the sum is all of it."""
        return self._time.read(self._clock())

    def facts(self) -> Mapping[str, Facts]:
        """By model, as of the last step."""
        return self._facts

    def tallies(self) -> Mapping[str, tuple[StepTally, int]]:
        """What each model's steps have computed, and how many tokens its cache holds."""
        return {name: (chamber.tally, chamber.cache_token_count) for name, chamber in tuple(self._chambers.items())}

    # --- the model thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._time.switch(Cause.HOST, self._clock())
        try:
            while not self._stopping:
                self._turn()
            for chamber in self._chambers.values():
                chamber.end_all()
            self._fail_all(_STOPPED)
        except Exception as error:
            self._die(f"{type(error).__name__}: {error}")
        finally:
            self._desk.shut()
            self._busy_since = None
            self._time.switch(Cause.NO_WORK, self._clock())

    def _turn(self) -> None:
        """Hear what came, take one step of one model, tell what it brought; wait when there is nothing to do."""
        self._busy_since = self._last_progress = now = self._clock()
        news = self._obey()
        for chamber in self._chambers.values():
            news += chamber.driver.expire(now)
            chamber.driver.tidy()
        if self._cancelled:
            self._tell_cancelled()
        stepped = self._step(news)
        self._publish()
        self._deliver(news)
        self._last_progress = self._clock()
        if not stepped:
            self._wait()

    def _step(self, news: News) -> bool:
        work = {name: chamber.sequence_count for name, chamber in self._chambers.items() if chamber.driver.has_work}
        name = self._share.next(work)
        if name is None:
            return False
        began = self._clock()
        driver = self._chambers[name].driver
        news += driver.step()
        driver.tidy()
        self._share.used(name, self._clock() - began, work[name])
        return True

    def _obey(self) -> News:
        news: News = []
        for command in self._desk.take():
            news += command.run() if isinstance(command, Errand) else self._obey_one(command)
        return news

    def _obey_one(self, command: Submit | Cancel | Forget | Grant) -> News:
        key = command.ticket.key
        chamber = self._chambers.get(command.ticket.model)
        if chamber is None:
            return [(key, Failed(_no_longer_served(command.ticket.model)))]
        match command:
            case Submit(work=work, arrived=arrived):
                return chamber.driver.submit(key, work, arrived)
            case Cancel(asked=asked):
                removed = chamber.driver.remove(key)
                if removed:
                    self._cancelled.append((command.ticket.model, asked))
                return [(key, Failed(Cancelled("the caller cancelled")))] if removed else []
            case Forget(asked=asked):
                if chamber.driver.remove(key):
                    self._cancelled.append((command.ticket.model, asked))
            case Grant(credits=credits):
                chamber.driver.grant(key, credits)
        return []

    def _publish(self) -> None:
        facts = self._facts = {name: chamber.driver.facts() for name, chamber in self._chambers.items()}
        waits = self._desk.learn(facts)
        self._loads = tuple(
            chamber.load(facts[name], waits[name]) for name, chamber in self._chambers.items() if name in waits
        )

    def _tell_cancelled(self) -> None:
        now = self._clock()
        for model, asked in self._cancelled:
            self._observer.cancelled(model, now - asked)
        self._cancelled.clear()

    def _deliver(self, news: News) -> None:
        for outlet, events in self._desk.settle(news):
            try:
                outlet.deliver(events)
            except Exception:
                self._desk.close_outlet(outlet)  # a session that cannot be told is lost; the others go on

    def _wait(self) -> None:
        moments = [chamber.driver.next_deadline() for chamber in self._chambers.values()]
        soonest = min((moment for moment in moments if moment is not None), default=None)
        now = self._clock()
        self._busy_since = None
        self._time.switch(self._why_idle(), now)
        self._desk.wait(None if soonest is None else max(0.0, soonest - now))
        self._time.switch(Cause.HOST, self._clock())

    def _why_idle(self) -> Cause:
        if self._loading:
            return Cause.LOADING
        lives = any(chamber.driver.keys for chamber in self._chambers.values())
        return Cause.WAITING_FOR_CREDITS if lives else Cause.NO_WORK

    def _hand_back(self) -> News:
        ended = [key for chamber in self._chambers.values() for key in chamber.end_all()]
        return [(key, Failed(Draining("the replica hands back its work", retry_after=0.0))) for key in ended]

    def _die(self, reason: str) -> None:
        self._dead = reason
        stopped = f"{_STOPPED}: {reason}"
        self._desk.refuse_all(_takes_nothing(stopped))
        self._fail_all(stopped)
        self._died(reason)

    def _fail_all(self, why: str) -> None:
        retry_after = self._settings.stop_retry_seconds
        self._deliver([(key, Failed(EngineStopped(why, retry_after=retry_after))) for key in self._desk.live_keys()])


def _takes_nothing(why: str) -> SeamError:
    return Draining(why, retry_after=0.0)


def _no_longer_served(name: str) -> SeamError:
    return Draining(f"model {name} is no longer served here", retry_after=0.0)


def _give_up(future: "Future[Answer]") -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(EngineStopped(_STOPPED))
