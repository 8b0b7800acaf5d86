"""Image, compose file, manifests and package are what their own tools take."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"


def tool(name: str) -> str:
    """The path of a tool of the dev extra, or a named skip."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"no {name} on this machine: install the dev extra")
    return found


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def test_hadolint_has_nothing_to_say_about_the_image() -> None:
    done = run(tool("hadolint"), "deploy/Dockerfile")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_kubernetes_takes_the_manifests_strictly() -> None:
    manifests = sorted(str(path) for path in (DEPLOY / "k8s").glob("*.yaml"))
    assert manifests
    done = run(tool("kubernetes-validate"), "--strict", *manifests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_what_the_compose_specification_takes() -> None:
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_compose_file_mounts_is_there_or_said_to_be_the_operators() -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    own = ("./certs", "./config")
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and not source.startswith(own):
                assert (DEPLOY / source).exists(), (name, source)
            if not source.startswith("."):
                assert source in compose["volumes"], (name, source)


def test_no_port_but_the_brokers_is_open_to_the_world() -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert {name for name, mapped in ports.items() for port in mapped if not port.startswith("127.")} == {"broker"}


def test_everything_the_package_holds_is_in_the_repository_or_staged_by_its_script() -> None:
    package: dict[str, Any] = yaml.safe_load((DEPLOY / "packaging/nfpm.yaml").read_text())
    for item in package["contents"]:
        source = item["src"]
        if item.get("type") != "symlink" and not source.startswith("build/deb/"):
            assert (ROOT / source).exists(), source
    for script in package["scripts"].values():
        assert run("sh", "-n", script).returncode == 0


def test_the_package_brings_every_unit_with_the_program_that_it_starts() -> None:
    package: dict[str, Any] = yaml.safe_load((DEPLOY / "packaging/nfpm.yaml").read_text())
    held = {item["dst"] for item in package["contents"]}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    built = (DEPLOY / "packaging/build-deb").read_text()
    for unit in (DEPLOY / "systemd").glob("*.service"):
        assert f"/usr/lib/systemd/system/{unit.name}" in held
        program = f"/opt/wattshift/bin/{unit.stem}"
        assert program in held
        assert f"ExecStart={program} " in unit.read_text()
        assert f"{unit.stem}={scripts[unit.stem].partition(':')[0]}" in built


def test_scripts_are_sound_shell() -> None:
    names = ("install-test-packages", "packaging/build-deb", "boot/boot-test", "boot/check", "image-test")
    for script in (DEPLOY / name for name in names):
        done = run("sh", "-n", str(script))
        assert done.returncode == 0, done.stderr


def test_the_image_is_built_of_every_folder_that_is_packaged() -> None:
    """What pip installs there must hold the samples that `wattshift init` reads and the runbooks that are served."""
    copied = {line.split()[1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {each.rstrip("*") for each in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    for folder in folders - {"deploy", "deploy.config"}:
        assert folder in copied
    assert {"deploy/__init__.py", "deploy/config", "docs/runbooks.md"} <= copied
