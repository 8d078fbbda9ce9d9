"""A registered version answers in a clean process, and what it says is the greedy completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from store.aliases import Aliases
from store.checkpoints import Checkpoints
from store.errors import NotFoundError, StoreError
from store.registry import Registry
from updater.errors import InputError
from updater.nemotron import checkpoint
from updater.serving import Completer, _load_pyfunc, open_pointer, prompts_of

PROMPTS = ["card was lost\nIntent:", "why", "a much longer question about a transfer of money"]


@pytest.fixture(scope="module")
def stored(tiny_json: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoints, str]:
    folder = tmp_path_factory.mktemp("serving")
    (folder / "tiny.json").write_text(tiny_json)
    made = checkpoint.create(
        str(folder / "tiny.json"), PROMPTS, folder / "made", vocabulary_size=300, seed=1
    )
    store = Checkpoints(str(folder / "checkpoints"), folder / "cache")
    return store, store.add(made)


@pytest.fixture(scope="module")
def completer(
    stored: tuple[Checkpoints, str], tmp_path_factory: pytest.TempPathFactory
) -> Completer:
    return _load_pyfunc(str(point(stored, tmp_path_factory.mktemp("pointer"))))


def point(stored: tuple[Checkpoints, str], folder: Path) -> Path:
    store, digest = stored
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({"uri": store.uri(digest), "digest": digest}))
    return path


def slowly(stored: tuple[Checkpoints, str], prompt: str, num_tokens: int) -> str:
    """The greedy completion by whole forward passes: no cache, no `generate`."""
    store, digest = stored
    model, tokenizer = checkpoint.load(store.local(digest))
    ids = tokenizer(prompt)["input_ids"]
    length = len(ids)
    for _ in range(num_tokens):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[length:], skip_special_tokens=True)


def test_completions_are_greedy_and_a_batch_changes_none(
    stored: tuple[Checkpoints, str], completer: Completer
) -> None:
    together = completer.predict(PROMPTS, {"max_new_tokens": 9})
    assert together == [slowly(stored, prompt, 9) for prompt in PROMPTS]
    assert together == [completer.predict([p], {"max_new_tokens": 9})[0] for p in PROMPTS]
    assert all(not text.startswith(prompt) for text, prompt in zip(together, PROMPTS, strict=True))


def test_a_completion_stops_at_the_end_token(
    stored: tuple[Checkpoints, str], completer: Completer, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = completer._model.lm_head.weight
    towards_the_end = torch.zeros_like(head)
    kept = head.detach().clone()
    try:
        with torch.no_grad():
            head.copy_(towards_the_end)
        # All logits are equal, so the first id wins; make that one an end token.
        monkeypatch.setattr(completer, "_ends", lambda: [0, completer._tokenizer.eos_token_id])
        assert completer.predict("why", {"max_new_tokens": 50}) == [""]
    finally:
        with torch.no_grad():
            head.copy_(kept)
    assert completer._tokenizer.eos_token_id in Completer._ends(completer)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"prompt": "a"}, ["a"]),
        (pd.DataFrame({"id": [1, 2], "prompt": ["a", "b"]}), ["a", "b"]),
        (pd.Series(["a", "b"]), ["a", "b"]),
        ([], []),
    ],
)
def test_what_prompts_may_be(given: object, prompts: list[str]) -> None:
    assert prompts_of(given) == prompts


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"text": ["a"]}), "columns text. one must be called prompt"),
        ({"text": "a"}, "one must be called prompt"),
        ([1], "prompt 1. must be text"),
        (7, "prompt 7"),
        (["a", None], "prompt None"),
    ],
)
def test_what_prompts_may_not_be(given: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prompts_of(given)


def test_bad_parameters(completer: Completer) -> None:
    for limit in (0, -1, 2.5, True, "many"):
        with pytest.raises(InputError, match="max_new_tokens"):
            completer.predict(["a"], {"max_new_tokens": limit})
    with pytest.raises(InputError, match="at least one token"):
        completer.predict([""])


def test_a_store_that_has_moved(
    stored: tuple[Checkpoints, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, digest = stored
    pointer = tmp_path / "checkpoint.json"
    pointer.write_text(json.dumps({"uri": f"file:///gone/{digest}", "digest": digest}))
    with pytest.raises(NotFoundError, match="no checkpoint"):
        open_pointer(pointer)
    monkeypatch.setenv("UPDATER_STORE_CHECKPOINTS", store.location)
    assert open_pointer(pointer) == store.local(digest)
    monkeypatch.setenv("UPDATER_STORE_CHECKPOINTS", "s3://checkpoints/{workspace}")
    assert open_pointer(point(stored, tmp_path)) == store.local(digest), "by what was recorded"


def test_a_damaged_checkpoint_is_not_loaded(
    stored: tuple[Checkpoints, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, digest = stored
    other = Checkpoints(str(tmp_path / "store"), tmp_path / "cache")
    other.add(store.local(digest))
    (tmp_path / "store" / digest / "model.safetensors").unlink()
    monkeypatch.setenv("UPDATER_STORE_CHECKPOINTS", other.location)
    with pytest.raises(StoreError, match=r"model\.safetensors is missing"):
        open_pointer(point(stored, tmp_path))


def test_the_deployed_version_answers_in_a_clean_process(
    stored: tuple[Checkpoints, str], completer: Completer, tmp_path: Path
) -> None:
    store, digest = stored
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(uri, str(tmp_path / "artifacts"), "tickets")
    registry.create()
    run_id = registry.open_run("u1", run_name="n", parameters={})
    version = registry.register(
        run_id,
        key="u1",
        checkpoint_uri=store.uri(digest),
        checkpoint_digest=digest,
        tags={},
        description="",
    )
    Aliases(uri, "tickets").set("deployed", version)
    script = """
import json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/tickets@deployed")
prompts = json.loads(input())
print(json.dumps([
    model.predict(prompts, params={"max_new_tokens": 9}),
    model.predict(pandas.DataFrame({"prompt": prompts}), params={"max_new_tokens": 9}),
    model.predict({"prompt": prompts[:1]}),
]))
"""
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(PROMPTS),
        env={**clean, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    as_list, as_table, one = json.loads(done.stdout.splitlines()[-1])
    assert as_list == as_table == completer.predict(PROMPTS, {"max_new_tokens": 9})
    assert one == completer.predict(PROMPTS[:1])
    assert "WARNING mlflow" not in done.stderr
