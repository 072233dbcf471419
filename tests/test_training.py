"""Training: schedules, optimisers and losses beside PyTorch's, and what ``fit`` promises."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from conftest import need
from sympy import Eq

import lstmgen
from lstmgen import (
    SGD,
    Adam,
    AdamW,
    Cell,
    Dropout,
    Embedding,
    Layer,
    Loss,
    LstmgenError,
    Network,
    Readout,
    RMSprop,
    constants,
    inputs,
    masks,
    matrix,
    schedules,
    states,
    sum_,
    tanh,
    vectors,
)
from lstmgen.network.optimizers import UPDATE
from lstmgen.training.fitting import Fit

LINEAR = [Readout(3)]  # y = W x + b: nothing but a loss and an optimiser is in the way


def module(**options: Any) -> Any:
    return Network(LINEAR, inputs=2, **options).compile("numpy")


def network(*layers: Any, loss: str = "mean_squared", **options: Any) -> Network:
    """One that runs in NumPy, so that nothing is compiled."""
    made = Network([*(layers or (Layer("rnn", 3), Readout(1))), *()], loss=loss, **options)
    made.target = "numpy"
    return made


def data(T: int = 12, N: int = 6, D: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """What has to be remembered for a step, and noise."""
    x = np.random.default_rng(seed).normal(size=(T, N, D)).astype(np.float32)
    return x, np.concatenate([np.zeros_like(x[:1]), x[:-1]])[..., :1]


def equal(a: Any, b: Any) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# ---------------------------------------------------------------------- schedules


def in_torch(make: Any, updates: int, rate: float = 0.1) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def warmed(lr: Any, o: Any, rest: Any) -> Any:
    rising = lr.LinearLR(o, start_factor=1 / 5, end_factor=1, total_iters=4)
    return lr.SequentialLR(o, [rising, rest], milestones=[5])


SCHEDULES = {
    "constant": (schedules.constant(0.1), lambda lr, o: lr.ConstantLR(o, factor=1)),
    "cosine": (
        schedules.cosine(0.1, 30, end=0.02),
        lambda lr, o: lr.CosineAnnealingLR(o, T_max=29, eta_min=0.02),
    ),
    "linear": (
        schedules.linear(0.1, 30, end=0.01),
        lambda lr, o: lr.LinearLR(o, start_factor=1, end_factor=0.1, total_iters=29),
    ),
    "exponential": (
        schedules.exponential(0.1, 0.5, every=7),
        lambda lr, o: lr.ExponentialLR(o, gamma=0.5 ** (1 / 7)),
    ),
    "steps": (
        schedules.steps(0.1, 0.5, every=7),
        lambda lr, o: lr.StepLR(o, step_size=7, gamma=0.5),
    ),
    "cosine, warmed": (
        schedules.cosine(0.1, 30, warmup=5),
        lambda lr, o: warmed(lr, o, lr.CosineAnnealingLR(o, T_max=24)),
    ),
    "linear, warmed": (
        schedules.linear(0.1, 30, warmup=5),
        lambda lr, o: warmed(lr, o, lr.LinearLR(o, start_factor=1, end_factor=0, total_iters=24)),
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of its own chained schedules
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_pytorch(name):
    need("torch")
    schedule, make = SCHEDULES[name]
    ours = [schedule.at(k) for k in range(1, 31)]
    # 30 updates of PyTorch's are products of 30 rounded factors
    assert ours == pytest.approx(in_torch(make, 30), rel=1e-13, abs=1e-15)
    made = module(loss="mean_squared", rate=schedule)
    # the sums in the code are rounded in another order, also where the last of them is 0
    assert [made.rate(k - 1) for k in range(1, 31)] == pytest.approx(ours, rel=1e-13, abs=1e-15)


def test_schedules_end_and_say_what_they_are():
    assert schedules.cosine(0.1, 30, end=0.02).at(99) == 0.02
    assert schedules.linear(0.1, 30).at(99) == 0.0
    assert str(schedules.cosine(0.1, 30, warmup=5)) == (
        "0.1 to 0 along a cosine in 30 updates, of which it rises over the first 5"
    )
    mine = lstmgen.Schedule(1 / (10 + UPDATE))
    assert mine.at(10) == 0.05 and str(mine) == "1/(k + 10)"
    assert module(loss="mean_squared", rate=mine).rate(9) == 0.05


# ---------------------------------------------------------------------- optimisers


OPTIMIZERS = {
    "sgd": (SGD(), "SGD", {}),
    "sgd, decay": (SGD(weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "momentum": (SGD(momentum=0.9), "SGD", {"momentum": 0.9}),
    "nesterov": (
        SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
        "SGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "rmsprop": (RMSprop(), "RMSprop", {}),
    "rmsprop, decay": (
        RMSprop(decay=0.9, eps=1e-6, weight_decay=0.1),
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1},
    ),
    "adam": (Adam(), "Adam", {}),
    "adam, decay": (
        Adam(0.8, 0.99, 1e-6, weight_decay=0.1),
        "Adam",
        {"betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1},
    ),
    "adamw": (AdamW(), "AdamW", {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_are_those_of_pytorch(name):
    need("torch")
    import torch

    optimizer, theirs, options = OPTIMIZERS[name]
    made = module(loss="mean_squared", optimizer=optimizer, rate=0.01)
    params = made.init(seed=0, dtype=np.float64)
    moments = made.start(params)
    tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    stepper = getattr(torch.optim, theirs)(tensors.values(), lr=0.01, **options)
    rng = np.random.default_rng(1)
    for _ in range(8):
        grads = {k: rng.normal(size=v.shape) for k, v in params.items()}
        made.update(params, moments, grads)
        for k, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[k])
        stepper.step()
        for k, tensor in tensors.items():
            # eight updates, each a dozen roundings of numbers of about 1
            np.testing.assert_allclose(params[k], tensor.detach().numpy(), rtol=1e-12, atol=1e-14)
    assert moments["updates"] == 8


def test_clipping_is_that_of_pytorch():
    need("torch")
    import torch

    made = module(loss="mean_squared", optimizer="sgd", rate=1.0, clip_norm=0.5, clip_value=0.2)
    params = made.init(seed=0, dtype=np.float64)
    before = {k: v.copy() for k, v in params.items()}
    grads = {k: np.random.default_rng(2).normal(size=v.shape) for k, v in params.items()}
    kept = {k: v.copy() for k, v in grads.items()}
    norm = made.update(params, made.start(params), grads)
    tensors = [torch.nn.Parameter(torch.zeros(v.shape, dtype=torch.float64)) for v in kept.values()]
    for tensor, g in zip(tensors, kept.values(), strict=True):
        tensor.grad = torch.tensor(g)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(tensors, 0.5)), rel=1e-14)
    torch.nn.utils.clip_grad_value_(tensors, 0.2)
    for k, tensor in zip(params, tensors, strict=True):
        # PyTorch divides by the norm + 1e-6
        np.testing.assert_allclose(before[k] - params[k], tensor.grad.numpy(), rtol=2e-6)
    assert equal(grads, kept), "gradients are the caller's"


def test_gradients_that_are_not_finite_change_nothing():
    made = module(loss="mean_squared")
    params = made.init(seed=0)
    moments = made.start(params)
    grads = {k: np.full_like(v, np.nan) for k, v in params.items()}
    before = {k: v.copy() for k, v in params.items()}
    with pytest.raises(FloatingPointError, match="nothing was changed"):
        made.update(params, moments, grads)
    assert equal(params, before) and moments["updates"] == 0


# ---------------------------------------------------------------------- losses


def theirs(name: str, y: Any, target: Any, weights: Any) -> tuple[float, Any]:
    """The same loss of PyTorch's, by rows, and its gradient."""
    import torch
    import torch.nn.functional as F

    y = torch.tensor(y, requires_grad=True)
    wanted, weights = torch.tensor(target), torch.tensor(weights)
    if name == "cross_entropy":
        rows = F.cross_entropy(y.reshape(-1, y.shape[-1]), wanted.reshape(-1), reduction="none",
                               ignore_index=-1).reshape(wanted.shape)  # fmt: skip
        weights = weights * (wanted >= 0)
    else:
        call = {
            "mean_squared": F.mse_loss,
            "huber": F.huber_loss,
            "binary_cross_entropy": F.binary_cross_entropy_with_logits,
        }[name]
        rows = call(y, wanted, reduction="none").mean(-1)
    loss = (rows * weights).sum() / weights.sum()
    loss.backward()
    return float(loss.detach()), y.grad.numpy()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "mean_squared", "huber", "binary_cross_entropy"])
