"""Secrets of one host: read from a folder outside git, from systemd credentials and, encrypted, from git.

Values live in memory only. They reach a replica when it is started, and nothing that people or machines read.
"""

from reconciler.secrets.sources import SecretSources
from reconciler.secrets.store import NO_SECRETS, SecretStore, StoredSecret

__all__ = ["NO_SECRETS", "SecretSources", "SecretStore", "StoredSecret"]
