"""The multi-token-prediction head: its layout, its arithmetic, and that it learns to draft."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from heads import with_head
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from updater.errors import InputError
from updater.launch import answer
from updater.launch.draft import aligned, ready
from updater.launch.task import Drafting
from updater.nemotron import checkpoint, files, mtp, presets
from updater.nemotron import tokenizer as tokenizers
from updater.nemotron.layout import mtp_shapes, released_form, tensor_shapes
from updater.nemotron.mtp import MtpHead
from updater.nemotron.weights import released
from updater.settings import TrainingSettings
from updater.train.drafting import NUM_DRAFTS, DraftLikelihood, acceptance
from updater.train.encode import encode
from updater.train.lesson import Lesson
from updater.train.record import Watch
from updater.train.schedule import Plan


@pytest.fixture(scope="module")
def headed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_head(base, tmp_path_factory.mktemp("headed") / "checkpoint")


@pytest.mark.parametrize(
    ("name", "num_tensors", "num_elements"),
    [
        # NVIDIA's model verification card of Super (Megatron-Bridge); Ultra's technical report.
        ("nemotron-3-super", 42_683, 123_611_033_088),
        ("nemotron-3-ultra", 51_023, 560_524_603_904),
    ],
)
def test_a_release_has_the_published_tensors_with_its_head(
    name: str, num_tensors: int, num_elements: int
) -> None:
    fields = presets.config_fields(name, 131_072)
    shapes = tensor_shapes(fields, where="") | mtp_shapes(fields, where="")
    assert len(shapes) == num_tensors
    assert sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()) == num_elements


@pytest.mark.parametrize("letters", ["*E", "E", "*-E"])
def test_a_built_head_has_the_tensors_of_the_layout(base: Path, letters: str) -> None:
    model, _ = checkpoint.load(base)
    fields = json.loads((base / "config.json").read_text())
    fields |= {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": letters}
    model.mtp = MtpHead(presets.transformers_config(fields))
    built = {n: tuple(t.shape) for n, t in released(model) if n.startswith("mtp.")}
    assert built == mtp_shapes(fields, where="")


def test_the_form_of_transformers_is_read_as_well() -> None:
    fields = presets.config_fields("nemotron-3-super", 131_072)
    written = mtp_shapes(fields, where="")
    fields.pop("mtp_hybrid_override_pattern")
    assert mtp_shapes(fields, where="") == written
    fields["mtp_layers_block_type"] = ["full_attention", "moe"]
    assert mtp_shapes(released_form(fields), where="") == written
    fields["mtp_layers_block_type"] = ["lstm"]
    with pytest.raises(InputError, match="mtp_hybrid_override_pattern"):
        mtp_shapes(released_form(fields), where="")


def by_hand(tensors: dict[str, Tensor], hidden_bld: Tensor, embedded_bld: Tensor) -> Tensor:
    """The same equations written once more, one token after the other, from the tensors on disk."""

    def norm(name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * tensors[name + ".weight"]

    def relu2(stem: str, x: Tensor) -> Tensor:
        up, down = tensors[stem + "up_proj.weight"], tensors[stem + "down_proj.weight"]
        return functional.relu(x @ up.T).square() @ down.T

    first, second = "mtp.layers.0.", "mtp.layers.1."
    fused = torch.cat([norm(first + "enorm", embedded_bld), norm(first + "hnorm", hidden_bld)], -1)
    x = fused @ tensors[first + "eh_proj.weight"].T
    seen = norm(first + "norm", x)
    queries, keys, values = (seen @ tensors[f"{first}mixer.{n}_proj.weight"].T for n in "qkv")
    told = torch.zeros_like(queries)
    for place in range(x.shape[1]):
        for head in range(2):  # two query heads of 16 share one key-value head
            part = slice(16 * head, 16 * head + 16)
            scores = keys[:, : place + 1] @ queries[:, place, part, None] / 4
            weights = scores.softmax(1)
            told[:, place, part] = (weights * values[:, : place + 1]).sum(1)
    x = x + told @ tensors[first + "mixer.o_proj.weight"].T
    seen = norm(second + "norm", x)
    out = relu2(second + "mixer.shared_experts.", seen)
    scores = (seen @ tensors[second + "mixer.gate.weight"].T).sigmoid()
    chosen = (scores + tensors[second + "mixer.gate.e_score_correction_bias"]).topk(2).indices
    for b, place in np.ndindex(*x.shape[:2]):
        experts = chosen[b, place]
        total = scores[b, place, experts].sum() + 1e-20
        for expert in experts:
            weight = 2.5 * scores[b, place, expert] / total
            stem = f"{second}mixer.experts.{int(expert)}."
            out[b, place] += weight * relu2(stem, seen[b, place])
    return norm(second + "final_layernorm", x + out)


def test_it_computes_the_published_equations(headed: Path) -> None:
    model, _ = checkpoint.load(headed)
    mtp.attach(headed, model)
    random = torch.Generator().manual_seed(0)
    hidden_bld, embedded_bld = (torch.randn(2, 7, 32, generator=random) for _ in range(2))
    with torch.no_grad():
        ours = model.mtp(hidden_bld, embedded_bld)
    expected = by_hand(load_file(headed / files.SINGLE), hidden_bld, embedded_bld)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)


def test_loaded_and_exported_it_is_the_same_bytes(headed: Path, tmp_path: Path) -> None:
    model, _ = checkpoint.load(headed)
    for attached in (False, True):
        if attached:
            mtp.attach(headed, model)
        exported = checkpoint.export(model, headed, tmp_path / str(attached))
        for path in headed.iterdir():
            assert (exported / path.name).read_bytes() == path.read_bytes(), path.name


@torch.no_grad()
def test_it_is_float32_under_a_backbone_in_a_small_dtype(headed: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(headed, dtype=torch.bfloat16)
    mtp.attach(headed, model)
    assert {tensor.dtype for tensor in model.mtp.state_dict().values()} == {torch.float32}
    lesson = Lesson.of(tokenizer, language(0, 5), None, max_length_tokens=64)
    (batch,) = Plan(lesson, TrainingSettings(epochs=1, batch_size=5)).batches(0)
    small = DraftLikelihood().loss(model, batch).loss
    exact, _ = checkpoint.load(headed)
    mtp.attach(headed, exact)
    torch.testing.assert_close(small, DraftLikelihood().loss(exact, batch).loss, rtol=0.02, atol=0)


def test_a_checkpoint_without_one_has_none(base: Path, headed: Path, tmp_path: Path) -> None:
    assert not mtp.has_head(base)
    # What transformers' save_pretrained leaves: a config that speaks of a head that is gone.
    folder = with_head(base, tmp_path / "x")
    tensors = load_file(base / files.SINGLE)
    save_file(tensors, folder / files.SINGLE, {"format": "pt"})
    assert not mtp.has_head(folder)
    assert mtp.has_head(headed)


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape"])
def test_half_a_head_is_refused(spoil: str, headed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(headed, folder)
    tensors = load_file(folder / files.SINGLE)
    if spoil == "missing":
        del tensors["mtp.layers.0.eh_proj.weight"]
    elif spoil == "extra":
        tensors["mtp.layers.7.norm.weight"] = torch.ones(32)
    else:
        tensors["mtp.layers.0.enorm.weight"] = torch.ones(31)
    save_file(tensors, folder / files.SINGLE, {"format": "pt"})
    with pytest.raises(InputError, match=r"mtp\.layers"):
        checkpoint.check(folder)


def one_by_one(model: Any, tokens: list[int], prompt_length: int) -> list[tuple[int, int]]:
    """(accepted, tried) for each depth, drafted from each completion token as a server would: the
    chain ends at its first draft that the backbone does not say."""
    counts = [[0, 0] for _ in range(NUM_DRAFTS)]
    text = torch.tensor([tokens])
    states = model.model(input_ids=text, use_cache=False).last_hidden_state
    said = model.lm_head(states).argmax(-1)[0]
    for known in range(prompt_length, len(tokens)):  # this token was said; what comes after it?
        going = True
        for depth in range(NUM_DRAFTS):
            drafted_place = known + depth + 1
            if drafted_place >= len(tokens):
                break
            # The head reads h_i and token i + 1 up to the known one; then its own output once more.
            hidden = states[:, :known]
            for ahead in range(1, depth + 2):
                hidden = model.mtp(
                    hidden[:, :known],
                    model.model.embeddings(text[:, ahead : ahead + known]),
                )
            draft = int(model.lm_head(hidden[:, -1]).argmax(-1))
            going = going and draft == int(said[drafted_place - 1])
            counts[depth][0] += going
            counts[depth][1] += 1
    return [(a, t) for a, t in counts]


@torch.no_grad()
def test_acceptance_is_what_drafting_one_by_one_gets(
    headed: Path, trained: Path, language: Any, tmp_path: Path
) -> None:
    folder = with_head(trained, tmp_path / "x")
    model, tokenizer = checkpoint.load(folder)
    mtp.attach(folder, model)
    short = pa.table({"id": ["s"], "prompt": ["a"], "completion": ["b"]})
    texts = pa.concat_tables([language(0, 24), short])
    examples = encode(tokenizer, texts, max_length_tokens=64)
    assert examples.lengths[-1] < NUM_DRAFTS + 2
    totals = np.zeros((NUM_DRAFTS, 2), np.int64)
    for start, end, prompt in zip(
        examples.starts, examples.starts[1:], examples.prompt_lengths, strict=False
    ):
        totals += one_by_one(model, examples.tokens[start:end].tolist(), int(prompt))
    expected = totals[:, 0] / totals[:, 1]
    for batch_size in (1, 7):
        assert acceptance(model, examples, batch_size) == pytest.approx(expected)


@pytest.mark.parametrize("routers", ["frozen", "trained"])
def test_aligned_it_drafts_better_and_nothing_else_has_moved(
    trained: Path, language: Any, quick: TrainingSettings, tmp_path: Path, routers: str
) -> None:
    folder = with_head(trained, tmp_path / "x")
    changes = {"train_routers": False, "adapt": "lora"}
    if routers == "trained":
        changes = {"router_bias_rate": 1e-2}
    task = Drafting(folder, dataclasses.replace(quick, **changes), 16)
    model, tokenizer = ready(task), tokenizers.read(folder)
    lesson = Lesson.of(tokenizer, language(0, 160), None, max_length_tokens=64)
    asked = encode(tokenizer, language(500, 60), max_length_tokens=64)
    kept = {n: t.clone() for n, t in model.state_dict().items() if not n.startswith("mtp.")}
    watch = Watch(progress=False)
    done = aligned(model, task, lesson, asked, folder=tmp_path / "state", watch=watch)
    before, after = done["acceptance_before"], done["acceptance_after"]
    assert after[0] > max(0.8, before[0] + 0.3)
    assert after[0] >= after[1] > before[1]
    for name, tensor in kept.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    was, now = (load_file(f / files.SINGLE) for f in (folder, tmp_path / "state" / answer.LEARNT))
    moved = {name for name, tensor in now.items() if not torch.equal(tensor, was[name])}
    assert all(name.startswith("mtp.") for name in moved)
    assert "mtp.layers.0.eh_proj.weight" in moved
    gates = {name.rpartition(".gate.")[2] for name in moved if ".gate." in name}
    assert gates == ({"weight"} if routers == "trained" else set())


def test_the_loss_is_that_of_each_draft_after_the_other(headed: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(headed)
    mtp.attach(headed, model)
    lesson = Lesson.of(tokenizer, language(0, 5), None, max_length_tokens=64)
    (batch,) = Plan(lesson, TrainingSettings(epochs=1, batch_size=5)).batches(0)
    with torch.no_grad():
        loss = DraftLikelihood().loss(model, batch).loss
        expected = torch.zeros(())
        for row, targets in zip(batch.batch.tokens_bl, batch.batch.targets_bl, strict=True):
            text = row[None, : int(targets.nonzero().max()) + 1]
            hidden = model.model(input_ids=text, use_cache=False).last_hidden_state
            for ahead in range(1, NUM_DRAFTS + 1):
                known = model.model.embeddings(text[:, ahead:])
                hidden = model.mtp(hidden[:, : known.shape[1]], known)
                logits = model.lm_head(hidden[0, :-1])
                wanted = text[0, ahead + 1 :]
                losses = functional.cross_entropy(logits, wanted, reduction="none")
                expected += losses[targets[ahead + 1 : text.shape[1]]].sum()
    torch.testing.assert_close(loss, expected / NUM_DRAFTS / batch.normaliser)
