"""The jobs of a sweep: each in a process of its own, several at once, resumed after any interruption."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.config import Sweep
from runner.errors import quote_override
from runner.printable import format_loss
from runner.report import aggregate
from runner.runs import lock
from runner.runs.status import STATUS_FILE, actual_state, change_status, initial_status, write_status
from runner.sweeps import results
from runner.sweeps.jobs import JobRunner, JobSource, record_end
from runner.sweeps.local import LocalLauncher
from runner.sweeps.results import Job, Plan
from runner.sweeps.sweep import GridSource
from scripts.status import describe
from tests import programs
from tests.runner.support import COUNTER, files, program, refused, status, statuses, wait_for
from tests.support import ENV

INCIDENT = "incident=incident_${seed}"  # a file for each seed says what happens in its job


def test_a_failed_job_stops_no_other_and_resume_runs_the_unfinished_ones(tmp_path: Path) -> None:
    """Two jobs raise, two are killed, two diverge, two finish, two are duplicates; on resume, none raises."""
    conf = tmp_path / "more" / "experiment"
    conf.mkdir(parents=True)
    for name, rate in (("steady", "0.05"), ("steep", "1e9")):
        (conf / f"{name}.yaml").write_text(f"# @package _global_\nlr: {rate}\nclip:\n  max: 1e12\n")
    for seed, word in ((1, "bug"), (2, "kill")):
        (tmp_path / f"incident_{seed}").write_text(f"{word} 0")
    arguments = ("hydra.searchpath=[file://more]", "seed=1,2,3,4,3", "experiment=steady,steep", INCIDENT)
    done = program("-m", *arguments, "sweep.jobs=2", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 1, done.stderr
    sweep = (tmp_path / "outputs" / "latest").resolve()
    before = statuses(sweep, 10)
    states = ["failed"] * 2 + ["killed"] * 2 + ["finished", "diverged"] * 2 + ["duplicate"] * 2
    assert [each["state"] for each in before] == states
    assert [each["duplicate_of"] for each in before] == [None] * 8 + [4, 5]
    assert [each["reason"] for each in before[:4]] == ["RuntimeError: a bug"] * 2 + ["SIGKILL"] * 2
    assert "RuntimeError: a bug" in (sweep / "0.log").read_text()
    assert "job 3 killed: SIGKILL  (seed=2 experiment=steep)\n" in done.stdout
    check_table(done.stdout, sweep, before)

    for seed in (1, 2):
        (tmp_path / f"incident_{seed}").unlink()
    listed = program("sweep.resume=outputs/latest", "sweep.dry_run=true", cwd=tmp_path, script=COUNTER)
    assert listed.stdout.splitlines()[-1] == "10 jobs, of which 4 would run", listed.stderr
    wrong = program("sweep.resume=outputs/latest", "seed=1", cwd=tmp_path, script=COUNTER)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "seed=1: the jobs stay as" in wrong.stderr
    steep = (conf / "steep.yaml").read_text()
    (conf / "steep.yaml").write_text(steep.replace("1e9", "1e8"))
    changed = program("sweep.resume=outputs/latest", cwd=tmp_path, script=COUNTER)
    assert (changed.returncode, changed.stderr.count("\n")) == (2, 1)
    assert "has changed since it was planned" in changed.stderr
    assert statuses(sweep, 10) == before
    (conf / "steep.yaml").write_text(steep)
    done = program("sweep.resume=outputs/latest", "sweep.jobs=4", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    after = statuses(sweep, 10)
    assert [each["state"] for each in after[:4]] == ["finished", "diverged"] * 2
    assert after[4:8] == before[4:8]
    assert status(sweep / "0_failed_1")["reason"] == "RuntimeError: a bug", "nothing is deleted"
    assert (tmp_path / "outputs" / "latest").resolve() == sweep


def check_table(output: str, sweep: Path, found: list[dict[str, Any]]) -> None:
    """Checks the state and log of every job, the counts, and the command that resumes the sweep."""
    table = output[output.rindex("\njob  state") + 1 :].splitlines()
    shown = sweep.relative_to(sweep.parents[2])
    for number, (row, job) in enumerate(zip(table[1:], found, strict=False)):
        assert row.split()[:2] == [str(number), job["state"]]
        logs = {"failed": f"{shown}/{number}.log", "killed": "", "duplicate": ""}  # the killed jobs had logged nothing
        log = logs.get(job["state"], f"{shown}/{number}/train.log")
        assert row.endswith(log)
        assert row.endswith(".log") == bool(log)
        if job["objective"] is not None:
            assert format_loss(job["objective"]) in row
    assert "seed=3 experiment=steady" in table[5]
    assert "job 3 killed: SIGKILL" not in table, "it was printed when the job ended"
    assert table[-3].startswith("10 jobs: 2 failed, 2 killed, 2 finished, 2 diverged, 2 duplicate; objective: ")
    assert table[-1] == f"sweep: {shown}; to resume it: python train.py sweep.resume={shown}"


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[programs.Program]:
    """A sweep: job 0 has finished, jobs 1 and 2 wait before their fourth step, job 3 has not started."""
    for seed in (2, 3):
        (tmp_path / f"incident_{seed}").write_text("wait 4")
    arguments = ("hydra.sweep.dir=swept", "seed=1,2,3,4", INCIDENT, "sweep.jobs=2", "checkpoint.every=1")
    with programs.Program(COUNTER, "-m", *arguments, cwd=tmp_path) as sweep:
        wait_for(lambda: all((tmp_path / f"incident_{seed}.reached").exists() for seed in (2, 3)))
        assert actual_state(tmp_path / "swept" / "0") == "finished"
        yield sweep


def release_jobs(folder: Path) -> None:
    for path in folder.glob("incident_?"):
        path.unlink()


def check_resumed(folder: Path, first: dict[str, Any]) -> None:
    """Checks that interrupted jobs are resumed from their checkpoints, and that the others start."""
    done = program("sweep.resume=swept", cwd=folder, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    swept = folder / "swept"
    assert [(each["state"], each["step"]) for each in statuses(swept, 4)] == [("finished", 6)] * 4
    assert status(swept / "0") == first
    for name in ("1", "2"):
        assert "resumed after step 4" in (swept / name / "train.log").read_text()
    assert sorted(path.name for path in swept.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_an_interrupted_sweep_interrupts_its_jobs(
    number: signal.Signals, waiting: programs.Program, tmp_path: Path
) -> None:
    busy = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert (busy.returncode, busy.stderr) == (2, "error: swept: another process is running this sweep\n")
    first = status(tmp_path / "swept" / "0")
    waiting.send_signal(number)
    output, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, errors) == (128 + number, "")
    assert [each["state"] for each in statuses(tmp_path / "swept", 3)] == ["finished", *["interrupted"] * 2]
    sent = "SIGTERM" if number == signal.SIGHUP else number.name  # jobs do not handle SIGHUP
    assert [each["reason"] for each in statuses(tmp_path / "swept", 3)[1:]] == [sent] * 2
    assert not (tmp_path / "swept" / "3").exists()
    assert "4 jobs: 1 finished, 2 interrupted, 1 missing" in output
    release_jobs(tmp_path)
    check_resumed(tmp_path, first)


def test_jobs_survive_a_killed_sweep_and_are_not_started_twice(waiting: programs.Program, tmp_path: Path) -> None:
    """The resumed sweep starts only the jobs that are not running."""
    swept = tmp_path / "swept"
    waiting.kill()
    assert waiting.wait(timeout=60) == -signal.SIGKILL
    assert [actual_state(swept / name) for name in ("1", "2")] == ["running"] * 2
    done = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1 is already running, and is not started" in done.stdout
    assert [actual_state(swept / name) for name in "0123"] == ["finished", "running", "running", "finished"]
    for name in ("1", "2"):
        os.kill(status(swept / name)["pid"], signal.SIGTERM)
    wait_for(lambda: all(actual_state(swept / name) == "interrupted" for name in ("1", "2")))
    release_jobs(tmp_path)
    check_resumed(tmp_path, status(swept / "0"))


def test_a_job_that_another_process_resumed_is_not_started(waiting: programs.Program, tmp_path: Path) -> None:
    """Another process resumes job 2 while the sweep runs job 1."""
    swept = tmp_path / "swept"
    waiting.send_signal(signal.SIGINT)
    waiting.wait(timeout=60)
    release_jobs(tmp_path)
    (tmp_path / "incident_2").write_text("wait 6")
    (tmp_path / "incident_2.reached").unlink()
    with programs.Program(COUNTER, "sweep.resume=swept", "sweep.jobs=1", cwd=tmp_path) as sweep:
        wait_for((tmp_path / "incident_2.reached").exists)
        assert program(f"resume={swept / '2'}", cwd=tmp_path, script=COUNTER).returncode == 0
        release_jobs(tmp_path)
        output, errors = sweep.communicate(timeout=60)
    assert (sweep.returncode, errors) == (0, "")
    assert "job 2 is already finished, and is not started" in output
    assert sorted(path.name for path in swept.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]


def test_a_job_that_cannot_be_resumed_stays_interrupted(tmp_path: Path) -> None:
    (tmp_path / "start").touch()
    (tmp_path / "incident").write_text("wait 3")
    arguments = ("seed=1,2", "initial=start", "incident=incident", "hydra.sweep.dir=swept")
    with programs.Program(COUNTER, "-m", *arguments, cwd=tmp_path) as sweep:
        wait_for((tmp_path / "incident.reached").exists)
        sweep.send_signal(signal.SIGINT)
        sweep.wait(timeout=60)
    (tmp_path / "start").unlink()
    done = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"job 0 rejected: initial={tmp_path / 'start'}: no such file" in done.stdout
    assert not (tmp_path / "swept" / "1").exists(), "no further job is started"
    assert status(tmp_path / "swept" / "0")["state"] == "interrupted"


def test_an_error_of_the_sweep_itself_ends_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: JobRunner, source: JobSource) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(JobRunner, "_collect", fail)
    launcher = LocalLauncher(1)
    settings = Sweep(jobs=1)
    jobs = JobRunner(tmp_path, Plan([], []), settings, ["sh", "-c", "sleep 60"], launcher)
    with pytest.raises(OSError, match="no space left"):
        jobs.run(GridSource([Job(0, [], "")]))
    assert [running.process.poll() for running in jobs._running] == [-signal.SIGTERM]


def test_a_relative_path_refers_to_the_same_file_when_a_sweep_is_resumed(tmp_path: Path) -> None:
    """outputs/latest in an argument means the run before the sweep; the sweep is resumed from another folder."""
    assert program(cwd=tmp_path, script=COUNTER).returncode == 0
    given = ("-m", "seed=1,2", "initial=outputs/latest/config.yaml", "hydra.searchpath=[file://.]")
    assert program(*given, cwd=tmp_path, script=COUNTER).returncode == 0
    sweep = (tmp_path / "outputs" / "latest").resolve()
    (tmp_path / "elsewhere").mkdir()
    done = program(f"sweep.resume={sweep}", cwd=tmp_path / "elsewhere", script=COUNTER)
    assert done.returncode == 0, done.stderr


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    terminal, end = os.openpty()
    command = [sys.executable, str(COUNTER), "-m", "seed=1,2", "hydra.sweep.dir=swept"]
    assert subprocess.run(command, cwd=tmp_path, stdout=end, check=False).returncode == 0
    os.close(end)
    written = os.read(terminal, 1 << 16).decode()
    lines = [line.strip() for line in written.replace("\n", "\r").split("\r") if line.strip()]
    assert lines[0] == "2 jobs to run, 1 at once, in swept"
    assert lines[1:5] == [
        "0 of 2 ended, 1 running", "job 0 finished, objective 0.6350  (seed=1)", "1 of 2 ended, 1 running",
        "job 1 finished, objective 0.6450  (seed=2)"]  # fmt: skip
    os.close(terminal)


def test_a_closed_pipe_ends_no_sweep(tmp_path: Path) -> None:
    command = f"{sys.executable} {COUNTER} -m seed=1,2,3 hydra.sweep.dir=swept | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [each["state"] for each in statuses(tmp_path / "swept", 3)] == ["finished"] * 3


def test_a_second_interrupt_kills_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "slow.sh").write_text("trap 'touch noticed' INT\nwhile true; do sleep 0.05; done\n")
    command = ("sweep.command='sh slow.sh'", "hydra.sweep.dir=swept", "seed=1,2")
    with programs.Program(COUNTER, "-m", *command, cwd=tmp_path) as sweep:
        wait_for((tmp_path / "swept" / "0.log").exists)
        sweep.send_signal(signal.SIGINT)
        wait_for((tmp_path / "noticed").exists)
        assert sweep.poll() is None, "the sweep waits for its job"
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(timeout=60) == 130
    (found,) = statuses(tmp_path / "swept", 1)
    assert (found["state"], found["reason"]) == ("killed", "SIGKILL")
    assert not (tmp_path / "swept" / "1").exists()


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_rejected_job_stops_further_starts(keep_going: bool, tmp_path: Path) -> None:
    (tmp_path / "start_1").touch()
    (tmp_path / "start_3").touch()
    arguments = ("-m", "seed=1,2,3", "initial=start_${seed}", "hydra.sweep.dir=swept")
    done = program(*arguments, f"sweep.keep_going={str(keep_going).lower()}", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 1, done.stdout + done.stderr
    states = ["finished", "rejected", *["finished"] * keep_going]
    assert [each["state"] for each in statuses(tmp_path / "swept", len(states))] == states
    assert (tmp_path / "swept" / "2").exists() == keep_going
    reason = f"initial={tmp_path / 'start_2'}: no such file"
    assert f"job 1 rejected: {reason}" in done.stdout
    assert (tmp_path / "swept" / "1.log").read_text() == f"error: {reason}\n"
    (tmp_path / "start_2").touch()
    done = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["state"] for each in statuses(tmp_path / "swept", 3)] == ["finished"] * 3


def test_the_reason_of_a_job_that_never_began_is_its_last_output(tmp_path: Path) -> None:
    (tmp_path / "broken.sh").write_text("echo first; echo 'no such module'; exit 7\n")
    done = program("-m", "seed=1,2", "sweep.command='sh broken.sh'", "hydra.sweep.dir=swept", cwd=tmp_path,
                   script=COUNTER)  # fmt: skip
    assert done.returncode == 1
    assert [each["reason"] for each in statuses(tmp_path / "swept", 2)] == ["no such module"] * 2
    assert [each["state"] for each in statuses(tmp_path / "swept", 2)] == ["failed"] * 2


def test_concurrent_jobs_share_gpus_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,9")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("runner.sweeps.local.cores", lambda: 8)
    launcher = LocalLauncher(4)
    command = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS; read -r line < fifo"]
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    jobs = [launcher.start(tmp_path / str(number), command) for number in range(3)]
    wait_for(lambda: all((tmp_path / f"{number}.log").read_text() for number in range(3)))
    jobs[1].send(signal.SIGKILL)
    wait_for(lambda: jobs[1].poll() is not None)
    jobs.append(launcher.start(tmp_path / "3", command))
    wait_for(lambda: (tmp_path / "3.log").read_text())
    printed = [(tmp_path / f"{number}.log").read_text() for number in range(4)]
    assert printed == ["7 2\n", "9 2\n", "7 2\n", "9 2\n"], "the GPU with the fewest jobs"
    for job in jobs:
        job.send(signal.SIGKILL)
    wait_for(lambda: all(job.poll() is not None for job in jobs))


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = program("-m", "clip=none,norm", "clip.max=0.5,1", "sweep.dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1:-1] for line in lines[1:5]] == [
        ["yes", "clip=none"], ["no,", "duplicate", "of", "0", "clip=none"], ["yes", "clip=norm", "clip.max=0.5"],
        ["yes", "clip=norm", "clip.max=1"]]  # fmt: skip
    assert all("outputs/sweeps/20" in line and line.endswith(f"/{number}") for number, line in enumerate(lines[1:5]))
    assert lines[-1] == "4 jobs, of which 3 would run"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["seed=1,2 target=3 -m", "seed=1,2 --multirun target=3", "-m target=3 seed=1,2"])
def test_flags_and_options_in_any_order(arguments: str, tmp_path: Path) -> None:
    done = program(*arguments.split(), "sweep.dry_run=true", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "2 jobs, of which 2 would run", done.stderr


@pytest.mark.parametrize("name", ["a b", "it's", "a\\b", "a [c]", "~", "$x", "{y}"])
def test_a_sweep_runs_in_a_folder_with_special_characters(name: str, tmp_path: Path) -> None:
    where = tmp_path / name
    where.mkdir()
    done = program("-m", "seed=1", "hydra.sweep.dir=swept", cwd=where, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(where / "swept" / "0")["state"] == "finished"


ODD = "a b [c] it's"  # a folder's name with what a shell and Hydra's grammar read as their own
PYTHON = "python train.py "


def run_printed(line: str, cwd: Path, script: Path = COUNTER) -> subprocess.CompletedProcess[str]:
    """Runs a command that was printed, in place of the shell."""
    python, train, *arguments = shlex.split(line)
    assert (python, train) == ("python", "train.py")
    return program(*arguments, cwd=cwd, script=script)


def test_the_printed_commands_of_a_sweep_run(tmp_path: Path) -> None:
    """Resume, report and job commands, of a sweep whose folder and values have spaces, brackets and quotes."""
    value, folder = "'x [y] \\'z\\''", f"hydra.sweep.dir={quote_override(ODD)}"
    (tmp_path / "x [y] 'z'").write_text("wait 2")
    with programs.Program(COUNTER, "-m", "seed=1,2", f"incident={value}", folder, cwd=tmp_path) as sweep:
        wait_for((tmp_path / "x [y] 'z'.reached").exists)
        sweep.send_signal(signal.SIGINT)
        output, errors = sweep.communicate(timeout=60)
    assert (sweep.returncode, errors) == (130, "")
    (tmp_path / "x [y] 'z'").unlink()
    (resume,) = [line for line in output.splitlines() if "to resume it: " in line]
    done = run_printed(resume.partition("to resume it: ")[2], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["state"] for each in statuses(tmp_path / ODD, 2)] == ["finished"] * 2
    (report,) = [line for line in done.stdout.splitlines() if line.startswith("report: ")]
    assert shlex.split(report)[1:] == ["python", "scripts/report.py", ODD]
    (folder_line,) = [line for line in done.stdout.splitlines() if line.startswith("sweep: ")]
    assert shlex.split(folder_line) == ["sweep:", ODD]


def test_printed_points_are_quoted_for_a_shell(tmp_path: Path) -> None:
    """In the dry run's list, in the lines of the jobs, and in the table."""
    (tmp_path / "a b").write_text("")
    arguments = ("initial='a b',null", "clip.include=[weight],[]", f"hydra.sweep.dir={quote_override(ODD)}")
    listed = program("-m", *arguments, "sweep.dry_run=true", cwd=tmp_path, script=COUNTER)
    done = program("-m", *arguments, cwd=tmp_path, script=COUNTER)
    assert (listed.returncode, done.returncode) == (0, 0), listed.stderr + done.stderr
    path = f"initial='{tmp_path}/a b'"
    point = shlex.join([path, "clip.include=[weight]"])
    row, line = listed.stdout.splitlines()[1], next(x for x in done.stdout.splitlines() if x.startswith("job 0 "))
    assert shlex.split(row) == ["0", "yes", path, "clip.include=[weight]", f"{ODD}/0"]
    assert line.endswith(f"  ({point})")
    assert point in done.stdout[done.stdout.index("job  state") :]
    assert run_printed(PYTHON + point, tmp_path).returncode == 0


