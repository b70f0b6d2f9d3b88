#!/usr/bin/env bash
# Builds Gitea, the forge of the tests, from its Go module. Its templates and texts stand beside the program, as `static`: the
# module has none that are built in. SQLite is C: a compiler is needed.
#
#   tests/forge/gitea/build.sh key          what the result depends on, in short
#   tests/forge/gitea/build.sh gitea DIR    build DIR/gitea and DIR/static
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
MODULE=code.gitea.io/gitea
TAGS='sqlite sqlite_unlock_notify'
export CGO_ENABLED=1 GOFLAGS='-trimpath -mod=readonly -buildvcs=false' GOTOOLCHAIN=local GOWORK=off

version() { sed -n "s#^\s*$MODULE v\([0-9.]*\).*#\1#p" go.mod; }

key() { printf '%s-%s' "$(version)" "$(cat build.sh go.* | sha256sum | cut -c1-12)"; }

build_gitea() {
  local to=$1 source
  go mod download "$MODULE"
  source=$(go list -m -f '{{.Dir}}' "$MODULE")
  go build -tags "$TAGS" -ldflags "-s -w -X main.Version=$(version) -X 'main.Tags=$TAGS'" -o "$to/gitea" "$MODULE"
  rm -rf "$to/static"
  mkdir "$to/static"
  cp -r "$source"/{templates,options,public} "$to/static/"
  chmod -R u+w,a+rX "$to"
  # Pages look their scripts up in it; nothing here needs scripts.
  mkdir -p "$to/static/public/assets/.vite"
  echo '{}' >"$to/static/public/assets/.vite/manifest.json"
}

case $1 in
  key) key ;;
  gitea) mkdir -p "$2"; build_gitea "$(cd "$2" && pwd)" ;;
  *) echo "$1: not one of key and gitea" >&2; exit 2 ;;
esac
