"""Where the program begins: this package becomes importable, and nothing else from its installation folder.

So whatever else the daemon's interpreter has can not get between the storage libraries and what they need.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _make_importable() -> None:
    home = Path(__file__).resolve().parents[3]
    spec = importlib.util.spec_from_file_location(
        home.name, home / "__init__.py", submodule_search_locations=[str(home)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{home}: is not a package")
    package = importlib.util.module_from_spec(spec)
    sys.modules[home.name] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    # What a source sends must never lie where an interpreter looks for code.
    sys.dont_write_bytecode = True
    _make_importable()
    from reconciler.host.staging.download.program import main

    sys.exit(main())
