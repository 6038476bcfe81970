"""Profiles: where they are read from, and how they are laid below the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipen_executors import profiles, settings
from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.profiles import Profile, read_profile
from pipen_executors.settings import Checked, ExecutorSettings, check, table_of
from pipen_executors.units import parse_words
from snakemake_executor_plugin_pipen_container import ExecutorSettings as ContainerSettings
from snakemake_executor_plugin_pipen_gbatch import ExecutorSettings as GbatchSettings
from snakemake_executor_plugin_pipen_local import ExecutorSettings as LocalSettings
from snakemake_executor_plugin_pipen_sge import ExecutorSettings as SgeSettings
from snakemake_executor_plugin_pipen_slurm import ExecutorSettings as SlurmSettings
from snakemake_executor_plugin_pipen_ssh import ExecutorSettings as SshSettings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home, both empty, and no profile in the environment."""
    for name in os.environ:
        if name.startswith("PIPEN_"):  # of the tests' own settings
            monkeypatch.delenv(name)
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    for module in (profiles, settings):
        monkeypatch.setattr(module, "DIRECTORY_AT_IMPORT", str(tmp_path / "here"))
    return tmp_path / "here"


def write(directory: Path, text: str) -> None:
    (directory / ".pipen.toml").write_text(text)


def value(profile: Profile, key: str) -> tuple[object, str]:
    found = profile.values[key]
    return found.value, found.source


