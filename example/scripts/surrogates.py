"""Spectra of red noise with the sample times and the persistence of a real series."""

import argparse

import numpy as np
from rhythm import Rhythm, memory, periods, red_noise

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("series")
parser.add_argument("spectra")
parser.add_argument("--periods", nargs=3, type=float, required=True)
parser.add_argument("--number", type=int, required=True)
parser.add_argument("--seed", type=int, required=True)
arguments = parser.parse_args()

age, value = np.loadtxt(arguments.series, delimiter="\t", unpack=True)
shortest, longest, number = arguments.periods
rhythm = Rhythm(age, periods(shortest, longest, int(number)))
tau = memory(age, value)
generator = np.random.default_rng(arguments.seed)
spectra = []
for _ in range(arguments.number):
    noise = red_noise(age, tau, generator)
    spectra.append(rhythm.amplitude((noise - noise.mean()) / noise.std()))
np.save(arguments.spectra, np.array(spectra))
