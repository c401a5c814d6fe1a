"""The training loop: read `Solver.train` first, then `Solver._step`; all else prepares or looks after these two."""

import contextlib
import copy
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nnkit.callbacks import StopTraining
from nnkit.data import Augment, Dataset, batch_slice, batches, count_batches, epoch_order
from nnkit.data.batching import checked_normalization
from nnkit.distributed import Communicator, average, synced
from nnkit.errors import DivergenceError, UsageError, positive_number, whole_number
from nnkit.history import EpochSums, History
from nnkit.layers import BatchNorm, CrossEntropyLoss, Flatten, Loss
from nnkit.models import Model
from nnkit.optim import (
    Adam,
    ConstantLR,
    ExponentialMovingAverage,
    Optimizer,
    Schedule,
    clip_grad_norm,
    clip_grad_value,
    gradient_norm,
)
from nnkit.progress import progress_bar, show
from nnkit.resume import open_folder, require_same_on_all, save_best, save_epoch, save_state, state_path
from nnkit.signals import Interruption, TrainingInterrupted

__all__ = ["Solver", "TrainingInterrupted"]

Kind = TypeVar("Kind")
_DROPOUT = 2  # purpose of random numbers; 0 is the order of the images, 1 augmentation, 3 the validation split


class Solver:
    """Trains a model: epoch by epoch, each image once an epoch, keeping the best weights.

    Everything random is drawn from (seed, purpose, epoch or step), so that a run that was killed and resumed
    ends with the very same weights, bit for bit, as one that was not.

    Parameters
    ----------
    model : Model
        Built or not; if not, it is built for the data's image shape with `seed`.
    data : Dataset
        What to train on. With `sample_weight`, images count in the loss by their weight.
    optimizer : Optimizer, default Adam()
        Begins anew, whatever it was used for before.
    epochs : int, default 10
    batch_size : int, default 64
        Where a last batch of a single image would be left over, that image is left out of the epoch: batch
        normalisation cannot learn from one.
    shuffle : bool, default True
        Take the images in another order each epoch; if not, always in that of `data`.
    schedule : Schedule, default ConstantLR()
        Multiplies the optimizer's rate.
    loss : nnkit.layers.Loss, default CrossEntropyLoss()
        For numbers to predict, a `TargetDataset`, one that compares numbers, such as MSELoss().
    augment : Augment, optional
        Random changes to the training images; validation images stay as they are.
    normalize : {"standard", "unit"} or pair of (mean, std), default "standard"
        By the channels' mean and standard deviation in the training part; pixels / 255 only; by numbers of your own.
    validation : float, int, Dataset or None, default 0.1
        A fraction of `data` or a number of its images to validate on, split off with `seed`; or a set of its own;
        or nothing, in which case the last epoch counts as the best.
    patience : int, optional
        Stop after so many epochs without a better validation accuracy (or an equal one with a lower loss).
    restore_best : bool, default True
        Give the model its best weights back in the end; if not, it keeps its last ones.
    clip_norm, clip_value : float, optional
        Limit the gradient's length, or its elements.
    ema : float, optional
        Decay of an exponential moving average of the weights; if given, the averaged weights are what is validated
        and kept.
    callbacks : iterable of callables
        Each is called with the Solver at the end of each epoch; `StopTraining` ends the training.
    out : path-like, optional
        Folder for `model.safetensors` (the best weights), `history.csv` and `last.ckpt` (to resume from).
    seed : int, default 0
    resume : bool, default False
        Go on from `last.ckpt` in `out`. All settings must be as they were; only `epochs` and `patience` may differ.
    checkpoint_every : int, default 1
        Write `last.ckpt` after so many epochs each, at the end, and when interrupted.
    progress : bool, optional
        Show a progress bar; by default only if stderr is a terminal.
    communicator : Communicator, optional
        What `nnkit.distributed.connect` returns: the processes among which each batch is divided. Rank 0 alone writes
        files, shows progress and calls the callbacks; all have the same weights and history.
    sync_bn : bool, default False
        Whether batch norm takes its statistics from the whole batch, rather than from each process's part of it.

    Attributes
    ----------
    history : History
    epoch, step : int
        Epochs and steps done so far.
    sums : EpochSums
        Running figures of the epoch at hand.
    normalize : (mean, std)
        One number for each channel.
    best_weights : dict of str to ndarray
        The model's state at the end of the best epoch so far; a better epoch writes into the same arrays.
    saved_epoch : int or None
        The epoch whose weights are in `model.safetensors`.

    Raises
    ------
    TypeError
        An argument is not of the class that it should be.
    UsageError
        A setting is out of range, or does not fit the data.
    DataError
        An image holds NaN or infinity, or a label fits no output of the model.
    CheckpointError
        `resume` is asked for, but there is no checkpoint, or one of another training.

    Examples
    --------
    >>> from nnkit import data, models
    >>> from nnkit.optim import SGD
    >>> solver = Solver(models.create("mlp", num_classes=10), data.make_shapes(500), SGD(lr=0.01), epochs=2)
    >>> history = solver.train()
    >>> history.epoch, history.step
    ([1, 2], [8, 16])
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        optimizer: Optimizer | None = None,
        *,
        epochs: int = 10,
        batch_size: int = 64,
        shuffle: bool = True,
        schedule: Schedule | None = None,
        loss: Loss | None = None,
        augment: Augment | None = None,
        normalize: str | tuple[ArrayLike, ArrayLike] = "standard",
        validation: float | int | Dataset | None = 0.1,
        patience: int | None = None,
        restore_best: bool = True,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema: float | None = None,
        callbacks: Iterable[Callable[["Solver"], object]] = (),
        out: str | os.PathLike[str] | None = None,
        seed: int = 0,
        resume: bool = False,
        checkpoint_every: int = 1,
        progress: bool | None = None,
        communicator: Communicator | None = None,
        sync_bn: bool = False,
    ) -> None:
        self.epochs, self.batch_size = whole_number("epochs", epochs, 1), whole_number("batch_size", batch_size, 1)
        self.seed = whole_number("seed", seed, 0)
        self.checkpoint_every = whole_number("checkpoint_every", checkpoint_every, 1)
        self.patience = None if patience is None else whole_number("patience", patience, 1)
        self.clip_norm = None if clip_norm is None else positive_number("clip_norm", clip_norm)
        self.clip_value = None if clip_value is None else positive_number("clip_value", clip_value)
        self.model = _instance("model", model, Model)
        self.optimizer = _instance("optimizer", Adam() if optimizer is None else optimizer, Optimizer)
        # One that is used again shall not begin with what it remembers of this training.
        self.schedule = copy.deepcopy(_instance("schedule", ConstantLR() if schedule is None else schedule, Schedule))
        self.augment = None if augment is None else _instance("augment", augment, Augment)
        self.loss = _instance("loss", CrossEntropyLoss() if loss is None else loss, Loss)
        self.callbacks, self.progress = list(callbacks), progress
        self.communicator = _instance("communicator", communicator or Communicator(), Communicator)
        self.sync_bn = bool(sync_bn)
        self.shuffle, self.restore_best = bool(shuffle), bool(restore_best)
        self.ema = None if ema is None else ExponentialMovingAverage(ema)
        self._split_data(_instance("data", data, Dataset), validation)
        self._fit_model_to_data()
        self.normalize = self._normalization(normalize)

        self.epoch = self.step = 0
        self.history, self.sums, self._interruption = History(), EpochSums(), Interruption()
        self._signals = 0.0  # that came to any rank by the last step
        if self.communicator.size > 1:
            self._join_ranks()
        self.best_weights = model.state_dict()
        self.saved_epoch: int | None = None
        self.out = None if out is None else Path(out)
        open_folder(self, resume)

    def train(self) -> History:
        """Train until all epochs are done, patience is at its end, or a callback raises `StopTraining`.

        Whatever ended it, the model has its best weights afterwards, unless it is to keep the last ones. After an
        interruption it has the current ones, and another call goes on where the training was.

        Returns
        -------
        History

        Raises
        ------
        DivergenceError
            The loss became NaN or infinite. The model has its best weights so far again.
        TrainingInterrupted
            Ctrl-C or SIGTERM came; the step was finished and everything saved. A second one aborts at once.
        OSError
            A file cannot be written, because the disk is full, say. The files before are unharmed.
        """
        norms = [leaf for leaf in self.model.leaves() if self.sync_bn and isinstance(leaf, BatchNorm)]
        with self._interruption.listening(), synced(norms, self.communicator), progress_bar(self) as bar:
            try:
                if self.step == 0:
                    save_state(self)
                while not self.is_finished:
                    self._require_same_frozen()
                    with self._timing(), np.errstate(over="ignore", invalid="ignore"):
                        for batch in self._remaining_batches():
                            self._step(*batch)
                            show(bar, self)
                            self._raise_if_signalled()
                    self._end_epoch()
                    wants_to_stop = self.communicator.from_first(self._call_callbacks)
                    save_epoch(self, wants_to_stop)
                    self._raise_if_signalled()
                    if wants_to_stop:
                        break
            except TrainingInterrupted:
                self._average_statistics()
                save_best(self)
                save_state(self)
                raise
            except DivergenceError:
                self.model.load_state_dict(self.best_weights)
                raise
        if self.restore_best:
            self.model.load_state_dict(self.best_weights)
        return self.history

    def _step(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, share: float = 1.0) -> None:
        """Learn from one batch: scores, loss, gradients, a step of the optimizer.

        With several ranks, this one has a part of the batch, which counts `share` in the mean over all.
        """
        model, optimizer, sums, ranks = self.model, self.optimizer, self.sums, self.communicator
        # Each rank drops out for itself: a slice of what one process would draw costs as much to draw as the whole.
        model.reseed((self.seed, _DROPOUT, self.step, *([ranks.rank] if ranks.rank else [])))
        optimizer.lr = optimizer.initial_lr * self.schedule.factor(self.step, self.steps_per_epoch, self.epochs)

        figures = self._differentiate(x, y, weight, share)
        signum = self._interruption.signum or 0
        loss, *counts, self._signals = ranks.sum_numbers((*figures, signum))
        if not math.isfinite(loss):
            raise self._divergence(f"the loss became {loss}", self.step + 1)
        params, grads = model.flat_params, model.flat_grads
        ranks.sum_array(grads)

        is_last = sums.batches == self.steps_per_epoch - 1
        if self.clip_norm is not None:
            sums.grad_norm = clip_grad_norm(grads, self.clip_norm)
        elif is_last:
            sums.grad_norm = gradient_norm(grads)
        if self.clip_value is not None:
            clip_grad_value(grads, self.clip_value)
        optimizer.step(params, grads)
        if self.ema is not None:
            self.ema.update(params)

        sums.add(loss, *counts)
        sums.lr = optimizer.lr
        self.step += 1

    def _differentiate(
        self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, share: float
    ) -> tuple[float, float, float, float]:
        """Write the gradients of this rank's share of the loss; return that share, and the part's figures."""
        model = self.model
        if len(x) == 0:  # the batch has fewer images than there are ranks: help with batch norm's sums, if need be
            model.flat_grads[...] = 0
            if self.sync_bn:
                model.backward(np.zeros_like(model.forward(x, training=True)), input_gradient=False)
            return 0.0, 0.0, 0.0, 0.0
        scores = model.forward(x, training=True)
        loss = self.loss.forward(scores, y, weight)
        dscores = self.loss.backward()
        model.backward(dscores if share == 1 else dscores * share, input_gradient=False)
        return loss * share, *self._figures(scores, y, weight)

    def _figures(self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> tuple[float, float, float]:
        """Return how many images there are, how many were recognised, if that is a question, and their weight."""
        correct = self.loss.count_correct(scores, y)
        return len(y), math.nan if correct is None else correct, len(y) if weight is None else float(weight.sum())

    @np.errstate(over="ignore", invalid="ignore")
    def evaluate(self, dataset: Dataset) -> tuple[float, float | None]:
        """Measure the model as it is, on images as they are: no augmentation, no dropout, batch norm's running figures.

        Parameters
        ----------
        dataset : Dataset

        Returns
        -------
        loss, accuracy : float
            The accuracy is None where the targets are no labels.

        Raises
        ------
        ValueError
            There are no images.
        """
        if len(dataset) == 0:
            raise ValueError("evaluate: the data set has no images")
        return self._measure(dataset, Communicator())

    def _measure(self, dataset: Dataset, ranks: Communicator) -> tuple[float, float | None]:
        """Do what `evaluate` does; several ranks take turns with the batches."""
        sums, size, weight = EpochSums(), self.batch_size, None
        stream = self._batches(dataset, start=ranks.rank, stride=ranks.size)
        for index, (x, y) in zip(itertools.count(ranks.rank, ranks.size), stream, strict=False):
            if dataset.sample_weight is not None:
                weight = dataset.sample_weight[index * size : index * size + len(y)]
            scores = self.model.forward(x)
            loss = self.loss.forward(scores, y, weight)
            sums.add(loss, *self._figures(scores, y, weight))
            self._raise_if_signalled()
        figures = sums.loss, sums.weight, sums.correct, sums.images
        sums.loss, sums.weight, sums.correct, sums.images = ranks.sum_numbers(figures)  # type: ignore[assignment]
        return sums.mean_loss, sums.accuracy

    def _remaining_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None, float]]:
        """Yield this rank's part of the epoch's batches, with sample weights and its share in the batch.

        Those that were done before an interruption are left out.
        """
        data, size, weights, ranks = self.data, self.batch_size, self.data.sample_weight, self.communicator
        shard, first, share = (ranks.rank, ranks.size), self.sums.batches, 1.0
        order = None if weights is None and ranks.size == 1 else self._order()
        options = {"shuffle": self.shuffle, "augment": self.augment, "seed": self.seed, "shard": shard}
        stream = self._batches(data, epoch=self.epoch, start=first, drop_single=True, **options)
        for index, (x, y) in enumerate(stream, first):
            weight = None
            if order is not None:
                own = order[batch_slice(index, size, len(data), shard)]
                weight = None if weights is None else weights[own]
                if ranks.size > 1:
                    share = self._share(own, order[batch_slice(index, size, len(data))])
            yield x, y, weight, share

    def _order(self) -> np.ndarray:
        """Return the order in which this epoch takes the images."""
        count = len(self.data)
        return epoch_order(count, self.seed, self.epoch) if self.shuffle else np.arange(count)

    def _share(self, own: np.ndarray, whole: np.ndarray) -> float:
        """Return how much this rank's images count in the mean over a batch."""
        mine, all_in_all = (
            self.loss.total_weight(
                self.data.labels[rows], None if self.data.sample_weight is None else self.data.sample_weight[rows]
            )
            for rows in (own, whole)
        )
        return mine / (all_in_all or 1.0)

    def _batches(self, dataset: Dataset, **options: Any) -> Any:
        options |= {"dtype": self.model.flat_params.dtype, "normalize": self.normalize}
        # Flatten has nothing to do where a batch lies in memory as it would leave it.
        flattened = isinstance(self.model.leaves()[0], Flatten)
        return batches(dataset, self.batch_size, channels_last=not flattened, **options)

    def _end_epoch(self) -> None:
        """Validate, write the epoch into the history, and remember the weights if they are the best so far."""
        started = time.perf_counter()
        sums, val_loss, val_accuracy = self.sums, None, None
        self._require_finite_weights()
        self.communicator.require_same(self.model.flat_params, "weights")
        self._average_statistics()
        with self._averaged_weights():
            if self.validation is not None:
                val_loss, val_accuracy = self._measure(self.validation, self.communicator)
                if not math.isfinite(val_loss):
                    raise self._divergence(f"the validation loss became {val_loss}", self.step)
            self.epoch += 1
            self.history.append(
                epoch=self.epoch,
                step=self.step,
                train_loss=sums.mean_loss,
                train_accuracy=sums.accuracy,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                lr=sums.lr,
                grad_norm=sums.grad_norm,
                seconds=sums.seconds + time.perf_counter() - started,
                images_per_second=sums.images / sums.seconds,
            )
            if self.history.best_epoch == self.epoch:
                for name, array in (self.model.named_parameters() | self.model.named_buffers()).items():
                    self.best_weights[name][...] = array
        self.schedule.update(self.history.train_loss[-1] if val_loss is None else val_loss)
        self.sums = EpochSums()

    def _call_callbacks(self) -> bool:
        """Call all callbacks; return whether one of them wants to stop."""
        wants_to_stop = False
        for callback in self.callbacks:
            try:
                callback(self)
            except StopTraining:
                wants_to_stop = True
            except Exception:  # a callback's mistake shall not cost the epoch
                save_epoch(self, is_last=True)
                raise
        return wants_to_stop

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or patience is at its end."""
        best = self.history.best_epoch
        out_of_patience = self.patience is not None and best is not None and self.epoch - best >= self.patience
        return out_of_patience or self.epoch >= self.epochs

    @contextlib.contextmanager
    def _timing(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.sums.seconds += time.perf_counter() - started

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights, if there are any, into the model for a while."""
        if self.ema is None or self.ema.average is None:
            yield
            return
        params = self.model.flat_params
        current = params.copy()
        params[:] = self.ema.average
        try:
            yield
        finally:
            params[:] = current

    def _average_statistics(self) -> None:
        # They are linear in what each rank saw, so that it does not matter how often this is done.
        average(self.model.named_buffers().values(), self.communicator)

    def _join_ranks(self) -> None:
        """Make sure that all ranks do the same, and give them rank 0's weights."""
        ranks = self.communicator
        if self.batch_size < 2 * ranks.size:
            wanted = f"at least 2 images for each of {ranks.size} ranks"
            raise UsageError(f"batch_size: expected {wanted}, got {self.batch_size}")
        require_same_on_all(self)
        for array in (self.model.flat_params, *self.model.named_buffers().values()):
            ranks.broadcast_array(array)

    def _raise_if_signalled(self) -> None:
        signum = self._interruption.signum
        if self.communicator.size > 1:  # all ranks stop after the same step, or none
            signum = (signum or int(signal.SIGTERM)) if self._signals else None
        if signum is None:
            return
        self._require_finite_weights()  # what is saved shall be worth going on from
        kept = "nothing is saved, as there is no `out` folder; train() goes on from here"
        if self.out is not None:
            kept = f"all is saved in {self.out}; resume to go on from here"
        where = f"after step {self.step} (epoch {min(self.epoch + 1, self.epochs)} of {self.epochs})"
        raise TrainingInterrupted(f"training interrupted by {signal.Signals(signum).name} {where}; {kept}", signum)

    def _require_same_frozen(self) -> None:
        """Make sure that the optimizer, bound when the Solver was made, leaves the right parameters alone."""
        if self.model.frozen_parameters() != self._frozen:
            raise UsageError("model: layers were frozen or unfrozen after the Solver was made; make another one")

    def _require_finite_weights(self) -> None:
        if not np.isfinite(self.model.flat_params).all():
            raise self._divergence("weights became NaN or infinite", self.step)

    def _divergence(self, what: str, step: int) -> DivergenceError:
        kept = "in the model" if self.out is None else f"in {state_path(self.out)}"
        rate, initial = self.optimizer.lr, self.optimizer.initial_lr
        origin = "" if rate == initial else f", by the schedule from optimizer.lr = {initial:g}"
        where = f"at step {step} (epoch {self.epoch + 1}) with lr {rate:g}{origin}"
        hint = f"try a lower rate (optimizer.lr = {initial / 10:g}) or gradient clipping (clip_norm=1.0)"
        return DivergenceError(f"{what} {where}; {hint}; the last finite weights are {kept}")

    def _split_data(self, data: Dataset, validation: Any) -> None:
        self.data, self.validation = data, validation
        if validation is not None and not isinstance(validation, Dataset):
            self.data, self.validation = data.split(validation, self.seed)
        if self.patience is not None and self.validation is None:
            raise UsageError("patience: stopping early needs a validation set, got validation=None")
        if self.batch_size > len(self.data):
            raise UsageError(f"batch_size: {self.batch_size} is more than the {len(self.data)} images to train on")
        self.steps_per_epoch = count_batches(len(self.data), self.batch_size, drop_single=True)

    def _normalization(self, normalize: Any) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(normalize, str):
            if normalize not in ("standard", "unit"):
                raise UsageError(f"normalize: expected 'standard', 'unit' or (mean, std), got {normalize!r}")
            normalize = self.data.statistics() if normalize == "standard" else (0.0, 1.0)
        return checked_normalization(normalize, self.data.image_shape[0])

    def _fit_model_to_data(self) -> None:
        """Build the model if need be, and find data that would spoil the training before it starts."""
        if not self.model.built:
            self.model.build(self.data.image_shape, seed=self.seed)
        inputs, outputs = self.model.input_shape, self.model.output_shape
        sets = {"training": self.data} | ({} if self.validation is None else {"validation": self.validation})
        for name, dataset in sets.items():
            dataset.require_fit(name, inputs, outputs)
            for own, others in zip(self.data.class_names, dataset.class_names, strict=False):
                if own != others:
                    raise UsageError(f"{name} set: it has class {others!r} where the training set has {own!r}")
        self._frozen = self.model.frozen_parameters()
        self.optimizer.bind(self.model.parameter_slices(), self._frozen)


def _instance(name: str, value: Kind, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected an nnkit {kind.__name__}, got a {type(value).__name__}")
    return value
