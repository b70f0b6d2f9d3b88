"""Forges on loopback, and the provider that a config makes for one; GitHub unless it says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reconciler.config.forge import ForgeSettings
from reconciler.config.settings import Settings, SourceSettings
from reconciler.forge.open import open_forge
from reconciler.forge.port import Forge
from tests.forge.github_api import NAME
from tests.forge.local_forge import TOKEN, LocalForge
from tests.support import report_world


def settings(server: LocalForge, folder: Path, **forge: Any) -> Settings:
    known: dict[str, Any] = {"kind": "github", "url": server.url, "ca_file": server.ca_file}
    if "app" not in forge:
        known["token_file"] = str(token_file(folder))
    source = SourceSettings(url=f"git@github.example.com:{NAME}.git")
    return report_world.settings(folder, source=source, forge=ForgeSettings.model_validate(known | forge))


def token_file(folder: Path, token: str = TOKEN) -> Path:
    path = folder / "token"
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    return path


def provider(server: LocalForge, folder: Path, **forge: Any) -> Forge:
    return open_forge(settings(server, folder, **forge))
