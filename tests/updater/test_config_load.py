"""Reading updater.toml, the environment and --set: what is taken and what is refused, and how."""

import re
import time
from pathlib import Path

import pytest

from updater import config
from updater.config_keys import leaves, variable
from updater.errors import InputError
from updater.settings import Settings

GOOD = """
[workspace]
name = "clinc"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}\\nIntent:"
completion = " {intent}"
period = "{domain}"
[periods]
order = ["banking", "home"]
"""


def load(folder: Path, text: str = GOOD, *overrides: str, **environ: str) -> Settings:
    (folder / "updater.toml").write_text(text, encoding="utf-8")
    return config.load(folder, overrides, environ)


def refused(folder: Path, text: str = GOOD, *overrides: str, **environ: str) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text, *overrides, **environ)
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    return message


def test_what_the_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.periods.order == ("banking", "home")
    assert settings.source.fields.prompt == "{text}\nIntent:"
    assert settings.rehearsal.policy == "balanced"
    assert settings.store.url == "sqlite:///store.db"


def test_reading_takes_less_than_50_ms(tmp_path: Path) -> None:
    load(tmp_path)
    started = time.process_time()
    config.load(tmp_path, (), {})
    assert time.process_time() - started < 0.05


def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD + '[rehearsal]\npolcy = "none"\n')
    assert "updater.toml" in message
    assert "[rehearsal] polcy" in message
    assert "did you mean policy" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[trainin]\nepochs = 1\n", "did you mean training"),
        ("[gate]\nepochs = 1\n", "did you mean [training] epochs"),
        ("[gate]\nxyz = 1\n", "the keys of [gate] are margin_fraction"),
        ("[gate]\nqqqqq = 1\n", "take it out"),
        ("[gate]\nlearning_rat = 1\n", "did you mean [training] learning_rate"),
        ("[training]\nepochs = true\n", "a whole number"),
        ('[training]\nepochs = "3"\n', "a whole number"),
        ("[training]\nepochs = 3.0\n", "a whole number"),
        ('[training]\nlearning_rate = "high"\n', "a number"),
        ("[training]\ntrain_routers = 1\n", "true or false"),
        ("[training]\nepochs = 0\n", "epochs = 0. must be a finite number of at least 1"),
        ("[training]\nlearning_rate = nan\n", "must be a finite number above 0"),
        ("[rehearsal]\nfraction = 0.1\nbudget = 5\n", "at most one"),
        ("[rehearsal]\npool_factor = 1\n", "at least 2"),
        ('[rehearsal]\nstrata = "colour"\n', "one of completion, period, subject, stratum"),
        ('[rehearsal]\nstrata = "stratum"\n', "stratum needs source.fields.stratum"),
        ('[rehearsal]\nstrata = "subject"\n', "subject needs source.fields.subject"),
        ("[store]\nurl = 3\n", "text in quotes"),
        ("[[training]]\nepochs = 1\n", "it must be a table"),
        (
            '[regularizer]\nmethod = "agem"\n[training]\nprecision = "16-mixed"\n',
            "agem is trained in 32-true or bf16-mixed",
        ),
        ('[training]\nadapt = "dora"\n', 'adapt = "dora". must be one of full, lora'),
        ("[training]\nlora_rank = 0\n", "lora_rank = 0. must be a finite number of at least 1"),
        ('[training]\nadapt = "lora"\ntrain_routers = true\n', "lora has no part for routers"),
        ('[regularizer]\nformat = "int8"\n', "must be one of float32, bfloat16, factored"),
    ],
)
def test_what_is_wrong_is_named_with_its_rule(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, GOOD + text)


@pytest.mark.parametrize(
    ("method", "estimator", "words"),
    [
        ("si", "empirical", 'method = "si" and'),
        ("ewc", "optimizer", 'estimator = "optimizer" and'),
        ("online_ewc", "optimizer", "under lora it keeps only the factors'"),
    ],
)
def test_what_cannot_be_had_under_lora_is_refused(
    tmp_path: Path, method: str, estimator: str, words: str
) -> None:
    held = f'[regularizer]\nmethod = "{method}"\nestimator = "{estimator}"\nterms = "periods"\n'
    load(tmp_path, GOOD + held)
    message = refused(tmp_path, GOOD + held + '[training]\nadapt = "lora"\n')
    assert words in message
    assert '[training] adapt = "lora"' in message


