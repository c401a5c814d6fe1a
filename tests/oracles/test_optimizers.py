"""Every public optimizer and schedule against PyTorch, and clipping; each option of each.

A new class gets a row in `OPTIMIZERS` or `SCHEDULES`, a new option a place in its row.
"""

import inspect

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnkit import optim

STEPS = 20
rates = st.sampled_from([1e-3, 0.01, 0.1])
decays = st.sampled_from([0.0, 1e-4, 0.3])
fractions = st.sampled_from([0.0, 0.5, 0.9])
tiny = st.sampled_from([1e-8, 1e-3])
betas = st.tuples(st.sampled_from([0.8, 0.9]), st.sampled_from([0.95, 0.999]))
# PyTorch's class, and for each option what it may be; where PyTorch calls it something else, its name.
OPTIMIZERS = {
    "SGD": ("SGD", {"lr": rates, "momentum": fractions, "nesterov": st.booleans(), "weight_decay": decays}),
    "RMSProp": (
        "RMSprop",
        {
            "lr": rates,
            "alpha": st.sampled_from([0.9, 0.99]),
            "eps": tiny,
            "momentum": fractions,
            "weight_decay": decays,
        },
    ),
    "AdaGrad": (
        "Adagrad",
        {"lr": rates, "lr_decay": decays, "eps": tiny, "initial_accumulator": fractions, "weight_decay": decays},
    ),
    "Adam": ("Adam", {"lr": rates, "betas": betas, "eps": tiny, "weight_decay": decays}),
    "AdamW": ("AdamW", {"lr": rates, "betas": betas, "eps": tiny, "weight_decay": decays}),
}
TRANSLATED = {"initial_accumulator": "initial_accumulator_value"}


def public(base):
    kinds = (getattr(optim, name) for name in optim.__all__)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, base) and kind is not base]


def options_of(kind):
    return set(inspect.signature(kind).parameters)


def test_every_optimizer_and_every_option_has_a_row():
    assert {kind.__name__ for kind in public(optim.Optimizer)} == set(OPTIMIZERS)
    for kind in public(optim.Optimizer):
        assert options_of(kind) == {*OPTIMIZERS[kind.__name__][1], "groups"}


def torch_optimizer(torch, name, params, options):
    translated = {TRANSLATED.get(key, key): value for key, value in options.items()}
    return getattr(torch.optim, OPTIMIZERS[name][0])(params, **translated)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=30, derandomize=True, deadline=None)
@given(data=st.data())
def test_takes_the_steps_that_torch_takes(torch, agree, name, dtype, data):
    """Twenty steps, of which some come with another rate, as from a schedule."""
    options = data.draw(st.fixed_dictionaries({}, optional=OPTIMIZERS[name][1]))
    options = {key: value for key, value in options.items() if key != "nesterov" or options.get("momentum")}
    if name == "SGD":
        options.setdefault("lr", 0.01)  # ours by default; PyTorch's is 0.001
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    size = data.draw(st.sampled_from([1, 17, 300]))
    optimizer, params = getattr(optim, name)(**options), rng.normal(size=size).astype(dtype)
    theirs, size_at_start = torch.nn.Parameter(torch.tensor(params.astype(np.float64))), np.abs(params).max()
    torch_rule = torch_optimizer(torch, name, [theirs], options)
    for step in range(STEPS):
        grads = rng.normal(size=size).astype(dtype)
        if step == 10:
            optimizer.lr = torch_rule.param_groups[0]["lr"] = optimizer.lr / 3
        optimizer.step(params, grads)
        theirs.grad = torch.tensor(grads.astype(np.float64))
        torch_rule.step()
        agree(name, params, theirs, floor=size_at_start)
    assert params.dtype == dtype


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_are_those_of_torch(torch, agree, rng, name):
    slices = {"0.weight": slice(0, 4), "0.bias": slice(4, 6), "1.weight": slice(6, 8), "1.bias": slice(8, 9)}
    params, options = rng.normal(size=9), {"lr": 0.01, "weight_decay": 0.3}
    groups = [{"names": ["*bias"], "weight_decay": 0.0, "lr_scale": 2}, {"names": ["1.*"], "lr_scale": 0.5}]
    optimizer = getattr(optim, name)(**options, groups=groups)
    optimizer.bind(slices)
    theirs = {key: torch.nn.Parameter(torch.tensor(params[place])) for key, place in slices.items()}
    settings_of = {"0.weight": {}, "1.weight": {"lr": 0.005}}
    bias = {"lr": 0.02, "weight_decay": 0.0}
    torch_groups = [{"params": [tensor], **settings_of.get(key, bias)} for key, tensor in theirs.items()]
    torch_rule = torch_optimizer(torch, name, torch_groups, options)
    for _ in range(STEPS):
        grads = rng.normal(size=9)
        optimizer.step(params, grads)
        for key, place in slices.items():
            theirs[key].grad = torch.tensor(grads[place])
        torch_rule.step()
    for key, place in slices.items():
        agree(f"{name} groups", params[place], theirs[key])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=30, derandomize=True, deadline=None)
