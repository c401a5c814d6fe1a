import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import nnkit
from nnkit.files import atomic_path, remove_partial_files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_made_and_the_suffix_kept(tmp_path):
    target = tmp_path / "a" / "b" / "picture.png"
    with atomic_path(str(target)) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["picture.png"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, failure):
    target = tmp_path / "state"
    target.write_text("old")

    def write_half_of_it():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write_half_of_it()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["state"]


def test_a_write_that_the_system_cuts_off(tmp_path):
    """A limit on the size of files is refused by the kernel in the middle of a write, as a full disk is."""
    target = tmp_path / "state.bin"
    target.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"state\.bin") as caught, atomic_path(target) as temporary:
            temporary.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert "\n" not in str(caught.value)
    assert "unharmed" in str(caught.value)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["state.bin"]


def test_the_folder_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(OSError, match="runs"), atomic_path(tmp_path / "runs" / "model") as temporary:
        temporary.write_text("x")


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("x")
    mode = stat.S_IMODE(os.stat(tmp_path / "atomic").st_mode)
    assert mode == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode)


@pytest.mark.parametrize("name", ["state.safetensors", "plain", ".hidden", "a.b.tar.gz"])
def test_what_a_killed_process_left_can_be_removed(tmp_path, name):
    (tmp_path / "kept.partial").write_text("x")
    script = "import os, sys; from nnkit.files import atomic_path\nwith atomic_path(sys.argv[1]) as path:\n"
    script += "    path.write_text('half'); os._exit(1)"
    environment = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(tmp_path / "run" / name)]
    assert subprocess.run(command, env=environment, check=False).returncode == 1
    assert len(names(tmp_path / "run")) == 1
    remove_partial_files(tmp_path)
    assert names(tmp_path / "run") == []
    assert names(tmp_path) == ["kept.partial", "run"]
