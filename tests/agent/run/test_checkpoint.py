"""A checkpoint is complete or skipped with a reason, whatever happened to its files."""

import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from agent.run import checkpoint
from configs.files import MOST
from replay.files import fingerprint

FILES = ("agent.pt", "replay.npz", "loop.json", "manifest.json")


def states(number: int) -> tuple[dict, dict, dict]:
    """Return states of agent, replay and loop that tell `number`."""
    agent = {"model": {"weight": torch.full((3, 5), float(number))}, "updates": number, "names": ["a", "b"]}
    replay = {
        "rows/obs/image": np.full((2, 4, 3), number % 256, np.uint8),
        "rows/action": np.arange(8),
        "fresh": 1,
    }
    return agent, replay, {"step": number, "credit": 0.1 + 0.2, "next": {"eval": number}}


def save(logdir: Path, step: int, **options: int) -> Path:
    """Save the states of `step`."""
    return checkpoint.save(logdir, step, *states(step), **options)


def names(logdir: Path) -> list[str]:
    """Return everything that lies in the checkpoint folder."""
    return sorted(path.name for path in (logdir / "checkpoints").iterdir())


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Tensors, arrays and counters return exactly; integers of the replay may return as arrays."""
    folder = save(tmp_path, 1200)
    assert folder == tmp_path / "checkpoints" / "000000001200"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    step, agent, replay, loop, _ = checkpoint.load_newest(tmp_path)
    expected = states(1200)
    assert step == 1200 and loop == expected[2]
    assert torch.equal(agent["model"]["weight"], expected[0]["model"]["weight"])
    assert agent["updates"] == 1200 and agent["names"] == ["a", "b"]
    assert replay.keys() == expected[1].keys() and int(replay["fresh"]) == 1
    assert replay["rows/obs/image"].dtype == np.uint8
    np.testing.assert_array_equal(replay["rows/action"], np.arange(8))


def test_large_ones_come_back(tmp_path: Path) -> None:
    """Open episodes of many actions, and a replay of many chunks: more than a small file may have."""
    agent, replay, _ = states(3)
    loop = {"envs": [{"actions": [[0.123456789] * 100] * 20_000}]}
    chunks = {f"chunk-0000-{number:08d}.npz": {"size": 1, "crc32": number} for number in range(300_000)}
    folder = checkpoint.save(tmp_path, 3, agent, replay, loop, chunks=chunks)
    sizes = [(folder / name).stat().st_size for name in ("loop.json", "manifest.json")]
    assert min(sizes) > MOST
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and (found.loop_state, found.chunks) == (loop, chunks)


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    """A run folder without checkpoints, or none at all, is a fresh start and not worth a message."""
    messages: list[str] = []
    assert checkpoint.load_newest(tmp_path / "absent", report=messages.append) is None
    (tmp_path / "checkpoints").mkdir()
    assert checkpoint.load_newest(tmp_path, report=messages.append) is None
    assert not messages


def test_the_replay_is_optional(tmp_path: Path) -> None:
    """Evaluation does not read the replay, and a checkpoint may have none."""
    folder = save(tmp_path, 5)
    content = (folder / "replay.npz").read_bytes()
    (folder / "replay.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoint.load_newest(tmp_path, with_replay=False).replay_state is None
    agent, _, loop = states(6)
    checkpoint.save(tmp_path, 6, agent, None, loop)
    assert checkpoint.load_newest(tmp_path).replay_state is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    """Older checkpoints go once the new one is proven; `keep` says how many stay."""
    for step in (10, 20, 30):
        save(tmp_path, step)
    assert names(tmp_path) == ["000000000020", "000000000030"]
    save(tmp_path, 40, keep=1)
    assert names(tmp_path) == ["000000000040"]
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, 50, keep=0)


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    """Saving a step again replaces its checkpoint."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    agent, replay, loop = states(20)
    checkpoint.save(tmp_path, 20, agent | {"updates": -1}, replay, loop)
    assert names(tmp_path) == ["000000000010", "000000000020"]
    assert checkpoint.load_newest(tmp_path).agent_state["updates"] == -1


