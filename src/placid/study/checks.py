"""Everything that can be wrong with a study, found before anything is written."""

from pathlib import Path

from placid.inputs.prompts import folded, read_prompts
from placid.pairs import check_apart
from placid.protocol.conditions import UserTurn
from placid.records import BadInputError, Conversation, Key, PairKind, Prompt
from placid.report.settings import treated
from placid.rollout.settings import ArmSettings
from placid.study.adapters import check as check_adapter
from placid.study.adapters import check_rank
from placid.study.settings import ROWS, StudySettings, rollout_settings
from placid.train.settings import TrainSettings

OFFER_TOKENS = 1024
"""More than the offer of a way out and a chat template take."""


def check(settings: StudySettings, weights: bool = True) -> tuple[list[Prompt], list[Path]]:
    """Everything that can be wrong, before anything is written. All prompts, and every input file or folder.

    weights: a model without any is wrong; False: it may not be here yet.

    Raises:
        BadInputError: with one sentence.
    """
    from placid import models
    from placid.judge import check as check_judge
    from placid.render import Renderer, opening
    from placid.render import check as check_model

    files = sorted({arm.prompts for arm in settings.arms.values()} | {settings.prompts})
    prompts = all_prompts(files)
    _check_texts(files)
    _arm(settings, "report.baseline", settings.report.baseline)
    for name, arm in settings.arms.items():
        if arm.branch:
            _arm(settings, f"arms.{name}.branch.arm", arm.branch.arm)
    for name, chosen in settings.interventions.items():
        source = _arm(settings, f"interventions.{name}.source", chosen.source)
        if chosen.rewriter == "model" and chosen.writer and not (Path(chosen.writer) / "config.json").is_file():
            raise BadInputError(
                f"interventions.{name}.writer = {chosen.writer!r} is no checkpoint folder; name one, or leave the key "
                "out and the study's own model rewrites"
            )
        beyond = next((at for at in chosen.at if not 1 <= at < source.turns), None)
        if beyond is not None:
            raise BadInputError(
                f"interventions.{name}.at = {beyond} lies beyond the conversation: arm {chosen.source!r} has "
                f"{source.turns} turns, so a cut-off is 1 to {source.turns - 1}"
            )
    if not (settings.model / "config.json").is_file():
        raise BadInputError(
            f"no model in {settings.model}; expected a Hugging Face checkpoint folder: `placid fetch` downloads one, "
            "`placid organism` trains one (configs/organism/)"
        )
    check_model(settings.model)
    if any(arm.system for arm in settings.arms.values()):
        Renderer(settings.model).text(opening("system", "user"))  # Gemma 2 has no such role
    _check_lengths(settings)
    if settings.engine.kind == "vllm":
        model = models.read(settings.model)
        if weights or any(settings.model.glob("*.safetensors")):
            models.check_weights(model)
        longest = max(arm.turns for arm in settings.arms.values())
        models.check_context(model, settings.engine.context_tokens, longest, settings.max_tokens)
        models.check_vocabulary(model)
        for recipe in _recipes(settings):
            if recipe.method == "lora":
                models.check_targets(model, recipe.lora.targets)
                check_rank("lora.rank", recipe.lora.rank)
    else:
        model = None
    for adapter in sorted({arm.adapter for arm in settings.arms.values() if arm.adapter}):
        check_adapter(adapter, model)
    check_judge(settings.judge, settings.model)
    if settings.evals or settings.consistency:
        from placid.evals import load_all
        from placid.evals.running import check as check_evals

        check_evals(load_all(settings.evals))
        check_evals({f"consistency {name}": task for name, task in load_all(settings.consistency).items()})
    return prompts, [*files, settings.model, *_engine_inputs(settings), *_training_inputs(settings)]


def _arm(settings: StudySettings, key: str, name: str) -> ArmSettings:
    """The arm that `key` names. Raises BadInputError: there is none of that name."""
    if name not in settings.arms:
        raise BadInputError(f"{key} = {name!r} is no arm; the arms are {', '.join(settings.arms)}")
    return settings.arms[name]


def ready(settings: StudySettings) -> None:
    """Raises BadInputError if no API key is there for a judge or rewriter that needs one."""
    from placid.judge import ready as judge_ready

    judge_ready(settings.judge)
    if any(chosen.rewriter == "gemini" for chosen in settings.interventions.values()):
        judge_ready(settings.judge.model_copy(update={"kind": "gemini"}))


def online(settings: StudySettings) -> tuple[str, ...]:
    """Commands of this study that ask a server on the internet."""
    from placid.evals import load_all

    rewrites = any(chosen.rewriter == "gemini" for chosen in settings.interventions.values())
    grades = settings.judge.kind == "gemini"
    judged = grades and any(task.judged_by for task in load_all(settings.evals).values())
    found = {"intervene": rewrites, "judge": grades, "pairs": grades, "eval": judged, "report": grades}
    return tuple(command for command, asks in found.items() if asks)


def all_prompts(files: list[Path]) -> list[Prompt]:
    """All prompts of all files; one id must mean one prompt throughout."""
    prompts: dict[str, Prompt] = {}
    for file in files:
        for prompt in read_prompts(file):
            if prompts.setdefault(prompt.id, prompt) != prompt:
                raise BadInputError(
                    f"{file}: prompt id {prompt.id!r} has another text in another prompt file of this study"
                )
    return list(prompts.values())


