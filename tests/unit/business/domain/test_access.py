import hashlib

import pytest
from business_svc.domain.access import ApiKey, Caller, KeyRing, presented_key
from business_svc.errors import Reason, SeamError

SECRET = "a-key-that-is-long-enough"
DIGEST = hashlib.sha256(SECRET.encode()).digest()


def ring() -> KeyRing:
    return KeyRing([ApiKey.of_secret("acme", SECRET), ApiKey("beta", hashlib.sha256(b"another-long-key").digest())])


def test_a_known_key_names_its_caller() -> None:
    assert ring().identify(SECRET) == Caller("acme", DIGEST.hex()[:8])
    assert ring().identify("another-long-key").tenant == "beta"


def test_the_key_itself_is_not_held() -> None:
    assert SECRET not in repr(vars(ring()))
    assert SECRET not in repr(ApiKey.of_secret("acme", SECRET))


@pytest.mark.parametrize("presented", [None, ""])
def test_no_key_is_missing(presented: str | None) -> None:
    with pytest.raises(SeamError) as caught:
        ring().identify(presented)
    assert caught.value.reason is Reason.API_KEY_MISSING


@pytest.mark.parametrize("presented", [SECRET + "x", SECRET[:-1], SECRET.upper(), DIGEST.hex(), "\ud800"])
def test_any_other_key_is_invalid_and_not_repeated(presented: str) -> None:
    with pytest.raises(SeamError) as caught:
        ring().identify(presented)
    assert caught.value.reason is Reason.API_KEY_INVALID
    assert presented not in caught.value.message


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer abc", None, "abc"),
        ("bearer  abc ", None, "abc"),
        ("Bearer abc", "def", "abc"),
        (None, " def ", "def"),
        ("", "def", "def"),
        ("Basic abc", "def", None),
        ("abc", None, None),
        (None, None, None),
    ],
)
def test_a_key_is_read_from_either_header(authorization: str | None, x_api_key: str | None, key: str | None) -> None:
    assert presented_key(authorization, x_api_key) == key
