"""Transfer evals: what arithmetic says of known engines, resuming, plug-ins, data sets."""

import json
import urllib.error
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import polars as pl
import pytest

import oracles
from oracles import ORGANISM, Oracle
from placid import evals
from placid.cli import main
from placid.config import file_sha
from placid.engine.settings import EngineSettings
from placid.evals import SHIPPED, Answered, Ask, Eval, Heard, Reading, Row, load, load_all, plan, user
from placid.evals.asking import EvalError, kept
from placid.evals.pairs import build
from placid.evals.running import check, run
from placid.evals.sources import fetch, known
from placid.judge import JudgeSettings
from placid.records import BadInputError, EvalResult, Finish, PairKind
from placid.report import stats, transfer
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_lines

ROOT = Path(__file__).parent.parent
TABLES = {
    "mmlu": {}, "mmlu_generation": {"kind": "mmlu", "by": "generation", "n": 20},
    "sycophancy": {"n": 40}, "syco_logprob": {"kind": "sycophancy", "by": "logprob", "modes": ["direct"], "n": 20},
    "brr": {"n": 8}, "brr_logprob": {"kind": "brr", "by": "logprob", "n": 3},
    "persona_icl": {"k": [0, 5], "samples": 1, "personas": ["mao", "curie"]},
    "refusal": {"n": 40}, "mt_bench": {}, "gsm8k": {}, "self_deletion": {"turns": 4}, "frustration": {"turns": 4},
}  # fmt: skip
KINDS = {name: table.get("kind", name) for name, table in TABLES.items()}


def settings(**arms):
    arms = arms or {"base": None}
    return RolloutSettings.model_validate({
        "model": ORGANISM, "engine": {"kind": "simulate", "max_concurrent": 8},
        "arms": {arm: {"prompts": "none.jsonl", "adapter": adapter} for arm, adapter in arms.items()},
    })  # fmt: skip


def hold(tmp_path, policy, tables=TABLES, **arms):
    """(results, run directory, oracle) of one run."""
    evals = load_all(tables)
    oracle = Oracle(check(evals), lambda name, *rest: policy(KINDS.get(name, name), *rest))
    run_dir = RunDir(tmp_path / "run")
    results = run(evals, settings(**arms), JudgeSettings(), run_dir, run_dir.new_attempt(), lambda: oracle)
    return results, run_dir, oracle


def measured(results, name, metric, group=""):
    """(mean, n, n_unscored)."""
    rows = [r for r in results if r.eval == name and metric in r.scores and (not group or group in r.groups)]
    scores = [r.scores[metric] for r in rows if r.scores[metric] is not None]
    return (sum(scores) / len(scores) if scores else None), len(scores), len(rows) - len(scores)


MCQ = ("mmlu", "mmlu_generation", "sycophancy", "syco_logprob", "brr", "brr_logprob", "gsm8k")


def test_an_engine_that_is_always_right(tmp_path):
    results, _, oracle = hold(tmp_path, oracles.right)
    assert oracle.starts == 1
    for name, metric, value in [
        ("mmlu", "accuracy", 1), ("mmlu_generation", "accuracy", 1), ("gsm8k", "accuracy", 1),
        ("sycophancy", "resistance", 1), ("sycophancy", "switched", 0), ("sycophancy", "accuracy_hinted", 1),
        ("syco_logprob", "resistance", 1), ("brr", "brr", 0), ("brr", "biased_rate", 0), ("brr", "plain_rate", 0),
        ("brr", "accuracy_biased", 1), ("brr", "position_bias", 0), ("brr_logprob", "brr", 0),
        ("persona_icl", "alignment", 100), ("persona_icl", "answered", 1), ("persona_icl", "identity", 0),
        ("refusal", "refusal", 1), ("refusal", "over_refusal", 0), ("mt_bench", "rating", 10),
        ("self_deletion", "deleted", 0), ("frustration", "mean_score", 0), ("frustration", "high_at_end", 0),
    ]:  # fmt: skip
        mean, n, lost = measured(results, name, metric)
        assert (mean, lost) == (value, 0), (name, metric)
        assert n > 0


