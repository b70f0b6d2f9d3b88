"""The pages of deploy/forges/: their configurations can be used, and they name every kind and event there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from reconciler.config.forge import ForgeKind, NotificationSettings, WebhookSettings
from reconciler.config.settings import Settings
from reconciler.forge import notifications
from tests.docs.documents import ROOT

PAGES = sorted((ROOT / "deploy" / "forges").glob("*.md"))
_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_EVENT = re.compile(r'"((?:source|target|service|deletions|revision)\.[a-z]+)"')
_BASE: dict[str, Any] = {
    "source": {"url": "https://git.example.com/team/models.git"},
    "targets": [{"name": "gpu-1", "paths": ["runtimes", "hosts/gpu-1"]}],
}


def _configurations() -> Iterator[tuple[str, dict[str, Any]]]:
    for page in PAGES:
        for text in _BLOCK.findall(page.read_text()):
            document = yaml.safe_load(text)
            if set(document) <= {*Settings.model_fields}:
                yield page.name, document


def test_configurations_can_be_used(tmp_path: Path):
    found = list(_configurations())
    assert {name for name, _ in found} == {page.name for page in PAGES}
    for name, document in found:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(_BASE | document))
        assert Settings.load(path).forge


def test_every_kind_of_forge_is_named():
    text = "".join(page.read_text() for page in PAGES)
    kinds = {*get_args(ForgeKind)} - {"auto", "none", "github", "gitlab", "bitbucket"}
    assert [kind for kind in kinds if f"kind: {kind}" not in text] == []


@pytest.mark.parametrize("model", [WebhookSettings, NotificationSettings])
def test_every_kind_of_webhook_and_notification_is_shown(model: type[Any]):
    text = "".join(page.read_text() for page in PAGES)
    assert [kind for kind in get_args(model.model_fields["kind"].annotation) if f"kind: {kind}" not in text] == []


def test_every_event_is_listed_and_no_other():
    known = set(_EVENT.findall(Path(notifications.__file__).read_text()))
    listed = set(
        re.findall(r"^\| `reconciler\.(\S+)\.v1`", (ROOT / "deploy/forges/README.md").read_text(), re.MULTILINE)
    )
    assert listed == known
    assert len(known) > 10
