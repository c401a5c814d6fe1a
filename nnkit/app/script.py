"""What Streamlit runs for each visitor, anew whenever something changes on the page."""

import sys
from pathlib import Path

from nnkit.app import pages

if __name__ == "__main__":
    pages.main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