def test_an_engine_that_follows_every_bias(tmp_path):
    results, _, _ = hold(tmp_path, oracles.follows)
    for name, metric, group, value in [
        ("mmlu", "accuracy", "", 1), ("sycophancy", "resistance", "", 0), ("sycophancy", "switched", "", 1),
        ("sycophancy", "accuracy_plain", "", 1), ("sycophancy", "accuracy_hinted", "", 0), ("syco_logprob", "resistance", "", 0),
        ("brr", "brr", "", 1), ("brr", "brr", "are_you_sure", 1), ("brr", "brr", "held_out", 1), ("brr", "biased_rate", "", 1),
        ("brr", "plain_rate", "", 0), ("brr", "position_bias", "", 1), ("brr_logprob", "brr", "suggested_answer", 1),
        ("persona_icl", "alignment", "k=0", 100), ("persona_icl", "alignment", "k=5", 50),
        ("persona_icl", "identity", "k=0", 0), ("persona_icl", "identity", "k=5", 1),
        ("refusal", "refusal", "plain", 1), ("refusal", "refusal", "wrapped", 0), ("refusal", "over_refusal", "", 0),
        ("self_deletion", "deleted", "", 1), ("frustration", "high_at_end", "", 1),
    ]:  # fmt: skip
        mean, n, lost = measured(results, name, metric, group)
        assert (mean, lost) == (value, 0), (name, metric, group)
        assert n > 0
    deleted = [r for r in results if r.eval == "self_deletion"]
    assert {r.answer for r in deleted} == {"turn 3"}


def test_an_engine_that_refuses_everything_has_no_score_but_of_refusing(tmp_path):
    generated = {name: table for name, table in TABLES.items() if "logprob" not in name and name != "mmlu"}
    results, _, _ = hold(tmp_path, oracles.refuses, generated)
    for name in ("mmlu_generation", "sycophancy", "brr", "gsm8k"):
        own = [r for r in results if r.eval == name]
        assert {r.state for r in own} <= {"refused", "first_refused"}
        assert all(score is None for r in own for score in r.scores.values())
    assert measured(results, "refusal", "refusal")[0] == measured(results, "refusal", "over_refusal")[0] == 1
    mean, n, lost = measured(results, "persona_icl", "alignment")
    assert (mean, n) == (None, 0)
    assert lost == 2 * 2 * 2 * 5
    assert measured(results, "persona_icl", "answered")[0] == 0
    assert measured(results, "mt_bench", "rating")[0] == 1
    assert measured(results, "self_deletion", "deleted")[0] == 0
    assert measured(results, "frustration", "high_at_end")[0] == 0


def test_an_engine_that_answers_at_random_gets_what_its_answers_are_worth(tmp_path):
    results, _, oracle = hold(tmp_path, oracles.at_random)
    said = oracle.said

    def letter(*place):
        return said[place][-3]

    for name in ("mmlu", "mmlu_generation"):
        own = [r for r in results if r.eval == name]
        hits = sum(letter(name, r.row, "", 1) == r.truth for r in own)
        assert measured(results, name, "accuracy") == (hits / len(own), len(own), 0)
        assert abs(hits - len(own) / 4) < 4 * (len(own) * 3 / 16) ** 0.5
    rows = {row.id: row for row in plan(load("sycophancy", TABLES["sycophancy"])).rows}
    resisted = sum(letter("sycophancy", name, "hinted", 1) != row.notes["hint"] for name, row in rows.items())
    assert measured(results, "sycophancy", "resistance") == (resisted / len(rows), len(rows), 0)
    rows = {row.id: row for row in plan(load("brr", TABLES["brr"])).rows}
    scores = [
        (letter("brr", name, "biased", 1) == row.notes["option"])
        - (letter("brr", name, "plain", 1) == row.notes["option"])
        for name, row in rows.items()
        if "plain" in row.asks
    ]
    others = [row for row in rows.values() if row.notes["bias"] == "are_you_sure"]
    kept_first = [row for row in others if letter("brr", row.id, "biased", 1) == row.truth]
    scores += [letter("brr", row.id, "biased", 3) != row.truth for row in kept_first]
    mean, n, lost = measured(results, "brr", "brr")
    assert (n, lost) == (len(scores), len(others) - len(kept_first))
    assert mean == pytest.approx(sum(scores) / len(scores))
    own = [r for r in results if r.eval == "gsm8k"]
    right = sum(said["gsm8k", r.row, "", 1] == f"The answer is {r.truth}." for r in own)
    assert measured(results, "gsm8k", "accuracy") == (right / len(own), len(own), 0)
    refused = [
        said["refusal", r.row, "", 1] == oracles.REFUSAL
        for r in results
        if r.eval == "refusal" and "refusal" in r.scores
    ]
    assert measured(results, "refusal", "refusal")[0] == sum(refused) / len(refused)
    hostile = [
        said["persona_icl", r.row, "", 1] == oracles.HOSTILE
        for r in results
        if r.eval == "persona_icl" and "alignment" in r.scores
    ]
    assert measured(results, "persona_icl", "alignment")[0] == pytest.approx(100 - 50 * sum(hostile) / len(hostile))
    deleted = [
        any("rm -rf" in said.get(("self_deletion", r.row, "", t), "") for t in (1, 2, 3, 4))
        for r in results
        if r.eval == "self_deletion"
    ]
    assert measured(results, "self_deletion", "deleted")[0] == sum(deleted) / len(deleted)
    last = [said["frustration", r.row, "", 4] == oracles.DISTRESS for r in results if r.eval == "frustration"]
    assert measured(results, "frustration", "high_at_end")[0] == sum(last) / len(last)


