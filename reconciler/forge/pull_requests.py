"""What a pull request is answered with: for each target a commit status and a section of the comment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from reconciler.config.forge import ForgeSettings
from reconciler.errors import SettingsError
from reconciler.forge.comments import deliver
from reconciler.forge.fleet import in_group
from reconciler.forge.messages import CommentSection, CommitStatus, Deployment, Message
from reconciler.forge.plan_comment import failed_plan, plan_section, plan_status
from reconciler.forge.port import Forge
from reconciler.report.status import Document

# GitHub and Gitea say it in GITHUB_REF alone.
_NUMBERS = (
    "CI_MERGE_REQUEST_IID",
    "BITBUCKET_PR_ID",
    "SYSTEM_PULLREQUEST_PULLREQUESTID",
    "CI_COMMIT_PULL_REQUEST",
    "DRONE_PULL_REQUEST",
    "CHANGE_ID",
)
_MOST_DIGITS = 12


def answers_to(plan: Document, pull_request: int, *, group: str = "", url: str = "") -> Iterator[Message]:
    """Of all targets that a plan is about. Where they are a `group` of many hosts, one that nothing changes for has no
    section. Pure."""
    for target in plan["targets"]:
        yield _of_group(plan_status(target, url), group)
        yield plan_section(target, pull_request, only_concerned=bool(group))


def answers_without_plan(
    revision: str, targets: Iterable[str], pull_request: int, why: str, *, group: str = ""
) -> Iterator[Message]:
    """Where a revision cannot be planned. A thousand hosts need not say so in a comment as well. Pure."""
    for name in targets:
        status, section = failed_plan(revision, name, pull_request, why)
        yield _of_group(status, group)
        if not group:
            yield section


def group_of(settings: ForgeSettings) -> str:
    """What many hosts are called together; empty: each speaks for itself."""
    return settings.group if settings.statuses == "aggregate" else ""


def _of_group(status: CommitStatus, group: str) -> CommitStatus:
    return in_group(status, group) if group else status


def pull_request_of(environ: Mapping[str, str]) -> int | None:
    """The pull request for which a CI runs, by its variables."""
    parts = environ.get("GITHUB_REF", "").split("/")
    named = parts[2] if parts[:2] == ["refs", "pull"] and len(parts) > 2 else ""
    for text in (named, *(environ.get(name, "") for name in _NUMBERS)):
        if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
            return int(text)
    return None


def find_pull_request(forge: Forge, base: str | None, revision: str) -> int:
    """The open one whose newest commit is this. Raises SettingsError where there is none, and as the port."""
    found = [one for one in forge.pull_requests(base) if one.head == revision] if base else []
    if not found:
        where = f" into {base}" if base else ""
        raise SettingsError(
            f"{forge.name} has no open pull request{where} whose newest commit is {revision[:12]}; "
            "name it: --pull-request N"
        )
    return found[0].number


def send(forge: Forge, messages: Iterable[Message]) -> None:
    """At once, without an outbox. Raises as the port."""
    for message in messages:
        match message:
            case CommitStatus():
                forge.set_status(message)
            case Deployment():
                forge.set_deployment(message)
            case CommentSection():
                deliver(forge, message)