def test_the_folder_in_a_summary_is_quoted_for_a_shell(tmp_path: Path) -> None:
    done = program(f"hydra.run.dir={quote_override(ODD)}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("TensorBoard ")]
    assert shlex.split(line) == ["TensorBoard", "tensorboard", "--logdir", ODD]


def test_a_folder_that_hydra_would_interpolate_is_refused(tmp_path: Path) -> None:
    """In the name of the working directory, and of the sweep's own folder."""
    here = tmp_path / "${x}"
    here.mkdir()
    for arguments, cwd in (((), here), (("hydra.sweep.dir='\\${x}'",), tmp_path)):
        done = program("-m", "seed=1,2", *arguments, cwd=cwd, script=COUNTER)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "as an interpolation" in done.stderr
    assert list(here.iterdir()) == []


# -- a cluster


def test_slurm_with_the_local_cluster_of_submitit(tmp_path: Path) -> None:
    """A failed and a killed job stop no other; the plan holds the job IDs."""
    for seed, word in ((1, "bug"), (2, "kill")):
        (tmp_path / f"incident_{seed}").write_text(f"{word} 3")
    slurm = ("sweep.launcher=slurm", "sweep.slurm.cluster=local", "sweep.jobs=3")
    done = program("-m", *slurm, "seed=1,2,3", INCIDENT, "hydra.sweep.dir=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 1, done.stdout + done.stderr
    swept = tmp_path / "swept"
    assert [each["state"] for each in statuses(swept, 3)] == ["failed", "killed", "finished"]
    plan = results.read_plan(swept)
    assert plan is not None
    assert (plan.cluster, sorted(plan.submitted)) == ("local", ["0", "1", "2"])
    assert "RuntimeError: a bug" in (swept / "0.log").read_text()


def test_jobs_at_the_cluster_are_not_submitted_twice(tmp_path: Path) -> None:
    (tmp_path / "incident_1").write_text("wait 2")
    slurm = ("sweep.launcher=slurm", "sweep.slurm.cluster=local", "sweep.jobs=1")
    with programs.Program(COUNTER, "-m", *slurm, "seed=1,2", INCIDENT, "hydra.sweep.dir=swept", cwd=tmp_path) as sweep:
        wait_for((tmp_path / "incident_1.reached").exists)
        sweep.kill()
        sweep.wait(timeout=60)
    (tmp_path / "swept" / "0").rename(tmp_path / "waits")  # as while it waits for a node
    listed = program("sweep.resume=swept", "sweep.dry_run=true", cwd=tmp_path, script=COUNTER)
    assert "no, queued" in listed.stdout, listed.stderr
    (tmp_path / "waits").rename(tmp_path / "swept" / "0")
    os.kill(status(tmp_path / "swept" / "0")["pid"], signal.SIGTERM)
    (tmp_path / "incident_1").unlink()
    going = ("queued", "running")
    wait_for(lambda: results.read(tmp_path / "swept", plan_of(tmp_path / "swept"))[0].state not in going)
    done = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["state"] for each in statuses(tmp_path / "swept", 2)] == ["finished"] * 2


def plan_of(folder: Path) -> results.Plan:
    plan = results.read_plan(folder)
    assert plan is not None
    return plan


def test_submitit_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = 'sweep.launcher=slurm needs submitit: pip install -c constraints.txt -e ".[slurm]"'
    assert refused(["-m", "sweep.launcher=slurm", "seed=1,2"], capsys) == line


def test_slurm_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    line = refused(["-m", "sweep.launcher=slurm", "seed=1,2"], capsys)
    assert line == "sweep.launcher=slurm: this machine has no sbatch; sweep.slurm.cluster=local runs the jobs here"
    assert files(tmp_path) == {}


# -- what is running


def test_running_has_one_definition(tmp_path: Path) -> None:
    """The lock; where the lock is not visible, the scheduler; without one, the heartbeat."""
    job = Job(0, [], "")
    write_status(tmp_path, initial_status(3) | {"pid": 2**22 + 1})
    assert actual_state(tmp_path) == results.read_one(tmp_path, job).state == "killed", "no lock on this machine"
    change_status(tmp_path, host="elsewhere")
    assert actual_state(tmp_path) == results.read_one(tmp_path, job).state == "running", "a fresh heartbeat"
    assert actual_state(tmp_path, scheduled=False) == "killed"
    change_status(tmp_path, updated="2020-01-01T00:00:00+00:00")
    assert actual_state(tmp_path) == "killed"
    assert actual_state(tmp_path, scheduled=True) == "running"
    change_status(tmp_path, updated=None)
    assert actual_state(tmp_path) == "killed", "damaged"
    lock.hold(tmp_path)
    assert actual_state(tmp_path) == results.read_one(tmp_path, job).state == "running", "whatever its status says"
    lock.release(tmp_path)
    assert results.read_one(tmp_path / "nowhere", job).state == "missing"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "finished"}', "\0\xff"])
