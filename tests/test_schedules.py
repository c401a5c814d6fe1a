import json
import math

import numpy as np
import pytest

from nnkit import optim
from nnkit.errors import UsageError

PER_EPOCH, EPOCHS = 5, 12
STEPS = PER_EPOCH * EPOCHS


def factors(schedule):
    return [schedule.factor(step, PER_EPOCH, EPOCHS) for step in range(STEPS)]


def torch_factors(make, every=1):
    """The rates of a PyTorch schedule, stepped after every so many steps."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = make(torch.optim.lr_scheduler, optimizer), []
    for step in range(1, STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0 and step < STEPS:
            schedule.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs", "every"),
    [
        (optim.ConstantLR(), lambda lr, o: lr.LambdaLR(o, lambda step: 1.0), 1),
        (optim.StepLR(4, gamma=0.3), lambda lr, o: lr.StepLR(o, 4, gamma=0.3), PER_EPOCH),
        (optim.ExponentialLR(0.8), lambda lr, o: lr.ExponentialLR(o, 0.8), PER_EPOCH),
        (optim.CosineAnnealingLR(), lambda lr, o: lr.CosineAnnealingLR(o, STEPS), 1),
        (optim.CosineAnnealingLR(0.1), lambda lr, o: lr.CosineAnnealingLR(o, STEPS, eta_min=0.1), 1),
        (optim.LinearWarmup(2, start_factor=0.1), lambda lr, o: lr.LinearLR(o, 0.1, total_iters=10), 1),
        (
            optim.LinearWarmup(1.4, optim.CosineAnnealingLR(), 0.2),
            lambda lr, o: lr.SequentialLR(
                o, [lr.LinearLR(o, 0.2, total_iters=7), lr.CosineAnnealingLR(o, STEPS - 7)], milestones=[7]
            ),
            1,
        ),
        (optim.OneCycleLR(), lambda lr, o: lr.OneCycleLR(o, 1.0, STEPS, cycle_momentum=False), 1),
        (
            optim.OneCycleLR(pct_start=0.25, anneal="linear", div_factor=4, final_div_factor=10),
            lambda lr, o: lr.OneCycleLR(
                o, 1.0, STEPS, pct_start=0.25, anneal_strategy="linear", div_factor=4, final_div_factor=10,
                cycle_momentum=False,
            ),
            1,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, optim.Schedule) else "",
)  # fmt: skip
def test_the_rate_of_each_step_is_pytorchs(ours, theirs, every):
    np.testing.assert_allclose(factors(ours), torch_factors(theirs, every), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 0},
        {"patience": 2},
        {"patience": 1, "cooldown": 3},
        {"patience": 1, "threshold": 0.2},
        {"patience": 0, "min_factor": 0.02},
    ],
)
def test_plateau_is_pytorchs(rng, options):
    torch = pytest.importorskip("torch")
    ours = optim.ReduceLROnPlateau(gamma=0.3, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    translated = {"min_lr" if key == "min_factor" else key: value for key, value in options.items()}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, eps=0, **translated)
    seen = set()
    for loss in np.exp(-0.05 * np.arange(40)) + 0.2 * rng.random(40):
        ours.update(loss)
        theirs.step(loss)
        seen.add(round(ours.factor(0, PER_EPOCH, EPOCHS), 9))
        assert ours.factor(0, PER_EPOCH, EPOCHS) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(seen) > 1


def test_plateau_state_survives_json():
    one, other = optim.ReduceLROnPlateau(patience=1, gamma=0.5), optim.ReduceLROnPlateau(patience=1, gamma=0.5)
    assert json.loads(json.dumps(one.state_dict()))["best"] is None
    for loss in (2.0, 3.0):
        one.update(loss)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for schedule in (one, other):
        schedule.update(3.0)
        assert schedule.factor(0, 1, 1) == 0.5


def test_plateau_behind_a_warm_up_gets_its_losses():
    schedule = optim.create_schedule("plateau", warmup_epochs=1, patience=0, gamma=0.5)
    for _ in range(2):
        schedule.update(1.0)
    assert schedule.factor(PER_EPOCH, PER_EPOCH, EPOCHS) == 0.5
    assert schedule.state_dict()["multiplier"] == 0.5


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 3, 1000])
@pytest.mark.parametrize("epochs", [1, 2, 50])
@pytest.mark.parametrize("name", list(optim.SCHEDULES))
@pytest.mark.parametrize("warmup", [0, 0.5, 3])
def test_short_trainings_have_a_rate_too(name, warmup, epochs, steps_per_epoch):
    schedule = optim.create_schedule(name, warmup_epochs=warmup)
    for step in range(0, steps_per_epoch * epochs, max(1, steps_per_epoch // 7)):
        factor = schedule.factor(step, steps_per_epoch, epochs)
        assert math.isfinite(factor)
        assert 0 <= factor <= 1


def test_config_is_plain_and_complete():
    schedule = optim.LinearWarmup(2, optim.StepLR(3))
    config = json.loads(json.dumps(schedule.config()))
    assert config["after"] == {"type": "StepLR", "step_size": 3, "gamma": 0.1}
    assert config["type"] == "LinearWarmup"
    assert config["warmup_epochs"] == 2


def test_unknown_names_and_bad_settings():
    with pytest.raises(UsageError, match=r"'cosin'.*did you mean 'cosine'"):
        optim.create_schedule("cosin")
    with pytest.raises(UsageError, match=r"'gama'.*did you mean 'gamma'"):
        optim.create_schedule("step", gama=0.1)
    for make, name in [
        (lambda: optim.StepLR(0), "step_size"),
        (lambda: optim.ExponentialLR(-1.0), "gamma"),
        (lambda: optim.CosineAnnealingLR(2.0), "end_factor"),
        (lambda: optim.LinearWarmup(-1), "warmup_epochs"),
        (lambda: optim.OneCycleLR(pct_start=1.0), "pct_start"),
        (lambda: optim.OneCycleLR(anneal="cubic"), "anneal"),
        (lambda: optim.ReduceLROnPlateau(gamma=1.0), "gamma"),
        (lambda: optim.ReduceLROnPlateau(patience=-1), "patience"),
    ]:
        with pytest.raises(UsageError, match=name):
            make()
