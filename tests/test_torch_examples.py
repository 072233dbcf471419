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
