"""Files are checked before anything is stopped: missing, truncated, unreadable, or whole."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from reconciler.engines.file_arguments import FileContent, Named, named_files
from reconciler.engines.fit_files import UnknownModel, UnreadableModel
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.model_files import MissingFile, check, check_pair
from reconciler.host.checks.start_checks import unusable_files
from reconciler.model import Argument, Desired, NoOrigin, Origin, Reason, SecretMount
from tests.host.checks.test_preflights import SPEC, Disk
from tests.host.checks.test_start_checks import blocked, refused, see
from tests.support.arguments import written, written_in

WEIGHTS = "model.safetensors"
RUNTIME, ARGUMENT, STORAGE = Origin("runtimes/r.yaml", 9), Origin("box/a.yaml", 12), Origin("box/a.yaml", 8)


def safetensors(*sizes: int) -> bytes:
    header, at = {}, 0
    for number, size in enumerate(sizes):
        header[f"t{number}"] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).write_text('{"a": 1}')
    (folder / WEIGHTS).write_bytes(safetensors(8, 16))
    return folder


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"
DAMAGE = [
    (cut(WEIGHTS, 60), WEIGHTS),
    (cut(WEIGHTS, -1), "outside of the file"),
    (cut(WEIGHTS, 5), "too short"),
    (put(WEIGHTS, safetensors(8) + b"more"), "4 bytes after its last tensor"),
    (put(WEIGHTS, b""), "too short"),
    (put(WEIGHTS, POINTER), "git lfs pull"),
    (put(INDEX, json.dumps({"weight_map": {"a": WEIGHTS, "b": "gone.safetensors"}}).encode()), "gone.safetensors"),
    (put(INDEX, b'{"weight_map": '), INDEX),
    (cut("config.json", 4), "config.json: is not JSON"),
    (put("config.json", b"[]"), "config.json: is not a JSON object"),
    (put("config.json", POINTER), "git lfs pull"),
    (cut("tokenizer_config.json", 4), "tokenizer_config.json"),
    (cut("tokenizer.json", 4), "tokenizer.json: is not a JSON object, or truncated"),
    (put("tokenizer.json", b""), "tokenizer.json"),
]


@pytest.mark.parametrize(("harm", "says"), DAMAGE)
def test_damaged_model_is_named_with_its_file(model: Path, harm: Callable[[Path], object], says: str) -> None:
    check(str(model), FileContent.MODEL)
    harm(model)
    with pytest.raises(UnreadableModel) as raised:
        check(str(model), FileContent.MODEL)
    assert says in str(raised.value)
    assert not isinstance(raised.value, UnknownModel)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "pytorch_model.bin"])
@pytest.mark.parametrize("is_pipe", [True, False])
def test_pipe_or_device_in_a_model_is_never_opened(model: Path, name: str, is_pipe: bool) -> None:
    # Reading would wait forever, or never end.
    (model / WEIGHTS).unlink()
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name) if is_pipe else (model / name).symlink_to("/dev/zero")
    with pytest.raises(UnknownModel, match=f"{name}: cannot be read: is not a regular file"):
        check(str(model), FileContent.MODEL)


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/kmsg", "pipe"])
def test_certificate_that_is_no_file_is_never_opened(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for look in (lambda name: check(name, FileContent.FILE), lambda name: check_pair(name, name)):
        # It says no, or leaves that to the other check.
        with contextlib.suppress(UnreadableModel):
            look(str(tmp_path / path))


def test_device_is_no_file_that_an_argument_may_name(disk: Disk) -> None:
    code, origin, message = only(refused(see(disk, wish_of(disk, "--ssl-certfile=/dev/zero"))))
    assert (code, origin) == ("PathNotAllowed", ARGUMENT)
    assert message.startswith("--ssl-certfile /dev/zero: is closed to services")


def test_model_without_weights_of_its_own_is_no_damage(model: Path) -> None:
    (model / WEIGHTS).unlink()
    check(str(model), FileContent.MODEL)


def test_weights_that_are_not_read_are_not_judged(model: Path) -> None:
    cut(WEIGHTS, 60)(model)
    check(str(model), FileContent.MODEL, weights=False)
    check(str(model), FileContent.TOKENIZER)


def test_archive_of_pytorch_is_judged_where_it_is_loaded(model: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin"):
        (model / name).write_bytes(b"PK\x03\x04cut")
    check(str(model), FileContent.MODEL)
    (model / WEIGHTS).unlink()
    with pytest.raises(UnreadableModel, match=r"pytorch_model\.bin: is cut short"):
        check(str(model), FileContent.MODEL)
    with zipfile.ZipFile(model / "pytorch_model.bin", "w") as archive:
        archive.writestr("data.pkl", "x")
    check(str(model), FileContent.MODEL)


def test_what_the_disk_hides_is_unknown_and_looked_at_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "config.json").unlink()
    # Read as a file, it is an error of the disk and not of its content.
    (model / "config.json").mkdir()
    for _ in range(2):
        with pytest.raises(UnknownModel, match="cannot be read"):
            check(str(model), FileContent.MODEL)


def test_adapter_needs_its_config_and_whole_weights(tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    with pytest.raises(MissingFile):
        check(str(folder), FileContent.ADAPTER)
    folder.mkdir()
    for name, data, says in (
        ("notes", b"", "has no adapter_config.json"),
        ("adapter_config.json", b"{}", "holds no adapter_model"),
        ("adapter_model.safetensors", safetensors(9)[:-2], "adapter_model.safetensors"),
    ):
        (folder / name).write_bytes(data)
        with pytest.raises(UnreadableModel, match=says):
            check(str(folder), FileContent.ADAPTER)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(9))
    check(str(folder), FileContent.ADAPTER)


# ---------------------------------------------------------------- which arguments name files


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--model=/m", "--model", "/n"], [(2, "/n", FileContent.MODEL)]),
        (["--model=org/name", "--tokenizer=/t"], [(1, "/t", FileContent.TOKENIZER)]),
        (["--lora-modules", "a=/a", "b=/b"], [(1, "/a", FileContent.ADAPTER), (2, "/b", FileContent.ADAPTER)]),
        (["--lora-modules", '{"name": "b", "path": "/b"}'], [(1, "/b", FileContent.ADAPTER)]),
        (["--lora-modules=a=/a", "b=/b"], [(0, "/a", FileContent.ADAPTER), (1, "/b", FileContent.ADAPTER)]),
        (['--speculative-config={"model": "/d", "method": "eagle"}'], [(0, "/d", FileContent.MODEL)]),
        (["--speculative-config.model=/d"], [(0, "/d", FileContent.MODEL)]),
        (['--default_mm_loras={"audio": "/a"}'], [(0, "/a", FileContent.ADAPTER)]),
        (["--ssl-certfile", "/c", "--ssl_keyfile=/k"], [(1, "/c", FileContent.FILE), (2, "/k", FileContent.FILE)]),
        (["--chat-template=/{{ messages }}", "--root-path=/api/v1", "--download-dir=/new"], []),
    ],
)
def test_arguments_that_name_files_are_found(args: list[str], found: list[tuple[int, str, FileContent]]) -> None:
    arguments = written_in("a.yaml", 0, args)
    named = [*named_files(arguments)]
    assert all(isinstance(each, Named) for each in named)
    assert [(each.argument.origin, each.path, each.holds) for each in named] == [
        (arguments[index].origin, path, holds) for index, path, holds in found
    ]


# ---------------------------------------------------------------- on a host


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def wish_of(disk: Disk, *more: str, line: Origin = ARGUMENT) -> Desired:
    args = (Argument("--model=/mnt/models/deep", RUNTIME), *(Argument(each, line) for each in more))
    spec = replace(SPEC, command=written("vllm", "serve"), args=args)
    mounts = (("/mnt/models", STORAGE),)
    return replace(disk.wanted[0], spec=spec, mount_origins=mounts)


def only(reasons: list[Reason]) -> tuple[str, Origin | NoOrigin, str]:
    (reason,) = reasons
    return reason.code, reason.origin, reason.message


def test_damaged_weights_are_refused_where_the_service_names_its_model(disk: Disk) -> None:
    (disk.model / "deep" / WEIGHTS).write_bytes(safetensors(8)[:-1])
    code, origin, message = only(refused(see(disk, wish_of(disk))))
    assert (code, origin) == ("FileDamaged", STORAGE), "the runtime's line serves other models as well"
    assert f"--model /mnt/models/deep: {disk.model}/deep/{WEIGHTS}" in message
    (disk.model / "deep" / WEIGHTS).write_bytes(safetensors(8))
    assert not refused(see(disk, wish_of(disk)))


@pytest.mark.parametrize(
    "argument",
    [
        "--lora-modules=sql=/mnt/models/sql",
        '--speculative-config={"model": "/mnt/models/draft", "num_speculative_tokens": 2}',
        "--chat-template=/mnt/models/chat.jinja",
        "--ssl-certfile=/nowhere/tls.crt",
        "--tokenizer=/mnt/models/tokens",
    ],
)
def test_missing_file_is_refused_at_the_argument_that_names_it(disk: Disk, argument: str) -> None:
    code, origin, message = only(refused(see(disk, wish_of(disk, argument))))
    assert (code, origin) == ("FileNotFound", ARGUMENT)
    assert "is not there" in message


def test_file_of_a_mounted_secret_is_written_later(disk: Disk) -> None:
    wish = wish_of(disk, "--ssl-certfile=/etc/tls/tls.crt")
    assert wish.spec is not None
    wish = replace(wish, spec=replace(wish.spec, secrets=(SecretMount("tls", "/etc/tls", optional=True),)))
    assert not refused(see(disk, wish))


def test_hidden_file_blocks_and_refuses_nobody(disk: Disk) -> None:
    file = disk.model / "deep" / "generation_config.json"
    file.mkdir()
    seen = see(disk, wish_of(disk))
    assert blocked(seen) == [("FileUnreadable", STORAGE)]
    assert not refused(seen)


def test_certificate_and_key_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    key.write_text("")
    with pytest.raises(UnreadableModel, match="no pair of a certificate and its key"):
        check_pair(str(certificate), str(key))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs replicas as another user")
def test_key_that_the_replicas_user_cannot_read_blocks(disk: Disk) -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        key = Path(folder, "tls.key")
        key.write_text("x")
        key.chmod(0o600)
        wish = wish_of(disk, f"--ssl-keyfile={key}")
        assert wish.spec is not None
        asked = PreflightQuestion(Path("python"), wish.spec.args, {}, {"/mnt/models": str(disk.model)})
        (reason,) = unusable_files(wish, wish.spec, asked, "daemon")
        assert (reason.code, reason.origin) == ("FileUnreadable", ARGUMENT)
        assert f"{key}: cannot be read by daemon, which runs replicas" in reason.message
        key.chmod(0o644)
        assert not [*unusable_files(wish, wish.spec, asked, "daemon")]
