#!/usr/bin/env bash
# Creates and updates the stacks of aws/ and reads their outputs. Runs on Linux and macOS (bash 3.2).
#
# Usage: 7.deploy/stack.sh deploy TEMPLATE [PARAMETER=VALUE …]   parameters that are not given keep their values
#        7.deploy/stack.sh output TEMPLATE NAME                  prints an output
#        7.deploy/stack.sh resource TEMPLATE NAME                prints the id of a resource
#        7.deploy/stack.sh delete TEMPLATE                       waits until the stack is gone
#        7.deploy/stack.sh why TEMPLATE                          prints what has failed, oldest first
#
# STACK_PREFIX   of the names of all stacks; default: the project's name. Another one makes a second set, as staging.
set -euo pipefail
folder=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n 's/^# \{0,1\}//; 4,9p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 template=$2
shift 2
prefix=${STACK_PREFIX:-$(sed -n 's/^name = "\(.*\)"/\1/p' "$folder/../pyproject.toml" | head -n 1)}
file=$folder/aws/$template.yaml
stack=$prefix-$template
[ -f "$file" ] || { echo "stack.sh: there is no template $template in 7.deploy/aws" >&2; exit 1; }

case $command in
deploy)
    if grep -q '^  Prefix:' "$file"; then set -- "Prefix=$prefix" "$@"; fi
    [ $# -eq 0 ] || set -- --parameter-overrides "$@"
    aws cloudformation deploy --stack-name "$stack" --template-file "$file" --capabilities CAPABILITY_IAM \
        --no-fail-on-empty-changeset --tags "stack-prefix=$prefix" "$@"
    ;;
output)
    [ $# -eq 1 ] || usage
    value=$(aws cloudformation describe-stacks --stack-name "$stack" \
        --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue" --output text)
    [ -n "$value" ] || { echo "stack.sh: the stack $stack has no output $1" >&2; exit 1; }
    echo "$value"
    ;;
resource)
    [ $# -eq 1 ] || usage
    aws cloudformation describe-stack-resource --stack-name "$stack" --logical-resource-id "$1" \
        --query StackResourceDetail.PhysicalResourceId --output text
    ;;
delete)
    aws cloudformation delete-stack --stack-name "$stack"
    aws cloudformation wait stack-delete-complete --stack-name "$stack"
    ;;
why)
    aws cloudformation describe-stack-events --stack-name "$stack" --output text --query \
        "reverse(StackEvents[?contains(ResourceStatus, 'FAILED')].[Timestamp, LogicalResourceId, ResourceStatusReason])"
    ;;
*) usage ;;
esac
