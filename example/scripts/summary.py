"""The findings as a short text: strongest rhythm of each record, and how they relate."""

import sys

import numpy as np

sys.stderr = open(snakemake.log[0], "w")
records = snakemake.params.records
series = {
    name: np.loadtxt(path, delimiter="\t")
    for name, path in zip(records, snakemake.input.series, strict=True)
}

with open(snakemake.output[0], "w", encoding="utf-8") as text:
    print("Rhythms stronger than 99 % of red-noise surrogates, last 800,000 years", file=text)
    for (name, about), spectrum, threshold in zip(
        records.items(), snakemake.input.spectra, snakemake.input.thresholds, strict=True
    ):
        period, amplitude = np.loadtxt(spectrum, delimiter="\t", unpack=True)
        excess = amplitude / np.loadtxt(threshold)
        inside = np.arange(1, len(period) - 1)
        peak = (
            (amplitude[inside] > amplitude[inside - 1])
            & (amplitude[inside] > amplitude[inside + 1])
            & (excess[inside] > 1)
        )
        found = ", ".join(f"{period[i]:.0f} kyr" for i in inside[peak]) or "none"
        print(f"  {about['label']:<24}{len(series[name]):>5} samples   {found}", file=text)

    # Both ice-core records on a common 1-kyr grid; the age models differ by less.
    grid = np.arange(1, 800)
    temperature, co2 = (np.interp(grid, *series[name].T) for name in ("temperature", "co2"))
    correlation = np.corrcoef(temperature, co2)[0, 1]
    print(f"Temperature and carbon dioxide: r = {correlation:.2f}", file=text)
