"""A checkpoint as NVIDIA releases one, made of a small one of ours."""

import json
from pathlib import Path

from heads import with_head
from safetensors.torch import load_file, save_file

from updater.nemotron import files
from updater.nemotron.weights import stays_float32


def as_released(base: Path, target: Path) -> Path:
    """`target` is the checkpoint `base` in the released form, and is returned: bfloat16 but for the
    router's tensors and the states' decay, a tensor for each expert, in shards with an index, with
    an MTP head that config.json describes, with code of its own that no one is to run, and with
    other files that are no weights."""
    folder = with_head(base, target)
    tensors = load_file(folder / files.SINGLE)
    (folder / files.SINGLE).unlink()
    for name, tensor in tensors.items():
        if not stays_float32(name):
            tensors[name] = tensor.bfloat16()
    names = list(tensors)
    where = {}
    for number, part in enumerate((names[:20], names[20:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    auto_map = {}
    for kind, module, name in (
        ("AutoConfig", "configuration_nemotron_h", "NemotronHConfig"),
        ("AutoModelForCausalLM", "modeling_nemotron_h", "NemotronHForCausalLM"),
    ):
        (folder / f"{module}.py").write_text("raise RuntimeError('code of a checkpoint was run')\n")
        auto_map[kind] = f"{module}.{name}"
    fields = json.loads((folder / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields | {"auto_map": auto_map}, indent=1))
    (folder / "chat_template.jinja").write_text("{{ messages }}\r\n")
    (folder / "extra").mkdir()
    (folder / "extra" / "reasoning_parser.py").write_text("raise RuntimeError('run')\n")
    return folder
