"""Cheap checks of what the build promises; the real installations are tried by the continuous integration."""

import re
from pathlib import Path

import pytest

from nnkit import _ext

ROOT = Path(__file__).parents[1]
SETUP = ROOT / "setup.py"

pytestmark = pytest.mark.skipif(not SETUP.exists(), reason="not in a source tree")


def test_no_flag_ties_the_binary_to_this_processor_or_breaks_nan():
    flags = re.search(r"FLAGS = \[(.*)\]", SETUP.read_text()).group(1)
    for forbidden in ("-march", "-mtune", "-ffast-math", "-Ofast", "-ffinite-math-only"):
        assert forbidden not in flags


def test_every_source_is_in_the_extension_and_the_sdist():
    text = SETUP.read_text()
    folder = ROOT / "nnkit/_ext"
    written = {path.name for path in folder.glob("*.c")} - {"compiled.c"}
    assert all(f'"{name}"' in text for name in written | {"compiled.pyx"})
    manifest = (ROOT / "MANIFEST.in").read_text()
    suffixes = {path.suffix for path in folder.iterdir() if path.suffix not in (".py", ".so", ".pyd", "")}
    assert all(f"*{suffix}" in manifest for suffix in suffixes)


def test_generated_files_are_ignored():
    assert "/nnkit/_ext/compiled.c" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_reason_for_the_kernels_is_told():
    assert _ext.kernel_reason
    if _ext.kernels.name == "reference":
        assert "NNKIT_KERNELS" in _ext.kernel_reason or "compiler" in _ext.kernel_reason