@pytest.mark.parametrize("step", [20, 30])
def test_one_that_reads_back_otherwise_leaves_those_before(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read back before it takes its name, that of a checkpoint of the same step included."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    agent, replay, loop = states(step)
    write = checkpoint._write

    def flips_a_bit(path: Path, content: bytes) -> dict[str, int]:
        found = write(path, content)
        if path.name == "agent.pt":
            path.write_bytes(bytes([content[0] ^ 1]) + bytes(content[1:]))
        return found

    monkeypatch.setattr(checkpoint, "_write", flips_a_bit)
    with pytest.raises(checkpoint.DamagedError, match="agent.pt"):
        checkpoint.save(tmp_path, step, agent | {"updates": -1}, replay, loop)
    assert names(tmp_path) == ["000000000010", "000000000020"]
    assert checkpoint.load_newest(tmp_path).agent_state["updates"] == 20


def damaged(tmp_path: Path) -> tuple[Path, list[str]]:
    """Save steps 1 and 2; return the folder of the newer one, to be damaged, and a list for messages."""
    save(tmp_path, 1)
    return save(tmp_path, 2), []


@pytest.mark.faults("checkpoint file cut or missing")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", ["empty", "one byte", "half", "all but one byte", "absent"])
def test_a_cut_file_is_skipped(tmp_path: Path, name: str, cut: str) -> None:
    """A file that lost its end makes the checkpoint before it the newest, with the reason told."""
    folder, messages = damaged(tmp_path)
    content = (folder / name).read_bytes()
    if cut == "absent":
        (folder / name).unlink()
    else:
        length = {"empty": 0, "one byte": 1, "half": len(content) // 2, "all but one byte": len(content) - 1}[
            cut
        ]
        (folder / name).write_bytes(content[:length])
    assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1
    assert len(messages) == 1 and str(folder) in messages[0] and name in messages[0]


@pytest.mark.faults("one bit flipped in a checkpoint file")
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_skipped(tmp_path: Path, name: str) -> None:
    """One wrong bit anywhere is found before the file is parsed."""
    folder, messages = damaged(tmp_path)
    content = (folder / name).read_bytes()
    places = np.random.default_rng(0).choice(len(content), min(len(content), 60), replace=False)
    unharmed = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(place % 8)
        (folder / name).write_bytes(changed)
        if name == "manifest.json" and _same_json(bytes(changed), content):
            unharmed += 1  # white space between the entries says nothing
            continue
        assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1, place
    assert len(messages) == len(places) - unharmed


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.faults("stray, half-written or renamed files")
def test_an_interrupted_save_is_not_looked_at(tmp_path: Path) -> None:
    """A temporary folder is neither loaded nor in the way, and the next save removes it."""
    save(tmp_path, 1)
    stray = tmp_path / "checkpoints" / ".tmp-000000000002"
    stray.mkdir()
    (stray / "agent.pt").write_bytes(b"half")
    (tmp_path / "checkpoints" / "notes.txt").write_text("a stray file")
    messages: list[str] = []
    assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1
    assert not messages
    save(tmp_path, 2)
    assert names(tmp_path) == ["000000000001", "000000000002", "notes.txt"]


@pytest.mark.faults("checkpoint file cut or missing")
def test_nothing_valid_is_told(tmp_path: Path) -> None:
    """If every checkpoint is damaged the caller starts fresh, but not in silence."""
    messages: list[str] = []
    (save(tmp_path, 1) / "manifest.json").unlink()
    assert checkpoint.load_newest(tmp_path, report=messages.append) is None
    assert "manifest.json is missing" in messages[0]
    assert "none of the 1 checkpoints" in messages[1]


@pytest.mark.faults("checkpoint file cut or missing")
def test_one_that_cannot_be_read_is_skipped_but_no_reason_to_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {save(tmp_path, 1).name, save(tmp_path, 2).name}
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.parent.name in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    messages: list[str] = []
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.load_newest(tmp_path, report=messages.append)
    bad.remove("000000000001")
    assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1
    assert "skipped checkpoint" in messages[-1] and "cannot be read" in messages[-1]


@pytest.mark.faults("checkpoint file cut or missing")
def test_damaged_later_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    """After resuming behind a damaged checkpoint, pruning counts only what can be loaded."""
    for step in (10, 20, 30):
        folder = save(tmp_path, step, keep=3)
    (folder / "agent.pt").unlink()
    (tmp_path / "checkpoints" / "000000000020" / "loop.json").write_text("{}")
    save(tmp_path, 25)
    assert names(tmp_path) == ["000000000010", "000000000025"]


@pytest.mark.faults("resumed with another configuration or format")
def test_another_format_stops(tmp_path: Path) -> None:
    """An intact checkpoint of another format is no reason to start anew and overwrite it."""
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_bytes()) | {"format": 99}
    manifest["crc32"] = checkpoint._manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        configs.Mistake, match=f"has format 99, this version of the code reads format {checkpoint.FORMAT}"
    ):
        checkpoint.load_newest(tmp_path)


