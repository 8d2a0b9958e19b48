"""The whole of Seam in this process."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import business_svc.edge_tls
import business_svc.settings
import inference_svc.settings
from inference_svc.errors import ModelLoadError
from inference_svc.wire.tls import TlsFault

from seam_local.children import ANY_PORT, business_settings, proposed_settings
from seam_local.faults import CannotServe
from seam_local.one_process import one_process
from seam_local.plan import BadPlan, Plan
from seam_local.ready import Ready
from seam_local.screen import Screen
from seam_local.supervisor import Announce


class Monolith:
    """A Roof without children. Raises BadPlan when the environment's settings are wrong."""

    def __init__(self, plan: Plan, environment: Mapping[str, str], screen: Screen) -> None:
        self._plan = plan
        self._screen = screen
        screen.take_logs()
        proposed = {name: value for name, value in proposed_settings(plan).items() if name not in environment}
        try:
            told = {**proposed, **environment}
            self._business = business_svc.settings.read_settings(
                telemetry=business_svc.settings.telemetry_settings(told), **_fields(business_settings(plan, ()))
            )
            self._inference = inference_svc.settings.read_settings(
                listen=ANY_PORT, telemetry=inference_svc.settings.telemetry_settings(told), **_fields(proposed)
            )
        except (business_svc.settings.SettingsError, inference_svc.settings.SettingsError) as fault:
            raise BadPlan(str(fault)) from None

    async def run(self, announce: Announce) -> None:
        """Until cancelled; then it drains before it is left."""
        async with AsyncExitStack() as stack:
            with self._screen.progress("starting monolith: models load, this may take a while"):
                try:
                    serving = await stack.enter_async_context(one_process(self._inference, self._business))
                except (ModelLoadError, TlsFault, business_svc.edge_tls.TlsFault, OSError) as fault:
                    raise CannotServe(str(fault)) from fault
            stack.push_async_callback(serving.drain, self._plan.grace)
            await announce(
                Ready(
                    serving.grpc,
                    serving.http,
                    (serving.inference,),
                    os.getpid(),
                    (),
                    self._plan.keys.shown,
                    serving.metrics,
                )
            )
            await asyncio.Event().wait()

    async def stop(self) -> None:
        """Nothing is left to do when `run` has ended."""

    def kill(self) -> None:
        """This process is all there is."""
        os._exit(1)


def _fields(variables: Mapping[str, str]) -> dict[str, Any]:
    """Variables under the names that the settings have for them."""
    return {name.removeprefix("SEAM_").lower(): value for name, value in variables.items()}
