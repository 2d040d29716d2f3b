"""Store a generated corpus in a bucket, as a manifest and audio: the source of docker/trial, which has no other data.

`python corpus_to_bucket.py CORPUS s3://BUCKET/PREFIX`, where CORPUS is a folder that `coat corpus` wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import boto3

FIELDS = ("question", "answer", "choices", "split", "group", "family", "task")


def main() -> None:
    """Create the bucket and write `rows.jsonl` and the audio files below the prefix."""
    corpus = Path(sys.argv[1])
    bucket, _, prefix = sys.argv[2].removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    for name in sorted({row["audio"] for row in rows}):
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=(corpus / name).read_bytes())
    lines = [json.dumps({"audio_filepath": row["audio"], **{key: row[key] for key in FIELDS if row[key] is not None}}) for row in rows]
    s3.put_object(Bucket=bucket, Key=f"{prefix}/rows.jsonl", Body="\n".join(lines).encode())
    print(f"{len(rows)} rows in {sys.argv[2]}/rows.jsonl")


if __name__ == "__main__":
    main()
