"""The pictures of a run folder: which there are, and what each is drawn from."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nnkit import plots
from nnkit.data import Dataset
from nnkit.evaluation import Evaluation
from nnkit.files import atomic_path
from nnkit.history import History
from nnkit.models import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLE = "example.png"


def draw(folder: Path, model: Model, history: History, test: Dataset, evaluation: Evaluation) -> None:
    """Write the pictures, and the first test image as a file to try `nnkit predict` with.

    A picture that is not drawn this time, such as one of convolutions where there are none, is removed if it is there.

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

    names, answers = test.class_names, (test.images, test.labels, evaluation.probabilities, test.class_names)
    first = next(iter(model.named_parameters().values()))
    drawings: dict[str, Callable[[], Figure | None]] = {
        "training_curves": lambda: plots.training_curves(history),
        "learning_rate": lambda: plots.learning_rate(history),
        "gradient_norms": lambda: plots.gradient_norms(history),
        "confusion_matrix": lambda: plots.confusion_matrix(evaluation.matrix, names),
        "class_scores": lambda: plots.class_scores(evaluation.matrix, names),
        "reliability": lambda: plots.reliability(test.labels, evaluation.probabilities),
        "predictions": lambda: plots.predictions(*answers),
        "misclassified": lambda: plots.misclassified(*answers),
        "hardest_right": lambda: plots.hardest_right(*answers),
        "filters": lambda: plots.filters(first, input_shape=test.image_shape, class_names=names),
    }
    for name, drawing in drawings.items():
        figure = drawing()
        if figure is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            plots.save(figure, folder / f"{name}.png")
    with atomic_path(folder / EXAMPLE) as path:
        image = test.images[0]
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(path)
