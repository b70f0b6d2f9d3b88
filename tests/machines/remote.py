"""A git server that machines reach over their network, and over nothing else."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.rig import Document
from tests.machines.network import Switch
from tests.source.https_server import GitServer, make_certificate, serve

PASSWORD = "a-token-of-the-fleet"


@dataclass(frozen=True)
class Remote:
    """Serves the repositories of a folder."""

    folder: Path
    switch: Switch
    server: GitServer

    def source(self, folder: Path) -> Document:
        """How a host's config names it; what the host needs for that is put into its folder."""
        token, ca = folder / "token", folder / "ca.pem"
        token.write_text(PASSWORD)
        token.chmod(0o600)
        if ca.parent != self.folder:
            shutil.copy(self.folder / ca.name, ca)
        url = f"https://{self.switch.network.address}:{self.server.server_port}/models.git"
        return {"url": url, "interval": "1s", "token_file": str(token), "ca_file": str(ca)}


@contextlib.contextmanager
def serve_git(folder: Path, switch: Switch) -> Iterator[Remote]:
    """Until the block ends."""
    _, certificate = make_certificate(folder, switch.network.address)
    with contextlib.ExitStack() as stack:
        with switch.network.entered():
            server = stack.enter_context(serve(folder, PASSWORD, certificate, switch.network.address))
        yield Remote(folder, switch, server)
