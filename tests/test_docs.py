"""The documents: what they show runs, and the site leaves nothing out."""

import re
from pathlib import Path

import pytest

import nnkit
from nnkit import data, plots, recipes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(nnkit.__file__).parent
TUTORIALS = ["index.md", "tutorials/folder.md", "tutorials/layer.md", "tutorials/winograd.md"]

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documents are not installed with the package")


def blocks(page, language):
    """The page's blocks of code, each with as many empty lines before it as there are lines above it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


@pytest.fixture
def few_shapes(monkeypatch):
    """Not more than 400 drawn images, whatever is asked for."""

    def make_few(n, seed=0, stream=0):
        return make_shapes(min(n, 400), seed, stream)

    make_shapes = data.make_shapes
    monkeypatch.setattr(data, "make_shapes", make_few)
    monkeypatch.setattr("nnkit.data.loading.make_shapes", make_few)


@pytest.mark.parametrize("page", TUTORIALS)
def test_the_code_runs(page, few_shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    threads, namespace = nnkit.get_num_threads(), {}
    try:
        for block in blocks(page, "python"):
            small = block.replace("problem(16, 64, 32)", "problem(2, 16, 16)")
            exec(compile(small, DOCS / page, "exec"), namespace)
    finally:
        nnkit.set_num_threads(threads)
    assert capsys.readouterr().out


def test_every_tutorial_is_tested():
    assert sorted(DOCS.glob("tutorials/*.md")) == sorted(DOCS / page for page in TUTORIALS if "/" in page)


@pytest.mark.parametrize("page", ["recipes.md", "tutorials/folder.md"])
def test_the_recipes_are_recipes(page, tmp_path):
    texts = list(blocks(page, "toml"))
    assert texts
    for text in texts:
        (tmp_path / "recipe.toml").write_text(text)
        recipes.load(tmp_path / "recipe.toml")


def test_every_package_has_its_page():
    packages = {path.parent.name for path in PACKAGE.glob("[!_]*/__init__.py")}
    assert packages - {path.stem for path in DOCS.glob("api/*.md")} == set()


def test_every_plot_is_on_its_page():
    listed = re.findall(r"^ +- (\w+)$", (DOCS / "api/plots.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(name for name, value in vars(plots).items() if callable(value))
