"""What people install: the wheel, built from the sdist, in an environment that holds nothing else of ours."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.wheel, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ROOMS = {"crypto", "overlay", "verify", "node"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
MODELS = Path(os.environ.get("CLOVE_MODELS") or ROOT / ".models")


def run(*command, timeout_s=120, **environment):
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLOVE_", "PYTHON", "VIRTUAL_ENV"))
    }
    ran = subprocess.run(
        [str(word) for word in command],
        env=inherited | environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder / f"clovenet-{VERSION}.tar.gz", folder / f"clovenet-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A fresh environment with the wheel alone, and what installing it added to site-packages."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    before = set(site.iterdir())
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[1])
    return folder, site, set(site.iterdir()) - before


@pytest.fixture(scope="module")
def clove(installed):
    """The installed command. Its dependencies are this environment's own, seen through a path entry.

    A path entry does not read the .pth files of the folder that it names, so the editable install of this tree
    stays out of sight.
    """
    folder, site, _ = installed
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "clove"


def test_sdist_holds_what_the_wheel_is_made_of_and_no_caches(built):
    with tarfile.open(built[0]) as archive:
        names = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    tops = {name.parts[0] for name in names if name.parts}
    assert {*ROOMS, "deploy", "pyproject.toml", "README.md", "LICENSE"} <= tops
    assert not {".venv", ".models", ".git", "node_modules", "__pycache__"} & {
        part for name in names for part in name.parts
    }


def test_wheel_holds_the_four_rooms_and_the_launcher(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = [Path(name) for name in archive.namelist()]
    assert {name.parts[0] for name in names} == {"clovenet", f"clovenet-{VERSION}.dist-info"}
    assert {name.parts[2] for name in names if name.parts[1] == "_app"} == ROOMS
    assert Path("clovenet/__init__.py") in names


def test_every_module_of_the_tree_is_in_the_wheel(built):
    with zipfile.ZipFile(built[1]) as archive:
        packed = {name.removeprefix("clovenet/_app/") for name in archive.namelist() if name.endswith(".py")}
    tracked = run("git", "-C", ROOT, "ls-files", "--", *(f"{room}/*.py" for room in ROOMS)).split()
    assert {name for name in tracked if (ROOT / name).exists()} <= packed


def test_wheel_adds_one_name_to_site_packages(installed):
    assert {path.name for path in installed[2]} == {"clovenet", f"clovenet-{VERSION}.dist-info"}


def test_installed_command_says_its_version_and_helps(clove, tmp_path):
    assert run(clove, "version", CLOVE_HOME=str(tmp_path)) == f"clovenet {VERSION}\n"
    assert "testbed" in run(clove, "--help", CLOVE_HOME=str(tmp_path))


def test_installed_command_runs_the_installed_code(clove, installed):
    ask = (
        "import contextlib, sys, clovenet; sys.argv = ['clove', 'version']\n"
        "with contextlib.suppress(SystemExit): clovenet.main()\n"
        "import node.config, crypto.onion; print(node.config.__file__, crypto.onion.__file__)"
    )
    for file in run(clove.parent / "python", "-c", ask).split()[-2:]:
        assert Path(file).is_relative_to(installed[1] / "clovenet" / "_app")


def test_demo_runs_from_the_wheel(clove, tmp_path):
    if not MODELS.is_dir():
        pytest.skip("no model is stored: make model")
    told = run(
        clove,
        "demo",
        "Say hello.",
        "--max-tokens",
        "8",
        timeout_s=400,
        CLOVE_HOME=str(tmp_path),
        CLOVE_MODELS=str(MODELS),
    )
    assert "16 relays, 2 model nodes and 1 client" in told
    assert "disjoint     yes" in told
    assert "verdict      accepted" in told
