"""The import graph runs one way, and on-call's commands import nothing heavy."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("updater", "rehearsal", "regularizers", "compression", "store", "dags")
THIRD_PARTY_CORE = {
    "torch",
    "lightning",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "tqdm",
    "torchao",  # inside functions alone, as a test below has it
    "triton",  # torch brings it where there are GPUs; without one only tests ask for it
}
CORE = (
    *("updater.nemotron", "updater.train", "updater.compress", "updater.evaluate"),
    "updater.settings",
)
LIGHT = (
    *("gate", "release", "objections", "config", "workspace", "cli", "outcome", "statistics"),
    *("periods", "nemotron.heads"),
)


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


@cache
def imported(path: Path, *, top_level_only: bool = False) -> frozenset[str]:
    """Absolute module names imported by a file; those under TYPE_CHECKING left out."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_typing:
            node.body = []
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            known = modules()
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` is an edge to the module, not to the package's names.
            names |= {name if name in known else str(node.module) for name in whole}
    return frozenset(names)


def graph() -> dict[str, set[str]]:
    """Module -> our modules that it imports."""
    known = modules()
    return {
        name: {target for target in imported(path) if target in known and target != name}
        for name, path in known.items()
    }


@pytest.mark.parametrize("package", ["rehearsal", "regularizers", "store", "dags"])
def test_a_lower_floor_imports_none_of_the_others(package: str) -> None:
    for name, path in modules().items():
        if name.split(".")[0] == package:
            others = {t for t in imported(path) if t.split(".")[0] in set(OURS) - {package}}
            assert not others, f"{name} imports {others}"


def test_compression_imports_regularizers_alone_of_ours() -> None:
    for name, path in modules().items():
        if name.split(".")[0] == "compression":
            ours = {t.split(".")[0] for t in imported(path)} & set(OURS)
            assert ours <= {"compression", "regularizers"}, f"{name} imports {ours}"


def test_there_are_no_circles() -> None:
    edges = graph()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name not in done:
            for target in edges[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_only_the_command_line_imports_the_command_line() -> None:
    for name, targets in graph().items():
        if not name.startswith("updater.cli"):
            assert not any(t.startswith("updater.cli") for t in targets), name


def test_store_never_imports_torch() -> None:
    for name, path in modules().items():
        if name.startswith("store"):
            assert "torch" not in {t.split(".")[0] for t in imported(path)}, name


def test_torch_in_rehearsal_is_only_for_mixing() -> None:
    for name, path in modules().items():
        if name.startswith("rehearsal") and name != "rehearsal.mix":
            assert "torch" not in {t.split(".")[0] for t in imported(path)}, name


def test_the_training_core_needs_only_the_training_libraries() -> None:
    known = modules()
    todo = [n for n in known if n.startswith((*CORE, "rehearsal", "regularizers", "compression"))]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for target in imported(known[name]):
            top = target.split(".")[0]
            if target in known:
                todo.append(target)
            elif top not in OURS:
                ok = top in THIRD_PARTY_CORE or top in sys.stdlib_module_names
                assert ok, f"{name} imports {target}"


def test_torchao_is_imported_where_a_weight_is_quantized_or_read() -> None:
    """Its NVFP4 is a prototype: what breaks with another version are these alone."""
    users = {n for n, path in modules().items() if any("torchao" in t for t in imported(path))}
    users -= {"updater", "updater.torchao_guard"}
    assert users == {
        "updater.compress.quantize.pack",
        "updater.nemotron.incoming",
        "updater.nemotron.unpack",
    }
    for name in users:
        at_once = imported(modules()[name], top_level_only=True)
        assert not any(target.startswith("torchao") for target in at_once), name


def test_the_dag_files_import_airflow_and_the_standard_library() -> None:
    """And what they share: their folder is put on the path, so that it can be copied anywhere."""
    airflow = ("airflow.sdk", "airflow.providers.standard")
    known = modules()
    for name, path in known.items():
        if name.startswith("dags"):
            for target in imported(path):
                is_shared = target.startswith("updater_dags") and f"dags.{target}" in known
                is_library = target.split(".")[0] in sys.stdlib_module_names
                assert is_shared or is_library or target.startswith(airflow), f"{name}: {target}"


@pytest.mark.parametrize("module", LIGHT)
def test_on_call_waits_for_no_heavy_import(module: str) -> None:
    code = (
        f"import sys, updater.{module}\n"
        "heavy = {'torch', 'mlflow', 'dvc', 'scipy', 'lightning', 'transformers', 'alembic',"
        " 'airflow', 'matplotlib', 'pandas'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    names = {part for name in modules() for part in name.split(".")}
    assert not names & {"utils", "helpers", "common", "manager", "misc"}
