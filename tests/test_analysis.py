import numpy as np
import pytest

from nnkit import analysis
from nnkit.evaluation import Evaluation
from nnkit.history import History


def history(train, val, train_loss=None, val_loss=None, lr=None):
    """A course of accuracies; losses are what is missing to 1, if not given."""
    epochs = len(train)
    table = History()
    for i in range(epochs):
        table.append(
            epoch=i + 1,
            step=10 * (i + 1),
            train_accuracy=train[i],
            val_accuracy=val[i],
            train_loss=train_loss[i] if train_loss else 1 - train[i],
            val_loss=val_loss[i] if val_loss else None if val[i] is None else 1 - val[i],
            lr=lr[i] if lr else 0.1,
            grad_norm=1.0,
            seconds=1.0,
            images_per_second=100.0,
        )
    return table


def figures(labels, probabilities, names, **others):
    return Evaluation(np.asarray(labels), np.asarray(probabilities, float), names).figures() | others


def said(found, topic):
    (one,) = [finding for finding in found if finding.topic == topic]
    return f"{one.headline}. {one.text}"


# Over- and underfitting


def test_a_growing_gap_is_overfitting_since_it_stays():
    table = history([0.5, 0.7, 0.72, 0.8, 0.9, 0.95], [0.5, 0.6, 0.7, 0.74, 0.75, 0.75])
    found = analysis.fit(table)
    assert (found["verdict"], found["since_epoch"], found["rise_since"]) == ("overfits", 4, None)  # not 2: it closed
    assert found["epoch"] == 5
    assert found["gap"] == pytest.approx(0.15)


def test_few_validation_images_prove_little():
    table = history([0.5, 0.7, 0.8], [0.5, 0.68, 0.7])
    assert analysis.fit(table, val_images=10_000)["verdict"] == "overfits"
    assert analysis.fit(table, val_images=50)["verdict"] != "overfits"  # 10 points are 1.5 standard errors


def test_a_rising_loss_is_overfitting_though_the_accuracies_agree():
    same = [0.9, 0.92, 0.93, 0.94, 0.94]
    table = history(same, same, train_loss=[1, 0.8, 0.6, 0.5, 0.4], val_loss=[1, 0.8, 0.9, 1.0, 1.1])
    found = analysis.fit(table)
    assert (found["verdict"], found["since_epoch"], found["gap_since"]) == ("overfits", 3, None)
    text = said(analysis.findings({"test_accuracy": 0.9}, table), "Over- or underfitting")
    assert "since epoch 3" in text
    assert "rises, from 0.8 to 1.1, while the training loss goes on falling" in text


@pytest.mark.parametrize(
    ("train_loss", "val_loss"),
    [
        ([1, 0.8, 0.6, 0.5, 0.4], [1, 0.8, 0.9, 1.0, 0.8]),  # a detour
        ([1, 0.8, 0.6, 0.5, 0.4], [1, 0.8, 0.805, 0.804, 0.806]),  # noise
        ([1, 0.8, 0.9, 1.0, 1.1], [1, 0.8, 0.9, 1.0, 1.1]),  # both rise: it unlearns
        ([1, 0.8, 0.7, 0.6, 0.5], [1, 0.9, 0.8, 0.7, 0.9]),  # one epoch is no course
        ([1, 0.8, 0.7, 0.6, 0.0005], [1, 0.002, 0.003, 0.003, 0.004]),  # next to nothing
    ],
)
def test_what_is_no_rise(train_loss, val_loss):
    same = [0.9, 0.92, 0.93, 0.94, 0.95]
    assert analysis.fit(history(same, same, train_loss, val_loss))["verdict"] == "fits"


def test_a_net_that_does_not_learn_its_own_images_underfits():
    table = history([0.3, 0.35, 0.38, 0.4], [0.31, 0.36, 0.39, 0.41])
    found = analysis.fit(table)
    assert (found["verdict"], found["since_epoch"], found["still_improving"]) == ("underfits", None, True)
    text = said(analysis.findings({"test_accuracy": 0.4}, table), "Over- or underfitting")
    assert text.startswith("It underfits. Even of the training images it recognises only 40.0%; of the validation")
    assert "still rising" in text


def test_a_rate_that_has_run_out_promises_nothing():
    table = history([0.3, 0.35, 0.38, 0.4], [0.31, 0.36, 0.39, 0.41], lr=[0.1, 0.07, 0.03, 0.0001])
    assert not analysis.fit(table)["still_improving"]


def test_strong_regularisation_in_training_is_no_underfitting():
    table = history([0.6, 0.7, 0.8], [0.8, 0.9, 0.95])  # dropout and augmentation keep the former low
    assert analysis.fit(table)["verdict"] == "fits"


@pytest.mark.parametrize(
    ("train", "val", "headline"),
    [
        ([0.5, 0.6, 0.7], [None] * 3, "It cannot be told"),
        ([0.5], [0.5], "It cannot be told yet"),
        ([0.5, 0.9], [0.5, 0.6], "It cannot be told yet"),
        ([], [], "It cannot be told"),
    ],
)
def test_what_cannot_be_told(train, val, headline):
    (found,) = analysis.findings({"test_accuracy": 0.5}, history(train, val))
    assert found.headline == headline


def test_the_epoch_that_was_kept_is_the_one_compared():
    table = history([0.5, 0.7, 0.9], [0.5, 0.7, 0.72])
    assert analysis.fit(table, kept=2)["gap"] == pytest.approx(0)
    assert analysis.fit(table)["gap"] == pytest.approx(0.18)
    assert analysis.fit(table, kept=99)["epoch"] == 3  # a best_epoch of another run


