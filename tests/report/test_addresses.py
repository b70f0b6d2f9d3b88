"""Addresses of our own pages."""

from __future__ import annotations

from reconciler.report.addresses import change_address, change_url, service_address

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_own_addresses_quote_each_part():
    assert service_address("host", "team", "a/b c") == "/services/host/team/a%2Fb%20c"
    assert change_address(REVISION, "host/team/chat") == f"/changes/{REVISION}#target-host/team/chat"
    assert change_address("a#b?c") == "/changes/a%23b%3Fc"


def test_others_get_addresses_below_web_url():
    base = "https://models.example.com/"
    assert change_url(base, REVISION, "host") == f"https://models.example.com/changes/{REVISION}#target-host"
    assert change_url(base, "") == base
    assert change_url("", REVISION) == ""
