"""What a study file may say, and how it is told what is wrong."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from study_runs import BASE

from updater.errors import InputError
from updater.settings import SearchSettings
from updater.study import arms, file
from updater.study.job import First, Job
from updater.study.plan import Pair, Span, Study
from updater.study.replay import ReplaySettings
from updater.study.stream import PeriodData, Stream

GOOD = """
[study]
name = "s"
seeds = [0, 1]
[stream]
first = ["a..b"]
then = ["d", "c"]
[validation]
first = ["a"]
then = ["b"]
seeds = [7]
[settings]
training.learning_rate = 1e-2
[arms.ewc]
regularizer.method = "ewc"
sweep = { "regularizer.strength" = [1e3, 1e4] }
[arms."ewc+rehearsal"]
training.epochs = 5
[arms.anew]
kind = "scratch"
every = "last"
[quick]
seeds = [3]
then = ["c"]
arms = ["anew"]
settings.training.epochs = 1
"""


def read(tmp_path: Path, text: str = GOOD, **more: Any) -> Study:
    path = tmp_path / "s.toml"
    path.write_text(text, "utf-8")
    return file.read(path, BASE, **more)


def test_an_arm_has_the_workspaces_settings_then_the_studys_then_its_own(tmp_path: Path) -> None:
    study = read(tmp_path)
    assert study.span == Span(("a", "b"), ("d", "c"))
    ewc, both, anew = study.arms
    assert (ewc.settings.training.epochs, both.settings.training.epochs) == (2, 5)
    assert {arm.settings.training.learning_rate for arm in study.arms} == {1e-2}
    assert ewc.settings.regularizer.method == "ewc"
    assert (anew.kind, anew.every, both.kind) == ("scratch", "last", "update")
    assert study.settings.training.epochs == 2


def test_a_sweep_tries_every_combination(tmp_path: Path) -> None:
    text = GOOD.replace("[1e3, 1e4] }", '[1e3, 1e4], "training.epochs" = [1, 3] }')
    arm = read(tmp_path, text).arms[0]
    tried = [arms.swept(arm, value).settings for value in arms.values(arm)]
    found = [(one.regularizer.strength, one.training.epochs) for one in tried]
    assert found == [(1e3, 1), (1e3, 3), (1e4, 1), (1e4, 3)]


def test_the_quick_form_takes_the_place_of_what_it_names_and_sweeps_nothing(tmp_path: Path) -> None:
    study = read(tmp_path, quick=True)
    assert (study.name, study.seeds, study.validation) == ("s-quick", (3,), None)
    assert study.span == Span(("a", "b"), ("c",))
    assert [arm.name for arm in study.arms] == ["anew"]
    assert study.arms[0].settings.training.epochs == 1
    assert read(tmp_path, quick=True, only=["ewc"]).arms[0].sweep == {}


def test_only_these_arms(tmp_path: Path) -> None:
    assert [arm.name for arm in read(tmp_path, only=["anew", "ewc"]).arms] == ["ewc", "anew"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [0, 1]", "", "[study]: seeds is missing or empty"),
        ("seeds = [0, 1]", "seeds = []", "[study]: seeds is missing or empty"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = [true]", "different whole numbers"),
        ("seeds = [7]", "", "[validation]: seeds is missing"),
        ('then = ["d", "c"]', "then = []", "[stream]: then is missing or empty"),
        ('first = ["a..b"]', "", "[stream]: first is missing or empty"),
        ('then = ["d", "c"]', 'then = ["d", "b"]', "the period b is named twice"),
        ('then = ["d", "c"]', 'then = ["d", "x"]', "[stream] then: 'x' is no period"),
        ('kind = "scratch"', 'kind = "scrach"', "did you mean scratch"),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "scratch"\nregularizer.method = "ewc"',
            'regularizer.method. kind = "scratch" trains by [scratch] alone',
        ),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "scratch"\ntraining.epochs = 3',
            'training.epochs. kind = "scratch" trains by [scratch] alone',
        ),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "frozen"\nsweep = { "training.epochs" = [1] }',
            'training.epochs. kind = "frozen" learns nothing',
        ),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "avalanche"\nstrategy = "naive"\nregularizer.scale = "mean"',
            "regularizer.scale. Avalanche's own strategy does not know it",
        ),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "average"\nsweep = { "scratch.epochs" = [1, 2] }',
            'scratch.epochs. only kind = "scratch" trains by it',
        ),
        ('"regularizer.strength" = [1e3, 1e4]', '"training.seed" = [1]', "each of its seeds"),
        (
            '"regularizer.strength" = [1e3, 1e4]',
            '"training.checkpoint_every_steps" = [1, 2]',
            "a stage that was killed starts anew",
        ),
        ("training.epochs = 5", "training.checkpoint_every_steps = 5", "starts anew"),
        ('arms = ["anew"]', 'arms = ["anwe"]', "[quick]: there is no arm 'anwe'"),
        ("seeds = [3]", "seeds = [-3]", "[quick]: seeds = [-3]"),
        ('then = ["c"]\narms', 'then = ["x"]\narms', "[quick] then: 'x' is no period"),
        ("settings.training.epochs = 1", "settings.training.epochs = 0", "at least 1"),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "avalanche"\nstrategy = "no"',
            '[arms.anew]: strategy = "no". must be one of naive, cumulative',
        ),
        ('name = "s"', "", "[study]: name is missing or empty"),
        ('kind = "scratch"', 'strategy = "ewc"\nkind = "scratch"', "strategy"),
        ('method = "ewc"', 'method = "ewcc"', "must be one of none, l2, ewc"),
        ("regularizer.method", "regularizer.metod", "did you mean method"),
        ("training.epochs = 5", "trainin.epochs = 5", "did you mean training"),
        ("training.epochs = 5", 'source.uri = "y"', "key 'source' is unknown"),
        ("training.epochs = 5", "equal_compute = 1", "it must be true or false"),
        (
            'every = "last"',
            "equal_compute = true",
            'equal_compute. only an arm of kind = "update" or "average" has it',
        ),
        (
            "training.epochs = 5",
            "weight = 0.3",
            '[arms.ewc+rehearsal]: weight. only an arm of kind = "average" has it. '
            'write kind = "average", or take it out',
        ),
        ("training.epochs = 5", 'every = "last"', 'only an arm of kind = "scratch" has it'),
        ("training.epochs = 5", 'strategy = "ewc"', 'only an arm of kind = "avalanche" has it'),
        ("training.epochs = 5", "weigth = 0.3", "key 'weigth' is unknown"),
        (
            "training.epochs = 5",
            'regularizer = { method = "none", strength = 3 }',
            "[arms.ewc+rehearsal]: regularizer.strength. only with regularizer.method = l2, ewc, "
            'online_ewc, si, mas, lwf, der or der++ is it heeded, not with "none". take it out',
        ),
        (
            "training.epochs = 5",
            'regularizer = { method = "agem", strength = 3 }',
            'lwf, der or der++ is it heeded, not with "agem"',
        ),
        (
            "training.epochs = 5",
            'rehearsal = { policy = "none", fraction = 0.1 }',
            "[arms.ewc+rehearsal]: rehearsal.fraction. only with rehearsal.policy = uniform",
        ),
        (
            "training.epochs = 5",
            'rehearsal.policy = "none"\nsweep = { "rehearsal.budget" = [1, 2] }',
            'a sweep of "rehearsal.budget". only with rehearsal.policy = uniform',
        ),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "avalanche"\nstrategy = "naive"\nregularizer.strength = 3',
            "regularizer.strength. only a strategy with ewc, online_ewc, si",
        ),
        (
            'kind = "scratch"\nevery = "last"',
            'kind = "avalanche"\nstrategy = "naive"\nrehearsal.fraction = 0.1',
            "rehearsal.fraction. only a strategy with replay, gem, agem, der or der++ heeds it, "
            'not "naive"',
        ),
        ('"regularizer.strength" =', '"regularizer.strengt" =', "did you mean strength"),
        ("[1e3, 1e4]", "[]", "a list of values to choose from"),
        ("[1e3, 1e4]", "[1e4, 1e3, 10000]", "10000.0 stands there more than once"),
        ("[1e3, 1e4]", "[1e3, -1]", "must be a finite number of at least 0"),
        ('name = "s"', 'name = "a/b"', "it must be 1 to 63 letters"),
        ("[study]", "[studi]", "did you mean study"),
        ('[validation]\nfirst = ["a"]\nthen = ["b"]\nseeds = [7]', "", "there is no [validation]"),
        ("[study]", "[study", "is not TOML"),
        ('name = "s"', 'name = "s"\nthreads = 0', "must be at least 1"),
        ("training.epochs = 5", "training.seed = 5", "with each of its seeds"),
        ("training.learning_rate = 1e-2", "training.seed = 5", "with each of its seeds"),
        ("training.epochs = 5", "scratch.epochs = 5", 'only kind = "scratch" trains by it'),
        ('method = "ewc"', 'method = "agem"', 'a sweep of "regularizer.strength". only with'),
        ('method = "ewc"\n', 'method = "none"\n', 'is it heeded, not with "none"'),
        (
            'regularizer.method = "ewc"',
            'kind = "avalanche"\nstrategy = "ewc"\nregularizer.method = "ewc"',
            "regularizer.method. strategy names Avalanche's own",
        ),
        (
            'regularizer.method = "ewc"',
            'kind = "avalanche"\nstrategy = "naive"',
            'heeds it, not "naive"',
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert said in str(caught.value)
    assert "s.toml" in caught.value.what


def test_no_arms_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no arm"):
        read(tmp_path, GOOD[: GOOD.index("[arms.ewc]")])


def test_an_arm_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no arm 'ecw'.*did you mean ewc"):
        read(tmp_path, only=["ecw"])


def test_a_quick_form_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no \[quick\]"):
        read(tmp_path, GOOD[: GOOD.index("[quick]")], quick=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        file.read(tmp_path / "none.toml", BASE)


REPLAY = """
[replay]
review = "reject"
[arms.wide]
gate.margin_fraction = 0.1
"""


def test_a_replay_follows_the_gate_and_arms_may_differ_in_it(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD + REPLAY)
    assert study.replay == ReplaySettings(follow_gate=True, review="reject")
    margins = {arm.name: arm.settings.gate.margin_fraction for arm in study.arms}
    assert margins["wide"] == 0.1
    assert margins["ewc"] == BASE.gate.margin_fraction
    assert read(tmp_path).replay is None


def test_without_a_replay_an_arm_has_no_gate(tmp_path: Path) -> None:
    said = r"\[arms\.wide\]: gate\. only in a study with \[replay\] does the gate judge\. write \["
    with pytest.raises(InputError, match=said):
        read(tmp_path, GOOD + "[arms.wide]\ngate.margin_fraction = 0.1\n")
    with pytest.raises(InputError, match=r"\[settings\]: gate\. only in a study with"):
        read(tmp_path, GOOD.replace("[settings]", "[settings]\ngate.margin_fraction = 0.1"))


@pytest.mark.parametrize(
    "own",
    [
        'training.epochs = 5\nrehearsal.policy = "none"',
        'rehearsal.fraction = 0.5\nsweep = { "rehearsal.policy" = ["none", "uniform"] }',
        'regularizer.strength = 2\nsweep = { "regularizer.method" = ["none", "l2"] }',
        'sweep = { "training.adapt" = ["full", "lora"], "training.lora_rank" = [4, 8] }',
        'rehearsal.strata = "period"\nsweep = { "rehearsal.policy" = ["hard", "class_balanced"] }',
    ],
)
def test_what_an_arm_inherits_or_its_sweep_decides_may_be_left_alone(
    tmp_path: Path, own: str
) -> None:
    common = """[settings]
