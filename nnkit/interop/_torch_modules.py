"""The one module that PyTorch does not have. Needs PyTorch: import it only where PyTorch is known to be there."""

from torch import Tensor, nn


class Residual(nn.Module):
    """Modules with a detour around them: `out = activation(main(x) + shortcut(x))`; see `nnkit.models.Residual`.

    Parameters
    ----------
    main : nn.Module
        The parts of an `nn.Sequential` become children of the residual itself, under the names they have there; any
        other module becomes the child "main".
    shortcut : nn.Module, optional
        The identity where left out.
    activation : nn.Module, optional
        Applied to the sum.

    Examples
    --------
    >>> list(Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), activation=nn.ReLU()).state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    shortcut: nn.Module | None
    activation: nn.Module | None

    def __init__(self, main: nn.Module, shortcut: nn.Module | None = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        parts = dict(main._modules) if isinstance(main, nn.Sequential) else {"main": main}
        self.main_names = list(parts)
        for name, part in parts.items():
            self.add_module(name, part)
        self.register_module("shortcut", shortcut)
        self.register_module("activation", activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch to one of main's output shape."""
        out = x
        for name in self.main_names:
            out = self.get_submodule(name)(out)
        out = out + (x if self.shortcut is None else self.shortcut(x))
        return out if self.activation is None else self.activation(out)
