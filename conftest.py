"""For pytest: what is a command and no test is left out, and modules whose doctests need an extra that is not there."""

from importlib.util import find_spec

# In the root, not in the package: pytest would import the package from the source tree along with it.
collect_ignore = ["tests/portability.py", "tests/sanitize.py"]
if not find_spec("torch"):
    collect_ignore += ["nnkit/interop/torch.py", "nnkit/interop/_torch_modules.py"]
if not find_spec("sklearn"):
    collect_ignore += ["nnkit/estimator", "nnkit/explain.py", "nnkit/folds.py"]
if not find_spec("sklearn") or not find_spec("optuna"):
    collect_ignore += ["nnkit/search/run.py"]
