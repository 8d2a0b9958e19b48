"""A real Envoy before real business servers, each a process that a test may hurt."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
sys.path.insert(0, str(ROOT / "tools"))
KEY = "a-key-that-is-long-enough"
METADATA = (("authorization", f"Bearer {KEY}"),)
HEADERS = {"authorization": f"Bearer {KEY}"}
START_SECONDS = 120.0


def deploy_tool(name: str) -> str:
    """The path of a command that deploy/ is checked with."""
    from deploy_tools import tools

    return str(tools() / name)


@dataclass(frozen=True, slots=True)
class Business:
    """`process` may be killed."""

    process: subprocess.Popen[bytes]
    grpc: str
    http: str

    @property
    def as_argument(self) -> str:
        return f"{self.grpc}:{self.http.rpartition(':')[2]}"


@dataclass(frozen=True, slots=True)
class Envoy:
    """`edge` and `probe` are "host:port"; `admin_at` too, or "unix:/path"."""

    process: subprocess.Popen[bytes]
    folder: Path
    admin_at: str
    edge: str = ""
    probe: str = ""

    @property
    def is_there(self) -> bool:
        """Whether it can be asked; a path that nobody listens on yet makes httpx lose a socket."""
        return not self.admin_at.startswith("unix:") or Path(self.admin_at.removeprefix("unix:")).exists()

    def admin(self, path: str, method: str = "GET") -> httpx.Response:
        is_unix = self.admin_at.startswith("unix:")
        transport = httpx.HTTPTransport(uds=self.admin_at.removeprefix("unix:") if is_unix else None)
        base = "http://admin" if is_unix else f"http://{self.admin_at}"
        with httpx.Client(transport=transport, base_url=base, timeout=20) as client:
            return client.request(method, path)

    def counter(self, name: str) -> int:
        """Of one statistic; 0 where it was never counted."""
        told = self.admin(f"/stats?format=json&filter=^{name}$").json()["stats"]
        return sum(each["value"] for each in told if each.get("name") == name)

    def hosts(self, cluster: str = "business_grpc") -> list[dict[str, Any]]:
        told = self.admin("/clusters?format=json").json()["cluster_statuses"]
        return [host for each in told if each["name"] == cluster for host in each["host_statuses"]]


@dataclass
class Workshop:
    """Starts what a test asks for, and ends all of it."""

    folder: Path
    _stack: ExitStack = field(default_factory=ExitStack)
    _count: int = 0

    def close(self) -> None:
        self._stack.close()

    def replica(self, step_seconds: float = 0.005) -> str:
        """An inference server on echo models; its address."""
        words = [sys.executable, "-m", "support.echo_server", "--step-seconds", str(step_seconds)]
        name = self._name("replica")
        ready = self.folder / f"{name}.json"
        self._start(name, [*words, "--ready-file", str(ready), "--state-file", str(self.folder / f"{name}.state")], {})
        return str(self._read(ready, name)["grpc"])

    def business(self, replica: str, **variables: str) -> Business:
        name = self._name("business")
        ready = self.folder / f"{name}.json"
        environment = {
            "SEAM_API_KEYS": f"acme:{KEY}",
            "SEAM_REPLICAS": replica,
            "SEAM_LINK_PLAINTEXT": "true",
            "SEAM_GRPC_LISTEN": "127.0.0.1:0",
            "SEAM_HTTP_LISTEN": "127.0.0.1:0",
            **variables,
        }
        words = [sys.executable, "-m", "business_svc", "--ready-file", str(ready)]
        process = self._start(name, words, environment)
        told = self._read(ready, name)
        return Business(process, told["grpc"], told["http"])

    def envoy(self, *business: Business, **options: str | Path) -> Envoy:
        """Options are those of deploy/envoy/render.py, with _ for -."""
        name = self._name("envoy")
        folder = self.folder / name
        admin = str(options.pop("admin", f"unix:{self.folder / name}.sock"))
        self.render(folder, *business, admin=admin, **options)
        words = [deploy_tool("envoy"), "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart"]
        process = self._start(name, [*words, "--log-level", "warn", "--drain-time-s", "1"], {})
        started = Envoy(process, folder, admin)
        self._wait(name, process, lambda: started.is_there and started.admin("/ready").text.strip() == "LIVE")
        listeners = started.admin("/listeners?format=json").json()["listener_statuses"]
        at = {each["name"]: each["local_address"]["socket_address"] for each in listeners}
        edge, probe = (f"{at[one]['address']}:{at[one]['port_value']}" for one in ("edge", "probe"))
        return Envoy(process, folder, admin, edge, probe)

    def render(self, folder: Path, *business: Business, **options: str | Path) -> None:
        asked = {"listen": "127.0.0.1:0", "probe": "127.0.0.1:0", **options}
        words = [sys.executable, str(ROOT / "deploy/envoy/render.py"), "--out", str(folder)]
        words += [word for one in business for word in ("--business", one.as_argument)]
        words += [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        subprocess.run(words, check=True)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def _start(self, name: str, words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SEAM_")}
        log = self._stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": _with_tests(clean), **environment},
        )
        self._stack.callback(_end, process)
        return process

    def _read(self, ready: Path, name: str) -> Any:
        self._wait(name, None, ready.exists)
        return json.loads(ready.read_text())

    def _wait(self, name: str, process: subprocess.Popen[bytes] | None, there: Any) -> None:
        """Polls: neither a file nor another process has an event."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(httpx.TransportError):
                if there():
                    return
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{name} did not start:\n{(self.folder / f'{name}.log').read_text()[-4000:]}")
            time.sleep(0.02)


@contextmanager
def workshop(folder: Path) -> Iterator[Workshop]:
    made = Workshop(folder)
    try:
        yield made
    finally:
        made.close()


def _with_tests(environment: dict[str, str]) -> str:
    return os.pathsep.join(filter(None, (str(TESTS), environment.get("PYTHONPATH", ""))))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
