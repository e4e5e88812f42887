"""The download of AHRQ's code tables, from a file server on loopback."""

from __future__ import annotations

import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from test_index_mapping import DX9, DX10, PR9, PR10, mimic  # noqa: F401  fixture

from pipeline.errors import UserError
from preprocess import build_index_mapping
from scripts.download_code_maps import SOURCES, main

TABLES = {
    "$dxref 2015.csv": DX9,
    "$prref 2015.csv": PR9,
    "ccs_dx_icd10cm_2019_1.csv": DX10,
    "ccs_pr_icd10pcs_2020_1.csv": PR10,
}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def zip_of(texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(f"folder/{name}", text)
    return buffer.getvalue()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory laid out as AHRQ's, and the URL at which it is served."""
    folder = tmp_path / "site"
    for source, names in SOURCES.items():
        path = folder / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zip_of({name: TABLES[name] for name in names} | {"readme.txt": "about"}))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def download(output: Path, url: str) -> None:
    main(["--output_path", str(output), "--base_url", url])


def test_from_the_site_to_the_maps(site: tuple[Path, str], mimic: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    output, maps = tmp_path / "out", tmp_path / "maps"
    download(output, site[1])
    assert {path.name: path.read_text() for path in output.iterdir()} == TABLES
    build_index_mapping.main(["--mimic_dir", str(mimic), "--output_path", str(maps), "--ccs_dir", str(output)])
    assert "4019,9,Essential hypertension" in (maps / "hosp/d_ccs_diagnoses.csv").read_text()
    assert (maps / "hosp/d_ccs_procedures.csv").exists()
    capsys.readouterr()
    download(output, "http://127.0.0.1:1")
    assert capsys.readouterr().out.count("up to date") == 3, "nothing is downloaded again"


def test_a_failed_download_resumes(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    output = tmp_path / "out"
    last = folder / list(SOURCES)[-1]
    complete = last.read_bytes()
    for content, message in (
        (None, "got status 404"),
        (complete[:-40], "expected a complete zip file"),
        (b"<html>moved</html>", "expected a complete zip file"),
        (complete.replace(b"readme.txt", b"xeadme.txt")[:100] + complete[101:], "expected a complete zip file"),
        (zip_of({"other.csv": PR10}), "expected ccs_pr_icd10pcs_2020_1.csv in this zip file"),
        (zip_of({"ccs_pr_icd10pcs_2020_1.csv": "<html>"}), "expected a header line"),
        (zip_of({"ccs_pr_icd10pcs_2020_1.csv": PR10.splitlines()[0]}), "expected codes in"),
    ):
        last.unlink(missing_ok=True)
        if content is not None:
            last.write_bytes(content)
        with pytest.raises(UserError, match=message):
            download(output, url)
        assert sorted(path.name for path in output.glob("*.csv")) == sorted(TABLES)[:3]
        (output / last.name).unlink(missing_ok=True)
    last.write_bytes(complete)
    download(output, url)
    assert {path.name: path.read_text() for path in output.iterdir()} == TABLES


def test_offline(site: tuple[Path, str], tmp_path: Path) -> None:
    """One line that says what to do: the zip files can come from a browser."""
    with pytest.raises(UserError, match=r"got no connection\. Run the same command again when online, or download the file"):
        download(tmp_path / "out", "http://127.0.0.1:1")
    (tmp_path / "out").mkdir()  # nothing was written
    for source in SOURCES:
        path = site[0] / source
        path.rename(tmp_path / "out" / path.name)
    download(tmp_path / "out", "http://127.0.0.1:1")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(TABLES)


def test_a_directory_with_other_files(mimic: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "ccs").mkdir()
    for folder, message in ((tmp_path / "no", "expected a directory with the CCS files"), (tmp_path / "ccs", "got none")):
        with pytest.raises(UserError, match=message):
            build_index_mapping.main(
                ["--mimic_dir", str(mimic), "--output_path", str(tmp_path / "maps"), "--ccs_dir", str(folder)]
            )
