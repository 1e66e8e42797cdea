"""The dependency rules and habits, read from the source with ast: nothing of the package is imported here.

Each rule is a function from a package's modules to a list of violations, so that the rules themselves are tested: the second half
of this file gives every rule a small package that breaks it.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "reconciler"

#: A module may import modules of its own number and of smaller ones.
LAYERS = {
    "errors": 0, "clock": 0, "printable": 0, "regular": 0, "mounts": 0, "log": 0,
    "core": 1,
    "yamlfile": 2, "yamlemit": 2, "yamltree": 2, "yamlwords": 2, "yamledit": 2, "jsonfile": 2, "manifest": 2, "hosts": 2,
    "config": 3,
    "sources": 4, "backends": 4, "ledger": 4, "status": 4, "notify": 4,
    "standing": 5, "objectrow": 5, "aside": 5, "housekeeping": 5,
    "controller": 5, "outlook": 5, "fleet": 5, "fresh": 5, "jobrequest": 5, "intake": 5, "report": 5, "saving": 5, "workshop": 5,
    "errands": 5, "web": 5, "agent": 5,
    "places": 6, "taking": 6, "consult": 6, "daemon": 6, "cli": 7, "__main__": 8, "__init__": 0,
}  # fmt: skip
PURE_STDLIB = {
    "__future__", "bisect", "collections", "dataclasses", "difflib", "enum", "fnmatch", "functools", "hashlib", "heapq", "itertools",
    "json", "math", "operator", "re", "string", "types", "typing",
}  # fmt: skip
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "__import__", "Any"}
#: Each third-party package, and the modules (a folder stands for all in it, `*` ends a prefix) that may import it.
HOMES = {
    "ruamel": ("yamlfile",),
    "pydantic": ("manifest", "config"),
    "pydantic_core": ("manifest", "config"),
    "pygit2": ("sources.git*",),
    "watchfiles": ("sources",),
    "asyncssh": ("hosts.ssh*",),
    "boto3": ("backends.batch*", "backends.ec2*", "hosts.ssm*"),
    "botocore": ("backends.batch*", "backends.ec2*", "hosts.ssm*"),
    "aiohttp": ("web", "hosts.ssm*", "agent", "notify"),
    "jinja2": ("web",),
    "markdown": ("web",),
    "nh3": ("web",),
    "structlog": ("*",),  # everywhere but in the core; set up in log.py
    "click": ("cli",),
    "rich": ("cli",),
}
#: What makes a class a concrete backend or source: it has all of these methods and is no Protocol.
CONCRETE = {"backends": {"look", "submit", "cancel", "fetch", "forget"}, "sources": {"look", "changes", "close"}}
#: The controller and what it is split into: they see only the two base modules.
LOOP = {
    "aside", "controller", "outlook", "fleet", "fresh", "housekeeping", "jobrequest", "intake", "objectrow", "report", "saving", "standing",
    "workshop", "errands",
}  # fmt: skip
#: The composition root: what names concrete classes.
ROOT = {"daemon", "places"}
APART = {"sources", "backends", "web"}
FORBIDDEN_WORDS = {"manager", "handler", "helper", "helpers", "util", "utils", "service", "engine", "processor", "common", "misc"}
FORBIDDEN_VERBS = ("process_", "handle_", "manage_", "do_")
CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
LINES_MAX = 500
FUNCTION_LINES_MAX = 60
TOP_LEVEL = {
    "pyproject.toml", "README.md", "reconciler", "manifests", "examples", "tests", "systemd", "charts", "LICENSE", "CHANGELOG.md",
    "CONTRIBUTING.md",
}  # fmt: skip
#: Places of the workshop that this was written in; spelled in pieces, because this file is committed too.
WORKPLACE = re.compile(
    r"/" + r"work/(?:main|shared|\.)|/tmp" + r"/dev\b|(?<!\w)\.\./" + r"shared\b|\bshared" + r"/(?:design|reference|prototypes)"
)


@dataclass(frozen=True)
class Module:
    """One file of the package. `name` is dotted, without the package: `core.plan`, `cli` for `cli/__init__.py`."""

    root: Path
    path: Path

    @cached_property
    def name(self) -> str:
        parts = self.path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)

    @cached_property
    def top(self) -> str:
        return self.name.split(".")[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.text)))

    @cached_property
    def imports(self) -> list[str]:
        """Everything imported, absolute; of `from a import b` it is `a.b` when that is a module, else `a`."""
        return [name for node in self.nodes for name in self._imported(node)]

    def _imported(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" if self._is_module(f"{base}.{alias.name}") else base for alias in node.names)

    def _is_module(self, name: str) -> bool:
        path = self.root.parent.joinpath(*name.split("."))
        return name.startswith(f"{PACKAGE}.") and (path.with_suffix(".py").exists() or path.is_dir())

    @property
    def own_imports(self) -> list[str]:
        """What it imports of the package, without the package's name; `__init__` for the package itself."""
        own = [name for name in self.imports if name.split(".")[0] == PACKAGE]
        return [name.removeprefix(f"{PACKAGE}.") if name != PACKAGE else "__init__" for name in own]

    @property
    def foreign_imports(self) -> list[str]:
        return [name.split(".")[0] for name in self.imports if name.split(".")[0] != PACKAGE]


