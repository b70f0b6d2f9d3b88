"""A replica is shown a folder only where its user could go by itself, and only the one that was looked at."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings, Settings
from reconciler.engines.file_arguments import paths_in
from reconciler.engines.launch import PreflightQuestion
from reconciler.errors import Retryable
from reconciler.host.checks.start_checks import unusable_files
from reconciler.host.staging import weights
from reconciler.host.staging.weights import Ground, Served, UnusableFolder, served_folders
from reconciler.host.systemd.unit import build_unit
from reconciler.manifests import read_manifests
from reconciler.model import Desired, EffectiveSpec, Mount, Origin, ServiceId
from reconciler.preview.on_host import validate_on
from reconciler.system.readability import Reader
from tests.desired.test_desired import SERVICE, TARGET, snapshot
from tests.host.systemd.test_unit import CONTAINED, PLAN
from tests.support.arguments import written

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs replicas as another user")
DAEMON = Ground(reader=Reader("daemon"))
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def served(uri: str | Path, ground: Ground = DAEMON) -> Served:
    name = f"file://{uri}" if isinstance(uri, Path) else uri
    spec = EffectiveSpec("i", (), written("--model=/mnt/models"), mounts=(Mount(name),))
    return served_folders(spec, ground, lambda _: None)["/mnt/models"]


def refusal(uri: str | Path, ground: Ground = DAEMON) -> tuple[str, str]:
    with pytest.raises(UnusableFolder) as refused:
        served(uri, ground)
    return refused.value.code, str(refused.value)


# ---------------------------------------------------------------- who may go there


@as_root
@pytest.mark.parametrize("depth", ["a", "a/b", "a/b/c"])
def test_open_folder_below_a_closed_one_is_not_shown(place: Path, depth: str) -> None:
    model = make_model(place / "a" / "b" / "c" / "chat")
    assert served(model) == Served(model)
    (place / depth).chmod(0o700)
    code, said = refusal(model)
    assert code == "FolderUnreadable"
    assert f"{place / depth} cannot be entered by daemon, which runs replicas; chmod a+x {place / depth}" in said
    (place / depth).chmod(0o711)
    assert served(model) == Served(model), "to enter is enough"


@as_root
def test_model_that_the_replicas_user_cannot_read_is_named(place: Path) -> None:
    model = make_model(place / "chat")
    (model / "model.safetensors").write_bytes(b"")
    (model / "notes").write_text("an engine does not read this")
    (model / "notes").chmod(0o600)
    assert served(model)
    for path, closed, opened in ((model / "model.safetensors", 0o600, 0o644), (model, 0o700, 0o755)):
        path.chmod(closed)
        code, said = refusal(model)
        assert (code, f"{path}: cannot be read by daemon, which runs replicas; chmod" in said) == (
            "FolderUnreadable",
            True,
        )
        path.chmod(opened)
        assert served(model)
    os.chown(model, 1, 1)
    model.chmod(0o700)
    assert served(model), "it is this user's own"


@as_root
@pytest.mark.parametrize("below", ["m.gguf", "q4/m.gguf"])
def test_model_that_is_one_file_is_read_by_the_replicas_user(place: Path, below: str) -> None:
    file = place / "chat" / below
    file.parent.mkdir(parents=True)
    file.touch()
    spec = EffectiveSpec("i", (), written(f"--model=/mnt/models/{below}"), mounts=(Mount(f"file://{place}/chat"),))
    assert served_folders(spec, DAEMON, lambda _: None)["/mnt/models"] == Served(place / "chat")
    file.chmod(0o600)
    with pytest.raises(UnusableFolder, match=rf"{below}: cannot be read by daemon"):
        served_folders(spec, DAEMON, lambda _: None)


@as_root
def test_owner_and_group_decide_before_all_others(place: Path) -> None:
    """An open mode for others says nothing about an owner, or a group, that it closes out."""
    model = make_model(place / "a" / "chat")
    os.chown(place / "a", 1, 0)
    (place / "a").chmod(0o077)
    assert refusal(model)[0] == "FolderUnreadable"
    os.chown(place / "a", 0, 1)
    (place / "a").chmod(0o705)
    assert refusal(model)[0] == "FolderUnreadable"
    (place / "a").chmod(0o750)
    assert served(model).folder == model


@as_root
def test_access_list_that_keeps_the_user_out_counts_like_a_mode(place: Path) -> None:
    model = make_model(place / "a" / "chat")
    assert served(model)
    # user::rwx user:1:--- group::r-x mask::r-x other::r-x, as setfacl writes it.
    entries = [(1, 7, -1), (2, 0, 1), (4, 5, -1), (16, 5, -1), (32, 5, -1)]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *each) for each in entries)
    try:
        os.setxattr(place / "a", "system.posix_acl_access", data)
    except OSError as error:
        pytest.skip(f"no access lists on this disk: {error.strerror}")
    assert refusal(model)[0] == "FolderUnreadable"


@as_root
def test_group_of_the_user_opens_a_folder_to_a_unit_and_not_to_a_container(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(place / "a" / "chat")
    os.chown(place / "a", 0, 4242)
    (place / "a").chmod(0o750)
    assert refusal(model)[0] == "FolderUnreadable"
    # As /etc/group would say it.
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [1, 4242])
    weights._ask_reader.cache_clear()
    assert served(model).folder == model
    assert refusal(model, Ground(reader=Reader("daemon", contained=True)))[0] == "FolderUnreadable"


@pytest.mark.slow
@as_root
def test_folder_that_cannot_be_looked_through_is_said_and_stops_no_pass(place: Path) -> None:
    """Here by more names than a program can be given; more often by a disk that fails."""
    model = make_model(place / "chat")
    for number in range(9000):
        os.mknod(model / f"{number:05}{'x' * 240}.txt", 0o600 | stat.S_IFREG)
    code, said = refusal(model)
    assert code == "FolderUnreadable"
    assert f"{model}: cannot be listed by daemon, which runs replicas: Argument list" in said


def test_folder_that_a_daemon_without_root_cannot_read_is_said(place: Path) -> None:
    """With `kind: process` the daemon's user is the reader."""
    make_model(place / "chat").chmod(0o333)
    if os.geteuid() == 0:
        with as_user(NOBODY):
            code, _ = refusal(place / "chat", Ground())
    else:
        code, _ = refusal(place / "chat", Ground())
    assert code == "FolderUnreadable"


