"""A real run in which everything happens that metrics are there for, and what its services then expose."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families
from seam.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from seam_client import AsyncSeam, NotFound, SeamError
from seam_client.async_client import AsyncChatStream

from support.otlp_receiver import otlp_receiver
from support.told_processes import KEY, System, Told, told_system

SECRET = "a prompt that nobody else may read"


@dataclass(frozen=True)
class Scrape:
    """What one process exposed: kinds by family (counters without `_total`), and samples."""

    kinds: Mapping[str, str]
    samples: tuple[tuple[str, Mapping[str, str], float], ...]

    def value(self, name: str, **labels: str) -> float:
        """The sum over what has these labels."""
        return sum(v for n, had, v in self.samples if n == name and labels.items() <= had.items())


@dataclass
class BusyRun:
    """Scrapes by process, before and after both replicas were killed; the names that went by OTLP; lines of log."""

    healthy: dict[str, Scrape] = field(default_factory=dict)
    killed: dict[str, Scrape] = field(default_factory=dict)
    otlp_names: set[str] = field(default_factory=set)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    raw_log: str = ""


async def scrape(told: Told) -> Scrape:
    async with httpx.AsyncClient(timeout=30) as http:
        text = (await http.get(f"http://{told.metrics}/metrics")).text
    families = list(text_string_to_metric_families(text))
    samples = tuple((one.name, one.labels, one.value) for family in families for one in family.samples)
    return Scrape({family.name: family.type for family in families}, samples)


async def busy_run() -> BusyRun:
    run = BusyRun()
    with otlp_receiver() as receiver:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "300"}
        async with told_system(replicas=2, step_seconds=0.01, settings=settings) as system:
            await _work(system)
            run.healthy = {"business": await scrape(system.business)}
            for number, replica in enumerate(system.replicas):
                run.healthy[f"inference {number}"] = await scrape(replica)
            await asyncio.to_thread(
                receiver.wait_for,
                lambda seen: {"seam.replicas", "seam.cancel_to_free"} <= seen.metric_names,
                "metrics by OTLP",
            )
            await _kill_in_the_middle(system)
            run.killed = {"business": await scrape(system.business)}
            await asyncio.to_thread(
                receiver.wait_for, lambda seen: "rpc.client.call.duration" in seen.metric_names, "ended session"
            )
            run.otlp_names = set(receiver.metric_names)
            logs = {"business": [system.business.log], "inference": [one.log for one in system.replicas]}
            for service, files in logs.items():
                written = [line for file in files for line in file.read_text().splitlines()]
                run.raw_log += "\n".join(written)
                run.lines[service] = [told for line in written if (told := json.loads(line))["event"] == "request"]
    return run


async def _work(system: System) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        AsyncSeam(system.business.grpc, api_key=KEY) as seam,
        httpx.AsyncClient(base_url=f"http://{system.business.http}", headers=headers, timeout=60) as http,
    ):
        for _ in range(4):  # both replicas get some
            await asyncio.gather(
                seam.predict(SECRET, max_output_tokens=12), *(seam.embed([f"text {number}"]) for number in range(4))
            )
        await asyncio.gather(*(_refused(seam) for _ in range(3)))
        await asyncio.gather(*(_left_early(seam) for _ in range(4)))
        (await http.post("/v1/embeddings", json={"model": "embed", "input": ["to sew"]})).raise_for_status()
        assert (await http.post("/v1/nowhere", json={})).status_code == 404
    for replica in system.replicas:
        async with grpc.aio.insecure_channel(replica.grpc) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            request = inference_service_pb2.EmbedRequest(model="embed")
            request.work.texts.append("by itself")
            await stub.Embed(request)


async def _refused(seam: AsyncSeam) -> None:
    with suppress(NotFound):
        await seam.embed(["to sew"], model="invented")


async def _left_early(seam: AsyncSeam) -> None:
    async with seam.chat("hello", max_output_tokens=500) as answer:
        await anext(aiter(answer))


async def _kill_in_the_middle(system: System) -> None:
    """The first replica, and its answers go on at the second; then that one too, and they fail. Those that saw one
    death only would wait for a replica: their readers leave."""
    first, second = system.replicas
    async with AsyncSeam(system.business.grpc, api_key=KEY) as seam:
        answers = [seam.chat(f"question {number}", max_output_tokens=1000) for number in range(6)]
        for answer in answers:
            await anext(aiter(answer))
        first.kill()
        await first.process.wait()
        for answer in answers:
            for _ in range(100):  # more than may be on the way to a reader
                await anext(aiter(answer))
        second.kill()
        await second.process.wait()
        readers = [asyncio.create_task(_read(answer)) for answer in answers]
        await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        for answer in answers:
            await answer.close()
        await asyncio.gather(*readers)


async def _read(answer: AsyncChatStream) -> None:
    """Until it breaks off, as it must."""
    with suppress(SeamError):
        await answer.text()
        raise AssertionError("an answer was whole though every replica had died")