def test_found_where_snakemake_was_called(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has changed to ``--directory`` or ``workdir:`` when profiles are read."""
    write(here, '[big]\nforks = 3\n[big.scheduler_opts]\nsbatch = "bin/sbatch"\n')
    (here / "bin").mkdir()
    (here / "bin" / "sbatch").touch()
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    checked = check(SlurmSettings(), "pipen-slurm", read_profile("big", "--profile"))
    assert checked.forks == 3
    assert os.path.samefile(checked.command("sbatch"), here / "bin" / "sbatch")


def test_later_places_win(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        here.parent / "home",
        """
        [default]
        num_retries = 1
        forks = 1
        error_strategy = "halt"
        [big.scheduler_opts]
        partition = "home"
        gres = { gpu = 1, lscratch = 5 }
        [big]
        scheduler = "slurm"
        forks = 2
        """,
    )
    write(
        here,
        """
        [default]
        num_retries = 2
        [BIG]
        forks = 3
        [BIG.scheduler_opts]
        gres = { gpu = 2 }
        """,
    )
    monkeypatch.setenv("PIPEN_big_submission_batch", "@int:9")
    monkeypatch.setenv("PIPEN_NOBODYS", "profile")
    profile = read_profile("Big", "--pipen-profile")
    assert profile.name == "big"
    assert profile.scheduler == "slurm"
    assert value(profile, "error_strategy") == ("halt", "profile default of ~/.pipen.toml")
    assert value(profile, "num_retries") == (2, "profile default of ./.pipen.toml")
    assert value(profile, "forks") == (3, "profile big of ./.pipen.toml")
    environment = "profile big of the environment (PIPEN_<profile>_<key>)"
    assert value(profile, "submission_batch") == (9, environment)
    assert profile.options["partition"].value == "home"
    assert profile.options["gres"].value == {"gpu": 2, "lscratch": 5}


def test_no_such_profile_names_what_there_is(here: Path) -> None:
    write(here, "[small]\nforks = 1\n[default]\nforks = 2\n")
    with pytest.raises(SettingError, match=r"--pipen-profile is 'big'.*there: small\)"):
        read_profile("big", "--pipen-profile")
    assert read_profile("default", "").values["forks"].value == 2


def test_default_need_not_exist(here: Path) -> None:
    assert read_profile("default", "").values == {}
    with pytest.raises(SettingError, match=r"there: none\)"):
        read_profile("big", "")


@pytest.mark.parametrize("text", ["[big\n", "big = 1\n"])
def test_file_that_cannot_be_read(here: Path, text: str) -> None:
    write(here, text)
    with pytest.raises(UserError, match=r"\./\.pipen\.toml cannot be read"):
        read_profile("big", "")


def test_options_must_be_a_table(here: Path) -> None:
    write(here, "[big]\nscheduler_opts = 'partition=x'\n")
    with pytest.raises(SettingError, match=r"scheduler_opts in profile big .* a table"):
        read_profile("big", "")


def profile_of(
    values: dict[str, object], options: dict[str, object] | None = None, **more: object
) -> Profile:
    profile = Profile("big")
    profile.lay_on({**values, **more, "scheduler_opts": options or {}}, "profile big")
    return profile


def test_command_line_beats_profile() -> None:
    profile = profile_of({"forks": 3, "num_retries": 5, "lang": "R", "workdir": ".pipen"})
    settings = ExecutorSettings(num_retries="3")  # the default, but given
    checked = check(settings, "pipen", profile)
    assert (checked.forks, checked.num_retries, checked.workdir) == (3, 3, None)
    assert set(checked.ignored) == {"lang", "workdir"}
    assert checked.doubts == ()
    assert checked.where("forks") == "forks in profile big"
    assert checked.where("num_retries") == "--pipen-num-retries"


def test_options_that_are_settings_of_the_backend() -> None:
    """The constructor's of a pipen scheduler; given on the command line too."""
    options: dict[str, object] = {"sbatch": "/opt/sbatch", "timeout": 90, "qos": "low", "mem": "1G"}
    given = ["qos=high", "squeue=/opt/squeue", "exclude_failed_nodes=true"]
    checked = check(SlurmSettings(options=given), "pipen", profile_of({}, options))
    assert checked.settings.sbatch == "/opt/sbatch"
    assert checked.settings.squeue == "/opt/squeue"
    assert checked.settings.exclude_failed_nodes is True
    assert checked.timeout == 90
    assert checked.options == {"qos": "high", "mem": "1G"}
    assert checked.where("squeue") == "squeue in --pipen-options"
    rows = {name: (value, source) for name, value, source in table_of(checked)}
    assert rows["sbatch"] == ("/opt/sbatch", "profile big")
    assert rows["options: mem"] == ("1G", "profile big")
    assert rows["options: qos"] == ("high", "command line or Snakemake's profile")
    assert rows["scancel"] == ("scancel", "default")


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("forks", 0, "a whole number, 1 or more"),
        ("forks", {"a": 1}, "a whole number, 1 or more"),
        ("error_strategy", "give up", "ignore, retry, halt"),
        ("efficiency_report", "perhaps", "expected yes or no"),
        ("timeout", "soon", "a time such as"),
    ],
)
def test_wrong_value_names_its_place(key: str, wrong: object, right: str) -> None:
    with pytest.raises(SettingError, match=f"^{key} in profile big is .*{right}"):
        check(ExecutorSettings(), "pipen", profile_of({key: wrong}))


@pytest.mark.parametrize("word", [True, "true", "True"])
def test_truth_from_the_environment(word: object) -> None:
    checked = check(ExecutorSettings(), "pipen", profile_of({"efficiency_report": word}))
    assert checked.efficiency_report is True


def test_table_without_settings_of_its_own() -> None:
    rows = table_of(check(ExecutorSettings(forks="4"), "pipen"))
    assert ("forks", "4", "command line or Snakemake's profile") in rows
    assert ("error_strategy", "ignore", "default") in rows


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["forks", "timeout", "prescript", "cwd", "submit_rate"]), _VALUES)
def test_any_value_is_taken_or_refused(key: str, value: object) -> None:
    try:
        check(ExecutorSettings(), "pipen", profile_of({key: value}))
    except SettingError as error:
        assert key in str(error)


# -- names of xqute's constructors -----------------------------------------------------------


def options_of(here: Path, table: str, settings: Any) -> Checked:
    write(here, f"[p.scheduler_opts]\n{table}\n")
    return check(settings, "pipen-x", read_profile("p", "--profile"))


