"""From the end of a `git push` to a local repository to the daemon's first action for it. Prints JSON.

The first action asks the installed engine about the new arguments; no engine has to run for that.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from tests.e2e.rig import Rig


def main(reconciler: int = 15) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        rig = Rig(Path(folder) / "rig", python=Path(sys.executable), model=model)
        rig.start()
        rig.wait("the first pass", lambda: rig.service())
        waits = [measure(rig, 20 + one_pass) for one_pass in range(reconciler)]
        rig.close()
    figures = {"push_to_first_action_ms_p50": statistics.median(waits), "push_to_first_action_ms_max": max(waits)}
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


def measure(rig: Rig, seqs: int) -> float:
    rig.repository.edit("demo/tiny.yaml", r"--max-num-seqs=\d+", f"--max-num-seqs={seqs}")
    revision = rig.repository.push("Change an argument")
    pushed = time.time()
    return (rig.wait("the first action", lambda: first_action(rig, revision), 60) - pushed) * 1e3


def first_action(rig: Rig, revision: str) -> float | None:
    for line in rig.words(20).splitlines():
        event = json.loads(line)
        if (
            event["event"].startswith(("preflight_started", "ask_preflight_failed"))
            and event.get("revision") == revision
        ):
            return datetime.fromisoformat(event["timestamp"]).timestamp()
    return None


if __name__ == "__main__":
    main()
