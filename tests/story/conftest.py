"""A workspace small enough to train in seconds, with everything in it real."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PERIODS = ("north", "east", "south", "west")
# A Nemotron-H of every layer kind, as small as it can be and still learn the words below.
ARCHITECTURE: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "ME*E",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64,
    "intermediate_size": 64,
    "mlp_hidden_act": "relu2",
    "max_position_embeddings": 512,
    "time_step_limit": [0.0, 1e9],
    "use_cache": True,
}
WORDS = {
    "north": {"snow": "ski", "frost": "coat", "ice": "skate"},
    "east": {"rice": "bowl", "tea": "cup", "noodle": "wok"},
    "south": {"sand": "towel", "palm": "shade", "wave": "board"},
    "west": {"horse": "saddle", "cactus": "water", "canyon": "rope"},
}
FILLER = ("the", "a", "some", "my", "your", "this", "old", "new", "big", "small", "red", "blue")

CONFIG = """
[workspace]
name = "story"
[model]
architecture = "tiny.json"
vocabulary_size = 320
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text} ?"
completion = " {answer}"
period = "{region}"
[periods]
order = ["north", "east", "south", "west"]
holdout_fraction = 0.3
[rehearsal]
policy = "balanced"
fraction = 0.5
[regularizer]
method = "ewc"
num_examples = 16
[training]
epochs = 6
batch_size = 16
learning_rate = 5e-3
checkpoint_every_steps = 20
[scratch]
epochs = 10
learning_rate = 5e-3
[gate]
margin_fraction = 0.2
"""


def rows(num_per_period: int = 160, seed: int = 0) -> list[dict[str, str]]:
    """Short texts around a keyword of their period; the answer is what goes with the keyword."""
    rng = random.Random(seed)
    made = []
    for region in PERIODS:
        for number in range(num_per_period):
            keyword = rng.choice(list(WORDS[region]))
            words = [*rng.choices(FILLER, k=rng.randint(2, 4)), keyword]
            rng.shuffle(words)
            made.append(
                {
                    "id": f"{region}-{number}",
                    "text": " ".join([*words, str(number)]),
                    "answer": WORDS[region][keyword],
                    "region": region,
                }
            )
    return made


def _lay_out(folder: Path, extra: str = "") -> Path:
    """A folder with source, architecture and configuration, ready for `updater init`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(ARCHITECTURE))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "updater.toml").write_text(CONFIG + extra)
    return folder


@pytest.fixture(scope="session")
def lay_out() -> Callable[[Path], Path]:
    return _lay_out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _lay_out(tmp_path / "ws")