Rule = Callable[[list[Module]], list[str]]


def modules(root: Path) -> list[Module]:
    """Every module of the package at `root`, in sorted order."""
    return [Module(root, path) for path in sorted(root.rglob("*.py"))]


def layers(package: list[Module]) -> list[str]:
    """Nothing imports upwards, and every top-level name has a layer."""
    unknown = [f"{module.name} has no layer" for module in package if module.top not in LAYERS]
    upward = [
        f"{module.name} imports upwards: {name}"
        for module in package
        for name in module.own_imports
        if LAYERS.get(name.split(".")[0], 99) > LAYERS.get(module.top, 99)
    ]
    relative = [f"{module.name} imports relatively: {name}" for module in package for name in module.imports if name.startswith(".")]
    return unknown + upward + relative


def purity(package: list[Module]) -> list[str]:
    """The core imports itself, errors and pure stdlib; it has no I/O, no await and no Any."""
    found = []
    for module in package:
        if module.top != "core":
            continue
        found += [f"{module.name} imports {name}" for name in module.own_imports if name.split(".")[0] not in {"core", "errors"}]
        found += [f"{module.name} imports {name}" for name in module.foreign_imports if name not in PURE_STDLIB]
        named = [node for node in module.nodes if isinstance(node, ast.Name)]
        found += [f"{module.name}:{node.lineno} names {node.id}" for node in named if node.id in IMPURE_NAMES]
        found += [f"{module.name}:{node.lineno} is async" for node in module.nodes if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    return found


def _lives_in(name: str, homes: tuple[str, ...]) -> bool:
    return any(name.startswith(home[:-1]) if home.endswith("*") else name == home or name.startswith(f"{home}.") for home in homes)


def homes(package: list[Module]) -> list[str]:
    """Each third-party package has one home."""
    return [
        f"{module.name} imports {name}, whose home is {HOMES.get(name, 'nowhere')}"
        for module in package
        for name in module.foreign_imports
        if name not in sys.stdlib_module_names and not _lives_in(module.name, HOMES.get(name, ()))
    ]


def concrete(package: list[Module]) -> set[str]:
    """Names of the modules that define a concrete backend or source."""
    return {module.name for module in package for node in module.nodes if isinstance(node, ast.ClassDef) and _implements(module, node)}


def _implements(module: Module, node: ast.ClassDef) -> bool:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    protocol = any(getattr(base, "id", "") == "Protocol" for base in node.bases)
    return module.top in CONCRETE and not protocol and methods >= CONCRETE[module.top]


def seams(package: list[Module]) -> list[str]:
    """Only the composition root names a concrete class; backends, sources and web stay apart; the controller sees the base modules."""
    classes = concrete(package)
    found = []
    for module in package:
        for name in module.own_imports:
            top = name.split(".")[0]
            if name in classes and module.top not in ROOT:
                found.append(f"{module.name} names the concrete {name}; places.py hands it out")
            if module.top in APART and top in (APART | LOOP) - {module.top}:
                found.append(f"{module.name} imports {name}, from which it stays apart")
            if module.top in LOOP and top in {"backends", "sources"} and name not in {"backends.base", "sources.base"}:
                found.append(f"{module.name} imports {name}; the controller sees only the base modules")
            if top == "core" and name.startswith("core.plan") and module.top not in LOOP | {"core", "daemon"}:
                found.append(f"{module.name} imports {name}; the controller is the only caller of the plan")
    return found


def names(package: list[Module]) -> list[str]:
    """No name that says nothing: of modules, classes, functions, parameters and variables."""
    found = [f"{module.name} is a name that says nothing" for module in package if words(module.name) & FORBIDDEN_WORDS]
    for module in package:
        for line, name in _defined(module):
            if words(name) & FORBIDDEN_WORDS:
                found.append(f"{module.name}:{line} {name} is a name that says nothing")
        for node in module.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.lstrip("_").startswith(FORBIDDEN_VERBS):
                found.append(f"{module.name}:{node.lineno} {node.name} is a verb that says nothing")
    return found


def _defined(module: Module) -> Iterator[tuple[int, str]]:
    for node in module.nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def words(name: str) -> set[str]:
    """`LedgerManager`, `ledger_manager` and `ledger.manager` hold the word `manager`."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def code_lines(text: str) -> set[int]:
    """The numbers of the lines that hold code: not blank, not only a comment, not a docstring."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - _docstring_lines(text)


def _docstring_lines(text: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def sizes(package: list[Module]) -> list[str]:
    """Short files, short functions."""
    found = []
    for module in package:
        lines = code_lines(module.text)
        if len(lines) > LINES_MAX:
            found.append(f"{module.name} has {len(lines)} lines of code")
        for node in module.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = len(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
                if length > FUNCTION_LINES_MAX:
                    found.append(f"{module.name}:{node.lineno} {node.name} has {length} lines of code")
    return found


def catches(package: list[Module]) -> list[str]:
    """Whoever catches everything and does not raise it again says why, on that line."""
    return [
        f"{module.name}:{node.lineno} catches everything and does not say why"
        for module in package
        for node in module.nodes
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or any(getattr(part, "id", "") in {"Exception", "BaseException"} for part in ast.walk(node.type)))
        and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)
        and "#" not in module.lines[node.lineno - 1].replace("# noqa", "").replace("# type:", "")
    ]


def clocks(package: list[Module]) -> list[str]:
    """Only clock.py reads a clock."""
    others = [module for module in package if module.name != "clock"]
    return [f"{module.name}:{line} reads a clock: {what}" for module in others for line, what in _clock_reads(module)]


def _clock_reads(module: Module) -> Iterator[tuple[int, str]]:
    for node in module.nodes:
        if isinstance(node, ast.Attribute):
            owner = node.value
            base = getattr(owner, "attr", getattr(owner, "id", ""))
            if node.attr in CLOCKS.get(base, set()):
                yield node.lineno, f"{base}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from ((node.lineno, f"time.{alias.name}") for alias in node.names if alias.name in CLOCKS["time"])


def cancellations(package: list[Module]) -> list[str]:
    """Nobody uses asyncio.wait_for: before Python 3.12 it can lose a cancellation, and what should stop goes on."""
    return [
        f"{module.name}:{node.lineno} uses asyncio.wait_for; use `async with asyncio.timeout`"
        for module in package
        for node in module.nodes
        if isinstance(node, ast.Attribute) and node.attr == "wait_for" and getattr(node.value, "id", "") == "asyncio"
    ]


def tree(package: list[Module]) -> list[str]:
    """The map in the package's docstring and the folder are the same."""
    root = package[0].root
    text = ast.get_docstring(ast.parse((root / "__init__.py").read_text(encoding="utf-8"))) or ""
    drawn = set(re.findall(r"(?:^|\s)([a-z_]+(?:\.py|/))(?=[\s,)]|$)", text))
    there = {path.name for path in root.glob("*.py")} | {f"{path.name}/" for path in root.iterdir() if any(path.rglob("*.py"))}
    missing = [f"{name} is on the map and not in the folder" for name in sorted(drawn - there)]
    return missing + [f"{name} is not on the map" for name in sorted(there - drawn - {"__init__.py", "__main__.py"})]


RULES: list[Rule] = [layers, purity, homes, seams, names, sizes, catches, clocks, cancellations, tree]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule) -> None:
    """The package keeps the rule that the function's docstring states."""
    assert "\n".join(rule(modules(REPOSITORY / PACKAGE))) == ""


