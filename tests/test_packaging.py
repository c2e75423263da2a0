"""What is installed and what an import costs: the wheel, imports with little else there, a hostile neighbour.

Everything here runs in fresh interpreters, because this one has imported the lot.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from tests.source_tree import PACKAGES, ROOT, modules

HEAVY = {"torch", "sqlalchemy", "fastapi", "alembic", "psycopg", "matplotlib", "transformers", "scipy"}
WITH_TORCH_ALONE = (
    "phasewatch.attention",
    "phasewatch.detection",
    "phasewatch.measures",
    "phasewatch.probes",
    "phasewatch.schedules",
    "phasewatch.training",
    "phasewatch.transformer",
    "trainer.loop",
)

# Refuses some of what is installed, as if it were not, and imports the modules named first.
_REFUSE = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
refused = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Refuse())
for name in sys.argv[1].split(","):
    importlib.import_module(name)
"""


def python(*arguments: str, folder: Path = ROOT) -> str:
    """What a fresh interpreter prints; its errors fail the test."""
    done = subprocess.run([sys.executable, "-W", "error", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def provided_by(*distributions: str) -> set[str]:
    """Top-level modules that come with these distributions and with all that they need."""
    wanted, todo = set(), list(distributions)
    while todo:
        name = _normal(todo.pop())
        if name not in wanted:
            wanted.add(name)
            needed = [line for line in _requirements(name) if "extra ==" not in line]
            todo += [re.split(r"[\[<>=!~; (]", line)[0] for line in needed]
    return {module for module, names in packages_distributions().items() if wanted & set(map(_normal, names))}


def import_with(names: str, *distributions: str) -> None:
    """Imports modules as where only these distributions, and what they need, are installed."""
    refused = set(packages_distributions()) - provided_by(*distributions) - set(PACKAGES)
    assert {"sqlalchemy", "httpx", "zstandard", "safetensors", "rich"} <= refused
    python("-c", _REFUSE, names, ",".join(refused))


def _requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except ModuleNotFoundError:  # needed on another system than this
        return []


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def submodules(*packages: str) -> str:
    found = [m.name for m in modules(*PACKAGES) for package in packages if f"{m.name}.".startswith(f"{package}.")]
    assert len(found) >= len(packages)
    return ",".join(found)


class TestImports:
    @pytest.mark.parametrize(
        "statement", ["import phasewatch", "from phasewatch import Recorder", "import phasewatch.cli"]
    )
    def test_the_front_door_loads_nothing_heavy(self, statement: str) -> None:
        loaded = python("-c", f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))")
        assert {name.partition(".")[0] for name in json.loads(loaded)} & HEAVY == set()

    def test_a_gpu_machine_needs_numpy_pydantic_and_torch_alone(self) -> None:
        import_with(submodules(*WITH_TORCH_ALONE), "numpy", "pydantic", "torch")

    def test_detection_needs_numpy_alone(self) -> None:
        import_with(submodules("phasewatch.detection"), "numpy")

    def test_what_is_not_there_would_be_missed(self) -> None:
        with pytest.raises(AssertionError, match="fsspec is not installed here"):
            import_with("phasewatch.storage", "numpy")


class TestHostileNeighbour:
    """A user's own `trainer.py` and `server.py` lie beside the script that imports phasewatch."""

    SCRIPT = """
import importlib, sys
import numpy as np
import phasewatch
for name in sys.argv[1].split(","):
    importlib.import_module(name)
from phasewatch.detection import find_series_changes
from phasewatch.storage import Artifacts, Database
from phasewatch.storage.schema import Base
database = Database("sqlite:///here.db")
Base.metadata.create_all(database.engine)
with database.reading() as session:
    session.connection()
database.close()
Artifacts("artifacts").put("a", b"x")
find_series_changes(np.zeros(40), np.arange(40))
assert "trainer" not in sys.modules and "server" not in sys.modules
print("worked")
"""

    def test_is_never_imported(self, tmp_path: Path) -> None:
        for name in ("trainer", "server"):
            (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('phasewatch imported the user\\'s {name}.py')\n")
        (tmp_path / "script.py").write_text(self.SCRIPT)
        assert python("script.py", submodules("phasewatch"), folder=tmp_path).split() == ["worked"]

    def test_would_be_seen(self, tmp_path: Path) -> None:
        (tmp_path / "server.py").write_text("raise RuntimeError('hostile')\n")
        with pytest.raises(AssertionError, match="hostile"):
            python("-c", "import sys; sys.path.insert(0, '.'); import server", folder=tmp_path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built offline from a copy, so that nothing is left in the tree."""
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for path in ROOT.iterdir():
        if path.name in (*PACKAGES, "tests", "migrations", "bench", "examples", "docs"):
            shutil.copytree(path, copy / path.name, ignore=skipped)
        elif path.is_file():
            shutil.copy(path, copy / path.name)
    build = f"from setuptools.build_meta import build_wheel; print(build_wheel({os.fspath(built)!r}))"
    name = python("-W", "ignore", "-c", build, folder=copy).split()[-1]
    return zipfile.ZipFile(built / name)


class TestWheel:
    def test_holds_the_library_and_nothing_else(self, wheel: zipfile.ZipFile) -> None:
        top = {name.partition("/")[0] for name in wheel.namelist()}
        assert top == {"phasewatch", next(name for name in top if re.fullmatch(r"phasewatch-[\d.]+\.dist-info", name))}

    def test_holds_every_file_of_it(self, wheel: zipfile.ZipFile) -> None:
        files = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "phasewatch").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files - set(wheel.namelist()) == set()

    def test_brings_the_command_and_its_licence(self, wheel: zipfile.ZipFile) -> None:
        (information,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
        assert "phasewatch = phasewatch.cli:main" in wheel.read(f"{information}/entry_points.txt").decode()
        assert f"{information}/licenses/LICENSE" in wheel.namelist()
