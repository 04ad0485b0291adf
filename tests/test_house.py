"""The house rules that a machine can hold us to."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

import factorlm

HOUSE = Path(__file__).parents[1]
PACKAGE = HOUSE / "src/factorlm"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MAX_LINES = 500


def public_names(statements: Iterable[ast.stmt]) -> set[str]:
    """What a room's `__init__` defines, or imports from us."""
    names: set[str] = set()
    for statement in statements:
        match statement:
            case ast.ImportFrom(module=str(module), names=aliases) if module.split(".")[0] == "factorlm":
                names |= {alias.asname or alias.name for alias in aliases}
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.If(body=body):  # imports for type checkers
                names |= public_names(body)
    return {name for name in names if not name.startswith("_")}


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("room", ROOMS)
def test_all_lists_the_public_names(room: str) -> None:
    module = importlib.import_module(f"factorlm.{room}")
    listed = list(getattr(module, "__all__", []))
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    assert listed == sorted(public_names(tree.body), key=rank)
    assert [name for name in listed if not hasattr(module, name)] == []


@pytest.mark.parametrize("module", ["factorlm", "factorlm.cli.app"])
def test_importing_is_cheap(module: str) -> None:
    if module != "factorlm" and not (PACKAGE / "cli/app.py").exists():
        pytest.skip("there is no command line yet")
    program = f"import sys, {module}; print(*sorted({{'torch', 'transformers', 'sklearn'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.split() == []


def test_no_file_is_too_long() -> None:
    folders = ("src", "tests", "examples", "benchmarks")
    lines = {path: len(path.read_bytes().splitlines()) for folder in folders for path in (HOUSE / folder).rglob("*.py")}
    assert {str(path.relative_to(HOUSE)): n for path, n in lines.items() if n > MAX_LINES} == {}


def test_import_contract_names_every_room() -> None:
    settings = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = settings["tool"]["importlinter"]["contracts"]
    layers = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    modules = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert sorted(layers) == sorted(ROOMS + modules)


def test_the_tests_see_this_house() -> None:
    assert factorlm.__file__ is not None
    assert Path(factorlm.__file__).parent == PACKAGE, "another factorlm is installed; run make setup"
