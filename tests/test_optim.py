import numpy as np
import pytest

from nnkit import optim
from nnkit.errors import CheckpointError, UsageError

STEPS = 20
SETTINGS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("RMSProp", {"lr": 0.01}),
    ("RMSProp", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "weight_decay": 0.05}),
    ("AdaGrad", {"lr": 0.1}),
    ("AdaGrad", {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3, "initial_accumulator": 0.5, "weight_decay": 0.05}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.05}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.5}),
]
SLICES = {"0.weight": slice(0, 4), "0.bias": slice(4, 6), "1.weight": slice(6, 8), "1.bias": slice(8, 9)}


def gradients(rng, size):
    return rng.standard_normal((STEPS, size))


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_gradients_are_left_alone(rng, name, options):
    optimizer, params = getattr(optim, name)(**options), rng.standard_normal(100)
    for grad in gradients(rng, 100):
        before = grad.copy()
        optimizer.step(params, grad)
        np.testing.assert_array_equal(grad, before)


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_saved_state_continues_bit_for_bit(rng, name, options):
    params, grads = rng.standard_normal(50), gradients(rng, 50)
    optimizer = getattr(optim, name)(**options)
    for grad in grads[:10]:
        optimizer.step(params, grad)
    other, copied = getattr(optim, name)(**options), params.copy()
    other.load_state_dict(optimizer.state_dict())
    for grad in grads[10:]:
        optimizer.step(params, grad)
        other.step(copied, grad)
    np.testing.assert_array_equal(params, copied)
    assert other.steps == STEPS


def test_state_of_another_rule_is_refused(rng):
    optimizer = optim.Adam()
    optimizer.step(rng.standard_normal(3), rng.standard_normal(3))
    with pytest.raises(CheckpointError, match="SGD state: expected steps, velocity, got m, steps, v"):
        optim.SGD(momentum=0.9).load_state_dict(optimizer.state_dict())
    with pytest.raises(CheckpointError, match="Adam"):
        optimizer.load_state_dict({"steps": np.array(3)})


def test_the_rate_can_be_changed_between_steps():
    params, optimizer = np.zeros(1), optim.SGD(lr=1.0)
    optimizer.step(params, np.ones(1))
    optimizer.lr = 0.25
    optimizer.step(params, np.ones(1))
    assert params[0] == -1.25
    assert optimizer.initial_lr == 1.0


def test_another_model_is_noticed_and_bind_begins_anew():
    for optimizer in (optim.Adam(), optim.RMSProp()):
        optimizer.bind(SLICES)
        optimizer.step(np.ones(9), np.ones(9))
        for size in (8, 10):
            with pytest.raises(ValueError, match=rf"another model, not on one of {size} parameters"):
                optimizer.step(np.ones(size), np.ones(size))
        optimizer.bind({"weight": slice(0, 4)})
        assert (optimizer.state, optimizer.steps) == ({}, 0)
        optimizer.step(np.ones(4), np.ones(4))
    loose = optim.Adam()
    loose.step(np.ones(9), np.ones(9))
    with pytest.raises(ValueError, match="another model"):
        loose.step(np.ones(4), np.ones(4))


def test_a_rate_may_be_a_number_of_numpys():
    assert optim.SGD(np.float32(0.5)).lr == optim.SGD(np.int64(1), momentum=np.float32(0.5)).momentum == 0.5


def test_groups_by_name_have_their_own_decay_and_rate():
    groups = [{"names": ["*.bias"], "weight_decay": 0.0}, {"names": ["1.*"], "lr_scale": 0.5}]
    optimizer, params = optim.SGD(lr=0.1, weight_decay=1.0, groups=groups), np.ones(9)
    optimizer.bind(SLICES)
    optimizer.step(params, np.ones(9))
    # 0.weight: 1 - 0.1 * (1 + 1); 1.weight: half of it; biases: 1 - 0.1, even "1.bias": the first group counts.
    np.testing.assert_allclose(params, [0.8] * 4 + [0.9] * 2 + [0.9] * 2 + [0.9], rtol=1e-12)
    optimizer.step(params, np.zeros(9))
    np.testing.assert_allclose(params, [0.72] * 4 + [0.9] * 2 + [0.855] * 2 + [0.9], rtol=1e-12)


