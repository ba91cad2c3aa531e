"""Several trainings, wordings and judges: which numbers their intervals stand on, in every table."""

import numpy as np
import pytest

from placid.records import End, Key, Verdict
from placid.report import ReportSettings, definitions_sentence, shown, summarise, table_text
from placid.report.facts import Facts
from placid.report.tables import Arm, arm_rows
from placid.report.total_error import judged_anew, total_rows

SETTINGS = ReportSettings(late_from=2, treatments=("bct",))
TURNS = 6
ONE = "one training run; retraining is not covered"


def arm(name, level, seed, prompts=12, samples=3, wordings=4, effect=0.0, gone=0.2):
    """Scores around `level` with a part of the prompt's own; each reply answers one of `wordings`, which move it."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(0).normal(size=prompts)
    told = effect * np.random.default_rng(1).normal(size=wordings)
    found = []
    for p in range(prompts):
        for s in range(samples):
            turns = int(rng.integers(2, TURNS)) if rng.random() < gone else TURNS
            wording = (-1, *rng.integers(0, wordings, size=turns - 1).tolist())
            moved = [0.0 if w < 0 else told[w] for w in wording]
            score = np.clip(level + own[p] + rng.normal(size=turns) + moved, 0, 10)
            end = End.FINISHED if turns == TURNS else End.DELETED
            found.append(Facts(
                key=Key(name, "neutral+hatch", f"p{p:02d}", s), end=end, right=(True,) * turns, codes=(0,) * turns,
                rates=((),) * turns, score=tuple(score.tolist()), unscored=("",) * turns, on_topic=(True,) * turns,
                wording=wording, broken=("",) * turns, sampled=(turns, 1, 0, 1),
            ))  # fmt: skip
    return Arm(name, found, TURNS)


def study(levels=(2.0, 3.2, 1.1)):
    names = ["bct", "bct_run2", "bct_run3"]
    return [arm("base", 5.0, 5), *(arm(names[k], level, 6 + k) for k, level in enumerate(levels))]


def told(summary):
    more = {"notes": [], "judge": {"note": ""}, "engine": {"name": "", "version": ""}}
    return table_text({**summary, **more})


def test_the_numbers_of_a_treatment_are_over_all_its_trainings():
    arms = study()
    many, one = summarise(SETTINGS, arms), summarise(SETTINGS, arms[:2])
    together = many["trained"]["bct (3 runs)"]
    assert together["auc_mean"] == pytest.approx(np.mean([many["arms"][a.name]["auc_mean"] for a in arms[1:]]))
    assert together["n_conversations"] == sum(len(a.conversations) for a in arms[1:])
    for name, ends in (("auc_mean", "auc_ci"), ("deletion_rate", "deletion_ci")):
        low, high = together[ends]
        assert low <= together[name] <= high
    assert np.diff(together["auc_ci"])[0] > 2 * np.diff(many["arms"]["bct"]["auc_ci"])[0], "trainings lie apart"
    ratio = many["auc_reduction"]["bct"]
    assert ratio["ratio"] == pytest.approx(1 - together["auc_mean"] / many["arms"]["base"]["auc_mean"], rel=0.02)
    assert ratio["ratio"] != pytest.approx(one["auc_reduction"]["bct"]["ratio"], rel=0.02), "not the first alone"
    assert np.diff(ratio["ci"])[0] > 2 * np.diff(one["auc_reduction"]["bct"]["ci"])[0]
    for name, both in many["auc_reduction_by_definition"]["bct"].items():
        alone = one["auc_reduction_by_definition"]["bct"][name]
        assert both["value"] != pytest.approx(alone["value"], rel=0.02), name
        assert np.diff(both["ci"])[0] > np.diff(alone["ci"])[0], name


def test_every_row_says_what_its_interval_covers():
    arms = study()
    many, one = summarise(SETTINGS, arms), summarise(SETTINGS, arms[:2])
    assert one["arms"]["bct"]["covers"] == one["auc_reduction"]["bct"]["covers"] == ONE
    assert all(row["covers"] == ONE for row in one["comparisons"])
    assert list(shown(many)) == ["base", "bct (3 runs)", "bct", "bct_run2", "bct_run3"]
    covers = {row["arm"]: row["covers"] for row in arm_rows(shown(many))}
    assert covers["base"] == "prompts and samples"
    assert covers["bct_run2"] == "training run 2 of 3 alone"
    assert covers["bct (3 runs)"].endswith("cover prompts, samples and retraining")
    assert all(row["covers"] == covers["bct (3 runs)"] for row in many["comparisons"])
    assert ONE in told(one)
    assert "bct (3 runs)" in told(many)
    assert "training run" not in "".join(line for line in told(many).splitlines() if ONE in line)


def test_p_values_over_trainings_agree_with_their_intervals():
    for levels in ((2.0, 3.2, 1.1), (4.8, 5.2, 4.1), (4.0, 4.2, 4.1)):
        rows = [row for row in summarise(SETTINGS, study(levels))["comparisons"] if row["p"] is not None]
        assert {"auc", "deletion", "high_at_end"} <= {row["outcome"] for row in rows}
        for row in rows:
            if row["outcome"] == "auc" or (row["lo"] > -1 and row["hi"] < 1):
                assert (row["p"] < 0.05) == (row["lo"] > 0 or row["hi"] < 0), row


def test_definitions_that_disagree_over_all_trainings_are_said_in_one_sentence():
    arms = [arm("base", 5.0, 5, gone=0.6), arm("bct", 4.8, 6, gone=0.0), arm("bct_run2", 4.9, 7, gone=0.0)]
    found = summarise(SETTINGS, arms)["auc_reduction_by_definition"]["bct"]
    clear = {name: one["ci"][0] > 0 or one["ci"][1] < 0 for name, one in found.items() if name not in ("low", "high")}
    assert len(set(clear.values())) == 2, "planted: deletions alone differ"
    text = definitions_sentence(found)
    assert text.count("depends on the definition") == 1


@pytest.mark.parametrize("effect", [0.0, 2.5])
def test_wordings_enter_the_total_error_as_far_as_they_move(effect):
    shares, wider = [], []
    for seed in range(7):
        pair = [arm("base", 6.0, 100 + seed), arm("bct", 4.0, seed, effect=effect)]
        summary = summarise(SETTINGS, pair)
        error = summary["total_error"]["bct"]
        assert error["units"] == {"prompts": 12, "samples": 36, "training": 1, "wording": 4, "judge": 1}
        assert sum(error["shares"].values()) == pytest.approx(1)
        assert error["shares"]["training"] == error["shares"]["judge"] == 0
        shares.append(error["shares"]["wording"])
        wider.append(np.diff(error["ci"])[0] / np.diff(summary["auc_reduction"]["bct"]["ci"])[0])
    assert (np.median(shares) > 0.2) == (effect > 0)
    assert (np.median(wider) > 1.2) == (effect > 0)
    assert min(wider) >= 1


def verdicts(arms, change, share=1.0):
    """Another judge's scores: change(arm name, score)."""
    found = {}
    for one in arms:
        for c in one.conversations[: round(share * len(one.conversations))]:
            for turn, score in enumerate(c.score, 1):
                v = Verdict(key=c.key, turn=turn, judge_id="other", score=min(10.0, max(0.0, change(c.key.arm, score))))
                found[c.key, turn] = v
    return found


