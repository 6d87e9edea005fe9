"""Claims about starting processes: who gets what, and that every end is one line and the right exit code."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from scripts.launch import help_text, plan
from scripts.processes import LaunchError, Plan, meeting_point
from vov.files import REPO

# A module that stands for a fit: no torch, so that a test takes a second.
STUB = """
import os, signal, sys, time
rank, what = int(os.environ.get("RANK") or -1), sys.argv[1]
names = "RANK WORLD_SIZE LOCAL_RANK VOV_RANK OMP_NUM_THREADS OMP_WAIT_POLICY MASTER_PORT"
if what == "show":
    print(*(f"{name}={os.environ.get(name)}" for name in names.split()), flush=True)
elif what == "fail" and rank == 1:
    sys.exit("error: the disk of process 1 is full")
elif what == "all fail":
    sys.exit("error: WIDTH=40 is wrong")
elif what == "lose" and rank == 0:
    time.sleep(0.5)
    os._exit(70)
elif what == "lose":
    sys.exit("error: the cause")
elif what == "handle":
    def stop(number, frame):
        if rank == 0:
            print("interrupted; run the same command again", file=sys.stderr)
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
if what not in ("show", "all fail"):
    open(sys.argv[2] + str(rank), "w").close()
    time.sleep(60)
"""


def start(tmp_path, *arguments, **variables):
    (tmp_path / "stub.py").write_text(STUB)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MASTER_", "NNODES", "NODE_RANK"))}
    environ |= {"VOV_PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "NUM_GPUS": "2"} | variables
    command = f"source {REPO}/scripts/common.sh; vov_launch stub " + " ".join(map(repr, arguments))
    return subprocess.Popen(["bash", "-c", command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def end(process, timeout=60):
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def test_plans():
    assert plan({}, lambda: 0) == Plan(1)
    assert plan({}, lambda: 8).processes == 2  # the default of the documented commands
    assert plan({"NUM_GPUS": "3"}, lambda: 0).processes == 3  # CPU processes, because asked for
    assert plan({"NUM_GPUS": "4"}, lambda: 2).processes == 2
    four = plan({"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NUM_GPUS": "4"},
                lambda: 8)
    assert four.world == 8
    told = four.environment(3, {"RANK": "16"})
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"], told["VOV_RANK"]) == ("7", "3", "8", "16")


@pytest.mark.parametrize(("variables", "message"), [
    ({"NUM_GPUS": "two"}, "NUM_GPUS=two: must be a whole number"),
    ({"NNODES": "2"}, "MASTER_ADDR and MASTER_PORT must be set"),
    ({"NODE_RANK": "1"}, "NODE_RANK=1: must be below NNODES=1"),
    ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999: must be a whole number from 0 to 65535"),
])
def test_what_cannot_work_is_refused_by_name(variables, message):
    with pytest.raises(LaunchError, match=message):
        plan(variables, lambda: 0)


def test_a_taken_port_is_one_line_that_names_the_variable(tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        code, _, errors = end(start(tmp_path, "show", MASTER_PORT=port))
    assert code == 1 and errors.count("\n") == 1 and f"MASTER_PORT={port}" in errors
    chosen, held = meeting_point(Plan(2, port=0))
    assert chosen.port > 0
    with pytest.raises(LaunchError, match="MASTER_PORT"):  # a run that has not opened its port yet
        for _ in range(2):
            held += meeting_point(chosen)[1]
    for lock in held:
        lock.close()


def test_processes_are_told_their_place_and_share_the_cores(tmp_path):
    code, output, errors = end(start(tmp_path, "show", RANK="4"))
    assert code == 0 and errors == ""
    cores = len(os.sched_getaffinity(0))
    assert f"RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 VOV_RANK=4 OMP_NUM_THREADS={max(1, cores // 2)} " in output
    assert "OMP_WAIT_POLICY=PASSIVE" in output and output.count("\n") == 1  # the second process is quiet
    _, output, _ = end(start(tmp_path, "show", NUM_GPUS="1", RANK="4", OMP_WAIT_POLICY="ACTIVE"))
    assert "RANK=4 WORLD_SIZE=None" in output and "OMP_WAIT_POLICY=ACTIVE" in output


@pytest.mark.parametrize(("what", "message"), [
    ("fail", "error: the disk of process 1 is full\n"),
    ("all fail", "error: WIDTH=40 is wrong\n"),
    ("lose", "error: the cause\n"),  # the first process only noticed that the second was gone
])
def test_an_error_of_any_process_is_one_line_and_exit_code_1(what, message, tmp_path):
    code, _, errors = end(start(tmp_path, what, str(tmp_path / "up")))
    assert (code, errors) == (1, message)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["handle", "ignore"])
def test_a_signal_is_one_line_and_its_exit_code(what, number, tmp_path):
    process = start(tmp_path, what, str(tmp_path / "up"))
    deadline = time.monotonic() + 30
    while not ((tmp_path / "up0").exists() and (tmp_path / "up1").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    code, _, errors = end(process)
    assert code == 128 + number
    lines = [line for line in errors.splitlines() if "run the same command again" in line]
    assert len(lines) == 1 and ("Traceback" not in errors or what == "ignore")


def test_a_killed_process_ends_the_others(tmp_path):
    process = start(tmp_path, "ignore", str(tmp_path / "up"))
    deadline = time.monotonic() + 30
    while not (tmp_path / "up1").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True,
                              check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    code, _, errors = end(process)
    assert code == 137 and errors.startswith("error: process 1 was killed by SIGKILL") and errors.count("\n") == 1


def test_two_machines_meet(tmp_path):
    """Two local "machines" of one process each: what each has, gathered by gloo."""
    (tmp_path / "meet.py").write_text(
        "import torch\nfrom vov.fitting.distributed import world\n"
        "with world() as here:\n    value = torch.tensor(float(here.rank))\n    both = here.gather(value)\n"
        "    print(here.rank, here.size, [float(one) for one in both])\n")
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    nodes = []
    for node in ("0", "1"):
        environ = os.environ | {"VOV_PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "NUM_GPUS": "1",
                                "NNODES": "2", "NODE_RANK": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        nodes.append(subprocess.Popen(["bash", "-c", f"source {REPO}/scripts/common.sh; vov_launch meet"], env=environ,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for node, process in enumerate(nodes):
        code, output, errors = end(process)
        assert (code, output) == (0, f"{node} 2 [0.0, 1.0]\n"), errors


def test_help_ends_with_the_variables_of_the_launch(monkeypatch):
    text = help_text({"NUM_GPUS": "3", "VOV_HELP": "STAGE1_OUT_DIR\tOUT_DIR/stage1\tfolder of stage 1"})
    rows = {line.split()[0]: line.split()[1] for line in text.splitlines()[2:]}
    assert rows["NUM_GPUS"] == "3" and rows["STAGE1_OUT_DIR"] == "OUT_DIR/stage1" and "MASTER_PORT" in rows


@pytest.mark.parametrize("arguments", [[], ["--help"]])
@pytest.mark.parametrize("script", ["video/train/run_two_stage.sh", "image/eval.sh", "scripts/export.sh"])
def test_without_an_environment_every_entry_says_what_to_run(script, arguments, tmp_path):
    bare = tmp_path / "python3"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -S \"$@\"\n")  # -S: no site-packages
    bare.chmod(0o755)
    done = subprocess.run(["bash", script, *arguments], cwd=REPO, env=os.environ | {"VOV_PYTHON": str(bare)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.endswith("run: bash scripts/setup.sh\n")


SCRIPTS = [path for tree in ("image", "video", "scripts", "models") for path in sorted((REPO / tree).rglob("*.sh"))
           if path.name not in ("common.sh", "setup.sh")]  # one sets the policy, one starts no threads


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_script_that_starts_python_lets_idle_threads_sleep(script):
    text = script.read_text()
    if script.name == "test.sh":  # tests start more than one way: tests/conftest.py sets it for all of them
        assert os.environ["OMP_WAIT_POLICY"]
        return
    words = "vov_run", "vov_launch", '"$VOV_PYTHON"', '"$PYTHON" -m models'
    starts = [text.index(word) for word in words if word in text]
    assert starts and min(starts) > text.index("common.sh")
