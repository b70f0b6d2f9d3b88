"""Volumes whose files git holds, and what a container asks its pod for: what a cluster would give, on a host."""

from __future__ import annotations

import re
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.desired.origins import locator
from reconciler.desired.spec import resource_field
from reconciler.engines.container import Revealed
from reconciler.engines.environment import Folders
from reconciler.engines.launch import Launch, launch, question
from reconciler.host.workload import fields_of, reveal
from reconciler.manifests import read_manifests
from reconciler.model import Desired, EnvVar, Lease, Origin, ReplicaId, ServiceId
from reconciler.preview.on_cluster import validate
from reconciler.preview.on_host import validate_on
from reconciler.report.diff import service_diff
from reconciler.secrets import NO_SECRETS, SecretStore
from tests.desired.test_desired import RUNTIME, SERVICE, TARGET, codes, one, snapshot, with_model
from tests.desired.test_secrets_desired import build, store
from tests.support.examples import examples

CHAT = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: chat}
data: {a.jinja: "{{ x }}", b.jinja: "{{ y }}"}
binaryData: {logo: aGVsbG8=}
"""


def mounting(volume: str, *args: str, mount: str = "{name: v, mountPath: /chat}") -> str:
    """The service with a volume that its container mounts."""
    more = "".join(f"      - {each}\n" for each in args)
    return f"{SERVICE}{more}      volumeMounts: [{mount}]\n    volumes:\n    - {{name: v, {volume}}}\n"


def described(text: str, config_map: str = CHAT, secrets: SecretStore = NO_SECRETS, **more: str) -> Desired:
    (service,) = build(text, secrets, cm=config_map, **more).services
    return service


def start(service: Desired, secrets: Revealed | None = None) -> Launch:
    assert service.spec is not None
    folders = Folders("/home", "/tmp", "/private")
    found = secrets or Revealed()
    return launch(service.spec, TARGET.engines[0], service.id, Lease(8000), {}, 5.0, folders, found)


def files(service: Desired, secrets: Revealed | None = None) -> dict[str, bytes]:
    return dict(start(service, secrets).files)


def said(service: Desired) -> list[str]:
    return [f"{each.code} {each}" for each in (*service.problems, *service.blocked)]


# ---------------------------------------------------------------- ConfigMaps


def test_config_map_volume_is_every_key_as_a_file():
    service = described(mounting("configMap: {name: chat}", "--chat-template=/chat/a.jinja"))
    assert said(service) == []
    assert service.warnings == ()
    found = start(service)
    assert found.files == {
        "/private/0/a.jinja": b"{{ x }}",
        "/private/0/b.jinja": b"{{ y }}",
        "/private/0/logo": b"hello",
    }
    assert "--chat-template=/private/0/a.jinja" in found.argv


def test_config_map_items_are_keys_under_their_own_paths():
    items = "configMap: {name: chat, defaultMode: 0440, items: [{key: b.jinja, path: deep/c.jinja, mode: 256}]}"
    assert files(described(mounting(items))) == {"/private/0/deep/c.jinja": b"{{ y }}"}


@pytest.mark.parametrize("path", ["a.jinja", "deep/c.jinja"])
def test_sub_path_mounts_a_single_file_where_it_says(path: str):
    volume = f"configMap: {{name: chat, items: [{{key: a.jinja, path: {path}}}]}}"
    mount = f"{{name: v, mountPath: /etc/t.jinja, subPath: {path}}}"
    service = described(mounting(volume, "--chat-template=/etc/t.jinja", mount=mount))
    assert said(service) == []
    found = start(service)
    assert f"--chat-template=/private/0/{path}" in found.argv
    assert found.files[f"/private/0/{path}"] == b"{{ x }}"
    assert service.spec is not None
    assert question(service.spec, TARGET.engines[0], {}, "/home").files == {"/etc/t.jinja": b"{{ x }}"}


def test_changed_config_map_changes_the_digest_and_its_name_does_not():
    text = mounting("configMap: {name: chat}")
    before = described(text).digest
    assert described(text, CHAT.replace("{{ x }}", "{{ z }}")).digest != before
    renamed = described(
        text.replace("name: chat}", "name: chat-4fk2h}"), CHAT.replace("name: chat}", "name: chat-4fk2h}")
    )
    assert renamed.digest == before


def test_order_of_keys_in_a_config_map_changes_no_digest():
    text = mounting("configMap: {name: chat}")
    swapped = CHAT.replace('a.jinja: "{{ x }}", b.jinja: "{{ y }}"', 'b.jinja: "{{ y }}", a.jinja: "{{ x }}"')
    assert described(text, swapped).digest == described(text).digest


def test_missing_config_map_blocks_and_an_optional_one_is_empty():
    assert said(described(mounting("configMap: {name: other}"))) == [
        "ConfigMapNotFound hosts/box/chat.yaml:14: the volume mounted at /chat needs all of ConfigMap other, which is "
        "not in git with this service"
    ]
    absent = described(mounting("configMap: {name: other, optional: true}"))
    assert (said(absent), files(absent)) == ([], {})


def test_missing_key_blocks_and_an_optional_one_is_left_out():
    items = "items: [{key: c.jinja, path: c.jinja}, {key: a.jinja, path: a.jinja}]"
    (reason,) = said(described(mounting(f"configMap: {{name: chat, {items}}}")))
    assert 'c.jinja in the volume mounted at /chat needs key "c.jinja" of ConfigMap chat' in reason
    optional = described(mounting(f"configMap: {{name: chat, optional: true, {items}}}"))
    assert files(optional) == {"/private/0/a.jinja": b"{{ x }}"}


@pytest.mark.parametrize(
    ("name", "space", "said"),
    [
        ("chats", "", "which is not in git with this service; did you mean chat?"),
        ("chat", "other", "which is not in git with this service; one exists in namespace other"),
    ],
)
def test_missing_config_map_names_what_may_be_meant(name: str, space: str, said: str):
    config_map = CHAT.replace("{name: chat}", f"{{name: chat, namespace: {space}}}") if space else CHAT
    (reason,) = described(mounting(f"configMap: {{name: {name}}}"), config_map).blocked
    assert reason.message.endswith(said)


def test_missing_key_of_a_variable_lists_the_keys():
    text = with_model("env:", "- {name: X, valueFrom: {configMapKeyRef: {name: chat, key: c}}}")
    (reason,) = described(text).blocked
    assert reason.message.endswith('key "c" of ConfigMap chat, which has no such key (it has: a.jinja, b.jinja, logo)')


def test_argument_that_names_no_file_of_the_volume_says_what_is_there():
    service = described(mounting("configMap: {name: chat}", "--chat-template=/chat/c.jinja"))
    assert said(service) == [
        "FileNotFound hosts/box/chat.yaml:14: --chat-template /chat/c.jinja: the volume has no such file (it has: "
        "a.jinja, b.jinja, logo); add it, or name one of these"
    ]


@pytest.mark.parametrize(
    ("volume", "fault"),
    [
        ("configMap: {name: chat, items: [{key: a.jinja, path: ../up}]}", "is not the path of a file below"),
        ("configMap: {name: chat, items: [{key: a.jinja, path: /etc/x}]}", "is not the path of a file below"),
        (
            "configMap: {name: chat, items: [{key: a.jinja, path: a}, {key: b.jinja, path: a/b}]}",
            "a cannot be a file and the folder of a/b",
        ),
    ],
)
def test_path_that_leaves_the_volume_is_refused(volume: str, fault: str):
    service = described(mounting(volume))
    assert codes(service.problems) == ["InvalidVolume"]
    assert "hosts/box/chat.yaml:16: volume v: " in str(service.problems[0])
    assert fault in service.problems[0].message


@pytest.mark.parametrize("path", ["../up", "/etc/x", "a/../b", "."])
@pytest.mark.parametrize(
    "volume", ["secret: {{secretName: hub, {}}}", "projected: {{sources: [{{secret: {{name: hub, {}}}}}]}}"]
)
def test_path_of_a_secret_that_leaves_the_volume_is_refused(volume: str, path: str):
    (reason,) = described(mounting(volume.format(f"items: [{{key: a, path: '{path}'}}]")), secrets=store()).problems
    assert (reason.code, reason.origin) == ("InvalidVolume", Origin("hosts/box/chat.yaml", 16))


@pytest.mark.parametrize(
    ("items", "data", "said"),
    [
        ("[{key: a.jinja, path: a/b}]", {"a": b"x"}, "'a/b' cannot be in a folder that is a file"),
        ("[]", {"k" * 256: b"x"}, "a name of more than 255 bytes"),
        ("[]", {"k": b"x" * (65 << 20)}, "kept in memory, more than 67,108,864; mount each of them once"),
    ],
)
def test_files_that_cannot_be_written_are_told_before_a_start(items: str, data: dict[str, bytes], said: str):
    """What a Secret holds is known no earlier: the start is rehearsed before anything is drained."""
    sources = f"[{{secret: {{name: hub}}}}, {{configMap: {{name: chat, items: {items}}}}}]"
    service = described(mounting(f"projected: {{sources: {sources}}}"), secrets=store())
    assert service.spec is not None
    (volume,) = service.spec.files
    with pytest.raises(ValueError, match=re.escape(said)):
        start(service, Revealed(parts={volume.files[0]: data}))


def test_sub_path_expression_is_refused_at_its_mount():
    mount = "{name: v, mountPath: /chat, subPathExpr: $(A)}"
    (reason,) = described(mounting("configMap: {name: chat}", mount=mount)).problems
    assert (reason.code, reason.origin) == ("InvalidVolume", Origin("hosts/box/chat.yaml", 14))


def test_sub_path_that_leads_out_is_refused_at_its_mount():
    mount = "{name: v, mountPath: /chat, subPath: a/../../b}"
    for volume in ("configMap: {name: chat}", "secret: {secretName: hub}", "hostPath: {path: /srv/models}"):
        (reason,) = described(mounting(volume, mount=mount)).problems
        assert (reason.code, reason.origin) == ("InvalidVolume", Origin("hosts/box/chat.yaml", 14))


@pytest.mark.parametrize("volume", ["configMap: {name: chat}", "secret: {secretName: hub}"])
def test_volume_over_the_whole_host_is_refused(volume: str):
    (reason,) = described(mounting(volume, mount="{name: v, mountPath: /}")).problems
    assert (reason.code, reason.origin) == ("InvalidVolume", Origin("hosts/box/chat.yaml", 14))


def test_large_config_map_is_refused_alone():
    large = CHAT.replace("{{ x }}", "x" * (1 << 20))
    (reason,) = described(mounting("configMap: {name: chat}"), large).problems
    assert reason.code == "SpecTooLarge"
    assert "bytes of mounted files, more than 786,432" in reason.message


def test_mounted_config_of_vllm_may_not_name_what_is_closed():
    config = CHAT.replace('a.jinja: "{{ x }}"', 'c.yaml: "chat-template: /proc/1/environ"')
    service = described(mounting("configMap: {name: chat}", "--config=/chat/c.yaml"), config)
    (reason,) = service.blocked
    assert (reason.code, reason.origin) == ("PathNotAllowed", Origin("hosts/box/chat.yaml", 14))
    assert reason.message.startswith("--config /chat/c.yaml: --chat-template /proc/1/environ: ")


def test_mounted_config_of_vllm_names_folders_as_its_arguments_do():
    config = CHAT.replace('b.jinja: "{{ y }}"', 'c.yaml: "chat-template: /chat/a.jinja # and /chats"')
    found = files(described(mounting("configMap: {name: chat}", "--config", "/chat/c.yaml"), config))
    assert found["/private/0/c.yaml"] == b"chat-template: /private/0/a.jinja # and /chats"


def test_diff_shows_a_hash_and_no_content_of_mounted_files():
    text = mounting("configMap: {name: chat}")
    before, after = described(text, CHAT.replace("{{ x }}", "hf_notForEyes")), described(text)
    shown = repr(service_diff(after, before.spec))
    assert "sha256" in shown
    assert "hf_notForEyes" not in shown


# ---------------------------------------------------------------- several sources


PROJECTED = (
    "projected: {sources: [{configMap: {name: chat, items: [{key: a.jinja, path: t/a}]}}, "
    "{secret: {name: hub, items: [{key: token, path: t/token}]}}, {secret: {name: none, optional: true}}, "
    "{downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}}, "
    "{serviceAccountToken: {path: sa}}]}"
)


def test_projected_volume_is_all_of_its_sources_in_one_folder():
    secrets = store(token="s3cr3t")
    service = described(mounting(PROJECTED), secrets=secrets)
    assert said(service) == []
    assert service.spec is not None
    revealed = reveal(service.spec, "team", (), secrets)
    assert files(service, revealed) == {
        "/private/0/t/a": b"{{ x }}",
        "/private/0/t/token": b"s3cr3t",
        "/private/0/ns": b"team",
    }
    assert "s3cr3t" not in repr(service)


def test_token_of_a_service_account_is_named_at_its_volume():
    service = described(mounting(PROJECTED), secrets=store())
    (warning,) = service.warnings
    assert (warning.code, warning.origin) == ("VolumeIgnored", Origin("hosts/box/chat.yaml", 16))
    assert warning.message.startswith("serviceAccountToken of volume v is ignored on a host")


def test_missing_secret_of_a_projected_volume_blocks_at_its_mount():
    (reason,) = described(mounting(PROJECTED)).blocked
    assert (reason.code, reason.origin) == ("SecretNotFound", Origin("hosts/box/chat.yaml", 14))
    assert 'the folder /chat needs key "token" of Secret hub' in reason.message


# ---------------------------------------------------------------- fields of the pod


FIELDS = {
    "metadata.namespace": "team",
    "spec.nodeName": "box",
    "spec.serviceAccountName": "default",
    "status.podIP": "127.0.0.1",
    "status.hostIP": "127.0.0.1",
}


@pytest.mark.parametrize(("path", "value"), FIELDS.items())
def test_field_that_a_host_knows_is_the_variables_value(path: str, value: str):
    service = one(with_model("env:", f"- {{name: X, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}"))
    assert service.spec is not None
    assert EnvVar("X", value) in service.spec.env
    assert service.blocked == ()


def test_name_of_a_replica_is_given_at_its_start_and_outside_the_digest():
    text = with_model("env:", "- {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}")
    service = one(text.replace('- "128"', '- "128"\n      - --otlp-traces-endpoint=http://$(POD)'))
    assert service.blocked == ()
    assert service.spec is not None
    assert EnvVar("POD", source="field metadata.name") in service.spec.env
    names = [fields_of(ReplicaId(ServiceId("team", "chat"), f"abcdef01-{number}")) for number in (0, 1)]
    found = [start(service, Revealed(fields=each)) for each in names]
    assert [each.env["POD"] for each in found] == ["chat-abcdef01-0", "chat-abcdef01-1"]
    assert "--otlp-traces-endpoint=http://chat-abcdef01-1" in found[1].argv
    assert "POD" not in found[0].hidden
    assert names[0]["metadata.uid"] != names[1]["metadata.uid"]


def test_downward_api_volume_has_annotations_one_in_each_line():
    volume = "downwardAPI: {items: [{path: all, fieldRef: {fieldPath: metadata.annotations}}]}"
    text = mounting(volume).replace("  name: chat\n", '  name: chat\n  annotations: {team: "a\\"b", app: x}\n', 1)
    lines = files(described(text))["/private/0/all"].decode().splitlines()
    assert {'app="x"', 'team="a\\"b"'} <= set(lines)
    assert lines == sorted(lines)


LIMITS = "resources: {limits: {cpu: 1500m, memory: 3Gi}, requests: {cpu: 250m}}"


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("resource: limits.cpu", "2"),
        ("resource: limits.cpu, divisor: 1m", "1500"),
        ("resource: requests.cpu, divisor: 1m", "250"),
        ("resource: limits.memory, divisor: 1Mi", "3072"),
        ("resource: requests.memory", "3221225472"),
        ("resource: requests.ephemeral-storage", "0"),
    ],
)
def test_resource_field_is_divided_and_rounded_up(reference: str, value: str):
    service = one(with_model("env:", f"- {{name: X, valueFrom: {{resourceFieldRef: {{{reference}}}}}}}", LIMITS))
    assert service.spec is not None
    assert EnvVar("X", value) in service.spec.env


@settings(max_examples=examples(50))
@given(st.integers(1, 10**12), st.sampled_from([1, 1000, 1024, 1 << 20, 1 << 30]))
def test_resource_field_is_never_less_than_the_resource(size: int, divisor: int):
    reference = {"resource": "limits.memory", "divisor": str(divisor)}
    found = resource_field(reference, {}, {"resources": {"limits": {"memory": str(size)}}})
    assert found == str(ceil(size / divisor))


def test_limit_that_is_not_set_says_where_to_set_it():
    service = one(with_model("env:", "- {name: X, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}"))
    assert said(service) == [
        "UnsupportedField hosts/box/chat.yaml:15: variable X needs limits.cpu, which is not set; add it to the "
        "container's resources"
    ]


def test_resource_that_no_pod_tells_is_not_said_to_be_unset():
    gpu = "{resourceFieldRef: {resource: limits.nvidia.com/gpu}}"
    (reason,) = one(with_model("env:", f"- {{name: X, valueFrom: {gpu}}}")).blocked
    assert reason.message.startswith(
        "variable X needs limits.nvidia.com/gpu, which is not a resource of the downward API; use cpu, memory"
    )


# ---------------------------------------------------------------- where merged entries stand


def test_missing_map_or_secret_of_env_from_is_named_at_its_entry():
    text = with_model(
        "envFrom:",
        "- configMapRef: {name: chat, optional: true}",
        "- configMapRef: {name: a}",
        "- secretRef: {name: b}",
    )
    blocked = one(text).blocked
    assert [(each.code, each.origin) for each in blocked] == [
        ("ConfigMapNotFound", Origin("hosts/box/chat.yaml", 16)),
        ("SecretNotFound", Origin("hosts/box/chat.yaml", 17)),
    ]
    assert blocked[0].message.startswith("the container's envFrom needs all of ConfigMap a, ")


def test_entry_of_the_runtime_is_named_in_the_runtimes_file():
    runtime = (
        RUNTIME
        + "    volumeMounts: [{name: nfs, mountPath: /n}, {name: cm, mountPath: /cm}, {name: s, mountPath: /s}]\n"
        + "  - name: side\n    image: x\n"
        + "  volumes:\n  - {name: nfs, nfs: {server: a, path: /b}}\n  - {name: cm, configMap: {name: none}}\n"
        + "  - {name: s, secret: {secretName: none}}\n"
    )
    service = one(SERVICE, {"runtimes/vllm.yaml": runtime})
    lines = {each.message.split(" is ")[0]: each.origin for each in service.warnings}
    at = {text: number for number, text in enumerate(runtime.splitlines(), 1)}
    assert lines["volume nfs"] == Origin("runtimes/vllm.yaml", at["  - {name: nfs, nfs: {server: a, path: /b}}"])
    assert lines["container side"] == Origin("runtimes/vllm.yaml", at["  - name: side"])
    mounts = next(number for text, number in at.items() if "volumeMounts" in text)
    assert {each.code: each.origin for each in service.blocked} == {
        "ConfigMapNotFound": Origin("runtimes/vllm.yaml", mounts),
        "SecretNotFound": Origin("runtimes/vllm.yaml", mounts),
    }


STANDARD = SERVICE.replace(
    "  name: chat\n", "  name: chat\n  annotations: {serving.kserve.io/deploymentMode: Standard}\n"
)


@pytest.mark.parametrize(
    "wrong",
    [
        "    volumeMounts: [{name: none, mountPath: /n}]\n",
        "    ports: [{containerPort: 8080, name: this-is-too-long-a-name}]\n",
        "  - name: side\n",
        "  volumes: [{name: empty}]\n",
    ],
)
def test_what_a_cluster_refuses_of_a_runtime_is_named_in_its_file(wrong: str):
    text = RUNTIME + wrong
    revision = snapshot({"runtimes/vllm.yaml": text, "hosts/box/chat.yaml": STANDARD})
    manifests = read_manifests(revision)
    line = text.splitlines().index(wrong.rstrip()) + 1
    for document in (validate(manifests, locate=locator(manifests)), validate_on(manifests, TARGET)):
        found = {(each["file"], each["line"]) for each in document["errors"] if "Deployment.apps" in each["message"]}
        assert found == {("runtimes/vllm.yaml", line)}


def test_quantity_that_the_runtime_writes_is_named_in_its_file():
    text = RUNTIME + "    resources:\n      limits:\n        nvidia.com/gpu: 1500m\n"
    service = one(with_model("resources: {limits: {cpu: 1}}"), {"runtimes/vllm.yaml": text})
    assert {each.origin for each in service.problems} == {Origin("runtimes/vllm.yaml", len(text.splitlines()))}


def test_claim_that_the_runtime_mounts_is_named_at_its_mount():
    text = RUNTIME + "    volumeMounts:\n    - {name: c, mountPath: /c}\n"
    text += "  volumes: [{name: c, persistentVolumeClaim: {claimName: none}}]\n"
    (reason,) = one(SERVICE, {"runtimes/vllm.yaml": text}).blocked
    assert (reason.code, reason.origin) == ("ClaimNotFound", Origin("runtimes/vllm.yaml", len(text.splitlines()) - 1))