@pytest.mark.faults("stray, half-written or renamed files")
def test_a_renamed_folder_is_skipped(tmp_path: Path) -> None:
    """The step in the manifest must be the one in the name."""
    folder, messages = damaged(tmp_path)
    os.replace(folder, folder.with_name("000000000009"))
    assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1
    assert "is of step 2" in messages[0]


@pytest.mark.faults("code or a foreign path in a file that is loaded")
@pytest.mark.parametrize("listed", ["../../secret", "extra.bin"])
def test_a_manifest_cannot_point_elsewhere(tmp_path: Path, listed: str) -> None:
    """Only the files of a checkpoint are ever opened."""
    folder, messages = damaged(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][listed] = {"size": 1, "crc32": 1}
    manifest["crc32"] = checkpoint._manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1
    assert listed in messages[0]


@pytest.mark.faults("code or a foreign path in a file that is loaded")
def test_code_in_a_state_is_refused(tmp_path: Path) -> None:
    """What needs code to be loaded is refused when it is saved, and the earlier checkpoint stays."""
    save(tmp_path, 1)
    agent, replay, loop = states(2)
    with pytest.raises(ValueError, match="must hold only tensors"):
        checkpoint.save(tmp_path, 2, agent | {"path": Path("x")}, replay, loop)
    with pytest.raises(ValueError, match="'rows/action' holds Python objects"):
        checkpoint.save(tmp_path, 2, agent, replay | {"rows/action": np.array([None])}, loop)
    with pytest.raises(ValueError, match="plain JSON"):
        checkpoint.save(tmp_path, 2, agent, replay, loop | {"x": {1, 2}})
    assert names(tmp_path) == ["000000000001"]


@pytest.mark.faults("parameters, loss or gradient not finite")
def test_parameters_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A broken state never becomes the newest checkpoint; the error names the tensor."""
    agent, replay, loop = states(2)
    agent["model"]["weight"][1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"agent\.model\.weight holds numbers that are not finite"):
        checkpoint.save(tmp_path, 2, agent, replay, loop)


@pytest.mark.faults("disk full")
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Running out of space raises an OSError with the path, and the run can resume from what was there."""
    save(tmp_path, 1)
    code = (
        "import sys, torch, numpy as np\n"
        "from agent.run import checkpoint\n"
        "big = np.zeros(300_000, np.uint8)\n"
        "try:\n"
        "    checkpoint.save(sys.argv[1], 2, {}, {'rows/x': big}, {})\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(checkpoint.__file__).parents[2]
    result = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True, cwd=root)
    assert "the ones before are intact" in result.stdout and "replay.npz" in result.stdout
    assert names(tmp_path) == ["000000000001"]
    assert checkpoint.load_newest(tmp_path).step == 1


def forge(folder: Path, name: str, content: bytes) -> None:
    """Give a file of a checkpoint other contents, and the manifest the right checksums."""
    (folder / name).write_bytes(content)
    rewrite(folder, lambda manifest: manifest["files"].update({name: fingerprint(folder / name)}))


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a manifest, and give it the right checksum."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    manifest["crc32"] = checkpoint._manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def packed(state: object) -> bytes:
    """What torch makes of a state."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def array(shape: str, **options: bool) -> bytes:
    """An .npz whose one array claims to be larger than it is."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = np.lib.format.magic(1, 0) + len(head).to_bytes(2, "little") + head + bytes(64)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows/x.npy", content)
    return file.getvalue()


