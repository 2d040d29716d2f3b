"""Stage `contract`: check the corpus against the data contract and quarantine bad rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coat_core import storage
from coat_core.corpus.contract.contract import check_corpus
from coat_core.errors import ContractError

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Check the corpus and print what was read and set aside.

    When the contract is not met, the findings are published in `data/contract` all the same.
    """
    records = job.out("data/contract")
    try:
        result = check_corpus(
            job.path("data/corpus"),
            job.settings.contract,
            accepted=job.out("data/accepted.jsonl"),
            quarantine=job.out("data/quarantine.jsonl"),
            records=records,
            workers=os.cpu_count() or 1,
        )
    except ContractError:
        if records.exists():
            storage.copy_tree(records, job.workspace / "data/contract")
        raise
    print(result.summary())
