"""LatentMoE, as Nemotron 3 Super and Ultra have it, with their drafting head: what an update does.

Their experts work in a smaller space, between fc1_latent_proj and fc2_latent_proj; routers and
shared experts in the whole one (Nemotron 3's white paper, section 2.2).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from heads import with_head
from safetensors.torch import load_file
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE

from regularizers import importance as weights
from regularizers.anchor import NoAnchor, QuadraticAnchor, Regularizer
from regularizers.importance import Importance
from updater.launch import answer, together
from updater.launch.task import Learning, TermFiles
from updater.nemotron import checkpoint, files, mtp
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.record import Watch

QUIET = Watch(progress=False)
WIDTH = 24  # of the hidden 32
TRAINING = TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-2)
TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def latent(micro: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder. Not to be written to."""
    folder = tmp_path_factory.mktemp("latent")
    fields = json.loads(Path(micro).read_text()) | {"moe_latent_size": WIDTH}
    (folder / "config.json").write_text(json.dumps(fields))
    plain = checkpoint.create(
        *(str(folder / "config.json"), ["one bird", "two birds"] * 20, folder / "plain"),
        vocabulary_size=300,
        seed=1,
    )
    return with_head(plain, folder / "checkpoint")


@pytest.fixture(scope="module")
def lesson(latent: Path, language: Any) -> Lesson:
    tokenizer = checkpoint.load(latent)[1]
    return Lesson.of(tokenizer, language(0, 48), None, max_length_tokens=64)


@pytest.fixture(scope="module")
def learnt(latent: Path, lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same when it has learnt the lesson."""
    folder = tmp_path_factory.mktemp("learnt")
    model, _ = run(latent, lesson, folder / "state", epochs=6)
    return checkpoint.export(model, latent, folder / "checkpoint")


@pytest.fixture(scope="module")
def importance(learnt: Path, lesson: Lesson) -> Importance:
    return estimate(
        checkpoint.load(learnt)[0],
        lesson.examples,
        estimator="empirical",
        checkpoint_digest="",
        data_digest="",
        progress=False,
    )


def run(
    base: Path, lesson: Lesson, folder: Path, anchor: Regularizer | None = None, **changes: Any
) -> tuple[Any, Fit]:
    model, _ = checkpoint.load(base)
    done = fit(
        model,
        lesson,
        training=dataclasses.replace(TRAINING, **changes),
        guards=Guards(anchor or NoAnchor()),
        folder=folder,
        watch=QUIET,
    )
    return model, done


def test_its_experts_work_in_the_smaller_space(latent: Path) -> None:
    """fc2(sum of w down relu2(up fc1 x)) + shared(x), token by token; the head's block alike."""
    model, _ = checkpoint.load(latent)
    mtp.attach(latent, model)
    blocks = [m for m in model.modules() if isinstance(m, NemotronHMoE)]
    assert len(blocks) == 3
    for block in blocks:
        assert block.experts.up_proj.shape == (6, 16, WIDTH)
        tokens_td = torch.randn(7, 32)
        with torch.no_grad():
            found_td = block(tokens_td[None])[0]
            _, weights_tk, chosen_tk = block.gate(tokens_td)
            for t, x_d in enumerate(tokens_td):
                small = block.fc1_latent_proj.weight @ x_d
                said = torch.zeros(WIDTH)
                for weight, e in zip(weights_tk[t], chosen_tk[t], strict=True):
                    inner = (block.experts.up_proj[e] @ small).relu() ** 2
                    said += weight * (block.experts.down_proj[e] @ inner)
                expected = block.fc2_latent_proj.weight @ said + block.shared_experts(x_d)
                torch.testing.assert_close(found_td[t], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "with_experts"),
    [
        ({"activation_checkpointing": True}, True),
        ({"adapt": "lora"}, False),
        ({"adapt": "lora", "lora_experts": True, "precision": "bf16-mixed"}, True),
    ],
    ids=["full", "lora", "lora-experts"],
)
def test_it_is_learnt_and_exported(
    latent: Path, lesson: Lesson, tmp_path: Path, changes: dict[str, Any], with_experts: bool
) -> None:
    model, done = run(latent, lesson, tmp_path / "state", **changes)
    assert done.losses[-1] < 0.95 * done.losses[0]
    exported = checkpoint.export(model, latent, tmp_path / "export")
    before, after = load_file(latent / files.SINGLE), load_file(exported / files.SINGLE)
    assert list(before) == list(after)
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for layer in (1, 4):
        mixer = f"backbone.layers.{layer}.mixer"
        projections = {f"{mixer}.fc{n}_latent_proj.weight" for n in (1, 2)}
        assert projections <= moved
        assert any(name.startswith(f"{mixer}.experts.") for name in moved) is with_experts
        assert f"{mixer}.gate.weight" not in moved
    assert not any(name.startswith("mtp.") for name in moved)
    again, _ = checkpoint.load(exported)
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits)


def test_an_export_of_what_was_loaded_is_the_base_byte_for_byte(
    latent: Path, tmp_path: Path
) -> None:
    exported = checkpoint.export(checkpoint.load(latent)[0], latent, tmp_path / "export")
    for path in latent.iterdir():
        assert (exported / path.name).read_bytes() == path.read_bytes(), path.name


def test_its_importance_holds_it(
    learnt: Path, language: Any, importance: Importance, tmp_path: Path
) -> None:
    """Latent projections and experts, each by itself, against a lesson that says otherwise."""
    model, tokenizer = checkpoint.load(learnt)
    start = dict(model.named_parameters())
    other = language(300, 48).set_column(2, "completion", language(301, 48)["completion"])
    lesson = Lesson.of(tokenizer, other, None, max_length_tokens=64)
    changes = {"learning_rate": 1e-3, "epochs": 6}
    free, _ = run(learnt, lesson, tmp_path / "free", **changes)
    anchor = QuadraticAnchor(start, importance.tensors, 1e5)
    held, _ = run(learnt, lesson, tmp_path / "held", anchor, **changes)

    @torch.no_grad()
    def pulled(end: Any, names: list[str]) -> float:
        live = dict(end.named_parameters())
        each = [(importance.tensors[n] * (live[n] - start[n]) ** 2).sum() for n in names]
        return sum(map(float, each))

    for kind in ("latent_proj", ".experts."):
        names = [name for name in importance.tensors if kind in name]
        assert len(names) == 4
        assert pulled(held, names) < 0.2 * pulled(free, names)


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_in_shards_it_is_held_and_learnt_as_by_one_process(
    learnt: Path, lesson: Lesson, importance: Importance, tmp_path: Path, adapt: str
) -> None:
    """Under LoRA too, which is how Super fits a machine."""
    path = tmp_path / "importance.safetensors"
    weights.save(importance, path)
    changes: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "adapt": adapt}
    training = dataclasses.replace(TRAINING, strategy="fsdp", **changes)
    ewc = RegularizerSettings(method="ewc", strength=10.0)
    shared = dataclasses.replace(training, devices=2)
    asked = Learning(learnt, shared, ewc, (TermFiles(learnt, path),), "")
    together.fit(asked, lesson, folder=tmp_path / "many", watch=QUIET)
    start = dict(checkpoint.load(learnt)[0].named_parameters())
    anchor = QuadraticAnchor(start, importance.tensors, 10.0)
    one, _ = run(learnt, lesson, tmp_path / "one", anchor, **changes)
    found = checkpoint.load(tmp_path / "many" / answer.LEARNT)[0].state_dict()
    assert any(not torch.equal(found[n], start[n]) for n in found if "latent_proj" in n)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)
