"""Incremental evaluation: after any sequence of revisions the result equals a fresh evaluation of the last one."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Collection
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from reconciler.config.settings import HostSettings, SourceSettings
from reconciler.errors import NotUnderstood, RevisionRefused, Terminal
from reconciler.evaluation.evaluator import Evaluated, Evaluator
from reconciler.evaluation.sandbox import Sandbox
from reconciler.evaluation.wire import dump_answers, dump_request, load_answers, load_request
from reconciler.manifests import assembly, find_supporting, is_hidden, is_manifest
from reconciler.manifests.kustomize import build
from reconciler.model import DesiredState, File, Origin, Reason, ReasonCode, Snapshot, is_under
from reconciler.source import Check, GitSource
from tests.desired.test_desired import HOST, RUNTIME, SERVICE
from tests.manifests.test_templating import OPENSHIFT
from tests.support.examples import examples
from tests.support.git_repository import Repository

# Few places, so that the same ones change often.
FOLDERS = ("runtimes", "base", "hosts", "hosts/box", "hosts/box/a", "hosts/box/.b", "hosts/other")
NAMES = (
    "x.yaml",
    "y.yaml",
    "z.json",
    "host.yaml",
    "kustomization.yaml",
    "Kustomization",
    "data.txt",
    ".reconcilerignore",
)
PATHS = st.builds(lambda folder, name: f"{folder}/{name}", st.sampled_from(FOLDERS), st.sampled_from(NAMES))


def service(name: str, *more: str) -> str:
    return SERVICE.replace("name: chat", f"name: {name}") + "".join(more)


def config_map(name: str, value: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: '{value}'}}\n"


def secret(name: str, value: str) -> str:
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{a: '{value}'}}\n"


WITH_MAP = SERVICE.replace("    model:\n", "    model:\n      envFrom: [{configMapRef: {name: map}}]\n")
WITH_SECRET = SERVICE.replace(
    "    model:\n", "    model:\n      env: [{name: A, valueFrom: {secretKeyRef: {name: key, key: a}}}]\n"
)
UNNAMED = SERVICE.replace("      runtime: vllm\n", "")
ANNOTATED = SERVICE.replace(
    "metadata:\n", "metadata:\n  annotations: {'opendatahub.io/hardware-profile-name': small}\n"
)
PROFILE = """\
apiVersion: infrastructure.opendatahub.io/v1
kind: HardwareProfile
metadata: {name: small}
spec: {identifiers: [{identifier: memory, displayName: m, resourceType: Memory, defaultCount: 2Gi}]}
"""
SETTINGS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kserve}
data: {ingress: '{"ingressGateway": "a/b"}'}
"""
ACCOUNT = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\nsecrets: [{name: key}]\n"
TEXTS = (
    *(service(name) for name in ("chat", "talk", "-bad-")),
    *(WITH_MAP, WITH_SECRET, UNNAMED, ANNOTATED, f"{SERVICE}---\n{RUNTIME}"),
    SERVICE.replace("storageUri", "storageUrl"),
    SERVICE.replace("--max-model-len", "--other"),
    SERVICE.replace("name: chat", "name: ${NAME}"),
    SERVICE.replace("metadata:\n", "metadata:\n  namespace: other\n"),
    RUNTIME,
    RUNTIME.replace("name: vllm\n", "name: other\n"),
    RUNTIME.replace("vllm:1", "vllm:2"),
    RUNTIME + "labels: {a: b}\n",
    RUNTIME + "x: [\n",
    RUNTIME.replace("kind: ServingRuntime", "kind: ServingRuntimes"),
    RUNTIME.replace("kind: ServingRuntime", "kind: ClusterServingRuntime"),
    OPENSHIFT,
    OPENSHIFT.replace("name: vllm", "name: other"),
    config_map("map", "1"),
    config_map("map", "2"),
    config_map("map", "2").replace("data: {", "data: [{"),
    config_map("map", "2") + "more: 1\n",
    secret("key", "1"),
    secret("key", "2"),
    ACCOUNT,
    ACCOUNT.replace("secrets", "secret"),
    *(PROFILE, PROFILE.replace("2Gi", "3Gi"), SETTINGS, SETTINGS.replace("'{", "'{,")),
    HOST,
    HOST.replace("spec: {}", "spec: {unschedulable: true}"),
    HOST.replace("spec: {}", "spec: []"),
    '{"kind": "InferenceService"',
    "resources: [x.yaml]\n",
    "resources: [x.yaml, y.yaml]\nnamePrefix: a-\n",
    "resources: [../../base]\nnameSuffix: -b\n",
    "resources: [../base, a]\n",
    "resources: [../base]\n",
    "resources: [a]\nnamespace: team\n",
    "resources: [../runtimes, box]\ncommonLabels: {a: b}\n",
    "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nresources: [x.yaml]\n",
    "resources: [x.yaml]\nconfigMapGenerator: [{name: map, files: [data.txt]}]\n",
    "resources: [x.yaml]\npatches: [{path: y.yaml}]\n",
    "resources: [\n",
    "a: 1\n",
    "x.yaml\n",
    "a/\n",
    "*.yaml\n!x.yaml\n",
    "!\0\n",
    "",
    f"#{'x' * 5_000}\n{SERVICE}",
    "".join(f"{service(f'many-{number}')}---\n" for number in range(6)),
)

