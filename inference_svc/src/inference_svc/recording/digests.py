"""Keyed hashes that stand in a recording for what must not be read there, and that tell what is equal."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from enum import Enum

from inference_svc.requests import GenerateWork, Work

_SIZE = 16  # bytes
_CHECKED = b"seam recording key"


class Digests:
    """BLAKE2 keyed by the hash of `key`. Without one, a key is drawn and forgotten: then nobody can tell what a digest
    is of, only whether two of the same writer are equal."""

    def __init__(self, key: str = "") -> None:
        self._key = hashlib.blake2b(key.encode()).digest() if key else secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self.key_check = self._of(b"key", _CHECKED)

    def of_tenant(self, tenant_key: str) -> str:
        return self._of(b"tenant", tenant_key.encode()).hex()

    def of_content(self, content: str) -> bytes:
        return self._of(b"content", content.encode())

    def _of(self, kind: bytes, value: bytes) -> bytes:
        """`kind` keeps digests of different things apart."""
        return hashlib.blake2b(value, digest_size=_SIZE, key=self._key, person=kind).digest()


def content_of(model: str, work: Work) -> str:
    """What was asked, so that equal work is equal text: with no seed and no ids to resume after, and with no field that
    has its neutral value, so that fields of later versions change nothing for requests that do not use them."""
    return json.dumps([model, _told(_unseeded(work))], sort_keys=True, ensure_ascii=False)


def differing(one: str, other: str) -> tuple[str, ...]:
    """The names of what two contents do not have alike, for people: `stop.max_output_tokens`."""
    found: list[str] = []
    _compare(json.loads(one)[1], json.loads(other)[1], "", found)
    return tuple(found)


def _unseeded(work: Work) -> Work:
    if not isinstance(work, GenerateWork):
        return work
    return replace(work, resumed_ids=None, sampling=replace(work.sampling, seed=None))


def _told(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        told = {field.name: getattr(value, field.name) for field in fields(value)}
        unlike = {field.name: _told(told[field.name]) for field in fields(value) if told[field.name] != _neutral(field)}
        return {"": type(value).__name__, **unlike}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return sorted([key, one] for key, one in value.items())
    if isinstance(value, tuple):
        return [_told(one) for one in value]
    return value


def _neutral(field: "Field[object]") -> object:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING


def _compare(one: object, other: object, path: str, found: list[str]) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            _compare(one.get(name), other.get(name), f"{path}.{name}" if path else name, found)
    elif one != other:
        found.append(path.removesuffix(".") or "work")
