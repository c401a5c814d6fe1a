"""For MkDocs: the notebooks of examples/ become pages, and links to them work in the site as well as on a code host."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).parent.parent / "examples"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and its pictures."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        text, pictures = as_markdown(path)
        files.append(File.generated(config, f"examples/{path.stem}.md", content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, f"examples/{name}", content=data))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to notebooks, which lie outside docs/, to their pages."""
    return re.sub(r"\((\.\./)((?:\.\./)*examples/\w+)\.ipynb\)", r"(\2.md)", markdown)


def as_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page, and the pictures on it by their file names."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            # Seen from docs/examples/, what is in docs/ is one folder up, as are other notebooks from there on.
            source = source.replace("](../docs/", "](../")
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                facts = output["metadata"]["image/png"]
                parts.append(f"![{facts['alt']}]({name}){{ width={facts['width']} }}")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures
