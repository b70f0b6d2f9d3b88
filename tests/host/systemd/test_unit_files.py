"""What a pass sees of the files of units while they are being deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.host.systemd import unit_files
from reconciler.host.systemd.unit_files import Drifts


@pytest.mark.parametrize("gone", ["path", "ours"])
def test_file_that_goes_between_two_looks_ends_no_pass_for_ever(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: tmp_path / name / "chat.service" for name in ("path", "ours", "wants")}
    for path in files.values():
        path.parent.mkdir()
        path.write_text("[Service]\n")
    monkeypatch.setattr(unit_files, "WANTS", files["wants"].parent)
    seen = unit_files.stamp_of

    def look_and_delete(path: Path) -> object:
        stamp = seen(path)
        if path == files["ours"]:
            files[gone].unlink()
        return stamp

    monkeypatch.setattr(unit_files, "stamp_of", look_and_delete)
    with pytest.raises(Retryable, match=str(files[gone])):
        Drifts().of(files["path"], files["ours"])
    monkeypatch.undo()
    monkeypatch.setattr(unit_files, "WANTS", files["wants"].parent)
    said = Drifts().of(files["path"], files["ours"])
    assert said == (f"{files['path']} was deleted manually" if gone == "path" else "")