def committed(repository: Path) -> list[Path]:
    """Every file that is committed or would be, relative to the repository."""
    command = ["git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (repository / name).is_file()]


def workplace_names(repository: Path) -> list[str]:
    """Lines of committed files that name a place of the workshop."""
    found = []
    for path in committed(repository):
        text = (repository / path).read_text(encoding="utf-8", errors="replace")
        found += [f"{path}:{number}" for number, line in enumerate(text.splitlines(), 1) if WORKPLACE.search(line)]
    return found


@pytest.mark.real("git")
def test_nothing_committed_names_the_workplace() -> None:
    """What is committed stands on its own."""
    assert workplace_names(REPOSITORY) == []


@pytest.mark.real("git")
def test_the_top_level_holds_what_the_design_names() -> None:
    """A new top-level file or folder is a decision, not an accident."""
    assert {path.parts[0] for path in committed(REPOSITORY)} - TOP_LEVEL - {".ci", ".gitignore", ".gitattributes"} == set()


# The rules themselves: each finds what it is for, and only that.

BROKEN: list[tuple[Rule, dict[str, str], str]] = [
    (layers, {"core/plan.py": "import reconciler.ledger"}, "imports upwards"),
    (layers, {"errors.py": "from reconciler import config", "config.py": ""}, "imports upwards"),
    (layers, {"cli/get.py": "from . import output"}, "relatively"),
    (layers, {"daemon.py": "from reconciler.cli import main"}, "imports upwards"),
    (layers, {"stuff.py": ""}, "no layer"),
    (purity, {"core/plan.py": "import time"}, "imports time"),
    (purity, {"core/plan.py": "def f():\n    import os.path"}, "imports os"),
    (purity, {"core/plan.py": "from reconciler.clock import utc_now"}, "imports clock"),
    (purity, {"core/plan.py": "from typing import Any\nx: Any = 1"}, "names Any"),
    (purity, {"core/plan.py": "print(1)"}, "names print"),
    (purity, {"core/plan.py": "async def f(): ..."}, "is async"),
    (homes, {"ledger.py": "import pydantic"}, "whose home is"),
    (homes, {"sources/folder.py": "import pygit2"}, "whose home is"),
    (homes, {"yamlfile.py": "import requests"}, "nowhere"),
    (seams, {"backends/local.py": "class Local:\n" + "".join(f"    def {m}(self): ...\n" for m in sorted(CONCRETE["backends"])),
             "cli/logs.py": "from reconciler.backends import local"}, "concrete backends.local"),
    (seams, {"sources/folder.py": "class Folder:\n" + "".join(f"    async def {m}(self): ...\n" for m in sorted(CONCRETE["sources"])),
             "sources/git.py": "from reconciler.sources.folder import Folder"}, "concrete sources.folder"),
    (seams, {"backends/local.py": "import reconciler.sources.base"}, "stays apart"),
    (seams, {"web/app.py": "from reconciler.controller import Controller"}, "stays apart"),
    (seams, {"controller.py": "from reconciler.backends.script import job_script"}, "only the base modules"),
    (seams, {"status.py": "from reconciler.core.plan import plan"}, "only caller"),
    (names, {"core/utils.py": ""}, "says nothing"),
    (names, {"ledger.py": "class LedgerManager: ..."}, "LedgerManager"),
    (names, {"ledger.py": "def handle_row(): ..."}, "handle_row"),
    (names, {"ledger.py": "def f(job_handler): ..."}, "job_handler"),
    (sizes, {"ledger.py": "x = 1\n" * (LINES_MAX + 1)}, "501 lines"),
    (sizes, {"ledger.py": "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX}, "f has 61 lines"),
    (catches, {"ledger.py": "try: ...\nexcept Exception: ..."}, "does not say why"),
    (catches, {"ledger.py": "try: ...\nexcept (OSError, BaseException): ..."}, "does not say why"),
    (catches, {"ledger.py": "try: ...\nexcept: ..."}, "does not say why"),
    (clocks, {"ledger.py": "import time\ntime.time()"}, "time.time"),
    (clocks, {"ledger.py": "from time import monotonic"}, "time.monotonic"),
    (clocks, {"ledger.py": "import datetime\ndatetime.datetime.now()"}, "datetime.now"),
    (cancellations, {"intake.py": "import asyncio\nasync def f(x):\n    await asyncio.wait_for(x, 1)"}, "asyncio.timeout"),
    (tree, {"__init__.py": '"""Map:\n\n    ledger.py   the memory\n"""'}, "not in the folder"),
    (tree, {"__init__.py": '"""Map:\n\n    core/   pure\n"""', "ledger.py": "", "core/plan.py": ""}, "ledger.py is not on the map"),
]  # fmt: skip

SOUND: list[tuple[Rule, dict[str, str]]] = [
    (layers, {"cli/get.py": "from reconciler.ledger import LedgerReader", "ledger.py": "import reconciler.core.record"}),
    (purity, {"core/plan.py": "import json\nfrom reconciler.errors import GraphError\nfrom reconciler.core import names",
              "core/names.py": "import re"}),
    (homes, {"sources/git_fetch.py": "import pygit2", "manifest/schema.py": "import pydantic", "ledger.py": "import sqlite3"}),
    (seams, {"daemon.py": "from reconciler.backends import local", "controller.py": "from reconciler.backends.base import Backend",
             "backends/local.py": "from reconciler.backends import script", "backends/script.py": ""}),
    (names, {"ledger.py": "def enhance(commonest): ...\nimport logging\nlogging.StreamHandler()\ndef processes(): ..."}),
    (sizes, {"ledger.py": '"""Long.\n' + "\n" * LINES_MAX + '"""\n' + "# why\n" * LINES_MAX}),
    (catches, {"ledger.py": "try: ...\nexcept Exception:  # one row must not hurt another\n    ...\ntry: ...\nexcept OSError: ...",
               "status.py": "try: ...\nexcept BaseException:\n    close()\n    raise"}),
    (cancellations, {"intake.py": "async def f():\n    async with asyncio.timeout(1):\n        await condition.wait_for(x)"}),
    (clocks, {"clock.py": "import time\ntime.time()", "ledger.py": "import time\ntime.sleep(1)"}),
    (tree, {"__init__.py": '"""Map:\n\n    core/   pure\n    errors.py  tree      log.py   logs\n"""', "errors.py": "", "log.py": "",
            "core/plan.py": ""}),
]  # fmt: skip


def written(root: Path, files: dict[str, str]) -> list[Module]:
    """A package of `files` under `root`."""
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return modules(root / PACKAGE)


@pytest.mark.parametrize(("rule", "files", "expected"), BROKEN, ids=[f"{rule.__name__}-{text}" for rule, _, text in BROKEN])
def test_a_broken_rule_is_found(rule: Rule, files: dict[str, str], expected: str, tmp_path: Path) -> None:
    """A package that breaks a rule is told where and how, once."""
    found = rule(written(tmp_path, files))
    assert [expected in line for line in found] == [True], found


@pytest.mark.parametrize(("rule", "files"), SOUND, ids=[rule.__name__ for rule, _ in SOUND])
def test_a_rule_leaves_sound_code_alone(rule: Rule, files: dict[str, str], tmp_path: Path) -> None:
    """A package that keeps a rule hears nothing of it."""
    assert rule(written(tmp_path, files)) == []


@pytest.mark.real("git")
def test_a_workplace_name_is_found(tmp_path: Path) -> None:
    """A committed file that names a place of the workshop is named with its line; one that only looks like it is not."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "a.md").write_text("fine: network/ homework/x a-shared/b\n" + "see /wo" + "rk/main\n" + "../sha" + "red/design\n")
    assert workplace_names(tmp_path) == ["a.md:2", "a.md:3"]
