"""A study as Slurm jobs: what its stages need, and how they are queued."""

from collections.abc import Callable
from pathlib import Path

from placid.cluster import preflight, slurm
from placid.cluster.preflight import Needs
from placid.cluster.sbatch import Stage
from placid.cluster.site import SiteSettings
from placid.cluster.site import read as read_site
from placid.config import parse_overrides
from placid.records import BadInputError
from placid.study.checks import online, ready
from placid.study.runs import StudyRun, claim
from placid.study.settings import StudySettings, read
from placid.study.stages import pending, stages_of

WHOLE = "study"
"""What one submits: this, or the name of a stage."""


def stages(settings: StudySettings) -> list[Stage]:
    """The stages of the study that have a job of their own, each after the one before it."""
    jobs = [(stage, stage.job(settings)) for stage in stages_of(settings)]
    return [Stage(stage.name, stage.command, job.kind, job.follow, job.gpus) for stage, job in jobs if job]


def chosen(what: str, settings: StudySettings) -> list[Stage]:
    """The stages that are asked for.

    Raises:
        BadInputError: no such stage in this study.
    """
    found = stages(settings)
    if what == WHOLE:
        return found
    one = [stage for stage in found if stage.name == what]
    if not one:
        raise BadInputError(
            f"{what!r} is no stage of this study; submit {WHOLE}, {', '.join(stage.name for stage in found)}"
        )
    return one


def _missing(stages: list[Stage], settings: StudySettings, say: Callable[[str], None]) -> list[Stage]:
    """Of a run that is there already, the jobs that have something to do."""
    claimed = claim(settings)
    folder = claimed.run_dir.path
    if not claimed.exists():
        return stages
    missing = pending(StudyRun(settings, claimed.run_dir, Path(), claimed.prompts, say))
    for name, words in missing.items():
        say(f"to do: {name}: {words}")
    if not missing:
        say(f"nothing is missing in {folder}")
    return [stage for stage in stages if stage.name in missing]


def needs(settings: StudySettings) -> Needs:
    """What the study asks of a cluster."""
    inputs = {arm.prompts for arm in settings.arms.values()} | {settings.prompts}
    if settings.pairs:
        inputs.add(settings.pairs.instruct)
    return Needs(
        model=settings.model,
        loads_model=settings.engine.kind == "vllm",
        tensor_parallel=settings.engine.tensor_parallel,
        kv_gib=settings.engine.kv_gib,
        online=online(settings),
        shared=(settings.root, settings.checkpoints, *sorted(inputs)),
    )


def engines(settings: StudySettings, site: SiteSettings) -> int:
    """How many engines the study has on this site.

    Raises:
        BadInputError: its nodes cannot hold the model.
    """
    wanted = needs(settings)
    if wanted.loads_model:
        preflight.check_gpus(site, wanted)
    return site.nodes * site.engines(wanted.tensor_parallel)


def placed(config: Path, overrides: list[str], site: SiteSettings) -> list[str]:
    """The overrides with those that follow from the profile: engines, launcher, ranks. What the user said stands.

    Raises:
        BadInputError: the config is wrong.
    """
    settings, said = read(config, overrides), {key for key, _ in parse_overrides(overrides)}
    engines = site.nodes * site.engines(settings.engine.tensor_parallel)
    derived = {"workers": engines} if settings.launcher == "ray" or site.nodes > 1 else {}
    if site.nodes > 1:
        derived |= {"launcher": "ray"}
    if settings.train:
        derived |= {"train.recipe.processes": site.train_nodes * site.ranks()}
    return [
        *overrides,
        *(word for key, value in derived.items() if key not in said for word in (f"--{key}", str(value))),
    ]


def submit(
    what: str,
    config: Path,
    profile: Path,
    sweep: list[str],
    dry_run: bool,
    words: list[str],
    say: Callable[[str], None],
) -> None:
    """Check everything, then queue the jobs (or with dry_run only print their scripts).

    what: WHOLE or a stage. sweep: key=a,b,c words. words: overrides, --site.key of the profile and others of the study.

    Raises:
        BadInputError: anything wrong, before anything is queued or written.
    """
    from placid.cluster import submit as sending  # submitit

    given, theirs = sorted_words(words)
    site = read_site(profile, theirs)
    if not site.engines(read(config, given).engine.tensor_parallel):
        raise BadInputError(f"gpus_per_node = {site.gpus_per_node} cannot hold one engine of this config")
    overrides = placed(config, given, site)
    settings = read(config, overrides)
    points = sending.points_of(sweep, settings.name)
    every = [read(config, [*overrides, *point]) for point in points] or [settings]
    found = chosen(what, settings)
    for one in every:
        preflight.check_profile(site, found, needs(one))
    if what == WHOLE and not points:
        found = _missing(found, settings, say)
        if not found:
            return
    runs = [one.root / one.name for one in every]
    home = settings.root / f"{settings.name}.sweep" if points else runs[0]
    submission = sending.Submission(found, site, config, overrides, runs, points, sending.new_folder(home))
    texts = submission.texts()
    if not slurm.here() and not dry_run:
        raise BadInputError("no sbatch on this machine; run this on a login node, or look at it with --dry-run")
    unasked = "" if slurm.here() else "no sbatch on this machine"
    try:
        if not unasked:
            preflight.check_cluster(site, found)
            preflight.check_scripts(texts)
    except slurm.SlurmError as error:
        if not dry_run:
            raise
        unasked = str(error)
    if dry_run:
        for name, text in texts.items():
            say(f"# ---- {submission.folder / name}.sbatch\n{text}")
        if unasked:
            say(f"# ---- the cluster was not asked whether it has all this: {unasked}")
        return
    ready(settings)
    sending.check_free(runs)
    for one in every:
        claim(one).make()
    sending.snapshot(submission, texts)
    for name, job in sending.send(submission, texts):
        say(f"{name:<16} job {job}")
    say(f"submission       {submission.folder}")
    say(f"placid status {runs[0]} shows how far it is; the same placid submit goes on after a failure")


def sorted_words(words: list[str]) -> tuple[list[str], list[str]]:
    """(overrides of the study, those of the profile: --site.nodes 8 comes as --nodes 8)."""
    mine, theirs, rest = list[str](), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        target = theirs if word.startswith("--site.") else mine
        target.append(word.replace("--site.", "--", 1) if target is theirs else word)
        if "=" not in word and rest:
            target.append(rest.pop(0))
    return mine, theirs