def test_one_term_of_all_the_past_is_not_had_from_the_optimizer(tmp_path: Path) -> None:
    asked = '[regularizer]\nmethod = "ewc"\nestimator = "optimizer"\n'
    assert 'take terms = "periods"' in refused(tmp_path, GOOD + asked)
    assert load(tmp_path, GOOD + asked + 'terms = "periods"\n').regularizer.terms == "periods"


@pytest.mark.parametrize("method", ["none", "l2", "mas", "lwf", "der", "der++", "agem"])
def test_what_looks_at_no_full_weights_training_goes_with_lora(tmp_path: Path, method: str) -> None:
    text = f'[regularizer]\nmethod = "{method}"\nestimator = "optimizer"\n'
    assert load(tmp_path, GOOD + text + '[training]\nadapt = "lora"\n').training.adapt == "lora"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('uri = "rows.jsonl"', "", "[source] uri is missing"),
        ('name = "clinc"', 'name = "c l"', "letters, digits"),
        ('period = "{domain}"', "", "exactly one of the two"),
        ('period = "{domain}"', 'date = "{d}"', "named periods have no dates"),
        ('"{text}\\nIntent:"', '"{text"', "expected '}'"),
        ('"{text}\\nIntent:"', '"{}"', "must name a column"),
        ('"{text}\\nIntent:"', '"{a!r}"', "must not convert"),
        ('"{text}\\nIntent:"', '"{a:{b}}"', "braces inside"),
        ('"{text}\\nIntent:"', '"text"', "at least one column"),
        ('" {intent}"', '" "', "must be given, and not be empty"),
        ('["banking", "home"]', '["a", "A"]', "once"),
        ('["banking", "home"]', '["a..b"]', "'a..b'"),
        ('["banking", "home"]', '["a.lock"]', "'a.lock'"),
        ('["banking", "home"]', '["a/b"]', "'a/b'"),
        ('["banking", "home"]', '["a", 3]', "a list of texts"),
        ('["banking", "home"]', '"banking"', "a list of texts"),
        ("[periods]", '[periods]\ntime_zone = "Mars/North"', "IANA"),
        ("[periods]", '[periods]\ntime_zone = "../../etc/passwd"', "IANA"),
        ("[periods]", '[periods]\nholdout_splits = ["test"]', "both be given or neither"),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    assert words in refused(tmp_path, GOOD.replace(old, new))