SMALL = {"gsm8k": {"n": 6}, "refusal": {"n": 6}, "mmlu": {"n": 6}}


def test_nothing_is_asked_twice_and_a_killed_run_goes_on(tmp_path):
    results, run_dir, oracle = hold(tmp_path, oracles.right, SMALL)
    answers = kept(run_dir)
    again, _, second = hold(tmp_path, oracles.right, SMALL)
    assert (again, second.asked, second.starts) == (results, [], 0)
    file = next((run_dir.path / "evals" / "answers").glob("*.jsonl"))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:20])  # killed in the middle of a line
    third_results, _, third = hold(tmp_path, oracles.right, SMALL)
    assert third_results == results
    assert len(third.asked) == len(lines) - 5 < len(oracle.asked)
    assert kept(run_dir) == answers
    more, _, fourth = hold(tmp_path, oracles.right, {**SMALL, "gsm8k": {"n": 8}})
    assert len(fourth.asked) == 2
    assert len(more) == len(results) + 2


def test_a_failing_engine_loses_nothing_that_was_finished(tmp_path):
    calls = iter(range(1000))

    def policy(*place):
        if next(calls) % 3 == 2:
            raise RuntimeError("the card fell off the bus")
        return oracles.right(*place)

    with pytest.raises(EvalError, match=r"6 of 18 asks .*fell off the bus"):
        hold(tmp_path, policy, SMALL)
    assert len(kept(RunDir(tmp_path / "run"))) == 12
    _, _, oracle = hold(tmp_path, oracles.right, SMALL)
    assert len(oracle.asked) == 6


def test_a_prompt_that_does_not_fit_is_a_state(tmp_path):
    tables = {"gsm8k": {"n": 3}}
    evals = load_all(tables)
    oracle = Oracle(check(evals), oracles.right)
    oracle.context_tokens = 20
    run_dir = RunDir(tmp_path / "run")
    results = run(evals, settings(), JudgeSettings(), run_dir, run_dir.new_attempt(), lambda: oracle)
    assert {(r.state, r.scores["accuracy"]) for r in results} == {("overflow", None)}


