"""A node with a real kubelet: its pods are containers. Root only.

The kubelet, containerd and crun run in a machine of their own (tests/machines) that shares this machine's network: pods
need `hostNetwork: true` and ports that are free, and the API server cannot ask for their logs. Every container sees
this machine's /usr and the folders that the node was given, so that an image needs no more than a name.

What a test machine may not do is left out: control groups, the program that keeps containers from devices (which runc
insists on), kernel settings and keyrings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.controlplane.control_plane import ControlPlane
from tests.machines.machine import Machine, NoMachine, check
from tests.machines.registry import Registry
from tests.support.ports import free_port

THERE = Path("/srv/node")
_TOOLS = ("containerd", "ctr", "crun")
_RUNTIME = """\
#!/usr/bin/python3 -IS
import json, os, sys
words = sys.argv[1:]
if "--bundle" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    config = json.load(open(path))
    config["linux"].get("resources", {}).pop("devices", None)
    for folder in %s:
        options = ["rbind", "ro"]
        config["mounts"].append({"destination": folder, "source": folder, "type": "bind", "options": options})
    json.dump(config, open(path, "w"))
os.execv("/usr/bin/crun", ["crun", *words])
"""
# The kubelet wants them to be like this, and a machine may not change them.
_KERNEL = {
    "vm/overcommit_memory": "1",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_ROOT = {
    **dict.fromkeys(("etc/", "tmp/", "proc/", "sys/", "dev/", "run/", "usr/", "var/", "mnt/", "root/"), ""),
    **{name: f"-> usr/{name}" for name in ("bin", "sbin", "lib", "lib64")},
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
}


class Node:
    """Ready once it is made. `shown` are folders that its containers see beside /usr, read-only."""

    def __init__(self, control_plane: ControlPlane, folder: Path, name: str, shown: Iterable[Path] = ()) -> None:
        """Raises NoMachine where there can be none."""
        check()
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise NoMachine(f"a node needs {', '.join(missing)}: apt-get install containerd crun")
        self.name = name
        self.folder = folder
        self._control_plane = control_plane
        self._registry = Registry()
        # The process that does nothing, and holds a pod's namespaces.
        self._registry.add("tests/pause", "1", _ROOT, {}, ["/usr/bin/sleep", "infinity"])
        others = sorted({str(path) for path in shown if not path.is_relative_to("/usr")})
        self._write_files(["/usr", *others])
        binds = {f"{path}:ro": path for path in (*others, str(control_plane.folder), str(self._programs()))}
        try:
            self.machine = Machine(folder / "machine", name, {str(THERE): str(folder), **binds})
        except NoMachine:
            self._registry.close()
            raise
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def add_image(self, name: str, tag: str = "1") -> str:
        """An image without any program of its own; returns its whole name, as a pod gives it."""
        self._registry.add(name, tag, _ROOT, {"PATH": "/usr/bin:/bin"})
        return f"127.0.0.1:{self._registry.port}/{name}:{tag}"

    def log(self, program: str = "kubelet") -> str:
        """The end of what the kubelet, or containerd, has printed."""
        return self.machine.run("journalctl", "-u", f"{program}-of-tests", "--no-pager", "-o", "cat", "-n", "60")

    def close(self) -> None:
        self.machine.close()
        self._registry.close()

    def _programs(self) -> Path:
        return self._control_plane.programs["kubelet"].parent

    def _write_files(self, shown: list[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "runtime").write_text(_RUNTIME % json.dumps(shown))
        (self.folder / "runtime").chmod(0o755)
        (self.folder / "containerd.toml").write_text(_CONTAINERD % self._registry.port)
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_config(free_port(), free_port())))
        (self.folder / "cni").mkdir()
        (self.folder / "cni" / "tests.conflist").write_text(json.dumps(_CNI))

    def _start(self) -> None:
        self.machine.run("ln", "-sf", "/dev/null", "/dev/kmsg")
        for name, value in _KERNEL.items():
            path, file = f"/proc/sys/{name}", f"/run/{name.replace('/', '-')}"
            self.machine.run(
                "sh", "-c", f"echo {value} >{file} && if [ -e {path} ]; then mount --bind {file} {path}; fi"
            )
        self._run("containerd", shutil.which("containerd") or "", f"--config={THERE}/containerd.toml")
        # Nodes may do little; this one is an administrator, so that no test is about that.
        kubeconfig = self._control_plane.user_kubeconfig(f"system:node:{self.name}", "system:nodes", "system:masters")
        self._run(
            "kubelet",
            str(self._programs() / "kubelet"),
            f"--config={THERE}/kubelet.yaml",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            "--root-dir=/var/lib/kubelet-of-tests",
        )

    def _run(self, name: str, *command: str) -> None:
        unit = [f"--unit={name}-of-tests", "--property=Delegate=yes", "--property=Restart=on-failure"]
        self.machine.run("systemd-run", "--quiet", *unit, "--property=RestartSec=0.5", *command)


_CNI = {
    "cniVersion": "0.4.0",
    "name": "tests",
    "plugins": [{"type": "loopback"}],
}
_CONTAINERD = """\
version = 2
root = "/var/lib/containerd-of-tests"
state = "/run/containerd-of-tests"
[grpc]
  address = "/run/containerd-of-tests/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "127.0.0.1:%d/tests/pause:1"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "/srv/node/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Copying is fast enough for a few kilobytes, and needs nothing of the machine's file system.
    snapshotter = "native"
    default_runtime_name = "tests"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tests]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tests.options]
        BinaryName = "/srv/node/runtime"
        NoNewKeyring = true
"""


def _kubelet_config(port: int, health: int) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "healthzPort": health,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd-of-tests/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "featureGates": {"KubeletInUserNamespace": True},
    }
