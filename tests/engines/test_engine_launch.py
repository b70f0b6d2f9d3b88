"""Host translation is pure: what a container would run becomes what this host runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import EngineSettings
from reconciler.engines.arguments import GRPC_SERVERS, expand, flag_value, model_names, values_of
from reconciler.engines.container import API_SERVER, api_key, unsupported
from reconciler.engines.environment import Folders, replace_paths
from reconciler.engines.launch import Launch, launch, question, without
from reconciler.model import NO_ORIGIN, EffectiveSpec, EnvVar, Lease, Origin, ServiceId, texts
from tests.support.arguments import written, written_in

SERVICE = ServiceId("team", "granite")
ENGINE = EngineSettings(image="*", python=Path("/venv/bin/python"))
FOLDERS = Folders("/state/home", "/state/tmp")
MODELS = {"/mnt/models": "/weights/abc"}
PYTHON = ("python", "-m", API_SERVER)
GRPC = ("python", "-m", GRPC_SERVERS[0])


def spec_of(command: tuple[str, ...], *args: str, env: dict[str, str] | None = None) -> EffectiveSpec:
    return EffectiveSpec(
        "image", written(*command), written(*args), tuple(EnvVar(k, v) for k, v in (env or {}).items())
    )


def launched(spec: EffectiveSpec, engine: EngineSettings = ENGINE, lease: Lease = Lease(20001)) -> Launch:  # noqa: B008 - frozen
    return launch(spec, engine, SERVICE, lease, MODELS, 89.5, FOLDERS)


def test_pair_that_users_paste_is_translated() -> None:
    spec = spec_of(PYTHON, "--port=8080", "--model=/mnt/models", "--served-model-name=granite", env={"HF_HOME": "/h"})
    assert launched(spec).argv == (
        *("/venv/bin/python", "-m", API_SERVER, "--model=/weights/abc"),
        *(
            "--host=127.0.0.1",
            "--port=20001",
            "--served-model-name",
            "granite",
            "team/granite",
            "--shutdown-timeout=90",
        ),
    )
    assert launched(spec).env["HF_HOME"] == "/h"


def test_in_its_own_image_an_engine_keeps_what_the_image_knows_better() -> None:
    engine = EngineSettings(image="*", podman=True, env={"A": "host"})
    spec = spec_of(
        ("/opt/venv/bin/python3", "-m", API_SERVER), env={"LD_LIBRARY_PATH": "/lib", "HOME": "/root", "A": ""}
    )
    found = launched(spec, engine, Lease(20001, ("GPU-1",)))
    assert found.argv[:3] == ("/opt/venv/bin/python3", "-m", API_SERVER)
    assert found.env.items() >= {"LD_LIBRARY_PATH": "/lib", "HOME": FOLDERS.home, "A": "host"}.items()
    assert not found.env.keys() & {"PATH", "TMPDIR", "LANG", "CUDA_VISIBLE_DEVICES"}
    assert launched(spec_of((), "serve", "/mnt/models"), engine).argv[0] == "python3"


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(PYTHON, "--model", "/mnt/models", "--enforce-eager"),
        spec_of(("/usr/bin/python3", "-m"), API_SERVER, "--model", "/mnt/models", "--enforce-eager"),
        spec_of(("python3.12", "-m", "vllm.entrypoints.cli.main"), "serve", "/mnt/models", "--enforce-eager"),
        spec_of(("vllm", "serve"), "/mnt/models", "--enforce-eager"),
        spec_of(("/usr/local/bin/vllm",), "serve", "--model", "/mnt/models", "--enforce-eager"),
        spec_of((), "/mnt/models", "--enforce-eager"),
        spec_of((), "serve", "/mnt/models", "--enforce-eager"),
        spec_of((), "--model", "/mnt/models", "--enforce-eager"),
    ],
)
def test_every_way_to_start_the_server_becomes_the_same(spec: EffectiveSpec) -> None:
    assert unsupported(spec) == ()
    start = launched(spec)
    assert start.argv[:6] == ("/venv/bin/python", "-m", API_SERVER, "--model", "/weights/abc", "--enforce-eager")
    assert texts(question(spec, ENGINE, MODELS, "/h").argv) == ("--model", "/mnt/models", "--enforce-eager")


def test_options_of_the_interpreter_are_kept() -> None:
    assert launched(spec_of(("python", "-u", "-m", API_SERVER))).argv[:4] == (
        "/venv/bin/python",
        "-u",
        "-m",
        API_SERVER,
    )


@pytest.mark.parametrize(
    ("spec", "message", "line"),
    [
        (spec_of(("/bin/sh", "-c"), "vllm serve x"), "cannot translate the command /bin/sh", 1),
        (spec_of(("python",), "serve.py"), "not a script", 2),
        (spec_of(("python", "-m", "http.server")), "cannot run the module http.server", 3),
        (spec_of(("vllm",), "bench"), "only `vllm serve`, not `vllm bench`", 2),
        (spec_of(("vllm",)), "only `vllm serve`, not `vllm`", 1),
        (spec_of(("python",)), "not a script", 1),
        (
            spec_of(("vllm serve /mnt/models",)),
            "`vllm serve /mnt/models` is one item of the list, and no shell splits it",
            1,
        ),
        (spec_of(("vllm",), "serve /mnt/models"), "write one item per argument, serve first", 2),
        (spec_of(("python", "-m vllm.entrypoints.openai.api_server")), "is one item of the list", 2),
        (spec_of(PYTHON, "--model=m", "--uds", "/s"), "--uds does not work on a host", 5),
        (spec_of(PYTHON, "--ssl_cert_reqs=2"), "--ssl-cert-reqs does not work on a host", 4),
        (spec_of(PYTHON, "--grpc-port=9000", "--api-key=k"), "--api-key does not work with gRPC", 5),
        (spec_of(PYTHON, "--grpc", "--api-key=k"), "--api-key does not work with gRPC", 5),
        (spec_of(("vllm", "serve"), "--grpc", "--ssl-certfile=c"), "--ssl-certfile does not work with gRPC", 4),
        (spec_of(GRPC, "--ssl-keyfile=c"), "--ssl-keyfile does not work with gRPC", 4),
        (spec_of(PYTHON, "--grpc", env={"VLLM_API_KEY": "k"}), "variable VLLM_API_KEY does not work with gRPC", 99),
    ],
)
def test_what_only_a_container_can_run_is_refused_with_its_line(spec: EffectiveSpec, message: str, line: int) -> None:
    command, args = texts(spec.command), texts(spec.args)
    at_lines = written_in("runtime.yaml", 1, command), written_in("runtime.yaml", len(command) + 1, args)
    spec = replace(spec, command=at_lines[0], args=at_lines[1])
    (reason,) = unsupported(spec, Origin("service.yaml", 99))
    assert message in reason.message
    assert reason.origin == (Origin("service.yaml", 99) if line == 99 else Origin("runtime.yaml", line))


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(PYTHON, "--grpc", "--model=/mnt/models", "--port=9000", "--host=0.0.0.0"),
        spec_of(("vllm", "serve"), "--model=/mnt/models", "--grpc"),
        spec_of(GRPC, "--model=/mnt/models", "--port", "9000"),
    ],
)
def test_grpc_server_listens_on_a_socket_of_its_own(spec: EffectiveSpec) -> None:
    assert unsupported(spec) == ()
    folders = replace(FOLDERS, socket="/run/x/http.sock")
    start = launch(spec, ENGINE, SERVICE, Lease(20001), MODELS, 89.5, folders)
    where = ("--host=unix:/run/x/http.sock", "--port=1")
    assert start.argv[:6] == ("/venv/bin/python", "-m", GRPC[2], "--model=/weights/abc", *where)
    assert start.argv[6:] == ("--served-model-name", *start.argv[7:-1], "--shutdown-timeout=90")
    assert start.socket == "/run/x/http.sock:1"
    assert without(start, {"--uds", "--shutdown-timeout"}, Lease(20001)).argv == start.argv[:-1]
    assert launched(spec).argv[4:6] == ("--host=127.0.0.1", "--port=20001")
    assert "--grpc" in texts(question(spec, ENGINE, MODELS, "/h").argv)


def test_grpc_beside_http_gets_the_leased_port() -> None:
    spec = spec_of(
        PYTHON, "--grpc-port=9000", "--port=8080", "--model=/mnt/models", env={"VLLM_USE_RUST_FRONTEND": "1"}
    )
    start = launch(spec, ENGINE, SERVICE, Lease(20001), MODELS, 89.5, replace(FOLDERS, socket="/run/x/http.sock"))
    assert start.argv[:5] == ("/venv/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "--model=/weights/abc")
    assert start.argv[5] == "--uds=/run/x/http.sock"
    assert start.argv[-1] == "--grpc-port=20001"
    assert [word for word in start.argv if "9000" in word or "8080" in word] == []
    assert start.socket == "/run/x/http.sock"


def test_argument_without_a_line_is_blamed_on_the_fallback() -> None:
    spec = spec_of(PYTHON, "--uds=/s")
    assert unsupported(spec)[0].origin == NO_ORIGIN
    assert unsupported(spec, Origin("f", 1))[0].origin == Origin("f", 1)


def test_users_names_come_first_then_ours() -> None:
    names = ("a", "b", "granite", "team/granite")
    argv = written(*launched(spec_of(PYTHON, "--served-model-name", "a", "b")).argv)
    assert values_of(argv, "--served-model-name") == names
    path = written(*launched(spec_of(PYTHON, "--model=/mnt/models")).argv)
    assert values_of(path, "--served-model-name") == ("/mnt/models", "granite", "team/granite")


@pytest.mark.parametrize(
    "adapters",
    [
        ("--lora-modules=granite=/mnt/lora",),
        ("--lora_modules", "sql=/a", "granite=/mnt/lora"),
        ("--lora-modules", '{"name": "granite", "path": "/mnt/lora", "base_model_name": "b"}'),
        ("--lora-modules", '[{"name": "granite", "path": "/mnt/lora"}, {"name": "sql", "path": "/a"}]'),
        ("--default-mm-loras", '{"granite": "/mnt/lora"}'),
        ("--default-mm-loras.granite", "/mnt/lora"),
    ],
)
def test_served_name_that_an_adapter_bears_is_not_added(adapters: tuple[str, ...]) -> None:
    argv = launched(spec_of(PYTHON, "--served-model-name=base", *adapters)).argv
    assert values_of(written(*argv), "--served-model-name") == ("base", "team/granite")
    assert set(adapters) <= set(argv)


def test_model_names_are_those_that_git_gives_and_no_paths() -> None:
    def named(*args: str, command: tuple[str, ...] = PYTHON) -> tuple[str, ...]:
        return model_names(spec_of(command, *args, env={"A": "a", "AB": "$(A)b"}))

    lora = ("--lora-modules", "sql=/l", '{"name": "code", "path": "/c"}')
    assert named("--served-model-name", "a", "$(AB)", *lora) == ("a", "ab", "sql", "code")
    assert named("--model=/mnt/models") == named("--model=s3://b/m") == named("--served-model-name=$(B)") == ()
    assert named("--model", "org/name", *lora) == ("org/name", "sql", "code")
    assert named("org/name", "--seed=1", command=("vllm", "serve")) == ("org/name",)
    assert named("--served-model-name", "a\ud800", "b\0", "c\n", "d" * 257, "e" * 256, "ü 模") == ("e" * 256, "ü 模")
    assert len(named("--served-model-name", *(str(number) for number in range(1000)))) == 256


def test_shutdown_timeout_of_the_users_own_stays() -> None:
    own = launched(spec_of(PYTHON, "--shutdown_timeout", "5")).argv
    assert [word for word in own if "shutdown" in word] == ["--shutdown_timeout"]


def test_variables_are_expanded_as_the_kubelet_does() -> None:
    env = {"SIZE": "8", "LONG": "$(SIZE)k", "EARLY": "$(LATER)", "LATER": "1"}
    spec = spec_of(
        PYTHON, "--max-model-len=$(LONG)", "--x=$$(SIZE)", "--y=$(NOPE)", "$SIZE", "$(", "--z=$(EARLY)", env=env
    )
    assert launched(spec).argv[3:9] == (
        "--max-model-len=8k",
        "--x=$(SIZE)",
        "--y=$(NOPE)",
        "$SIZE",
        "$(",
        "--z=$(LATER)",
    )


def test_variable_that_git_does_not_hold_is_left_out() -> None:
    spec = EffectiveSpec("i", written(*PYTHON), (), (EnvVar("TOKEN", source="secret hf/token"),))
    assert "TOKEN" not in launched(spec).env


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("/mnt/models", "/weights/abc"),
        ("--model=/mnt/models/sub/", "--model=/weights/abc/sub/"),
        ('{"model": "/mnt/models/draft", "n": 1}', '{"model": "/weights/abc/draft", "n": 1}'),
        ("a=/mnt/models/a,b=/mnt/models", "a=/weights/abc/a,b=/weights/abc"),
        ("/mnt/models2", "/mnt/models2"),
        ("/mnt/models-new", "/mnt/models-new"),
        ("/data/mnt/models", "/data/mnt/models"),
        ("/mnt", "/mnt"),
    ],
)
def test_only_whole_paths_are_translated(text: str, translated: str) -> None:
    assert replace_paths(text, MODELS) == translated
    assert launched(spec_of(PYTHON, text, env={"X": text})).env["X"] == translated


def test_longest_of_nested_mounts_wins() -> None:
    paths = {"/mnt/models": "/a", "/mnt/models/lora/": "/b/"}
    assert replace_paths("/mnt/models/lora/x /mnt/models/x", paths) == "/b/x /a/x"


def test_environment_is_made_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "x")
    container = {"PATH": "/opt/app/bin", "HOME": "/app", "PYTHONDONTWRITEBYTECODE": "1", "A": "1", "B": "1"}
    engine = EngineSettings(image="*", python=Path("/venv/bin/python"), env={"B": "2", "PYTHONDONTWRITEBYTECODE": "1"})
    env = launched(spec_of(PYTHON, env=container), engine).env
    assert "OUR_SECRET" not in env
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert (env["A"], env["B"], env["HOME"], env["TMPDIR"]) == ("1", "2", "/state/home", "/state/tmp")
    assert env["PATH"].startswith("/venv/bin:/usr/local/sbin:")
    assert env["HF_HUB_OFFLINE"] == "1"


def test_gpus_are_named_by_uuid_and_none_leased_means_none_seen() -> None:
    spec = spec_of(PYTHON, env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert launched(spec).env["CUDA_VISIBLE_DEVICES"] == ""
    two = launched(spec, lease=Lease(1, ("GPU-a", "GPU-b"))).env
    assert (two["CUDA_VISIBLE_DEVICES"], two["CUDA_DEVICE_ORDER"]) == ("GPU-a,GPU-b", "PCI_BUS_ID")


def test_long_folder_does_not_break_the_engines_sockets() -> None:
    deep = Folders("/h", "/" + "x" * 90)
    env = launch(spec_of(PYTHON), ENGINE, SERVICE, Lease(1), {}, 1.0, deep).env
    assert env["VLLM_RPC_BASE_PATH"] == "/proc/self/cwd"
    assert "VLLM_RPC_BASE_PATH" not in launched(spec_of(PYTHON)).env


def test_key_is_found_where_vllm_finds_it() -> None:
    assert api_key(spec_of(PYTHON, "--api-key", "$(KEY)", env={"KEY": "k"})) == "k"
    assert api_key(spec_of(PYTHON, env={"VLLM_API_KEY": "v"})) == "v"
    assert api_key(spec_of(PYTHON)) is None


def test_question_knows_where_each_word_was_written() -> None:
    spec = replace(spec_of(("vllm", "serve")), args=written_in("a.yaml", 7, ["/mnt/models", "--dtype=auto"]))
    asked = question(spec, ENGINE, MODELS, "/h")
    assert texts(asked.argv) == ("--model", "/mnt/models", "--dtype=auto")
    assert [each.origin for each in asked.argv] == [Origin("a.yaml", line) for line in (7, 7, 8)]
    assert "CUDA_VISIBLE_DEVICES" not in asked.env


FLAGS = st.sampled_from(
    [
        ("--port", "8080"),
        ("--port=9000",),
        ("--host", "0.0.0.0"),
        ("--served-model-name", "a", "b"),
        ("--served_model_name=c",),
        ("--max-model-len", "8k"),
        ("--enforce-eager",),
        ("--shutdown-timeout=7",),
        ("-tp", "2"),
        ("--hf-overrides", '{"a": 1}'),
    ]
)
ORDINARY = ("--max-model-len", "8k", "--enforce-eager", "-tp", "2", "--hf-overrides", '{"a": 1}')


@given(st.lists(FLAGS, max_size=8))
def test_lease_always_wins_and_nothing_else_is_lost(flags: list[tuple[str, ...]]) -> None:
    words = tuple(word for flag in flags for word in flag)
    argv = launched(spec_of(PYTHON, *words)).argv
    assert [word for word in argv if word.startswith(("--port", "--host"))] == ["--host=127.0.0.1", "--port=20001"]
    assert flag_value(written(*argv), "--port") == "20001"
    assert values_of(written(*argv), "--served-model-name")[-2:] == ("granite", "team/granite")
    assert sum(word.startswith("--served") for word in argv) == 1
    assert flag_value(written(*argv), "--shutdown-timeout") is not None
    assert [word for word in argv if word in ORDINARY] == [word for word in words if word in ORDINARY]


@given(st.text(st.characters(exclude_characters="$")), st.dictionaries(st.text(min_size=1), st.text()))
def test_text_without_dollars_is_never_changed(text: str, env: dict[str, str]) -> None:
    assert expand(text, env) == text


@given(st.text("$(Aa) ", max_size=12))
def test_doubled_dollar_is_always_a_dollar(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "x", "a": "y"}) == text
