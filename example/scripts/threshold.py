"""Gather the surrogates of a record: the amplitude that red noise seldom exceeds."""

import sys

import numpy as np

sys.stderr = open(snakemake.log[0], "w")
spectra = np.concatenate([np.load(chunk) for chunk in snakemake.input])
print(f"{len(spectra)} surrogates, {spectra.shape[1]} periods", file=sys.stderr)
np.savetxt(snakemake.output[0], np.quantile(spectra, snakemake.params.quantile, axis=0), fmt="%.6g")
