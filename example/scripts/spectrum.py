"""Amplitude spectrum of a series: period in kyr, amplitude."""

import argparse

import numpy as np
from rhythm import Rhythm, periods

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("series")
parser.add_argument("spectrum")
parser.add_argument("--periods", nargs=3, type=float, required=True)
parser.add_argument("--standardise", action="store_true", help="in standard deviations")
arguments = parser.parse_args()

age, value = np.loadtxt(arguments.series, delimiter="\t", unpack=True)
if arguments.standardise:
    value = (value - value.mean()) / value.std()
shortest, longest, number = arguments.periods
period = periods(shortest, longest, int(number))
amplitude = Rhythm(age, period).amplitude(value)
np.savetxt(arguments.spectrum, np.column_stack([period, amplitude]), fmt="%.6g", delimiter="\t")