def test_groups_that_cannot_be():
    optimizer = optim.SGD(groups=[{"names": ["*.bias"]}])
    with pytest.raises(UsageError, match="bind"):
        optimizer.step(np.ones(9), np.ones(9))
    with pytest.raises(UsageError, match=r"'conv\*'.*0\.weight"):
        optim.SGD(groups=[{"names": ["conv*"]}]).bind(SLICES)
    with pytest.raises(UsageError, match="'momentum'"):
        optim.SGD(groups=[{"names": ["*"], "momentum": 0.5}])
    with pytest.raises(UsageError, match="names"):
        optim.SGD(groups=[{"weight_decay": 0.5}])
    with pytest.raises(UsageError, match="weight_decay"):
        optim.SGD(groups=[{"names": ["*"], "weight_decay": -1}])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": -0.1}, "lr"),
        ("SGD", {"lr": float("nan")}, "lr"),
        ("SGD", {"lr": "fast"}, "lr"),
        ("SGD", {"momentum": 1.0}, "momentum"),
        ("SGD", {"nesterov": True}, "Nesterov"),
        ("SGD", {"weight_decay": -1}, "weight_decay"),
        ("Adam", {"betas": (0.9, 1.0)}, "beta2"),
        ("Adam", {"betas": 0.9}, "betas"),
        ("RMSProp", {"alpha": 1.5}, "alpha"),
        ("AdaGrad", {"lr_decay": -1}, "lr_decay"),
    ],
)
def test_settings_out_of_range(name, options, message):
    with pytest.raises(UsageError, match=message):
        getattr(optim, name)(**options)


def test_arrays_that_do_not_fit():
    for params, grads in [
        (np.ones((2, 2)), np.ones((2, 2))),
        (np.ones(3), np.ones(4)),
        (np.ones(3), np.ones(3, np.float32)),
    ]:
        with pytest.raises(ValueError, match="flat and of one type"):
            optim.SGD().step(params, grads)


def test_create_by_name():
    assert optim.create("nesterov", lr=0.1).config() == optim.SGD(lr=0.1, momentum=0.9, nesterov=True).config()
    assert optim.create("momentum", momentum=0.5).config()["momentum"] == 0.5
    assert {type(optim.create(name)).__name__ for name in optim.OPTIMIZERS} == {
        "SGD", "RMSProp", "AdaGrad", "Adam", "AdamW"
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"'adamm'.*did you mean 'adam'"):
        optim.create("adamm")
    with pytest.raises(UsageError, match=r"'weight_decai'.*did you mean 'weight_decay'"):
        optim.create("sgd", weight_decai=0.1)


def test_clipping_what_has_no_length():
    grads = np.array([1.0, np.inf])
    assert optim.clip_grad_norm(grads, 1.0) == np.inf
    assert grads[0] == 1.0
    assert optim.clip_grad_norm(np.zeros(3), 1.0) == 0.0
    assert optim.clip_grad_norm(np.zeros(0), 1.0) == 0.0


def test_clip_grad_value():
    grads = np.array([-3.0, 0.5, 3.0], np.float32)
    assert optim.clip_grad_value(grads, 1.0) is None
    assert grads.tolist() == [-1.0, 0.5, 1.0]


def test_moving_average_against_its_formula(rng):
    weights = rng.standard_normal((STEPS, 70_000))
    ema, expected = optim.ExponentialMovingAverage(0.5), weights[0].copy()
    for n, params in enumerate(weights):
        ema.update(params)
        if n:
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * params
    np.testing.assert_allclose(ema.average, expected, rtol=0, atol=1e-14)
    assert ema.average is not weights[0]
    with pytest.raises(UsageError, match="decay"):
        optim.ExponentialMovingAverage(1.0)
