"""Tests of pipen-executors."""
