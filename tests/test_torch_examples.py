"""The examples with PyTorch run, learn, and let nothing that they are judged on into training."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import need
from test_examples import run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def forecast(monkeypatch):
    """The module of the example."""
    for module in ("torch", "statsmodels", "cffi", "cc"):
        need(module)
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("torch_forecast")


def test_forecast_in_quick_mode(tmp_path, forecast):
    need("matplotlib")
    output = run("torch_forecast.py", tmp_path, "--quick")
    learnt = re.findall(r"validation error ([0-9.]+); of the linear .* ([0-9.]+)$", output, re.M)
    assert len(learnt) == 2
    assert all(float(after) < float(before) for after, before in learnt)
    (less,) = re.findall(r"error is (\d+)% less than that of the best", output)
    assert int(less) >= 10
    assert re.search(r"^Better than the network, .* ahead: ", output, re.M)
    assert (tmp_path / "torch_forecast_mgu.png").read_bytes().startswith(b"\x89PNG")


def test_forecast_does_not_train_on_the_years_it_is_judged_on(forecast, monkeypatch):
    series = forecast.load()
    cell = forecast.find_cell("rnn")

    def trained(year: int) -> list[np.ndarray]:
        """What comes out if all temperatures from a year on are others."""
        degrees = series.degrees.copy()
        degrees[series.index(year) :] += 3.0
        table = np.column_stack([series.years[::12], degrees.reshape(-1, 12)])
        with monkeypatch.context() as patched:
            import pandas
            from statsmodels.datasets import elnino

            changed = type("Data", (), {"data": pandas.DataFrame(table)})
            patched.setattr(elnino, "load_pandas", lambda: changed)
            other = forecast.load()
        made = forecast.train(other, lambda: forecast.ours(other, cell, 3), 0, 2)
        params = [p.detach().numpy() for p in made.model.parameters()]
        return [other.usual, np.array(other.deviation), np.array(made.training), *params]

    asis = trained(2100)
    for a, b in zip(asis, trained(forecast.TEST), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(asis[:3], trained(forecast.VALIDATION)[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(asis[2], trained(1985)[2])


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.ModelWarning")
def test_forecast_by_the_classical_models_is_that_of_statsmodels(forecast):
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    series = forecast.load()
    values, end = series.degrees, 240
    for kind, options in (
        (ExponentialSmoothing, {"trend": True, "damped_trend": True, "seasonal": 12}),
        (SARIMAX, {"order": (2, 0, 1), "trend": "c"}),
    ):
        made = forecast.continued(kind(values[:end], **options), values)
        fitted = kind(values[:end], **options).fit(disp=False)
        for month in (end, end + 101, len(values) - 1):
            known = fitted.apply(values[: month + 1])
            np.testing.assert_allclose(made[month], known.forecast(forecast.AHEAD), rtol=1e-9)


def test_forecasts_are_compared_with_the_months_that_they_are_of(forecast):
    series = forecast.load()
    start, end = series.index(forecast.TEST), len(series.years)
    told = series.targets()[:, 0].double().numpy()
    exact = forecast.errors(series, forecast.degrees(series, told), start, end)
    assert exact.shape == (end - start, forecast.AHEAD)
    assert np.abs(exact).max() < 1e-5
    naive = forecast.untrained(series)
    last = forecast.errors(series, naive["last month's temperature"], start, end)
    before = forecast.errors(series, naive["the same month a year before"], start, end)
    np.testing.assert_array_equal(last[:, -1], before[:, -1])
    np.testing.assert_array_equal(before, np.repeat(before[:, :1], forecast.AHEAD, axis=1))
    assert last[5, 2] == series.degrees[start + 2] - series.degrees[start + 5]
    usual = forecast.errors(series, naive["the usual temperature of the month"], start, end)
    np.testing.assert_allclose(usual[:, 3], -(series.degrees - series.usual)[start:end])


def test_months_are_listed(forecast):
    assert forecast.listed([1, 2, 3, 7]) == "1–3, 7 months"
    assert forecast.listed([1]) == "1 month"


# ---------------------------------------------------------------------- spoken digits


@pytest.fixture
def digits(monkeypatch):
    """A module of the example, by its name."""
    need("kaldi_native_fbank")
    need("espeak-ng")
    monkeypatch.syspath_prepend(ROOT / "examples" / "digits")
    return importlib.import_module


def test_digits_in_quick_mode(tmp_path, digits):
    for module in ("torch", "matplotlib", "cffi", "cc"):
        need(module)
    output = run("digits/recognise.py", tmp_path, "--quick")
    losses = re.findall(r"loss ([0-9.]+) to ([0-9.]+)", output)
    assert len(losses) == 2
    assert all(float(last) < 0.5 * float(first) for first, last in losses)
    rows = re.findall(
        r"^  (?:ligru|nn\.GRU|regression)[^\n]*?([0-9.]+)(?: +[0-9.]+){6}$", output, re.M
    )
    assert len(rows) == 4
    # at 20 dB, of 40 words by voices that were never heard; one in ten would be by chance
    assert min(float(row) for row in rows) >= 55
    assert (tmp_path / "digits_ligru.png").read_bytes().startswith(b"\x89PNG")
    (spoken,) = (tmp_path / "speech").iterdir()
    written = spoken.stat().st_mtime_ns
    speech = digits("speech")
    plans = speech.plans(True, 0)
    again = speech.made(plans, tmp_path / "speech")
    assert spoken.stat().st_mtime_ns == written  # not spoken a second time
    first = again["new voices"]
    assert np.array_equal(first.sounds[3] * 2**15, speech.say(first.spoken[3]))


def test_no_voice_of_the_test_is_heard_before(digits):
    speech = digits("speech")
    sides = [set(side) for side in (speech.TRAINING, speech.VALIDATION, speech.TEST)]
    assert len(set.union(*sides)) == sum(map(len, sides))
    for quick in (True, False):
        parts = speech.plans(quick, 0)
        heard = {s.voice for name in ("training", "validation") for s in parts[name]}
        accents = {s.accent for name in ("training", "validation") for s in parts[name]}
        for name in ("new voices", "new voices, new accents"):
            assert parts[name] and heard.isdisjoint({s.voice for s in parts[name]})
        assert accents.isdisjoint({s.accent for s in parts["new voices, new accents"]})
        assert {s.accent for s in parts["new voices"]} <= accents


def test_voices_that_are_none_are_refused(tmp_path, digits):
    speech = digits("speech")
    with pytest.raises(SystemExit, match="has no variants nobody"):
        speech.made({"training": speech.planned(["nobody"], ["en-us"], 0)}, tmp_path)
    # "en-gb" ignores its variants, so that m1 and f2 are one voice
    word = {v: [speech.Spoken(7, v, "en-gb", 160, 50)] for v in ("m1", "f2")}
    if np.array_equal(speech.say(word["m1"][0]), speech.say(word["f2"][0])):
        with pytest.raises(SystemExit, match="share no voice"):
            speech.made({"training": word["m1"], "new voices": word["f2"]}, tmp_path)
    sound = np.ones(3, np.float32)
    parts = {name: speech.Part(word[v], [sound]) for name, v in (("a", "m1"), ("new b", "f2"))}
    with pytest.raises(SystemExit, match="share no voice"):
        speech.refuse_shared(parts)


def test_without_espeak_the_example_says_how_to_install_it(digits, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install espeak-ng"):
        digits("speech").program()


@pytest.mark.parametrize("snr", [20.0, 0.0, -10.0])
def test_noise_is_as_loud_as_is_said(digits, snr):
    features = digits("features")
    sound = np.random.default_rng(4).standard_normal(16000).astype(np.float32)
    # the same seed gives the same noise: what differs with and without the word is the word
    loud = features.mixed(np.random.default_rng(3), sound, snr)
    near = features.mixed(np.random.default_rng(3), sound, 200.0)
    begin = int(np.argmax(np.abs(near) > 1e-6))
    spoken = slice(begin, begin + len(sound))
    gain = loud[spoken] @ near[spoken] / (near[spoken] @ near[spoken])
    rest = loud - gain * near
    measured = 10 * np.log10(np.mean((gain * near[spoken]) ** 2) / np.mean(rest[spoken] ** 2))
    assert measured == pytest.approx(snr, abs=0.5)
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(features.LOUD)


def test_features_have_no_noise_of_their_own(digits):
    features = digits("features")
    samples = 0.1 * np.sin(np.arange(22050) * 2 * np.pi * 440 / features.RATE)
    bands = features.log_mel(samples)
    np.testing.assert_array_equal(bands, features.log_mel(samples))
    assert bands.shape == (65, features.BANDS)
    # the band of 440 Hz, on the mel scale 1127 log(1 + f / 700)
    low, high, tone = (np.log1p(f / 700) for f in (features.LOW, features.HIGH, 440))
    assert abs(bands.mean(axis=0).argmax() - (tone - low) / (high - low) * features.BANDS) <= 1


def test_stretches_are_averaged(digits):
    features = digits("features")
    sequence = np.arange(8.0).reshape(4, 2)
    given = features.Lessons([sequence, sequence[:2]], np.array([1, 2]))
    np.testing.assert_array_equal(features.pooled(given, 1), [[3, 4], [1, 2]])
    np.testing.assert_array_equal(features.pooled(given, 2), [[1, 2, 5, 6], [0, 1, 2, 3]])


def test_the_last_states_are_those_of_each_sequence(digits, monkeypatch):
    """Of sequences of several lengths in a batch, as of each alone, in both directions."""
    torch = pytest.importorskip("torch")
    need("cffi")
    need("cc")
    recognise, features = digits("recognise"), digits("features")
    rng = np.random.default_rng(0)
    sequences = [rng.standard_normal((n, features.BANDS), np.float32) for n in (5, 9, 2, 9, 1)]
    given = features.Lessons(sequences, np.arange(5))
    torch.manual_seed(0)
    for model in (
        recognise.ours(recognise.find_cell("rnn"), 3),
        recognise.theirs(torch.nn.LSTM, 3),
    ):
        ((x, _),) = recognise.batches(given, 5)
        together = model(x).detach()
        for k, sequence in enumerate(sequences):
            y, _ = model.recurrent(torch.from_numpy(sequence)[:, None])
            last = torch.cat([y[-1, :, :3], y[0, :, 3:]], dim=-1)
            torch.testing.assert_close(together[k], model.readout(last)[0])
