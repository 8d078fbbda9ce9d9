"""What each policy weighs by, worked by hand."""

import pytest

from rehearsal.policies import FORGETTING_FLOOR, POLICIES, RECENT_DECAY, Past

PAST = [
    Past("a", "va", 100, 3, accuracy=0.80, best_accuracy=0.90),
    Past("b", "vb", 300, 4, accuracy=0.85, best_accuracy=0.85),
    Past("c", "vc", 200, 6),
]


def weights(policy):
    return POLICIES[policy](PAST)


def test_each_policy_by_hand():
    assert weights("none") == {"a": 0, "b": 0, "c": 0}
    assert weights("uniform") == {"a": 100, "b": 300, "c": 200}
    assert weights("balanced") == {"a": 1, "b": 1, "c": 1}
    assert weights("recent") == {"a": RECENT_DECAY**3, "b": RECENT_DECAY**2, "c": 1}


def test_forgetting_gives_more_to_what_has_fallen_and_the_mean_to_what_was_never_scored():
    assert weights("forgetting") == pytest.approx(
        {"a": FORGETTING_FLOOR + 0.10, "b": FORGETTING_FLOOR, "c": FORGETTING_FLOOR + 0.05}
    )


def test_forgetting_never_punishes_a_rise_and_is_balanced_without_any_score():
    risen = POLICIES["forgetting"]([Past("a", "v", 10, 0, accuracy=0.9, best_accuracy=0.8)])
    assert risen == {"a": FORGETTING_FLOOR}
    unknown = POLICIES["forgetting"]([Past("a", "v", 10, 0), Past("b", "v", 10, 1)])
    assert unknown == {"a": FORGETTING_FLOOR, "b": FORGETTING_FLOOR}


@pytest.mark.parametrize("policy", POLICIES)
def test_no_past_is_no_weights(policy):
    assert POLICIES[policy]([]) == {}
