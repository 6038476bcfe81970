"""Measurements of the executors beside what a user would run instead.

``python -m tests.benchmarks local`` and ``python -m tests.benchmarks slurm`` print tables;
``python -m tests.benchmarks page`` makes both and writes docs/benchmarks.md. Nothing here is a
test: a time depends on the machine, and is printed, not asserted.
"""
