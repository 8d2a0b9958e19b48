"""A hub name is fetched once, and served from the hub's cache when the hub is away. The hub here speaks the real
one's protocol on loopback and counts what it sends."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from inference_svc.errors import ModelLoadError
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.models.defaults import default_folder
from inference_svc.models.loading import load_model
from inference_svc.requests import Task

torch.set_num_threads(1)

COMMIT = "c" * 40
MODEL = "someone/tiny"


class LoopbackHub:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def log_message(self, *_unused: object) -> None:
                pass

            def answer(self, *, with_body: bool) -> None:
                status, body, headers = hub.look_up(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def look_up(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        resolve = f"/{MODEL}/resolve/{COMMIT}/"
        if path.startswith(f"/api/models/{MODEL}/"):
            files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
            names = [(str(file.relative_to(self.folder)), file.stat().st_size) for file in files]
            answer: object = {"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": name} for name, _ in names]}
            if "/tree/" in path:
                answer = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in names]
            return 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}
        if path.startswith(resolve):
            name = path.removeprefix(resolve)
            self.sent.append(name)
            body = (self.folder / name).read_bytes()
            return 200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    folder = tmp_path / "hub"
    shutil.copytree(default_folder("tiny-score", tmp_path / "made", lambda _line: None), folder)
    (folder / "pytorch_model.bin").write_bytes(b"never wanted")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"never wanted")
    opened = LoopbackHub(folder)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", opened.address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        opened.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    try:
        yield opened
    finally:
        opened.close()


def load(source: str, tmp_path: Path, told: list[str]) -> LoadedModel:
    return load_model(ModelSpec("score", Task.SCORE, source), cache_folder=tmp_path / "made", progress=told.append)


def test_a_hub_model_is_fetched_and_then_served_without_the_hub(hub: LoopbackHub, tmp_path: Path) -> None:
    told: list[str] = []
    loaded = load(MODEL, tmp_path, told)
    assert loaded.info.source == MODEL
    assert loaded.info.labels == ("negative", "neutral", "positive")
    assert "model.safetensors" in hub.sent
    assert not {"pytorch_model.bin", "onnx/model.safetensors"} & set(hub.sent)
    assert any("someone/tiny" in line for line in told)
    hub.close()
    again = load(MODEL, tmp_path, told)
    assert again.info == loaded.info


def test_a_model_that_the_hub_does_not_have(hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="the hub has no such model"):
        load("someone/gone", tmp_path, [])