def test_a_status_that_is_not_json_or_incomplete_is_missing(text: str, tmp_path: Path) -> None:
    (tmp_path / STATUS_FILE).write_text(text)
    assert results.read_one(tmp_path, Job(0, [], "")).state == "missing"


@pytest.mark.parametrize("value", [[], {}, "x", 1.5, True, None])
@pytest.mark.parametrize("name", sorted(initial_status(1)))
def test_a_damaged_field_of_a_status_raises_nothing(name: str, value: Any, tmp_path: Path) -> None:
    """Whoever reads it: the table of a sweep, a resume, the report and scripts/status.py."""
    for host in ("elsewhere", initial_status(1)["host"]):
        for state in ("running", "finished", "failed"):
            folder = tmp_path / f"{host}_{state}" / "0"
            folder.mkdir(parents=True)
            Plan([], [Job(0, ["seed=1"], "")]).write(folder.parent)
            write_status(folder, initial_status(3) | {"state": state, "host": host, name: value})
            found = results.read(folder.parent, plan_of(folder.parent))
            assert "1 job: " in results.table(found)
            assert describe(folder)
            assert aggregate.build([folder.parent]).trials[0].result == found[0]


def test_recording_how_a_job_ended_leaves_its_folder_unlocked(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    write_status(folder, initial_status(3) | {"pid": 2**22 + 1})
    assert record_end(folder, Job(0, [], ""), -signal.SIGKILL, None).state == "killed"
    code = "import sys; from pathlib import Path; from runner.runs import lock; lock.hold(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], env=ENV, check=True)