def test_losses_are_those_of_pytorch(name, weighted):
    need("torch")
    rng = np.random.default_rng(3)
    T, B, D = 5, 4, 3
    y = 3 * rng.normal(size=(T, B, D))
    target = {
        "cross_entropy": rng.integers(-1, D, (T, B)),  # -1 does not count
        "binary_cross_entropy": rng.integers(0, 2, (T, B, D)).astype(float),
    }.get(name, rng.normal(size=(T, B, D)))
    lengths = np.array([5, 0, 3, 4]) if weighted else None
    weights = rng.uniform(0, 2, (T, B)) * (rng.uniform(size=(T, B)) > 0.2) if weighted else None
    value, dy = module(loss=name).loss(y, target, lengths=lengths, weights=weights)
    counts = np.ones((T, B)) if weights is None else weights
    if lengths is not None:
        counts = counts * (np.arange(T)[:, np.newaxis] < lengths)
    expected, gradient = theirs(name, y, target, counts)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(dy, gradient, rtol=1e-12, atol=1e-15)


def test_a_loss_of_ones_own():
    y, t = inputs("y"), masks("t", size="D")
    loss = vectors("loss", size=1)
    mine = Loss(Cell("fourth_powers", [Eq(loss, sum_((y - t) ** 4))], loss))
    rows, wanted = np.full((2, 1, 3), 2.0), np.zeros((2, 1, 3))
    value, dy = module(loss=mine).loss(rows, wanted)
    assert value == 48 and np.all(dy == 16)


