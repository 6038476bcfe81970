"""Tests of single modules, without Snakemake."""