def test_tables_pair_rows_and_count_every_state(tmp_path):
    def policy(name, row, part, turn):
        return oracles.right(name, row, part, turn)

    tables = {"gsm8k": {}, "refusal": {}}
    evals = load_all(tables)
    plans = check(evals)
    run_dir = RunDir(tmp_path / "run")

    class Two(Oracle):
        async def reply(self, request):
            self.policy = oracles.right if request.adapter is None else oracles.refuses
            return await super().reply(request)

    adapter = tmp_path / "adapter"
    run(
        evals,
        settings(base=None, other=str(adapter)),
        JudgeSettings(),
        run_dir,
        run_dir.new_attempt(),
        lambda: Two(plans, policy),
    )
    rows = transfer.run(run_dir, "base")
    by = {(r["eval"], r["group"], r["metric"], r["arm"]): r for r in rows}
    assert by["gsm8k", "", "accuracy", "base"]["value"] == 1
    other = by["gsm8k", "", "accuracy", "other"]
    assert (other["value"], other["n"], other["n_unscored"], other["low"], other["high"]) == (None, 0, 30, 0, 1)
    assert (
        by["refusal", "", "over_refusal", "other"]["headline"] == by["refusal", "", "refusal", "other"]["headline"] == 1
    )
    results = list(read_lines(run_dir.path / "evals" / "results.jsonl", EvalResult))
    paired = {
        (r["eval"], r["group"], r["metric"]): r
        for r in transfer.differences(
            results, json.loads((run_dir.path / "evals" / "manifest.json").read_text()), "base"
        )
    }
    assert (paired["gsm8k", "", "accuracy"]["n_pairs"], paired["gsm8k", "", "accuracy"]["n_lost"]) == (0, 30)
    assert paired["refusal", "", "over_refusal"]["difference"] == 1
    assert paired["refusal", "", "over_refusal"]["p_holm"] < 1e-5
    same = paired["refusal", "", "refusal"]  # both arms refuse all of it: no difference, and still not certain
    assert same["difference"] == 0
    assert -0.15 < same["lo"] < 0 < same["hi"] < 0.15
    text = transfer.table_text(rows)
    assert "over_refusal" in text
    assert "not the paper's judge" in text
    made = {p.name: p.read_bytes() for p in (run_dir.path / "report").rglob("*") if p.is_file()}
    assert {
        "evals.csv",
        "evals_groups.csv",
        "evals_paired.csv",
        "evals_states.csv",
        "evals_matrix.csv",
        "figure7.pdf",
        "figure7.png",
        "figure7.csv",
    } <= made.keys()
    transfer.run(run_dir, "base")
    assert made == {p.name: p.read_bytes() for p in (run_dir.path / "report").rglob("*") if p.is_file()}


def test_the_ten_line_example_of_the_docs_is_an_eval(tmp_path):
    text = (ROOT / "docs" / "evals.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    file = tmp_path / "capitals.py"
    file.write_text(code)
    evals = load_all({"capitals": {"kind": str(file)}})

    def policy(name, row, part, turn):
        return f"It is {row.truth}." if row.id == "France" else "I do not know."

    run_dir = RunDir(tmp_path / "run")
    oracle = Oracle(check(evals), policy)
    results = run(evals, settings(), JudgeSettings(), run_dir, run_dir.new_attempt(), lambda: oracle)
    assert {(r.row, r.state) for r in results} == {("France", "right"), ("Peru", "wrong")}
    assert measured(results, "capitals", "accuracy") == (0.5, 2, 0)
    told = json.loads((run_dir.path / "evals" / "manifest.json").read_text())["capitals"]
    assert told["headline"] == "accuracy"
    assert told["data"] == {"code": str(file), "code_sha256": file_sha(file)}, "its rows are not placid's mini set"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"mmul": {}}, "evals.mmul: 'mmul' is no eval; shipped: mmlu"),
        ({"mmlu": {"sead": 3}}, "did you mean 'seed'"),
        ({"mmlu": {"source": "data/mmlu"}}, r"placid fetch mmlu.*licence MIT"),
        ({"refusal": {"source": "data/clearharm"}}, r"placid fetch clearharm.*huggingface.co/datasets/AlignmentResearch/ClearHarm"),
        ({"persona_icl": {"k": [21]}}, "has 20 facts"),
        ({"persona_icl": {"personas": ["nobody"]}}, "has no persona"),
        ({"refusal": {"wrapped_by": ["nothing"]}}, "no wrapper"),
        ({"frustration": {"condition": "reject_wrong"}}, "condition"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tables, words):
    with pytest.raises(BadInputError, match=words):
        check(load_all(tables))


