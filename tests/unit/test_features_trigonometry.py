"""Sine and cosine in turns against NumPy in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.features.trigonometry import fill_sincos, sincos_turns

TAU = np.longdouble("6.283185307179586476925286766559")


@given(turns=st.floats(-1e6, 1e6))
def test_is_the_sine_and_cosine(turns: float) -> None:
    sine, cosine = sincos_turns(turns)
    rest = np.longdouble(turns) - np.rint(np.longdouble(turns))
    assert abs(np.longdouble(sine) - np.sin(TAU * rest)) < 4e-16
    assert abs(np.longdouble(cosine) - np.cos(TAU * rest)) < 4e-16


@pytest.mark.parametrize(
    ("turns", "expected"), [(0.0, (0, 1)), (0.25, (1, 0)), (0.5, (0, -1)), (-0.25, (-1, 0)), (7.75, (-1, 0))]
)
def test_quarter_turns_are_exact(turns: float, expected: tuple[int, int]) -> None:
    assert sincos_turns(turns) == expected


def test_arrays_are_the_single_values() -> None:
    time = np.random.default_rng(1).uniform(-500.0, 500.0, 1001)
    sine, cosine = np.empty(1001), np.empty(1001)
    fill_sincos(17.3, time, sine, cosine)
    np.testing.assert_array_equal(np.column_stack((sine, cosine)), [sincos_turns(17.3 * t) for t in time])
