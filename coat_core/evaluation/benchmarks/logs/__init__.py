"""Files of responses, also those of other harnesses: their layout, how rows find their items, and the harness's scores beside ours."""
