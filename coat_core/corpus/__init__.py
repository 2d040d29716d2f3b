"""Audio question answering data: examples, generated and imported corpora, and the data contract."""
