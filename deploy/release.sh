#!/bin/sh
# What delivery does with a stack of deploy/cloudformation.yaml, one step at a time. STACK: its name; SUBNETS: where its tasks run, commas
# between (for the migrations); TEMPLATES: a bucket for the template, which is too long to be sent (for the services).
# Images are named by digest: what was tested is what runs.
#
#   release.sh current                    the two images that run now, a line each
#   release.sh migrate IMAGE              the migrations of an image, as a task of its own; fails if they do
#   release.sh deploy IMAGE WEBSERVER     the services with these images; waits until they are there
set -eu
: "${STACK:?}"

parameter() {
    aws cloudformation describe-stacks --stack-name "$STACK" --output text \
        --query "Stacks[0].Parameters[?ParameterKey=='$1'].ParameterValue"
}
output() {
    aws cloudformation describe-stacks --stack-name "$STACK" --output text \
        --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

current() {
    parameter Image
    parameter WebserverImage
}

# A task definition as it can be registered again, with another image.
WITH_IMAGE='
import json, sys
old = json.load(sys.stdin)
old["containerDefinitions"][0]["image"] = sys.argv[1]
kept = "family taskRoleArn executionRoleArn networkMode containerDefinitions volumes requiresCompatibilities cpu memory".split()
print(json.dumps({name: old[name] for name in kept if name in old}))
'

# The task that migrates has the image that runs: a revision of it with the new one is what is run. The services are not touched.
migrate() {
    : "${SUBNETS:?}"
    family=$(output MigrateTaskDefinition)
    revision=$(
        aws ecs describe-task-definition --task-definition "$family" --query taskDefinition --output json |
            python3 -c "$WITH_IMAGE" "$1" |
            aws ecs register-task-definition --cli-input-json file:///dev/stdin --query taskDefinition.taskDefinitionArn --output text
    )
    cluster=$(output ClusterName)
    network="awsvpcConfiguration={subnets=[$SUBNETS],securityGroups=[$(output TaskSecurityGroupId)],assignPublicIp=DISABLED}"
    task=$(
        aws ecs run-task --cluster "$cluster" --task-definition "$revision" --launch-type FARGATE --network-configuration "$network" \
            --query 'tasks[0].taskArn' --output text
    )
    echo "migrations: $task"
    aws ecs wait tasks-stopped --cluster "$cluster" --tasks "$task"
    code=$(aws ecs describe-tasks --cluster "$cluster" --tasks "$task" --query 'tasks[0].containers[0].exitCode' --output text)
    [ "$code" = 0 ] || { echo "the migrations failed ($code); nothing else was changed" >&2; exit 1; }
}

# CloudFormation waits for the services, and takes everything back itself if they do not become stable.
deploy() {
    : "${TEMPLATES:?}"
    aws cloudformation deploy --stack-name "$STACK" --template-file deploy/cloudformation.yaml --s3-bucket "$TEMPLATES" \
        --capabilities CAPABILITY_IAM CAPABILITY_NAMED_IAM --no-fail-on-empty-changeset --parameter-overrides "Image=$1" "WebserverImage=$2"
}

case "${1:-}/$#" in
    current/1 | migrate/2 | deploy/3) "$@" ;;
    *) sed -n '6,8s/^# *//p' "$0" >&2; exit 2 ;;
esac
