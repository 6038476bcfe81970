"""What a job runs: the rule's own command, or a second Snakemake.

Direct execution rests on what Snakemake's local executor does: it calls the function
that was compiled from the rule, which calls ``shell()``, which starts a process. Here
the same function is called with a ``shell`` that goes through all of Snakemake's own
code (formatting, prefix and suffix, conda, container, environment modules, thread and
TMPDIR variables) and only keeps what it would have started. So the text is
Snakemake's, in every case, and nothing of it is formatted again.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from snakemake.common.tbdstring import TBDString
from snakemake.io import is_flagged
from snakemake_interface_executor_plugins.settings import DeploymentMethod, SharedFSUsage

from . import tmpdir
from .benchmark import why_not_measured
from .staging import why_not_staged
from .tmpdir import Template, Tmpdir
from .work import ScriptFile

# By name, because the package ``snakemake`` has functions and classes of the same names.
_shell_module = importlib.import_module("snakemake.shell")
_script_module = importlib.import_module("snakemake.script")
_wrapper_module = importlib.import_module("snakemake.wrapper")


@dataclass
class Command:
    """The process that a rule would start.

    Parameters
    ----------
    text
        The shell's script.
    shell
        Path of the shell.
    env
        Complete environment of the process.
    own
        Names of variables that Snakemake sets for the process, whatever they were before.
    files
        Files that the script refers to and that belong into the job directory.
    tmpdir
        Its temporary directory, if it has one of its own.
    templates
        Which of the files, and whether the script, the node has to complete.
    patterns
        The texts that Snakemake has filled in.
    sources, script_paths
        The texts of its scripts, and where they were read.
    """

    text: str
    shell: str
    env: dict[str, str]
    own: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    tmpdir: Tmpdir | None = None
    templates: tuple[Template, ...] = ()
    patterns: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    script_paths: list[str] = field(default_factory=list)

    def place(self, directory: str, script: str) -> tuple[str, str]:
        """Return bash that gives the command its temporary directory, and its script's path.

        Parameters
        ----------
        directory
            The job directory as the job sees it.
        script
            Name of the file in it that the command's text is written to.
        """
        code, templates = "", list(self.templates)
        if self.tmpdir is not None:
            code = self.tmpdir.code()
            if tmpdir.MARK in self.text:
                templates.append(Template(script, f"{script}.node"))
                script = f"{script}.node"
        return code + tmpdir.filling_in(directory, templates), f"{directory}/{script}"


_TBD: Final = str(TBDString())
_THREAD_VARIABLES: Final = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


class NotDirect(Exception):
    """The rule's function did something else than start one command."""


class _Started:
    """Stands for the process that was not started."""

    pid = 0

    def wait(self) -> int:
        return 0


class _Subprocess(types.ModuleType):
    """``subprocess`` with a ``Popen`` that keeps its arguments."""

    def __init__(self, keep: Callable[..., None]) -> None:
        super().__init__("subprocess")
        self._keep = keep

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, command: str, **options: Any) -> _Started:
        self._keep(command, options["env"], options.get("executable"))
        return _Started()


def _rebind(function: Any, **names: Any) -> Any:
    """Return a copy of a function that sees other objects under some global names."""
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_NO_LIMIT: Final = 1 << 62


_LONG: Final = re.compile(r'"([^"\n]*/\.snakemake/shell_tmp\.[^"/\n]*/script\.sh)"')
"""Where Snakemake puts a command that is too long for an argument."""


def _capturing_shell(keep: Callable[..., None], patterns: list[str], longest: int) -> Any:
    """Return Snakemake's ``shell`` with only the start of the process left out.

    Parameters
    ----------
    keep
        Called with the command, its environment and its shell.
    patterns
        Takes what is filled in.
    longest
        Length in bytes above which Snakemake writes a command into a file.
    """
    original = _shell_module.shell

    def fill_in(pattern: str, *args: Any, stepout: int = 1, **names: Any) -> str:
        patterns.append(pattern)
        return str(_shell_module.format(pattern, *args, stepout=stepout + 1, **names))

    new = _rebind(original.__new__, sp=_Subprocess(keep), MAX_ARG_LEN=longest, format=fill_in)
    return type("shell", (original,), {"__new__": staticmethod(new)})


