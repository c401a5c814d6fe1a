"""Compiles the kernels with other compilers and for another processor, and tests what comes out.

    python tests/portability.py                    # every check whose tools are installed; minutes
    python tests/portability.py warnings clang     # these two only: some 40 seconds

- `warnings`: gcc and clang, for this processor and for ARM's aarch64, have nothing to say.
- `clang`: the kernels built by clang pass their tests (in parallel: needs pytest-xdist).
- `aarch64`: the kernels built for ARM pass their tests under QEMU, in a real Python with a real NumPy.

On Debian: `apt-get install clang gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static`. The ARM
Python comes from Debian's packages, too, unpacked into a temporary folder; NumPy and pytest are wheels from PyPI.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sanitize import FLAGS, ROOT, build, copy_package

EXT = ROOT / "nnkit" / "_ext"
WARNINGS = ["-O3", "-Wall", "-Wextra", "-Werror"]
CROSS = "aarch64-linux-gnu-gcc"
QEMU = "qemu-aarch64-static"
COMPILERS = [["gcc"], ["clang"], [CROSS], ["clang", "--target=aarch64-linux-gnu"]]
# tests/test_ext.py alone would pass with a set of kernels missing.
EXPECTED = {"clang": "set(_ext.available()) >= {'baseline', 'reference'}", "aarch64": "_ext.kernels.name == 'baseline'"}


class MissingError(Exception):
    """A tool that a check needs is not installed."""


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise MissingError(f"{tool} is not installed")


def works(compiler, flags):
    """Whether a compiler and its headers and libraries are there."""
    if not shutil.which(compiler[0]):
        return False
    program = "#include <pthread.h>\nint main(void) { return 0; }"
    command = [*compiler, *flags, "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=program, text=True, capture_output=True).returncode == 0


def check_warnings():
    compilers = [compiler for compiler in COMPILERS if works(compiler, ["-fsyntax-only"])]
    if not compilers:
        raise MissingError("no compiler")
    print("   ", ", ".join(" ".join(compiler) for compiler in compilers))
    sources = sorted(path for path in EXT.glob("*.c") if path.name != "compiled.c")
    commands = [
        [*compiler, *WARNINGS, *FLAGS, "-c", str(source), "-o", os.devnull]
        for compiler in compilers
        for source in sources
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = list(pool.map(lambda command: subprocess.run(command).returncode, commands))
    failed = [" ".join(command) for command, code in zip(commands, codes, strict=True) if code]
    if failed:
        sys.exit("\n".join(["these gave warnings:", *failed]))


def run_tests(package, python, expected, left_out="nothing", options=()):
    """Run the kernels' tests against the package in this folder."""
    tests = package.parent / "tests"
    tests.mkdir()
    for name in ("conftest.py", "test_ext.py", "oracles/test_kernels.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    environment = os.environ | {"NNKIT_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(package.parent)
    check = f"from nnkit import _ext; assert {expected}, _ext.kernel_reason; print(_ext.available())"
    subprocess.run([python, "-c", check], cwd=tests, env=environment, check=True)
    command = [python, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-k", f"not ({left_out})"]
    subprocess.run([*command, *options, "."], cwd=tests, env=environment, check=True)


def check_clang():
    need("clang")
    with tempfile.TemporaryDirectory() as folder:
        package = copy_package(folder)
        build(package, "clang", [*FLAGS, "-O3"])
        run_tests(package, sys.executable, EXPECTED["clang"], options=["-n", "auto"])


def unpack_debian(root, packages):
    """Unpack Debian's arm64 packages and what they depend on into a folder; the system's own stay as they are."""
    state = root.parent / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourceparts": "-",
    }
    if Path("/etc/apt/sources.list.d/debian.sources").exists():
        options["Dir::Etc::sourcelist"] = "/etc/apt/sources.list.d/debian.sources"
    apt = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "-y", "--download-only", *packages], check=True, stdout=subprocess.DEVNULL)
    for archive in (state / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(root)], check=True)


def emulated_python(work):
    """Return a command that is an ARM Python with NumPy and pytest, the folder of its headers, and its version."""
    root, site = work / "root", work / "site"
    unpack_debian(root, ["python3", "libpython3-dev", "libstdc++6"])
    version = (root / "usr" / "bin" / "python3").readlink().name.removeprefix("python")
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in range(17, 37)] + ["--platform=any"]
    wheels = ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *platforms]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([*pip, *wheels, "numpy>=2.0", "pytest>=8", "hypothesis>=6.100"], check=True)
    # A script that stands for the interpreter, so that the tests can start further ones by sys.executable.
    python = work / "python"
    exports = f"export PYTHONHOME={root}/usr PYTHONPATH=$PYTHONPATH:{site}"
    python.write_text(f'#!/bin/sh\n{exports}\nexec {QEMU} -L {root} -0 "$0" {root}/usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    return str(python), root / "usr" / "include", version


def check_aarch64():
    need("apt-get", "dpkg-deb", CROSS, QEMU)
    if not works([CROSS], []):
        raise MissingError("libc6-dev-arm64-cross is not installed")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            python, headers, version = emulated_python(work)
        except (OSError, subprocess.CalledProcessError) as error:
            raise MissingError(f"no Python for aarch64: {error}") from None
        package = copy_package(work)
        suffix = f".cpython-{version.replace('.', '')}-aarch64-linux-gnu.so"
        folders = [headers / f"python{version}", headers]
        build(package, CROSS, [*FLAGS, "-O3"], headers=folders, suffix=suffix)
        # QEMU knows no limit on memory; and in it, products and convolutions of this size take minutes in NumPy itself.
        left_out = "no_memory_for_scratch or 520 or many_channels"
        # NumPy's own products, in the twins, now and then warn of what they have computed beside the result.
        spurious = [f"ignore:{what} encountered in matmul" for what in ("divide by zero", "overflow", "invalid value")]
        options = [part for text in spurious for part in ("-W", f"{text}:RuntimeWarning")]
        run_tests(package, python, EXPECTED["aarch64"], left_out, options)


CHECKS = {"warnings": check_warnings, "clang": check_clang, "aarch64": check_aarch64}


def main():
    names = sys.argv[1:] or list(CHECKS)
    if unknown := set(names) - set(CHECKS):
        sys.exit(f"portability: unknown check {unknown.pop()!r}; expected one of {', '.join(CHECKS)}")
    for name in names:
        print(f"-- {name}", flush=True)
        try:
            CHECKS[name]()
        except MissingError as missing:
            print(f"    left out: {missing}")
        except subprocess.CalledProcessError as error:
            sys.exit(f"portability: {name} failed: {error}")


if __name__ == "__main__":
    main()
