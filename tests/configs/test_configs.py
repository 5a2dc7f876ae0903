"""The mechanism of configuration on a small set of files, and what the real files must fulfil."""

import copy
import json
import pickle
from pathlib import Path

import pytest

import configs
from configs import Config

FILES = {
    "defaults.yaml": """\
# The task to learn.
task: memory_chain  # a short name, or any gymnasium id
backbone: s4wm
seed: 0  # seed of everything
steps: 1_000  # environment steps,
              # counted over all environments
device: auto  # where to compute {auto, cpu, cuda}

# This is said of nothing.
logdir: ''
threads: 0
agent:
  horizon: 15  # steps imagined [1, inf)
  scale: 3e-4  # a rate # with a hash
  clip: 1.0  # (0, inf]
  actor:
    unimix: 0.01  # a share,
                  # of one [0, 1]
    learn: true
    act: 'a # b'  # quoted
s4wm: {layer: s5, width: 64}
""",
    "backbones.yaml": """\
s4wm: {s4wm.layer: s5, agent.horizon: 20}
s4wm_s4: {s4wm.layer: s4, agent.horizon: 20}
rssm:
""",
    "sizes.yaml": """\
small: {s4wm: {width: 32}}
12m: {s4wm.width: 256, agent: {actor.unimix: 0.02}}
debug: {s4wm.width: 8, s4wm_s4: {width: 9}, steps: 1e2}
""",
    "tasks.yaml": """\
memory_chain: {steps: 2000}
memory_chain:n=64: {agent.scale: 33}
popgym: {steps: 3000}
""",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of `FILES`, in place of the real ones."""
    path = tmp_path / "files"
    path.mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    monkeypatch.setattr(configs, "DIRECTORY", path)
    return path


def fails(*parts: str, **arguments: object) -> None:
    """load() raises a ValueError that holds every part."""
    with pytest.raises(ValueError) as caught:
        configs.load(**arguments)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)


class TestConfig:
    def test_reads_as_mapping_and_as_attributes(self) -> None:
        config = Config({"a": 1, "b": {"c": "x", "d": {"e": 2.0}}})
        assert config.a == config["a"] == 1
        assert config.b.c == "x"
        assert config.b.d.e == 2
        assert dict(config.b) == {"c": "x", "d": Config({"e": 2.0})}
        assert dict(**config.b.d) == {"e": 2.0}
        assert list(config) == ["a", "b"] and len(config) == 2 and "a" in config and "z" not in config

    def test_flat_and_to_dict(self) -> None:
        tree = {"a": 1, "b": {"c": 2.5, "d": {"e": "x"}}}
        config = Config(tree)
        assert config.to_dict() == tree
        assert type(config.to_dict()["b"]) is dict
        assert config.flat() == {"a": 1, "b.c": 2.5, "b.d.e": "x"}
        assert json.loads(json.dumps(config.to_dict())) == tree

    def test_equal_hashed_copied_and_pickled_by_value(self) -> None:
        config = Config({"a": 1, "b": {"c": 2}})
        for same in (Config(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
            assert same == config and hash(same) == hash(config) and repr(same) == repr(config)
        assert config != Config({"a": 1, "b": {"c": 3}})
        assert config != 3
        assert repr(Config({"a": "x"})) == "Config({'a': 'x'})"

    def test_immutable(self) -> None:
        config = Config({"a": 1, "b": {"c": 2}})
        with pytest.raises(AttributeError, match="immutable: cannot set 'a'"):
            config.a = 2  # type: ignore[misc]
        with pytest.raises(AttributeError, match="immutable: cannot delete 'c'"):
            del config.b.c
        with pytest.raises(TypeError):
            config["a"] = 2  # type: ignore[index]
        config.to_dict()["b"]["c"] = 3
        assert config.b.c == 2

    def test_the_source_changing_does_not_change_it(self) -> None:
        tree = {"a": 1, "b": {"c": 2}}
        config = Config(tree)
        tree["b"]["c"] = 3  # type: ignore[index]
        assert config == Config({"a": 1, "b": {"c": 2}})

    def test_missing_options_name_the_nearest(self) -> None:
        config = Config({"horizon": 1})
        with pytest.raises(AttributeError, match="no option 'horizn' here. Did you mean 'horizon'"):
            _ = config.horizn
        with pytest.raises(KeyError, match="Did you mean 'horizon'"):
            config["horizn"]
        assert config.get("horizn") is None
        assert getattr(config, "horizn", 7) == 7

    @pytest.mark.parametrize("name", ["items", "flat", "lambda", "a-b", "_tree", 3])
    def test_names_that_attributes_cannot_have_are_refused(self, name: object) -> None:
        with pytest.raises(ValueError, match="cannot name an option"):
            Config({name: 1})  # type: ignore[dict-item]


class TestMerging:
    def test_order(self, folder: Path) -> None:
        config = configs.load()
        assert config.task == "memory_chain" and config.backbone == "s4wm"
        assert config.agent.horizon == 20  # the backbone's block over the default
        assert config.s4wm.width == 32  # the size over the default
        assert config.steps == 2000  # the task's block over the default
        assert config.agent.actor.unimix == 0.01

    def test_size_follows_the_gpu_unless_a_preset_is_named(self, folder: Path) -> None:
        gpu = configs.load(cuda_available=True)
        assert (gpu.s4wm.width, gpu.agent.actor.unimix) == (256, 0.02)
        named = configs.load(presets=["debug"], cuda_available=True)
        assert (named.s4wm.width, named.agent.actor.unimix) == (8, 0.01)

    def test_task_over_first_preset_further_presets_over_task_overrides_last(self, folder: Path) -> None:
        def steps(presets: list[str], **overrides: object) -> int:
            return configs.load("memory_chain", "s4wm", presets, overrides).steps

        assert steps(["debug"]) == 2000
        assert steps(["12m", "debug"]) == 100
        assert steps(["12m", "debug"], steps="7") == 7

    def test_task_block_by_family_and_by_whole_name(self, folder: Path) -> None:
        def load(task: str) -> Config:
            return configs.load(task)

        assert load("popgym:RepeatPrevious").steps == 3000
        assert load("popgym").steps == 3000
        assert load("memory_chain:n=64").steps == 2000
        assert load("memory_chain:n=64").agent.scale == 33
        assert load("memory_chain:n=65").agent.scale == 3e-4
        assert load("module:Id-v0").steps == 1000  # no block
        assert load("module:Id-v0").task == "module:Id-v0"

    def test_a_file_of_blocks_may_be_empty(self, folder: Path) -> None:
        (folder / "tasks.yaml").write_text("# nothing yet\n")
        assert configs.load().steps == 1000

    def test_backbone_block(self, folder: Path) -> None:
        config = configs.load(backbone="rssm")
        assert config.backbone == "rssm" and config.agent.horizon == 15
        assert configs.backbones() == ["s4wm", "s4wm_s4", "rssm"]
        assert configs.presets() == ["small", "12m", "debug"]

    def test_merged_has_exactly_the_options_of_the_defaults(self, folder: Path) -> None:
        keys = [option.key for option in configs.describe()]
        assert list(configs.load().flat()) == keys

    def test_override_changes_a_config(self, folder: Path) -> None:
        config = configs.load()
        other = configs.override(config, {"device": "cpu", "agent.scale": "1"})
        assert (other.device, other.agent.scale, config.device) == ("cpu", 1.0, "auto")
        with pytest.raises(ValueError, match="here: unknown option 'devise'. Did you mean 'device'"):
            configs.override(config, {"devise": "cpu"}, "here")


GOOD = [
    ("steps", "1e5", 100_000),
    ("steps", "1_000_000", 1_000_000),
    ("steps", 2.0, 2),
    ("steps", "9007199254740993", 9007199254740993),
    ("agent.scale", "1", 1.0),
    ("agent.scale", 2, 2.0),
    ("agent.scale", "1e-3", 0.001),
    ("agent.scale", "0", 0.0),
    ("agent.clip", "inf", float("inf")),
    ("agent.horizon", 1, 1),
    ("agent.actor.unimix", "1", 1.0),
    ("agent.actor.learn", "no", False),
    ("agent.actor.learn", "Yes", True),
    ("agent.actor.learn", "false", False),
    ("agent.actor.learn", True, True),
    ("device", "cuda", "cuda"),
    ("logdir", "12", "12"),
]
INT, FLOAT = "int (such as 1000)", "float (such as 0.0003)"
BAD = [
    ("steps", "1.5", INT),
    ("steps", "many", INT),
    ("steps", True, INT),
    ("steps", None, INT),
    ("steps", "inf", INT),
    ("steps", [1], INT),
    ("agent.scale", "fast", FLOAT),
    ("agent.scale", False, FLOAT),
    ("agent.actor.learn", "1", "bool (such as true)"),
    ("agent.actor.learn", 1, "bool (such as true)"),
    ("logdir", 12, "str (such as '')"),
    ("device", None, "str (such as auto)"),
    ("steps", "-3", "a finite number of 0 or more"),
    ("agent.scale", "nan", "a finite number of 0 or more"),
    ("agent.scale", "inf", "a finite number of 0 or more"),
    ("agent.horizon", 0, "1 or more"),
    ("agent.clip", 0, "above 0"),
    ("agent.actor.unimix", -0.5, "a number in [0, 1]"),
    ("agent.actor.unimix", 1.5, "a number in [0, 1]"),
    ("device", "gpu", "one of auto, cpu, cuda"),
]


class TestValues:
    @pytest.mark.parametrize(("key", "given", "expected"), GOOD)
    def test_parsed_to_the_type_of_the_default(
        self, folder: Path, key: str, given: object, expected: object
    ) -> None:
        got = configs.load("x", "rssm", overrides={key: given}).flat()[key]
        assert got == expected and type(got) is type(expected)

    @pytest.mark.parametrize(("key", "given", "expected"), BAD)
    def test_what_an_option_does_not_take_says_key_expected_and_got(
        self, folder: Path, key: str, given: object, expected: str
    ) -> None:
        got = f"got {given!r} ({type(given).__name__})."
        fails(
            f"the command line: option '{key}' expects {expected}, {got}",
            overrides={key: given},
        )

    def test_a_default_that_is_not_allowed_itself(self, folder: Path) -> None:
        path = folder / "defaults.yaml"
        path.write_text(path.read_text().replace("horizon: 15", "horizon: 0"))
        fails("its default: option 'agent.horizon' expects 1 or more, got 0")

    def test_built_in_types_only(self, folder: Path) -> None:
        leaves = configs.load().flat().values()
        assert {type(leaf) for leaf in leaves} == {bool, int, float, str}


class TestBackbones:
    """What a backbone's block sets is what the backbone is: a run's label says what was trained."""

    def test_nothing_may_make_a_backbone_another(self, folder: Path) -> None:
        said = (
            "'s4wm.layer' belongs to what backbone 's4wm' is, where it is s5; for s4 use --backbone s4wm_s4"
        )
        fails(said, overrides={"s4wm.layer": "s4"})
        fails("for x use another --backbone", overrides={"s4wm.layer": "x"})
        fails("'agent.horizon' belongs to what backbone 's4wm' is", overrides={"agent.horizon": 3})
        assert configs.load(overrides={"s4wm.layer": "s5"}).s4wm.layer == "s5"
        assert configs.load("x", "rssm", overrides={"agent.horizon": 3}).agent.horizon == 3

    @pytest.mark.parametrize("name", ["sizes", "tasks"])
    def test_nor_may_a_block(self, folder: Path, name: str) -> None:
        (folder / f"{name}.yaml").write_text("small: {s4wm.layer: s4}\n12m: {}\n")
        if name == "tasks":
            fails("use --backbone s4wm_s4", task="small")
        else:
            fails("use --backbone s4wm_s4")

    def test_a_preset_may_size_a_variant(self, folder: Path) -> None:
        """What stands under its name is its model's option, and no other backbone's."""
        widths = {name: configs.load("x", name, ["debug"]).s4wm.width for name in ("s4wm", "s4wm_s4")}
        assert widths == {"s4wm": 8, "s4wm_s4": 9}
        (folder / "tasks.yaml").write_text("tmaze: {s4wm_s4.wdth: 3}\n")
        fails("tasks.yaml, block 'tmaze': unknown option 's4wm.wdth'. Did you mean 's4wm.width'?")

    def test_a_label_says_the_layer(self, folder: Path) -> None:
        labels = [configs.label(name) for name in configs.backbones()]
        assert labels == ["s4wm (s5)", "s4wm_s4", "rssm"]

    @pytest.mark.parametrize(
        ("old", "new"), [("s5wm", "s4wm"), ("lruwm", "s4wm_lru"), ("mamba2wm", "s4wm_mamba2")]
    )
    def test_an_old_name_gets_the_new_one(self, old: str, new: str) -> None:
        with pytest.raises(ValueError, match=f"unknown backbone '{old}'. Did you mean '{new}'?"):
            configs.load(backbone=old)


class TestMessages:
    def test_unknown_override_names_the_nearest(self, folder: Path) -> None:
        said = "the command line: unknown option 'agent.horizn'. Did you mean 'agent.horizon'?"
        fails(said, overrides={"agent.horizn": "1"})
        fails("Did you mean 'agent.actor.unimix'?", overrides={"unimix": "1"})

    def test_nothing_near_suggests_nothing(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown option 'qqqqqq'\.$"):
            configs.load(overrides={"qqqqqq": "1"})

    def test_a_group_is_no_option(self, folder: Path) -> None:
        said = "'agent.actor' is a group of options, got '3' (str); set 'agent.actor.unimix', "
        fails(said, overrides={"agent.actor": "3"})

    def test_unknown_backbone_and_preset(self, folder: Path) -> None:
        fails(
            "unknown backbone 'rsm'. Did you mean 'rssm'? Expected one of 's4wm', 's4wm_s4', 'rssm'.",
            backbone="rsm",
        )
        fails("unknown preset 'debgg'. Did you mean 'debug'? Expected one of 'small'", presets=["debgg"])
        fails("unknown preset 'debgg'", presets=["small", "debgg"])

    @pytest.mark.parametrize("name", ["backbones", "sizes", "tasks"])
    def test_unknown_key_in_any_block_names_file_and_block(self, folder: Path, name: str) -> None:
        path = folder / f"{name}.yaml"
        path.write_text(path.read_text() + "unused:\n  agent:\n    horzon: 3\n")
        fails(f"{path}, block 'unused': unknown option 'agent.horzon'. Did you mean 'agent.horizon'?")

    def test_wrong_type_in_a_block(self, folder: Path) -> None:
        (folder / "tasks.yaml").write_text("tmaze: {steps: soon}\n")
        fails("tasks.yaml, block 'tmaze': option 'steps' expects int", "got 'soon'")

    @pytest.mark.parametrize("key", ["task", "backbone"])
    def test_blocks_and_overrides_may_not_choose_blocks(self, folder: Path, key: str) -> None:
        fails(f"the command line: '{key}' chooses the blocks", f"use --{key}", overrides={key: "x"})
        (folder / "sizes.yaml").write_text(f"small: {{{key}: x}}\n")
        fails(f"sizes.yaml, block 'small': '{key}' chooses the blocks")

    def test_files_that_are_no_mapping_of_names(self, folder: Path) -> None:
        cases = [
            ("tasks.yaml", "- a\n", "tasks.yaml: expected a mapping"),
            ("tasks.yaml", "a: 3\n", "block 'a': expected options, got 3 (int)"),
            ("tasks.yaml", "a: {agent: {}}\n", "the group 'agent' is empty"),
            ("tasks.yaml", "a: {agent: {3: 1}}\n", "expected names as keys, got 3 (int) under 'agent'"),
            ("tasks.yaml", "a: {steps: 1\n", "tasks.yaml is not valid YAML"),
            ("tasks.yaml", "a: {steps: 1}\na: {steps: 1}\n", 'found duplicate key "a"'),
        ]
        for name, text, said in cases:
            (folder / name).write_text(text)
            fails(said)

    def test_a_default_of_an_odd_type(self, folder: Path) -> None:
        (folder / "defaults.yaml").write_text("task: a\nwhen: 2020-01-01\n")
        fails("the default of 'when' must be a bool, int, float or str", "date")


class TestSaved:
    def test_what_is_saved_is_read(self, folder: Path, tmp_path: Path) -> None:
        overrides = {"agent.clip": "inf", "agent.scale": "1e-5", "logdir": "yes"}
        config = configs.load("popgym:X", "rssm", ["12m"], overrides)
        path = tmp_path / "config.yaml"
        path.write_text(configs.dump(config))
        assert configs.read(path) == config

    def test_unknown_missing_and_wrong(self, folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        good = configs.dump(configs.load())
        for old, new, said in [
            (
                "horizon:",
                "horizons:",
                f"{path}: unknown option 'agent.horizons'. Did you mean 'agent.horizon'?",
            ),
            ("seed: 0\n", "", f"{path} lacks 'seed': expected every option of defaults.yaml"),
            ("seed: 0\n", "seed: a\n", f"{path}: option 'seed' expects int (such as 0), got 'a' (str)."),
        ]:
            assert old in good
            path.write_text(good.replace(old, new))
            with pytest.raises(ValueError) as caught:
                configs.read(path)
            assert said in str(caught.value)

    def test_differences(self, folder: Path) -> None:
        saved = configs.load()
        free = {"steps": "9", "device": "cpu", "threads": "2", "logdir": "x"}
        changed = configs.differences(saved, configs.override(saved, free))
        assert [key for key in changed if not configs.is_free(key)] == [] != list(changed)
        now = configs.override(saved, {**free, "seed": "1", "agent.horizon": "3"})
        lines = [line for key, line in configs.differences(saved, now).items() if not configs.is_free(key)]
        assert lines == ["seed: saved 0, now 1", "agent.horizon: saved 20, now 3"]

    def test_groups_are_free_as_a_whole(self) -> None:
        assert all(map(configs.is_free, ("steps", "eval.every", "log.pictures", "checkpoint.keep")))
        assert not any(map(configs.is_free, ("seed", "envs.count", "evaluation.every", "replay.chunk")))

    def test_what_is_not_named_is_as_it_was(self, folder: Path) -> None:
        saved = configs.load("popgym:X", "rssm", ["12m"], {"seed": 3, "agent.horizon": 4})
        assert configs.resume(saved, None, None, [], {}) == saved
        again = configs.resume(saved, None, None, [], {"steps": "9"})
        assert configs.differences(saved, again) == {"steps": "steps: saved 3000, now 9"}
        other = configs.resume(saved, "tmaze", "s4wm", [], {})
        assert configs.differences(saved, other).keys() == {"task", "backbone"}
        resized = configs.resume(saved, None, None, ["debug"], {"seed": 3})
        assert (resized.s4wm.width, resized.seed, resized.agent.horizon) == (8, 3, 15)


@pytest.mark.parametrize(
    ("backbone", "named", "why"),
    [
        ("s4wm", "rssm.units", "the backbone is 's4wm'"),
        ("rssm_tbtt", "s4wm.layers", "the backbone is 'rssm_tbtt'"),
        ("s4wm", "s4wm.s4.state_size", "the layer is s5"),
        ("s4wm", "s4wm.attention.memory", "s4wm.attention.layers is 0"),
        ("s4wm_hybrid", "s4wm.attention.memory", ""),
        ("rssm", "optimiser.ssm_lr", "backbone 'rssm' has no state-space layers"),
        ("s4wm", "replay.burn_in", "replay.initial_state is stored"),
        ("s4wm", "envs.restarts", "envs.mode is sync"),
        ("s4wm_published", "heads.product", "heads.action is false"),
        ("s4wm_published", "recall.positions", "recall.scale is 0.0"),
        ("s4wm", "recall.positions", ""),
        ("rssm", "rssm.unimix", ""),
        ("s4wm", "s4wm.s5.state_size", ""),
        ("rssm", "rssm.units", ""),
        ("s4wm", "optimiser.ssm_lr", ""),
        ("s4wm", "replay.state_every", ""),
    ],
)
def test_what_does_nothing_is_said(backbone: str, named: str, why: str) -> None:
    said = configs.inert(configs.load(backbone=backbone), [named])
    assert said == ([f"option '{named}' does nothing here: {why}"] if why else [])


class TestDescribe:
    def test_meanings_come_from_the_comments(self, folder: Path) -> None:
        options = {option.key: (option.default, option.meaning) for option in configs.describe()}
        assert options == {
            "task": ("memory_chain", "a short name, or any gymnasium id"),
            "backbone": ("s4wm", ""),
            "seed": (0, "seed of everything"),
            "steps": (1000, "environment steps, counted over all environments"),
            "device": ("auto", "where to compute"),
            "logdir": ("", ""),
            "threads": (0, ""),
            "agent.horizon": (15, "steps imagined"),
            "agent.scale": (3e-4, "a rate # with a hash"),
            "agent.clip": (1.0, ""),
            "agent.actor.unimix": (0.01, "a share, of one"),
            "agent.actor.learn": (True, ""),
            "agent.actor.act": ("a # b", "quoted"),
            "s4wm.layer": ("s5", ""),
            "s4wm.width": (64, ""),
        }

    def test_and_what_is_allowed(self, folder: Path) -> None:
        allowed = {option.key: option.allowed for option in configs.describe() if option.allowed}
        assert allowed == {
            "device": "one of auto, cpu, cuda",
            "agent.horizon": "1 or more",
            "agent.clip": "above 0",
            "agent.actor.unimix": "a number in [0, 1]",
        }

    def test_did_you_mean(self) -> None:
        assert configs.did_you_mean("trainr", ["train", "eval"]) == " Did you mean 'train'?"
        assert (
            configs.did_you_mean("batchsize", ["replay.batch_size"]) == " Did you mean 'replay.batch_size'?"
        )
        assert (
            configs.did_you_mean("horizon", ["precision", "agent.horizon"])
            == " Did you mean 'agent.horizon'?"
        )
        assert configs.did_you_mean("b.unit", ["a.unit", "b.units"]) == " Did you mean 'b.units'?"
        assert configs.did_you_mean("MEMORY", ["memory", "x"]) == " Did you mean 'memory'?"
        assert (
            configs.did_you_mean("tmase", ["tmaze", "maze", "x"], most=2)
            == " Did you mean 'tmaze' or 'maze'?"
        )
        assert configs.did_you_mean("zzz", ["train"]) == ""
        assert configs.did_you_mean("zzz", []) == ""


class TestRealFiles:
    def test_every_option_says_what_it_means(self) -> None:
        options = configs.describe()
        assert len(options) > 30
        assert [option.key for option in options if len(option.meaning) < 3] == []

    def test_run_options_are_there(self) -> None:
        keys = {option.key for option in configs.describe()}
        assert {"task", "backbone", "seed", "steps", "device", "logdir", "threads"} <= keys

    def test_every_backbone_and_preset_loads(self, tmp_path: Path) -> None:
        assert {"s4wm", "rssm"} <= set(configs.backbones())
        assert {"debug", "small", "12m"} <= set(configs.presets())
        for backbone in configs.backbones():
            for preset in configs.presets():
                config = configs.load(backbone=backbone, presets=[preset])
                (tmp_path / "config.yaml").write_text(configs.dump(config))
                assert configs.read(tmp_path / "config.yaml") == config
