"""List the windows of the long record that its sampling is good enough for."""

import sys

import numpy as np

sys.stderr = open(snakemake.log[0], "w")
width, step = snakemake.params.width_kyr, snakemake.params.step_kyr
age = np.loadtxt(snakemake.input[0], delimiter="\t")[:, 0]

with open(snakemake.output[0], "w") as table:
    for start in range(0, int(age[-1]) - width + 1, step):
        samples = int(((age >= start) & (age <= start + width)).sum())
        print(f"{start} to {start + width} kyr: {samples} samples", file=sys.stderr)
        if samples >= snakemake.params.least_samples:
            print(start, start + width, sep="\t", file=table)
