"""Networks with scikit-learn's conventions: for pipelines, searches and cross-validation. Needs the extra "sklearn"."""

try:
    from nnkit.estimator.classifier import NNClassifier
    from nnkit.estimator.regressor import NNRegressor
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise ImportError('scikit-learn is not installed; get it with: pip install "nnkit[sklearn]"') from error

__all__ = ["NNClassifier", "NNRegressor"]
