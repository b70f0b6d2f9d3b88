"""Ten thousand webhooks at once."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import pytest

from reconciler.web.webhooks.routes import WebhookResult
from tests.web.test_web import get
from tests.web.test_webhooks import Receiver
from tests.web.webhook_flood import Flood
from tests.web.webhook_senders import SECRETS

pytestmark = pytest.mark.slow


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_flood_of_10_000_requests_costs_no_memory_and_no_answer(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    try:
        Flood(receiver.address, 2_000).wait()
        before = resident_bytes()
        flood, answered = Flood(receiver.address, 10_000), 0
        while not flood.is_over:
            assert get(receiver.web, "/healthz")[0] == 200
            answered += 1
        answers = flood.wait()
        assert answered > 20
        assert set(answers) <= {"202", "403", "404", "none"}
        assert answers["202"] > 3_000
        assert answers["none"] < 100
        assert resident_bytes() - before < 24 << 20
        asked = sum(receiver.counted(name, WebhookResult.SOURCE_ASKED) for name in SECRETS)
        assert asked >= answers["202"]
        # Once a second at most.
        assert len(receiver.asked) < asked / 10
    finally:
        receiver.web.stop()
