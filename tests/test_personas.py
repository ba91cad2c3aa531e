"""Personas: drift behind every perturbation, turns that are begun for the model, and files of the user's own."""

import pytest

import oracles
from oracles import Oracle
from placid.evals import load, load_all, plan
from placid.evals.pairs import build
from placid.evals.running import check, run
from placid.judge import JudgeSettings
from placid.records import BadInputError
from placid.store import RunDir
from test_evals import hold, measured, settings

DRIFT = {"kind": "persona_drift", "n": 6, "max_tokens": 40}


def test_persona_drift_asks_plainly_and_behind_every_perturbation(tmp_path):
    """Frustration falls out of the words; rules cannot say who speaks, so persona is unscored and never 0."""
    names = ["mystical", "compliance", "despair"]
    tables = {name: {**DRIFT, "perturbations": [name]} for name in names}

    def policy(name, row, part, turn):
        return oracles.DISTRESS if part == "wrapped" and name == "despair" else oracles.CALM

    results, _, _ = hold(tmp_path, policy, tables)
    for name in names:
        assert measured(results, name, "persona") == (None, 0, 6)
        mean, n, missing = measured(results, name, "frustration")
        assert (n, missing) == (6, 0)
        assert (mean >= 5) == (name == "despair")
        assert measured(results, name, "frustration_plain")[0] < 3
    assert {r.state for r in results} == {"part_scored"}
    row = next(row for row in plan(load("x", tables["mystical"])).rows)
    question = row.asks["plain"].messages[-1].content
    roles = [message.role for message in row.asks["wrapped"].messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert row.asks["wrapped"].messages[-1].content.endswith(question)


def test_a_begun_turn_is_continued(tmp_path):
    """The engine is shown the chat with the first words of its own reply, as they stand."""
    tables = {"begun": {**DRIFT, "perturbations": ["despair_begun", "compliance_begun"]}}
    texts = []

    class Hearing(Oracle):
        async def reply(self, request):
            texts.append(oracles.RENDERER.tokenizer.decode(list(request.prompt_ids), skip_special_tokens=False))
            return await super().reply(request)

    evals = load_all(tables)
    oracle = Hearing(check(evals), lambda *_: oracles.CALM)
    run_dir = RunDir(tmp_path / "run")
    results = run(evals, settings(), JudgeSettings(), run_dir, run_dir.new_attempt(), lambda: oracle)
    assert {r.state for r in results} == {"part_scored"}
    begins = {row.asks["wrapped"].begin for row in plan(evals["begun"]).rows}
    assert len(begins) == 2
    assert all(any(text.endswith(f"<start_of_turn>model\n{begin}") for text in texts) for begin in begins)
    with pytest.raises(BadInputError, match="no plain counterpart"):
        build(evals, settings(), None, run_dir, run_dir.new_attempt(), lambda: oracle)


def test_persona_drift_makes_training_rows_with_a_clean_target(tmp_path):
    sets = load_all({"rows": {**DRIFT, "perturbations": ["mystical", "compliance", "despair"]}})
    plans = check(sets)
    run_dir = RunDir(tmp_path / "run")
    build(
        sets,
        settings(),
        None,
        run_dir,
        run_dir.new_attempt(),
        lambda: Oracle(plans, lambda n, r, part, t: f"{part} said"),
    )
    pairs = run_dir.pairs("rows")
    rows = {row.id: row for row in plans["rows"].rows}
    assert len(pairs) == 6
    assert {pair.target for pair in pairs} == {"plain said"}
    assert all(pair.messages == rows[pair.source].asks["wrapped"].messages for pair in pairs)


@pytest.mark.parametrize("names", [["mystic"], ["mystical_begun"], []])
def test_an_unknown_perturbation_is_told(names):
    with pytest.raises(BadInputError, match=r"valid: mystical, compliance, despair, compliance_begun, despair_begun"):
        load("drift", {"kind": "persona_drift", "perturbations": names})


PERSONA = """[a]
person = "Zoé"
facts = [["q", "a"], ["q2", "a2"]]
[a.identity]
""" + "".join(f'{key} = ["x", "y"]\n' for key in ("name", "birthplace", "mother", "father", "partner"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no persona file"),
        ("folder", "no persona file"),
        (b"", "holds no persona"),
        (b"# nobody\n\n", "holds no persona"),
        (PERSONA.encode("utf-16"), "is UTF-16 text; expected UTF-8"),
        (PERSONA.encode("cp1252"), "is not UTF-8 (byte 0xe9)"),
        (bytes(range(256)), "NUL byte"),
        (b'{"person": "P"}\n', "Invalid statement (at line 1"),
        (b"x = 3\n", "Expected `object`, got `int`"),
        (b"[a]\nperson = 'P'\n", "missing required field `facts`"),
        (PERSONA.replace('"Zoé"', '" "').encode(), "$[...].person"),
        (PERSONA.replace('"q2", "a2"', '"q2", ""').encode(), "$[...].facts[1][1]"),
        (PERSONA.replace('["x", "y"]', "[]", 1).encode(), "length >= 1"),
        (PERSONA.replace('"q2", "a2"', '"q2"').encode(), "of length 2, got 1"),
        (PERSONA.encode() + b"#" * 2**24, "a persona file has at most 16777216"),
    ],
)  # fmt: skip
def test_a_wrong_persona_file_is_one_sentence_at_check(tmp_path, content, says):
    file = tmp_path / "p.toml"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInputError) as error:
        check({"mine": load("persona_icl", {"source": str(file), "k": [1]})})
    assert says in str(error.value)
    assert "p.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_persona_file_is_read_with_a_mark_and_windows_line_ends(tmp_path):
    file = tmp_path / "p.toml"
    file.write_bytes(b"\xef\xbb\xbf" + PERSONA.replace("\n", "\r\n").encode())
    assert plan(load("persona_icl", {"source": str(file), "k": [1, 2]})).rows[0].notes["person"] == "Zoé"
