"""Fetching from a server of our own: resume, checksums, broken connections, and what is said when it fails."""

import hashlib
import http.server
import json
import os
import subprocess
import threading
from functools import partial

import pytest

from vov import VovError
from vov.commands import fetch
from vov.evaluation.perceptual import WEIGHTS
from vov.runtime.files import REPO

BODY = bytes(range(256)) * 4000


class Server(http.server.SimpleHTTPRequestHandler):
    """Files with ranges; `breaks` counts down connections that are cut half way."""

    breaks = 0
    asked: list = []  # noqa: RUF012

    def log_message(self, *_):
        pass

    def do_GET(self):
        Server.asked.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/api/models/"):
            entries = [{"rfilename": name, "size": len(BODY), "lfs": {"sha256": hashlib.sha256(BODY).hexdigest()}}
                       for name in ("model_index.json", "vae/weights.safetensors", "assets/logo.png")]
            if "Hostile" in self.path:
                entries.append({"rfilename": "../outside", "size": 1})
            return self.answer(200, json.dumps({"sha": "abc", "siblings": entries}).encode())
        if self.path.endswith("missing.pth"):
            return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(BODY):
            return self.send_error(416)
        self.answer(206 if start else 200, BODY[start:])

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if Server.breaks:
            Server.breaks -= 1
            data = data[:len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    Server.breaks, Server.asked = 0, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory="/nonexistent")) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def file(server, tmp_path, **more):
    values = {"size": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()} | more
    return fetch.File(f"{server}/a.pth", tmp_path / "a.pth", **values)


def test_a_cut_connection_is_resumed_where_it_broke(server, tmp_path):
    Server.breaks = 1
    fetch.download(file(server, tmp_path))
    assert (tmp_path / "a.pth").read_bytes() == BODY and not list(tmp_path.glob("*.part"))
    assert [range_ for _, range_ in Server.asked] == [None, f"bytes={len(BODY) // 2}-"]


def test_a_part_of_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "a.pth.part").write_bytes(BODY[:1000])
    fetch.download(file(server, tmp_path, size=0))
    assert (tmp_path / "a.pth").read_bytes() == BODY and Server.asked[0][1] == "bytes=1000-"


def test_a_wrong_checksum_leaves_no_file(server, tmp_path):
    with pytest.raises(VovError, match="SHA-256 differ") as caught:
        fetch.download(file(server, tmp_path, sha256="00" * 32))
    assert not list(tmp_path.iterdir()) and "\n" not in str(caught.value)


def test_a_damaged_part_is_thrown_away_and_fetched_anew(server, tmp_path):
    (tmp_path / "a.pth.part").write_bytes(b"x" * len(BODY))
    fetch.download(file(server, tmp_path))
    assert (tmp_path / "a.pth").read_bytes() == BODY


def test_a_missing_file_and_a_dead_server_name_the_cure(server, tmp_path):
    with pytest.raises(VovError, match=r"Not Found.*put the file at .*b\.pth by hand"):
        fetch.download(fetch.File(f"{server}/missing.pth", tmp_path / "b.pth"))
    with pytest.raises(VovError, match=r"refused.*check the network"):
        fetch.download(fetch.File("http://127.0.0.1:9/a.pth", tmp_path / "b.pth"))
    with pytest.raises(VovError, match=r"cannot list Wan-AI.*HF_ENDPOINT"):
        fetch.main(fetch.FetchConfig(what="wan", hf_endpoint="http://127.0.0.1:9", cache_dir=str(tmp_path)))


def test_a_model_comes_from_the_hub_with_its_index_last_and_only_once(server, tmp_path):
    settings = fetch.FetchConfig(what="wan", hf_endpoint=server, cache_dir=str(tmp_path))
    fetch.main(settings)
    folder = tmp_path / "Wan2.1-T2V-1.3B-Diffusers"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "model_index.json", "vae/weights.safetensors"]
    fetched = [path for path, _ in Server.asked if "/resolve/abc/" in path]
    assert fetched[-1].endswith("model_index.json") and len(fetched) == 2
    fetch.main(settings)
    assert len([path for path, _ in Server.asked if "/resolve/" in path]) == 2
    (folder / "vae" / "weights.safetensors").write_bytes(b"y" * len(BODY))  # same size, other contents
    fetch.main(settings)
    assert (folder / "vae" / "weights.safetensors").read_bytes() == BODY


def test_a_hub_cannot_write_outside_of_the_model_s_folder(server, tmp_path):
    with pytest.raises(VovError, match=r"'\.\./outside', outside"):
        fetch.model_files("Hostile/Model", fetch.FetchConfig(hf_endpoint=server, cache_dir=str(tmp_path)))


def test_the_command_takes_metric_weights_from_a_local_folder(tmp_path):
    source, target = tmp_path / "nas", tmp_path / "weights"
    source.mkdir()
    for weights in WEIGHTS.values():
        (source / weights.file).write_bytes(b"weights of " + weights.file.encode())
    environ = os.environ | {"WHAT": "metrics", "METRIC_WEIGHTS_DIR": str(target), "METRICS_MIRROR": source.as_uri()}
    done = subprocess.run(["bash", str(REPO / "scripts/fetch_models.sh")], env=environ, capture_output=True, text=True,
                          timeout=120, check=False)
    # those whose hash is known are refused, the others arrive
    assert done.returncode == 1 and "2 of 4 files could not be fetched" in done.stderr.splitlines()[-1]
    assert sorted(p.name for p in target.iterdir()) == ["dists_weights.pt", "i3d_torchscript.pt"]


def test_an_unknown_name_and_a_full_disk_are_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    with pytest.raises(VovError, match="'flux' is not one of wan"):
        fetch.main(fetch.FetchConfig(what="wan,flux"))
    with pytest.raises(VovError, match=r"are needed and .* are free"):
        fetch.check_disk([fetch.File("x", tmp_path / "deep" / "a", size=10**18)])
