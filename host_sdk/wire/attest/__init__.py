"""Attestation as board and verifier know it: events, quotes, boots, references. docs/attestation.md is normative."""