FORGED: dict[str, Callable[[Path], object]] = {
    "loop null": lambda folder: forge(folder, "loop.json", b"null"),
    "loop of brackets": lambda folder: forge(folder, "loop.json", b"[" * 20_000),
    "agent without end": lambda folder: forge(
        folder, "agent.pt", packed({"x": torch.zeros(1).expand(10**12)})
    ),
    "agent not finite": lambda folder: forge(folder, "agent.pt", packed({"x": torch.tensor([torch.nan])})),
    "agent of text": lambda folder: forge(folder, "agent.pt", b"PK and more"),
    "replay of terabytes": lambda folder: forge(folder, "replay.npz", array("(1000000000000,)")),
    "replay of text": lambda folder: forge(folder, "replay.npz", b"PK and more"),
    "manifest without files": lambda folder: rewrite(folder, lambda found: found.pop("files")),
    "manifest without identity": lambda folder: rewrite(folder, lambda found: found.pop("identity")),
    "step of text": lambda folder: rewrite(folder, lambda found: found.update(step="2")),
    "size of text": lambda folder: rewrite(folder, lambda found: found["files"]["agent.pt"].update(size="x")),
    "files in a list": lambda folder: rewrite(folder, lambda found: found.update(files=["agent.pt"])),
    "chunk elsewhere": lambda folder: rewrite(folder, lambda found: found["chunks"].update({"../x": {}})),
}


@pytest.mark.faults("wrong content under right checksums")
@pytest.mark.parametrize("harm", FORGED)
def test_contents_are_checked_though_checksums_are_right(tmp_path: Path, harm: str) -> None:
    """The one before is taken; if there is none the caller must not start anew over it."""
    folder, messages = damaged(tmp_path)
    FORGED[harm](folder)
    assert checkpoint.load_newest(tmp_path, report=messages.append).step == 1
    assert len(messages) == 1 and str(folder) in messages[0]
    shutil.rmtree(tmp_path / "checkpoints" / "000000000001")
    with pytest.raises(configs.Mistake, match="none of the checkpoints in .* can go on from"):
        checkpoint.load_newest(tmp_path, report=messages.append)


@pytest.mark.faults("wrong content under right checksums")
def test_what_cannot_be_taken_over_is_skipped(tmp_path: Path) -> None:
    messages: list[str] = []
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    tried = []

    def accept(found: checkpoint.Checkpoint) -> None:
        tried.append(found.step)
        if found.step > 1:
            raise KeyError("model")

    assert checkpoint.load_newest(tmp_path, report=messages.append, accept=accept).step == 1
    assert tried == [3, 2, 1] and "it cannot be taken over: 'model'" in messages[0]


@pytest.mark.faults("checkpoints of another run")
def test_a_checkpoint_of_another_run_is_skipped_and_not_removed(tmp_path: Path) -> None:
    ours, messages = {"run": "a", "configuration": "b", "spaces": "c"}, []
    checkpoint.save(tmp_path, 1, *states(1), identity=ours)
    checkpoint.save(tmp_path, 2, *states(2), identity=ours | {"run": "z"})
    assert checkpoint.newest_identity(tmp_path)["run"] == "z"
    found = checkpoint.load_newest(tmp_path, report=messages.append, identity=ours)
    assert found.step == 1 and "it is of another run: its run is z, here a" in messages[0]
    assert checkpoint.load_newest(tmp_path).step == 2  # nothing was asked
    assert checkpoint.load_newest(tmp_path, identity={"spaces": "c"}).step == 2
    checkpoint.save(tmp_path, 1, *states(1), identity=ours)
    assert names(tmp_path) == ["000000000001"]
    assert (tmp_path / "aside-1" / "000000000002" / "agent.pt").is_file()
    with pytest.raises(configs.Mistake, match="its spaces is c, here d"):
        checkpoint.load_newest(tmp_path, report=messages.append, identity={"spaces": "d"})


@pytest.mark.faults("link in a folder of ours")
def test_a_checkpoint_that_is_a_link_is_pruned_alone(tmp_path: Path) -> None:
    save(tmp_path, 1)
    elsewhere = tmp_path / "elsewhere"
    folder = tmp_path / "checkpoints" / "000000000001"
    os.replace(folder, elsewhere)
    folder.symlink_to(elsewhere)
    assert checkpoint.load_newest(tmp_path).step == 1
    for step in (2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["000000000002", "000000000003"] and len(list(elsewhere.iterdir())) == 4


@pytest.mark.faults("run folder moved, removed or replaced")
def test_the_run_folder_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "gone", 1)
    assert list(tmp_path.iterdir()) == []
