"""Downloads by kserve-storage: the folder, the name and the verdict are still the daemon's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reconciler.model import EnvVar, Fetch, Mount
from tests.host.staging.hub import serve_hub
from tests.host.staging.models import Models

pytestmark = pytest.mark.slow
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}


def hub_mount(url: str) -> Mount:
    return Mount("hf://org/model:main", env=(EnvVar("HF_ENDPOINT", url), EnvVar("HF_TOKEN", source="secret hub/token")))


def test_model_of_a_hub_is_fetched_at_one_commit_and_verified(models: Models) -> None:
    models.put_secret("hub", {"token": "hf_that_opens_the_door"})
    with serve_hub(FILES, "hf_that_opens_the_door") as hub:
        mount = hub_mount(hub.url)
        staged = models.fetch_again(mount)
        assert staged.fetch is Fetch.STAGED, (staged, models.log(mount))
        assert models.names(mount) == set(FILES)
        assert (models.found(mount) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        models.stager.unstage(models.key(mount))
        hub.lies = True
        spoilt = models.fetch_again(mount)
        assert spoilt.reason
        assert (spoilt.fetch, spoilt.reason.code) == (Fetch.FAILED, "ChecksumMismatch"), models.log(mount)


def test_hub_that_says_no_is_a_refusal(models: Models) -> None:
    models.put_secret("hub", {"token": "hf_that_opens_nothing"})
    with serve_hub(FILES, "hf_that_opens_the_door") as hub:
        refused = models.fetch_again(hub_mount(hub.url))
    assert refused.reason
    assert refused.fetch is Fetch.REFUSED, refused
    assert "hf_that" not in refused.reason.message
    assert "put HF_TOKEN into a Secret of the service's serviceAccountName" in refused.reason.message


def test_library_that_is_not_installed_is_named(models: Models) -> None:
    refused = models.fetch("hdfs://user/model")
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "LibraryNotInstalled")
    assert "krbcontext" in refused.reason.message


def test_interpreter_without_kserve_storage_says_what_to_install(models: Models) -> None:
    models.stager.close()
    models.python = Path(sys.executable)
    models.stager = models.open()
    refused = models.fetch("s3://models/llama")
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "LibraryNotInstalled")
    assert "targets[].storage.python" in refused.reason.message
