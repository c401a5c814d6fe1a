"""The house's floors: who may import whom, and what `import nnkit` loads."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import nnkit

PACKAGE = Path(nnkit.__file__).parent
ARCHITECTURE = Path(__file__).parent.parent / "docs" / "architecture.md"

# What each module may import from nnkit besides itself and `errors`, `files` and `_ext`.
ALLOWED = {
    "_ext": set(),
    "errors": set(),
    "files": set(),
    "initializers": set(),
    "metrics": set(),
    "optim": set(),
    "history": {"plots"},
    "functional": set(),
    "cs231n": {"functional"},
    "data": {"plots"},
    "explain": {"layers", "models"},
    "testing": {"layers"},
    "layers": {"functional", "initializers"},
    "models": {"layers", "functional", "initializers"},
    "checkpoint": {"models", "layers"},
    "classifier": {"checkpoint", "data", "models"},
    "interop": {"functional", "layers", "models"},
    "transfer": {"interop", "models"},
    "callbacks": set(),
    "progress": {"callbacks"},
    "signals": set(),
    "distributed": set(),
    "resume": {"checkpoint", "data", "history", "models"},
    "solver": {
        "callbacks",
        "checkpoint",
        "data",
        "distributed",
        "history",
        "layers",
        "models",
        "optim",
        "progress",
        "resume",
        "signals",
    },
    "estimator": {
        "callbacks",
        "data",
        "functional",
        "history",
        "initializers",
        "layers",
        "models",
        "optim",
        "solver",
    },
    "recipes": {"data", "layers", "models", "optim"},
    "plots": {"metrics"},
    "page": set(),
    "analysis": {"history", "metrics"},
    "report": {"analysis", "history", "metrics", "page", "pictures", "plots"},
    "evaluation": {"data", "metrics", "models"},
    "pictures": {"data", "evaluation", "explain", "history", "models", "plots"},
    "significance": set(),
    "compare": {
        "callbacks",
        "checkpoint",
        "data",
        "evaluation",
        "history",
        "metrics",
        "models",
        "page",
        "plots",
        "recipes",
        "runs",
        "signals",
        "significance",
        "solver",
    },
    "search": {"data", "folds", "plots", "recipes", "runs", "signals"},
    "app": {"classifier", "data", "explain", "layers", "page", "recipes", "runs", "solver"},
    "folds": {"data", "evaluation", "history", "metrics", "models", "plots", "recipes", "runs", "solver"},
}
HEAVY = ("matplotlib", "torch", "sklearn", "streamlit", "PIL", "optuna", "safetensors", "pooch", "tqdm", "mpi4py")


def imported_by(path):
    """The nnkit modules that a file imports, by their first name, those under TYPE_CHECKING left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            module = node.module or ""
            names = [f"nnkit.{alias.name}" for alias in node.names] if module == "nnkit" else [module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "nnkit" and len(parts) > 1:
                yield parts[1]


def module_files():
    return sorted(PACKAGE.rglob("*.py"))


def floor_of(path):
    """The file or folder right under nnkit/ that a module belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("floor", ALLOWED)
def test_imports_never_turn_back(floor):
    files = [path for path in module_files() if floor_of(path) == floor]
    assert files, f"{floor} is gone: take it out of ALLOWED"
    for path in files:
        assert set(imported_by(path)) <= ALLOWED[floor] | {floor, "errors", "files", "_ext", "__version__"}, path


def test_there_are_no_circles():
    graphlib.TopologicalSorter(ALLOWED).prepare()


def test_nothing_imports_the_command_line():
    for path in module_files():
        if floor_of(path) not in ("cli", "__main__"):
            assert not {"cli", "cli_compare", "cli_search"} & set(imported_by(path)), path


def test_import_loads_nothing_heavy():
    code = f"import sys, nnkit; print([m for m in {HEAVY} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_every_module_says_what_it_is():
    for path in module_files():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="the documents are not installed with the package")
def test_the_document_names_every_c_file():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    written = [path.name for path in PACKAGE.glob("_ext/*.[ch]") if path.name != "compiled.c"]  # which Cython makes
    assert [name for name in written if name not in text] == []
