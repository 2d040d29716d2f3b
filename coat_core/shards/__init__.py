"""Shards of a store: safetensors files with the frames of all clips whose audio hashes have the same prefix, in the order of the hashes.

The expert stores and the audio stores use this format. It says which frames belong to which clip; a store defines its arrays.
"""
