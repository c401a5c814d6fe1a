"""A drop-in for the package `cs231n` of Stanford's course: its names, dictionaries and printed lines, nnkit's kernels.

Two lines at the top let an assignment's notebook run unchanged:

    import nnkit.cs231n
    nnkit.cs231n.install()

Where the course and nnkit mean the same, these modules call `nnkit.functional`; what the course defines in its own way
(parameters in dictionaries, the global random generator, its Solver) is written here, to be read.
"""

import sys
from importlib import import_module
from pkgutil import walk_packages

from nnkit.cs231n.editions import use_edition

__all__ = ["install", "use_edition"]


def install(edition: int | None = None) -> None:
    """Make `cs231n` a second name of this package, so that `from cs231n.layers import *` finds it.

    Every module gets its second name, too, and is the same object under both. Another `cs231n` package that was
    imported before, or that lies in the working directory, is out of the way afterwards.

    Parameters
    ----------
    edition : int, optional
        The year of the notebook, which matters for 2017 only; see `use_edition`.

    Raises
    ------
    UsageError
        If there is no such edition.

    Examples
    --------
    >>> import nnkit.cs231n
    >>> nnkit.cs231n.install()
    >>> import cs231n.classifiers.fc_net
    >>> cs231n.classifiers.fc_net is nnkit.cs231n.classifiers.fc_net
    True
    """
    if edition is not None:
        use_edition(edition)
    for name in [name for name in sys.modules if name.split(".")[0] == "cs231n"]:
        del sys.modules[name]
    sys.modules["cs231n"] = sys.modules[__name__]
    for module in walk_packages(__path__, f"{__name__}."):
        sys.modules[module.name.removeprefix("nnkit.")] = import_module(module.name)
