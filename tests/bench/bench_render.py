"""`render` of many services against what libyaml needs to parse them, on one core. Prints JSON; asserts nothing.

    python tests/bench/bench_render.py [COUNT]

All times are CPU seconds. `render` is the whole command in a process of its own, its start-up included.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PAIR = Path(__file__).parent.parent / "data" / "example_pair.yaml"


def write_services(count: int, folder: Path) -> tuple[Path, Path]:
    """The documented service `count` times: as one file, and as a folder with a file each."""
    runtime, service = PAIR.read_text().split("\n---\n")
    service = service.replace("vLLM ServingRuntime for KServe", "vllm-runtime")
    texts = [runtime, *(service.replace("name: granite\n", f"name: granite-{n}\n") for n in range(count))]
    one, many = folder / "all.yaml", folder / "many"
    one.write_text("\n---\n".join(texts))
    many.mkdir()
    for number, text in enumerate(texts):
        (many / f"{number}.yaml").write_text(text)
    return one, many


def parse_seconds(path: Path) -> float:
    text = path.read_bytes()
    began = time.process_time()
    for _ in yaml.load_all(text, yaml.CSafeLoader):
        pass
    return time.process_time() - began


def render_seconds(path: Path) -> tuple[float, int]:
    """CPU seconds of the command, and the bytes that it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "reconciler", "render", str(path), "-o", "json"]
        # The example's secrets are not in the tree: the answer is no, and complete.
        subprocess.run(command, stdout=output, check=False, env=os.environ)
        size = output.seek(0, os.SEEK_END)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, size


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as scratch:
        one, many = write_services(count, Path(scratch))
        parse = min(parse_seconds(one) for _ in range(3))
        figures: dict[str, float] = {"services": count, "parse_s": round(parse, 3)}
        for name, path in (("one_file", one), ("files", many)):
            seconds, size = min(render_seconds(path) for _ in range(3))
            figures |= {f"{name}_s": round(seconds, 3), f"{name}_ratio": round(seconds / parse, 2)}
            figures[f"{name}_mb"] = size >> 20
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
