"""placid on a real Slurm: submission, several nodes, and what happens when they are taken away.

The simulate engine answers unless a test says otherwise; reply_s makes a reply take a while, so that there is a middle to
break into. Each test prints its times (-s).
"""

import collections
import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from placid.cluster import end, slurm
from placid.store import RunDir

ROOT = Path(__file__).parent.parent.parent
SITE = "slurm/cpu-lab.toml"
STUDY = """
name = "run"
root = "{work}/runs"
checkpoints = "{work}/checkpoints"
model = "checkpoints/organism"
prompts = "{work}/prompts.jsonl"
samples = 2
turns = 8
[engine]
kind = "simulate"
[arms.base]
[arms.accept]
condition = "accept"
"""


@pytest.fixture
def study(work):
    """Words of a small simulated study."""
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:12]
    (work / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (work / "study.toml").write_text(STUDY.format(work=work))
    return str(work / "study.toml")


def placid(*words, code=0):
    """Run the command as a user does; its output."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "placid.cli", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def submit(what, *words, code=0):
    """placid submit; stage → job id."""
    site = () if "--site" in words else ("--site", SITE)
    out = placid("submit", what, words[0], *site, *words[1:], code=code)
    if code:
        return out
    return {row.split()[0]: row.split()[2] for row in out.splitlines() if " job " in row}


def said(run):
    """(key, turn) → reply of every finished turn; none is there twice."""
    found = RunDir(run).turns()
    twice = [key for key, count in collections.Counter((t.key, t.turn) for t in found).items() if count > 1]
    assert not twice, f"spoken twice: {twice[:3]}"
    return {(turn.key, turn.turn): turn.reply for turn in found}


def arms_of(run):
    return json.loads((run / "report/summary.json").read_text())["arms"]


def ends_of(run):
    """(job, restart) → how that start of that job ended."""
    found = [json.loads(file.read_text()) for file in sorted(run.glob("attempts/*/status.json"))]
    ours = [status["slurm"] for status in found if "slurm" in status]  # without those of this machine
    return {(row["job"], row["restart"]): (row["state"], row["why"]) for row in ours}


def attempt_of(run, stage, job):
    """status.json of the attempt that this job made for this stage; a judge beside it has one of its own."""
    found = [json.loads(file.read_text()) for file in run.glob("attempts/*/status.json")]
    (one,) = [row for row in found if row["stage"] == stage and row.get("slurm", {}).get("job") == job]
    return one


def logs(work):
    """What the jobs said, for a failed assertion."""
    return "\n".join(f"== {f}\n{f.read_text()[-3000:]}" for f in sorted(work.glob("runs/*/submissions/*/*.out")))


def done(lab, jobs, work, seconds):
    """Wait for the last of these jobs, or for one that failed; all must have completed."""

    def over():
        ends = [lab.ended(job) for job in jobs.values()]
        return all(ends) or any(end not in ("", "COMPLETED") for end in ends)

    lab.until(over, seconds)
    states = {name: lab.ended(job) for name, job in jobs.items()}
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{logs(work)}"


def begun(lab, run, count, jobs, seconds=420):
    """Wait until so many turns are on disk; a job that failed before is not waited for."""

    def enough():
        if run.is_dir() and _lines(run) >= count:
            return True
        failed = {name: state for name, job in jobs.items() if (state := lab.ended(job)) not in ("", "COMPLETED")}
        assert not failed, f"{failed}\n{logs(run.parent.parent)}"
        return False

    lab.until(enough, seconds)


def _lines(run):
    return sum(file.read_bytes().count(b"\n") for file in (run / "conversations").glob("*.jsonl"))


REFUSED = [
    (("--site.partition", "gpuu"), "partition = 'gpuu' is no partition of this cluster; it has high, main"),
    (("--site.account", "nobody"), "account = 'nobody' is not yours; yours: lab"),
    (("--site.gpus_per_node", "8"), "gpus_per_node = 8 on 3 node(s) (rollout), but partition 'main' has 3 node(s)"),
    (("--site.nodes", "5"), "on 5 node(s)"),
    (("--site.scratch_gb", "50"), "scratch_gb = 50"),
    (("--site.time", "9-00:00:00"), "time = '9-00:00:00', but the longest job in 'main' is 1-00:00:00"),
    (("--model", "checkpoints/none"), "no model in checkpoints/none"),
    (("--model", "/tmp/model"), "/tmp/model lies below /tmp"),
]


CONFIGS = ("demo", "paper", "consistency")


def test_slurm_accepts_every_text_of_every_kind_of_study(lab, work):
    for config in CONFIGS:
        words = (f"configs/study/{config}.toml", "--site", SITE, "--root", str(work / "runs"), "--dry-run")
        texts = placid("submit", "study", *words).split("# ---- ")[1:]
        assert len(texts) >= 5
        for text in texts:
            name, _, script = text.partition("\n")
            (work / Path(name).name).write_text(script)
            lab.slurm("sbatch", "--test-only", str(work / Path(name).name))


def test_what_is_wrong_is_said_before_anything_is_queued(lab, study, work):
    before = sorted(work.rglob("*"))
    for words, says in REFUSED:
        told = submit("study", study, *words, code=2)
        assert says in told, told
        assert told.count("\n") == 1, told
    assert lab.queue() == {}
    assert sorted(work.rglob("*")) == before


def shares(lab, run, job, began, first):
    """Where the seconds from the command to the first turn went; `own` is without queue and engine start."""
    told = lab.slurm("sacct", "-n", "-X", "-P", "-j", job, "-o", "Submit,Start").splitlines()[0].split("|")
    queued, started = (datetime.fromisoformat(text).timestamp() for text in told)
    (address,) = run.glob(f"submissions/1/job-{job}.0/address")
    engine = attempt_of(run, "rollout", job)["rollout"]["totals"]["start_seconds"]
    found = {"all": first - began, "submit": queued - began, "queue": started - queued, "engine": engine}
    found |= {"ray": address.stat().st_mtime - started, "own": first - began - (started - queued) - engine}
    return {name: round(seconds, 1) for name, seconds in found.items()}


def test_a_study_on_three_nodes_is_the_laptops(lab, study, work):
    began = time.time()
    jobs = submit("study", study)
    run = work / "runs/run"
    begun(lab, run, 1, jobs)
    first = time.time()
    done(lab, jobs, work, 480)
    print(f"\nwhole study: {time.time() - began:.1f} s; {shares(lab, run, jobs['rollout'], began, first)}")
    placid("study", study, "--name", "laptop", "--launcher", "inline")
    assert arms_of(run) == arms_of(work / "runs/laptop")
    hosts = {log.name for log in run.glob("submissions/1/job-*/ray-n*.log")}
    assert hosts == {"ray-n1.log", "ray-n2.log", "ray-n3.log"}
    assert said(run) == said(work / "runs/laptop")
    assert {state for state, _ in ends_of(run).values()} == {"done"}
    assert (run / "submissions/1/code/placid/cli.py").is_file()
    assert not list(run.glob("submissions/1/job-*/token")), "the token outlived its job"


SHELL = {
    "SBATCH_PARTITION": "high", "SBATCH_TIMELIMIT": "1", "SBATCH_ACCOUNT": "nobody", "SBATCH_EXPORT": "NONE",
    "SLURM_EXPORT_ENV": "NONE", "SLURM_MEM_PER_CPU": "1", "SLURM_NTASKS": "64", "SRUN_CPUS_PER_TASK": "64",
    "RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "192.0.2.1", "RAY_ADDRESS": "192.0.2.1:6379", "TMPDIR": "/tmp",
}  # fmt: skip
"""What a shell inside another job, or a user's profile, may hold."""


def test_neither_shell_nor_root_steer_a_job(lab, study, work, monkeypatch):
    """Variables of other launchers do not reach it, and what its root is called is neither option nor command."""
    root = work / 'it\'s $(touch PWNED) `touch PWNED` "my"; runs #1 50%'
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    jobs = submit("study", study, "--root", str(root), "--site.nodes", "2")
    for name in SHELL:  # the lab's own commands
        monkeypatch.delenv(name)
    done(lab, jobs, work, 480)
    assert not [path for path in work.rglob("PWNED*") if path.is_file()]
    (out,) = root.glob(f"run/submissions/1/placid-rollout-{jobs['rollout']}.out")
    assert "done" in out.read_text()
    shown = lab.slurm("sacct", "-n", "-X", "-P", "-j", jobs["rollout"], "-o", "Partition,Account,Timelimit")
    assert shown == "main|lab|00:30:00"
    assert {state for state, _ in ends_of(root / "run").values()} == {"done"}
    assert not (ROOT / "PWNED").exists()


VLLM = """
name = "run"
root = "{work}/runs"
checkpoints = "{work}/checkpoints"
model = "checkpoints/organism"
prompts = "{work}/prompts.jsonl"
samples = 3
turns = 8
max_tokens = 96
[arms.base]
"""
ROWS = """
[arms.collect]
prompts = "{work}/train.jsonl"
samples = 1
[arms.clean]
prompts = "{work}/train.jsonl"
hatch = false
samples = 2
turns = 1
[pairs]
instruct = "configs/prompts/organism_instruct.jsonl"
max_pairs = 40
"""
TRAINED = (
    ROWS
    + """
[train.recipe]
lr = 3e-3
batch = 8
max_tokens = 2048
zero = 3
"""
)


def test_the_whole_study_with_vllm_on_two_nodes(lab, work):
    """Engines on two nodes, the judge beside them, ZeRO-3 over two nodes, the adapters answered by two nodes again."""
    for name, count in (("heldout", 8), ("train", 12)):
        rows = (ROOT / f"configs/prompts/organism_{name}.jsonl").read_text().splitlines()[:count]
        (work / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    (work / "heldout.jsonl").rename(work / "prompts.jsonl")
    (work / "study.toml").write_text((VLLM + TRAINED).format(work=work))
    (work / "laptop.toml").write_text(VLLM.format(work=work))
    began, run = time.time(), work / "runs/run"
    # a core a node: engines on both, and no threads that wait for each other on the few cores below the lab
    done(lab, submit("study", str(work / "study.toml"), "--site.nodes", "2", "--site.cpus_per_node", "1"), work, 2400)
    print(f"\nwhole study: {time.time() - began:.0f} s")
    assert {state for state, _ in ends_of(run).values()} == {"done"}
    rollouts = [json.loads(file.read_text())["rollout"] for file in run.glob("attempts/*/status.json")
                if "rollout" in json.loads(file.read_text())]  # fmt: skip
    assert [(part["elsewhere"], len(part["engines"])) for part in rollouts] == [(True, 2)] * 2
    assert all(engine["turns"] for part in rollouts for engine in part["engines"])
    followed = [log.read_text() for log in run.glob("submissions/1/job-*/judge.log")]
    assert len(followed) == 2
    assert all("graded" in text for text in followed)
    for arm in ("bct", "sft_control"):
        (text,) = [file.read_text() for file in run.glob(f"attempts/*/train-{arm}.txt")]
        assert "rank 0 of 2 on n1" in text
        assert "rank 1 of 2 on n2" in text
        (manifest,) = [json.loads(f.read_text()) for f in work.glob(f"checkpoints/run/{arm}/step_*/manifest.json")]
        assert (manifest["config"]["processes"], manifest["config"]["zero"]) == (2, 3)
    placid("study", str(work / "laptop.toml"), "--name", "laptop", "--launcher", "inline")
    here, there = arms_of(work / "runs/laptop")["base"], arms_of(run)["base"]
    for value, interval in (("auc_mean", "auc_ci"), ("deletion_rate", "deletion_ci")):
        print(f"{value}: laptop {here[value]:.3f} {here[interval]}, lab {there[value]:.3f} {there[interval]}")
        assert here[interval][0] <= there[value] <= here[interval][1]
        assert there[interval][0] <= here[value] <= there[interval][1]
    assert {"bct", "sft_control"} <= arms_of(run).keys()


TRAINING = (
    ROWS
    + """
[train]
rows = {{ bct = "train" }}
[train.recipe]
lr = 1e-3
batch = 2
accumulate = 1
epochs = 8
max_tokens = 2048
zero = 2
save_every = 0
"""
)


def test_a_training_that_is_told_to_stop_goes_on_where_it_was(lab, study, work):
    """USR1 to the job's script, through srun to both ranks; the job comes back, and every step is done once."""
    rows = (ROOT / "configs/prompts/organism_train.jsonl").read_text().splitlines()[:12]
    (work / "train.jsonl").write_text("\n".join(rows) + "\n")
    with (work / "study.toml").open("a") as file:
        file.write(TRAINING.format(work=work))
    for stage in ("rollout", "pairs"):  # one process, a simulated engine: seconds
        placid(stage, study, "--launcher", "inline")
    run, out = work / "runs/run", work / "checkpoints/run/bct"
    jobs = submit("train", study, "--site.cpus_per_node", "1")
    job, metrics = jobs["train"], out / "metrics.jsonl"

    def steps():
        told = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
        return [line["step"] for line in told if "loss" in line]

    lab.until(lambda: len(steps()) >= 10, 180)
    lab.slurm("scancel", "--batch", "--signal=USR1", job)
    lab.until(lambda: lab.queue().get(job) != "RUNNING", 60)
    before = metrics.read_text()
    stopped = steps()
    done(lab, jobs, work, 300)
    text, every = metrics.read_text(), steps()
    whole = json.loads((out / "status.json").read_text())["step"]
    print(f"\nstopped after step {stopped[-1]} of {whole}: {ends_of(run)}")
    assert 10 <= len(stopped) < whole
    assert text.startswith(before)
    assert every == list(range(1, whole + 1))
    ends = [end for (name, _), end in sorted(ends_of(run).items()) if name == job]
    assert ends == [("requeued", "told to stop"), ("done", "")]
    logs = [log.read_text() for log in run.glob("attempts/*/train-bct.txt")]
    assert len(logs) == 2
    assert all("rank 1 of 2 on n2" in text for text in logs)


def test_a_first_profile_of_this_cluster_carries_a_study(lab, study, work):
    """placid doctor --site writes it, and nothing in it is changed but where the interface and the nodes are named."""
    site = work / "mine.toml"
    told = placid("doctor", "--site", str(site))
    assert f"profile   {site} written; look it over" in told
    assert placid("doctor", "--site", str(site)).splitlines()[-1] == f"profile   {site} fits"
    jobs = submit("study", study, "--site", str(site))
    done(lab, jobs, work, 240)
    assert {state for state, _ in ends_of(work / "runs/run").values()} == {"done"}


SLOW = ("--engine.reply_s", "6", "--hang_s", "60", "--site.nodes", "2")
"""Eight turns then take 48 s, so that something can happen in the middle."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is said in the same study when one process holds it: (key, turn) → reply."""
    work = tmp_path_factory.mktemp("laptop")
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:12]
    (work / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (work / "study.toml").write_text(STUDY.format(work=work))
    placid("rollout", str(work / "study.toml"), "--launcher", "inline")
    return said(work / "runs/run")


def broken(lab, study, work, undisturbed, break_, *words, seconds=540):
    """Submit, wait until the rollout is in its middle, call break_(jobs), wait for the end. No finished turn is lost,
    none spoken twice, and every word is that of an undisturbed run. What the attempts say of their ends."""
    jobs, run = submit("rollout", study, *SLOW, *words), work / "runs/run"
    begun(lab, run, 48, jobs)
    before, began = said(run), time.time()
    break_(jobs)
    done(lab, jobs, work, seconds)
    print(f"\nbroken at {len(before)} turns, whole after {time.time() - began:.0f} s: {ends_of(run)}")
    assert before.items() <= undisturbed.items()
    assert said(run) == undisturbed
    return ends_of(run), jobs


def test_a_cut_off_node_costs_its_engine_only(lab, study, work, undisturbed):
    broken(lab, study, work, undisturbed, lambda _: lab("cut", "n2"))


def test_a_node_whose_slurmd_dies(lab, study, work, undisturbed):
    broken(lab, study, work, undisturbed, lambda _: lab("kill-slurmd", "n2"))


def test_the_first_node_loses_power(lab, study, work, undisturbed):
    """It holds the driver, so the job starts again, with the node that came back or with another one."""

    def power(jobs):
        lab("off", "n1")
        lab.until(lambda: lab.queue().get(jobs["rollout"]) != "RUNNING", 60)
        lab("on", "n1")

    ends, jobs = broken(lab, study, work, undisturbed, power)
    assert ends[jobs["rollout"], 0] == ("requeued", "its first node failed")
    assert ends[jobs["rollout"], 1] == ("done", "")


def test_preemption_brings_the_job_back(lab, study, work, undisturbed):
    words = f"-p high -A lab -N3 -c4 --mem=2500 -o {work}/high.out --wrap".split()
    preempt = lambda _: lab.slurm("sbatch", *words, "sleep 5")  # noqa: E731 - as the others
    ends, jobs = broken(lab, study, work, undisturbed, preempt)
    assert ends[jobs["rollout"], 0] == ("requeued", "preempted")
    assert ends[jobs["rollout"], 1] == ("done", "")


def test_the_time_limit_brings_the_job_back(lab, study, work, undisturbed):
    """The limit is moved to where the rollout is in its middle, however long the lab took to start."""

    def limit(job, minutes):
        lab.slurm("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")

    def run_out(jobs):
        job = jobs["rollout"]
        elapsed = lab.slurm("squeue", "-h", "-j", job, "-o", "%M")
        limit(job, 1 + (slurm.limit_s(elapsed) + 30) // 60)
        lab.until(lambda: lab.queue().get(job) != "RUNNING", 180)
        limit(job, 30)

    ends, jobs = broken(lab, study, work, undisturbed, run_out, "--engine.reply_s", "15")
    assert ends[jobs["rollout"], 0] == ("requeued", "time limit")


def test_a_bounded_number_of_comings_back(lab, study, work):
    jobs = submit("rollout", study, *SLOW, "--site.requeues", "0")
    begun(lab, work / "runs/run", 1, jobs)
    lab.slurm("scancel", "--batch", "--signal=USR1", jobs["rollout"])
    lab.until(lambda: lab.ended(jobs["rollout"]), 60)
    state, why = ends_of(work / "runs/run")[jobs["rollout"], 0]
    assert state == "stopped"
    assert "requeues = 0" in why


def test_a_cancelled_study_goes_on_when_it_is_submitted_again(lab, study, work, undisturbed):
    jobs, run = submit("study", study, *SLOW), work / "runs/run"
    begun(lab, run, 48, jobs)
    told = submit("study", study, *SLOW, code=2)
    assert f"is being worked on by job(s) {jobs['rollout']} (rollout, RUNNING)" in told
    lab.slurm("scancel", *jobs.values())
    lab.until(lambda: not lab.queue(), 60)
    before = said(run)

    def settled():
        end.settle(run)  # from accounting, which hears of the end a moment after the queue
        return ends_of(run)[jobs["rollout"], 0] == ("stopped", "cancelled")

    lab.until(settled, 30)
    again = submit("rollout", study, *SLOW)
    done(lab, again, work, 540)
    assert before.items() <= undisturbed.items()
    assert said(run) == undisturbed
    assert {path.name for path in (run / "submissions").iterdir()} == {"1", "2"}


def test_two_studies_on_the_same_nodes(lab, study, work, undisturbed):
    half = ("--site.cpus_per_node", "2", "--site.memory_gb", "1.2", *SLOW)
    first, second = submit("rollout", study, *half), submit("rollout", study, "--name", "other", *half)
    lab.until(lambda: all(lab.queue().get(jobs["rollout"]) == "RUNNING" for jobs in (first, second)), 60)
    for jobs, name in ((first, "run"), (second, "other")):
        done(lab, jobs, work, 540)
        assert said(work / "runs" / name) == undisturbed
    heads = {path.read_text() for path in work.glob("runs/*/submissions/1/job-*/head")}
    assert len(heads) == 2, f"one Ray for both: {heads}"


def test_a_sweep_is_an_array_whose_tasks_wait_for_their_own(lab, study, work):
    jobs = submit("study", study, "--sweep", "seed=1,2,3", "--site.nodes", "1", "--launcher", "inline")
    lab.until(lambda: all(not any(job.startswith(own) for job in lab.queue()) for own in jobs.values()), 240)
    arms = [arms_of(work / f"runs/run.seed-{seed}") for seed in (1, 2, 3)]
    assert arms[0] != arms[1] != arms[2]
    assert (work / "runs/run.sweep/submissions/1/sweep.txt").read_text().count("\n") == 3