@pytest.mark.parametrize(
    ("settings", "table", "name", "value"),
    [
        (ContainerSettings, 'mount = ["/a:/b"]', "volumes", ["/a:/b"]),
        (ContainerSettings, 'mount = "/a:/b"', "volumes", ["/a:/b"]),
        (ContainerSettings, 'mount_as_cwd = "/a"', "volume_as_cwd", "/a"),
        (GbatchSettings, 'volumes = "gs://b/a:/mnt/a"', "mount", ["gs://b/a:/mnt/a"]),
        (GbatchSettings, 'volume_as_cwd = "gs://b/a"', "mount_as_cwd", "gs://b/a"),
        (SshSettings, 'ssh_servers = "one"', "servers", ["one"]),
    ],
)
def test_other_names_of_xqute(
    here: Path, settings: Any, table: str, name: str, value: object
) -> None:
    checked = options_of(here, table, settings())
    assert getattr(checked.settings, name) == value
    assert checked.options == {}


def test_two_names_of_one_option(here: Path) -> None:
    with pytest.raises(UserError, match="mount and volumes are two names of one option"):
        options_of(here, 'mount = "/a:/b"\nvolumes = "/c:/d"', ContainerSettings())


@pytest.mark.parametrize("settings", [SlurmSettings, ContainerSettings, GbatchSettings])
def test_words_that_are_no_flags(here: Path, settings: Any) -> None:
    """Of no scheduler's command: variables of all jobs, and where jobs see their directories."""
    table = 'envs = { GREETING = "hello there", N = 3 }\nmounted_workdir = "/data/jobs/"'
    checked = options_of(here, table, settings())
    assert checked.options == {}
    assert checked.envs == {"GREETING": "hello there", "N": "3"}
    assert checked.mounted_workdir == "/data/jobs"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('envs = "A=1"', "expected a table of variables"),
        ('envs = { "a b" = 1 }', "'a b' is no name of an environment variable"),
        ("envs = { A = [1] }", "the value of A is [1]; expected a text or a number"),
        ('mounted_workdir = "data"', "expected an absolute path"),
    ],
)
def test_words_that_cannot_be_right(here: Path, table: str, said: str) -> None:
    with pytest.raises(SettingError) as error:
        options_of(here, table, SlurmSettings())
    assert said in str(error.value)
    assert "profile p of ./.pipen.toml" in str(error.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('bin_args = ["--env", "A=with space", "B=it\'s"]', ["--env", "A=with space", "B=it's"]),
        ('bin_args = ["--cpus", 2]', ["--cpus", "2"]),
        ("bin_args = \"--env 'A=with space'\"", ["--env", "A=with space"]),
    ],
)
def test_list_is_taken_word_by_word(here: Path, table: str, words: list[str]) -> None:
    checked = options_of(here, table, ContainerSettings())
    found = [word for text in checked.settings.bin_args for word in parse_words(text)]
    assert found == words


def test_shared_settings_among_options() -> None:
    options = ["cwd=/tmp", "forks=2", "timeout=30", "qos=high", "efficiency_report"]
    checked = check(SlurmSettings(options=options, timeout="60"), "pipen-slurm")
    assert (checked.cwd, checked.forks, checked.timeout) == ("/tmp", 2, 60.0)
    assert checked.efficiency_report
    assert checked.options == {"qos": "high"}
    with pytest.raises(SettingError, match="timeout in --pipen-slurm-options"):
        check(SlurmSettings(options=["timeout=nonsense"]), "pipen-slurm")


def test_bare_cwd_of_grid_engine(here: Path) -> None:
    checked = check(SgeSettings(options=["cwd"]), "pipen-sge")
    assert (checked.cwd, checked.options) == (None, {"cwd": True})
    assert check(SgeSettings(options=["cwd=/tmp"]), "pipen-sge").cwd == "/tmp"
    write(here, "[big.scheduler_opts]\ncwd = true\n")
    checked = check(SgeSettings(), "pipen-sge", read_profile("big", "--profile"))
    assert (checked.cwd, checked.options) == (None, {"cwd": True})