def test_large_logits_do_not_overflow():
    value, dy = module(loss="cross_entropy").loss(np.array([[[1e4, 0.0, -1e4]]]), np.array([[1]]))
    assert value == 1e4 and np.isfinite(dy).all()


# ---------------------------------------------------------------------- windows


@pytest.mark.parametrize("window", [(2, 2), (2, 6), (5, 5), (3, 6), (12, 12)])
def test_windows_are_those_of_a_loop(window):
    """k1 steps forward, back through the last k2, whose states were left by the updates before."""
    short, long = window
    net = network(Layer("rnn", 3), Readout(1), rate=0.05, clip_norm=0.1)
    x, target = data()
    params = net.init(2, seed=1)
    run = net.fit(
        x, target, epochs=2, window=short if short == long else window, params=params,
        shuffle=False,
    )  # fmt: skip

    m = net.module()
    mine = {k: v.copy() for k, v in params.items()}
    moments, losses = m.start(mine), []
    for _ in range(2):
        states: list[Any] = [None]  # before each window
        total = 0.0
        for start in range(0, len(x), short):
            back = max(0, start + short - long) // short
            piece = slice(back * short, start + short)
            y, state, tape = m.forward(mine, x[piece], states[back])
            value, dy = m.loss(y[start - back * short :], target[start : start + short])
            whole = np.zeros_like(y)
            whole[start - back * short :] = dy
            grads, _, _ = m.backward(mine, tape, whole)
            m.update(mine, moments, grads)
            states.append(state)
            total += value * len(dy)
        losses.append(total / len(x))
    assert run.history.loss == pytest.approx(losses, rel=1e-6)
    for k, value in mine.items():
        # the means of the loss are sums in another order, in single precision
        np.testing.assert_allclose(run.params[k], value, rtol=1e-4, atol=1e-6)


