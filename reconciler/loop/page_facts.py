"""What pages of git show beyond the status: from memory, the history, the outbox and our copy of the repository.

Called from the threads of the web side. It reads what passes left behind, and waits neither for a pass nor for git.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from reconciler.config.settings import Settings, TargetSettings
from reconciler.errors import ReconcileError
from reconciler.forge.outbox import Outbox
from reconciler.forge.plan_comment import is_plan_of
from reconciler.model import DesiredState, Plan, Result, Snapshot, Sync
from reconciler.page.change import MOST_ENTRIES, MOST_SERVICES, ChangeFacts, ChangesFacts
from reconciler.page.links import ForgeLinks, forge_links
from reconciler.page.outcomes import EVENTS
from reconciler.page.repository import TargetTree, target_tree
from reconciler.report.convergence import full_name, services
from reconciler.report.history import History
from reconciler.report.planned import Planned, plan_document
from reconciler.report.status import Document, TargetReport
from reconciler.source.commits import Commit, Commits

_MOST_AMBIGUOUS = 10


class DaemonPageFacts:
    """Those of one daemon. `snapshot` is what is read of git now."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        reports: Callable[[], Sequence[tuple[TargetSettings, TargetReport]]],
        snapshot: Callable[[], Snapshot | None],
        outbox: Callable[[], Outbox | None],
    ) -> None:
        self._settings, self._history = settings, history
        self._reports, self._snapshot, self._outbox = reports, snapshot, outbox
        self._links = forge_links(settings)
        self._commits = Commits(settings.state_dir / "git")
        self._trees: dict[str, tuple[tuple[object, ...], TargetTree]] = {}

    def links(self) -> ForgeLinks:
        return self._links

    def find(self, digits: str, status: Document) -> Sequence[str]:
        snapshot = self._snapshot()
        known = set(self._history.begin_with(digits, _MOST_AMBIGUOUS))
        if snapshot and snapshot.revision.startswith(digits):
            known.add(snapshot.revision)
        if not known and (found := self._commits.find(digits)):
            known.add(found)
        if not known and (refused := status["revision"]["refused"]):
            known |= {one for one in (refused["revision"],) if one.startswith(digits)}
        if not known and len(digits) == 40 and self._is_told(digits):
            known.add(digits)
        return sorted(known)

    def _is_told(self, revision: str) -> bool:
        outbox = self._outbox()
        return bool(outbox and outbox.statuses(revision))

    def change(self, revision: str, status: Document) -> ChangeFacts:
        outbox = self._outbox()
        reports = [one for _, one in self._reports() if one.desired and one.desired.revision == revision]
        commit, error = self._commit(revision)
        entries = self._history.entries(MOST_ENTRIES, revision=revision)
        quarantines = [
            (target.name, one)
            for target in self._settings.targets
            for one in self._history.quarantines(target.name).values()
        ]
        is_desired = status["revision"]["desired"] == revision
        sections = outbox.sections() if outbox and not entries else []
        return ChangeFacts(
            revision=revision,
            status=status,
            plan=_planned(status, reports),
            results=_results(reports),
            commit=commit,
            commit_error=error,
            entries=entries,
            deciding=self._history.events([revision], EVENTS),
            quarantines=quarantines,
            successor="" if is_desired else self._history.successor(revision),
            said=outbox.statuses(revision) if outbox else (),
            sections=[one for one in sections if is_plan_of(one, revision)],
        )

    def _commit(self, revision: str) -> tuple[Commit | None, str]:
        try:
            return self._commits.read(revision), ""
        except ReconcileError as error:
            return None, str(error)

    def changes(self, status: Document, limit: int, before: int | None) -> ChangesFacts:
        found = self._history.revisions(limit + 1, before)
        shown = found[:limit]
        names = [one.revision for one in shown]
        try:
            lines = self._commits.lines(names)
        except ReconcileError:
            lines = {}
        return ChangesFacts(
            status=status,
            revisions=[{"revision": one.revision, "firstAt": one.first_at} for one in shown],
            entries=self._history.events(names, EVENTS),
            rejected=[
                {"revision": one["rejected"]["revision"], "target": target["name"], "service": full_name(one)}
                for target, one in services(status)
                if one["rejected"]
            ],
            lines=lines,
            older=shown[-1].place if len(found) > limit else None,
            is_first=before is None,
        )

    def trees(self) -> Sequence[TargetTree]:
        snapshot = self._snapshot()
        return [self._tree(settings, report, snapshot) for settings, report in self._reports()]

    def _tree(self, settings: TargetSettings, report: TargetReport, snapshot: Snapshot | None) -> TargetTree:
        """Worked out again only where a pass left something else behind."""
        desired, plan = report.desired, report.plan
        key = (snapshot, desired, plan)
        known = self._trees.get(settings.name)
        if known is not None and all(old is new for old, new in zip(known[0], key, strict=True)):
            return known[1]
        revision = desired.revision if desired else ""
        read = snapshot if snapshot and snapshot.revision == revision else None
        empty = TargetTree(settings.name, settings.kind, revision, settings.paths, ())
        tree = target_tree(empty, read, desired, plan)
        self._trees[settings.name] = (key, tree)
        return tree


def _planned(status: Document, reports: Sequence[TargetReport]) -> Document:
    """The plan of these targets alone."""
    plans: list[Planned] = [
        (_compared(one.desired, one.plan), one.observed, one.plan)
        for one in reports
        if one.desired and one.observed and one.plan
    ]
    names = {one.desired.target for one in reports if one.desired}
    return plan_document(status | {"targets": [one for one in status["targets"] if one["name"] in names]}, plans)


def _compared(desired: DesiredState, plan: Plan) -> DesiredState:
    """With the services alone whose fields are compared with what runs, which takes a millisecond of each."""
    synced = {service for service, verdict in plan.verdicts.items() if verdict.sync is Sync.SYNCED}
    moving = (one for one in desired.services if one.id not in synced)
    return replace(desired, services=tuple(islice(moving, MOST_SERVICES)))


def _results(reports: Sequence[TargetReport]) -> dict[str, Sequence[Result]]:
    return {one.desired.target: one.last_results for one in reports if one.desired}
