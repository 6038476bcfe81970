"""A fake Google Cloud Batch: the API over one state machine, tasks as processes on this machine.

There is no emulator of Batch, so this is the tests' own, and what it knows of the real one is
what its documentation says. Google's client talks to it over gRPC (``BATCH_EMULATOR_HOST``), and
Cloud Logging's ``ListLogEntries`` is answered for what tasks wrote.

Real are: scripts and commands of runnables, which run; buckets, which are mounted by rclone in a
mount namespace for each machine; the API's messages, errors and filters by label. Made up are:
machines (a mount namespace on this one), images (a container's entrypoint runs without one),
quotas and times.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.cloud import batch_v1
from google.cloud.location import locations_pb2
from google.cloud.logging_v2.types import (
    ListLogEntriesRequest,
    ListLogEntriesResponse,
    LogEntry,
)
from google.longrunning import operations_pb2

from tests.services.common import (
    ProcessRef,
    end_processes,
    processes_with,
    wait_until,
    with_descendants,
)

JobState = batch_v1.JobStatus.State
TaskState = batch_v1.TaskStatus.State

_ALIVE = (JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING)
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_LABEL_FILTER = re.compile(r'labels\.([a-z0-9_-]+)="([^"]*)"')
_MARK = "PIPEN_TEST_BATCH_MACHINE"
_QUOTA = (
    "Quota checking process decided to delay scheduling for the job {uid} due to inadequate "
    "quotas [Quota: CPUS_ALL_REGIONS, limit: {limit}, usage: {limit}, wanted: 1.]."
)
LOCATIONS = ("us-central1", "europe-west4")
PREEMPTED = 50001
OVER_TIME = 50005


class Refused(Exception):
    """An error of the API."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Call:
    """One call that was answered.

    Attributes
    ----------
    time
        Of the monotonic clock.
    method
        Its name in the API.
    request
        The message.
    """

    time: float
    method: str
    request: Any


def _event(text: str, code: int | None = None) -> batch_v1.StatusEvent:
    event = batch_v1.StatusEvent(
        type_="STATUS_CHANGED", description=text, event_time=datetime.now(UTC)
    )
    if code is not None:
        event.task_execution = batch_v1.TaskExecution(exit_code=code)
    return event


