"""Pictures of a training run: each function takes plain arrays and returns a matplotlib Figure.

Examples
--------
>>> from nnkit import plots
>>> figure = plots.confusion_matrix([[9, 1], [2, 8]], ["cat", "dog"])
>>> figure.get_suptitle()
'85.0% of 20 images are recognised'
"""

from nnkit.plots.calibration import reliability as reliability
from nnkit.plots.classes import class_scores as class_scores
from nnkit.plots.compare import accuracy_dots as accuracy_dots
from nnkit.plots.compare import class_recalls as class_recalls
from nnkit.plots.compare import comparison_curves as comparison_curves
from nnkit.plots.compare import sweep_line as sweep_line
from nnkit.plots.compare import sweep_map as sweep_map
from nnkit.plots.confusion import confusion_matrix as confusion_matrix
from nnkit.plots.curves import gradient_norms as gradient_norms
from nnkit.plots.curves import learning_rate as learning_rate
from nnkit.plots.curves import training_curves as training_curves
from nnkit.plots.dataset import samples as samples
from nnkit.plots.explain import explanations as explanations
from nnkit.plots.explain import feature_maps as feature_maps
from nnkit.plots.explain import overlay as overlay
from nnkit.plots.features import feature_plane as feature_plane
from nnkit.plots.folds import fold_curves as fold_curves
from nnkit.plots.images import hardest_right as hardest_right
from nnkit.plots.images import misclassified as misclassified
from nnkit.plots.images import predictions as predictions
from nnkit.plots.notebook import notebook_png as notebook_png
from nnkit.plots.search import importances as importances
from nnkit.plots.search import parallel_coordinates as parallel_coordinates
from nnkit.plots.search import score_map as score_map
from nnkit.plots.search import search_history as search_history
from nnkit.plots.style import save as save
from nnkit.plots.weights import filters as filters