# Confusions


def test_confusions_count_both_directions():
    pairs = analysis.confusions([[5, 3, 2], [4, 6, 0], [0, 9, 1]], ["a", "b", "c"])
    assert pairs == [
        {"classes": ["c", "b"], "mistakes": [9, 0], "images": [10, 10]},
        {"classes": ["b", "a"], "mistakes": [4, 3], "images": [10, 10]},
        {"classes": ["a", "c"], "mistakes": [2, 0], "images": [10, 10]},
    ]


def test_confusions_in_words():
    table = history([0.9] * 3, [0.9] * 3)
    labels = [0] * 10 + [1] * 10 + [2] * 10
    answers = np.eye(3)[[0] * 7 + [1] * 3 + [1] * 9 + [0] + [2] * 9 + [1]]
    text = said(analysis.findings(figures(labels, answers, ["cat", "dog", "ship"]), table), "Confusions")
    assert text == (
        "It most often confuses cat and dog. Of 10 images of cat, 3 are taken for dog (30.0%), and of 10 of dog, 1 for "
        "cat (10.0%): 80.0% of all 5 mistakes. Then come ship and dog (1)."
    )


@pytest.mark.parametrize(
    ("said_of", "expected"),
    [
        ([0, 0, 1, 1], "It confuses nothing. There is no mistake among the test images."),
        ([0, 1, 1, 1], "No two classes are confused more than once. 1 mistake in all"),
        ([1, 1, 1, 1], "Of 2 images of cat, 2 are taken for dog (100.0%): there is no other mistake."),
    ],
)
def test_few_confusions(said_of, expected):
    table = history([0.9] * 3, [0.9] * 3)
    found = analysis.findings(figures([0, 0, 1, 1], np.eye(2)[said_of], ["cat", "dog"]), table)
    assert expected in said(found, "Confusions")


# Classes


def test_best_and_worst_class_leave_out_those_without_images():
    table = history([0.9] * 3, [0.9] * 3)
    labels = [0] * 10 + [1] * 10 + [3] * 10
    answers = np.eye(4)[[0] * 10 + [1] * 6 + [0] * 4 + [3] * 10]
    text = said(
        analysis.findings(figures(labels, answers, ["cat", "dog", "yak", "ship"]), table), "Best and worst class"
    )
    assert text == (
        "Best is cat, worst is dog. Of 10 images of cat, 10 (100.0%) are recognised, as in 1 more class; of 10 images "
        "of dog, 6 (60.0%). When the net says dog, it is right in 100.0%. No test image is of yak."
    )


def test_classes_that_fare_the_same_and_one_alone():
    table = history([0.9] * 3, [0.9] * 3)
    found = analysis.findings(figures([0, 1], np.eye(2), ["cat", "dog"]), table)
    assert said(found, "Best and worst class").startswith("All classes fare the same. 100.0%")
    found = analysis.findings(figures([0, 0], np.eye(2), ["cat", "dog"]), table)
    assert "Only cat was tested. 50.0% of the images are recognised. No test image is of dog." in said(
        found, "Best and worst class"
    )


# Calibration and certainty


@pytest.mark.parametrize(
    ("sure", "right", "headline"),
    [
        (0.95, 0.7, "It is overconfident"),
        (0.7, 0.95, "It is underconfident"),
        (0.8, 0.8, "It is as sure as it is right"),
        (0.8, 0.75, "It is overconfident"),
    ],
)
def test_confidence_is_compared_with_accuracy(sure, right, headline):
    labels = (np.arange(2000) >= 2000 * right).astype(int)
    found = analysis.findings(figures(labels, [[sure, 1 - sure]] * 2000, ["cat", "dog"]), history([0.9] * 3, [0.9] * 3))
    text = said(found, "Calibration")
    assert text.startswith(headline)
    assert f"On average it is {sure:.1%} sure and right in {right:.1%}." in text


def test_right_on_average_is_not_calibrated():
    labels = [0] * 500 + [1] * 500
    shares = [[0.6, 0.4]] * 500 + [[0.6, 0.4]] * 0 + [[0.1, 0.9]] * 250 + [[0.9, 0.1]] * 250
    found = figures(labels, shares, ["cat", "dog"])
    assert found["mean_confidence"] == pytest.approx(found["test_accuracy"])
    assert analysis.analyse(found, History())["calibration"] == "uneven"


def test_five_points_on_few_images_are_no_overconfidence():
    labels = (np.arange(40) >= 30).astype(int)
    found = figures(labels, [[0.8, 0.2]] * 40, ["cat", "dog"])
    assert analysis.analyse(found, History())["calibration"] == "calibrated"


def test_a_net_that_guesses_is_told_so():
    rng = np.random.default_rng(0)
    found = figures([0] * 60 + [1] * 40, rng.dirichlet([1, 1], 100), ["cat", "dog"])
    text = said(analysis.findings(found, History()), "Certainty")
    assert text.startswith("It may be no better than a guess.")
    assert "Always answering cat, the most frequent class, would be right in 60.0%." in text


def test_findings_of_a_few_figures_are_few():
    assert len(analysis.findings({"test_accuracy": 0.5}, History())) == 1
    found = analysis.analyse({"test_accuracy": 0.5, "test_images": 100}, History())
    assert set(found) == {"fit", "accuracy_interval"}


def test_answers_that_are_no_numbers_are_not_calibrated_at_all():
    found = figures([0, 1], [[np.nan, np.nan], [0.2, 0.8]], ["cat", "dog"])
    assert "reliability" not in found
    assert "calibration" not in analysis.analyse(found, History())