class Machine:
    """A machine: a mount namespace with the volumes of a job, whose processes bear its mark."""

    def __init__(self, storage: str, volumes: list[batch_v1.Volume], log: Path) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.lost_with: int | None = None
        self._dir = Path(tempfile.mkdtemp(prefix="pipen-batch-", dir="/var/tmp"))
        self._log = log
        lines = ["set -e", "mount --make-rprivate /"]
        shares = [volume for volume in volumes if volume.nfs.remote_path]
        for number, volume in enumerate(shares):
            held = shlex.quote(f"{self._dir}/nfs{number}")
            shared = shlex.quote(volume.nfs.remote_path)
            lines += [f"mkdir -p {held}", f"mount --bind {shared} {held}"]
        # Nothing of the tests' own files is there, but what a volume names.
        lines += ["mount -t tmpfs tmpfs /mnt", "mount -t tmpfs tmpfs /tmp"]
        for number, volume in enumerate(shares):
            path = shlex.quote(volume.mount_path)
            lines += [f"mkdir -p {path}", f"mount --bind {self._dir}/nfs{number} {path}"]
        buckets = [volume for volume in volumes if volume.gcs.remote_path]
        for number, volume in enumerate(sorted(buckets, key=lambda volume: volume.mount_path)):
            path = shlex.quote(volume.mount_path)
            remote = shlex.quote(":gcs:" + volume.gcs.remote_path.rstrip("/"))
            lines.append(
                f"mkdir -p {path}; rclone mount {remote} {path} --config '' --gcs-anonymous "
                f"--gcs-endpoint {storage}/storage/v1/ --vfs-cache-mode writes "
                "--vfs-write-back 0s --transfers 16 --dir-cache-time 5s --attr-timeout 0 "
                f"--poll-interval 0 --allow-other --cache-dir {self._dir}/cache{number} "
                f"2>>{self._dir}/rclone.log &"
            )
            lines.append(f"until mountpoint -q {path}; do sleep 0.02; done")
        lines += ["touch " + shlex.quote(f"{self._dir}/ready"), "read -r _ || :"]
        # rclone forgets what it has yet to write back; with gcsfuse each close has waited.
        dirty = f"grep -rqs '\"Dirty\": *true' {self._dir}/cache*/vfsMeta"
        lines.append(f"while {dirty}; do sleep 0.05; done")
        for volume in sorted(buckets, key=lambda volume: volume.mount_path, reverse=True):
            lines.append(f"fusermount3 -u {shlex.quote(volume.mount_path)} || :")
        lines.append("wait")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", "\n".join(lines)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log.open("ab"),
            env={**os.environ, _MARK: self.id},
            start_new_session=True,
        )
        wait_until((self._dir / "ready").exists, "a machine's volumes", timeout=60)

    def run(self, argv: list[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process on the machine."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                ["nsenter", "--mount", f"--target={self._process.pid}", "--wd=/", *argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**env, _MARK: self.id},
                start_new_session=True,
            )

    def power_off(self, code: int | None = None) -> None:
        """End everything on the machine at once; ``code`` is what Batch says of its tasks."""
        self.lost_with = code
        end_processes(processes_with({_MARK: self.id}), grace=0)
        self._process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)

    def shut_down(self) -> None:
        """Unmount, when all tasks have ended, and end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # rclone writes back what it has yet to; gcsfuse has done so with each close.
            self._process.wait(timeout=300)
        self.power_off()


@dataclass
class _Running:
    """What the service keeps of a job beside its message."""

    job: batch_v1.Job
    tasks: list[batch_v1.TaskStatus]
    logs: dict[int, Path]
    machine: Machine | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class BatchService:
    """The service; runs in threads of the tests.

    Parameters
    ----------
    storage
        URL of the Cloud Storage whose buckets it mounts.
    environment
        Variables that every machine has.
    cores
        Tasks of one job that run at once.

    Attributes
    ----------
    calls
        All calls that came, in order.
    boot_seconds
        How long a machine takes.
    quota
        Most machines at a time; None for any number.
    away
        Whether it answers nothing: UNAVAILABLE to every call.
    refusals
        Codes with which the next calls are refused, each once, whatever they are.
    lost_answers
        How many of the next CreateJob are carried out and then answered UNAVAILABLE.
    cannot_cancel
        Whether CancelJob is refused for want of permission.
    secrets
        What Secret Manager holds, by reference.
    """

    def __init__(
        self, storage: str, environment: Mapping[str, str] | None = None, cores: int = 4
    ) -> None:
        self._storage = storage
        self._environment = dict(environment or {})
        self._cores = cores
        self._jobs: dict[str, _Running] = {}
        self._changed = threading.Condition(threading.RLock())
        self._machines = 0
        self._dir = Path(tempfile.mkdtemp(prefix="pipen-batch-service-", dir="/var/tmp"))
        self._stopping = False
        self.calls: list[Call] = []
        self.boot_seconds = 0.0
        self.quota: int | None = None
        self.away = False
        self.refusals: deque[grpc.StatusCode] = deque()
        self.lost_answers = 0
        self.cannot_cancel = False
        self.secrets: dict[str, str] = {}

    # -- for tests -------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """What a client needs."""
        return {"BATCH_EMULATOR_HOST": self.address}

    def of(self, method: str) -> list[Call]:
        """Return the calls of one method."""
        return [call for call in self.calls if call.method == method]

    def forget_calls(self) -> None:
        """Begin to count anew."""
        self.calls.clear()

    def jobs(self) -> list[batch_v1.Job]:
        """Return all jobs, in the order in which they were created."""
        with self._changed:
            return [self._shown(one) for one in self._jobs.values()]

    def alive(self) -> list[str]:
        """Return the ids of jobs that have not ended."""
        return [
            job.name.rpartition("/")[2]
            for job in self.jobs()
            if job.status.state in (*_ALIVE, JobState.CANCELLATION_IN_PROGRESS)
        ]

    def lose_machine(self, job_id: str, code: int = PREEMPTED) -> None:
        """Take the machine of a job away, as Compute Engine does with Spot machines."""
        one = self._jobs[next(name for name in self._jobs if name.endswith(f"/{job_id}"))]
        assert one.machine is not None
        one.machine.power_off(code)

    def cancel_from_outside(self, job_id: str) -> None:
        """Cancel a job, as somebody else may in the console."""
        self._cancel(next(name for name in self._jobs if name.endswith(f"/{job_id}")))

    def set_quota(self, machines: int | None) -> None:
        """Change the quota."""
        with self._changed:
            self.quota = machines
            self._changed.notify_all()

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen on a loopback port."""
        self._threads = ThreadPoolExecutor(32)
        self._server = grpc.server(self._threads)
        b, log = batch_v1, (ListLogEntriesRequest, ListLogEntriesResponse)
        operation = operations_pb2.Operation.SerializeToString
        batch = {
            "CreateJob": self._handler(self._create_job, b.CreateJobRequest, b.Job.serialize),
            "GetJob": self._handler(self._get_job, b.GetJobRequest, b.Job.serialize),
            "ListJobs": self._handler(
                self._list_jobs, b.ListJobsRequest, b.ListJobsResponse.serialize
            ),
            "ListTasks": self._handler(
                self._list_tasks, b.ListTasksRequest, b.ListTasksResponse.serialize
            ),
            "CancelJob": self._handler(self._cancel_job, b.CancelJobRequest, operation),
        }
        locations = grpc.unary_unary_rpc_method_handler(
            self._list_locations,
            request_deserializer=locations_pb2.ListLocationsRequest.FromString,
            response_serializer=locations_pb2.ListLocationsResponse.SerializeToString,
        )
        logging = {"ListLogEntries": self._handler(self._list_log, log[0], log[1].serialize)}
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler("google.cloud.batch.v1.BatchService", batch),
                grpc.method_handlers_generic_handler(
                    "google.cloud.location.Locations", {"ListLocations": locations}
                ),
                grpc.method_handlers_generic_handler("google.logging.v2.LoggingServiceV2", logging),
            ]
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """End it, with everything that runs on its machines."""
        self._stopping = True
        self._server.stop(None).wait()
        for name in list(self._jobs):
            with contextlib.suppress(Refused):
                self._cancel(name)
        wait_until(lambda: not self.alive(), "the end of all jobs")
        self._threads.shutdown()
        shutil.rmtree(self._dir, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- the API ---------------------------------------------------------------------------

    def _handler(
        self, answer: Callable[[Any], Any], request: Any, serialize: Callable[[Any], bytes]
    ) -> grpc.RpcMethodHandler:
        name = request.__name__.removesuffix("Request")

        def handle(message: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append(Call(time.monotonic(), name, message))
            if self.away:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the service is away")
            if self.refusals:
                context.abort(self.refusals.popleft(), "not now")
            try:
                result = answer(message)
            except Refused as refused:
                context.abort(refused.code, str(refused))
            if name == "CreateJob" and self.lost_answers:
                self.lost_answers -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
            return result

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request.deserialize, response_serializer=serialize
        )

    def _create_job(self, request: batch_v1.CreateJobRequest) -> batch_v1.Job:
        name = f"{request.parent}/jobs/{request.job_id}"
        if not _ID.fullmatch(request.job_id):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"invalid job id {request.job_id}")
        job = batch_v1.Job(request.job)
        if len(job.task_groups) != 1 or not job.task_groups[0].task_spec.runnables:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "one task group with runnables, please")
        if not all(_LABEL.fullmatch(value) for value in job.labels.values()):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid label")
        policy = job.allocation_policy.instances
        if policy and policy[0].policy.machine_type.startswith("no-such"):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "machine_type is not found")
        group = job.task_groups[0]
        group.name = f"{name}/taskGroups/group0"
        group.task_count = group.task_count or 1
        job.name = name
        job.uid = f"{request.job_id[:30]}-{uuid.uuid4().hex[:10]}"
        job.create_time = datetime.now(UTC)
        with self._changed:
            if name in self._jobs:
                raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Resource '{name}' already exists")
            tasks = [batch_v1.TaskStatus(state=TaskState.PENDING) for _ in range(group.task_count)]
            one = self._jobs[name] = _Running(job, tasks, {})
            self._move(one, JobState.QUEUED)
        threading.Thread(target=self._live, args=(one,), daemon=True).start()
        return self._shown(one)

    def _find(self, name: str) -> _Running:
        try:
            return self._jobs[name]
        except KeyError:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Resource '{name}' was not found") from None

    def _shown(self, one: _Running) -> batch_v1.Job:
        with self._changed:
            job = batch_v1.Job(one.job)
            counts: dict[str, int] = {}
            for task in one.tasks:
                counts[task.state.name] = counts.get(task.state.name, 0) + 1
            job.status.task_groups = {"group0": batch_v1.JobStatus.TaskGroupStatus(counts=counts)}
            return job

    def _get_job(self, request: batch_v1.GetJobRequest) -> batch_v1.Job:
        return self._shown(self._find(request.name))

    def _list_locations(
        self, request: locations_pb2.ListLocationsRequest, context: grpc.ServicerContext
    ) -> locations_pb2.ListLocationsResponse:
        if self.away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the service is away")
        number = int(request.page_token or 0)  # a page for each
        location = locations_pb2.Location(location_id=LOCATIONS[number])
        more = str(number + 1) if number + 1 < len(LOCATIONS) else ""
        return locations_pb2.ListLocationsResponse(locations=[location], next_page_token=more)

    def _list_jobs(self, request: batch_v1.ListJobsRequest) -> batch_v1.ListJobsResponse:
        wanted = dict(_LABEL_FILTER.findall(request.filter))
        found = [
            job
            for job in self.jobs()
            if job.name.startswith(f"{request.parent}/")
            and all(job.labels.get(key) == value for key, value in wanted.items())
        ]
        start, size = int(request.page_token or 0), request.page_size or 100
        more = str(start + size) if len(found) > start + size else ""
        return batch_v1.ListJobsResponse(jobs=found[start : start + size], next_page_token=more)

    def _list_tasks(self, request: batch_v1.ListTasksRequest) -> batch_v1.ListTasksResponse:
        one = self._find(request.parent.partition("/taskGroups/")[0])
        with self._changed:
            tasks = [
                batch_v1.Task(name=f"{request.parent}/tasks/{number}", status=status)
                for number, status in enumerate(one.tasks)
            ]
        return batch_v1.ListTasksResponse(tasks=tasks)

    def _cancel_job(self, request: batch_v1.CancelJobRequest) -> operations_pb2.Operation:
        if self.cannot_cancel:
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED, "Permission 'batch.jobs.cancel' denied"
            )
        self._cancel(request.name)
        operation = operations_pb2.Operation(name=f"{request.name}/operation", done=True)
        operation.response.Pack(batch_v1.CancelJobResponse.pb(batch_v1.CancelJobResponse()))
        return operation

    def _cancel(self, name: str) -> None:
        one = self._find(name)
        with self._changed:
            if one.job.status.state not in _ALIVE:
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "the job has ended")
            self._move(one, JobState.CANCELLATION_IN_PROGRESS)
            one.cancelled.set()
            self._changed.notify_all()
        if one.machine is not None:
            one.machine.power_off()

    def _list_log(self, request: ListLogEntriesRequest) -> ListLogEntriesResponse:
        uid = re.search(r'job_uid="([^"]+)"', request.filter)
        task = re.search(r"group0-(\d+)/", request.filter)
        lines: list[str] = []
        for one in list(self._jobs.values()):
            if uid and task and one.job.uid == uid[1]:
                path = one.logs.get(int(task[1]))
                lines = path.read_text(errors="replace").splitlines() if path else []
        entries = [LogEntry(text_payload=line) for line in reversed(lines)]
        return ListLogEntriesResponse(entries=entries[: request.page_size])

    # -- the state machine -------------------------------------------------------------------

    def _move(self, one: _Running, state: int) -> None:
        with self._changed:
            before = one.job.status.state.name
            after: batch_v1.JobStatus.State = JobState(state)
            one.job.status.state = after
            text = f"Job state is set from {before} to {after.name} for job {one.job.name}."
            one.job.status.status_events = [*one.job.status.status_events, _event(text)]
            one.job.update_time = datetime.now(UTC)
            self._changed.notify_all()

    def _move_task(self, one: _Running, number: int, state: int, code: int | None = None) -> None:
        with self._changed:
            status = one.tasks[number]
            after = TaskState(state)
            text = f"Task state is updated from {status.state.name} to {after.name}"
            if code is not None:
                text += f" on zones/test-a/instances/1 with exit code {code}."
            status.state = after
            status.status_events = [*status.status_events, _event(text, code)]

    def _live(self, one: _Running) -> None:
        """Take a job through its states; a thread of its own."""
        with self._place_for(one):
            if one.cancelled.is_set():
                self._finish(one)
                return
            self._move(one, JobState.SCHEDULED)
            if not one.cancelled.wait(self.boot_seconds):
                self._boot(one)
                if not one.cancelled.is_set():
                    self._move(one, JobState.RUNNING)
                group = one.job.task_groups[0]
                most = min(group.parallelism or group.task_count, self._cores)
                with ThreadPoolExecutor(most) as pool:
                    list(pool.map(lambda number: self._task(one, number), range(group.task_count)))
                if one.machine is not None and not one.cancelled.is_set():
                    one.machine.shut_down()
            self._finish(one)

    @contextlib.contextmanager
    def _place_for(self, one: _Running) -> Iterator[None]:
        """Wait until the quota allows a machine, and say so in the job's events."""

        def may() -> bool:
            return self.quota is None or self._machines < self.quota or one.cancelled.is_set()

        with self._changed:
            if not may():
                event = _event(_QUOTA.format(uid=one.job.uid, limit=self.quota))
                event.type_ = "OPERATIONAL_INFO"
                one.job.status.status_events = [*one.job.status.status_events, event]
            self._changed.wait_for(may)
            self._machines += 1
        try:
            yield
        finally:
            with self._changed:
                self._machines -= 1
                self._changed.notify_all()

    def _boot(self, one: _Running) -> None:
        volumes = list(one.job.task_groups[0].task_spec.volumes)
        machine = Machine(self._storage, volumes, self._dir / "machines.log")
        one.machine = machine
        if one.cancelled.is_set():
            machine.power_off()

    def _finish(self, one: _Running) -> None:
        with self._changed:
            if one.cancelled.is_set():
                self._move(one, JobState.CANCELLED)
                return
            failed = any(task.state is TaskState.FAILED for task in one.tasks)
            self._move(one, JobState.FAILED if failed else JobState.SUCCEEDED)

    def _task(self, one: _Running, number: int) -> None:
        spec = one.job.task_groups[0].task_spec
        for attempt in range(spec.max_retry_count + 1):
            if one.cancelled.is_set():
                return
            machine = self._machine_for(one)
            self._move_task(one, number, TaskState.RUNNING)
            code = self._attempt(one, machine, number, attempt)
            if machine.lost_with is not None:
                code = machine.lost_with
            if one.cancelled.is_set():
                return
            if code == 0:
                self._move_task(one, number, TaskState.SUCCEEDED, 0)
                return
            last = attempt == spec.max_retry_count or not _is_retried(spec, code)
            self._move_task(one, number, TaskState.FAILED if last else TaskState.PENDING, code)
            if last:
                return

    def _machine_for(self, one: _Running) -> Machine:
        """Return the machine of a job, a new one in place of one that was lost."""
        with self._changed:
            assert one.machine is not None
            if one.machine.lost_with is not None:
                self._boot(one)
            return one.machine

    def _attempt(self, one: _Running, machine: Machine, number: int, attempt: int) -> int:
        """Run the runnables of a task; return its exit code."""
        group = one.job.task_groups[0]
        spec = group.task_spec
        home = self._dir / one.job.uid
        home.mkdir(exist_ok=True)
        log = one.logs.setdefault(number, home / f"task{number}.log")
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self._environment,
            "BATCH_JOB_UID": one.job.uid,
            "BATCH_TASK_INDEX": str(number),
            "BATCH_TASK_COUNT": str(group.task_count),
            "BATCH_TASK_RETRY_ATTEMPT": str(attempt),
            **self._variables(spec.environment),
        }
        limit = spec.max_run_duration.total_seconds() if spec.max_run_duration else None
        deadline = None if not limit else time.monotonic() + limit
        result = 0
        background = []
        for position, runnable in enumerate(spec.runnables):
            if result and not runnable.always_run:
                continue
            argv = self._argv(runnable, home / f"task{number}.{position}.sh")
            if argv is None:
                continue
            process = machine.run(argv, {**env, **self._variables(runnable.environment)}, log)
            if runnable.background:
                background.append(process)
                continue
            code = _wait(process, deadline)
            if code and not runnable.ignore_exit_status:
                result = result or code
        for process in background:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return result

    def _variables(self, environment: batch_v1.Environment) -> dict[str, str]:
        hidden = {name: self.secrets[ref] for name, ref in environment.secret_variables.items()}
        return {**dict(environment.variables), **hidden}

    @staticmethod
    def _argv(runnable: batch_v1.Runnable, file: Path) -> list[str] | None:
        """Return the command line of a runnable; None for a barrier."""
        if runnable.container.image_uri:  # without its image
            container = runnable.container
            first = [container.entrypoint] if container.entrypoint else []
            return [*first, *container.commands]
        if runnable.script.path:
            return [runnable.script.path]
        if runnable.script.text:
            text = runnable.script.text
            file.write_text(text)
            # Not executed itself: a process that another thread starts may hold it open.
            line = text.partition("\n")[0]
            shell = line.removeprefix("#!") if line.startswith("#!") else "/bin/sh"
            return [*shlex.split(shell), str(file)]
        return None


def _wait(process: subprocess.Popen[bytes], deadline: float | None) -> int:
    try:
        code = process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        leader = ProcessRef.of(process.pid)
        end_processes(with_descendants([leader] if leader else []), grace=0)
        process.wait()
        return OVER_TIME
    return code if code >= 0 else 128 - code


def _is_retried(spec: batch_v1.TaskSpec, code: int) -> bool:
    """Apply the lifecycle policies; a failure that none of them names is retried."""
    for policy in spec.lifecycle_policies:
        if code in policy.action_condition.exit_codes:
            return policy.action == batch_v1.LifecyclePolicy.Action.RETRY_TASK
    return True
