"""What the oracles share: PyTorch on one thread, and a comparison that remembers how close everything was."""

import numpy as np
import pytest

LIMITS = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-9}


class Agreement:
    """Compares arrays relative to their largest element, and keeps count."""

    def __init__(self):
        self.counts = {}
        self.worst = {}

    def __call__(self, group, ours, theirs, floor=0.0, limit=None):
        """Assert that two arrays, or numbers, are the same up to rounding; `floor` is the least size to go by."""
        ours, theirs = np.asarray(ours), np.asarray(theirs.detach() if hasattr(theirs, "detach") else theirs)
        assert ours.shape == theirs.shape, f"{group}: {ours.shape} instead of {theirs.shape}"
        size = max(np.abs(theirs).max(initial=0), floor)
        error = float(np.abs(ours - theirs).max(initial=0) / (size or 1))
        key = group.split()[0], "statistics" if limit else ours.dtype.name
        self.counts[key] = self.counts.get(key, 0) + 1
        self.worst[key] = max(self.worst.get(key, 0.0), error)
        limit = LIMITS[ours.dtype] if limit is None else limit
        assert error <= limit, f"{group}: {error:.2e} off, {limit:.0e} is allowed; {ours} instead of {theirs}"


AGREEMENT = Agreement()


@pytest.fixture(scope="session")
def agree():
    return AGREEMENT


@pytest.fixture(scope="session")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def pytest_terminal_summary(terminalreporter):
    if not AGREEMENT.counts:
        return
    worst = {
        dtype: max([0, *(e for (_, d), e in AGREEMENT.worst.items() if d == dtype)]) for dtype in ("float32", "float64")
    }
    terminalreporter.section("agreement with PyTorch (all groups with -v)")
    for (group, dtype), count in sorted(AGREEMENT.counts.items()):
        if terminalreporter.verbosity > 0:
            terminalreporter.write_line(f"{group:24} {dtype:10} {count:6} arrays, {AGREEMENT.worst[group, dtype]:.1e}")
    shown = ", ".join(f"worst error in {dtype} {error:.1e}" for dtype, error in worst.items())
    terminalreporter.write_line(f"{sum(AGREEMENT.counts.values())} arrays compared, {shown}")