def _capturing_script(
    shell: Any,
    path: str,
    files: dict[str, bytes],
    templates: list[Template],
    sources: list[str],
    paths: list[str],
) -> Any:
    """Return Snakemake's ``script()`` that keeps the script file for the job directory."""
    module = _script_module

    def execute(self: Any, command: str, **arguments: Any) -> Any:
        # Questions (which Python has the environment?) are asked here and now, as the
        # local executor does; the script itself is kept.
        run = _shell_module.shell if arguments.get("read") else shell
        return run(
            command,
            bench_record=self.bench_record,
            conda_env=self.conda_env,
            conda_base_path=self.conda_base_path,
            container_img=self.container_img,
            shadow_dir=self.shadow_dir,
            env_modules=self.env_modules,
            singularity_args=self.singularity_args,
            resources=self.resources,
            threads=self.threads,
            runtime_paths=self.runtime_paths,
            **arguments,
        )

    def capturing(language: Any) -> Any:
        def execute_script(self: Any, fname: str, edit: bool = False) -> None:
            with open(fname, "rb") as stream:
                content = stream.read()
            target = f"{path}.{os.path.basename(self.path.get_filename())}"
            name = os.path.basename(target)
            if tmpdir.MARK.encode() in content:
                template = tmpdir.template_of_script(name)
                templates.append(template)
                name = template.name
            files[name] = ScriptFile.of(content, self)
            sources.append(str(self.source))
            paths.append(self.path.get_path_or_uri(secret_free=True))
            language.execute_script(self, target, edit)

        def evaluate(self: Any, edit: bool = False) -> None:
            self.cleanup_scripts = True  # the copy in the job directory is the one that runs
            language.evaluate(self, edit)

        def get_preamble(self: Any) -> str:
            return str(language.get_preamble(self)) + _python_tmpdir(self.resources)

        methods = {"_execute_cmd": execute, "execute_script": execute_script, "evaluate": evaluate}
        if issubclass(language, module.PythonScript):
            methods["get_preamble"] = get_preamble
        return type(language.__name__, (language,), methods)

    # RMarkdown writes its result relative to the script and needs Snakemake's own way.
    names = (
        "PythonScript",
        "RScript",
        "JuliaScript",
        "RustScript",
        "BashScript",
        "XonshScript",
        "HyScript",
    )
    return _rebind(module.script, **{name: capturing(getattr(module, name)) for name in names})


def _python_tmpdir(resources: Any) -> str:
    """Return the Python that gives a script the node's tmpdir; empty if it has it already.

    What Snakemake gives a script in Python is pickled, lengths of texts included.
    """
    if resources.get("tmpdir") != tmpdir.MARK:
        return ""
    index = list(resources.keys()).index("tmpdir")
    return f"snakemake.resources.tmpdir = snakemake.resources[{index}] = {tmpdir.MARK!r}\n"


