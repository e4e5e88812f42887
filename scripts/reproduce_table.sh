#!/usr/bin/env bash
# The paper's main table: forwards to scripts/reproduce/main_table.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce/main_table.sh" "$@"
