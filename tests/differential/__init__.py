"""Random workflows, run by Snakemake's own local executor and by another, and compared.

By hand::

    python -m tests.differential --executor pipen-slurm --seeds 300
"""
