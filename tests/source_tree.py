"""The project's own sources as syntax trees: which modules there are, what each imports, what each calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("phasewatch", "server", "trainer")
PROGRAMS = ("migrations", "bench", "examples")


@dataclass(frozen=True)
class Module:
    """One source file; `name` is how it is imported, `phasewatch.storage` for `phasewatch/storage/__init__.py`."""

    path: Path
    name: str

    @cached_property
    def source(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, str(self.path))

    @property
    def place(self) -> str:
        """The path below the root, for messages."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def imports(self, *, everywhere: bool = True) -> Iterator[str]:
        """Dotted names it imports, `package.name` for a name from a package; at import time alone or everywhere."""
        nodes = ast.walk(self.tree) if everywhere else _run_at_import(self.tree.body)
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = self.path.name == "__init__.py"
        parts = self.name.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """(dotted name of what is called, the call): `session.commit`, `print`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node

    def names(self) -> Iterator[tuple[str, int]]:
        """(dotted name, line) of every attribute and name that is used: `os.environ`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                yield ast.unparse(node), node.lineno


def _run_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported; not those for type checkers alone."""
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _run_at_import(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            handled = [statement for handler in node.handlers for statement in handler.body]
            yield from _run_at_import(node.body + handled + node.orelse + node.finalbody)
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from _run_at_import(node.body)
        else:
            yield node


@cache
def modules(*packages: str) -> tuple[Module, ...]:
    """Every module of the packages; a package that is not there has none."""
    found = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(Module(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return tuple(found)


def graph(*packages: str) -> dict[str, set[str]]:
    """module -> modules of the same packages that are imported with it, packages above those included."""
    names = {module.name for module in modules(*packages)}
    found: dict[str, set[str]] = {}
    for module in modules(*packages):
        found[module.name] = set()
        for target in module.imports(everywhere=False):
            parts = target.split(".")
            above = {".".join(parts[: n + 1]) for n in range(len(parts))} & names
            found[module.name] |= {name for name in above if name != module.name and not _lies_in(module.name, name)}
    return found


def _lies_in(name: str, package: str) -> bool:
    return name.startswith(package + ".")


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for target in sorted(edges[name]):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    for name in edges:
        if found := visit(name, []):
            return found
    return []
