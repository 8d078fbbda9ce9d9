"""A checkpoint asked by plain transformers, in a process that has nothing of ours.

    python -I -S plain_driver.py SITE_PACKAGES CHECKPOINT ASKED ANSWERS

ASKED and ANSWERS are safetensors files: input_ids and attention_mask; logits. -I and -S: no path of
the caller's, and no .pth file, by which an editable install would be found.
"""

import importlib.util
import sys

OURS = ("updater", "regularizers", "rehearsal", "store")


def main(site_packages: str, folder: str, asked: str, answers: str) -> None:
    sys.path.append(site_packages)
    found = [name for name in OURS if importlib.util.find_spec(name)]
    if found:
        raise SystemExit(f"{found} can be imported here")
    # A wheel of torchvision for CUDA, beside a torch for CPUs, fails on import and transformers'
    # models with it; `import updater` mends that (updater.torchvision_guard), which is not here.
    # None makes it a package that is not installed.
    sys.modules["torchvision"] = None
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        save_file({"logits": model(**load_file(asked)).logits}, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
