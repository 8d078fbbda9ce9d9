"""What importance costs beside the parameters, for the models that we build."""

import pytest
import torch

from regularizers.formats import kept, num_bytes
from updater.nemotron import presets
from updater.nemotron.checkpoint import build


@pytest.mark.parametrize(
    ("preset", "most"), [("nemotron-3-tiny", 0.015), ("nemotron-3-small", 0.0075)]
)
def test_factored_costs_at_most_two_percent_of_the_parameters(preset: str, most: float) -> None:
    """Measured: 1.45 % and 0.73 %, at the default vocabulary of 2,048."""
    with torch.device("meta"):
        model = build(presets.config_fields(preset, 2048))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    costs = {form: num_bytes(kept(parameters, form)) for form in ("float32", "bfloat16")}
    assert costs["float32"] == 2 * costs["bfloat16"] == sum(p.nbytes for p in parameters.values())
    factored = num_bytes(kept(parameters, "factored"))
    assert factored / costs["float32"] <= most <= 0.02
