"""Build the compiled kernels; everything else about the package is in pyproject.toml.

One binary serves every processor of its kind: each instruction set's functions carry their own target attribute and are
chosen at run time, so no flag here names a processor. Where no C compiler works, the package installs without the
extension and runs on NumPy.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

EXT = Path("nnkit/_ext")
FAILURES = (BaseError, CCompilerError, OSError)
# No kernel reads errno or floating-point exception flags. Not -ffast-math: NaN must stay NaN. pass-failed is clang on
# loops in double that call the C library, which it cannot vectorise.
FLAGS = ["-O3", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-Wno-pass-failed", "-g0"]
# What the kernels need: vector extensions, shuffles, POSIX threads, atomic numbers.
NEEDED = """
#include <pthread.h>
#include <stdatomic.h>
typedef float vec __attribute__((vector_size(16)));
static pthread_key_t key;
static atomic_int count;
int main(void) {
    vec v = {0, 1, 2, 3};
    v = __builtin_shufflevector(v, v, 0, 4, 1, 5);
    return pthread_key_create(&key, 0) + (int)v[0] + atomic_load(&count);
}
"""


class BuildKernels(build_ext):
    """Go on without the extension where there is no compiler."""

    def build_extensions(self):
        try:
            if not self.compiles(NEEDED, FLAGS):
                return self.skip("no working C compiler with GCC's vector extensions")
            self.compile_side_by_side()
            super().build_extensions()
        except FAILURES as error:
            self.skip(str(error).splitlines()[0])

    def compile_side_by_side(self):
        """Have an extension's sources compiled at the same time, not one after the other.

        `_compile` is private, but what setuptools' own `compile` calls for each file; a compiler with another `compile`
        (MSVC) goes on one by one.
        """
        compile_all, compile_one = self.compiler.compile, self.compiler._compile

        def compile_and_wait(*args, **options):
            jobs = []
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self.compiler._compile = lambda *file: jobs.append(pool.submit(compile_one, *file))
                objects = compile_all(*args, **options)
            for job in jobs:
                job.result()  # raises what the compiler said
            return objects

        self.compiler.compile = compile_and_wait

    def skip(self, reason):
        self.extensions = []
        for left_over in Path(self.build_lib, EXT).glob("compiled.*"):  # from a build that had a compiler
            left_over.unlink()
        print(f"nnkit: compiled kernels left out, NumPy will be used instead: {reason}", file=sys.stderr)

    def compiles(self, source, flags):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.c"
            path.write_text(source)
            try:
                objects = self.compiler.compile([str(path)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=flags)
            except FAILURES:
                return False
        return True


EXTENSION = Extension(
    "nnkit._ext.compiled",
    sources=[
        str(EXT / name)
        for name in ("compiled.pyx", "dispatch.c", "threads.c", "scratch.c", "avx512.c", "avx2.c", "baseline.c")
    ],
    depends=[str(path) for path in sorted(EXT.glob("*.h"))],
    include_dirs=[str(EXT)],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)

setup(ext_modules=[EXTENSION], cmdclass={"build_ext": BuildKernels})
