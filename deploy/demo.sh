#!/usr/bin/env bash
# From nothing to a model served by `git push`, on this machine and without a GPU. Options go to `reconciler demo`:
#
#   deploy/demo.sh              show it, leave it running, say how to go on
#   deploy/demo.sh --once       show it and clean up; exit code 0 only if every step was as promised
#   deploy/demo.sh --stop       end a demo that was left running
#   deploy/demo.sh --cluster    the same story on a Kubernetes control plane, which is built first (10 minutes once); its nodes
#                               and KServe's controller are played, and with --once it cleans up as well
set -euo pipefail
# shellcheck source=deploy/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

case " $* " in
  *" --cluster "*)
    arguments=()
    for each in "$@"; do [ "$each" = --cluster ] || arguments+=("$each"); done
    exec "$ROOT/tests/run.sh" demo ${arguments[@]+"${arguments[@]}"}
    ;;
esac
ensure_daemon base
case " $* " in
  *" --stop "* | *" --help "*) exec "$VENV/bin/reconciler" demo "$@" ;;
esac
ensure_vllm
exec "$VENV/bin/reconciler" demo --python "$VLLM_VENV/bin/python" "$@"
