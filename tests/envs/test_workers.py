"""When the processes of environments end, and when they do not."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

import envs


def test_workers_leave_stopping_to_the_parent(outside, capfd):
    """As does the server that they come from, without which they would count as dead."""
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode="async") as door:
        door.reset()
        workers = multiprocessing.active_children()
        parents = {_parent(process.pid) for process in workers}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for pid in (*parents, *(process.pid for process in workers)):
                os.kill(pid, number)
        door.step(np.zeros(2, np.int64))
        assert len(parents) == 1 and len(workers) == 2 and all(process.is_alive() for process in workers)
        assert door.restarted == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_closes_nothing_ends_all_the_same(tmp_path):
    script = tmp_path / "leaves.py"
    script.write_text(
        "import envs\n"
        "if __name__ == '__main__':\n"
        "    door = envs.make_vector('tmaze', 2, seed=0, mode='async')\n"
        "    door.reset()\n"
        "    print('leaving')\n"
    )
    variables = os.environ | {"PYTHONPATH": str(Path(envs.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=variables
    )
    assert (ended.returncode, ended.stdout) == (0, "leaving\n")


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
