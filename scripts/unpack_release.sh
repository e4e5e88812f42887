#!/usr/bin/env bash
# Puts a downloaded release in place: archives unpacked, folders copied, in the layout that every command expects.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: unpack_release.sh RELEASE_DIR [--root_dir DIR]

RELEASE_DIR   the downloaded folder. Its parts may lie in it directly or inside one folder of it, each as an archive
              (NAME.tar.gz, .tgz, .tar) or as a folder:
                patients_ehr   trajectories, one parquet file a patient
                cache          item_set/ and similar_item/; these two also on their own
                index_mapping  dictionaries and code maps
                ehr_ins  ehr_bench  task_index  patient_data  evidence_datas   index files
--root_dir    where to put them (./datas)

Run it again and it goes on where it was: a part that is in place is skipped, a part that was there before is never
overwritten.
TEXT
}

fail() { echo "unpack_release.sh: $*" >&2; exit 1; }

release= root=./datas
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --root_dir) [ $# -gt 1 ] || fail "--root_dir: wanted a folder after it"; root=$2; shift 2 ;;
    --root_dir=*) root=${1#*=}; shift ;;
    -*) fail "unknown flag $1; see --help" ;;
    *) [ -z "$release" ] || fail "wanted one RELEASE_DIR, found $release and $1"; release=$1; shift ;;
  esac
done
[ -n "$release" ] || { usage >&2; exit 2; }
[ -d "$release" ] || fail "$release: wanted the folder of a downloaded release, found none"
mkdir -p "$root"
release=$(cd "$release" && pwd -P) root=$(cd "$root" && pwd -P)
[ "$release" != "$root" ] || fail "$root: release and --root_dir are the same folder; move the download elsewhere"

# The archive or folder of a part, in the release or one folder below it; nothing if it is not there.
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

# What a part was put in place from is noted here, so that running again can tell it from somebody's own files.
notes="$root/.unpacked"
mkdir -p "$notes"
rm -rf "$root"/.unpacking.*  # what an interrupted run left
scratch=
trap 'if [ -n "$scratch" ]; then rm -rf "$scratch"; fi' EXIT

placed=0 skipped=0
# put NAME [TARGET]: the part NAME of the release becomes ROOT/TARGET.
put() {
  local name=$1 target=${2:-$1} source content inner note
  source=$(find_part "$name")
  if [ -z "$source" ]; then return; fi
  note="$notes/${target//\//_}"
  if [ -e "$root/$target" ]; then
    if [ -f "$note" ] && [ "$(cat "$note")" = "$source" ]; then
      echo "$target: in place already"; skipped=$((skipped + 1)); return
    fi
    fail "$root/$target exists and was not put there from $source; move it away, or choose another --root_dir"
  fi
  echo "$target: from $source"
  scratch=$(mktemp -d "$root/.unpacking.XXXXXX")
  if [ -d "$source" ]; then
    mkdir "$scratch/content" && cp -R "$source/." "$scratch/content/"; content="$scratch/content"
  else
    tar -xf "$source" -C "$scratch" \
      || fail "$source: wanted a whole tar archive, found a broken one; compare its size or checksum, download it again"
    # The archive may hold the part's folder, that folder inside another one, or the files alone.
    content=$scratch
    for inner in "$scratch/$name" "$scratch"/*/"$name" "$scratch"/*/*/"$name"; do
      if [ -d "$inner" ]; then content=$inner; break; fi
    done
  fi
  [ -n "$(ls -A "$content")" ] || fail "$source: wanted files in it, found none"
  mkdir -p "$(dirname "$root/$target")"
  # Note first: if we are stopped between the two, the next run finds no target and does the part again.
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
  fail "$release: wanted patients_ehr.tar.gz, cache.tar.gz, ehr_bench/ or other parts of a release, here or one folder
below, found none; see --help"
fi
echo "unpack_release.sh: $placed put in place, $skipped there already → $root"
for name in patients_ehr cache index_mapping; do
  if [ ! -e "$root/$name" ]; then
    case $name in
      patients_ehr) how="build the trajectories with preprocess/" ;;
      cache) how="make it with mimiciv_dataset/similar_item_gen.py, or go without candidates" ;;
      index_mapping) how="make it with preprocess/build_index_mapping.py" ;;
    esac
    echo "not in this release: $name; $how"
  fi
done
echo "next: python mimiciv_dataset/validate_index.py, to see that index files and trajectories belong together"