CHANGES = [
    *permutations(["vllm", "other"], 2),
    *permutations(["chat", "talk"], 2),
    *permutations(["x.yaml", "y.yaml"], 2),
    *permutations(["kind: ServingRuntime\n", "kind: ClusterServingRuntime\n", "kind: ServingRuntime2\n"], 2),
    *permutations(["ConfigMap", "ConfigMapp", "Secret", "Template"], 2),
    ("spec:", "more: 1\nspec:"),
    ("more: 1\n", ""),
    ("metadata:", "metadata: ["),
    ("metadata: [", "metadata:"),
    ("metadata: {", "metadata: {namespace: team, "),
    ("namespace: team, ", ""),
    ("---\n", "\n"),
    ("resources: [", "namePrefix: a-\nresources: ["),
    ("namePrefix: a-\n", ""),
    ("resources: [", "resources: [../../base, "),
    ("../../base, ", ""),
    ("apiVersion", "# more\napiVersion"),
]

Tree = dict[str, str]
FIRST: Tree = {
    "runtimes/x.yaml": RUNTIME,
    "runtimes/y.yaml": OPENSHIFT.replace("name: vllm", "name: other"),
    "runtimes/z.json": ACCOUNT,
    "hosts/host.yaml": HOST,
    "hosts/box/host.yaml": HOST,
    "hosts/box/x.yaml": SERVICE,
    "hosts/box/y.yaml": UNNAMED.replace("chat", "talk"),
    "hosts/box/a/x.yaml": WITH_MAP.replace("chat", "with-map"),
    "hosts/box/a/y.yaml": config_map("map", "1"),
    "hosts/other/kustomization.yaml": "resources: [../../base]\nnameSuffix: -b\n",
    "base/x.yaml": WITH_SECRET.replace("chat", "with-secret"),
    "base/y.yaml": secret("key", "0"),
    "base/kustomization.yaml": "resources: [x.yaml, y.yaml]\n",
}
# A link is a file with this before the name of what it leads to.
LINK = "-> "


class Relay:
    """The daemon's and the worker's ends of the wire protocol in one process."""

    def __init__(self, targets: Collection[HostSettings]) -> None:
        self.targets = targets
        self.die()

    def die(self) -> None:
        self.evaluators = {each.name: Evaluator(each) for each in self.targets}
        self.said: dict[str, Evaluated] = {}
        self.before: dict[str, Evaluated] = {}
        self.known = frozenset[tuple[str, str]]()

    def evaluate(self, snapshot: Snapshot) -> dict[str, DesiredState]:
        asked = load_request(dump_request(snapshot, self.known))
        now = {name: each.look(asked) for name, each in self.evaluators.items()}
        unread = {each for one in self.evaluators.values() for each in one.unread()}
        answer = dump_answers(now, self.before, unread)
        self.before = now
        self.said, lost = load_answers(answer, snapshot.revision, self.said)
        self.known = frozenset((each.path, each.oid) for each in snapshot.files) - lost
        return {name: each.desired for name, each in self.said.items()}


