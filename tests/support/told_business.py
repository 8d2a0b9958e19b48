"""`python -m support.told_business`: a business server of its environment's settings that prints where it serves."""

import asyncio
import json
import signal

from business_svc.process import whole_server
from business_svc.settings import read_settings
from seam_telemetry.request_log import take_logs


async def main() -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    settings = read_settings()
    take_logs(settings.telemetry.log_style)
    async with whole_server(settings) as server:
        await server.pool.ready(len(settings.replicas))
        running = server.running
        addresses = {"grpc": running.grpc_address, "http": running.http_address, "metrics": server.metrics_address}
        print(json.dumps(addresses), flush=True)
        await leaving.wait()
        await running.drain(5.0)


if __name__ == "__main__":
    asyncio.run(main())