def test_everything_wrong_is_named_at_once(tmp_path: Path) -> None:
    text = GOOD + '[rehearsal]\npolcy = "none"\n[training]\nepochs = true\n'
    message = refused(tmp_path, text, "gate.confidence=0.2", UPDATER_STORE_UR="x")
    assert message.startswith("4 things are wrong")
    for words in ("polcy", "epochs = true", "--set gate.confidence=0.2", "UPDATER_STORE_URL"):
        assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[training]\nepochs = "six"\nbatch_size = 0\nlearning_rate = -1\n'
            "[gate]\nmargin_fraction = 5\nconfidence = 2\n",
            ("epochs = ", "batch_size = 0", "learning_rate = -1", "margin_fraction", "confidence"),
        ),
        (
            '[training]\nadapt = "lora"\ntrain_routers = true\nrouter_bias_rate = 0.1\n'
            "learning_rate = -1\n",
            ("train_routers", "learning_rate = -1"),
        ),
        (
            "[rehearsal]\nfraction = 0.1\nbudget = 3\npool_factor = 1\n",
            ("pool_factor = 1", "at most one of the two"),
        ),
    ],
)
def test_everything_wrong_in_a_section_is_named_once(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    message = refused(tmp_path, GOOD + text)
    assert message.startswith(f"{len(words)} things are wrong")
    for one in words:
        assert message.count(one) >= 1, one


def test_what_follows_from_a_fault_is_none_of_its_own(tmp_path: Path) -> None:
    """The default that stands in for it would break a rule that the user did not."""
    message = refused(tmp_path, GOOD.replace("[periods]\norder = [", "[periods]\norder = 3 # ["))
    assert "exactly one" not in message
    message = refused(tmp_path, GOOD.replace("[source]", '[source]\nformat = "xml"') + "i = 3\n")
    assert message.count("format = ") == 1


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    assert "line 2" in refused(tmp_path, "[workspace]\nname = clinc\n")


def test_a_file_that_is_missing_or_unreadable_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="updater init"):
        config.load(tmp_path, (), {})
    (tmp_path / "updater.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        config.load(tmp_path, (), {})


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "updater.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert config.load(tmp_path, (), {}).workspace.name == "clinc"


def test_an_option_of_a_command_is_named_as_it_was_typed(tmp_path: Path) -> None:
    (tmp_path / "updater.toml").write_text(GOOD)

    def typed(name: str, value: str) -> config.Option:
        return config.Option(f"--{name}", ("compression", name), value)

    given = [typed("method", "obd"), typed("sparsity", "0.3"), "compression.rounds=2"]
    found = config.load(tmp_path, given, {}).compression
    assert (found.method, found.sparsity, found.rounds) == ("obd", 0.3, 2)
    for value in ("half", "7"):
        with pytest.raises(InputError, match=rf"^--sparsity {value}\."):
            config.load(tmp_path, [typed("sparsity", value)], {})
    both = [typed("method", "wanda"), "compression.remove=heads"]
    words = r"^--method wanda and --set compression\.remove=heads\. .* change --method, --set comp"
    with pytest.raises(InputError, match=words):
        config.load(tmp_path, both, {})


def test_set_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = GOOD + "[training]\nepochs = 3\nbatch_size = 3\nseed = 3\n"
    settings = load(
        tmp_path,
        text,
        "training.epochs=5",
        UPDATER_TRAINING_EPOCHS="4",
        UPDATER_TRAINING_BATCH_SIZE="4",
    )
    assert (settings.training.epochs, settings.training.batch_size, settings.training.seed) == (
        5,
        4,
        3,
    )


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("rehearsal.policy=none", "rehearsal", "policy", "none"),
        ("workspace.name=42", "workspace", "name", "42"),
        ("workspace.name=2026-01-31", "workspace", "name", "2026-01-31"),
        ('workspace.name="a"', "workspace", "name", "a"),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("training.train_routers=true", "training", "train_routers", True),
        ('periods.order=["x", "y"]', "periods", "order", ("x", "y")),
        ("rehearsal.fraction=none", "rehearsal", "fraction", None),
        ("store.url=sqlite:///a=b.db", "store", "url", "sqlite:///a=b.db"),
    ],
)
def test_an_override_is_read_as_its_key_wants(
    tmp_path: Path, override: str, section: str, key: str, value: object
) -> None:
    found = getattr(getattr(load(tmp_path, GOOD, override), section), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs", "--set training.epochs. it must be section.key=value"),
        ("=1", "--set =1. it must be section.key=value, as training.epochs=2"),
        (
            "training=1",
            "--set training names a section. the keys of [training] are adapt, lora_rank,",
        ),
        ("training=1", "name one, as training.adapt"),
        ("source.fields=1", "the keys of [source.fields] are prompt, completion"),
        ("foo.bar=1", "--set foo.bar is unknown. the sections are workspace, source"),
        ("foo.bar=1", "take it out"),
        ("traning.epochs=1", "did you mean training.epochs"),
        ("foo.epochs=1", "did you mean [training] epochs"),
        ("training.epochs.x=1", "the sections are workspace"),
        ("training.epochs.x=1", "take it out"),
        ("training.epoch=1", "did you mean epochs"),
        ("training.epochs=abc", "--set training.epochs=abc. it must be a whole number, as in 3"),
        ("training.epochs=0", "change --set training.epochs"),
        ("periods.order=a", "a list of texts"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, words: str) -> None:
    assert words in refused(tmp_path, GOOD, override)


def test_every_key_but_lists_stands_in_the_environment(tmp_path: Path) -> None:
    names = {variable(key): key for key, leaf in leaves().items() if leaf.kind is str}
    assert "UPDATER_STORE_MLFLOW_URI" in names
    settings = load(tmp_path, UPDATER_SOURCE_FIELDS_PROMPT="{q}", UPDATER_STORE_URL="sqlite:///x")
    assert settings.source.fields.prompt == "{q}"
    assert settings.store.url == "sqlite:///x"
    assert "UPDATER_PERIODS_ORDER" in refused(tmp_path, UPDATER_PERIODS_ORDER="a")


def test_what_is_no_setting_in_the_environment_is_left_alone(tmp_path: Path) -> None:
    load(
        tmp_path,
        UPDATER_WORKSPACE="/x",
        UPDATER_ACTOR="me",
        UPDATER_TEST_POSTGRES_URL="x",
        UPDATER_STORE_URL="",
        HOME="/",
    )
    assert "did you mean UPDATER_STORE_DVC_REMOTE" in refused(tmp_path, UPDATER_STORE_DVC_REMOT="x")


def test_a_password_in_the_file_is_refused_and_never_shown(tmp_path: Path) -> None:
    secret = "postgresql+psycopg://me:hunter2@db/updater"
    message = refused(tmp_path, GOOD + f'[store]\nurl = "{secret}"\n')
    assert "UPDATER_STORE_URL" in message
    assert "hunter2" not in message
    assert load(tmp_path, GOOD, UPDATER_STORE_URL=secret).store.url == secret
    message = refused(tmp_path, GOOD.replace("rows.jsonl", secret))
    assert "UPDATER_SOURCE_URI" in message
    assert "hunter2" not in message
    assert "hunter2" not in refused(tmp_path, GOOD, UPDATER_GATE_APPROVAL=secret)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///store.db",
        "sqlite:////var/store.db",
        "postgresql://db/updater",
        "postgresql+psycopg://me:a/b@c?d@db:5432/updater",
        "postgresql+psycopg://me@[::1]:5432/updater?sslmode=require",
        "postgresql+psycopg:///updater?host=/run/postgresql",
    ],
)
def test_a_database_may_be(tmp_path: Path, url: str) -> None:
    store = load(tmp_path, UPDATER_STORE_URL=url, UPDATER_STORE_MLFLOW_URI=url).store
    assert (store.url, store.mlflow_uri) == (url, url)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://me:pw@mlflow.example.org/x"])