class Revisions(RuleBasedStateMachine):
    """Rules that change a repository which two targets read, with shared bases and runtimes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="reconciler-test-"))
        self.secrets = self.folder / "secrets"
        self.secrets.mkdir(0o700)
        given = {"secrets": {"directory": self.secrets}, "default_namespace": "team"}
        self.targets = tuple(
            HostSettings.model_validate({"name": name, "paths": paths, **given})
            for name, paths in {"box": ["runtimes", "hosts/box"], "other": ["runtimes", "base", "hosts"]}.items()
        )
        self.trees: list[Tree] = [FIRST]

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def tree(self) -> Tree:
        return self.trees[-1]

    # ------------------------------------------------------------ what happens

    @rule(changes=st.lists(st.tuples(PATHS, st.sampled_from(TEXTS)), min_size=1, max_size=4))
    def write(self, changes: list[tuple[str, str]]) -> None:
        self.trees.append({**self.tree, **dict(changes)})

    @rule(text=st.sampled_from(TEXTS), data=st.data())
    def rewrite(self, text: str, data: st.DataObject) -> None:
        if self.tree:
            self.trees.append({**self.tree, data.draw(st.sampled_from(sorted(self.tree))): text})

    @rule(change=st.sampled_from(CHANGES), data=st.data())
    def change(self, change: tuple[str, str], data: st.DataObject) -> None:
        """A word of a file that has it."""
        if there := [path for path in sorted(self.tree) if change[0] in self.tree[path]]:
            path = data.draw(st.sampled_from(there))
            self.trees.append({**self.tree, path: self.tree[path].replace(*change)})

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.tree:
            gone = data.draw(st.lists(st.sampled_from(sorted(self.tree)), min_size=1, max_size=3))
            self.trees.append({path: text for path, text in self.tree.items() if path not in gone})

    @rule(to=PATHS, data=st.data())
    def rename(self, to: str, data: st.DataObject) -> None:
        if self.tree:
            path = data.draw(st.sampled_from(sorted(self.tree)))
            rest = {each: text for each, text in self.tree.items() if each != path}
            self.trees.append({**rest, to: self.tree[path]})

    @rule(path=PATHS, to=st.sampled_from(["x.yaml", "../base", "nowhere"]))
    def link(self, path: str, to: str) -> None:
        self.trees.append({**self.tree, path: f"{LINK}{to}"})

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """As a revert does: files are as they were, with the ids that they had."""
        self.trees.append(data.draw(st.sampled_from(self.trees)))

    @rule(text=st.sampled_from([None, secret("key", "1"), secret("key", "2"), secret("key", "3") + "x: 1\n", "a: ["]))
    def give_secret(self, text: str | None) -> None:
        """To the host, without git."""
        file = self.secrets / "key.yaml"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
            file.chmod(0o600)

    def fresh(self, snapshot: Snapshot) -> dict[str, DesiredState]:
        return {each.name: Evaluator(each).evaluate(snapshot) for each in self.targets}


class InMemory(Revisions):
    """No git and no worker process, so that many sequences run in little time."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(self.targets)

    @rule()
    def kill_worker(self) -> None:
        self.relay.die()

    @invariant()
    def result_equals_a_fresh_evaluation(self) -> None:
        snapshot = self.snapshot(self.targets)
        expected = self.fresh(snapshot)
        assert self.relay.evaluate(snapshot) == expected
        for each in self.targets:
            # Nor do the paths of other targets matter.
            assert Evaluator(each).evaluate(self.snapshot((each,))) == expected[each.name]

    def snapshot(self, targets: Collection[HostSettings]) -> Snapshot:
        roots = [root for each in targets for root in each.paths]
        mine = [path for path in sorted(self.tree) if is_manifest(path) and not is_hidden(path, roots)]
        files = {path: self.file(path) for path in mine if not self.tree[path].startswith(LINK)}

        def look(paths: Collection[str]) -> dict[str, File]:
            return {path: self.file(path) for path in paths if not self.tree.get(path, LINK).startswith(LINK)}

        supporting = find_supporting(files, look)
        return Snapshot(
            f"r{len(self.trees)}",
            tuple(files.values()),
            tuple(
                Reason(ReasonCode.SYMLINK, "not read: it is a link", Origin(path, 1))
                for path in mine
                if path not in files
            ),
            tuple(root for root in dict.fromkeys(roots) if not any(is_under(path, (root,)) for path in self.tree)),
            supporting=tuple(supporting[path] for path in sorted(supporting)),
        )

    def file(self, path: str) -> File:
        data = self.tree[path].encode()
        return File(path, hashlib.sha1(data, usedforsecurity=False).hexdigest(), data)


