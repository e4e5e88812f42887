#!/usr/bin/env bash
# Unpacks a downloaded release into the directory layout that the other commands expect.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: unpack_release.sh RELEASE_DIR [--root_dir DIR]

RELEASE_DIR   the downloaded directory, which holds, at its top level or in one subdirectory, each of these parts as an
              archive (NAME.tar.gz, .tgz, .tar) or as a directory:
                patients_ehr   trajectories, one parquet file per patient
                cache          item_set/ and similar_item/, which may also be parts of their own
                index_mapping  dictionaries and code maps
                ehr_ins  ehr_bench  task_index  patient_data  evidence_datas   index files
--root_dir    where to unpack them (./datas)

Run the command again to resume: parts that are unpacked are skipped. Existing files are never overwritten.
TEXT
}

fail() { echo "error: $*" >&2; exit 1; }

release= root=./datas
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --root_dir) [ $# -gt 1 ] || fail "--root_dir: expected a directory, got none."; root=$2; shift 2 ;;
    --root_dir=*) root=${1#*=}; shift ;;
    -*) fail "unknown flag $1. See --help." ;;
    *) [ -z "$release" ] || fail "expected one RELEASE_DIR, got $release and $1."; release=$1; shift ;;
  esac
done
[ -n "$release" ] || { usage >&2; exit 2; }
[ -d "$release" ] || fail "$release: expected the directory of a downloaded release, got no such directory."
{ mkdir -p "$root" && [ -w "$root" ]; } 2>/dev/null || fail "$root: expected a writable directory, got none. Choose another --root_dir."
trap 'echo "interrupted. Run the same command again to resume." >&2; exit 130' INT
release=$(cd "$release" && pwd -P) root=$(cd "$root" && pwd -P)
[ "$release" != "$root" ] || fail "$root: the release and --root_dir are the same directory. Move the download elsewhere."

# Prints the archive or directory of a part, in the release or one level below; nothing if there is none.
find_part() {
  local name=$1 folder suffix
  for folder in "$release" "$release"/*/; do
    folder=${folder%/}
    for suffix in .tar.gz .tgz .tar; do
      if [ -f "$folder/$name$suffix" ]; then echo "$folder/$name$suffix"; return; fi
    done
    if [ -d "$folder/$name" ]; then echo "$folder/$name"; return; fi
  done
}

# Records where each unpacked part came from, so that a second run can distinguish it from the user's own files.
notes="$root/.unpacked"
mkdir -p "$notes"
rm -rf "$root"/.unpacking.*  # left by an interrupted run
scratch=
trap 'if [ -n "$scratch" ]; then rm -rf "$scratch"; fi' EXIT

placed=0 skipped=0
# put NAME [TARGET]: unpacks part NAME of the release to ROOT/TARGET.
put() {
  local name=$1 target=${2:-$1} source content inner note
  source=$(find_part "$name")
  if [ -z "$source" ]; then return; fi
  note="$notes/${target//\//_}"
  if [ -e "$root/$target" ]; then
    if [ -f "$note" ] && [ "$(cat "$note")" = "$source" ]; then
      echo "$target: already unpacked"; skipped=$((skipped + 1)); return
    fi
    fail "$root/$target exists and was not unpacked from $source. Move it away, or choose another --root_dir."
  fi
  echo "$target: from $source"
  scratch=$(mktemp -d "$root/.unpacking.XXXXXX")
  if [ -d "$source" ]; then
    mkdir "$scratch/content" && cp -R "$source/." "$scratch/content/"; content="$scratch/content"
  else
    tar -xf "$source" -C "$scratch" \
      || fail "$source: expected a complete tar archive, got a damaged one. Download it again."
    # The archive may contain the directory of the part, possibly nested, or only its files.
    content=$scratch
    for inner in "$scratch/$name" "$scratch"/*/"$name" "$scratch"/*/*/"$name"; do
      if [ -d "$inner" ]; then content=$inner; break; fi
    done
  fi
  [ -n "$(ls -A "$content")" ] || fail "$source: expected files, got none."
  mkdir -p "$(dirname "$root/$target")"
  # Written before the move: if the script is stopped in between, the next run unpacks the part again.
  printf '%s' "$source" > "$note"
  chmod u+rwx,go+rx "$content"
  mv "$content" "$root/$target"
  rm -rf "$scratch"; scratch=
  placed=$((placed + 1))
}

put patients_ehr
put cache
if [ -z "$(find_part cache)" ]; then
  put item_set cache/item_set
  put similar_item cache/similar_item
fi
for name in index_mapping patient_data task_index ehr_ins ehr_bench evidence_datas; do put "$name"; done

if [ $((placed + skipped)) -eq 0 ]; then
  fail "$release: expected patients_ehr.tar.gz, cache.tar.gz, ehr_bench/ or other parts of a release, got none. See --help."
fi
echo "unpack_release.sh: $placed parts unpacked, $skipped already there → $root"
for name in patients_ehr cache index_mapping; do
  if [ ! -e "$root/$name" ]; then
    case $name in
      patients_ehr) how="build the trajectories with preprocess/" ;;
      cache) how="make it with mimiciv_dataset/similar_item_gen.py, or evaluate without candidates" ;;
      index_mapping) how="make it with preprocess/build_index_mapping.py" ;;
    esac
    echo "not in this release: $name. To get it, $how."
  fi
done
echo "next: python mimiciv_dataset/validate_index.py checks that index files and trajectories are from the same build"
