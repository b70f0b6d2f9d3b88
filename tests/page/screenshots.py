"""Makes the pictures of the page in README.md, of a real daemon and real engines: `python -m tests.page.screenshots`.

The models are as small as a model can be, and the GPUs are made of files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Page

from tests.page.browser import Visitor, chromium
from tests.page.installation import Site
from tests.support.engine.fixtures import find_place, hold, make_model
from tests.support.nvml.driver import GIB, Driver

IMAGES = Path(__file__).parents[2] / "deploy" / "images"
SIZE = {"width": 1280, "height": 800}
MOST_BYTES = 150_000
SERVICES = {"llama-3-3-70b": "0.9", "mistral-small": "0.5", "gpt-oss-20b": "0.4", "qwen3-coder": "0.4"}
ROLLING, MISTAKEN = "qwen3-coder", "gemma-3-27b"


class Showcase(Site):
    """Five services on five GPUs. One answers long enough that a drain can be seen."""

    def __init__(self, folder: Path, python: Path, model: Path) -> None:
        self.driver = Driver(folder / "gpus", gpus=5, memory=80 * GIB, name="NVIDIA H100")
        self.driver.partition(self.driver.uuids[3], "3g.40gb", "3g.40gb")
        self.driver.hold(self.driver.uuids[4], os.getpid(), 61 * GIB, listed=True)
        super().__init__(folder / "rig", python, model, target={"name": "gpu-1", "gpus": "auto"})
        for name in SERVICES:
            shutil.copytree(model, self.models / name)
        files: dict[str, str | None] = {f"demo/{name}.yaml": self.serve(name) for name in SERVICES}
        self.mistaken = self.manifest(MISTAKEN, "0.3", ("--max-model-len=", "--max-modle-len="))
        host = self.read("demo/host.yaml").replace("name: demo", "name: gpu-1")
        self.write({"demo/tiny.yaml": None, "demo/host.yaml": host} | files, "Serve four models")
        self.share_cache()

    def serve(self, name: str) -> str:
        """The manifest of a service."""
        own = ("display-name: Tiny", f"display-name: {name}"), ("models/tiny", f"models/{name}")
        return self.manifest(name, SERVICES[name], *own, ("--max-model-len=256", "--max-model-len=4096"))

    def settle(self) -> None:
        """Wait until all of them serve."""
        self.wait("all to serve", lambda: all(self.is_healthy(name) for name in SERVICES))
        # As engines on real GPUs would.
        for name, fraction in SERVICES.items():
            for record in self.records(name):
                assert record.process is not None
                self.driver.hold(*record.lease.gpus, record.process.pid, int(float(fraction) * 78 * GIB), listed=True)

    def be_mistaken(self) -> None:
        """Push a service with a misspelt argument, and wait until it is refused."""
        self.write({f"demo/{MISTAKEN}.yaml": self.mistaken}, f"Serve {MISTAKEN}")
        self.wait("it to be refused", lambda: self.is_rejected(MISTAKEN))

    def roll_out(self) -> None:
        """Push a change."""
        path = f"demo/{ROLLING}.yaml"
        text = self.read(path).replace("--max-num-seqs=8", "--max-num-seqs=16")
        self.write({path: text}, f"Let {ROLLING} answer 16 requests at a time")


def take_pictures(site: Showcase, visitor: Visitor) -> None:
    site.start()
    site.settle()
    site.be_mistaken()
    overview, service = visitor.open("/"), visitor.open(f"/services/gpu-1/default/{ROLLING}")
    with site.load(ROLLING, streams=6, posts=0, stream_tokens=3500):
        site.roll_out()
        service.locator("#rollout").get_by_text(" running").wait_for()
        shoot(service, "service")
        overview.reload()
        shoot(overview, "overview")


def shoot(page: Page, name: str) -> None:
    """What fits on a screen, as a small file."""
    path = IMAGES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    page.screenshot(path=path)
    assert path.stat().st_size <= MOST_BYTES, f"{path}: {path.stat().st_size} bytes"


def main() -> None:
    place = find_place()
    with tempfile.TemporaryDirectory() as folder, closing(hold(place)), chromium() as browser:
        site = Showcase(Path(folder) / "site", place.python, make_model(place))
        try:
            visitor = Visitor(browser, site.address, viewport=SIZE, reduced_motion="reduce", **site.operator)
            take_pictures(site, visitor)
            visitor.judge()
        finally:
            site.close()


if __name__ == "__main__":
    main()
