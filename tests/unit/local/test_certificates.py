"""Certificates of one run, and how the processes of seam-up are told to speak to each other."""

import stat
from pathlib import Path

from cryptography import x509
from seam_local.certificates import BUSINESS, INFERENCE, make_link_certificates
from seam_local.children import business, inference
from seam_local.keys import Keys
from seam_local.plan import Plan, Topology

PLAN = Plan(Topology.SPLIT, 1, (), 0, 0, Keys("the-key-of-this-test", "the-key-of-this-test"))


def told(environment, certificates=None):
    """What both are told of the link."""
    kinds = (
        inference(PLAN, "inference-1", "", environment, Path("ready"), certificates),
        business(PLAN, ("127.0.0.1:1",), environment, Path("ready"), certificates),
    )
    return [{name: value for name, value in one.environment.items() if "LINK" in name} for one in kinds]


def test_each_side_gets_a_certificate_of_its_own_and_nobody_else_may_read_the_keys(tmp_path):
    made = make_link_certificates(tmp_path)
    for (certificate, key), identity in ((made.business, BUSINESS), (made.inference, INFERENCE)):
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {
        "ca.pem", "business.pem", "business.key", "inference.pem", "inference.key"
    }  # fmt: skip


def test_the_processes_are_told_of_their_certificates(tmp_path):
    made = make_link_certificates(tmp_path)
    for variables, (certificate, key) in zip(
        told({"SEAM_LINK_PLAINTEXT": "true"}, made), (made.inference, made.business), strict=True
    ):
        assert variables["SEAM_LINK_CERTIFICATE"] == str(certificate)
        assert variables["SEAM_LINK_KEY"] == str(key)
        assert (variables["SEAM_LINK_SERVER"], variables["SEAM_LINK_CLIENTS"]) == (INFERENCE, BUSINESS)
        assert variables["SEAM_LINK_PLAINTEXT"] == "false"


def test_plaintext_is_asked_for_by_name_unless_the_environment_has_certificates():
    assert told({}) == [{"SEAM_LINK_PLAINTEXT": "true"}] * 2
    given = {"SEAM_LINK_CERTIFICATE": "mine.pem"}
    assert told(given) == [given] * 2
