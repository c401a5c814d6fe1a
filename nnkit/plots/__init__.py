"""Pictures of a training run: each function takes plain arrays and returns a matplotlib Figure.

Examples
--------
>>> from nnkit import plots
>>> figure = plots.confusion_matrix([[9, 1], [2, 8]], ["cat", "dog"])
>>> figure.get_suptitle()
'85.0% of 20 images are recognised'
"""

from nnkit.plots.confusion import confusion_matrix as confusion_matrix
from nnkit.plots.curves import training_curves as training_curves
from nnkit.plots.dataset import samples as samples
from nnkit.plots.folds import fold_curves as fold_curves
from nnkit.plots.images import misclassified as misclassified
from nnkit.plots.images import predictions as predictions
from nnkit.plots.notebook import notebook_png as notebook_png
from nnkit.plots.search import importances as importances
from nnkit.plots.search import parallel_coordinates as parallel_coordinates
from nnkit.plots.search import score_map as score_map
from nnkit.plots.search import search_history as search_history
from nnkit.plots.style import save as save
from nnkit.plots.weights import filters as filters
