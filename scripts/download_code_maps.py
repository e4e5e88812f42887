"""Download AHRQ's Clinical Classifications Software (CCS), from which build_index_mapping.py makes the maps of ICD codes.

Four tables in three zip files of about 1.5 MB, which anybody may use: single-level CCS for ICD-9-CM (diagnoses and procedures,
2015) and the beta versions for ICD-10-CM (2019.1) and ICD-10-PCS (2020.1), the last that AHRQ published. Every file is checked
before it is stored, and files that are there are kept, so the same command resumes. Without a connection, download the zip
files with a browser, put them into OUTPUT_PATH, and run the same command.

The third map, NDC to ATC classes, is made from RxNorm, which needs a UMLS account: see docs/data.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import http.client
import io
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, sha256_file
from pipeline.progress import Summary
from preprocess.ccs import read_ccs

BASE_URL = "https://hcup-us.ahrq.gov/toolssoftware"
SOURCES = {  # zip file below BASE_URL → the tables in it and the version of their codes
    "ccs/Single_Level_CCS_2015.zip": {"$dxref 2015.csv": "9", "$prref 2015.csv": "9"},
    "ccs10/ccs_dx_icd10cm_2019_1.zip": {"ccs_dx_icd10cm_2019_1.csv": "10"},
    "ccs10/ccs_pr_icd10pcs_2020_1.zip": {"ccs_pr_icd10pcs_2020_1.csv": "10"},
}
TIMEOUT_S = 60


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--output_path", default="code_maps", help="directory for the tables")
    cli.add_argument("--base_url", default=BASE_URL, metavar="URL", help=f"where ccs/ and ccs10/ are ({BASE_URL})")
    args = cli.parse_args(argv)
    summary = Summary("download_code_maps")
    for source, tables in SOURCES.items():
        if all((args.output_path / name).exists() for name in tables):
            print(f"{', '.join(tables)}: up to date")
            continue
        archive = args.output_path / PurePosixPath(source).name
        if not archive.exists():
            download(f"{args.base_url.rstrip('/')}/{source}", archive)
        for name, version in tables.items():
            extract(archive, name, version, args.output_path / name)
        archive.unlink()
    number = sum(len(tables) for tables in SOURCES.values())
    summary.print(f"{number} tables in {args.output_path}. Next: build_index_mapping.py --ccs_dir {args.output_path}")


def download(url: str, path: Path) -> None:
    """Download a file; nothing is left at `path` if this fails."""
    print(f"{url} → {path}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content = response.read()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        got = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else "no connection"
        fix = f"Run the same command again when online, or download the file with a browser to {path}"
        raise UserError(f"{url}: expected a download, got {got}. {fix}.") from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def extract(archive: Path, name: str, version: str, path: Path) -> None:
    """Extract a CCS table for ICD `version` codes from a zip file, if both are complete."""
    fix = "Remove the file and run the same command again"
    try:
        with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as zipped, atomic_path(path) as temporary:
            member = next((member for member in zipped.namelist() if PurePosixPath(member).name == name), None)
            if member is None:
                raise UserError(f"{archive}: expected {name} in this zip file, got other files. {fix}.")
            temporary.write_bytes(zipped.read(member))  # checks the checksum
            codes = {code for code, _, _ in read_ccs(temporary, version)}
            if not codes:
                raise UserError(f"{archive}: expected codes in {name}, got none. {fix}.")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        raise UserError(f"{archive}: expected a complete zip file, got something else. {fix}.") from None
    print(f"{path}: {len(codes):,} codes, SHA-256 {sha256_file(path)}")


if __name__ == "__main__":
    run(main)
