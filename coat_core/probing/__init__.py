"""Diagnostics of a trained release: does what the experts teach the thinking block reach the answer?"""
