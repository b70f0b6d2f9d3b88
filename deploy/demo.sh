#!/usr/bin/env bash
# From nothing to a model served by `git push`, on this machine and without a GPU. Options go to `reconciler demo`.
# It prints the address of the daemon's page when it begins: open that to watch.
#
#   deploy/demo.sh              show it, leave it running, say how to go on
#   deploy/demo.sh --once       show it and clean up; exit code 0 only if every step was as promised
#   deploy/demo.sh --stop       end a demo that was left running
#   deploy/demo.sh --cluster    the same story on a Kubernetes control plane, which is built first (10 minutes once); its nodes
#                               and KServe's controller are played, and with --once it cleans up as well
#   deploy/demo.sh --forge [URL --token-file FILE]    on a forge, with a status on every commit: an empty repository at URL, or
#                               without URL a Gitea of our own, which is built first (10 minutes once)
set -euo pipefail
# shellcheck source=deploy/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# run_tests PART WORD ARGS…: a demo that needs a part of the tests; WORD, which asked for it, is not passed on.
run_tests() {
  local part=$1 word=$2 each arguments=()
  shift 2
  for each in "$@"; do [ "$each" = "$word" ] || arguments+=("$each"); done
  exec "$ROOT/tests/run.sh" "$part" ${arguments[@]+"${arguments[@]}"}
}

case " $* " in
  *" --cluster "*) run_tests demo --cluster "$@" ;;
  *" --forge "[!-]* | *" --stop "* | *" --help "*) ;;
  *" --forge "*) run_tests forge-demo --forge "$@" ;;
esac
ensure_daemon base
case " $* " in
  *" --stop "* | *" --help "*) exec "$VENV/bin/reconciler" demo "$@" ;;
esac
ensure_vllm
exec "$VENV/bin/reconciler" demo --python "$VLLM_VENV/bin/python" "$@"
