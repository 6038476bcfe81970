"""Run Snakemake's own test suite through any executor plugin.

The suite is the one of the installed Snakemake: :mod:`.source` fetches its sdist, :mod:`.driver`
runs it with ``redirect/snakemake_suite_redirect.py`` loaded, which makes each workflow of the
suite run on the executor under test, and :mod:`.verdict` judges the outcome: a test that the
built-in local executor passes has to pass, unless ``known.toml`` lists it by name with the reason.

``python -m tests.snakemake_suite --executor pipen-local`` is the command line;
``test_suite.py`` shows the same to pytest as one test per upstream test.
"""
