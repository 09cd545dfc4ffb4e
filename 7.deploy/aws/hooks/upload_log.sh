#!/usr/bin/env bash
# Moves the finished files of the prediction log to S3. No hook: the timer api-log of the launch template runs it every
# minute. `uv run main.py log ship --log s3://…` makes Parquet of them elsewhere: the API's image has no pyarrow.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$SERVER_ENV" "the launch template's user data writes it"
[ -d "$DATA/log/ready" ] || { log "there is no prediction log"; exit 0; }
# A worker finishes its file within a minute: one that nobody has written to for ten is of a process that was killed.
find "$DATA/log/open" -name '*.jsonl' -mmin +10 -exec mv --target-directory "$DATA/log/ready" {} +
[ -n "$(ls "$DATA/log/ready")" ] || exit 0
# A file is deleted when it has arrived; if not, the next run moves it. The container writes to the folder: no links.
aws s3 mv "$DATA/log/ready" "$LOG_ADDRESS/ready" --recursive --no-follow-symlinks --only-show-errors ||
    fail "can't move the prediction log to $LOG_ADDRESS; may the server's role put objects there?"
