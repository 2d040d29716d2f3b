"""Audio question answering data: examples, generated and recorded corpora, and the contract they must meet."""
