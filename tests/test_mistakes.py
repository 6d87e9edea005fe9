"""What a mistake is answered with: names that mean nothing are said, and what was meant is suggested."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.runs import two_stage, video_settings, write_clip
from vov import VovError, bitstream, config
from vov.commands import edit
from vov.commands.add_noise import AddNoiseVideo, add_noise_video
from vov.commands.catalogue import COMMANDS, text
from vov.commands.decode import DecodeVideo
from vov.commands.fetch import FetchConfig
from vov.commands.options import VideoFit
from vov.config import cli, spelling
from vov.model.lookup import GIGABYTES, find_model
from vov.model.registry import backbone_class
from vov.model.wan import WanBackbone
from vov.runtime import launch
from vov.runtime.files import REPO

FIT, ENCODE, PICTURE = "video/train/run_two_stage.sh", "video/encode.sh", "image/encode.sh"
RECONSTRUCT, EVAL, SAMPLE = "video/reconstruct/reconstruct.sh", "video/eval/eval.sh", "video/scaling/sample.sh"
MERGE, DATASET = "video/edit/edit_merge.sh", "scripts/encode_dataset.sh"
STAGED = ("", *config.STAGES)


@pytest.fixture(scope="module")
def entries():
    """{script: arguments of its `cli.run`}, as bash starts it."""
    found, scripts = {}, {*COMMANDS, *(str(path.relative_to(REPO)) for tree in ("image", "video")
                                       for path in (REPO / tree).rglob("*.sh"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FAMILY", raising=False)
        for script in scripts:
            module, *rest = re.search(r"^vov_(?:run|launch) (.*)", (REPO / script).read_text(), re.M)[1].split()
            patch.setattr(sys, "argv", [module, *rest[:-1]])
            patch.setattr(cli, "run", lambda cls, main, usage, script=script, **more: found.update(
                {script: (cls, usage, more)}))
            runpy.run_module(module, run_name="__main__", alter_sys=False)
    return found


@pytest.fixture
def type_(entries, monkeypatch, capsys):
    """(exit code, lines on stderr) of a command that would succeed, typed with these variables and flags alone."""

    def typed(script, environ, flags=""):
        for name in os.environ:
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", [script, *flags.split()])
        cls, usage, more = entries[script]
        try:
            cli.run(cls, lambda *_: None, usage, **more)
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr().err.splitlines()

    return typed


def test_the_table_of_variables_is_that_of_the_commands(entries):
    assert spelling.TABLE.read_text(encoding="utf-8") == text(), "run: python -m vov.commands.catalogue"
    assert set(entries) == set(COMMANDS)
    for script, (cls, usage, _) in entries.items():
        assert list(config.variables(cls)) == list(config.variables(COMMANDS[script])), script
        assert cli._script(usage) == script  # by which the command is found in the table
    assert tuple(name for name, *_ in launch.HELP) == spelling.LAUNCH


@pytest.mark.parametrize(("script", "environ", "said"), [
    (ENCODE, "TARGET_BYTE", "TARGET_BYTE is not a variable of this command; did you mean TARGET_BYTES?"),
    (ENCODE, "TRAGET_BYTES", "TRAGET_BYTES is not a variable of this command; did you mean TARGET_BYTES?"),
    (ENCODE, "TAGET_BYTE", "TAGET_BYTE is not a variable of this command; did you mean TARGET_BYTES?"),  # two slips
    (ENCODE, "OUTDIR", "OUTDIR is not a variable of this command; did you mean OUT_DIR?"),
    (ENCODE, "NUM_GPU", "NUM_GPU is not a variable of this command; did you mean NUM_GPUS?"),
    (ENCODE, "TARGET_B", ""),  # two slips and more
    (FIT, "TRAIN_STEP", "TRAIN_STEP is not a variable of this command; did you mean TRAIN_STEPS?"),
    (FIT, "STAGE1_TRAIN_STEP",
     "STAGE1_TRAIN_STEP is not a variable of this command; did you mean STAGE1_TRAIN_STEPS?"),
    (FIT, "LORA_PATH", "LORA_PATH is not a variable of this command; did you mean INIT_LORA_PATH?"),
    (FIT, "STEPS", "STEPS is not a variable of this command (it is one of video/encode.sh); did you mean DECODE_STEPS "
                   "or TRAIN_STEPS?"),
    (FIT, "FRAMES", "FRAMES is not a variable of this command (it is one of video/encode.sh); did you mean "
                    "CHUNK_FRAMES?"),
    (RECONSTRUCT, "STEPS",
     "STEPS is not a variable of this command (it is one of video/encode.sh); here it is ignored"),
    (ENCODE, "STAGE1_TRAIN_STEPS", "STAGE1_TRAIN_STEPS is not a variable of this command (it is one of "
                                   "video/train/run_two_stage.sh); here it is ignored"),
    (PICTURE, "RESIZE",
     "RESIZE is not a variable of this command (it is one of image/train_multi.sh); here it is ignored"),
    (PICTURE, "FRAMES_DIR",
     "FRAMES_DIR is not a variable of this command (it is one of video/encode.sh); did you mean IMAGE?"),
    (ENCODE, "OUTPUT_DIR", "OUTPUT_DIR is not a variable of this command (it is one of video/reconstruct/"
                           "reconstruct.sh); did you mean OUT_DIR?"),
    (FIT, "STAG1_TRAIN_STEPS",
     "STAG1_TRAIN_STEPS is not a variable of this command; did you mean STAGE1_TRAIN_STEPS?"),
    (DATASET, "VIDEO_STEP", "VIDEO_STEP is not a variable of this command; did you mean VIDEO_STEPS?"),
    # what is legal, or another's
    (FIT, "V_LENGTH GRAD_ACCUM_STEPS WAN_MODEL_ID STAGE1_LR STAGE2_OUT_DIR VOV_RANK", ""),
    (DATASET, "VIDEO_STEPS IMAGE_STEPS RAY_ADDRESS", ""),
    (MERGE, "WEIGHTS1 WEIGHTS2 WEIGHTS3 WEIGHTS11", ""),
    (RECONSTRUCT, "CONFIG FRAMES_DIR NAME CAPTION OUT_DIR NUM_GPUS", ""),  # exported once for several commands
    (EVAL, "CONFIG FRAMES_DIR NAME CAPTION OUT_DIR", ""), (SAMPLE, "CONFIG FRAMES_DIR NAME CAPTION", ""),
    (PICTURE, "CONFIG IMAGE WAN_MODEL_ID QWEN_MODEL_ID CACHE_DIR", ""),
    (ENCODE, "target_byte TARGET-BYTE", ""),
])
def test_a_variable_that_is_set_in_vain_is_one_line(script, environ, said, type_):
    value = {"CONFIG": "nano-video", "NUM_GPUS": "1"}
    given = {name: value.get(name, "x" if name.endswith(("DIR", "ID", "ADDRESS")) else "1") for name in environ.split()}
    assert type_(script, given) == (0, said.splitlines())


# Of shells, desktops, CI, containers, clusters, CUDA, PyTorch and other libraries.
FOREIGN = """
    PATH HOME USER LOGNAME SHELL TERM LANG LANGUAGE LC_ALL PWD OLDPWD SHLVL HOST HOSTNAME OSTYPE EDITOR VISUAL PAGER
    LESS LS_COLORS MAIL MANPATH DISPLAY COLUMNS LINES TMPDIR TEMP TMP TZ UID PS1 IFS NAME SSH_TTY HISTSIZE ENV DEBUG
    VERBOSE WSL_DISTRO_NAME XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS CI BUILD_ID BUILD_NUMBER JOB_NAME NODE_NAME
    NODE_LABELS WORKSPACE GIT_BRANCH BRANCH BRANCH_NAME TAG_NAME STAGE_NAME GITHUB_ACTIONS GITHUB_SHA RUNNER_OS
    CI_JOB_ID IMAGE IMAGES IMAGE_NAME IMAGE_TAG IMAGE_ROOT IMAGE_URL VIDEO_CARDS NAMESPACE POD_NAME NODE_IP PORT
    LOG_LEVEL VERSION TARGET PREFIX CC CXX CFLAGS LDFLAGS MAKEFLAGS LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH CPATH
    JAVA_HOME GOPATH HTTP_PROXY NO_PROXY SSL_CERT_FILE PYTHONPATH PYTHONHASHSEED PYTHONUNBUFFERED VIRTUAL_ENV
    CONDA_PREFIX PIP_INDEX_URL PYTEST_CURRENT_TEST CUDA_HOME NCCL_DEBUG CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER
    NVIDIA_VISIBLE_DEVICES NVARCH TORCH_HOME TORCH_LOGS PYTORCH_CUDA_ALLOC_CONF TRITON_CACHE_DIR HF_HOME HF_ENDPOINT
    HF_TOKEN TRANSFORMERS_CACHE TOKENIZERS_PARALLELISM WANDB_DIR WANDB_MODE RANK WORLD_SIZE LOCAL_RANK
    LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK ROLE_NAME MASTER_ADDR MASTER_PORT NODE_RANK NNODES NPROC_PER_NODE
    OMP_NUM_THREADS OMP_WAIT_POLICY GOMP_SPINCOUNT KMP_AFFINITY MKL_NUM_THREADS NUM_WORKERS NUM_THREADS NUM_PROCESSES
    WORKERS DEVICE DEVICES GPUS CPUS SLURM_JOB_ID SLURM_NNODES SLURM_PROCID SLURM_GPUS PBS_JOBID NHOSTS NSLOTS QUEUE
    TASK_ID PMI_RANK OMPI_COMM_WORLD_RANK SCRATCH WORK WORKDIR WORK_DIR DATA DATA_DIR DATASET DATA_ROOT PROJECT ROOT
    MODULEPATH RAY_ADDRESS RAY_TMPDIR CACHE CACHE_DIR OUTPUT INPUT FORMAT METRICS REPORT DRY_RUN MODE MODEL MODEL_NAME
    MODEL_PATH CONFIG_PATH CONFIG_FILE CONFIGS LOG_DIR LOGS TASK COMMAND SOURCE BACKEND VOV_CACHE VOV_PYTHON VOV_HELP
    TITLE STATE STATUS SIZE SCALE RATE SPEED LEVEL STAGE MAX MIN"""


@pytest.mark.parametrize("script", COMMANDS)
def test_what_other_programs_set_is_never_spoken_of(script, entries):
    cls, _, more = entries[script]
    own = [name for field in config.variables(cls).values() for name in config.environment_names(field)]
    prefixes = ("STAGE1_", "STAGE2_") if "stage1" in more.get("stages", ()) else ("IMAGE_", "VIDEO_") if more.get(
        "more") else ()
    assert spelling.notes(script, own, dict.fromkeys(FOREIGN.split(), "1"), prefixes) == []
    assert spelling.notes("scripts/sweep.sh", own, {"TARGET_BYTE": "1"}) == []  # which hands the environment on


def test_one_line_a_run_and_none_where_a_script_wants_none(type_):
    wrong = {"TARGET_BYTE": "1", "TORCHELASTIC_RUN_ID": "vov", "VOV_RANK": ""}
    for rank, lines in (("0", 1), ("1", 0)):
        assert len(type_(ENCODE, wrong | {"RANK": rank})[1]) == lines
    assert type_(ENCODE, {"TARGET_BYTE": "1", "VOV_SPELLING": "0"}) == (0, [])
    assert type_(ENCODE, {"TARGET_BYTE": ""}) == (0, [])
    demo = (REPO / "scripts/demo.sh").read_text()  # its exports are for the fits
    assert re.search(r"VOV_SPELLING=0 bash video/encode.sh", demo)


@pytest.mark.parametrize(("script", "flags", "said"), [
    (ENCODE, "--target-byte 200", "--target-byte is not a flag of this command; did you mean --target-bytes?"),
    (ENCODE, "--target_byte=200", "--target_byte is not a flag of this command; did you mean --target-bytes?"),
    (FIT, "--steps 9", "--steps is not a flag of this command (it is one of video/encode.sh); did you mean "
                       "--decode-steps or --train-steps?"),
    (PICTURE, "--nonsense", "--nonsense is not a flag of this command; --help lists them"),
    (PICTURE, "cat.png", "'cat.png' is no flag; give --name value, see --help"),
])
def test_a_misspelt_flag_is_one_line(script, flags, said, type_):
    assert type_(script, {}, flags) == (2, [f"error: {said}"])


@pytest.mark.parametrize("script", [ENCODE, PICTURE, FIT, "image/train_multi.sh", "scripts/fit_collection.sh"])
@pytest.mark.parametrize(("preset", "said"), [
    ("heigth: 48\n", "unknown key 'heigth'; did you mean 'height'?"),
    ("nonsense: 1\n", "unknown key 'nonsense'; run the script with --help for the known ones"),
    ("bitstream: x\n", "unknown key 'bitstream'; run"),  # of a command that reads no preset
    ("stage1:\n  train_step: 5\n", "unknown key 'train_step'; did you mean 'train_steps'?"),
    ("encode:\n  stpes: 5\n", "unknown key 'stpes'; did you mean 'steps'?"),
])
def test_a_misspelt_key_is_an_error_in_every_command(script, preset, said, type_, tmp_path):
    (tmp_path / "p.yaml").write_text(preset)
    code, lines = type_(script, {"CONFIG": str(tmp_path / "p.yaml")})
    assert code == 1 and len(lines) == 1 and lines[0].startswith(f"error: {tmp_path / 'p.yaml'}: {said}")


def test_a_key_of_a_sister_command_is_legal_and_said_where_it_is_not_expected(type_, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("train_steps: 9\nsteps: 8\nwidth: 64\nencode:\n  usual_rate: 3\nstage2:\n  rounding: soft\n")
    assert type_(ENCODE, {"CONFIG": str(path)}) == (0, [])
    assert type_(FIT, {"CONFIG": str(path)}) == (0, [f"CONFIG={path}: steps: not read by this command, here ignored"])
    both = [config.load(cls, {"config": str(path)}, {}, stage) for cls, stage in (
        (COMMANDS[ENCODE], "encode"), (VideoFit, "stage2"))]
    assert (both[0].steps, both[0].width, both[0].usual_rate) == (8, 64, 3)
    assert (both[1].train_steps, both[1].width, both[1].rounding) == (9, 64, "soft")


@pytest.mark.parametrize(("one", "other", "slips"), [
    ("STEPS", "STEPS", 0), ("STEP", "STEPS", 1), ("STESP", "STEPS", 1), ("XSTEPS", "STEPS", 1), ("STIPS", "STEPS", 1),
    ("PSTES", "STEPS", 2), ("", "ABC", 3), ("CA", "ABC", 3)])
def test_slips_are_counted(one, other, slips):
    assert spelling.distance(one, other) == spelling.distance(other, one) == slips


@pytest.mark.parametrize(("tree", "what", "name"), [
    ("video", "wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), ("image", "qwen", "Qwen/Qwen-Image")])
def test_a_forgotten_preset_is_told_of_before_a_large_download(tree, what, name, tmp_path):
    cure = (f"no weights of {name} in `cache_dir`={tmp_path}; fetch them ({GIGABYTES[what]} GB) with: "
            f"CACHE_DIR={tmp_path} WHAT={what} bash scripts/fetch_models.sh")
    kind = backbone_class(tree)
    for cls in (COMMANDS[f"{tree}/encode.sh"], VideoFit if tree == "video" else COMMANDS["image/train_multi.sh"]):
        with pytest.raises(VovError) as told:
            cls(cache_dir=str(tmp_path)).load(kind)
        assert str(told.value) == f"CONFIG=nano-{tree} runs at once; {cure}"
    with pytest.raises(VovError) as told:  # a file's model cannot be replaced by another
        DecodeVideo(cache_dir=str(tmp_path)).load(kind)
    assert str(told.value) == cure
    assert f"{what} ({GIGABYTES[what]} GB)" in config.variables(FetchConfig)["what"].metadata["help"]
    assert find_model(f"nano-{tree}", str(tmp_path)).is_dir()  # so it does run
    with pytest.raises(VovError, match=r"no weights of my/own in `cache_dir`=[^;]*; set `cache_dir`"):  # no offer
        find_model("my/own", str(tmp_path))


def test_a_model_of_another_layout_is_not_called_missing(tmp_path):
    (tmp_path / "wan.safetensors").write_bytes(b"x")
    for place, kind in ((tmp_path / "wan.safetensors", "a single file"),
                        (tmp_path, "a folder without model_index.json")):
        with pytest.raises(VovError) as told:
            find_model(str(place), str(tmp_path / "cache"))
        assert str(told.value).startswith(f"`model_id`={place}: is {kind}; a folder in diffusers' layout is needed")


def test_the_caption_of_one_clip_is_never_that_of_another(caplog, monkeypatch):
    reference = VideoFit().read_caption()  # of the reference's command, to which nobody says which clip it is
    assert VideoFit().clip_name == "HoneyBee" and "bee" in reference
    assert VideoFit(frames_dir="clips/HoneyBee.mp4").read_caption() == reference
    assert VideoFit(frames_dir="clips/dog.mp4", name="HoneyBee").read_caption() == reference and not caplog.messages
    assert VideoFit(frames_dir="clips/dog.mp4", caption="a  dog").read_caption() == "a dog" and not caplog.messages
    assert VideoFit(frames_dir="clips/dog.mp4").read_caption() == ""
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("dog: the caption stays empty")
    with pytest.raises(VovError, match="no such caption file; set CAPTION"):  # NAME asks for the file of that name
        VideoFit(frames_dir="clips/dog.mp4", name="cat").read_caption()
    for path, name in (("a/b.mp4", "b"), ("a/b/", "b"), ("..", Path("..").resolve().name)):
        assert VideoFit(frames_dir=path).clip_name == name
    seen = []
    monkeypatch.setattr(edit, "_edit", lambda _, settings, *more: seen.append((settings.base_caption, str(more[-1]))))
    edit.edit_video(edit.EditVideo(weights="runs/dog.safetensors", caption="a cat"))
    edit.edit_video(edit.EditVideo(weights="runs/dog.safetensors", caption="a cat", name="HoneyBee"))
    assert seen == [("", "edits/dog.mp4"), (reference, "edits/HoneyBee.mp4")]


def test_a_fit_without_name_and_caption_is_named_by_its_file(tiny_wan, tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "dog")
    two_stage(video_settings(tiny_wan, clip, tmp_path / "out", name="", caption=""))
    assert bitstream.read(tmp_path / "out" / "dog.vov").items[0].caption == ""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VovError, match=r"^checkpoints/dog/two_stage/dog.vov: no such file"):  # where a fit puts it
        add_noise_video(AddNoiseVideo(original_frames_dir=str(clip)))


@pytest.mark.parametrize(("frames", "said"), [(16, "nearest is 17"), (14, "nearest is 13"), (2, "nearest is 1"),
                                              (15, "nearest are 13 and 17"), (3, "nearest are 1 and 5")])
def test_the_nearest_number_of_frames(frames, said, tiny_wan):
    with pytest.raises(VovError, match=rf"`num_frames`={frames}: must be 4n\+1; {said}$"):
        WanBackbone.load(str(tiny_wan), "", "cpu", "float32").check_geometry(32, 32, frames)
