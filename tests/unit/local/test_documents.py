"""The documents name what there is: every setting of both servers, and no other."""

import re
from pathlib import Path

import business_svc.settings
import inference_svc.settings
from business_svc.settings import Settings as BusinessSettings
from inference_svc.settings import Settings as InferenceSettings

README = Path(__file__).resolve().parents[3] / "README.md"
OF_CLIENT = {"SEAM_API_KEY", "SEAM_TARGET", "SEAM_READY_FILE"}


def variable(name):
    return "SEAM_INFERENCE_LISTEN" if name == "listen" else f"SEAM_{name.upper()}"


class Asked(dict):
    """An environment without variables that remembers which it was asked for."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def get(self, name, otherwise=None):
        self.names.add(name)
        return otherwise


def told_variables():
    """Of `telemetry`, which is an object of its own in both."""
    asked = Asked()
    business_svc.settings.telemetry_settings(asked)
    inference_svc.settings.telemetry_settings(asked)
    return {name for name in asked.names if name.startswith("SEAM_")}


def test_the_settings_in_the_readme_are_those_that_the_servers_read():
    named = set(re.findall(r"\bSEAM_[A-Z_]+\b", README.read_text(encoding="utf-8")))
    read = {variable(name) for settings in (BusinessSettings, InferenceSettings) for name in settings.model_fields}
    assert named - OF_CLIENT == (read - {"SEAM_TELEMETRY"}) | told_variables()
