#!/usr/bin/env bash
# The whole road from an index file to reasoning chains that can be trained on, on one machine.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: synthesis.sh --index FILE --model NAME --base_url URL [--root_dir DIR] [--umls_dir META] [--chunks N]
                    [--from STEP] [-- FLAGS...]

Steps   concepts     what each event mentions                   DIR/evidence_datas/concepts
        coexistence  what occurs together, training patients    DIR/evidence_datas/coexistence
        graph        the knowledge graph, unless it is there    DIR/evidence_datas/graph
        evidence     the graph of each row of FILE              DIR/evidence_datas/evidence
        reasoning    chains by a strong model                   DIR/evidence_datas/reasoning
        filter       those that are right                       DIR/evidence_datas/kept/reasoning.csv

--index FILE    index CSV to write chains for, such as DIR/ehr_ins/ehr_ins_reasoning.csv
--model NAME    the model that writes them, as its server calls it
--base_url URL  its OpenAI-compatible API; the key is read from $OPENAI_API_KEY
--root_dir DIR  data folder (./datas)
--umls_dir META UMLS files, for concepts and graph; without them free vocabularies
--chunks N      processes of the steps concepts and evidence (1)
--from STEP     begin with this step; those before it are done (concepts)
FLAGS           go to reasoning_generation.py, such as --max_rpm 500 --price_in 2.5 --price_out 10 --max_cost 100

Interrupted, it goes on where it was. On a cluster: scripts/reasoning_synthesis/array.slurm, one job array a step.
TEXT
}

fail() { echo "synthesis.sh: $*" >&2; exit 2; }

steps=(concepts coexistence graph evidence reasoning filter)
root=./datas index="" model="" url="" umls="" chunks=1 from=concepts more=()
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --) shift; more=("$@"); break ;;
    --root_dir|--index|--model|--base_url|--umls_dir|--chunks|--from)
      [ $# -gt 1 ] || fail "$1: wanted a value after it"
      case $1 in
        --root_dir) root=$2 ;; --index) index=$2 ;; --model) model=$2 ;; --base_url) url=$2 ;; --umls_dir) umls=$2 ;;
        --chunks) chunks=$2 ;; --from) from=$2 ;;
      esac
      shift 2 ;;
    *) fail "unknown argument $1; see --help" ;;
  esac
done
[[ " ${steps[*]} " == *" $from "* ]] || fail "--from $from: wanted one of ${steps[*]}"
[[ $chunks =~ ^[1-9][0-9]*$ ]] || fail "--chunks $chunks: wanted a number ≥ 1"
[ -n "$model" ] || fail "wanted --model NAME"
[ -n "$url" ] || fail "wanted --base_url URL; there is no default, since records must not leave your machine unasked"
case $from in concepts|coexistence|graph|evidence) [ -f "$index" ] || fail "--index ${index:-FILE}: wanted an index CSV" ;; esac

code=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
if [ -x "$code/.venv/bin/python" ]; then python="$code/.venv/bin/python"; else python=python; fi

# step SCRIPT FLAGS...: one process.
step() { echo "== $1"; "$python" "$code/thinking_graph_preprocess/$1" --root_dir "$root" "${@:2}"; }

# chunked SCRIPT FLAGS...: --chunks processes, each its share; fails if one of them does.
chunked() {
  local i pid pids=() failed=0
  echo "== $1"
  for ((i = 0; i < chunks; i++)); do
    "$python" "$code/thinking_graph_preprocess/$1" --root_dir "$root" "${@:2}" --chunk_num "$chunks" --chunk_idx "$i" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return "$failed"
}

evidence="$root/evidence_datas"
begun=""
for name in "${steps[@]}"; do
  [ "$name" = "$from" ] && begun=yes
  [ -n "$begun" ] || continue
  case $name in
    concepts) chunked concept_extraction.py ${umls:+--umls_dir "$umls"} ;;
    coexistence)
      step coexistence_concept.py --data_index_dir "$root/task_index/all" --subject_id_path "$root/patient_data/train.csv" \
        --patient_ehr_path "$root/patients_ehr" --output_path "$evidence" ;;
    graph)
      if [ -d "$evidence/graph" ]; then echo "== $evidence/graph is there"
      elif [ -n "$umls" ]; then step build_umls_graph.py --umls_dir "$umls"
      else step build_umls_graph.py --free
      fi ;;
    evidence) chunked evidence_generation.py --data_index_path "$index" ;;
    reasoning)
      step reasoning_generation.py --data_index_dir "$evidence/evidence" --output_path "$evidence/reasoning" \
        --model "$model" --base_url "$url" ${more[@]+"${more[@]}"} ;;
    filter)
      step filter_reasoning.py --data_index_dir "$evidence/evidence" --reasoning_path "$evidence/reasoning" \
        --output_path "$evidence/kept/reasoning.csv" ;;
  esac
done
