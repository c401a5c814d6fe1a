"""The pictures of a run folder."""

from pathlib import Path

from nnkit import plots
from nnkit.data import Dataset
from nnkit.evaluation import Evaluation
from nnkit.files import atomic_path
from nnkit.history import History
from nnkit.models import Model

EXAMPLE = "example.png"


def draw(folder: Path, model: Model, history: History, test: Dataset, evaluation: Evaluation) -> None:
    """Write the pictures, and the first test image as a file to try `nnkit predict` with.

    Parameters
    ----------
    folder : path
        The run's.
    model : Model
        With the weights that were kept.
    history : History
    test : Dataset
    evaluation : Evaluation
        Of that model on that data.
    """
    from PIL import Image

    answers = test.images, test.labels, evaluation.probabilities, test.class_names
    plots.save(plots.training_curves(history), folder / "training_curves.png")
    plots.save(plots.confusion_matrix(evaluation.matrix, test.class_names), folder / "confusion_matrix.png")
    plots.save(plots.predictions(*answers), folder / "predictions.png")
    plots.save(plots.misclassified(*answers), folder / "misclassified.png")
    first = next(iter(model.named_parameters().values()))
    figure = plots.filters(first, input_shape=test.image_shape, class_names=test.class_names)
    plots.save(figure, folder / "filters.png")
    with atomic_path(folder / EXAMPLE) as path:
        image = test.images[0]
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(path)
