"""The key that is shown is always one that opens the door."""

from business_svc.domain.access import KeyRing
from business_svc.settings import Settings
from seam_local.keys import chosen_keys

HASHED = "ops:sha256=" + "0" * 64


def opens(keys):
    KeyRing(Settings(api_keys=keys.setting).api_keys).identify(keys.shown)
    return keys.shown


def test_a_key_is_made_when_none_is_given_and_each_time_another():
    assert opens(chosen_keys(None, "")) != opens(chosen_keys(None, ""))


def test_the_option_goes_before_the_environment():
    assert opens(chosen_keys("the-key-of-the-option", "the-key-of-the-environment")) == "the-key-of-the-option"


def test_the_first_plain_key_of_the_environment_is_shown_and_all_are_kept():
    keys = chosen_keys(None, f"{HASHED}, web:the-key-of-the-web-shop, another-key-of-sixteen")
    assert opens(keys) == "the-key-of-the-web-shop"
    assert len(Settings(api_keys=keys.setting).api_keys) == 3


def test_beside_hashes_alone_a_new_key_is_made():
    keys = chosen_keys(None, HASHED)
    assert opens(keys)
    assert len(Settings(api_keys=keys.setting).api_keys) == 2
