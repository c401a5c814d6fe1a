"""For pytest: the modules whose doctests need an extra that is not installed are left out."""

from importlib.util import find_spec

# In the root, not in the package: pytest would import the package from the source tree along with it.
collect_ignore = [] if find_spec("torch") else ["nnkit/interop/torch.py", "nnkit/interop/_torch_modules.py"]
