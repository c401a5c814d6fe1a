import json
import math

import pytest

from nnkit import optim
from nnkit.errors import UsageError

PER_EPOCH, EPOCHS = 5, 12


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


def test_a_schedule_of_ones_own_need_only_have_a_factor():
    class Halving(optim.Schedule):
        def factor(self, step, steps_per_epoch, epochs):
            return 0.5 ** (step // steps_per_epoch)

    assert optim.LinearWarmup(1, Halving()).config()["after"] == {"type": "Halving"}


def test_unknown_names_and_bad_settings():
    with pytest.raises(UsageError, match=r"'cosin'.*did you mean 'cosine'"):
        optim.create_schedule("cosin")
    with pytest.raises(UsageError, match=r"'gama'.*did you mean 'gamma'"):
        optim.create_schedule("step", gama=0.1)
    with pytest.raises(UsageError, match="warmup_epochs"):
        optim.create_schedule("cosine", start_factor=0.1)
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
