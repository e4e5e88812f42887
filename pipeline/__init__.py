"""What makes a script a restartable step; nothing here knows of health records.

`cli` has the command line and how a command ends, `files` atomic files and append-only logs, `provenance` what an output was
made from, `work` the units of work and the processes that share them, `progress` bars, tables and summary lines.

A killed command loses little: steps on `work.run_units` lose the units in progress, commands that query a model lose the
replies in flight (`files.append_jsonl`), training resumes from its last complete checkpoint (`training/runs.py`).
"""