class OfADaemon(Revisions):
    """Real git, a mirror, a worker process, and the limits of a source."""

    def __init__(self) -> None:
        super().__init__()
        self.repository = Repository(self.folder / "repository")
        self.sandbox: Sandbox | None = None

    @initialize(limits=st.sampled_from([{}, {"max_files": 6}, {"max_file_bytes": 3_000}, {"max_total_bytes": 9_000}]))
    def begin(self, limits: dict[str, int]) -> None:
        self.limits = SourceSettings.model_validate({"url": str(self.repository.path), **limits})
        self.commit()
        self.start()

    def start(self) -> None:
        self.sandbox = Sandbox(self.targets)
        self.evaluations = {each.name: self.sandbox.target(each.name) for each in self.targets}
        self.source = self.source_of(self.folder / "mirror", Check(self.sandbox.check, "v1"))
        self.accepted = self.source.last_good()

    def teardown(self) -> None:
        if self.sandbox is not None:
            self.sandbox.close()
        super().teardown()

    @rule()
    def kill_worker(self) -> None:
        if self.sandbox is not None and (worker := self.sandbox._worker) is not None:
            os.kill(worker.process.pid, signal.SIGKILL)

    @rule()
    def restart(self) -> None:
        assert self.sandbox is not None
        self.sandbox.close()
        self.start()

    @invariant()
    def result_equals_that_of_a_fresh_daemon(self) -> None:
        if self.sandbox is None:
            return
        self.commit()
        expected = self.evaluate_anew("main")
        try:
            self.accepted = self.source.poll()
            assert expected is not None
        except (RevisionRefused, Terminal):
            assert expected is None
        if self.accepted is not None:
            said = {name: each.evaluate(self.accepted) for name, each in self.evaluations.items()}
            assert said == self.evaluate_anew(self.accepted.revision)

    def evaluate_anew(self, revision: str) -> dict[str, DesiredState] | None:
        """The result for a revision with a new mirror; None: it is refused."""
        mirror = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            return self.fresh(self.source_of(mirror).snapshot(revision))
        except (NotUnderstood, Terminal):
            return None
        finally:
            shutil.rmtree(mirror)

    def source_of(self, mirror: Path, check: Check | None = None) -> GitSource:
        paths = tuple(dict.fromkeys(path for each in self.targets for path in each.paths))
        return GitSource(self.limits, mirror, paths, check, readers=tuple(each.paths for each in self.targets))

    def commit(self) -> None:
        for path in self.repository.path.iterdir():
            if path.name != ".git":
                shutil.rmtree(path)
        for name, text in self.tree.items():
            place = self.repository.path / name
            if text.startswith(LINK):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(text.removeprefix(LINK))
            else:
                self.repository.write(name, text)
        self.repository.commit()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    ("machine", "count", "steps"),
    [
        (InMemory, 60, 20),
        (OfADaemon, 10, 8),
    ],
)
def test_evaluation_after_any_revisions_equals_a_fresh_one(
    machine: type[Revisions], count: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Equal files are built once; whether that is right is what `test_kustomize` asks.
    monkeypatch.setattr(assembly, "build", cache(build))
    how = settings(
        max_examples=examples(count),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=how)
