#!/usr/bin/env bash
# All steps from an index file to reasoning chains for training, on one machine.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: synthesis.sh --index FILE --model NAME --base_url URL [--root_dir DIR] [--umls_dir META]
                    [--primekg FILE] [--hetionet HETIONET] [--icd_map FILE] [--loinc_map FILE] [--labitem_map FILE]
                    [--max_hops N] [--chunks N] [--from STEP] [--dry_run] [-- FLAGS...]

Steps   concepts     the task index by patient, if missing      DIR/task_index/patient
                     the concepts that each event mentions      DIR/evidence_datas/concepts
        coexistence  co-occurrence in the training patients     DIR/evidence_datas/coexistence
        graph        the knowledge graph                        DIR/evidence_datas/graph
        evidence     the graph of each row of FILE              DIR/evidence_datas/evidence
        reasoning    chains by a strong model                   DIR/evidence_datas/reasoning
        filter       the chains that are correct                DIR/evidence_datas/kept/reasoning.csv

--index FILE    index CSV to write chains for, such as DIR/ehr_ins/ehr_ins_reasoning.csv
--model NAME    model that writes the chains, by its name on the server
--base_url URL  OpenAI-compatible API of the server; several servers of the model: repeat the flag. The key is read from
                $OPENAI_API_KEY
--root_dir DIR  data directory (./datas)
--umls_dir META UMLS files, for concepts and graph; without them free vocabularies are used
--primekg FILE  kg.csv of PrimeKG, which is added to the free vocabularies; --icd_map, --loinc_map and --labitem_map name the
                maps by which codes reach it (build_umls_graph.py --help)
--hetionet HETIONET
                directory with the tables of Hetionet, which is used in place of PrimeKG, with --icd_map or without
--max_hops N    most relations of a path (10; 5 with --primekg or --hetionet, whose longer paths say little)
--chunks N      processes of the steps concepts and evidence, which is also split into N files (1)
--from STEP     first step to run; earlier ones must be complete (concepts)
--dry_run       print the commands
FLAGS           flags of reasoning_generation.py, such as --max_rpm 500 --price_in 2.5 --price_out 10 --max_cost 100

An interrupted run resumes. Steps whose inputs have not changed are up to date; if inputs have changed, the run stops with the
command that makes the outdated output again. On a cluster, run one job array for each step:
scripts/reasoning_synthesis/array.slurm.
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

steps=(concepts coexistence graph evidence reasoning filter)
root=./datas index="" model="" urls=() umls="" open_graph=() hops="" chunks=1 from=concepts dry="" flags=()
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --dry_run) dry=yes; shift ;;
    --) shift; flags=("$@"); break ;;
    --root_dir|--index|--model|--base_url|--umls_dir|--primekg|--hetionet|--icd_map|--loinc_map|--labitem_map|--max_hops|\
    --chunks|--from)
      [ $# -gt 1 ] || fail "$1: expected a value."
      case $1 in
        --root_dir) root=$2 ;; --index) index=$2 ;; --model) model=$2 ;; --base_url) urls+=(--base_url "$2") ;; --umls_dir) umls=$2 ;;
        --primekg|--hetionet|--icd_map|--loinc_map|--labitem_map) open_graph+=("$1" "$2") ;; --max_hops) hops=$2 ;;
        --chunks) chunks=$2 ;; --from) from=$2 ;;
      esac
      shift 2 ;;
    *) fail "unknown argument $1." ;;
  esac
done
[[ " ${steps[*]} " == *" $from "* ]] || fail "--from $from: expected one of ${steps[*]}."
[[ $chunks =~ ^[1-9][0-9]*$ ]] || fail "--chunks $chunks: expected a whole number of at least 1."
[ -z "$umls" ] || [ ${#open_graph[@]} = 0 ] || fail "--umls_dir and ${open_graph[0]}: expected one of them, got both."
if [ -z "$hops" ] && [ ${#open_graph[@]} -gt 0 ]; then hops=5; fi
[ -n "$model" ] || fail "--model NAME: expected a model."
[ ${#urls[@]} -gt 0 ] || fail "--base_url URL: expected a server. There is no default, so that no patient data leaves your machine by accident."
case $from in concepts|coexistence|graph|evidence) [ -f "$index" ] || fail "--index ${index:-FILE}: expected an index CSV." ;; esac

# step SCRIPT FLAGS...: run a script in one process.
step() {
  echo "== $(basename "$1")"
  local command=("$python" "$repo/$1" --root_dir "$root" "${@:2}")
  if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; else "${command[@]}"; fi
}

# chunked SCRIPT FLAGS...: run a script in --chunks processes, each with one chunk; fails if one of them does.
chunked() {
  if [ -n "$dry" ] || [ "$chunks" = 1 ]; then step "$@"; return; fi
  local i pid pids=() failed=0
  echo "== $(basename "$1")"
  trap 'trap "" INT; kill "${pids[@]}" 2>/dev/null; wait; interrupted' INT  # processes in the background do not get Ctrl-C
  for ((i = 0; i < chunks; i++)); do
    "$python" "$repo/$1" --root_dir "$root" "${@:2}" --chunk_num "$chunks" --chunk_idx "$i" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  trap - INT
  return "$failed"
}

graphs=thinking_graph_preprocess evidence="$root/evidence_datas"
started=""
for name in "${steps[@]}"; do
  [ "$name" = "$from" ] && started=yes
  [ -n "$started" ] || continue
  case $name in
    concepts)
      by_patient="$root/task_index/patient"
      if [ ! -d "$by_patient" ] || grep -qs '"complete": false' "$by_patient/provenance.json"; then
        step mimiciv_dataset/task_sample_info_gen.py --output_path "$by_patient" --group patient
      fi
      chunked "$graphs/concept_extraction.py" ${umls:+--umls_dir "$umls"} ;;
    coexistence)
      step "$graphs/coexistence_concept.py" --data_index_dir "$root/task_index/all" --subject_id_path "$root/patient_data/train.csv" \
        --patient_ehr_path "$root/patients_ehr" --output_path "$evidence" ;;
    graph)
      if [ -n "$umls" ]; then step "$graphs/build_umls_graph.py" --umls_dir "$umls"
      else step "$graphs/build_umls_graph.py" --free ${open_graph[@]+"${open_graph[@]}"}
      fi ;;
    evidence)
      chunked "$graphs/evidence_generation.py" --data_index_path "$index" ${hops:+--max_hops "$hops"} ;;
    reasoning)
      step "$graphs/reasoning_generation.py" --data_index_dir "$evidence/evidence" --output_path "$evidence/reasoning" \
        --model "$model" "${urls[@]}" ${flags[@]+"${flags[@]}"} ;;
    filter)
      step "$graphs/filter_reasoning.py" --data_index_dir "$evidence/evidence" --reasoning_path "$evidence/reasoning" \
        --output_path "$evidence/kept/reasoning.csv" ;;
  esac
done
