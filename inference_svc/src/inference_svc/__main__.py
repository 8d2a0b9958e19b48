"""`seam-inference`: serve models until told to stop."""

import argparse
import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from seam_telemetry.request_log import take_logs

from inference_svc.errors import ModelLoadError
from inference_svc.loader import Load
from inference_svc.recording.files import NotARecording
from inference_svc.replaying.answers import Match, NothingRecorded
from inference_svc.replaying.playback import Pace
from inference_svc.replaying.server import Replay, ReplayServer, serve_replay
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings, SettingsError, read_settings
from inference_svc.wire.tls import TlsFault

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_log = logging.getLogger("inference_svc")


class EngineDied(Exception):
    """Nothing can be computed any more; whoever supervises this process starts a new one."""


def main(arguments: Sequence[str] | None = None, *, load: Load | None = None) -> int:
    """Exit code 0 after an orderly end, 2 where a setting is wrong, 1 where a model, a recording, an address or a
    certificate cannot be had or the device was lost. `load` is as `serve` has it."""
    options = _parser().parse_args(arguments)
    if options.exit_with_parent is not None and not _tie_to(options.exit_with_parent):
        return _failed("the parent process has ended already", 1)
    ready_file: Path | None = options.ready_file
    try:
        settings = read_settings()
        take_logs(settings.telemetry.log_style)
        settings.check_link()
        replay = Replay(tuple(options.replay), options.replay_match, options.replay_pace) if options.replay else None
        serving = serve_replay(settings, replay) if replay else serve(settings, load=load)
        asyncio.run(_run(settings, serving, ready_file))
    except SettingsError as error:
        return _failed(str(error), 2)
    except (ModelLoadError, NotARecording, NothingRecorded, EngineDied, TlsFault, OSError) as error:
        return _failed(str(error), 1)
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    return 0


async def _run(
    settings: Settings,
    serving: AbstractAsyncContextManager[InferenceServer] | AbstractAsyncContextManager[ReplayServer],
    ready_file: Path | None,
) -> None:
    """Raises ModelLoadError or EngineDied; returns when told to stop."""
    stop = _stop_event()
    async with serving as server:
        _log.info("listening on %s; loading models", ", ".join(server.addresses) or "nothing")
        ready = asyncio.create_task(server.ready(), name="ready")
        stopped = asyncio.create_task(stop.wait(), name="stopped")
        died = asyncio.create_task(server.died(), name="died")
        try:
            await asyncio.wait((ready, stopped, died), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                _announce(server, ready_file)
                await asyncio.wait((stopped, died), return_when=asyncio.FIRST_COMPLETED)
            _log.info("draining for at most %g s; a second signal ends at once", settings.drain_seconds)
            await server.drain(settings.drain_seconds)
            if died.done():
                raise EngineDied(f"the engine has stopped for good: {died.result()}")
        finally:
            for task in (ready, stopped, died):
                task.cancel()
            await asyncio.gather(ready, stopped, died, return_exceptions=True)
    _log.info("ended")


def _announce(server: InferenceServer | ReplayServer, ready_file: Path | None) -> None:
    if server.metrics_address:
        _log.info("metrics on http://%s/metrics", server.metrics_address)
    _log.info("ready: %s serves %s", server.address, ", ".join(server.catalogue.names()) or "no model yet")
    if ready_file is not None:
        content = {"grpc": server.address, "pid": os.getpid()}
        if server.metrics_address:
            content["metrics"] = server.metrics_address
        partial = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")  # nobody reads half of it
        partial.write_text(json.dumps(content) + "\n")
        partial.replace(ready_file)


def _stop_event() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process as such a signal does by default."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping, number)
    return stop


def _tie_to(parent: int) -> bool:
    """Linux kills this process when its parent ends, however it ends (prctl(2), PR_SET_PDEATHSIG). False where the
    parent ended before that was arranged."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _failed(why: str, code: int) -> int:
    print(f"seam-inference: {why}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seam-inference",
        description="Serves models behind seam.inference.v1. Settings come from the environment: SEAM_CHAT_MODEL, "
        "SEAM_EMBED_MODEL, SEAM_SCORE_MODEL, SEAM_INFERENCE_LISTEN and others.",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="answer from recorded sessions (SEAM_RECORD_FOLDER makes them) instead of models: a fake for tests",
    )
    parser.add_argument(
        "--replay-pace",
        type=Pace,
        choices=list(Pace),
        default=Pace.RECORDED,
        help="as far apart as it was recorded, or as fast as it is read",
    )
    parser.add_argument(
        "--replay-match",
        type=Match,
        choices=list(Match),
        default=Match.CONTENT,
        help="answer what was asked so before, or give the recorded answers in turn whatever is asked",
    )
    parser.add_argument(
        "--ready-file",
        type=Path,
        help="written when every model serves: JSON with grpc (the address) and pid; removed at the end",
    )
    parser.add_argument(
        "--exit-with-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end when the process that started this one ends, even if it is killed (Linux only); its PID, where "
        "given, also tells that it has ended already",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
