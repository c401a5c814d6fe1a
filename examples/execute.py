"""Run the notebooks and write them down again with their outputs: `python examples/execute.py [NOTEBOOK ...]`.

They run in an empty folder. What would differ from machine to machine, or from run to run, is left out of what is
written. `--out DIR` leaves the originals as they are; `NNKIT_QUICK=1` in the environment makes it a matter of seconds.
"""

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent


def execute(path: Path) -> NotebookNode:
    """Return the notebook with fresh outputs; an exception in a cell is one here."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()
    return tidy(notebook)


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Number the cells, and strip all metadata but what a viewer needs."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", NotebookNode()
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop("text/plain", None)  # the picture says it all
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")), metavar="NOTEBOOK")
    parser.add_argument("--out", type=Path, help="where to write them; by default, over the originals")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        target = path if arguments.out is None else arguments.out / path.name
        nbformat.write(execute(path), target)
        print(target)


if __name__ == "__main__":
    main()
