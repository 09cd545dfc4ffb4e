#!/usr/bin/env bash
# Sends the metrics of the API to CloudWatch. No hook: the timer api-metrics of the launch template runs it every minute.
# The container renders them; it has no access to AWS, this server has.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$SERVER_ENV" "the launch template's user data writes it"
exists || { log "no container is running"; exit 0; }
metrics=$("$CONTAINER_TOOL" exec "$NAME" python 6.production/cloudwatch.py \
    --namespace "$METRICS_NAMESPACE" --server "$INSTANCE") || fail "the API has no metrics"
aws cloudwatch put-metric-data --cli-input-json "$metrics" ||
    fail "can't send metrics; may the server's role put metric data into the namespace $METRICS_NAMESPACE?"
