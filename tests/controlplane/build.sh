#!/usr/bin/env bash
# Builds what a control plane is made of, from Go modules: `kube` (etcd, API server, controllers, scheduler, kubelet and kubectl
# in one binary) and `kwok`, which plays the kubelet for nodes that do not exist.
#
#   tests/controlplane/build.sh key         what the result depends on, in short
#   tests/controlplane/build.sh kube DIR    build DIR/kube and its names, such as DIR/kubectl
#   tests/controlplane/build.sh kwok DIR    build DIR/kwok, and the stages of its nodes and pods
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# The same flags everywhere, or Go compiles all packages once more.
export CGO_ENABLED=0 GOFLAGS='-trimpath -mod=readonly -buildvcs=false' GOTOOLCHAIN=local GOWORK=off

version_of() { sed -n "s#^\s*$1 \(v[0-9.]*\).*#\1#p" "$2/go.mod" | head -1; }

# Without these the server would say that it is v0.0.0.
version_flags() {
  local version=$1 package=k8s.io/component-base/version numbers
  IFS=. read -ra numbers <<<"${version#v}"
  printf -- '-s -w -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s -X %s.gitVersion=%s' "$package" "$version" \
    "$package" "${numbers[0]}" "$package" "${numbers[1]}" k8s.io/client-go/pkg/version "$version"
}

key() { printf '%s-%s' "$(version_of k8s.io/kubernetes kube | tr -d v)" "$(cat build.sh ./*/go.* ./*/*.go | sha256sum | cut -c1-12)"; }

build_kube() {
  local to=$1 name
  (cd kube && go build -ldflags "$(version_flags "$(version_of k8s.io/kubernetes .)")" -o "$to/kube" .)
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -sf kube "$to/$name"; done
}

# What it does to nodes and pods by default stands in files of its module.
build_kwok() {
  local to=$1 stages
  (cd kwok && go build -ldflags '-s -w' -o "$to/kwok" sigs.k8s.io/kwok/cmd/kwok)
  stages=$(cd kwok && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
  for stage in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-{ready,complete,delete}; do
    echo ---
    cat "$stages/$stage.yaml"
  done >"$to/stages.yaml"
}

case $1 in
  key) key ;;
  kube | kwok) mkdir -p "$2"; "build_$1" "$(cd "$2" && pwd)" ;;
  *) echo "$1: not one of key, kube and kwok" >&2; exit 2 ;;
esac