@pytest.mark.parametrize("name", ["prescript", "postscript", "jobname_prefix", "cwd"])
@pytest.mark.parametrize("wrong", ["5", "true", '["a"]'])
def test_what_has_to_be_a_text(here: Path, name: str, wrong: str) -> None:
    write(here, f"[big]\n{name} = {wrong}\n")
    with pytest.raises(SettingError, match=f"{name} in profile big of .*expected a text"):
        check(SlurmSettings(), "pipen-slurm", read_profile("big", "--profile"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("error_stategy", "there is no such setting; use error_strategy"),
        ("fork", "there is no such setting; use forks"),
        ("schedular", "there is no such setting; use scheduler"),
        ("scheduler_opt", "there is no such setting; use scheduler_opts"),
        ("options", "options of the scheduler are the table scheduler_opts"),
        ("profile", "a profile cannot name another one"),
    ],
)
def test_key_that_is_no_setting(key: str, said: str) -> None:
    with pytest.raises(SettingError, match=rf"^{key} in profile big is 'x': .*{said}"):
        check(SlurmSettings(), "pipen-slurm", profile_of({key: "x"}))


def test_key_that_nobody_knows() -> None:
    """It may be a plugin's of pipen, and is not passed over in silence."""
    checked = check(SlurmSettings(), "pipen-slurm", profile_of({"partition": "x", "cache": True}))
    (doubt,) = checked.doubts
    assert doubt.startswith("partition in profile big is no setting here")
    assert checked.ignored == ("cache",)


def test_show_config_of_a_profile() -> None:
    assert check(SlurmSettings(), "pipen-slurm", profile_of({"show_config": True})).show_config
    assert not check(SlurmSettings(), "pipen-slurm").show_config


@pytest.mark.parametrize("settings", [LocalSettings, SshSettings])
def test_option_of_a_scheduler_that_has_none(settings: Any) -> None:
    for name, hint in (("partition", "no such option."), ("num_retry", "; use num_retries")):
        with pytest.raises(SettingError, match=f"{name} in --pipen-x-options is 'a': .*{hint}"):
            check(settings(options=[f"{name}=a"]), "pipen-x")
        with pytest.raises(SettingError, match=f"{name} in profile big is 'a': .*{hint}"):
            check(settings(), "pipen-x", profile_of({}, {name: "a"}))


def test_option_that_is_nearly_a_setting() -> None:
    options = ["error_stategy=retry", "mem=4G", "time=10"]
    (doubt,) = check(SlurmSettings(options=options), "pipen-slurm").doubts
    assert doubt.startswith("error_stategy in --pipen-slurm-options is 'retry' and goes to")
    assert doubt.endswith("for the setting use error_strategy.")
    assert not check(ContainerSettings(options=["volume=/a:/b:Z", "env=A=1"]), "pipen").doubts


def test_hyphens_and_prefixes() -> None:
    """Words of the command line, and those that xqute's documentation has."""
    options = ["error-strategy=retry", "num-retries=7", "sge_l=[a=1, b=2]", "qsub_q=long"]
    checked = check(SgeSettings(options=options), "pipen-sge")
    assert (checked.error_strategy, checked.num_retries) == ("retry", 7)
    assert checked.options == {"l": ["a=1", "b=2"], "q": "long"}
    profile = profile_of({"error-strategy": "halt"}, {"slurm_qos": "low", "cpus-per-task": 3})
    checked = check(SlurmSettings(), "pipen-slurm", profile)
    assert checked.error_strategy == "halt"
    assert checked.options == {"qos": "low", "cpus-per-task": 3}


def test_no_submission_batch_is_the_default() -> None:
    for nothing in ("0", None, ""):
        checked = check(SlurmSettings(submission_batch=nothing), "pipen-slurm")  # type: ignore[arg-type]
        assert checked.submission_batch == 8
    assert check(SlurmSettings(), "x", profile_of({"submission_batch": 0})).submission_batch == 8


def test_settings_of_one_scheduler_are_named_as_pipen_has_them() -> None:
    """``--executor pipen`` has no flags for them."""
    checked = check(ContainerSettings(), "pipen")
    assert checked.where("image").startswith("image (--pipen-options image=…, or scheduler_opts")
    assert checked.where("forks") == "--pipen-forks"
    assert check(ContainerSettings(), "pipen-container").where("image") == "--pipen-container-image"
