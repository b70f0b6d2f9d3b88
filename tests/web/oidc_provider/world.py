"""A daemon and the identity provider that people log in with, both running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.web.asking import Asker, config, serving
from tests.web.oidc_provider.process import CLIENT, SECRET, Person, Provider, provider


@dataclass
class World:
    """A daemon whose page is at `url`, and the provider that people log in with, which `away` ends."""

    browser: Asker
    provider: Provider
    url: str
    away: ExitStack

    def person(self) -> tuple[Asker, Person]:
        """With a browser of their own."""
        return replace(self.browser), Person(self.provider)


@contextmanager
def running(folder: Path) -> Iterator[World]:
    url = f"http://127.0.0.1:{free_port()}"
    (folder / "secret").write_text(SECRET)
    with ExitStack() as away:
        real = away.enter_context(provider(folder, f"{url}/login/callback"))
        oidc: dict[str, Any] = {
            "issuer": real.issuer,
            "client_id": CLIENT,
            "client_secret_file": str(folder / "secret"),
            "ca_file": str(real.ca_file),
            "scopes": ["email", "groups"],
            "viewers": ["models-viewers"],
            "operators": ["models-operators"],
        }
        settings = config(folder, listen=url.removeprefix("http://"), url=url, auth={"oidc": oidc})
        with serving(settings) as side:
            yield World(Asker(side), real, url, away)