rehearsal = { policy = "balanced", fraction = 0.1 }
regularizer = { method = "none", strength = 3 }"""
    text = GOOD.replace("[settings]", common).replace("training.epochs = 5", own)
    assert "ewc+rehearsal" in {arm.name for arm in read(tmp_path, text).arms}


EWC = 'regularizer.method = "ewc"\n'
AVALANCHE = 'kind = "avalanche"\nregularizer.strength = 1\nstrategy = '


@pytest.mark.parametrize(
    ("own", "setting", "heeding"),
    [
        (EWC, "regularizer.decay = 0.5", "regularizer.method = online_ewc is"),
        (EWC, "regularizer.damping = 0.5", "regularizer.method = si is"),
        (EWC, "regularizer.top_k = 8", "regularizer.method = lwf, der or der++ is"),
        (EWC, "regularizer.temperature = 1", "regularizer.method = lwf, der or der++ is"),
        ('regularizer.method = "mas"\n', "regularizer.damping = 1", "method = si is"),
        ('regularizer.method = "mas"\n', 'regularizer.estimator = "sampled"', "ewc or online_ewc"),
        ('regularizer.method = "si"\n', "regularizer.num_examples = 8", "ewc, online_ewc or mas"),
        ('regularizer.method = "si"\n', 'regularizer.estimator = "sampled"', "ewc or online_ewc"),
        ('regularizer.method = "si"\n', 'regularizer.terms = "periods"', "method = ewc is"),
        ('regularizer.method = "l2"\n', "regularizer.num_examples = 8", "ewc, online_ewc or mas"),
        ('regularizer.method = "l2"\n', 'regularizer.format = "factored"', "ewc, online_ewc, si"),
        ('regularizer.method = "online_ewc"\n', 'regularizer.terms = "periods"', "= ewc is"),
        (
            'regularizer.method = "online_ewc"\nregularizer.estimator = "optimizer"\n',
            "regularizer.num_examples = 8",
            'estimator = "optimizer" looks at no example again',
        ),
        ("", 'rehearsal.strata = "period"', "rehearsal.policy = class_balanced is"),
        ("", "rehearsal.pool_factor = 8", "rehearsal.policy = hard or surprise is"),
        ("", 'training.strategy = "ddp"', "trains on one device"),
        ("", 'training.rendezvous = "first:29400"', "trains on one device"),
        ("", "training.lora_rank = 4", "training.adapt = lora is"),
        ("", "training.lora_alpha = 4", "training.adapt = lora is"),
        ("", "training.lora_experts = true", "training.adapt = lora is"),
        (AVALANCHE + '"ewc"\n', "regularizer.decay = 0.5", "a strategy with online_ewc heeds it"),
        (AVALANCHE + '"ewc"\n', "regularizer.damping = 0.5", "a strategy with si heeds it"),
        (AVALANCHE + '"ewc"\n', "regularizer.temperature = 1", "a strategy with lwf heeds it"),
        (AVALANCHE + '"ewc"\n', 'rehearsal.policy = "uniform"', "a strategy with replay, gem"),
        (AVALANCHE + '"ewc"\n', "training.lora_rank = 4", "strategy does not know it"),
    ],
)
@pytest.mark.parametrize("swept", [False, True], ids=["own", "swept"])
def test_what_the_arms_method_would_not_heed_is_refused(
    tmp_path: Path, own: str, setting: str, heeding: str, swept: bool
) -> None:
    """By the table or by a sweep, of which all values would come to the same."""
    name, _, value = setting.partition(" = ")
    sweep = f'sweep = {{ "{name}" = [{value}] }}' if swept else setting
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace("training.epochs = 5", own + sweep))
    assert heeding in str(caught.value)
    assert name in caught.value.what


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        ('"regularizer.method" = ["l2", "mas"], "regularizer.damping" = [1, 2]', "damping"),
        ('"rehearsal.policy" = ["none", "uniform"], "rehearsal.strata" = ["period"]', "strata"),
    ],
)
def test_what_no_value_of_a_sweep_would_heed_is_refused(
    tmp_path: Path, swept: str, said: str
) -> None:
    with pytest.raises(InputError, match=f'a sweep of ".*{said}"'):
        read(tmp_path, GOOD.replace("training.epochs = 5", f"sweep = {{ {swept} }}"))


def test_no_policy_is_swept_where_a_strategy_takes_its_place(tmp_path: Path) -> None:
    arm = 'kind = "avalanche"\nstrategy = "replay"\n'
    sweep = 'sweep = { "rehearsal.policy" = ["balanced", "uniform"] }'
    with pytest.raises(InputError, match="memory is as large with each policy"):
        read(tmp_path, GOOD.replace("training.epochs = 5", arm + sweep))
    own = 'rehearsal.policy = "uniform"'  # which the settings may have as "none"
    assert read(tmp_path, GOOD.replace("training.epochs = 5", arm + own))


@pytest.mark.parametrize("wrong", ['review = "maybe"', "follow_gate = 1", "margin = 0.1"])
def test_what_a_replay_can_not_say(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InputError, match=r"\[replay\]"):
        read(tmp_path, f"{GOOD}[replay]\n{wrong}\n")


def test_a_search_at_each_update_is_refused_and_can_be_turned_off(tmp_path: Path) -> None:
    searching = SearchSettings(trials=3, strength=(1e-2, 1e2))
    training = dataclasses.replace(BASE.training, search=searching)
    path = tmp_path / "s.toml"
    path.write_text(GOOD, "utf-8")
    settings = dataclasses.replace(BASE, training=training)
    said = (
        r"the workspace's \[training\.search\]: trials = 3\. .*a sweep chooses once.*\[settings\]"
    )
    with pytest.raises(InputError, match=said):
        file.read(path, settings)
    path.write_text(GOOD.replace("[settings]", "[settings]\ntraining.search.trials = 0"), "utf-8")
    assert file.read(path, settings).settings.training.search.trials == 0


# The range of strengths leaves out those that an arm sweeps: a search's own rule, were there one.
SEARCH = "training.search = { trials = 4, strength = [0.1, 1] }"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("training.learning_rate = 1e-2", SEARCH, "[settings.training.search]"),
        ("training.epochs = 5", SEARCH, "[arms.ewc+rehearsal.training.search]"),
        ("settings.training.epochs = 1", f"settings.{SEARCH}", "[quick.settings.training.search]"),
    ],
)
def test_what_asks_for_a_search_is_named_by_its_section(
    tmp_path: Path, old: str, new: str, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert caught.value.what == f"{tmp_path}/s.toml {where}: trials = 4"
    assert "no arm searches at each update" in caught.value.rule
    assert ".sweep]" in caught.value.cure


@pytest.mark.parametrize("key", ["training.search", "training.search.trials"])
def test_no_search_is_swept(tmp_path: Path, key: str) -> None:
    swept = GOOD.replace('"regularizer.strength" = [1e3, 1e4]', f'"{key}" = [3]')
    with pytest.raises(InputError, match=rf'\[arms.ewc.sweep\]: "{key}".*no arm searches'):
        read(tmp_path, swept)


PAIRS = """
[[compare]]
arm = "ewc+rehearsal"
reference = "ewc"
[[compare]]
arm = "ewc"
reference = "anew"
"""


def test_declared_pairs_are_those_of_the_chosen_arms(tmp_path: Path) -> None:
    assert read(tmp_path).pairs == ()
    assert read(tmp_path, GOOD + PAIRS).pairs == (
        Pair("ewc+rehearsal", "ewc"),
        Pair("ewc", "anew"),
    )
    assert read(tmp_path, GOOD + PAIRS, only=["ewc", "anew"]).pairs == (Pair("ewc", "anew"),)
    assert read(tmp_path, GOOD + PAIRS, quick=True).pairs == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('reference = "anew"', 'reference = "anw"', "[[compare]] 2: reference = "),
        ('reference = "anew"', 'reference = "anw"', "did you mean anew"),
        ('reference = "anew"', "", "[[compare]] 2: reference is missing or empty"),
        ('reference = "anew"', "reference = 1", "it must be text in quotes"),
        ('reference = "anew"', 'refrence = "anew"', "did you mean reference"),
        ('reference = "anew"', 'reference = "ewc"', "the arm ewc is compared with itself"),
        ('reference = "anew"', 'reference = "ewc+rehearsal"', "are a pair already"),
        ('"ewc"\nreference = "anew"', '"ewc+rehearsal"\nreference = "ewc"', "a pair already"),
    ],
)
def test_a_pair_that_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert PAIRS.count(old) == 1
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD + PAIRS.replace(old, new), only=["ewc"])
    assert said in str(caught.value)


@pytest.mark.parametrize("wrong", ['compare = "ewc"', "compare = [1]", 'compare = { arm = "ewc" }'])
def test_pairs_are_tables(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InputError, match="compare"):
        read(tmp_path, f"{wrong}\n{GOOD}")


def test_no_key_of_a_run_depends_on_the_pairs(tmp_path: Path) -> None:
    """So that declaring one makes no run again."""
    span = Span(("a", "b"), ("d", "c"))
    data = {p: PeriodData(p, p, tmp_path, tmp_path, 1) for p in span.periods}

    def keys(text: str) -> list[tuple[str, str]]:
        study = read(tmp_path, text)
        first = First(study.settings, 0, Stream(span, data), tmp_path, study.threads)
        return [(first.key, Job(arm, first).key) for arm in study.arms]

    assert keys(GOOD + PAIRS) == keys(GOOD)