@contextlib.contextmanager
def as_user(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


# ---------------------------------------------------------------- folders that are not models


@pytest.mark.parametrize(
    "path",
    ["/proc/self", "/proc/self/root/usr", "/proc/1/../../usr", "/usr/../dev/shm", "/sys/kernel", "/run"],
)
def test_folder_of_the_system_is_closed_however_it_is_written(path: str) -> None:
    for uri in (path, f"file://{path.replace('/s', '/%73') if path.startswith('/sys') else path}"):
        assert refusal(uri, Ground())[0] == "PathNotAllowed"


@pytest.mark.parametrize("target", ["/proc/self/fd", "/sys/kernel", "/run", "/dev"])
def test_link_into_the_system_is_closed(place: Path, target: str) -> None:
    (place / "link").symlink_to(target)
    (place / "hop").symlink_to("link")
    assert refusal(place / "link", Ground())[0] == "PathNotAllowed"
    assert refusal("pvc://models/hop", Ground({"models": place}))[0] == "PathNotAllowed"


def test_volume_of_the_config_may_lie_in_memory_and_nothing_beside_it() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        model, ground = make_model(Path(folder, "models", "chat")), Ground({"models": Path(folder, "models")})
        assert served("pvc://models/chat", ground).folder == model
        assert refusal(model, Ground())[0] == "PathNotAllowed"
        make_model(Path(folder, "other"))
        Path(folder, "models", "link").symlink_to("../other")
        assert refusal("pvc://models/link", ground)[0] == "PathNotAllowed"


URIS = [
    ("file:///proc/1/root/srv", "PathNotAllowed"),
    ("/dev/shm/model", "PathNotAllowed"),
    ("file:///srv/%2e%2e/run/user", "PathNotAllowed"),
    ("file:///etc/reconciler/models", "PathNotAllowed"),
    ("file:///var/lib/reconciler/box/models", "PathNotAllowed"),
    ("file:///var/lib", "PathNotAllowed"),
]


def test_key_of_a_folder_of_secrets_is_closed_as_the_targets_own_is() -> None:
    secrets = {"folders": [{"path": "hosts/box", "namespaces": ["team"], "age_key_file": "/srv/keys/team.key"}]}
    target = TARGET.model_dump() | {"secrets": secrets}
    settings = Settings.model_validate({"source": {"url": "/r.git"}, "targets": [target]})
    assert Path("/srv/keys/team.key") in settings.closed


@pytest.mark.parametrize(("uri", "code"), URIS)
def test_validate_refuses_the_systems_folders_and_ours(uri: str, code: str) -> None:
    closed = Settings.model_validate({"source": {"url": "/r.git"}, "targets": [TARGET.model_dump()]}).closed
    text = SERVICE.replace("file:///models/tiny", uri)
    verdict = validate_on(read_manifests(snapshot({"hosts/box/chat.yaml": text})), TARGET, closed)
    (error,) = verdict["errors"]
    assert "is closed to services" in error["message"], code
    assert (error["file"], text.splitlines()[error["line"] - 1].strip()) == (
        "hosts/box/chat.yaml",
        f"storageUri: {uri}",
    )


@pytest.mark.parametrize("name", ["a" * 5000, "b/" * 3000, "loop", "loop/deeper", "file/deeper"])
def test_name_that_no_folder_can_have_is_missing_for_good(place: Path, name: str) -> None:
    (place / "loop").symlink_to("loop")
    (place / "file").touch()
    for uri in (f"file://{place}/{name}", f"pvc://models/{name}"):
        assert refusal(uri, Ground({"models": place}))[0] == "ModelNotFound"
    make_model(place / "chat" / "deep")
    (place / "chat" / "config.json").symlink_to("config.json")
    assert refusal(place / "chat", Ground())[0] == "ModelNotFound"


@pytest.mark.parametrize("uri", ['"file:///srv/\\0x"', "file:///srv/%00", '"pvc://models/\\0"', '"/srv/\\0"'])
def test_folder_with_a_nul_character_is_refused_by_its_line(uri: str) -> None:
    text = SERVICE.replace("file:///models/tiny", uri)
    (error,) = validate_on(read_manifests(snapshot({"hosts/box/chat.yaml": text})), TARGET)["errors"]
    assert "holds a NUL character" in error["message"]
    assert "storageUri" in text.splitlines()[error["line"] - 1]


MOUNTS = {
    "/": "/usr",
    "//": "an unknown folder",
    "/etc": "/etc",
    "/tmp": "/tmp",
    "/usr/lib/python3.11": "/usr",
    "/bin": "/bin",
    "/lib64/": "/lib64",
    "/run/credentials/x": "/run/credentials/x",
    "/proc/self": "/proc/self",
    "/opt/vllm": "/opt/vllm",
    "/opt/vllm/lib/python3.11/site-packages/vllm": "/opt/vllm",
    "/opt": "/opt/vllm",
    "/mnt/../usr": "an unknown folder",
    "models": "an unknown folder",
}


def with_mount(path: str) -> str:
    volumes = "  predictor:\n    volumes: [{name: v, persistentVolumeClaim: {claimName: claim}}]\n"
    return SERVICE.replace("  predictor:\n", volumes) + f"      volumeMounts: [{{name: v, mountPath: {path}}}]\n"


@pytest.mark.parametrize("path", MOUNTS)
def test_folder_of_git_covers_nothing_that_an_engine_of_the_host_runs_from(path: str) -> None:
    files = {"hosts/box/chat.yaml": with_mount(path)}
    unit = TARGET.model_copy(update={"kind": "systemd"})
    (error,) = validate_on(read_manifests(snapshot(files)), unit)["errors"]
    assert f"mountPath {path} would hide {MOUNTS[path]}" in error["message"]
    contained = unit.model_copy(update={"engines": (EngineSettings(image="*", podman=True),)})
    assert not validate_on(read_manifests(snapshot(files)), contained)["errors"], "the image is the wall"
    assert not validate_on(read_manifests(snapshot(files)), TARGET)["errors"], "nothing is mounted"


@pytest.mark.parametrize("path", ["/mnt/models2", "/etc/vllm", "/root/.cache", "/opt/ml/model", "/var/lib/data"])
def test_folder_of_git_may_be_mounted_beside_what_an_engine_runs_from(path: str) -> None:
    unit = TARGET.model_copy(update={"kind": "systemd"})
    assert not validate_on(read_manifests(snapshot({"hosts/box/chat.yaml": with_mount(path)})), unit)["errors"]


# ---------------------------------------------------------------- what is put in its place


def test_link_is_followed_once_and_what_it_led_to_is_shown(place: Path) -> None:
    first, second = make_model(place / "v1"), make_model(place / "v2")
    (place / "now").symlink_to("v1")
    assert served(place / "now", Ground()).folder == first
    (place / "now").unlink()
    (place / "now").symlink_to("v2")
    assert served(place / "now", Ground()).folder == second


@as_root
def test_folder_that_another_user_may_replace_is_pinned(place: Path) -> None:
    model = make_model(place / "shared" / "chat")
    inode = model.stat().st_ino
    steps: list[tuple[Callable[[], object], int | None]] = [
        (lambda: (place / "shared").chmod(0o777), inode),
        (lambda: (place / "shared").chmod(0o1777), None),
        (lambda: os.chown(model, NOBODY, NOBODY), inode),
        (lambda: (place / "shared").chmod(0o755), None),
        (lambda: os.chown(place / "shared", NOBODY, 0), inode),
    ]
    assert served(model).inode is None
    for change, expected in steps:
        change()
        assert served(model).inode == expected


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_unit_starts_nothing_in_a_folder_that_was_put_there_since(place: Path, plan: object) -> None:
    model = make_model(place / "it's a model")
    pinned = replace(plan, pins={str(model): model.stat().st_ino}, argv=("/bin/echo", "started"))  # type: ignore[type-var]
    from reconciler.host.systemd import unit

    words = list(unit._arguments(pinned))
    # The variables are another test's.
    words[2] = words[2].replace(f". {unit.shell_argument(pinned.credential)}", "true")  # type: ignore[attr-defined]
    words[2] = words[2].replace('. "$CREDENTIALS_DIRECTORY/environment"', "true")
    assert build_unit(pinned)  # type: ignore[arg-type]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "started\n"
    model.rename(place / "away")
    model.symlink_to("/root")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "was replaced since it was looked at" in done.stderr


@as_root
def test_folder_that_is_replaced_while_it_is_looked_at_is_looked_at_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = make_model(place / "chat"), subprocess.run
    (place / "chat").chmod(0o705)

    def swap(*words: object, **more: object) -> object:
        model.rename(place / "away")
        make_model(model)
        return asked(*words, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", swap)
    with pytest.raises(Retryable, match="was replaced while it was checked"):
        served(model)


# ---------------------------------------------------------------- arguments


def closed_arguments(
    args: tuple[str, ...], closed: tuple[Path, ...], mounts: dict[str, str] | None = None
) -> list[str]:
    spec = EffectiveSpec("i", written("vllm", "serve"), written(*args))
    wish = Desired(ServiceId("default", "chat"), Origin("a.yaml", 1), spec, "d")
    asked = PreflightQuestion(Path("python"), spec.args, {}, mounts or {})
    return [
        each.message.split()[0]
        for each in unusable_files(wish, spec, asked, "", closed)
        if each.code == "PathNotAllowed"
    ]


def test_argument_that_names_what_is_closed_is_refused(place: Path) -> None:
    (place / "state").mkdir()
    (place / "link").symlink_to(place / "state" / "key")
    args = (
        "--chat-template=/proc/self/environ",
        f"--ssl-keyfile={place}/state/age.key",
        f"--lora-modules=sql={place}/link",
        f'--speculative-config={{"model": "{place}/state"}}',
        "--allowed-local-media-path=/run",
        "--root-path=/run",
        "--hf-config-path=/mnt/models/deep",
        "--served-model-name=/srv/chat",
    )
    flags = ["--chat-template", "--ssl-keyfile", "--lora-modules", "--speculative-config", "--allowed-local-media-path"]
    assert closed_arguments(args, (place / "state",)) == flags
    (place / "model").mkdir()
    (place / "model" / "deep").symlink_to(place / "state")
    assert closed_arguments(args[-2:], (place / "state",), {"/mnt/models": f"{place}/model"}) == ["--hf-config-path"]


def test_paths_in_arguments_are_found_wherever_they_stand() -> None:
    args = written("--a=/x", "--b", "/y", "c=/z", '--d={"e": {"f": "/v"}}', "--root-path=/u", "--t={{ /w }}", "--g=h")
    assert [path for _, _, path in paths_in(args)] == ["/x", "/y", "/z", "/v"]


@pytest.mark.parametrize(
    "word",
    [
        '--lora-modules={"name": "/srv/a", "path": "%s"}',
        '--lora-modules={"name": "a", "path": "%s"}'.replace("%s", "\\u002fproc/self/environ"),
        '--compilation-config={"cache_dir": "%s"}'.replace("%s", "\\/proc\\/self"),
        '--speculative-config=[{"model": ["%s"]}]',
        "--compilation-config.splitting_ops+=a,%s",
        "--speculative-config.model=%s",
        "--chat_template=%s",
        "--chat-templ=%s",
        "--chat-template=file://%s",
        "--chat-template=../../../..%s",
        "--chat-template=x/../..%s",
        "--chat-template=./..%s",
        "--lora-modules=sql=~/../..%s",
        "--lora-modules=sql=../secrets",
    ],
)
def test_path_is_refused_however_an_argument_writes_it(word: str) -> None:
    word = word.replace("%s", "/proc/self/environ")
    head, dot, key = word.partition("=")[0].partition(".")
    assert closed_arguments((word,), ()) == [head.replace("_", "-") + dot + key]


@pytest.mark.parametrize(
    "word",
    [
        "--served-model-name=team/chat..v2",
        '--override-generation-config={"stop": ["..\\n", "/w ../x"]}',
        "--chat-template={{ '/proc' }}",
        "--chat-template=examples/tool.jinja",
        "--tokenizer=org/../name",
        "--disable-access-log-for-endpoints=/health,/metrics",
        "--allowed-local-media-path=/srv/media",
    ],
)
def test_argument_that_names_nothing_closed_is_passed_on(word: str) -> None:
    assert closed_arguments((word,), (Path("/var/lib/reconciler"),)) == []


@pytest.mark.parametrize("flag", ["--allowed-local-media-path", "--allowed-local-media", "--allowed_local_media_path"])
@pytest.mark.parametrize("folder", ["/", "//", "/srv/..", "/var/lib", "/var"])
def test_media_folder_around_what_is_closed_is_refused(flag: str, folder: str) -> None:
    closed = (Path("/var/lib/reconciler"),)
    assert closed_arguments((f"{flag}={folder}",), closed) == [flag.replace("_", "-")]
    assert closed_arguments((flag, folder), closed) == [flag.replace("_", "-")]


def test_media_folder_around_what_a_link_leads_to_is_refused(place: Path) -> None:
    (place / "keys").mkdir()
    (place / "link").symlink_to(place)
    assert closed_arguments((f"--allowed-local-media-path={place}/link",), (place / "keys",))


def test_path_in_a_file_of_arguments_is_refused(place: Path) -> None:
    file = place / "serve.yaml"
    for text in (
        "chat_template: /proc/self/environ\n",
        "lora-modules: [a=/srv/a, b=../../x]\n",
        "speculative-config:\n  model: /run/x\n",
        "allowed-local-media-path: /\n",
    ):
        file.write_text(text)
        assert closed_arguments(("--config", "/mnt/models/serve.yaml"), (), {"/mnt/models": str(place)}) == ["--config"]
    file.write_text("chat-template: /mnt/models/x.jinja\nmax-model-len: 1\n")
    assert not closed_arguments(("--config", "/mnt/models/serve.yaml"), (), {"/mnt/models": str(place)})
    os.remove(file)
    os.mkfifo(file)
    assert not closed_arguments(("--config", "/mnt/models/serve.yaml"), (), {"/mnt/models": str(place)})


@as_root
@pytest.mark.parametrize("flag", ["--chat-template", "--tokenizer", "--hf-config-path", "--ssl-keyfile", "--config"])
def test_nothing_is_told_of_what_the_reader_cannot_come_to(place: Path, flag: str) -> None:
    (place / "closed").mkdir(mode=0o700)
    (place / "closed" / "there").write_text("model: /proc/self\n")
    (place / "closed" / "folder").mkdir()

    def told(name: str) -> list[str]:
        word = f"{place}/{name}"
        spec = EffectiveSpec("i", written("vllm", "serve"), written(flag, word))
        asked = PreflightQuestion(Path("python"), spec.args, {}, {})
        wish = Desired(ServiceId("default", "chat"), Origin("a.yaml", 1), spec, "d")
        return [each.message.replace(name, "X") for each in unusable_files(wish, spec, asked, "daemon")]

    assert told("closed/there") == told("closed/gone") == told("closed/folder")
    assert "cannot be read by daemon" in told("closed/gone")[0]
    assert "is not there" in told("gone")[0]


def test_path_that_climbs_inside_a_container_is_the_images_own() -> None:
    spec = EffectiveSpec("i", written("vllm", "serve"), written("--chat-template=../x.jinja"))
    asked = PreflightQuestion(Path("python3"), spec.args, {}, {}, image="1234")
    wish = Desired(ServiceId("default", "chat"), Origin("a.yaml", 1), spec, "d")
    assert not list(unusable_files(wish, spec, asked, "", ()))


@pytest.mark.parametrize("path", ["/proc/self/environ", "/var/lib/reconciler/state.db", "/etc/age.key"])
def test_argument_that_names_a_closed_file_is_refused_by_validate(path: str) -> None:
    text = f"{SERVICE}      - --chat-template={path}\n"
    closed = (Path("/var/lib/reconciler"), Path("/etc/age.key"))
    (error,) = validate_on(read_manifests(snapshot({"hosts/box/chat.yaml": text})), TARGET, closed)["errors"]
    assert f"--chat-template {path}: is closed to services" in error["message"]
    assert text.splitlines()[error["line"] - 1].strip() == f"- --chat-template={path}"
