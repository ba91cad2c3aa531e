"""Tree packing: the same loss and gradients as separate rows, and no branch sees another."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as some
from torch.nn import functional

from placid.render import Rendered
from placid.train import TrainSettings, attention, data, fused, model, tree

torch.set_num_threads(1)  # threads of a small model only wait for one another
MODEL = Path("checkpoints/organism")


@some.composite
def forests(draw):
    """Rows of a few families: a trunk cut at random places, each cut with its own tail; duplicates and prefixes too."""
    rows = []
    for family in range(draw(some.integers(1, 3))):
        trunk = [2, *draw(some.lists(some.integers(3, 40), min_size=20, max_size=60)), 100 + family]
        for _ in range(draw(some.integers(1, 4))):
            cut = draw(some.integers(1, len(trunk)))
            tail = draw(some.lists(some.integers(3, 40), min_size=1, max_size=12))
            rows.append(trunk[:cut] + tail)
    return draw(some.permutations(rows))


def learns_last(rows: list[list[int]], learned: int = 5) -> list[Rendered]:
    return [Rendered(row, [at >= max(1, len(row) - learned) for at in range(len(row))]) for row in rows]


@quick(max_examples=30, deadline=None)
@given(forests(), some.booleans())
def test_every_row_sees_itself_and_nothing_else(rows, share):
    packed = tree.pack(rows, share)
    assert len(packed.ids) == tree.size(rows, share) <= sum(map(len, rows))
    sees = attention.dense(torch.tensor(packed.position), torch.tensor(packed.end), None)[0, 0]
    for row, places in zip(rows, packed.places, strict=True):
        assert [packed.ids[at] for at in places] == row
        assert [packed.position[at] for at in places] == list(range(len(row)))
        for depth, at in enumerate(places):
            assert sees[at].nonzero().flatten().tolist() == places[: depth + 1]


@quick(max_examples=30, deadline=None)
@given(forests(), some.integers(2, 40))
def test_runs_mean_the_same_as_the_dense_mask(rows, window):
    packed = tree.pack(rows)
    position, end = torch.tensor(packed.position), torch.tensor(packed.end)
    for width in (None, window):
        dense = attention.dense(position, end, width)[0, 0]
        seen = torch.zeros_like(dense)
        for run, places, which in attention.by_runs(position, end, width).parts:
            whole = torch.ones(run.stop - run.start, len(places), dtype=torch.bool).tril() if which is None else which
            seen[run, places] = whole
        assert torch.equal(seen, dense)


@quick(max_examples=50, deadline=None)
@given(some.lists(some.lists(some.integers(0, 2), max_size=6), min_size=1, max_size=8), some.integers(1, 8))
def test_families_hold_every_row_once(rows, most):
    families = tree.families(rows, most)
    assert sorted(n for family in families for n in family) == list(range(len(rows)))
    assert max(map(len, families)) <= most


@pytest.fixture(scope="module")
def small_window(tmp_path_factory):
    """The organism with a sliding window of 12 tokens, so that short rows cross it."""
    folder = tmp_path_factory.mktemp("window")
    for file in MODEL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 12}))
    return folder


@pytest.fixture(scope="module", params=["lora", "full"])
def learner(request, small_window):
    built = model.build(TrainSettings(model=small_window, method=request.param))
    if request.param == "lora":  # peft starts with B = 0, where A has no gradient
        for name, parameter in built.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return built.eval()


def gradient(learner: model.Learner) -> torch.Tensor:
    parts = [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
    learner.zero_grad()
    return torch.cat(parts)


def separately(learner: model.Learner, rows: list[Rendered]) -> torch.Tensor:
    """Loss of rows one by one through transformers' own eager attention and masks."""
    config = learner.causal.config
    config._attn_implementation = "eager"
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.ids])
        labels = torch.where(torch.tensor([row.learn]), ids, -100)
        logits = learner.causal(input_ids=ids, use_cache=False).logits.float()
        total = total + functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
    config._attn_implementation = attention.NAME
    return total


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("masks", ["runs", "dense"])
@quick(max_examples=3, deadline=None)
@given(rows=forests())
def test_packed_rows_have_the_loss_and_gradients_of_separate_rows(learner, monkeypatch_masks, masks, share, rows):
    monkeypatch_masks(masks)
    examples = learns_last(rows)
    want = separately(learner, examples)
    want.backward()
    want_gradient = gradient(learner)
    learner.share = share
    got = learner([data.Example((row,)) for row in examples])
    got.backward()
    got_gradient = gradient(learner)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert (got_gradient - want_gradient).norm() / want_gradient.norm() < 1e-4