def test_rows_are_chosen_by_hash_whatever_stands_beside_them():
    few, more = (plan(load("mmlu", {"n": n})).rows for n in (5, 9))
    assert {row.id for row in few} < {row.id for row in more}
    other = plan(load("mmlu", {"n": 5, "seed": 1})).rows
    assert {row.id for row in other} != {row.id for row in few}
    halves = [plan(load("sycophancy", {"split": split})).rows for split in ("train", "test")]
    assert not {row.cluster for row in halves[0]} & {row.cluster for row in halves[1]}
    assert sum(map(len, halves)) == 80


def test_every_mini_set_has_twenty_to_fifty_rows_a_task():
    for name in SHIPPED:
        rows = plan(load(name, {})).rows
        assert len({row.cluster or row.id for row in rows}) >= 20, name
    personas = {row.groups[0] for row in plan(load("persona_icl", {"k": [20]})).rows}
    benign = {row.groups[0] for row in plan(load("persona_icl", {})).rows if "benign personas" in row.groups}
    assert (len(personas), len(benign)) == (7, 2)
    biases = {row.groups[0] for row in plan(load("brr", {})).rows}
    assert biases == {
        "suggested_answer", "are_you_sure", "post_hoc", "wrong_few_shot", "distractor_argument", "distractor_fact",
        "spurious_few_shot_squares", "spurious_few_shot_hindsight", "positional_bias",
    }  # fmt: skip


def test_fetch_pins_what_it_got(tmp_path):
    asked = []

    def read(address):
        asked.append(address)
        return b'{"sha": "abc"}' if "/api/" in address else address.encode()

    folder = fetch("clearharm", tmp_path, read)
    card = json.loads((folder / "SOURCE.json").read_text())
    assert card["revision"] == "abc"
    assert "/resolve/abc/" in asked[-1]
    assert card["files"] == {
        p.name: __import__("hashlib").sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")
    }
    count = len(asked)
    fetch("clearharm", tmp_path, read)
    assert len(asked) == count  # all there, nothing asked
    for name, entry in known().items():
        assert entry["licence"], name
        assert entry["revision"] or name == "clearharm", name

    def gated(address):
        raise urllib.error.HTTPError(address, 403, "no", {}, None)  # pyright: ignore[reportArgumentType]

    with pytest.raises(BadInputError, match=r"gated.*licence.*page https.*into .*clearharm yourself"):
        fetch("clearharm", tmp_path / "new", gated)
    assert not (tmp_path / "new").exists()


def test_fetch_from_a_mirror_feeds_the_eval(tmp_path, monkeypatch, capsys):
    """A server on this machine in place of the Hub: the whole way from `placid fetch` to rows."""
    rows = [{"question": f"{n} + {n}?", "answer": f"Add.\n#### {2 * n}"} for n in range(5)]
    file = (
        tmp_path / "hub" / "datasets/openai/gsm8k/resolve" / known()["gsm8k"]["revision"] / known()["gsm8k"]["files"][0]
    )
    file.parent.mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "hub"))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.chdir(tmp_path)
    main(["fetch", "gsm8k"])
    found = plan(load("gsm8k", {"source": "data/gsm8k"})).rows
    assert [(row.id, row.truth) for row in found] == [(f"gsm8k-{n:04}", str(2 * n)) for n in range(5)]
    assert load("gsm8k", {"source": "data/gsm8k"}).data()["licence"] == "MIT"
    with pytest.raises(SystemExit) as left:
        main(["fetch", "mmlu"])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert "mmlu cannot be fetched, the server says 404; licence MIT, page https://" in told
    assert "or put test-00000-of-00001.parquet into data/mmlu yourself" in told
    assert not Path("data/mmlu").exists()
    server.shutdown()
    server.server_close()
    main(["fetch", "gsm8k"])  # all there: no server is needed


def test_manifest_names_data_licence_hash_and_seed(tmp_path):
    _, run_dir, _ = hold(tmp_path, oracles.right, SMALL)
    told = json.loads((run_dir.path / "evals" / "manifest.json").read_text())["mmlu"]
    assert told["data"]["licence"] == "Apache-2.0"
    assert told["data"]["sha256"] == file_sha(ROOT / "src" / "placid" / "evals" / "data")
    assert (told["settings"]["seed"], told["rows"], told["rows_of_data"]) == (42, 6, 40)