def test_a_window_that_does_not_count_is_read():
    """Weights of zero: nothing is learned, but the state goes on."""
    net = network(Layer("rnn", 3), Readout(1))
    x, target = data()
    weights = np.ones(x.shape[:2])
    weights[:4] = 0
    params = net.init(2, seed=1)
    run = net.fit(x, target, epochs=1, window=4, weights=weights, params=params)
    m = net.module()
    _, state, _ = m.forward(params, x[:4], tape=False)
    mine = {k: v.copy() for k, v in params.items()}
    moments = m.start(mine)
    order = np.random.default_rng((0, 0)).permutation(6)
    state = {k: v[order] for k, v in state.items()}
    losses = []
    for at in (slice(4, 8), slice(8, 12)):
        value, state = m.train(mine, moments, x[at][:, order], target[at][:, order], state)
        losses.append(value)
    assert run.moments["updates"] == 2
    for k, value in mine.items():
        # the order in which the two sums are made differs, in single precision
        np.testing.assert_allclose(run.params[k], value, rtol=1e-4, atol=1e-6)
    assert run.history.loss == pytest.approx([np.mean(losses)], rel=1e-6)


def test_the_mean_is_of_what_counts():
    """The loss of an epoch is that of all rows at once, whatever the batches and windows are."""
    rng = np.random.default_rng(4)
    net = network(Layer("rnn", 3), Readout(3), loss="cross_entropy", rate=1e-9)
    x, lengths = rng.normal(size=(9, 5, 2)), np.array([9, 1, 4, 0, 7])
    target, weights = rng.integers(-1, 3, (9, 5)), rng.uniform(size=(9, 5))
    params = net.init(2)
    whole = net.evaluate(params, x, target, lengths=lengths, weights=weights)
    for options in ({}, {"batch": 2}, {"window": 2}, {"batch": 1, "window": 4}):
        run = net.fit(x, target, lengths=lengths, weights=weights, epochs=1, params=params,
                      **options)  # fmt: skip
        assert run.history.loss[0] == pytest.approx(whole, rel=1e-5)  # in single precision


# ---------------------------------------------------------------------- going on


def all_of_it() -> tuple[Network, dict[str, Any]]:
    """A run with all that is random, and all that is kept."""
    net = network(
        Layer("rnn", 3, zoneout=0.1), Dropout(0.2), Readout(1), rate=schedules.cosine(0.05, 60)
    )
    x, target = data(N=10)

    def augment(rng: Any, x: Any, target: Any) -> tuple[Any, Any]:
        return x + rng.normal(0, 0.1, x.shape).astype(x.dtype), target

    options = {
        "x": x, "target": target, "epochs": 5, "batch": 4, "window": 5, "validation": 0.3,
        "augment": augment, "seed": 3, "patience": 4,
    }  # fmt: skip
    return net, options


class Killed(BaseException):
    pass


