"""Exports for stock transformers and PEFT, checked by a parity gate."""
