"""A sqlite file that cannot be used: what callers hear, and that it heals."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.system.database import Database, DatabaseSchema

LAYOUT = DatabaseSchema(("CREATE TABLE t (x INTEGER) STRICT;",), "recreated", "everything")


def test_damaged_file_that_cannot_be_moved_aside_is_tried_again(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    folder.mkdir()
    database = Database(folder / "a.db", LAYOUT)
    # What sqlite says of a damaged page and of this has one type.
    database.connection.close()
    folder.rename(elsewhere)
    with pytest.raises(Retryable, match="nor move it aside: No such file"):
        database.read(lambda db: db.execute("SELECT * FROM t").fetchall())
    elsewhere.rename(folder)
    assert database.read(lambda db: db.execute("SELECT * FROM t").fetchall()) == []
    database.close()