@pytest.mark.parametrize("update", [0, 1, 7, 16, 29])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, update):
    """Whenever that was: after an epoch, or in the middle of one."""
    net, options = all_of_it()
    whole = net.fit(**options)
    path, done, real = tmp_path / "run.npz", [0], Fit._update

    def killed(self: Fit, *arguments: Any) -> Any:
        done[0] += 1
        if done[0] > update:
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_update", killed)
        with pytest.raises(Killed):
            net.fit(**options, save=path)
    assert path.exists() == (update >= 6), "six updates an epoch"
    again = net.fit(**options, save=path)
    for part in ("params", "latest", "moments"):
        assert equal(getattr(whole, part), getattr(again, part)), part
    assert vars(whole.history) == vars(again.history)
    assert whole.best_epoch == again.best_epoch
    loaded = net.load(path)
    assert equal(loaded.params, whole.params) and str(loaded) == str(whole)
    with pytest.raises(LstmgenError, match="it was trained in float32, and not in float64"):
        net.fit(**options, save=path, dtype=np.float64)
    # more epochs go on from there
    longer = net.fit(**{**options, "epochs": 7}, save=path)
    assert len(longer.history) == 7 and longer.history.loss[:5] == whole.history.loss


def test_a_seed_is_a_run(tmp_path):
    net, options = all_of_it()
    one, two = net.fit(**options), net.fit(**options)
    assert equal(one.params, two.params)
    assert not equal(one.params, net.fit(**{**options, "seed": 4}).params)


def test_what_is_given_stays_as_it_is():
    net, options = all_of_it()
    params = net.init(2)
    kept = {k: np.array(v) for k, v in params.items()}
    x, target = options["x"].copy(), options["target"].copy()
    net.fit(**options, params=params)
    assert equal(params, kept)
    assert np.array_equal(x, options["x"]) and np.array_equal(target, options["target"])


