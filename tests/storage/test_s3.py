"""Models in S3, from a real S3 server."""

from __future__ import annotations

from reconciler.model import Fetch
from tests.storage.conftest import S3
from tests.storage.models import Models

MIB = 1 << 20


def test_a_prefix_ends_where_a_name_ends(s3: S3, models: Models) -> None:
    s3.put("llama/config.json", b"{}")
    s3.put("llama/shards/0.bin", b"0" * 100)
    s3.put("llama-2/config.json", b'{"other": 1}')
    s3.put("llama/empty", b"")
    mount = models.begin("s3://models/llama", s3.env)
    staged = models.wait(mount)
    assert (staged.fetch, staged.done, staged.total) == (Fetch.STAGED, 102, 102), (staged, models.log(mount))
    assert models.names(mount) == {"config.json", "shards/0.bin"}
