"""What a service wants of Secrets on a host: where it is written, and what is said when it is not there."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings, HostSettings, Secrets
from reconciler.desired import DesiredCache, build_desired
from reconciler.engines.container import Revealed
from reconciler.engines.environment import Folders
from reconciler.engines.launch import Launch, launch
from reconciler.errors import Retryable
from reconciler.host.workload import reveal
from reconciler.manifests import read_manifests
from reconciler.model import Desired, DesiredState, EnvVar, Lease, Origin, Reason, ReasonCode, SecretMount
from reconciler.secrets import NO_SECRETS, SecretSources, SecretStore, StoredSecret
from tests.desired.test_desired import SERVICE, TARGET, snapshot, with_model, with_predictor

VALUE = "hf_tested"


def store(name: str = "hub", namespace: str = "team", **data: str) -> SecretStore:
    values = {key: value.encode() for key, value in (data or {"token": VALUE}).items()}
    found = StoredSecret(namespace, name, Origin("/etc/reconciler/secrets/hub.yaml", 1), values)
    return SecretStore({found.key: found})


def build(text: str, secrets: SecretStore = NO_SECRETS, target: HostSettings = TARGET, **files: str) -> DesiredState:
    revision = snapshot({"hosts/box/chat.yaml": text, **{f"hosts/box/{n}.yaml": t for n, t in files.items()}})
    return build_desired(read_manifests(revision), target, revision, secrets=secrets)


def one(text: str, secrets: SecretStore = NO_SECRETS, **files: str) -> Desired:
    (service,) = build(text, secrets, **files).services
    assert VALUE not in repr(service)
    return service


def said(reasons: tuple[Reason, ...]) -> list[str]:
    return [f"{each.code} {each}" for each in reasons]


TOKEN = with_model("env:", "- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}")
WHOLE = with_model("envFrom:", "- {prefix: P_, secretRef: {name: hub}}", "- {prefix: P_, secretRef: {name: other}}")


# ---------------------------------------------------------------- variables


def test_variable_of_a_present_secret_does_not_block_and_shows_no_value():
    service = one(TOKEN, store())
    assert service.blocked == ()
    assert service.spec is not None
    assert EnvVar("HF_TOKEN", source="secret hub/token") in service.spec.env


def test_changed_value_changes_no_digest():
    assert one(TOKEN, store(token="a")).digest == one(TOKEN, store(token="b")).digest == one(TOKEN).digest


def test_missing_secret_says_what_where_and_what_helps():
    assert said(one(TOKEN).blocked) == [
        'SecretNotFound hosts/box/chat.yaml:15: variable HF_TOKEN needs key "token" of Secret hub, which this host '
        "does not have in namespace team; put a manifest of it into a folder that targets[].secrets.directory of box "
        "names, or encrypt it into git with SOPS"
    ]


def test_missing_key_names_those_that_are_there():
    (reason,) = one(TOKEN, store(other="x", more="y")).blocked
    assert "which has no such key (it has: more, other); add it at /etc/reconciler/secrets/hub.yaml:1" in reason.message


def test_secret_of_another_namespace_does_not_count():
    assert [each.code for each in one(TOKEN, store(namespace="other")).blocked] == ["SecretNotFound"]


def test_where_secrets_cannot_be_read_nobody_says_that_one_is_missing():
    broken = SecretStore(unavailable=(Reason(ReasonCode.SECRETS_UNREADABLE, "no such folder", Origin("/etc/s", 1)),))
    (reason,) = one(TOKEN, broken).blocked
    assert reason.code == "SecretsUnreadable"
    assert "it is unknown whether it exists: /etc/s:1: no such folder" in reason.message


def test_optional_secret_blocks_nothing_and_stays_same_spec_when_it_comes():
    text = TOKEN.replace("key: token", "key: token, optional: true")
    assert one(text).blocked == ()
    assert one(text).digest == one(text, store()).digest


def test_whole_secrets_are_each_wanted_also_with_one_prefix():
    service = one(WHOLE)
    assert [each.message.partition(",")[0] for each in service.blocked] == [
        "the container's envFrom needs Secret hub",
        "the container's envFrom needs Secret other",
    ]
    assert one(WHOLE.replace("{name: other}", "{name: hub}"), store()).blocked == ()


@pytest.mark.parametrize("reference", ["$(HF_TOKEN)", "x-$(HF_TOKEN)", "$(MADE)"])
def test_secret_on_the_command_line_is_refused(reference: str):
    text = TOKEN.replace('      - "128"\n', f'      - "128"\n      - --api-key={reference}\n') + (
        "      - {name: MADE, value: 'a$(HF_TOKEN)'}\n"
    )
    (reason,) = one(text, store()).blocked
    assert (reason.code, str(reason.origin)) == ("SecretInArgument", "hosts/box/chat.yaml:14")
    assert "would show a Secret's value to every user of the host" in reason.message


def test_key_of_a_whole_secret_on_the_command_line_is_refused():
    text = with_model("envFrom:", "- {secretRef: {name: hub}}").replace('"128"', '"$(token)"')
    assert [each.code for each in one(text, store()).blocked] == ["SecretInArgument"]
    assert one(text.replace("$(token)", "$$(token)"), store()).blocked == ()


# ---------------------------------------------------------------- files


MOUNTED = with_predictor(
    "volumes:",
    "- {name: keys, secret: {secretName: hub, items: [{key: token, path: sub/hf}]}}",
).replace("    volumes:", "      volumeMounts: [{name: keys, mountPath: /keys}]\n    volumes:")


REASON = Reason(ReasonCode.INVALID_SECRET, "broken", Origin("/etc/s/hub.yaml", 1))
UNKNOWN = [SecretStore(refused={("team", "hub"): REASON}), SecretStore(unavailable=(REASON,))]


@pytest.mark.parametrize("unknown", UNKNOWN, ids=["refused", "unavailable"])
@pytest.mark.parametrize(
    "text",
    [TOKEN.replace("key: token", "key: token, optional: true"), MOUNTED.replace("items", "optional: true, items")],
)
def test_optional_secret_that_cannot_be_used_is_not_absent(text: str, unknown: SecretStore):
    """It may be the key that protects the engine: nothing starts without it, and what runs is kept."""
    service = one(text, unknown)
    (reason,) = service.blocked
    assert "/etc/s/hub.yaml:1: broken" in reason.message
    assert service.digest == one(text).digest
    assert service.spec is not None
    with pytest.raises(Retryable, match=r"Secret hub in namespace team cannot be used: /etc/s/hub\.yaml:1: broken"):
        reveal(service.spec, "team", (), unknown)


def test_secret_as_files_is_part_of_the_spec_and_must_be_there():
    service = one(MOUNTED, store())
    assert service.spec is not None
    assert service.spec.secrets == (SecretMount("hub", "/keys", (("token", "sub/hf"),)),)
    assert (service.blocked, service.warnings) == ((), ())
    (reason,) = one(MOUNTED).blocked
    assert reason.message.startswith('the folder /keys needs key "token" of Secret hub, which this host does not have')
    assert str(reason.origin) == "hosts/box/chat.yaml:14"


# ---------------------------------------------------------------- KServe's own rules


def credentials(**entries: str) -> SecretStore:
    return store("storage-config", **entries)


STORAGE = SERVICE.replace("      storageUri: file:///models/tiny\n", "      storage: {key: mine, path: tiny}\n")


def test_storage_secret_of_the_host_tells_bucket_and_scheme():
    entry = '{"type": "s3", "bucket": "models", "secret_access_key": "hf_tested"}'
    service = one(STORAGE, credentials(mine=entry))
    assert service.spec is not None
    assert service.spec.mounts[0].uri == "s3://models/tiny"
    assert "SecretNotFound" not in {each.code for each in service.blocked}


def test_storage_secret_without_the_key_says_so():
    (reason,) = (each for each in one(STORAGE, credentials(other="{}")).blocked if each.code == "SecretNotFound")
    assert 'the model\'s storage needs key "mine" of Secret storage-config, which has no such key' in reason.message


def test_headers_of_an_https_host_stay_a_reference():
    account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\nsecrets: [{name: hub}]\n"
    text = SERVICE.replace("file:///models/tiny", "https://models.example.com/tiny.tar")
    secrets = store(**{"https-host": "models.example.com", "headers": '{"Authorization": "hf_tested"}'})
    assert VALUE not in repr(build(text, secrets, account=account))


# ---------------------------------------------------------------- the tree as a whole


def test_plain_secret_in_git_blocks_only_services_that_need_it():
    secret = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: hub}}\nstringData: {{token: {VALUE}}}\n"
    other = SERVICE.replace("name: chat", "name: other")
    revision = snapshot({"hosts/box/a.yaml": TOKEN, "hosts/box/b.yaml": other, "hosts/box/s.yaml": secret})
    manifests = read_manifests(revision)
    secrets = SecretSources(TARGET, {}).load(manifests)
    state = build_desired(manifests, TARGET, revision, secrets=secrets)
    assert [(each.code, str(each.origin)) for each in state.refused] == [("PlaintextSecret", "hosts/box/s.yaml:4")]
    assert state.unreadable == ()
    assert {str(each.id): [why.code for why in each.blocked] for each in state.services} == {
        "team/chat": ["SecretNotFound"],
        "team/other": [],
    }
    assert (
        "which is refused: hosts/box/s.yaml:4: Secret hub: its data is in git" in state.services[0].blocked[0].message
    )
    assert VALUE not in repr(state)


def test_services_are_worked_out_again_only_when_a_secret_changes():
    revision = snapshot({"hosts/box/chat.yaml": TOKEN})
    manifests, cache, secrets = read_manifests(revision), DesiredCache(), store()
    first = build_desired(manifests, TARGET, revision, cache, secrets).services[0]
    assert build_desired(manifests, TARGET, revision, cache, secrets).services[0] is first
    assert build_desired(manifests, TARGET, revision, cache, NO_SECRETS).services[0].blocked


def test_host_names_its_own_folder_as_the_place_for_a_missing_secret():
    target = TARGET.model_copy(update={"secrets": Secrets(directory=Path("/etc/reconciler/secrets"))})
    assert (
        "put a manifest of it into /etc/reconciler/secrets"
        in build(TOKEN, target=target).services[0].blocked[0].message
    )


# ---------------------------------------------------------------- what a start gets


def start(text: str, secrets: SecretStore) -> Launch:
    service = one(text, secrets)
    assert service.spec is not None
    engine = EngineSettings(image="*", python=Path("/opt/vllm/bin/python"), env={"GIVEN": "by the config"})
    found = reveal(service.spec, "team", engine.env, secrets)
    assert VALUE not in repr(found)
    folders = Folders("/home", "/tmp/x", "/dev/shm/x")
    made = launch(service.spec, engine, service.id, Lease(1), {}, 1.0, folders, found)
    assert VALUE not in repr(made)
    assert not any(VALUE in word for word in made.argv)
    return made


def test_process_gets_values_and_a_list_of_what_to_hide():
    text = TOKEN + "      - {name: MADE, value: 'a$(HF_TOKEN)'}\n      - {name: PLAIN, value: b}\n"
    made = start(text, store())
    assert {name: made.env[name] for name in ("HF_TOKEN", "MADE", "PLAIN")} == {
        "HF_TOKEN": VALUE,
        "MADE": f"a{VALUE}",
        "PLAIN": "b",
    }
    assert made.hidden == {"HF_TOKEN", "MADE"}


def test_of_several_variables_with_one_name_the_last_counts():
    text = with_model("env:", "- {name: P_a, value: own}", "envFrom:", "- {prefix: P_, secretRef: {name: hub}}")
    made = start(text, store(a="x", b="y"))
    assert (made.env["P_a"], made.env["P_b"]) == ("own", "y")
    assert made.hidden == {"P_b"}


def test_config_stands_in_for_a_secret_that_is_not_there():
    text = with_model("env:", "- {name: GIVEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}")
    made = start(text, NO_SECRETS)
    assert made.env["GIVEN"] == "by the config"
    assert made.hidden == frozenset()


def test_optional_variable_that_is_not_there_is_left_out():
    assert "HF_TOKEN" not in start(TOKEN.replace("key: token", "key: token, optional: true"), NO_SECRETS).env


def test_any_bytes_but_zero_reach_the_environment():
    raw = SecretStore({("team", "hub"): StoredSecret("team", "hub", Origin("s", 1), {"token": b"\xff\n"})})
    assert start(TOKEN, raw).env["HF_TOKEN"].encode(errors="surrogateescape") == b"\xff\n"
    with pytest.raises(Retryable, match="variable HF_TOKEN: its value in Secret hub holds a zero byte"):
        start(TOKEN, store(token="a\0b"))


def test_secret_that_went_away_since_stops_the_start_by_name():
    service = one(TOKEN, store())
    assert service.spec is not None
    with pytest.raises(Retryable, match='key "token" of Secret hub in namespace team is not on this host any more'):
        reveal(service.spec, "team", (), NO_SECRETS)


def test_mounted_secrets_become_files_and_arguments_follow():
    made = start(MOUNTED.replace('"128"', "/keys/sub/hf"), store())
    assert made.files == {"/dev/shm/x/0/sub/hf": VALUE.encode()}
    assert "/dev/shm/x/0/sub/hf" in made.argv


def test_single_file_of_a_secret_stands_where_the_container_wants_it():
    text = MOUNTED.replace(", items: [{key: token, path: sub/hf}]", "").replace("/keys}", "/keys, subPath: token}")
    made = start(text.replace('"128"', "/keys"), store(token=VALUE, other="x"))
    assert set(made.files) == {"/dev/shm/x/0/token", "/dev/shm/x/0/other"}
    assert "/dev/shm/x/0/token" in made.argv


def test_file_of_a_secret_without_a_name_is_not_written():
    assert not start(MOUNTED.replace("path: sub/hf", "path: ''"), store()).files


def test_encoded_data_arrives_decoded(tmp_path: Path):
    data = base64.b64encode(VALUE.encode()).decode()
    (tmp_path / "s.yaml").write_text(
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: hub}}\ndata: {{token: {data}}}\n"
    )
    (tmp_path / "s.yaml").chmod(0o600)
    target = TARGET.model_copy(update={"secrets": Secrets(directory=tmp_path)})
    secrets = SecretSources(target, {}).load(read_manifests(snapshot({})))
    assert start(TOKEN, secrets).env["HF_TOKEN"] == VALUE


def test_nothing_known_of_secrets_means_references_stay_hidden():
    service = one(TOKEN, store())
    assert service.spec is not None
    engine = EngineSettings(image="*", python=Path("/opt/vllm/bin/python"))
    made = launch(service.spec, engine, service.id, Lease(1), {}, 1.0, Folders("/h", "/t"), Revealed())
    assert "HF_TOKEN" not in made.env
