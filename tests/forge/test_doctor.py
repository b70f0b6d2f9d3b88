"""What a doctor says of the forge, of webhooks and of notifications, with real HTTPS on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.forge import ForgeSettings, NotificationSettings, WebhookSettings
from reconciler.config.settings import Settings, SourceSettings, Web
from reconciler.forge import doctor
from reconciler.report.findings import CheckResult, Level, made
from tests.forge.local_forge import LocalForge, Reply, local_forge
from tests.support import report_world


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def there(certificates: Path) -> Iterator[LocalForge]:
    """A forge that refuses everyone, and says what time it is."""
    with local_forge(certificates, lambda _: Reply(401, {"message": "who are you?"})) as server:
        yield server


@pytest.fixture
def forge(there: LocalForge, tmp_path: Path) -> dict[str, Any]:
    """Settings of a forge at this address."""
    return {
        "kind": "gitea",
        "url": there.url,
        "repository": "team/models",
        "token_file": str(secret(tmp_path / "token")),
        "ca_file": there.ca_file,
    }


def secret(path: Path, text: str = "0123456789abcdef0123456789abcdef") -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def settings(tmp_path: Path, **fields: Any) -> Settings:
    source = SourceSettings(url="https://git.invalid/team/models.git")
    return report_world.settings(tmp_path, **({"source": source} | fields))


def found(check: Any, known: Settings) -> list[CheckResult]:
    return list(made("x", lambda: check(known)))


def only(results: list[CheckResult], text: str) -> CheckResult:
    (one,) = [one for one in results if text in one.message]
    return one


def test_nothing_is_asked_without_a_token(tmp_path: Path):
    (one,) = found(doctor.check_forge, settings(tmp_path))
    assert (one.level, "commits are not answered" in one.message) == (Level.OK, True)


@pytest.mark.parametrize(
    ("skew", "level", "words"),
    [
        (0.0, Level.OK, "its clock and ours differ by"),
        (300.0, Level.WARNING, "behind that of 127.0.0.1"),
        (-300.0, Level.WARNING, "ahead of that of 127.0.0.1"),
    ],
)
def test_clock_is_compared_with_the_forges(
    there: LocalForge, forge: dict[str, Any], tmp_path: Path, skew: float, level: Level, words: str
):
    there.ahead = skew
    known = settings(tmp_path, forge=ForgeSettings(**forge))
    assert only(found(doctor.check_forge, known), words).level is level


def test_clock_that_is_wrong_is_a_problem_for_an_app(there: LocalForge, forge: dict[str, Any], tmp_path: Path):
    there.ahead = 300.0
    app = {"id": 7, "key_file": str(secret(tmp_path / "key"))}
    known = settings(tmp_path, forge=ForgeSettings(**(forge | {"kind": "github", "token_file": None, "app": app})))
    assert only(found(doctor.check_forge, known), "GitHub refuses").level is Level.PROBLEM


def test_forge_that_is_away_is_one_problem(forge: dict[str, Any], tmp_path: Path):
    known = settings(tmp_path, forge=ForgeSettings(**(forge | {"url": "https://127.0.0.1:1"})))
    (one,) = found(doctor.check_forge, known)
    assert (one.level, "no answer" in one.message) == (Level.PROBLEM, True)


def test_repository_without_a_forge_names_the_keys_to_set(tmp_path: Path):
    token = str(secret(tmp_path / "token"))
    known = settings(tmp_path, source=SourceSettings(url="/srv/models.git"), forge=ForgeSettings(token_file=token))
    (one,) = found(doctor.check_forge, known)
    assert one.level is Level.PROBLEM
    assert "forge.kind, forge.url" in one.fix


def test_token_that_others_may_read_is_a_warning(forge: dict[str, Any], tmp_path: Path):
    (tmp_path / "token").chmod(0o644)
    known = settings(tmp_path, forge=ForgeSettings(**forge))
    assert only(found(doctor.check_forge, known), "other users may read").level is Level.WARNING


def webhooks(tmp_path: Path, text: str, listen: str = "0.0.0.0:9464") -> list[CheckResult]:
    one = WebhookSettings(name="push", kind="github", secret_file=str(secret(tmp_path / "hook", text)))
    web = Web(listen=listen, webhooks=(one,), url="https://gpu-1.example.com/")
    return found(doctor.check_webhooks, settings(tmp_path, web=web))


def test_webhook_that_is_ready_names_its_url(tmp_path: Path):
    (one,) = webhooks(tmp_path, "x" * 32)
    assert one.level is Level.OK
    assert "https://gpu-1.example.com/webhooks/push" in one.message


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "localhost:9464", "[::1]:9464"])
def test_webhook_at_loopback_is_a_warning_with_two_ways_out(tmp_path: Path, listen: str):
    one = only(webhooks(tmp_path, "x" * 32, listen), f"no forge reaches {listen}")
    assert one.level is Level.WARNING
    assert "reverse proxy" in one.fix
    assert "every 60 s" in one.fix


def test_webhook_with_a_short_secret_is_a_warning(tmp_path: Path):
    assert only(webhooks(tmp_path, "hunter2"), "7 characters can be guessed").level is Level.WARNING


def test_webhook_without_its_secret_is_a_problem(tmp_path: Path):
    (one,) = webhooks(tmp_path, "")
    assert (one.level, "web.webhooks[0].secret_file" in one.message) == (Level.PROBLEM, True)


def test_notification_is_judged_without_being_sent(tmp_path: Path):
    good = NotificationSettings(name="ops", url_file=str(secret(tmp_path / "url", "https://127.0.0.1:1/T00SECRET")))
    bad = NotificationSettings(name="dev", url_file=str(secret(tmp_path / "dev", "http://127.0.0.1:1/T00SECRET")))
    results = found(doctor.check_notifications, settings(tmp_path, notifications=(good, bad)))
    assert [one.level for one in results] == [Level.OK, Level.PROBLEM]
    assert "T00SECRET" not in str(results)
    assert "notifications[1].url_file" in results[1].message