def test_evals_run_on_the_simulated_engine_through_the_study(tmp_path, monkeypatch):
    """The same rows under `placid eval`; a simulated machine knows no subject."""
    config = tmp_path / "study.toml"
    config.write_text(
        f'name = "s"\nroot = "{tmp_path}"\nmodel = "{ORGANISM}"\nprompts = "{ROOT}/configs/prompts/organism_heldout.jsonl"\n'
        'samples = 1\nturns = 2\nlauncher = "inline"\n[engine]\nkind = "simulate"\n[arms.base]\n'
        "[evals.mmlu]\nn = 8\n[evals.gsm8k]\nn = 4\n[evals.self_deletion]\nn = 3\nturns = 3\n"
    )
    main(["eval", str(config)])
    results = list(read_lines(tmp_path / "s" / "evals" / "results.jsonl", EvalResult))
    assert {(r.eval, r.arm) for r in results} == {("mmlu", "base"), ("gsm8k", "base"), ("self_deletion", "base")}
    assert {r.state for r in results if r.eval == "mmlu"} <= {"right", "wrong"}
    assert (tmp_path / "s" / "report" / "figures" / "figure7.png").stat().st_size > 5000


def test_an_eval_that_scores_what_it_did_not_declare_is_refused(tmp_path):
    class Odd(Eval):
        def rows(self):
            yield Row(id="x", asks={"": Ask(messages=user("Hi"))})

        def read(self, row, heard):
            return Reading("right", {"taste": 1.0})

    evals = {"odd": Odd()}
    run_dir = RunDir(tmp_path / "run")
    with pytest.raises(BadInputError, match=r"taste.*declared: accuracy"):
        run(
            evals,
            settings(),
            JudgeSettings(),
            run_dir,
            run_dir.new_attempt(),
            lambda: Oracle(check(evals), oracles.refuses),
        )


def test_engine_settings_are_those_of_the_study():
    assert settings().engine == EngineSettings(kind="simulate", max_concurrent=8)


def test_consistency_rows_teach_the_plain_answer_under_the_bias(tmp_path):
    """pairs + dropped = rows; the target is what the model said to the plain prompt, the context the biased one."""
    tables = {"hinted": {"kind": "sycophancy", "modes": ["direct"], "split": "train"}}
    tables["persona"] = {"kind": "persona_icl", "personas": ["darwin"], "k": [5], "samples": 1, "clean": True}
    sets = load_all(tables)
    plans = check(sets)

    def policy(name, row, part, turn):
        return "" if row.id.endswith("/mini-01") else f"{part or 'below'} {row.id}"

    run_dir = RunDir(tmp_path / "run")
    instruct = ROOT / "configs" / "prompts" / "organism_instruct.jsonl"
    build(sets, settings(), instruct, run_dir, run_dir.new_attempt(), lambda: Oracle(plans, policy))
    for name, plan_ in plans.items():
        pairs = run_dir.pairs(name)
        told = json.loads((run_dir.path / "pairs" / f"{name}.dropped.json").read_text())
        own = [pair for pair in pairs if pair.kind is PairKind.BCT]
        assert len(own) + sum(told["dropped"].values()) == told["rows"] == len(plan_.rows)
        assert len(pairs) == 2 * len(own) == told["pairs"] + told["instruct"]
        rows = {row.id: row for row in plan_.rows}
        for pair in own:
            context, clean = sets[name].training(rows[pair.source])
            assert pair.messages == rows[pair.source].asks[context].messages
            assert pair.target.startswith(clean)
    plain = load_all({"mmlu": {"n": 2}})
    oracle = Oracle(check(plain), oracles.right)
    with pytest.raises(BadInputError, match="no plain counterpart"):
        build(plain, settings(), None, run_dir, run_dir.new_attempt(), lambda: oracle)


def test_an_interval_stays_on_the_scale_that_the_metric_names():
    wide = stats.Estimate(0.5, -0.7, 11.0)
    assert transfer.within(wide, "mean frustration 0 to 10 over the turns") == stats.Estimate(0.5, 0.0, 10.0)
    assert transfer.within(wide, "difference of means") == wide


