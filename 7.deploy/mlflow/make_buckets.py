"""Creates the buckets that do not exist, in the S3 service of the local stack; on AWS, storage.yaml has them.

Environment: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION. Uses nothing of the
project's package, which the server's image does not contain.

Usage: make_buckets.py BUCKET…
"""

import sys

import boto3


def main() -> None:
    """Creates the buckets."""
    s3 = boto3.client("s3")
    for name in set(sys.argv[1:]) - {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=name)
    print("the buckets exist")


if __name__ == "__main__":
    main()
