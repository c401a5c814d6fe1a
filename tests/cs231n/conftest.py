"""What every transcribed notebook needs: the alias, a seeded global generator, and the notebooks' relative error."""

import numpy as np
import pytest

import nnkit.cs231n

_comparisons = []


@pytest.fixture(autouse=True)
def notebook():
    """Stand where a notebook stands after its first cell: `cs231n` can be imported, and the generator is seeded."""
    before = np.random.get_state()
    nnkit.cs231n.install(2025)
    np.random.seed(231)
    yield
    nnkit.cs231n.use_edition(2025)
    np.random.set_state(before)


def relative_error(x, y):
    """The notebooks' own: the largest |x - y| / max(1e-8, |x| + |y|)."""
    x, y = np.asarray(x), np.asarray(y)
    assert x.shape == y.shape
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y)), initial=0))


@pytest.fixture
def agree():
    """Check two results as a notebook does, by default to a tenth of the strictest error that one expects."""

    def check(got, expected, tolerance=1e-7):
        error = relative_error(got, expected)
        _comparisons.append((error, tolerance))
        assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"

    return check


@pytest.fixture(scope="session")
def cifar10(cifar_dir):
    """A little of what `get_CIFAR10_data()` returns, with the mean image of all 49,000 training images taken off."""
    from nnkit.cs231n.data_utils import get_CIFAR10_data

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNKIT_DATA", str(cifar_dir))
        data = get_CIFAR10_data()
    return {name: array[:1000].copy() for name, array in data.items()}


def pytest_terminal_summary(terminalreporter):
    strict = [error for error, tolerance in _comparisons if tolerance <= 1e-7]
    if strict:
        counts = f"{len(_comparisons)} comparisons, {len(strict)} of them at 1e-7 or stricter"
        terminalreporter.write_line(f"cs231n: {counts}; the worst of these: {max(strict):.1e}")