def capture(
    job: Any,
    workflow: Any,
    directory: str,
    seen: Callable[[str], str],
    prefix: str = "job",
    runtime_paths: Sequence[Any] | None = None,
    stored: Mapping[str, str] | None = None,
) -> Command:
    """Return what the local executor would start for a job.

    Parameters
    ----------
    job
        A single job for which :func:`why_not_direct` answers None.
    workflow
        Its workflow.
    directory
        The job directory as the job sees it.
    seen
        From a path of the workflow to the path by which the job sees it.
    prefix
        What the names of its files begin with.
    runtime_paths
        Directories that Snakemake lets a container of the job see, if not its own choice.
    stored
        Where files in storage can be read on this machine too, by their path in the workflow.

    Raises
    ------
    NotDirect
        If it is not exactly one command.
    Exception
        Whatever formatting the command raises, as with the local executor.
    """
    started: list[Command] = []
    files: dict[str, bytes] = {}

    def keep(command: str, env: dict[str, str], executable: str | None) -> None:
        if in_container and (long := _LONG.search(command)) is not None:
            # Snakemake removes its file as soon as the command has ended.
            name = f"{prefix}.long"
            with open(long[1], encoding="utf-8", errors="surrogateescape") as stream:
                content = stream.read()
            inner = f"{directory}/{name}".replace("'", "'\\''")
            command = command.replace(long[0], f'"{inner}"')
            if tmpdir.MARK in content:
                templates.append(Template(f"{name}.in", name))
                name += ".in"
            files[name] = content.encode(errors="surrogateescape")
        started.append(Command(command, executable or "/bin/sh", env, files=files))

    # Snakemake leaves tmpdir to the node that runs the job, unless that is this one.
    resources = job.resources
    waits = str(resources.get("tmpdir")) == _TBD
    try:
        place = tmpdir.of_job(job, waits=waits)
    except tmpdir.OnNode:
        raise NotDirect("its tmpdir can only be worked out on the node") from None
    if waits:
        known = {**dict(resources.items()), "tmpdir": place.value if place else ""}
        resources = type(resources)(fromdict=known)
    if not job.is_shell and any(_TBD in str(value) for value in (*job.params, *resources)):
        raise NotDirect("its script is given a value that is only known on the node (<TBD>)")

    deployment = workflow.deployment_settings
    methods = deployment.deployment_method
    conda = DeploymentMethod.CONDA in methods and job.conda_env
    apptainer = DeploymentMethod.APPTAINER in methods
    in_container = apptainer and job.container_img_path is not None
    templates: list[Template] = []
    patterns: list[str] = []
    # Long commands stay text as well, as the wrapper runs a file; but for a container's, which
    # is one argument of the command that starts it.
    longest = _shell_module.MAX_ARG_LEN if in_container else _NO_LIMIT
    shell = _capturing_shell(keep, patterns, longest)
    sources: list[str] = []
    paths: list[str] = []
    names = {"shell": shell}
    if not job.is_shell:
        script = _capturing_script(shell, f"{directory}/{prefix}", files, templates, sources, paths)
        names["script"] = script
        names["wrapper"] = _rebind(_wrapper_module.wrapper, script=script)
    function = _rebind(job.rule.run_func, **names)
    function(
        _seen_paths(job.input, seen),
        _seen_paths(job.output, seen),
        _seen_params(job, seen, stored or {}),
        job.wildcards,
        job.threads,
        resources,
        _seen_paths(job.log, seen),
        job.rule.name,
        job.conda_env.address if conda else None,
        job.container_img_path if apptainer else None,
        deployment.apptainer_args,
        apptainer,
        job.env_modules if DeploymentMethod.ENV_MODULES in methods else None,
        None,
        job.jobid,
        job.is_shell,
        0 if job.benchmark is not None else None,
        workflow.execution_settings.cleanup_scripts,
        None,
        None,
        workflow.conda_base_path,
        job.rule.basedir,
        workflow.sourcecache.cache_path,
        workflow.sourcecache.runtime_cache_path,
        workflow.runtime_paths if runtime_paths is None else runtime_paths,
    )
    if len(started) != 1:
        raise NotDirect(f"starts {len(started)} commands")
    command = started[0]
    command.patterns, command.sources, command.script_paths = patterns, sources, paths
    command.own = tuple(name for name in _THREAD_VARIABLES if name in command.env)
    if (why := _why_source_not_shared(job, workflow, command.text)) is not None:
        raise NotDirect(why)
    if _TBD in command.text:
        raise NotDirect("its command holds a value that is only known on the node (<TBD>)")
    command.tmpdir, command.templates = place, tuple(templates)
    if place is not None:  # it is set on the node
        for name in tmpdir.VARIABLES:
            del command.env[name]
            if name in os.environ:
                command.env[name] = os.environ[name]
    return command


def _seen_paths(files: Any, seen: Callable[[str], str]) -> Any:
    """Return files as the rule's function is given them, by the paths that the job sees."""
    return type(files)(toclone=files._plainstrings(), custom_map=seen)


def _seen_params(job: Any, seen: Callable[[str], str], stored: Mapping[str, str]) -> Any:
    """Return the parameters of a job, worked out with the paths that it sees its files by.

    Where a file in storage has another path there, what a function makes of that path is
    another too. A function that reads its file finds it in storage, if that is a directory.

    Raises
    ------
    NotDirect
        If they cannot be worked out here.
    """
    if not any(
        file.is_storage and seen(str(file)) != str(file) for file in chain(job.input, job.output)
    ):
        return job.params
    problem = ""
    for place in (seen, lambda path: stored.get(path, path)):
        plain = (_AsSeen(_seen_paths(files, place)) for files in (job.input, job.output))
        try:
            params, _ = job.rule.expand_params(job.wildcards_dict, *plain, job)
        except Exception as error:
            problem = f" ({error})"
        else:
            if _TBD not in str(list(params)):
                return params
    raise NotDirect(f"its params cannot be worked out before it runs{problem}")