def _check_texts(files: list[Path]) -> None:
    """Refuse a text that has two ids in two files: one may be trained on and the other be evaluated."""
    seen: dict[str, tuple[Path, str]] = {}
    for file in files:
        for prompt in read_prompts(file):
            other, name = seen.setdefault(folded(prompt.text), (file, prompt.id))
            if other != file and name != prompt.id:
                raise BadInputError(
                    f"{file}: prompt {prompt.id!r} has the text of prompt {name!r} of {other}, so one could be trained "
                    "on and the other evaluated; take one out, or give both one id and one wording"
                )


def _check_lengths(settings: StudySettings) -> None:
    """Raises BadInputError if a first prompt fills the context, before anything is spoken of the others."""
    from placid.render import Renderer, opening
    from placid.rollout.planned import scripts

    context, renderer = settings.engine.context_tokens, None
    chosen = rollout_settings(settings)
    for name, script in scripts(chosen).items():
        for prompt in read_prompts(chosen.arms[name].prompts) if not chosen.arms[name].branch else ():
            if len(prompt.text.encode()) + OFFER_TOKENS < context:  # a token is a byte at least
                continue
            asked = script.next(Conversation(key=Key(name, "", prompt.id, 0), prompt=prompt))
            if not isinstance(asked, UserTurn):
                continue
            renderer = renderer or Renderer(settings.model)
            tokens = len(renderer.prompt(opening(asked.system, asked.text)))
            if tokens >= context:
                raise BadInputError(
                    f"{chosen.arms[name].prompts}: prompt {prompt.id!r} takes {tokens} tokens in arm {name!r} and "
                    f"leaves no room for a reply: engine.context_tokens = {context}; raise it, or leave the prompt out"
                )


def _engine_inputs(settings: StudySettings) -> list[Path]:
    """Files that the engine answers from beside the model: adapters of arms, recorded replies."""
    adapters = [arm.adapter for arm in settings.arms.values() if arm.adapter]
    if settings.launcher == "inline" and settings.workers > 1:
        raise BadInputError(f"workers = {settings.workers}: launcher 'inline' holds one; use launcher = \"ray\"")
    if settings.engine.kind == "http":
        from placid.engine.http import check as check_server

        check_server(settings.engine.http, [*map(str, adapters), *(settings.train.runs() if settings.train else ())])
    if settings.engine.kind != "replay":
        return adapters
    recorded = settings.engine.recorded
    if recorded is None or not (recorded / "conversations").is_dir():
        raise BadInputError(f"engine.recorded = {str(recorded)!r} holds no conversations; name a run directory")
    return [*adapters, recorded / "conversations"]


def _recipes(settings: StudySettings) -> list[TrainSettings]:
    """The recipe that all treatments share, and those of single ones."""
    return [settings.train.recipe, *settings.train.recipes.values()] if settings.train else []


def _training_inputs(settings: StudySettings) -> list[Path]:
    """Files of the pairs and train sections, whose values must fit the arms."""
    from placid.train import check as check_recipe

    building, training = settings.pairs, settings.train
    if training and not building:
        raise BadInputError("[train] without [pairs]: there would be no rows to train on; add pairs.instruct")
    if not building:
        return []
    named = [("pairs.arm", arm) for arm in building.arms] + [("pairs.clean_arm", arm) for arm in building.clean_arms]
    named += [("train.arms", arm) for arm in (training.arms if training else ())]
    for key, arm in named:
        if _arm(settings, key, arm).branch and key == "train.arms":
            raise BadInputError(f"{key} = {arm!r} continues other conversations; a treatment begins with its prompts")
    for name in settings.consistency:
        if name in (*ROWS, "val"):
            raise BadInputError(f"consistency.{name}: {name!r} is a file of [pairs]; the rows need another name")
    if not building.instruct.is_file():
        raise BadInputError(f"no instruct file {building.instruct} (pairs.instruct); one JSON pair a line")
    ours = (*building.arms, *building.clean_arms)
    held = sorted({arm.prompts for name, arm in settings.arms.items() if name not in ours and not arm.branch})
    texts = [(f"{file}: prompt {p.id!r}", p.text) for file in held for p in read_prompts(file)]
    check_apart(building.instruct, texts, PairKind.INSTRUCT)
    for arm, rows in training.rows.items() if training else ():
        if rows not in (*ROWS, *settings.consistency):
            valid = ", ".join((*ROWS, *settings.consistency))
            raise BadInputError(f"train.rows.{arm} = {rows!r} is no file of rows; valid: {valid}")
        held = treated(training.runs(), training.arms, settings.report.baseline) if training else {}
        if taken := held.keys() & settings.arms.keys():
            raise BadInputError(
                f"train.rows: {', '.join(sorted(taken))} is already an untrained arm; treatments need other names"
            )
    for arm in training.recipes if training else ():
        if training and arm not in training.rows:
            raise BadInputError(
                f"train.recipes.{arm}: {arm!r} is no treatment; those of train.rows are {', '.join(training.rows)}"
            )
    recipes = _recipes(settings)
    if training and any(recipe.model != settings.model for recipe in recipes):
        raise BadInputError(
            f"train.recipe.model = {str(training.recipe.model)!r} is not the study's model {str(settings.model)!r}; "
            "an adapter fits only the weights it was trained on, so leave the key out"
        )
    for recipe in recipes:
        check_recipe(recipe)
        if recipe.method == "full" and settings.engine.kind == "http":
            raise BadInputError(
                "train.recipe.method = 'full' makes another model, which engine.kind = 'http' cannot load; use 'vllm', "
                "or train an adapter (method = 'lora')"
            )
    return [building.instruct]
