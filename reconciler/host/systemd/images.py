"""Images for containers: what podman's storage has, and pulls of what is missing.

A pull is a unit of its own, which goes on when the daemon ends. systemd knows whether it runs, the journal why it
failed, and podman what is there: nothing is written down by us. What was pulled stays; to prune it is the host's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from reconciler.engines.environment import full_name
from reconciler.errors import Retryable
from reconciler.host.process.logs import tail_journal
from reconciler.host.systemd.podman import PODMAN, names, output
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit import BEHIND
from reconciler.host.systemd.unit_files import given_line
from reconciler.model import Fetch, ReasonCode, Staging, host_reason
from reconciler.system.files import Stamp, cannot, stamp_of

# A file tells at once when images change; where podman keeps none there, it is asked again after this time.
_LONGEST_TRUST = 30.0
# A podman that hangs must not take all of the time: after a wait, pause for a multiple of it.
_REST = 4.0
_LINES = 20
_KEY_LENGTH = 16
_RUNNING = ("active", "activating", "deactivating")
# Messages of a registry. This host reports a missing permission, program or file in much the same text, and that is
# retried.
_REFUSALS = re.compile(
    r"manifest unknown|name unknown|unauthorized|(?<!permission )denied|authentication required|invalid reference|"
    r"no image found|invalid username|404 (?:page )?not found|StatusCode: 404|"
    r"(?:manifest|artifact|repository|tag) (?:\S+ )?(?:not found|does not exist)",
    re.IGNORECASE,
)
# An image has tens of gigabytes, so be generous; but a registry may fall silent, and podman then waits forever.
_LONGEST_HOURS = 6


class Images:
    """`folder` is for what a pull has not unpacked yet."""

    def __init__(self, target: str, folder: Path, systemd: Systemd) -> None:
        self._target = target
        self._systemd = systemd
        self._folder = folder.absolute()
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._list: Path | None = None
        self._known: dict[str, str] = {}
        self._stamp: Stamp = None
        self._asked_at = -math.inf
        # Until when podman is not asked again after it failed, and how.
        self._rests_until, self._fault = -math.inf, ""
        # Of each pull that failed: when at last, and how often in a row.
        self._failures: dict[str, tuple[float, int]] = {}

    # ------------------------------------------------------------ looking

    def find(self, image: str) -> str | None:
        """The ID of a local image, or None where it is not there. Raises Retryable when podman does not answer."""
        with self._lock:
            self._refresh(full_name(image))
            return self._known.get(full_name(image))

    def look(self, images: Iterable[str]) -> dict[str, Staging | None]:
        """The state of those of these images that are missing; None where no pull was begun."""
        return dict(self._missing(images))

    def _missing(self, images: Iterable[str]) -> Iterator[tuple[str, Staging | None]]:
        for image in dict.fromkeys(images):
            try:
                if self.find(image):
                    self._failures.pop(image, None)
                else:
                    yield image, self._pulling(image)
            except Retryable as error:
                # Only this image's services need podman.
                yield (
                    image,
                    Staging(
                        Fetch.REFUSED,
                        failures=1,
                        at=time.time(),
                        reason=host_reason(ReasonCode.PODMAN_NOT_FOUND, str(error)),
                    ),
                )

    def _refresh(self, image: str) -> None:
        """Ask podman again when its list changed."""
        stamp = stamp_of(self._list) if self._list else None
        is_old = time.monotonic() - self._asked_at > _LONGEST_TRUST
        if stamp == self._stamp and not (is_old and (stamp is None or image not in self._known)):
            return
        began = time.monotonic()
        if began < self._rests_until:
            raise Retryable(self._fault)
        try:
            self._ask()
        except Retryable as error:
            ended = time.monotonic()
            self._rests_until, self._fault = ended + _REST * (ended - began), str(error)
            raise

    def _ask(self) -> None:
        if self._list is None:
            place = output(PODMAN, "info", "--format", "{{.Store.GraphRoot}}/{{.Store.GraphDriverName}}-images")
            self._list = Path(place.strip()) / "images.json"
        # Looked at before podman is asked: what changes meanwhile is asked about again.
        stamp = stamp_of(self._list)
        listed = output(PODMAN, "images", "--no-trunc", "--format", "json")
        try:
            self._known = names(json.loads(listed))
        except (ValueError, TypeError, AttributeError):
            text = f"{PODMAN} images: its output is not a list of images: {listed.strip()[:200]!a}; run it manually"
            raise Retryable(text) from None
        self._stamp, self._asked_at = stamp, time.monotonic()

    def _pulling(self, image: str) -> Staging | None:
        """What systemd says of its pull."""
        unit = self._unit(image)
        state = self._systemd.outcome(unit)
        if state.active in _RUNNING:
            return Staging(Fetch.RUNNING, done=_size(self._scratch(image)))
        if state.active != "failed":
            # Never begun, or done a moment ago.
            return None
        ended = time.time() - time.monotonic() + state.ended / 1e6
        failures = self._count(image, ended)
        if state.result == "timeout":
            why = f"it was not done after {_LONGEST_HOURS} h, and was ended; see journalctl -u {unit}"
            return Staging(
                Fetch.FAILED, failures=failures, at=ended, reason=host_reason(ReasonCode.IMAGE_PULL_FAILED, why)
            )
        log_lines = tail_journal(unit, _LINES, ended - 1)
        why = _why(log_lines) or f"podman ended without a reason; see journalctl -u {unit}"
        fetch = Fetch.REFUSED if is_refusal(why) else Fetch.FAILED
        return Staging(fetch, failures=failures, at=ended, reason=host_reason(ReasonCode.IMAGE_PULL_FAILED, why))

    def _count(self, image: str, ended: float) -> int:
        at, failures = self._failures.get(image, (0.0, 0))
        if abs(at - ended) > 0.5:
            failures += 1
            self._failures[image] = (ended, failures)
        return failures

    # ------------------------------------------------------------ pulling

    def stage(self, image: str) -> None:
        """Begin to pull it, unless a pull is running. Raises Retryable."""
        # Several services may ask for the same in one pass.
        with self._beginning:
            self._stage(image)

    def _stage(self, image: str) -> None:
        unit, scratch = self._unit(image), self._scratch(image)
        with self._lock:
            self._stamp, self._asked_at = None, -math.inf
        if self.find(image) or self._systemd.outcome(unit).active in _RUNNING:
            return
        try:
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Retryable(cannot(error, scratch, "made", "check the disk")) from None
        self._systemd.reset(unit)
        output(*pull_arguments(full_name(image), unit, scratch))

    def end_all(self) -> None:
        """End every pull. Raises Retryable."""
        output("systemctl", "stop", f"{self._prefix}{'?' * _KEY_LENGTH}.service")
        # One that could not be begun left it.
        shutil.rmtree(self._folder, ignore_errors=True)

    def has_scratch(self) -> bool:
        """Does a pull run, or did one leave something behind? To end all of them, which one does not matter."""
        return self._folder.is_dir() and any(self._folder.iterdir())

    @property
    def _prefix(self) -> str:
        return f"reconciler-pull-{self._target}-"

    def _unit(self, image: str) -> str:
        return f"{self._prefix}{_key(image)}.service"

    def _scratch(self, image: str) -> Path:
        return self._folder / _key(image)


def pull_arguments(name: str, unit: str, scratch: Path) -> tuple[str, ...]:
    """What begins a pull, and returns. Pure."""
    return (
        *("systemd-run", "--quiet", f"--unit={unit}", f"--description=Pull {name}"),
        f"--setenv=TMPDIR={scratch}",
        f"--property=ExecStopPost=-{given_line('/bin/rm', '-rf', '--', str(scratch))}",
        f"--property=RuntimeMaxSec={_LONGEST_HOURS}h",
        # What is not whole yet is pulled again.
        "--property=TimeoutStopSec=10s",
        # Credentials are in its memory. More of a sandbox may hide logins, or mounts that podman counts.
        "--property=LimitCORE=0",
        *(f"--property={line}" for line in BEHIND),
        *(PODMAN, "--events-backend=none", "pull", "--", name),
    )


def is_refusal(why: str) -> bool:
    """Did the registry refuse, rather than something fail? Pure."""
    return bool(_REFUSALS.search(why))


def _why(log_lines: Iterable[str]) -> str:
    output = [line for line in log_lines if line.startswith("Error: ")]
    return output[-1].removeprefix("Error: ") if output else ""


def _key(image: str) -> str:
    return hashlib.sha256(full_name(image).encode()).hexdigest()[:_KEY_LENGTH]


def _size(folder: Path) -> int:
    """Bytes below a folder that is being written to."""
    total = 0
    for here, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total