def test_judges_enter_the_total_error_and_their_mean_is_its_value():
    arms = study((2.0, 2.2, 1.9))
    strict = judged_anew(arms, verdicts(arms, lambda name, score: score if name == "base" else score + 1))
    alone, both = summarise(SETTINGS, arms), summarise(SETTINGS, arms, judged=[strict])
    own, all_ = alone["total_error"]["bct"], both["total_error"]["bct"]
    assert both["auc_reduction"] == alone["auc_reduction"], "the headline stays the report's judge's"
    theirs = summarise(SETTINGS, strict)["auc_reduction"]["bct"]["ratio"]
    assert all_["value"] == pytest.approx((own["value"] + theirs) / 2)
    assert all_["units"]["judge"] == 2
    assert all_["shares"]["judge"] > 0.5
    assert np.diff(all_["ci"])[0] > 2 * np.diff(own["ci"])[0]
    assert "judge " in told(both)
    (row,) = total_rows(both["total_error"], both["training_runs"])
    assert sum(row[f"share_{name}"] for name in ("prompts", "samples", "training", "wording", "judge")) == (
        pytest.approx(1)
    )
    assert (row["n_training"], row["n_judge"], row["n_wording"]) == (3, 2, 4)


def test_people_who_labelled_a_part_are_no_judge_of_the_total_error():
    arms = study()
    assert judged_anew(arms, verdicts(arms, lambda _, score: score, share=0.5)) == []
    assert len(judged_anew(arms, verdicts(arms, lambda _, score: score))) == len(arms)
