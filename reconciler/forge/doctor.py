"""What a doctor finds of the forge, of webhooks and of notifications. Nothing is posted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from reconciler.config.forge import ForgeSettings, WebhookSettings
from reconciler.config.secret_files import read_secret
from reconciler.config.settings import Settings
from reconciler.config.values import is_loopback
from reconciler.errors import ReconcileError
from reconciler.forge.checks import wanted
from reconciler.forge.http import Http, Request
from reconciler.forge.open import open_forge
from reconciler.forge.receiver import Receiver
from reconciler.forge.remote import Remote, find_remote
from reconciler.report.findings import CheckResult, exposed, ok, problem, raised, warning

_MOST_SKEW = 60.0
_SHORT_SECRET = 16


def check_forge(settings: Settings) -> Iterator[CheckResult]:
    """It answers at its address, its clock is ours, it knows the login and lets it do what the config wants."""
    forge = settings.forge
    if not forge.is_used:
        yield ok("forge", "neither forge.token_file nor forge.app is set: commits are not answered")
        return
    for path in forge.files:
        yield from exposed("forge", "forge.app.key_file" if forge.app else "forge.token_file", path)
    remote = find_remote(settings.source.url, forge)
    yield from _clock(remote, forge)
    yield from wanted(open_forge(settings).check(), forge)


def _clock(remote: Remote, forge: ForgeSettings) -> Iterator[CheckResult]:
    """By the time in any answer, also a refusal."""
    http = Http(remote.api, dict, called=remote.host, ca_file=forge.ca_file, timeout=forge.timeout)
    try:
        answer = http.ask(Request("GET", "/", also_fine=tuple(range(300, 500))))
    finally:
        http.close()
    skew = _skew(answer.headers.get("date"), time.time())
    if skew is None:
        return
    if abs(skew) <= _MOST_SKEW:
        yield ok("forge", f"its clock and ours differ by {abs(skew):.0f} s at most")
        return
    message = f"our clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} that of {remote.host}"
    fix = "correct this machine's clock: timedatectl set-ntp true"
    if forge.app:
        yield problem("forge", f"{message}: GitHub refuses the login of an app", fix)
    else:
        yield warning("forge", message, fix)


def _skew(date: str | None, now: float) -> float | None:
    """Seconds that we are ahead; None: it does not say."""
    try:
        return now - parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, TypeError, OverflowError):
        return None


def check_webhooks(settings: Settings) -> Iterator[CheckResult]:
    """Their secrets are there, and the address may be reached by others."""
    for index, webhook in enumerate(settings.web.webhooks):
        yield from _webhook(webhook, f"web.webhooks[{index}]", settings)
    if settings.web.webhooks and is_loopback(settings.web.listen):
        message = f"web.listen: no forge reaches {settings.web.listen}"
        fix = (
            "let a reverse proxy with TLS on this host pass on /webhooks/, or listen on another address; without, a "
            f"push is noticed when git is asked, every {settings.source.interval:g} s"
        )
        yield warning("webhooks", message, fix)


def _webhook(webhook: WebhookSettings, key: str, settings: Settings) -> Iterator[CheckResult]:
    for path in webhook.files:
        yield from exposed("webhooks", f"{key}.secret_file", path)
    secret = read_secret(webhook.secret_file, f"{key}.secret_file")
    if len(secret) < _SHORT_SECRET:
        fix = "make a longer one, here and at the forge: openssl rand -hex 32"
        yield warning("webhooks", f"{webhook.name}: a secret of {len(secret)} characters can be guessed", fix)
    base = (settings.web.url or "https://ADDRESS-OF-THIS-DAEMON").rstrip("/")
    yield ok("webhooks", f"{webhook.name} ({webhook.kind}): its secret is there; {base}/webhooks/{webhook.name}")


def check_notifications(settings: Settings) -> Iterator[CheckResult]:
    """Their addresses and secrets can be read."""
    for index, one in enumerate(settings.notifications):
        key = f"notifications[{index}]"
        for path in one.files:
            yield from exposed("notifications", key, path)
        yield _receiver(Receiver(one, key))


def _receiver(receiver: Receiver) -> CheckResult:
    try:
        receiver.url()
        is_signed = receiver.secret() is not None
    except ReconcileError as error:
        return raised("notifications", error)
    return ok("notifications", f"{receiver.name}: has an https URL, {'signed' if is_signed else 'not signed'}")
