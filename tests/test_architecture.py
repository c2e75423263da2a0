"""The house's rules, as tests over the sources: who may import whom, who commits, who prints, how long things get.

Each rule holds for whatever modules there are, those of tomorrow included. DESIGN.md and STYLE.md say why.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from typing import Any

import pytest

from tests.source_tree import PACKAGES, PROGRAMS, ROOT, Module, cycle, graph, modules

OWN = (*PACKAGES, *PROGRAMS)
LIBRARY = modules("phasewatch")
APPLICATIONS = modules("server", "trainer")
SOURCES = (*LIBRARY, *APPLICATIONS, *modules(*PROGRAMS))
TESTS = modules("tests")

# What pure numbers never see: a session, a path, a clock or a setting.
IMPURE = {"sqlalchemy", "alembic", "fsspec", "httpx", "pydantic_settings", "time", "datetime", "os", "pathlib", "io"}
PURE_MAY_USE = {
    "phasewatch.detection": {"detection", "errors"},
    "phasewatch.measures": {"measures", "detection", "errors", "attention", "transformer", "probes", "schedules"},
}
COMMITS = {"phasewatch/storage/database.py"}
PRINTS = ("phasewatch/cli/", "bench/", "examples/", "server/__main__.py", "server/commands.py")
READS_ENVIRONMENT = ("phasewatch/cli/", "phasewatch/client.py", "phasewatch/recorder.py", "bench/", "examples/")
SETS_FOR_CUDA = "trainer/loop.py"
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MAX_MODULE, MAX_FUNCTION = 500, 60


def refuse(where: tuple[Module, ...], rule: Callable[[Module], Iterator[tuple[int, str]]]) -> None:
    """Fails with `place:line what` of everything that breaks a rule."""
    found = [f"{module.place}:{line} {what}" for module in where for line, what in rule(module)]
    assert not found, "\n" + "\n".join(found)


def top(name: str) -> str:
    return name.partition(".")[0]


def catches_everything(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(handler.type)) is not None


def lies_under(module: Module, package: str) -> bool:
    return f"{module.name}.".startswith(f"{package}.")


class TestArrows:
    """server → phasewatch ← trainer, and nothing else."""

    @pytest.mark.parametrize(
        ("package", "others"),
        [
            ("phasewatch", {"server", "trainer", "migrations", "tests", "bench", "examples"}),
            ("server", {"trainer", "tests", "bench", "examples"}),
            ("trainer", {"server", "migrations", "tests", "bench", "examples"}),
            ("migrations", {"server", "trainer", "tests", "bench", "examples"}),
        ],
    )
    def test_point_inward(self, package: str, others: set[str]) -> None:
        found = {
            (module.place, name) for module in modules(package) for name in module.imports() if top(name) in others
        }
        assert found == set()

    @pytest.mark.parametrize("package", PURE_MAY_USE)
    def test_pure_numbers_see_no_session_path_clock_or_setting(self, package: str) -> None:
        for module in LIBRARY:
            if lies_under(module, package):
                imported = set(module.imports())
                assert {name for name in imported if top(name) in IMPURE} == set(), module.place
                own = {name.split(".")[1] for name in imported if top(name) == "phasewatch" and "." in name}
                assert own <= PURE_MAY_USE[package], module.place
                assert not [name for name, _ in module.calls() if name in ("open", "print", "input")], module.place

    def test_detection_needs_numpy_alone(self) -> None:
        detection = [module for module in LIBRARY if lies_under(module, "phasewatch.detection")]
        third = {top(name) for module in detection for name in module.imports()} - set(sys.stdlib_module_names)
        assert third == {"numpy", "phasewatch"}

    def test_no_module_imports_itself_in_a_circle(self) -> None:
        assert cycle(graph(*OWN)) == []

    def test_a_circle_would_be_seen(self) -> None:
        assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


EXTRAS = {
    "phasewatch": {"report", "server", "trainer", "integrations"},
    "server": {"server", "dask"},
    "trainer": {"trainer"},
}
# Their documentation tells users of FastAPI and pydantic to import these.
COMES_WITH = {"anyio": "fastapi", "starlette": "fastapi", "typing_extensions": "pydantic"}


class TestDeclared:
    """What is imported is what pyproject.toml asks for."""

    def declared(self, extras: set[str]) -> set[str]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"]]
        for extra, requirements in project["optional-dependencies"].items():
            wanted += requirements if extra in extras else []
        return {_normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in wanted}

    @pytest.mark.parametrize("package", PACKAGES)
    def test_every_third_party_import_is_declared(self, package: str) -> None:
        distributions = packages_distributions()
        declared = self.declared(EXTRAS[package])
        known = set(sys.stdlib_module_names) | set(OWN)
        for module in modules(package):
            for name in set(map(top, module.imports())) - known:
                providers = {_normal(found) for found in distributions.get(name, [])} | {COMES_WITH.get(name, name)}
                assert providers & declared, f"{module.place} imports {name}"

    def test_the_command_and_every_public_name_are_there(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for target in project["scripts"].values():
            module, _, function = target.partition(":")
            assert callable(getattr(importlib.import_module(module), function))
        for module in LIBRARY:
            if module.path.name == "__init__.py" and "__all__" in module.source:
                package = importlib.import_module(module.name)
                assert [name for name in package.__all__ if not hasattr(package, name)] == [], module.name


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


class TestTransactions:
    def test_commit_is_called_in_one_place(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for name, call in module.calls():
                if name.rpartition(".")[2] in ("commit", "begin_nested") and module.place not in COMMITS:
                    yield call.lineno, name

        refuse(SOURCES, rule)

    def test_annotations_alone_decide_what_may_be_null(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for name, call in module.calls():
                if any(keyword.arg == "nullable" for keyword in call.keywords):
                    yield call.lineno, name

        refuse((*LIBRARY, *APPLICATIONS), rule)


class TestManners:
    def test_only_commands_print(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for name, call in module.calls():
                if name in ("print", "pprint") and not module.place.startswith(PRINTS):
                    yield call.lineno, name

        refuse(SOURCES, rule)

    def test_only_commands_and_clients_read_the_environment(self) -> None:
        """Everything else is told by its settings."""

        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for name, line in module.names():
                sets = module.place == SETS_FOR_CUDA and f"{name}.setdefault" in module.source
                reads = name in ("os.environ", "os.getenv", "environ", "getenv", "os.putenv")
                if reads and not sets and not module.place.startswith(READS_ENVIRONMENT):
                    yield line, name

        refuse(SOURCES, rule)

    def test_a_pickle_is_never_read(self) -> None:
        """Weights and arrays are input from outside."""

        def rule(module: Module) -> Iterator[tuple[int, str]]:
            yield from ((0, f"imports {name}") for name in module.imports() if top(name) in PICKLES)
            for name, call in module.calls():
                allows = [word for word in call.keywords if word.arg == "allow_pickle"]
                if name in ("torch.load", "eval", "exec", "compile") or name.endswith("read_pickle"):
                    yield call.lineno, name
                elif any(ast.unparse(word.value) != "False" for word in allows):
                    yield call.lineno, f"{name}(allow_pickle=…)"
                elif name in ("np.load", "numpy.load") and not allows:
                    yield call.lineno, f"{name} without allow_pickle=False"

        refuse(SOURCES, rule)

    def test_whoever_catches_everything_says_why_or_raises_it_again(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            lines = module.source.splitlines()
            for function in module.functions():
                explained = ast.get_docstring(function) is not None
                for node in ast.walk(function):
                    if isinstance(node, ast.ExceptHandler) and catches_everything(node):
                        again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                        if not (again or explained or "#" in lines[node.lineno - 1]):
                            yield node.lineno, "without a reason beside it"

        refuse(SOURCES, rule)

    def test_nothing_is_left_for_later(self) -> None:
        words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for number, line in enumerate(module.source.splitlines(), start=1):
                if words.search(line) and module.path.name != "test_architecture.py":
                    yield number, line.strip()

        refuse((*SOURCES, *TESTS), rule)


class TestSizes:
    def test_modules(self) -> None:
        lengths = {module.place: module.source.count("\n") for module in (*SOURCES, *TESTS)}
        assert {place: length for place, length in lengths.items() if length > MAX_MODULE} == {}

    def test_functions(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for function in module.functions():
                length = (function.end_lineno or 0) - function.lineno + 1
                if length > MAX_FUNCTION:
                    yield function.lineno, f"{function.name} has {length} lines"

        scripts = modules("migrations")  # as long as the tables they make
        refuse((*(module for module in SOURCES if module not in scripts), *TESTS), rule)

    def test_the_median_module_and_function_stay_short(self) -> None:
        library = (*LIBRARY, *APPLICATIONS)
        lengths = sorted(module.source.count("\n") for module in library if module.source.count("\n") >= 15)
        spans = sorted((f.end_lineno or 0) - f.lineno + 1 for module in library for f in module.functions())
        assert lengths[len(lengths) // 2] <= 200
        assert spans[len(spans) // 2] <= 12


class TestWritten:
    def test_every_function_says_what_it_returns(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            yield from ((f.lineno, f.name) for f in module.functions() if f.returns is None)

        refuse((*SOURCES, *TESTS), rule)

    def test_every_module_says_what_it_is(self) -> None:
        silent = [module.place for module in SOURCES if module.source.strip() and not ast.get_docstring(module.tree)]
        assert silent == []

    def test_every_public_class_and_function_of_the_library_says_what_it_is(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for node in module.tree.body:
                named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                if named and not node.name.startswith("_") and not ast.get_docstring(node):  # type: ignore[attr-defined,arg-type]
                    yield node.lineno, node.name  # type: ignore[attr-defined]

        refuse(LIBRARY, rule)

    def test_annotations_are_never_evaluated(self) -> None:
        late = "from __future__ import annotations"
        eager = [module.place for module in (*SOURCES, *TESTS) if module.tree.body[1:] and late not in module.source]
        assert eager == []


class TestTests:
    def test_every_folder_is_a_package(self) -> None:
        """Without its __init__.py a tests/server would be what `import server` finds."""
        folders = {module.path.parent for module in TESTS}
        assert [folder.name for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []

    def test_none_is_skipped_but_for_want_of_a_gpu(self) -> None:
        def rule(module: Module) -> Iterator[tuple[int, str]]:
            for name, line in module.names():
                skips = re.search(r"\b(skip|xfail|importorskip|skipTest|expectedFailure)\b", name)
                if skips and module.path.name != "test_architecture.py":
                    yield line, name
            for name, call in module.calls():
                if name.endswith("skipif") and "cuda" not in ast.unparse(call):
                    yield call.lineno, ast.unparse(call)

        refuse(TESTS, rule)

    def test_the_rules_have_something_to_look_at(self) -> None:
        found: dict[str, Any] = {package: len(modules(package)) for package in (*PACKAGES, "tests", "migrations")}
        assert min(found.values()) >= 2
        assert found["phasewatch"] > 50
