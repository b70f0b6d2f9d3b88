"""Addresses to listen on."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reconciler.config.values import exclude_each_other, parse_listen, reachable, split_listen
from reconciler.config.web import Web


@pytest.mark.parametrize(
    ("listen", "meant"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:80", ("::1", 80)),
        ("[::]:80", ("::", 80)),
        (":80", ("0.0.0.0", 80)),
        ("localhost:80", ("127.0.0.1", 80)),
    ],
)
def test_addresses_are_understood(listen: str, meant: tuple[str, int]) -> None:
    assert parse_listen(listen) == meant


@pytest.mark.parametrize(
    "listen", ["", "8080", "127.0.0.1", "1.1.1.1:", "1.1.1.1:0", ":x", ":70000", "name:80", "::: 8"]
)
def test_what_is_no_address_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(ValueError, match=r"write for example 127\.0\.0\.1:8080"):
        parse_listen(listen)


def test_name_and_any_port_are_split() -> None:
    assert split_listen("gpu-1.example.com:0") == ("gpu-1.example.com", 0)


@pytest.mark.parametrize(
    ("one", "other", "excludes"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "localhost:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        (":80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "127.0.0.1:80", True),
        ("[::1]:80", "[0:0::1]:80", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_listeners_exclude_each_other_as_the_kernel_does(one: str, other: str, excludes: bool) -> None:
    assert exclude_each_other(one, other) == exclude_each_other(other, one) == excludes


@pytest.mark.parametrize(
    ("listen", "shown"),
    [
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        (":8080", "127.0.0.1:8080"),
        ("[::]:8080", "127.0.0.1:8080"),
        ("[::1]:8080", "[::1]:8080"),
        ("10.0.0.5:8080", "10.0.0.5:8080"),
    ],
)
def test_people_are_told_an_address_that_can_be_reached(listen: str, shown: str) -> None:
    assert reachable(listen) == shown


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "http://127.0.0.1:9464"),
        ({"listen": "[::]:9464"}, "http://127.0.0.1:9464"),
        ({"listen": "[fd00::5]:9464"}, "http://[fd00::5]:9464"),
        ({"tls": {"certificate_file": "/c.pem", "key_file": "/k.pem"}}, "https://127.0.0.1:9464"),
        ({"url": "https://models.example:8443/"}, "https://models.example:8443"),
    ],
)
def test_page_has_an_address_that_can_be_opened(settings: dict[str, object], address: str) -> None:
    assert Web.model_validate(settings).address == address


def test_page_below_a_path_is_refused_because_its_links_begin_at_the_root() -> None:
    with pytest.raises(ValidationError, match="a URL without a path"):
        Web(url="https://models.example/gpu-1")
