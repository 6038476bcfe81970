"""Spectra and red noise for series whose samples are not evenly spaced in time."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def periods(shortest: float, longest: float, number: int) -> Array:
    """Periods evenly spaced in their logarithm."""
    return np.geomspace(shortest, longest, number)


class Rhythm:
    """Amplitude of the sinusoid of each period that fits a series best.

    The fit is weighted with a Hann taper, which keeps a strong rhythm from leaking
    into its neighbours, after the removal of a straight line. What depends only on the
    sample times is computed once, so that a thousand surrogates cost little.
    """

    def __init__(self, time: Array, period: Array) -> None:
        span = time[-1] - time[0]
        # The weight of a sample is the time it stands for times the taper.
        taper = np.sin(np.pi * (time - time[0]) / span) ** 2
        self.weight = np.gradient(time) * taper
        self.weight /= self.weight.sum()
        self.line = np.stack([np.ones_like(time), (time - time.mean()) / span])
        phase = 2 * np.pi * time / period[:, None]
        self.cos, self.sin = np.cos(phase), np.sin(phase)
        self.cc = (self.cos**2) @ self.weight
        self.ss = (self.sin**2) @ self.weight
        self.cs = (self.cos * self.sin) @ self.weight

    def amplitude(self, value: Array) -> Array:
        """Amplitudes in the unit of the values."""
        root = np.sqrt(self.weight)
        fit, *_ = np.linalg.lstsq((self.line * root).T, value * root, rcond=None)
        weighted = (value - fit @ self.line) * self.weight
        c, s = self.cos @ weighted, self.sin @ weighted
        determinant = self.cc * self.ss - self.cs**2
        a = (c * self.ss - s * self.cs) / determinant
        b = (s * self.cc - c * self.cs) / determinant
        return np.hypot(a, b)


def memory(time: Array, value: Array) -> float:
    """Persistence time of the AR(1) process that describes a series best.

    Least squares over a grid of times (doi:10.1016/S0098-3004(01)00041-3).
    """
    value = (value - value.mean()) / value.std()
    gap = np.diff(time)
    candidates = np.geomspace(gap.mean() / 5, (time[-1] - time[0]) / 4, 400)
    carry = np.exp(-gap / candidates[:, None])
    error = ((value[1:] - carry * value[:-1]) ** 2).sum(axis=1)
    return float(candidates[np.argmin(error)])


def red_noise(time: Array, tau: float, generator: np.random.Generator) -> Array:
    """One AR(1) series of unit variance at the given times."""
    carry = np.exp(-np.diff(time) / tau)
    kick = generator.standard_normal(len(time))
    kick[1:] *= np.sqrt(1 - carry**2)
    value = kick
    for i, factor in enumerate(carry, start=1):
        value[i] += factor * value[i - 1]
    return value