def test_mlflow_may_be_a_server_and_the_ledger_may_not(tmp_path: Path, uri: str) -> None:
    assert load(tmp_path, UPDATER_STORE_MLFLOW_URI=uri).store.mlflow_uri == uri
    assert "must be sqlite:///FILE" in refused(tmp_path, UPDATER_STORE_URL=uri)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "foo://x",
        "sqlite://",
        "sqlite:store.db",
        "postgresql+psycopg:/x",
        "postgresql+nosuch://db/x",
        "postgresql+psycopg://db:port/x",
        "http://",
        "https://host:port",
    ],
)
@pytest.mark.parametrize("key", ["url", "mlflow_uri"])
def test_a_malformed_address_is_named_with_its_place_and_the_cure(
    tmp_path: Path, key: str, url: str
) -> None:
    name = f"UPDATER_STORE_{key.upper()}"
    rule = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
    message = refused(tmp_path, **{name: url})
    assert message.startswith(f"{name}={url} in the environment. must be ")
    assert message.endswith(f"{rule}. change {name}.")
    message = refused(tmp_path, GOOD + f'[store]\n{key} = "{url}"\n')
    assert f'updater.toml: [store] {key} = "{url}". must be ' in message
    assert message.endswith(f"{rule}. change [store] {key}.")
    assert refused(tmp_path, GOOD, f"store.{key}={url}").endswith(f"change --set store.{key}.")