class _AsSeen:
    """Stands for the files of a job where Snakemake asks them for their plain paths."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def _plainstrings(self) -> Any:
        return self._plain


def why_not_direct(
    job: Any, workflow: Any, *, stages: bool = False, piped: bool = False
) -> str | None:
    """Return why a single job has to be run by a second Snakemake; None if it need not.

    Parameters
    ----------
    job
        The job.
    workflow
        Its workflow.
    stages
        Whether the scheduler brings files to and from nodes that share none.
    piped
        Whether the jobs that it is connected with by pipes run beside it.
    """
    rule = job.rule
    for kind, is_it in (
        (
            "a run: block is Python inside the Snakefile (a script: in Python would run directly)",
            job.is_run,
        ),
        ("a notebook (a script: would run directly)", job.is_notebook),
        ("a CWL tool (a shell: command would run directly)", job.is_cwl),
        (
            "a template engine (listed under localrules, it needs no job at all)",
            job.is_template_engine,
        ),
        (
            "an R Markdown script (a script: in R would run directly)",
            job.is_script and str(rule.script).lower().endswith(".rmd"),
        ),
    ):
        if is_it:
            return kind
    if not stages and (why := _why_not_shared(job, workflow)) is not None:
        return why
    if job.benchmark is not None:
        if (why := why_not_measured(job)) is not None:
            return why
        if stages and job.benchmark.is_storage:
            return "a benchmark file in storage"
    for flag in () if piped else ("pipe", "service"):
        if any(is_flagged(file, flag) for file in chain(job.input, job.output)):
            return f"{flag}() files connect it with another job"
    return None


def _why_not_shared(job: Any, workflow: Any) -> str | None:
    """Return what a direct job needs on its node that ``--shared-fs-usage`` does not list.

    ``persistence`` and ``source-cache`` are this process's business for a direct job, but
    for a shadow directory and paths into the source cache (see :func:`capture`); files in
    storage are copied by the job itself where they can be.
    """
    missing = SharedFSUsage.all() - workflow.storage_settings.shared_fs_usage
    if SharedFSUsage.PERSISTENCE in missing and job.is_shadow:
        return _unshared("its shadow directory is", "persistence")
    if SharedFSUsage.SOFTWARE_DEPLOYMENT in missing:
        methods = workflow.deployment_settings.deployment_method
        if DeploymentMethod.APPTAINER in methods and job.container_img_url:
            return _unshared("its container image is", "software-deployment")
        if what := why_python(job, workflow):
            return _unshared(f"{what} needs software that is", "software-deployment")
    if SharedFSUsage.SOURCES in missing and job.is_script and _sources_elsewhere(job):
        return _unshared("what its script may import is", "sources")
    return why_not_staged(job, workflow)


def _unshared(what: str, item: str) -> str:
    return f"{what} not shared with the nodes (add {item} to --shared-fs-usage if it is)"


def _sources_elsewhere(job: Any) -> str:
    """Return the directory of a rule's Snakefile; empty if jobs have it, as they run there."""
    place = str(job.rule.basedir.get_path_or_uri(secret_free=True))
    below = os.path.relpath(place).split("/")[0] != ".."
    return "" if below or not os.path.isdir(place) else place


def _why_source_not_shared(job: Any, workflow: Any, command: str) -> str | None:
    """Return which source file a command needs that the nodes do not have."""
    usage = workflow.storage_settings.shared_fs_usage
    words = [command, *map(str, job.params), *map(str, job.input)]
    cache = str(workflow.sourcecache.cache_path)
    if SharedFSUsage.SOURCE_CACHE not in usage and any(cache in word for word in words):
        return _unshared("it uses a file of the source cache, which is", "source-cache")
    place = _sources_elsewhere(job)
    if SharedFSUsage.SOURCES not in usage and place and any(place in word for word in words):
        return _unshared(f"it uses a file in {place}, which is", "sources")
    return None


def why_python(job: Any, workflow: Any) -> str:
    """Return what the command of a single direct job needs this Snakemake's Python for.

    Empty if it needs none. A script in Python is started by the interpreter that Snakemake
    runs on and imports Snakemake; the environments of conda lie on this machine.
    """
    if job.conda_env and DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        return "a conda environment"
    if job.is_wrapper:
        return "a wrapper"
    if job.is_script and str(job.rule.script).lower().endswith((".py", ".xsh", ".hy")):
        return "a script in Python"
    return ""


def own_image(job: Any, workflow: Any) -> str | None:
    """Return the container image that a rule names itself; empty if it names none.

    None says that Snakemake itself starts its container, by the job's command.
    """
    image = job.container_img_url
    if image and DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
        return None
    return str(image or "")
