"""Inputs that the model would take and compute wrongly."""

from pathlib import Path

import pytest
import torch

from updater.errors import InputError
from updater.nemotron import checkpoint

LEFT = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
WITHIN = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]])


@pytest.mark.parametrize("mask_bl", [LEFT, WITHIN], ids=["left", "within"])
def test_padding_before_a_text_is_refused(base: Path, mask_bl: torch.Tensor) -> None:
    model, _ = checkpoint.load(base)
    with pytest.raises(InputError, match="pad on the right"):
        model(input_ids=torch.full((2, 4), 7), attention_mask=mask_bl)


def test_what_left_padding_would_have_cost(base: Path) -> None:
    """The reason: the logits of the padded text are others."""
    model, _ = checkpoint.load(base)
    text_bl = torch.tensor([[9, 11, 8]])
    alone_v = model(input_ids=text_bl).logits[0, -1]
    padded_bl = torch.cat([torch.zeros(1, 5, dtype=torch.int64), text_bl], 1)
    assert not torch.allclose(model(input_ids=padded_bl).logits[0, -1], alone_v, atol=1e-4)


def test_texts_packed_into_a_row_are_refused(base: Path) -> None:
    model, _ = checkpoint.load(base)
    with pytest.raises(InputError, match="a row of its own"):
        model(input_ids=torch.full((1, 4), 7), position_ids=torch.tensor([[0, 1, 0, 1]]))


def test_right_padding_and_decoding_are_taken(base: Path) -> None:
    model, _ = checkpoint.load(base)
    tokens_bl = torch.tensor([[9, 11, 8, 7], [9, 11, 0, 0]])
    mask_bl = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    masked = model(input_ids=tokens_bl, attention_mask=mask_bl).logits
    torch.testing.assert_close(masked[0], model(input_ids=tokens_bl[:1]).logits[0])
    torch.testing.assert_close(masked[1, :2], model(input_ids=tokens_bl[1:, :2]).logits[0])
    said = model.generate(tokens_bl[:1], max_new_tokens=4, do_sample=False)
    assert said.shape[1] > 4