@given(size=st.sampled_from([1, 100, 8192, 20_000]), limit=st.sampled_from([1e-3, 0.5, 1e6]), seed=st.integers(0, 99))
def test_clipping_is_that_of_torch(torch, agree, dtype, size, limit, seed):
    grads = np.random.default_rng(seed).normal(size=size).astype(dtype)
    theirs = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))
    theirs.grad = torch.tensor(grads.astype(np.float64))
    by_norm, by_value = grads.copy(), grads.copy()
    norm = torch.nn.utils.clip_grad_norm_([theirs], limit)
    agree("clip_grad_norm", np.asarray(optim.clip_grad_norm(by_norm, limit), dtype), norm)
    agree("clip_grad_norm", by_norm, theirs.grad)
    theirs.grad = torch.tensor(grads.astype(np.float64))
    torch.nn.utils.clip_grad_value_([theirs], limit)
    optim.clip_grad_value(by_value, limit)
    agree("clip_grad_value", by_value, theirs.grad)


gammas = st.sampled_from([0.1, 0.5, 0.97])
divisors = st.sampled_from([1.0, 4.0, 25.0, 1e4])
# For each option what it may be, PyTorch's schedule (of the module, an optimizer at rate 1, ours, steps an epoch, steps
# in all), and whether it counts epochs instead of steps.
SCHEDULES = {
    "ConstantLR": ({}, lambda lr, o, s, each, steps: lr.LambdaLR(o, lambda step: 1.0), False),
    "StepLR": (
        {"step_size": st.integers(1, 5), "gamma": gammas},
        lambda lr, o, s, each, steps: lr.StepLR(o, s.step_size, s.gamma),
        True,
    ),
    "ExponentialLR": ({"gamma": gammas}, lambda lr, o, s, each, steps: lr.ExponentialLR(o, s.gamma), True),
    "CosineAnnealingLR": (
        {"end_factor": st.sampled_from([0.0, 0.1, 1.0])},
        lambda lr, o, s, each, steps: lr.CosineAnnealingLR(o, steps, eta_min=s.end_factor),
        False,
    ),
    "LinearWarmup": (
        {
            "warmup_epochs": st.sampled_from([0.4, 1.0, 1.5]),
            "after": st.sampled_from([optim.ConstantLR(), optim.CosineAnnealingLR()]),
            "start_factor": st.sampled_from([0.1, 1 / 3, 1.0]),
        },
        lambda lr, o, s, each, steps: torch_warmup(lr, o, s, max(round(s.warmup_epochs * each), 1), steps),
        False,
    ),
    "OneCycleLR": (
        {
            "pct_start": st.sampled_from([0.1, 0.3, 0.9]),
            "anneal": st.sampled_from(["cos", "linear"]),
            "div_factor": divisors,
            "final_div_factor": divisors,
        },
        lambda lr, o, s, each, steps: lr.OneCycleLR(
            o,
            1.0,
            steps,
            pct_start=s.pct_start,
            anneal_strategy=s.anneal,
            div_factor=s.div_factor,
            final_div_factor=s.final_div_factor,
            cycle_momentum=False,
        ),
        False,
    ),
    "ReduceLROnPlateau": (
        {
            "gamma": gammas,
            "patience": st.integers(0, 3),
            "threshold": st.sampled_from([0.0, 1e-4, 0.2]),
            "cooldown": st.integers(0, 3),
            "min_factor": st.sampled_from([0.0, 0.02]),
        },
        lambda lr, o, s, each, steps: lr.ReduceLROnPlateau(
            o,
            factor=s.gamma,
            patience=s.patience,
            threshold=s.threshold,
            cooldown=s.cooldown,
            min_lr=s.min_factor,
            eps=0,
        ),
        True,
    ),
}


def torch_warmup(lr, optimizer, schedule, rise, steps):
    first = lr.LinearLR(optimizer, schedule.start_factor, total_iters=rise)
    if isinstance(schedule.after, optim.ConstantLR):
        return first
    return lr.SequentialLR(optimizer, [first, lr.CosineAnnealingLR(optimizer, steps - rise)], milestones=[rise])


def test_every_schedule_and_every_option_has_a_row():
    assert {kind.__name__ for kind in public(optim.Schedule)} == set(SCHEDULES)
    for kind in public(optim.Schedule):
        assert options_of(kind) == set(SCHEDULES[kind.__name__][0])


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=30, derandomize=True, deadline=None)
@given(data=st.data())
def test_gives_the_rates_that_torch_gives(torch, agree, name, data):
    options, theirs, counts_epochs = SCHEDULES[name]
    schedule = getattr(optim, name)(**data.draw(st.fixed_dictionaries({}, optional=options)))
    each, epochs = data.draw(st.tuples(st.integers(1, 7), st.integers(4, 12)))
    if name == "OneCycleLR":
        assume(schedule.pct_start * each * epochs > 1)  # PyTorch's rise is shorter than a step, or divides by 0
    losses = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(0.5, 1, epochs) * 0.97 ** np.arange(epochs)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torch_schedule = theirs(torch.optim.lr_scheduler, optimizer, schedule, each, each * epochs)
    for step in range(each * epochs):
        agree(name, np.asarray(schedule.factor(step, each, epochs)), np.asarray(optimizer.param_groups[0]["lr"]), 1e-6)
        optimizer.step()
        ends_epoch = step % each == each - 1
        if ends_epoch:
            schedule.update(losses[step // each])
        if step + 1 < each * epochs and (ends_epoch or not counts_epochs):
            torch_schedule.step(*([losses[step // each]] if name == "ReduceLROnPlateau" else []))
