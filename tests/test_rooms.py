"""The house rules: who may import whom, where heavy libraries live, and that the README draws the house as it stands."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "placid"
ALL = "committed records checkpoint_files models store render prompts protocol engine rollout judge pairs train organism report evals cluster"
MAY_IMPORT = {
    "patterns": "",
    "committed": "",
    "records": "committed",
    "inputs": "records",
    "config": "records",
    "checkpoint_files": "records",
    "templates": "",
    "models": "records checkpoint_files",
    "environment": "",
    "store": "committed records",
    "render": "records checkpoint_files templates",
    "prompts": "records store",
    "protocol": "committed records",
    "engine": "records checkpoint_files render environment store cluster",
    "rollout": "records protocol engine store render cluster",
    "judge": "committed records engine store render cluster",
    "pairs": "records store",
    "train": "records checkpoint_files models render store environment cluster",
    "organism": "records models render store train",
    "evals": "committed records protocol engine rollout judge store render",
    "report": "committed records store protocol judge",
    "cluster": "records checkpoint_files store environment",
    "status": "records store",
    "study": ALL,
    "commands": "records report study plan",
    "jobs": "records store cluster study",
    "plan": "records models store render protocol rollout judge evals report study",
    "fit": "records models cluster rollout study train",
    "api": "records store judge study",
    "cli": ALL + " environment status study jobs plan fit commands",
}
HEAVY_HOME = {
    "torch": ("models.py", "train/", "organism/"),
    "deepspeed": ("train/",),
    "peft": ("train/", "organism/"),
    "transformers": ("models.py", "render.py", "train/", "organism/"),
    "vllm": ("engine/vllm.py",),
    "ray": ("rollout/ray_workers.py", "judge/pool.py", "cluster/ray_start.py", "cluster/own_ray.py"),
    "submitit": ("cluster/submit.py",),
    "google": ("judge/gemini.py",),
    "aiohttp": ("judge/gemini.py",),
    "huggingface_hub": ("prompts/wildchat.py", "cluster/fetch.py"),
    "inspect_ai": ("report/inspect_log.py",),
    "matplotlib": ("report/figures.py", "report/figures_tones.py", "report/gallery.py", "report/transfer_figure.py"),
    "polars": ("api.py", "store/tables.py", "prompts/wildchat.py", "inputs/rows.py"),
    "zarr": ("store/tables.py",),
}
FILES = sorted(SRC.rglob("*.py"))


def room_of(path):
    parts = path.relative_to(SRC).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path):
    """(line, dotted module) of every import at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: write the import in full"
            if node.module == "placid":
                yield from ((node.lineno, f"placid.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_a_room_imports_only_what_it_may(path):
    room = room_of(path)
    if room == "__init__":
        return
    # these read what users write, and regular expressions, in every room
    allowed = {room, "config", "inputs", "patterns", *MAY_IMPORT[room].split()}
    for line, module in imports(path):
        if module.startswith("placid."):
            other = module.split(".")[1]
            assert other in allowed, f"{path}:{line}: {room} may not import {other} (may: {sorted(allowed)})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_a_heavy_library_stays_home(path):
    place = path.relative_to(SRC).as_posix()
    for line, module in imports(path):
        homes = HEAVY_HOME.get(module.split(".")[0])
        assert homes is None or place.startswith(homes), f"{path}:{line}: {module} lives in {homes}"


def test_no_two_rooms_need_each_other():
    reach = {room: set(others.split()) for room, others in MAY_IMPORT.items()}
    for _ in reach:
        reach = {room: seen.union(*(reach[other] for other in seen)) for room, seen in reach.items()}
    assert not [room for room, seen in reach.items() if room in seen]


def test_the_readme_draws_the_house_as_it_stands():
    drawn = set(re.findall(r"^    ([a-z_]+)(?:/|\.py) ", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    built = {room_of(path) for path in FILES} - {"__init__"}
    assert drawn == built == set(MAY_IMPORT), f"README only: {drawn - built}; src only: {built - drawn}"


def test_the_front_door_is_light():
    # also after a study without weights is read and checked
    code = (
        "import sys; from pathlib import Path; from placid import cli, status; from placid.study import checks, settings; "
        "checks.check(settings.read(Path('configs/study/simulate.toml'), [])); "
        f"print([m for m in {sorted(HEAVY_HOME)} if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


TEXT_FILES = {"open", "read_text", "write_text", "NamedTemporaryFile", "fdopen", "FileHandler"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_every_text_file_is_opened_with_its_encoding(path):
    """A locale that is not UTF-8 changes nothing. ruff's PLW1514 sees only what it can infer to be a path."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            name = "open"
        if name not in TEXT_FILES or (
            name == "open" and isinstance(node.func, ast.Attribute) and not is_path_open(node)
        ):
            continue
        words = [
            part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        binary = any("b" in word and set(word) <= set("rwxab+") for word in words)
        named = any(keyword.arg == "encoding" for keyword in node.keywords)
        assert binary or named, f"{path}:{node.lineno}: {name}() without encoding"


def is_path_open(node):
    """path.open("rb"), and not os.open(path, flags), gzip.open(path) or an object's own open()."""
    owner = node.func.value
    return not (isinstance(owner, ast.Name) and owner.id in ("os", "gzip", "self", "webbrowser", "zarr", "writer"))