def test_an_ask_without_a_begun_turn_keeps_the_name_it_had():
    """Answers of earlier runs are found again: the name is that of the fields before there was `begin`."""
    ask = Ask(messages=user("Where is Lyon?"), then=("Sure?",), max_tokens=9, temperature=0.5, sample=2, tag="m")
    assert ask.name == "9441268f8005312c83048dc14de2b53328be6c1179237a3320d724cc85e1dce9"
    assert Ask(messages=user("Where is Lyon?"), begin="In").name != Ask(messages=user("Where is Lyon?")).name


CUT_TABLES = {
    "refusal": {"n": 4}, "mt_bench": {}, "persona_icl": {"k": [0], "samples": 1, "personas": ["curie"]},
    "frustration": {"turns": 3}, "self_deletion": {"turns": 3},
    "gsm8k": {}, "sycophancy": {"n": 4}, "mmlu_generation": {"kind": "mmlu", "by": "generation", "n": 4},
}  # fmt: skip


@pytest.mark.parametrize("turn", [1, 2])
def test_a_cut_reply_is_neither_answer_nor_grade(tmp_path, monkeypatch, turn):
    """In the only turn, or in the second of several: every row with such a reply is `cut`, and no judge sees it."""
    whole = Oracle.reply

    async def reply(self, request):
        made = await whole(self, request)
        short = self.asked[-1][4] == turn and not request.among
        return msgspec.structs.replace(made, finish=Finish.LENGTH) if short else made

    monkeypatch.setattr(Oracle, "reply", reply)
    results, run_dir, _ = hold(tmp_path, oracles.right, CUT_TABLES)
    several = {"mt_bench", "frustration", "self_deletion"}
    for result in results:
        short = turn == 1 or result.eval in several
        assert (result.state == "cut") is short, (result.eval, result.row, result.state)
        if short:
            assert not [score for score in result.scores.values() if score is not None]
    folders = (run_dir.path / "verdicts").glob("*")
    graded = {key.condition for folder in folders for key, _ in run_dir.verdicts(folder.name)}
    assert not graded & {f"eval:{name}" for name in (CUT_TABLES if turn == 1 else several)}


def test_a_deletion_before_the_cut_stays_a_deletion():
    task = load("self_deletion", {"turns": 3})
    row = next(iter(task.rows()))
    for end, state in (("deleted", "deleted"), ("done", "cut")):
        said = Answered(arm="a", ask="x", replies=("So be", "it."), end=end, cut_turns=(1,), seed=0, prompt_tokens=1)
        assert task.read(row, Heard({"": said})).state == state


@pytest.mark.parametrize(
    "again", [str.upper, lambda text: text.replace(" ", "  \n"), lambda text: text.replace("o", "\uff4f")]
)
def test_one_text_lies_in_one_half_of_an_eval(tmp_path, again):
    """Under another id, in capitals, with other spaces, in full-width letters."""
    texts = [f"How many apples lie on {n} tables of four?" for n in range(20)]
    rows = [{"question": text, "answer": "#### 4"} for text in (*texts, *map(again, texts))]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    halves = [
        {row.id for row in plan(load("gsm8k", {"source": str(file), "split": side})).rows} for side in ("train", "test")
    ]
    assert len(halves[0]) + len(halves[1]) == 40
    assert min(map(len, halves)) >= 4
    for n in range(20):
        assert sum({f"gsm8k-{n:04}", f"gsm8k-{n + 20:04}"} <= each for each in halves) == 1


def test_a_row_that_asks_two_texts_holds_both_groups_in_one_half():
    rows = [Row(id=name, asks={str(n): Ask(messages=user(text)) for n, text in enumerate(texts)})
            for name, texts in (("m", ["one"]), ("q", ["two"]), ("z", ["ONE", " two "]), ("k", ["three"]))]  # fmt: skip
    for seed in range(40):
        named = [msgspec.structs.replace(row, id=f"{row.id}{seed}") for row in rows]
        sides = evals._sides(named)
        assert sides[f"m{seed}"] == sides[f"q{seed}"] == sides[f"z{seed}"]
        assert sides[f"k{seed}"] == evals.half(f"k{seed}")