def test_files_that_are_not_whole_or_of_others_are_refused(tmp_path):
    net, options = all_of_it()
    path = tmp_path / "run.npz"
    net.fit(**options).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"], "no temporary file is left"
    whole = path.read_bytes()
    with pytest.raises(LstmgenError, match="no such file"):
        net.load(tmp_path / "nowhere.npz")
    for part in (whole[: len(whole) // 2], b"", b"text", whole[:-30]):
        path.write_bytes(part)
        with pytest.raises(LstmgenError, match="no training run that lstmgen has saved"):
            net.load(path)
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array({"a": 1}, dtype=object))  # a pickle, which is not read
    path.write_bytes(buffer.getvalue())
    with pytest.raises(LstmgenError, match="no training run that lstmgen has saved"):
        net.load(path)
    path.write_bytes(whole)
    for other in (
        network(Layer("rnn", 4), Readout(1)),
        network(Layer("rnn", 3, zoneout=0.1), Dropout(0.2), Readout(1), optimizer="sgd"),
    ):
        with pytest.raises(LstmgenError, match="of another network") as caught:
            other.load(path)
        assert "hint" in str(caught.value)
    with pytest.raises(LstmgenError, match="nowhere"):
        net.load(path).save(tmp_path / "nowhere" / "run.npz")


# ---------------------------------------------------------------------- when to stop


def test_training_stops_early_and_gives_back_the_best(tmp_path):
    """Noise alone: what is learned of it does not hold for other noise."""
    rng = np.random.default_rng(5)
    x, target = rng.normal(size=(2, 6, 8, 2))
    other = rng.normal(size=(2, 6, 8, 2))
    net = network(Layer("rnn", 8), Readout(2), rate=0.05)
    path = tmp_path / "run.npz"
    run = net.fit(x, target, epochs=100, validation=tuple(other), patience=3, save=path)
    history = run.history
    assert len(history) < 100
    assert run.best_epoch == 1 + int(np.argmin(history.validation)) == len(history) - 3
    assert f"lowest after epoch {run.best_epoch}" in run.stopped and run.stopped in str(run)
    reached = net.evaluate(run.params, *other)
    assert reached == pytest.approx(min(history.validation), rel=1e-6)
    assert net.evaluate(run.latest, *other) == pytest.approx(history.validation[-1], rel=1e-6)
    # it has stopped, and says so when it is asked to go on
    again = net.fit(x, target, epochs=100, validation=tuple(other), patience=3, save=path)
    assert again.stopped == run.stopped and len(again.history) == len(history)


def test_without_validation_the_last_parameters_are_those_to_use():
    net, options = all_of_it()
    options |= {"validation": None, "patience": None}
    run = net.fit(**options)
    assert equal(run.params, run.latest) and run.best_epoch == 5
    assert run.history.validation == []


def test_a_part_that_is_kept_back_is_not_learned_from():
    net = network()
    x, target = data(N=10)
    seen = []

    def augment(rng: Any, x: Any, target: Any) -> tuple[Any, Any]:
        seen.append(x[0, :, 0])
        return x, target

    net.fit(x, target, epochs=3, batch=4, validation=0.3, augment=augment)
    learned = set(np.concatenate(seen).tolist())
    assert len(learned) == 7 and learned < set(x[0, :, 0].tolist())


# ---------------------------------------------------------------------- how it is told


def test_progress_without_a_terminal(capsys):
    net = network()
    net.fit(*data(), epochs=20)
    assert capsys.readouterr() == ("", "")
    run = net.fit(*data(), epochs=20, validation=0.5, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 11
    first, *_, last = err.splitlines()
    assert first.startswith("epoch  1 of 20  loss ") and "validation" in first
    assert last == (
        f"epoch 20 of 20  loss {run.history.loss[-1]:.4g}  "
        f"validation {run.history.validation[-1]:.4g}"
    )


def test_history_is_told_and_drawn():
    need("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    net, options = all_of_it()
    history = net.fit(**options).history
    lines = str(history).splitlines()
    assert len(lines) == 5 and re.fullmatch(r"epoch 1  loss [\d.]+  validation [\d.]+", lines[0])
    axes = history.plot()
    assert [len(line.get_xdata()) for line in axes.lines] == [5, 5]
    matplotlib.pyplot.close(axes.figure)
    assert len(str(network().fit(*data(), epochs=40).history).splitlines()) == 10


# ---------------------------------------------------------------------- targets


def test_both_targets_train_alike(tmp_path):
    """By its default name, too: a network's files are its own."""
    need("cffi")
    need("cc")
    net = Network(
        [Embedding(5, 3), Layer("rnn", 4), Dropout(0.2), Readout(5)], loss="cross_entropy",
        rate=schedules.cosine(0.02, 20), clip_norm=0.5,
    )  # fmt: skip
    x = np.random.default_rng(6).integers(0, 5, (12, 8))
    runs, texts = [], []
    for target in ("c", "numpy"):
        net.target = target
        net.__dict__.pop("_modules", None)
        options = {"epochs": 4, "window": 4, "batch": 4, "seed": 1}
        run = net.fit(x[:-1], x[1:], **options, params=net.init(seed=2))
        runs.append(run)
        packed, state, written = net.pack(run.params), None, [1]
        for _ in range(5):
            state = net.step(packed, np.array(written[-1:]), state)
            written.append(int(state[net.output].argmax()))
        texts.append(written)
        at_once = net.predict(run.params, np.array(written[:-1])[:, np.newaxis])
        assert at_once[-1].argmax() == written[-1]
        path = tmp_path / target
        net.fit(x[:-1], x[1:], **options | {"epochs": 2}, params=net.init(seed=2), save=path)
        again = net.fit(x[:-1], x[1:], **options, save=path)
        assert equal(again.params, run.params) and equal(again.moments, run.moments)
    assert runs[0].history.loss == pytest.approx(runs[1].history.loss, rel=1e-4)
    assert texts[0] == texts[1]


def test_without_a_compiler_it_runs_in_numpy_and_says_so(monkeypatch):
    need("cffi")
    monkeypatch.setenv("CC", "no-such-compiler")
    net = Network([Readout(1)], inputs=2)
    with pytest.warns(UserWarning, match="runs in NumPy, not in C: .*no such program"):
        params = net.init()
    assert net.predict(params, np.zeros((3, 2, 2))).shape == (3, 2, 1)
    net = Network([Readout(1)], inputs=2)
    net.target = "c"
    with pytest.raises(lstmgen.ToolchainError):
        net.init()


# ---------------------------------------------------------------------- misuse

X, TARGET = data()
MISUSE = [
    ({"x": X[0, 0]}, r"x is \(T, N, …\), time first"),
    ({"target": TARGET[:5]}, "x has 12 steps of 6 sequences"),
    ({"target": TARGET.swapaxes(0, 1)}, "one for each step and sequence"),
    ({"x": X[:0], "target": TARGET[:0]}, "nothing to learn from"),
    ({"weights": np.ones(6)}, "weights have shape"),
    ({"weights": np.zeros((12, 6))}, "no row counts"),
    ({"lengths": np.ones(5, int)}, "there are 6 sequences"),
    ({"epochs": 0}, "epochs is a positive whole number"),
    ({"batch": 2.5}, "batch is a positive whole number"),
    ({"patience": True}, "patience is a positive whole number"),
    ({"window": 0}, "window is a positive whole number"),
    ({"window": (4, 6)}, "k₂ is a multiple of k₁, not 6 of 4"),
    ({"validation": 2}, "a part of the sequences such as 0.2"),
    ({"validation": 0.01}, "0.01 of 6 sequences is 0 of them"),
    ({"validation": (X,)}, r"\(x, target\) or \(x, target, lengths\)"),
    ({"validation": (X, TARGET[:3])}, "x has 12 steps"),
    ({"augment": lambda rng, x, target: x}, "returns x and target"),
]


@pytest.mark.parametrize(("options", "said"), MISUSE)
def test_misuse_is_explained(options, said):
    with pytest.raises(LstmgenError, match=said):
        network().fit(**{"x": X, "target": TARGET, **options})


def test_misuse_of_networks_is_explained():
    with pytest.raises(LstmgenError, match="the network has no loss"):
        network(loss=None).fit(X, TARGET)
    with pytest.raises(LstmgenError, match="learns from whole sequences"):
        network(Layer("rnn", 3, last=True), Readout(1)).fit(X, TARGET[0], window=4)
    for options, said in (
        ({"loss": "mse"}, "the losses are cross_entropy, mean_squared"),
        ({"optimizer": "adamm"}, 'did you mean "adam"'),
        ({"rate": 0}, "rate is a positive number"),
        ({"clip_norm": -1}, "clip_norm is a positive number"),
        ({"loss": lstmgen.cells.get("lstm")}, "lstm is not a loss"),
        ({"loss": 3}, "the loss is 3"),
    ):
        with pytest.raises(LstmgenError, match=said):
            network(**options)
    for make, said in (
        (lambda: schedules.cosine(0.1, 10, warmup=10), "warmup is a part of the 10 updates"),
        (lambda: schedules.steps(0.1, 0.5, 0), "every is a positive whole number"),
        (lambda: Adam(beta1=1.0), "beta1 is below 1"),
        (lambda: SGD(nesterov=True), "give momentum=0.9"),
    ):
        with pytest.raises(LstmgenError, match=said):
            make()


def test_c_refuses_to_train_with_other_constants() -> None:
    """They are part of the code of train: others would be left out in silence."""
    need("cffi")
    need("cc")
    x, h, dt, W = inputs("x"), states("h"), constants("dt", value=0.5), matrix("W")
    leaky = Cell("leaky", [Eq(h.next, h + dt * (tanh(W @ x) - h))], h)
    network = Network([Layer(leaky, 3)], loss="mean_squared", name="leaking")
    module = network.compile("c")
    params = module.init(2)
    moments = module.start(params)
    ones = np.ones((4, 2, 3))
    module.train(params, moments, ones[..., :2], ones)
    with pytest.raises(ValueError, match=r"leaky1\.dt is 0\.1, but the C code trains with 0\.5"):
        module.train({**params, "leaky1.dt": 0.1}, moments, ones[..., :2], ones)
