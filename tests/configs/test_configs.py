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
# Where to compute:
# auto, cpu or cuda.
device: auto
logdir: ''
threads: 0
sizes: [64, 32]  # widths
lags: []
limit: null  # no limit
agent:  # The actor-critic
  horizon: 15  # steps imagined
  scale: 3e-4  # a rate # with a hash
  bounds: [0.0, 1]
  actor:
    unimix: 0.01
    learn: true
    act: 'a # b'  # quoted
s4wm: {layer: s5, width: 64}
""",
    "backbones.yaml": "s4wm:\n  agent.horizon: 20\nrssm:\n",
    "sizes.yaml": """\
cpu: {s4wm: {width: 32}}
12m: {s4wm.width: 256, agent: {actor.unimix: 0.02}}
debug: {s4wm.width: 8, steps: 1e2}
""",
    "tasks.yaml": """\
memory_chain: {steps: 2000}
memory_chain:n=64: {agent.horizon: 33}
popgym: {steps: 3000}
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    path.mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


def fails(folder: Path, *parts: str, **arguments: object) -> None:
    """load() raises a ValueError that holds every part."""
    with pytest.raises(ValueError) as caught:
        configs.load(**arguments, directory=folder)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)


class TestConfig:
    def test_reads_as_mapping_and_as_attributes(self) -> None:
        config = Config({"a": 1, "b": {"c": [1, 2], "d": {"e": None}}})
        assert config.a == config["a"] == 1
        assert config.b.c == (1, 2)
        assert config.b.d.e is None
        assert dict(config.b) == {"c": (1, 2), "d": Config({"e": None})}
        assert dict(**config.b.d) == {"e": None}
        assert list(config) == ["a", "b"] and len(config) == 2 and "a" in config and "z" not in config

    def test_flat_and_to_dict(self) -> None:
        tree = {"a": 1, "b": {"c": [1, 2], "d": {"e": "x"}}}
        config = Config(tree)
        assert config.to_dict() == tree
        assert type(config.to_dict()["b"]) is dict
        assert config.flat() == {"a": 1, "b.c": (1, 2), "b.d.e": "x"}
        assert json.loads(json.dumps(config.to_dict())) == tree

    def test_equal_hashed_copied_and_pickled_by_value(self) -> None:
        config = Config({"a": 1, "b": {"c": [1, 2]}})
        for same in (Config(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
            assert same == config and hash(same) == hash(config) and repr(same) == repr(config)
        assert config != Config({"a": 1, "b": {"c": [1, 3]}})
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
        tree = {"a": [1], "b": {"c": 2}}
        config = Config(tree)
        tree["a"].append(2)  # type: ignore[union-attr]
        tree["b"]["c"] = 3  # type: ignore[index]
        assert config == Config({"a": [1], "b": {"c": 2}})

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
        config = configs.load(directory=folder)
        assert config.task == "memory_chain" and config.backbone == "s4wm"
        assert config.agent.horizon == 20  # the backbone's block over the default
        assert config.s4wm.width == 32  # the cpu preset over the default
        assert config.steps == 2000  # the task's block over the default
        assert config.agent.actor.unimix == 0.01 and config.sizes == (64, 32)

    def test_size_follows_the_gpu_unless_a_preset_is_named(self, folder: Path) -> None:
        gpu = configs.load(cuda_available=True, directory=folder)
        assert (gpu.s4wm.width, gpu.agent.actor.unimix) == (256, 0.02)
        named = configs.load(presets=["debug"], cuda_available=True, directory=folder)
        assert (named.s4wm.width, named.agent.actor.unimix) == (8, 0.01)

    def test_task_over_first_preset_further_presets_over_task_overrides_last(self, folder: Path) -> None:
        def steps(presets: list[str], **overrides: object) -> int:
            return configs.load("memory_chain", "s4wm", presets, overrides, directory=folder).steps

        assert steps(["debug"]) == 2000
        assert steps(["12m", "debug"]) == 100
        assert steps(["12m", "debug"], steps="7") == 7

    def test_task_block_by_family_and_by_whole_name(self, folder: Path) -> None:
        def load(task: str) -> Config:
            return configs.load(task, directory=folder)

        assert load("popgym:RepeatPrevious").steps == 3000
        assert load("popgym").steps == 3000
        assert load("memory_chain:n=64").steps == 2000
        assert load("memory_chain:n=64").agent.horizon == 33
        assert load("memory_chain:n=65").agent.horizon == 20
        assert load("module:Id-v0").steps == 1000  # no block
        assert load("module:Id-v0").task == "module:Id-v0"

    def test_a_file_of_blocks_may_be_empty(self, folder: Path) -> None:
        (folder / "tasks.yaml").write_text("# nothing yet\n")
        assert configs.load(directory=folder).steps == 1000

    def test_backbone_block(self, folder: Path) -> None:
        config = configs.load(backbone="rssm", directory=folder)
        assert config.backbone == "rssm" and config.agent.horizon == 15
        assert configs.backbones(folder) == ["s4wm", "rssm"]
        assert configs.presets(folder) == ["cpu", "12m", "debug"]

    def test_merged_has_exactly_the_options_of_the_defaults(self, folder: Path) -> None:
        keys = [option.key for option in configs.describe(folder)]
        assert list(configs.load(directory=folder).flat()) == keys

    def test_override_changes_a_config(self, folder: Path) -> None:
        config = configs.load(directory=folder)
        other = configs.override(config, {"device": "cpu", "agent.scale": "1"})
        assert (other.device, other.agent.scale, config.device) == ("cpu", 1.0, "auto")
        with pytest.raises(ValueError, match="here: unknown option 'devise'. Did you mean 'device'"):
            configs.override(config, {"devise": "cpu"}, source="here")


GOOD = [
    ("steps", "1e5", 100_000),
    ("steps", "1_000_000", 1_000_000),
    ("steps", 2.0, 2),
    ("steps", "9007199254740993", 9007199254740993),
    ("agent.scale", "1", 1.0),
    ("agent.scale", 2, 2.0),
    ("agent.scale", "1e-3", 0.001),
    ("agent.scale", "inf", float("inf")),
    ("agent.actor.learn", "no", False),
    ("agent.actor.learn", "Yes", True),
    ("agent.actor.learn", "false", False),
    ("agent.actor.learn", True, True),
    ("sizes", "1,2", (1, 2)),
    ("sizes", "[1, 2e1]", (1, 20)),
    ("sizes", "5", (5,)),
    ("sizes", "", ()),
    ("sizes", "[]", ()),
    ("sizes", [1, 2], (1, 2)),
    ("agent.bounds", "0,2", (0.0, 2.0)),
    ("lags", "1,x", (1, "x")),
    ("limit", "5", 5),
    ("limit", "0.5", 0.5),
    ("limit", "null", None),
    ("limit", "true", True),
    ("limit", "word", "word"),
    ("limit", 3, 3),
    ("device", "12", "12"),
    ("s4wm.layer", "yes", "yes"),
]
BAD = [
    ("steps", "1.5", "int", "1000"),
    ("steps", "many", "int", "1000"),
    ("steps", True, "int", "1000"),
    ("steps", None, "int", "1000"),
    ("steps", "inf", "int", "1000"),
    ("steps", [1], "int", "1000"),
    ("agent.scale", "fast", "float", "0.0003"),
    ("agent.scale", "nan", "float", "0.0003"),
    ("agent.scale", False, "float", "0.0003"),
    ("agent.actor.learn", "1", "bool", "true"),
    ("agent.actor.learn", 1, "bool", "true"),
    ("sizes", "1,x", "list of int", "64,32"),
    ("sizes", "1,,2", "list of int", "64,32"),
    ("sizes", 5, "list of int", "64,32"),
    ("device", 12, "str", "auto"),
    ("device", None, "str", "auto"),
    ("limit", [1], "null", "null"),
]


class TestTypes:
    @pytest.mark.parametrize(("key", "given", "expected"), GOOD)
    def test_parsed_to_the_type_of_the_default(
        self, folder: Path, key: str, given: object, expected: object
    ) -> None:
        got = configs.load(overrides={key: given}, directory=folder).flat()[key]
        assert got == expected and type(got) is type(expected)
        if isinstance(expected, tuple):
            assert [type(item) for item in got] == [type(item) for item in expected]

    @pytest.mark.parametrize(("key", "given", "kind", "example"), BAD)
    def test_a_wrong_type_says_key_expected_and_got(
        self, folder: Path, key: str, given: object, kind: str, example: str
    ) -> None:
        said = f"the command line: option '{key}' expects "
        got = f"{kind} (such as {example}), got {given!r} ({type(given).__name__})."
        fails(folder, said, got, overrides={key: given})

    @pytest.mark.parametrize(
        ("key", "given", "expected"),
        [
            ("steps", "-3", "0 or more"),
            ("batch_length", 1, "2 or more"),
            ("eval.episodes", 0, "1 or more"),
            ("tssm.heads", 0, "1 or more"),
            ("actor_critic.bins", 1, "3 or more"),
            ("actor_critic.unimix", -0.5, "a number from 0 to 1"),
            ("actor_critic.discount", 1.5, "a number from 0 to 1"),
        ],
    )
    def test_a_number_out_of_range_is_refused(self, key: str, given: object, expected: str) -> None:
        with pytest.raises(ValueError, match=f"the command line: option '{key}' expects {expected}, got"):
            configs.load(overrides={key: given})

    @pytest.mark.parametrize(
        ("key", "given"),
        [("s4wm.s4d.width", 0), ("heads.inputs", 0), ("actor_critic.discount", 1), ("recall.positions", 1)],
    )
    def test_a_number_at_the_end_of_its_range_is_taken(self, key: str, given: object) -> None:
        assert configs.load(overrides={key: given}).flat()[key] == given

    def test_built_in_types_only(self, folder: Path) -> None:
        leaves = configs.load(directory=folder).flat().values()
        assert {type(leaf) for leaf in leaves} <= {bool, int, float, str, tuple, type(None)}


class TestMessages:
    def test_unknown_override_names_the_nearest(self, folder: Path) -> None:
        said = "the command line: unknown option 'agent.horizn'. Did you mean 'agent.horizon'?"
        fails(folder, said, overrides={"agent.horizn": "1"})
        fails(folder, "Did you mean 'agent.actor.unimix'?", overrides={"unimix": "1"})

    def test_nothing_near_suggests_nothing(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown option 'qqqqqq'\.$"):
            configs.load(overrides={"qqqqqq": "1"}, directory=folder)

    def test_a_group_is_no_option(self, folder: Path) -> None:
        said = "'agent.actor' is a group of options, got '3' (str); set 'agent.actor.unimix', "
        fails(folder, said, overrides={"agent.actor": "3"})

    def test_unknown_backbone_and_preset(self, folder: Path) -> None:
        fails(
            folder,
            "unknown backbone 'rsm'. Did you mean 'rssm'? Expected one of 's4wm', 'rssm'.",
            backbone="rsm",
        )
        fails(
            folder, "unknown preset 'debgg'. Did you mean 'debug'? Expected one of 'cpu'", presets=["debgg"]
        )
        fails(folder, "unknown preset 'debgg'", presets=["cpu", "debgg"])

    @pytest.mark.parametrize("name", ["backbones", "sizes", "tasks"])
    def test_unknown_key_in_any_block_names_file_and_block(self, folder: Path, name: str) -> None:
        path = folder / f"{name}.yaml"
        path.write_text(path.read_text() + "unused:\n  agent:\n    horzon: 3\n")
        fails(folder, f"{path}, block 'unused': unknown option 'agent.horzon'. Did you mean 'agent.horizon'?")

    def test_wrong_type_in_a_block(self, folder: Path) -> None:
        (folder / "tasks.yaml").write_text("tmaze: {steps: soon}\n")
        fails(folder, "tasks.yaml, block 'tmaze': option 'steps' expects int", "got 'soon'")

    @pytest.mark.parametrize("key", ["task", "backbone"])
    def test_blocks_and_overrides_may_not_choose_blocks(self, folder: Path, key: str) -> None:
        fails(folder, f"the command line: '{key}' chooses the blocks", f"use --{key}", overrides={key: "x"})
        (folder / "sizes.yaml").write_text(f"cpu: {{{key}: x}}\n")
        fails(folder, f"sizes.yaml, block 'cpu': '{key}' chooses the blocks")

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
            fails(folder, said)

    def test_a_default_of_an_odd_type(self, folder: Path) -> None:
        (folder / "defaults.yaml").write_text("task: a\nwhen: 2020-01-01\n")
        fails(folder, "'when': expected bool, int, float, str, null or a list of these", "date")


class TestSaved:
    def test_what_is_saved_is_read(self, folder: Path, tmp_path: Path) -> None:
        overrides = {"limit": "3", "sizes": "1,2", "agent.scale": "1e-5", "s4wm.layer": "yes"}
        config = configs.load("popgym:X", "rssm", ["12m"], overrides, directory=folder)
        path = tmp_path / "config.yaml"
        configs.save(config, path)
        assert configs.read(path, directory=folder) == config
        assert "sizes: [1, 2]\n" in path.read_text()
        configs.save(configs.load(directory=folder), path)  # over an older one
        assert configs.read(path, directory=folder) == configs.load(directory=folder)
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["config.yaml"]

    def test_unknown_missing_and_wrong(self, folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        configs.save(configs.load(directory=folder), path)
        good = path.read_text()
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
                configs.read(path, directory=folder)
            assert said in str(caught.value)

    def test_differences(self, folder: Path) -> None:
        saved = configs.load(directory=folder)
        free = {"steps": "9", "device": "cpu", "threads": "2", "logdir": "x"}
        assert configs.differences(saved, configs.override(saved, free)) == []
        now = configs.override(saved, {**free, "seed": "1", "agent.horizon": "3"})
        assert configs.differences(saved, now) == ["seed: saved 0, now 1", "agent.horizon: saved 20, now 3"]
        assert len(configs.differences(saved, now, ignore=())) == 6


class TestDescribe:
    def test_meanings_come_from_the_comments(self, folder: Path) -> None:
        options = {key: (default, meaning) for key, default, meaning in configs.describe(folder)}
        assert options == {
            "task": ("memory_chain", "a short name, or any gymnasium id"),
            "backbone": ("s4wm", ""),
            "seed": (0, "seed of everything"),
            "steps": (1000, "environment steps, counted over all environments"),
            "device": ("auto", "Where to compute: auto, cpu or cuda."),
            "logdir": ("", ""),
            "threads": (0, ""),
            "sizes": ((64, 32), "widths"),
            "lags": ((), ""),
            "limit": (None, "no limit"),
            "agent.horizon": (15, "steps imagined"),
            "agent.scale": (3e-4, "a rate # with a hash"),
            "agent.bounds": ((0.0, 1), ""),
            "agent.actor.unimix": (0.01, ""),
            "agent.actor.learn": (True, ""),
            "agent.actor.act": ("a # b", "quoted"),
            "s4wm.layer": ("s5", ""),
            "s4wm.width": (64, ""),
        }

    def test_headings(self, folder: Path) -> None:
        assert configs.headings(folder) == {"agent": "The actor-critic", "s4wm": ""}

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
        assert {"debug", "cpu", "12m"} <= set(configs.presets())
        for backbone in configs.backbones():
            for preset in configs.presets():
                config = configs.load(backbone=backbone, presets=[preset])
                configs.save(config, tmp_path / "config.yaml")
                assert configs.read(tmp_path / "config.yaml") == config