@pytest.mark.parametrize(
    "url",
    ["postgresql:/me:hunter2@db/x", "me:hunter2@db", "foo://db/x?password=hunter2"],
)
def test_a_malformed_address_that_may_hold_a_password_is_not_shown(
    tmp_path: Path, url: str
) -> None:
    assert "hunter2" not in refused(tmp_path, UPDATER_STORE_URL=url)
    assert "hunter2" not in refused(tmp_path, GOOD + f'[store]\nurl = "{url}"\n')
    assert "hunter2" not in refused(tmp_path, GOOD, f"store.url={url}")


def test_the_digest_knows_every_setting_but_the_store_and_the_password(tmp_path: Path) -> None:
    plain = config.digest(load(tmp_path))
    assert re.fullmatch("[0-9a-f]{64}", plain)
    assert plain == config.digest(load(tmp_path, GOOD, "store.url=sqlite:///other.db"))
    assert plain != config.digest(load(tmp_path, GOOD, "training.epochs=99"))
    first, second = (
        load(tmp_path, GOOD, UPDATER_SOURCE_URI=f"postgresql://me:{p}@db/x") for p in ("one", "two")
    )
    assert config.digest(first) == config.digest(second)
    assert first.as_dict()["source"]["uri"] == "postgresql://me:***@db/x"
    assert "store" not in first.as_dict()


@pytest.mark.parametrize("cron", ["0 3 1 * *", "*/5 0-6,12 * JAN-MAR MON#1", "@weekly"])
def test_a_schedule_is_a_cron_expression(tmp_path: Path, cron: str) -> None:
    assert load(tmp_path, GOOD, f"periods.schedule={cron}").periods.schedule == cron


@pytest.mark.parametrize("cron", ["monthly", "@sometimes", "0 3 1 *", "0 3 1 * * ; rm"])
def test_what_is_no_cron_expression_is_refused(tmp_path: Path, cron: str) -> None:
    assert "a cron expression of five fields" in refused(tmp_path, GOOD, f"periods.schedule={cron}")


SEARCH = "[training.search]\ntrials = 4\n"


def test_ranges_are_lists_of_numbers(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD + SEARCH + "strength = [1, 1e5]\nlearning_rate = [1e-4, 0.1]\n")
    assert found.training.search.ranges == {"strength": (1.0, 1e5), "learning_rate": (1e-4, 0.1)}
    assert load(tmp_path).training.search.ranges == {}
    again = load(tmp_path, GOOD + SEARCH, "training.search.rehearsal_fraction=[0, 0.5]")
    assert again.training.search.ranges == {"rehearsal_fraction": (0.0, 0.5)}
    off = load(tmp_path, GOOD + "[training.search]\nlearning_rate = [0.5, 0.6]\n")
    assert off.training.search.ranges == {}, "what is off is held to nothing"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a search needs at least one of the ranges"),
        ('strength = ["a", "b"]', "a list of numbers, as in [0.1, 10]"),
        ("strength = [1e5, 1e2]", "[low, high], low below high"),
        ("strength = [1e2]", "must be two numbers"),
        ("strength = [0, 1e5]", "must begin above 0"),
        ("strength = [1e5, 1e6]", "the configured value, 1, must lie in the range"),
        ("learning_rate = [1e-2, 1e-1]", "the configured value, 0.001"),
        ("rehearsal_fraction = [0.05, 1.5]", "must lie in [0, 1]"),
        ("rehearsal_fraction = [0.3, 0.5]", "the configured value, 0.25"),
        ("rehearsal_fraction = [0, 1]\n[rehearsal]\nbudget = 7", "fractions are searched"),
        ('rehearsal_fraction = [0, 1]\n[rehearsal]\npolicy = "none"', "rehearses nothing"),
        ('strength = [1, 1e6]\n[regularizer]\nmethod = "none"', "none has no strength"),
        ('strength = [1, 1e6]\n[regularizer]\nmethod = "agem"', "agem has no strength"),
        ("strength = [1, 1e6]\nholdback_fraction = 1", "must lie in (0, 1)"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    message = refused(tmp_path, GOOD + SEARCH + text + "\n")
    assert words in message
    assert "search" in message