@pytest.fixture(scope="module")
def monkeypatch_masks():
    """Chooses the attention of the CPU: by runs (what training uses) or with the dense mask (the reference)."""
    used = attention.by_runs

    def choose(kind: str) -> None:
        attention.by_runs = used if kind == "runs" else attention.dense

    yield choose
    attention.by_runs = used


def test_changing_one_branch_moves_no_state_of_another(learner):
    trunk = list(range(50, 90))
    rows = [[*trunk, 3, 4, 5, 6], [*trunk[:30], 7, 8, 9], [*trunk, 10, 11]]
    other = [rows[0], [*trunk[:30], 7, 12, 13], rows[2]]  # the same layout, so the rest is the same bit for bit

    def states(which: list[list[int]]) -> tuple[list[list[int]], torch.Tensor]:
        packed = tree.pack(which)
        position, end = torch.tensor(packed.position), torch.tensor(packed.end)
        decoder = learner.causal.get_decoder()
        mask = attention.masks(learner.causal.config, position, end)
        ids = torch.tensor([packed.ids])
        out = decoder(input_ids=ids, position_ids=position[None], attention_mask=mask, use_cache=False)
        return packed.places, out.last_hidden_state[0].detach()

    (places, before), (places_too, after) = states(rows), states(other)
    for row in (0, 2):
        assert torch.equal(before[places[row]], after[places_too[row]])
    moved = (before[places[1]] - after[places_too[1]]).abs().amax(1)
    assert torch.equal(moved[:31], torch.zeros(31)), "what stands before the change"
    assert (moved[31:] > 1e-3).all()


def test_many_labels_are_computed_in_chunks_with_the_same_gradient():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False)
    hidden = torch.randn(model.CHUNK + 7, 8, requires_grad=True)
    label = torch.randint(0, 50, (len(hidden),))
    got = model.losses(head, hidden, label, 30.0).sum()
    chunked = torch.autograd.grad(got, [hidden, head.weight])
    want = functional.cross_entropy(torch.tanh(head(hidden) / 30) * 30, label, reduction="sum")
    whole = torch.autograd.grad(want, [hidden, head.weight])
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(chunked, whole, strict=True))


def test_padding_of_a_pack_changes_nothing(learner):
    rows = learns_last([[2, *range(50, 80), 3, 4], [2, *range(50, 80), 5, 6, 7]])
    found = []
    for multiple in (1, 16):
        batch = model.collate(rows, torch.device("cpu"), multiple=multiple)
        found.append(learner.token_losses(learner.states(batch)[batch.place], batch.label).detach())
    assert len(batch.ids) % 16 == 0
    assert torch.allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_recomputed_activations_give_the_same_gradients(learner, shares):
    rows = [data.Example((row,)) for row in learns_last([[2, *range(50, 80), 3, 4], [2, *range(50, 80), 5, 6, 7]])]
    learner(rows).backward()
    kept = gradient(learner)
    fused.recompute(learner.causal, *shares)
    learner.train()  # transformers recomputes in training mode only; there is no dropout
    learner(rows).backward()
    learner.eval()
    fused.recompute(learner.causal, 0.0)
    assert torch.allclose(gradient(learner), kept, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_packed_steps_equal_separate_rows_in_every_split(processes, method, small_window, tmp_path):
    from tree_ranks import move_adapter

    draw = random.Random(3)
    trunks = [[2, *(draw.randrange(3, 200) for _ in range(60))] for _ in range(3)]
    ids = [trunk[: draw.randrange(20, 61)] + [draw.randrange(3, 200) for _ in range(9)] for trunk in trunks * 4]
    rows = learns_last(ids)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = str(Path(__file__).parent / "tree_ranks.py")
    words = [
        script,
        str(small_window),
        method,
        str(tmp_path / "rows.json"),
        str(tmp_path / "out.pt"),
        "0",
        "1",
        "2",
        "3",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *launcher, *words], check=True, env=environment)
    reference = model.build(TrainSettings(model=small_window, method=method)).eval()
    move_adapter(reference)
    want = separately(reference, rows)
    want.backward()
    grads = {name: p.grad for name, p in reference.named_parameters() if p.requires_grad and p.grad is not None}
    whole = torch.cat([grad.flatten() for grad in grads.values()])
    for zero, found in torch.load(tmp_path / "out.pt").items():
        got = torch.cat([found["grads"][name].flatten() for name in grads])
        loss, grad = abs(found["loss"] / want.item() - 1), ((got - whole).norm() / whole.norm()).item()
        print(f"{method}, {processes} processes, ZeRO {zero}: loss off by {loss:.1e}, gradients by {grad:.1e}")
        assert loss < 1e-5
        assert grad < 1e-4
