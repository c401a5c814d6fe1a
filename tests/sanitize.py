"""Runs the C kernels on random arguments under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/sanitize.py    # a minute or two; needs GCC with its sanitizers, Cython, pytest with xdist, hypothesis

Builds the extension into a temporary copy of the package, with no optimisation to speak of, and lets
`tests/oracles/test_kernels.py` drive every kernel of every set there. Reading or writing outside of an array, a
misaligned access, an overflow of an index: each ends it at once, with a report and a status other than 0.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CC = os.environ.get("CC", "gcc")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1"]
FLAGS = ["-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-Wno-pass-failed"]

PYTHON_HEADERS, SUFFIX = sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX")


def copy_package(folder):
    """Copy the package, without anything built, and return the copy's path."""
    ignored = shutil.ignore_patterns("*.so", "*.o", "compiled.c", "__pycache__")
    return Path(shutil.copytree(ROOT / "nnkit", Path(folder, "nnkit"), ignore=ignored))


def build(package, compiler, flags, *, kernel_flags=(), headers=(PYTHON_HEADERS,), suffix=SUFFIX):
    """Compile the extension of a copy of the package: the kernels with `kernel_flags`, Cython's C code without."""
    ext = package / "_ext"
    subprocess.run([sys.executable, "-m", "cython", "-3", "compiled.pyx"], cwd=ext, check=True)
    sources = sorted(ext.glob("*.c"))
    commands = []
    for source in sources:
        # Cython's own checks do what sanitizers would, and speed does not matter there.
        extra = [*(f"-I{folder}" for folder in headers), "-O0"] if source.name == "compiled.c" else kernel_flags
        commands.append([compiler, *flags, *extra, "-c", str(source), "-o", str(source.with_suffix(".o"))])
    running = [subprocess.Popen(command) for command in commands]
    if [process.wait() for process in running] != [0] * len(running):
        sys.exit("the kernels do not compile")
    objects = [str(source.with_suffix(".o")) for source in sources]
    library = ext / f"compiled{suffix}"
    subprocess.run([compiler, "-shared", *flags, *kernel_flags, *objects, "-o", str(library)], check=True)


def runtime(name):
    """The path of a sanitizer's library, which Python, not being compiled for it, has to load first."""
    command = [CC, f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        sys.exit(f"{CC} has no {name}")
    return str(path.resolve())


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        build(copy_package(work), CC, [*FLAGS, "-O1"], kernel_flags=SANITIZE)
        shutil.copy(ROOT / "tests" / "oracles" / "test_kernels.py", work)
        environment = os.environ | {
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0:strict_init_order=1:detect_stack_use_after_return=1",  # Python itself leaks
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": folder,
            "NNKIT_NUM_THREADS": "2",
        }
        check = "from nnkit import _ext; assert len(_ext.available()) > 1, _ext.kernel_reason"
        subprocess.run([sys.executable, "-c", check], cwd=work, env=environment, check=True)
        # -s, for a report that pytest had captured would go down with it.
        command = [sys.executable, "-m", "pytest", "-qs", "-n", "auto", "-p", "no:cacheprovider", "test_kernels.py"]
        return subprocess.run([*command, *sys.argv[1:]], cwd=work, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
