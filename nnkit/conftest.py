"""For pytest only: the modules whose doctests need an extra that is not installed are left out."""

from importlib.util import find_spec

NEEDS = {"torch": ["interop/torch.py", "interop/_torch_modules.py"]}

collect_ignore = [path for extra, paths in NEEDS.items() if find_spec(extra) is None for path in paths]
